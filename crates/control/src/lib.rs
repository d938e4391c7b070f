#![doc = include_str!("../README.md")]

mod access;
mod api;
mod docs;
mod files;
mod health;
mod media;
mod post_call;
mod problem;
mod serve;
mod signed;
mod webhook;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{any, get, post};
use desk::{Caller, Desk, Files};
use http::StatusCode;
use prometheus_client::registry::Registry;
use secrecy::SecretString;
use store::Store;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;

pub use access::{Access, ApiSettings, Role, email, new_key, password_hash, unsafe_secret};
pub use api::{Events, document};
pub use serve::serve;
pub use signed::Signatures;

/// Twilio's webhooks have a few kilobytes.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Twilio gives up after 15 s; an answer after that helps nobody.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(14);

/// Where it rings: our own address first, then those of the systems that offhook replaces, so that no number has to be wired anew.
pub const VOICE_PATHS: [&str; 3] = ["/twilio/voice", "/webhooks/inbound", "/api/aloha/webhooks/incoming-call"];
/// Where the status of calls is told, likewise.
pub const STATUS_PATHS: [&str; 2] = ["/twilio/status", "/api/aloha/webhooks/call-status"];
/// What a number asks when its Voice URL fails.
pub const FALLBACK_PATH: &str = "/twilio/fallback";

/// What every handler sees.
#[derive(Clone)]
pub struct App {
    pub desk: Arc<Desk>,
    pub signatures: Arc<Signatures>,
    pub registry: Arc<Registry>,
    pub files: Files,
    pub store: Store,
    pub access: Arc<Access>,
    pub caller: Arc<Caller>,
    pub events: Arc<Events>,
    /// What ElevenLabs signs with when a conversation is over.
    pub post_call_secrets: Arc<[SecretString]>,
    /// Origins of pages that may ask the API.
    pub cors_origins: Arc<[String]>,
}

/// All routes, at the root and under the public address's prefix (a proxy may or may not strip it).
pub fn router(app: App) -> Router {
    let prefix = app.desk.public_url().path_prefix().to_owned();
    let routes = Router::new()
        .route(FALLBACK_PATH, post(webhook::fallback))
        .route("/twilio/next/{call}/{epoch}", post(webhook::next))
        .route("/twilio/dialled/{call}/{epoch}", post(webhook::dialled))
        .route("/twilio/rung/{call}/{place}", post(webhook::rung))
        .route("/twilio/people/{call}/{place}", post(webhook::people))
        .route("/twilio/stream-status/{call}", post(webhook::stream_status))
        .route("/api/twilio/connect/{session}", post(webhook::connect))
        .route("/api/twilio/status/{session}", post(webhook::session_status))
        .route("/api/twilio/dial_status/{session}", post(webhook::dial_status))
        .route("/api/twilio/amd/{session}", post(webhook::detected))
        .route("/twilio-stream", any(media::upgrade))
        .route("/files/{ticket}", get(files::download))
        .route("/", get(health::index))
        .route("/openapi.json", get(docs::openapi))
        .route("/docs", get(docs::enter))
        .route("/docs/", get(docs::index))
        .route("/docs/{file}", get(docs::file))
        .route("/health", get(health::health))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::wrong_method);
    let routes = VOICE_PATHS.iter().fold(routes, |routes, path| routes.route(path, post(webhook::voice)));
    let routes = STATUS_PATHS.iter().fold(routes, |routes, path| routes.route(path, post(webhook::status)));
    let told = post(post_call::post_call).layer(DefaultBodyLimit::max(post_call::BODY_BYTES_MAX));
    let routes = routes.layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).route("/api/voice/post_call", told);
    let routes = routes.merge(api::router(&app.cors_origins));
    let routes = if prefix.is_empty() { routes } else { Router::new().nest(&prefix, routes.clone()).merge(routes) };
    routes
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, ANSWER_TIMEOUT))
        .layer(CatchPanicLayer::new())
        .with_state(app)
}
