//! Errors as HTTP: what the client sees. The log keeps the rest.

use std::borrow::Cow;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A problem document (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemDocument {
    /// `about:blank`: the status says what kind of problem it is.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The status in words.
    title: &'static str,
    status: u16,
    /// What is wrong, and what to do about it.
    detail: Cow<'static, str>,
    /// What kind of problem it is, for programs; where there are several of one status.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    /// Everything that is wrong, each with its place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
    #[serde(flatten)]
    #[schema(ignore)]
    extra: Map<String, Value>,
}

/// A refusal, for the client.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    detail: Cow<'static, str>,
    code: Option<&'static str>,
    problems: Vec<String>,
    extra: Map<String, Value>,
    retry_after_s: Option<u64>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, detail: detail.into(), code: None, problems: Vec::new(), extra: Map::new(), retry_after_s: None }
    }

    /// The same for what is not there and for what is somebody else's.
    pub(crate) fn not_there() -> Self {
        Self::new(StatusCode::NOT_FOUND, "there is no such thing")
    }

    pub(crate) fn unusable(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }

    pub(crate) fn code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    pub(crate) fn problems(self, problems: Vec<String>) -> Self {
        Self { problems, ..self }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after_s: Some(seconds), ..self }
    }
}

impl From<store::StoreError> for Problem {
    fn from(error: store::StoreError) -> Self {
        tracing::error!(%error, "a question cannot be answered");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the database does not answer now: try again later").retry_after(5)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let document = ProblemDocument {
            kind: "about:blank",
            title: self.status.canonical_reason().unwrap_or_default(),
            status: self.status.as_u16(),
            detail: self.detail,
            code: self.code,
            problems: self.problems,
            extra: self.extra,
        };
        let mut response = (self.status, [(header::CONTENT_TYPE, "application/problem+json")], Json(document)).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        }
        response
    }
}

pub(crate) fn problem(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Response {
    Problem::new(status, detail).into_response()
}

pub(crate) async fn not_found() -> Response {
    problem(StatusCode::NOT_FOUND, "there is no such address; see /docs for what there is")
}

pub(crate) async fn wrong_method() -> Response {
    problem(StatusCode::METHOD_NOT_ALLOWED, "this address takes another method")
}
