//! Is it alive, may it take calls, how is it doing.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::{Value, json};

use crate::App;

/// Undelivered journal beyond which the history visibly lags: a minute of a few hundred calls.
const JOURNAL_BEHIND_BYTES: u64 = 8 << 20;

pub(crate) async fn index() -> Json<Value> {
    Json(json!({"message": "offhook bridges telephone calls and AI voices", "docs": "/docs", "health": "/health"}))
}

pub(crate) async fn health(State(app): State<App>) -> Json<Value> {
    let directory = app.desk.bridge().directory();
    Json(json!({
        "status": "healthy",
        "integration": "twilio",
        "version": env!("CARGO_PKG_VERSION"),
        "calls": directory.live(),
        "draining": directory.is_draining(),
    }))
}

/// The runtime answers; nothing else is asked.
pub(crate) async fn livez() -> StatusCode {
    StatusCode::OK
}

/// Whether a further call would be served well.
pub(crate) async fn readyz(State(app): State<App>) -> Response {
    let (directory, journal) = (app.desk.bridge().directory(), app.desk.ledger().journal());
    let mut reasons = Vec::new();
    if directory.is_draining() {
        reasons.push("shutting down");
    } else if directory.is_late() {
        reasons.push("the processors do not keep up with the calls");
    } else if !directory.is_open() {
        reasons.push("every place is taken");
    }
    if !app.desk.disk().has_room_for_calls() {
        reasons.push("the disk is full");
    }
    if journal.lost() > 0 {
        reasons.push("the journal has lost facts: the disk is full or too slow");
    }
    // The telephone works while the database is away; it is said, but it does not turn calls away.
    let behind = journal.undelivered() > JOURNAL_BEHIND_BYTES;
    let ready = reasons.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({"ready": ready, "reasons": reasons, "history_delayed": behind}))).into_response()
}

pub(crate) async fn metrics(State(app): State<App>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &app.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
