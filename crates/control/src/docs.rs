//! The document that describes the API, and pages to read and try it with.

use std::sync::{Arc, LazyLock};

use axum::extract::Path;
use axum::response::{IntoResponse as _, Response};
use http::{StatusCode, header};
use utoipa_swagger_ui::Config;

use crate::api;
use crate::problem::problem;

/// The document, made once.
pub(crate) async fn openapi() -> Response {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| api::document().to_json().unwrap_or_default());
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.as_str()).into_response()
}

/// To the pages. The address is relative: it is right under any prefix, whoever takes it away.
pub(crate) async fn enter() -> Response {
    (StatusCode::SEE_OTHER, [(header::LOCATION, "docs/")]).into_response()
}

pub(crate) async fn index() -> Response {
    serve("")
}

pub(crate) async fn file(Path(file): Path<String>) -> Response {
    serve(&file)
}

fn serve(file: &str) -> Response {
    static CONFIG: LazyLock<Arc<Config<'static>>> =
        LazyLock::new(|| Arc::new(Config::from("../openapi.json").deep_linking(true)));
    match utoipa_swagger_ui::serve(file, CONFIG.clone()) {
        Ok(Some(found)) => {
            let encoding = if found.gzpipped { "gzip" } else { "identity" };
            let headers = [(header::CONTENT_TYPE, found.content_type), (header::CONTENT_ENCODING, encoding.to_owned())];
            (headers, found.bytes.into_owned()).into_response()
        }
        Ok(None) => problem(StatusCode::NOT_FOUND, "there is no such page"),
        Err(error) => {
            tracing::error!(%error, "a page cannot be read");
            problem(StatusCode::INTERNAL_SERVER_ERROR, "the page cannot be read")
        }
    }
}
