//! Downloads by signed address.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::{StatusCode, header};

use crate::App;
use crate::problem::Problem;

/// A file, to whoever has its ticket: the last part of an address that was given out for a while.
pub(crate) async fn download(State(app): State<App>, Path(ticket): Path<String>) -> Result<Response, Problem> {
    let found = app.files.download(&ticket).await.map_err(|error| {
        tracing::error!(%error, "a file cannot be read");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the file cannot be read now; try again later")
    })?;
    let it = found.ok_or(Problem::new(StatusCode::NOT_FOUND, "there is no such file, or the time of this address is over"))?;
    let headers = [
        (header::CONTENT_TYPE, it.media_type),
        (header::CONTENT_LENGTH, it.size_bytes.to_string()),
        (header::CACHE_CONTROL, "private, no-store".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
    ];
    Ok((headers, Body::from_stream(it.content)).into_response())
}
