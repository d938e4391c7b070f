#![doc = include_str!("../README.md")]

mod files;
mod health;
mod media;
mod problem;
mod serve;
mod signed;
mod webhook;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{any, get, post};
use desk::{Desk, Files};
use http::StatusCode;
use prometheus_client::registry::Registry;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;

pub use serve::serve;
pub use signed::Signatures;

/// Twilio's webhooks have a few kilobytes.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Twilio gives up after 15 s; an answer after that helps nobody.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(14);

/// What every handler sees.
#[derive(Clone)]
pub struct App {
    pub desk: Arc<Desk>,
    pub signatures: Arc<Signatures>,
    pub registry: Arc<Registry>,
    pub files: Files,
}

/// All routes, at the root and under the public address's prefix (a proxy may or may not strip it).
pub fn router(app: App) -> Router {
    let prefix = app.desk.public_url().path_prefix().to_owned();
    let routes = Router::new()
        .route("/twilio/voice", post(webhook::voice))
        .route("/twilio/next/{call}/{epoch}", post(webhook::next))
        .route("/twilio/dialled/{call}/{epoch}", post(webhook::dialled))
        .route("/twilio/status", post(webhook::status))
        .route("/twilio/stream-status/{call}", post(webhook::stream_status))
        .route("/twilio-stream", any(media::upgrade))
        .route("/files/{ticket}", get(files::download))
        .route("/", get(health::index))
        .route("/docs", get(health::docs))
        .route("/health", get(health::health))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::wrong_method);
    let routes = if prefix.is_empty() { routes } else { Router::new().nest(&prefix, routes.clone()).merge(routes) };
    routes
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, ANSWER_TIMEOUT))
        .layer(CatchPanicLayer::new())
        .with_state(app)
}
