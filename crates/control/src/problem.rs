//! Errors as HTTP: what the client sees. The log keeps the rest.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};

/// A refusal, for the client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Problem(pub(crate) StatusCode, pub(crate) &'static str);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        problem(self.0, self.1)
    }
}

/// A problem document (RFC 9457).
pub(crate) fn problem(status: StatusCode, detail: &str) -> Response {
    let body = Json(serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
        "detail": detail,
    }));
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response()
}

pub(crate) async fn not_found() -> Response {
    problem(StatusCode::NOT_FOUND, "there is no such address; see / for what there is")
}

pub(crate) async fn wrong_method() -> Response {
    problem(StatusCode::METHOD_NOT_ALLOWED, "this address takes another method")
}
