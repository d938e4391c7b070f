//! What a client sends, read strictly: what is wrong is told with its place.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use http::request::Parts;
use http::{StatusCode, header};
use serde::de::DeserializeOwned;

use crate::App;
use crate::problem::Problem;

/// A body of JSON.
pub(crate) struct Given<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<App> for Given<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|it| it.to_str().ok()).unwrap_or_default();
        if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "expected `Content-Type: application/json`"));
        }
        let body = Bytes::from_request(request, app)
            .await
            .map_err(|_| Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large, or broke off"))?;
        match serde_json::from_slice(&body) {
            Ok(it) => Ok(Self(it)),
            Err(error) if error.is_data() => Err(Problem::unusable(format!("the body is not usable: {error}"))),
            Err(error) => Err(Problem::new(StatusCode::BAD_REQUEST, format!("the body is no JSON: {error}"))),
        }
    }
}

/// Parameters of a query.
pub(crate) struct Asked<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<App> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        let read = Query::<T>::try_from_uri(&parts.uri).map(|it| Self(it.0));
        read.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("the query is not usable: {}", error.body_text())))
    }
}

/// Parameters of the path.
pub(crate) struct At<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<App> for At<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        // What cannot be the name of anything is the name of nothing.
        Path::from_request_parts(parts, app).await.map(|Path(it)| Self(it)).map_err(|_| Problem::not_there())
    }
}

/// Unix milliseconds as RFC 3339.
pub(crate) fn moment(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).unwrap_or_default().to_string()
}

/// RFC 3339 as Unix milliseconds.
pub(crate) fn ms(name: &str, text: Option<&str>) -> Result<Option<i64>, Problem> {
    let Some(text) = text else { return Ok(None) };
    match text.parse::<jiff::Timestamp>() {
        Ok(it) => Ok(Some(it.as_millisecond())),
        Err(_) => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            format!("{name}: expected a moment with its zone, such as 2026-11-20T09:00:00Z"),
        )),
    }
}

/// A page of at most so many, and where the next one begins: one row more than that was asked for, which tells whether there is one.
pub(crate) fn page<T>(mut rows: Vec<T>, most: u32, cursor: impl Fn(&T) -> String) -> (Vec<T>, Option<String>) {
    let more = rows.len() > most as usize;
    rows.truncate(most as usize);
    let next = rows.last().filter(|_| more).map(cursor);
    (rows, next)
}

/// How many of a list: 1 to 100, 50 unless it is said.
pub(crate) fn limit(asked: Option<u32>) -> Result<u32, Problem> {
    match asked.unwrap_or(50) {
        it @ 1..=100 => Ok(it),
        _ => Err(Problem::new(StatusCode::BAD_REQUEST, "limit: expected 1 to 100")),
    }
}
