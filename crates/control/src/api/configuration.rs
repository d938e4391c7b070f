//! What a tenant configures: the whole as one document in versions, and its parts one by one.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use desk::{Assistant, DOCUMENT_BYTES_MAX, Document, Number, RouteKind};
use http::{HeaderMap, StatusCode, header};
use serde::Serialize;
use store::{ConfigurationRow, NewConfiguration, PublishError};
use utoipa::ToSchema;

use super::given::{At, Given, moment};
use crate::App;
use crate::access::{Admin, Principal, Viewer};
use crate::problem::Problem;

/// A version of the document.
#[derive(Serialize, ToSchema)]
pub(crate) struct Configuration {
    /// Counts from 1; 0: nothing was published yet.
    version: u64,
    #[schema(format = DateTime)]
    published_at: Option<String>,
    author: Option<String>,
    document: Document,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Version {
    version: u64,
    #[schema(format = DateTime)]
    published_at: String,
    author: String,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Published {
    version: u64,
}

fn read(row: Option<ConfigurationRow>) -> Result<Configuration, Problem> {
    let Some(row) = row else {
        return Ok(Configuration { version: 0, published_at: None, author: None, document: Document::default() });
    };
    let document = Document::read(&row.body).map_err(|problem| {
        Problem::new(StatusCode::CONFLICT, format!("version {} is not understood any more: {problem}", row.version))
    })?;
    Ok(Configuration { version: row.version, published_at: Some(moment(row.at_ms)), author: Some(row.author), document })
}

fn tagged(it: Configuration) -> Response {
    let tag = format!("\"{}\"", it.version);
    ([(header::ETAG, tag)], Json(it)).into_response()
}

/// The version that a change was made for.
fn follows(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(tag) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let version = tag.to_str().ok().and_then(|it| it.trim().trim_start_matches("W/").trim_matches('"').parse().ok());
    let wrong = || Problem::new(StatusCode::BAD_REQUEST, "If-Match: expected the ETag of what was changed, such as \"7\"");
    version.map(Some).ok_or_else(wrong)
}

async fn publish(app: &App, who: &Principal, document: &Document, follows: Option<u64>) -> Result<u64, Problem> {
    if let Err(problems) = app.desk.check(&who.tenant, document) {
        return Err(Problem::unusable("the document cannot be published: see `problems`").problems(problems));
    }
    let body =
        serde_json::to_string(document).map_err(|error| Problem::unusable(format!("the document cannot be written: {error}")))?;
    if body.len() > DOCUMENT_BYTES_MAX {
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "the document has more than 256 KiB"));
    }
    let numbers: Vec<(&str, bool)> = document.numbers.iter().map(|(number, it)| (number.as_str(), it.active)).collect();
    let new = NewConfiguration { author: &who.actor, body: &body, numbers: &numbers, calls_max: document.calls_max, follows };
    app.store.tenant(&who.tenant).publish(&new).await.map_err(|error| match error {
        PublishError::Outdated { newest } => {
            Problem::new(StatusCode::PRECONDITION_FAILED, error.to_string()).with("newest", newest)
        }
        PublishError::NumberTaken { .. } => Problem::new(StatusCode::CONFLICT, "a number in it belongs to another tenant"),
        PublishError::Store(error) => error.into(),
    })
}

async fn newest(app: &App, who: &Principal) -> Result<Configuration, Problem> {
    read(app.store.tenant(&who.tenant).configuration(None).await?)
}

/// Changes the newest document; whoever changes it at the same time does so before or after.
async fn change(
    app: &App,
    who: &Principal,
    headers: &HeaderMap,
    change: impl FnOnce(&mut Document) -> Result<(), Problem>,
) -> Result<u64, Problem> {
    let Configuration { version, mut document, .. } = newest(app, who).await?;
    if follows(headers)?.is_some_and(|it| it != version) {
        let detail = format!("the newest version is {version}: look at it, then change that one");
        return Err(Problem::new(StatusCode::PRECONDITION_FAILED, detail).with("newest", version));
    }
    change(&mut document)?;
    publish(app, who, &document, Some(version)).await
}

/// What is configured now; its version is the `ETag`.
#[utoipa::path(get, path = "/api/configuration", tag = "configuration", security(("bearer" = ["viewer"])),
    responses((status = 200, body = Configuration)))]
pub(crate) async fn show(State(app): State<App>, who: Viewer) -> Result<Response, Problem> {
    Ok(tagged(newest(&app, &who).await?))
}

/// Publish a document, all of it or nothing.
///
/// With `If-Match` it is published only if nobody has published another one meanwhile.
#[utoipa::path(put, path = "/api/configuration", tag = "configuration", security(("bearer" = ["admin"])),
    params(("If-Match" = Option<String>, Header, description = "The ETag of what was changed")), request_body = Document,
    responses((status = 200, body = Published), (status = 409, body = inline(super::ProblemDocument)),
    (status = 412, body = inline(super::ProblemDocument))))]
pub(crate) async fn replace(
    State(app): State<App>,
    who: Admin,
    headers: HeaderMap,
    Given(document): Given<Document>,
) -> Result<Json<Published>, Problem> {
    let version = publish(&app, &who, &document, follows(&headers)?).await?;
    Ok(Json(Published { version }))
}

/// Look for what is wrong with a document, without publishing it.
#[utoipa::path(post, path = "/api/configuration/check", tag = "configuration", security(("bearer" = ["viewer"])),
    request_body = Document, responses((status = 204, description = "Nothing is wrong")))]
pub(crate) async fn check(State(app): State<App>, who: Viewer, Given(document): Given<Document>) -> Result<StatusCode, Problem> {
    match app.desk.check(&who.tenant, &document) {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(problems) => Err(Problem::unusable("the document cannot be published: see `problems`").problems(problems)),
    }
}

/// The newest hundred versions, the last one first.
#[utoipa::path(get, path = "/api/configuration/versions", tag = "configuration", security(("bearer" = ["viewer"])),
    responses((status = 200, body = Vec<Version>)))]
pub(crate) async fn versions(State(app): State<App>, who: Viewer) -> Result<Json<Vec<Version>>, Problem> {
    let rows = app.store.tenant(&who.tenant).configurations(100).await?;
    let version = |it: ConfigurationRow| Version { version: it.version, published_at: moment(it.at_ms), author: it.author };
    Ok(Json(rows.into_iter().map(version).collect()))
}

/// A version as it was published.
#[utoipa::path(get, path = "/api/configuration/versions/{version}", tag = "configuration", security(("bearer" = ["viewer"])),
    params(("version" = u32, Path)), responses((status = 200, body = Configuration), (status = 409, body = inline(super::ProblemDocument))))]
pub(crate) async fn version(State(app): State<App>, who: Viewer, At(version): At<u32>) -> Result<Response, Problem> {
    let row = app.store.tenant(&who.tenant).configuration(Some(version.into())).await?;
    Ok(tagged(read(Some(row.ok_or_else(Problem::not_there)?))?))
}

/// List, look at, set and take away entries of one map of the document.
macro_rules! entries {
    ($module:ident, $kind:ty, $map:ident, $one:literal, $many:literal, $key:literal) => {
        pub(crate) mod $module {
            use super::*;

            #[doc = concat!("The tenant's ", $many, ".")]
            #[utoipa::path(get, path = concat!("/api/", $many), tag = "configuration", security(("bearer" = ["viewer"])),
                operation_id = concat!("list_", $many), responses((status = 200, body = BTreeMap<String, $kind>)))]
            pub(crate) async fn list(State(app): State<App>, who: Viewer) -> Result<Json<BTreeMap<String, $kind>>, Problem> {
                Ok(Json(newest(&app, &who).await?.document.$map))
            }

            #[doc = concat!("One of the tenant's ", $many, ".")]
            #[utoipa::path(get, path = concat!("/api/", $many, "/{", $key, "}"), tag = "configuration",
                operation_id = concat!("show_", $one), security(("bearer" = ["viewer"])), params(($key = String, Path)),
                responses((status = 200, body = $kind)))]
            pub(crate) async fn show(State(app): State<App>, who: Viewer, At(key): At<String>) -> Result<Json<$kind>, Problem> {
                newest(&app, &who).await?.document.$map.remove(&key).map(Json).ok_or_else(Problem::not_there)
            }

            #[doc = concat!("Set one of the tenant's ", $many, "; the whole document is checked and published as the next version.")]
            #[utoipa::path(put, path = concat!("/api/", $many, "/{", $key, "}"), tag = "configuration",
                operation_id = concat!("set_", $one), security(("bearer" = ["admin"])),
                params(($key = String, Path), ("If-Match" = Option<String>, Header, description = "The ETag of the configuration")),
                request_body = $kind, responses((status = 200, body = Published),
                (status = 409, body = inline(crate::api::ProblemDocument)), (status = 412, body = inline(crate::api::ProblemDocument))))]
            pub(crate) async fn set(
                State(app): State<App>,
                who: Admin,
                At(key): At<String>,
                headers: HeaderMap,
                Given(it): Given<$kind>,
            ) -> Result<Json<Published>, Problem> {
                let version = change(&app, &who, &headers, |document| {
                    document.$map.insert(key, it);
                    Ok(())
                });
                Ok(Json(Published { version: version.await? }))
            }

            #[doc = concat!("Take one of the tenant's ", $many, " away; refused while others name it.")]
            #[utoipa::path(delete, path = concat!("/api/", $many, "/{", $key, "}"), tag = "configuration",
                operation_id = concat!("delete_", $one), security(("bearer" = ["admin"])),
                params(($key = String, Path), ("If-Match" = Option<String>, Header, description = "The ETag of the configuration")),
                responses((status = 200, body = Published), (status = 409, body = inline(crate::api::ProblemDocument)),
                (status = 412, body = inline(crate::api::ProblemDocument)),
                (status = 422, description = "It is needed", body = inline(crate::api::ProblemDocument))))]
            pub(crate) async fn delete(
                State(app): State<App>,
                who: Admin,
                At(key): At<String>,
                headers: HeaderMap,
            ) -> Result<Json<Published>, Problem> {
                let version = change(&app, &who, &headers, |document| {
                    document.$map.remove(&key).map(drop).ok_or_else(Problem::not_there)
                });
                Ok(Json(Published { version: version.await? }))
            }
        }
    };
}

entries!(assistants, Assistant, assistants, "assistant", "assistants", "name");
entries!(routes, RouteKind, routes, "route", "routes", "name");
entries!(numbers, Number, numbers, "number", "numbers", "number");
