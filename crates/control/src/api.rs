//! The interface for people and programs: routes, and the document that describes them, made of the same code.

mod calls;
mod configuration;
mod events;
mod given;
mod outbound;
mod people;
mod sign_in;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use tower_http::cors::CorsLayer;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, ContentBuilder, OpenApi, PathItem, Ref, RefOr, ResponseBuilder};
use utoipa::{OpenApi as _, PartialSchema as _, ToSchema as _};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;
use crate::problem::Problem;
pub(crate) use crate::problem::ProblemDocument;

pub use events::Events;

/// A document of a tenant, and what is around it.
const BODY_BYTES_MAX: usize = desk::DOCUMENT_BYTES_MAX + 1024;
/// Longest name of an order.
const KEY_MAX: usize = 128;
const IDEMPOTENCY_KEY: &str = "idempotency-key";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "offhook", description = include_str!("api/description.md"), license(name = "MIT")),
    tags(
        (name = "access", description = "Signing in and out"),
        (name = "people", description = "Who works here, keys of programs, who did what"),
        (name = "calls", description = "Calls, and what may be done to live ones"),
        (name = "events", description = "What happens, as it happens"),
        (name = "outbound", description = "Calls that are made"),
        (name = "configuration", description = "Who answers which number"),
    ),
)]
struct Description;

/// The name of an order, if it has one: the same name again is the same order.
fn request_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let key = key.to_str().ok().filter(|it| (1..=KEY_MAX).contains(&it.len()) && it.bytes().all(|it| it.is_ascii_graphic()));
    let wrong =
        || Problem::new(StatusCode::BAD_REQUEST, "Idempotency-Key: expected 1 to 128 printable characters, without spaces");
    key.map(|it| Some(it.to_owned())).ok_or_else(wrong)
}

fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(sign_in::sign_in))
        .routes(routes!(sign_in::refresh))
        .routes(routes!(sign_in::sign_out))
        .routes(routes!(sign_in::me))
        .routes(routes!(sign_in::change_password))
        .routes(routes!(people::tenant))
        .routes(routes!(people::members, people::add_member))
        .routes(routes!(people::change_member, people::remove_member))
        .routes(routes!(people::keys, people::add_key))
        .routes(routes!(people::revoke_key))
        .routes(routes!(people::audit))
        .routes(routes!(calls::list))
        .routes(routes!(calls::show))
        .routes(routes!(calls::aloha_list))
        .routes(routes!(calls::aloha_show))
        .routes(routes!(calls::order))
        .routes(routes!(events::ticket))
        .routes(routes!(events::listen))
        .routes(routes!(events::listen_ws))
        .routes(routes!(outbound::initiate))
        .routes(routes!(outbound::sessions))
        .routes(routes!(outbound::session, outbound::cancel))
        .routes(routes!(outbound::do_not_call))
        .routes(routes!(outbound::put_do_not_call, outbound::delete_do_not_call))
        .routes(routes!(outbound::health))
        .routes(routes!(outbound::test))
        .routes(routes!(configuration::show, configuration::replace))
        .routes(routes!(configuration::check))
        .routes(routes!(configuration::versions))
        .routes(routes!(configuration::version))
        .routes(routes!(configuration::assistants::list))
        .routes(routes!(configuration::assistants::show, configuration::assistants::set, configuration::assistants::delete))
        .routes(routes!(configuration::routes::list))
        .routes(routes!(configuration::routes::show, configuration::routes::set, configuration::routes::delete))
        .routes(routes!(configuration::numbers::list))
        .routes(routes!(configuration::numbers::show, configuration::numbers::set, configuration::numbers::delete))
}

/// The document alone.
pub fn document() -> OpenApi {
    described(routes().split_for_parts().1)
}

/// Routes for `/api/…`, with the limits and headers that all of them have.
pub(crate) fn router(cors_origins: &[String]) -> Router<App> {
    let (router, _) = routes().split_for_parts();
    let origins = cors_origins.iter().filter_map(|it| HeaderValue::from_str(it).ok()).collect::<Vec<_>>();
    let cors = CorsLayer::new()
        .allow_origin(origins)
        .allow_credentials(true)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE, header::IF_MATCH, HeaderName::from_static(IDEMPOTENCY_KEY)])
        .expose_headers([header::ETAG, header::RETRY_AFTER])
        .max_age(std::time::Duration::from_secs(600));
    router.layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).layer(cors)
}

/// Adds what is true of every route: how one proves who one is, and what may go wrong.
fn described(mut api: OpenApi) -> OpenApi {
    let components = api.components.get_or_insert_default();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("A token of POST /api/auth/login, or a key (`ohk_…`). The scope names the role that is needed."))
        .build();
    components.security_schemes.insert("bearer".into(), SecurityScheme::Http(bearer).into());
    components.schemas.insert(ProblemDocument::name().into_owned(), ProblemDocument::schema());
    // What listeners are sent is in no answer's body.
    components.schemas.insert(events::Event::name().into_owned(), events::Event::schema());
    for (path, item) in &mut api.paths.paths {
        for operation in operations(item) {
            complete(path, operation);
        }
    }
    api
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.delete].into_iter().flatten()
}

fn complete(path: &str, operation: &mut Operation) {
    let mut may = vec![("503", "The database does not answer: try again later")];
    if operation.security.is_some() {
        may.push(("401", "Not signed in, or not any more"));
        may.push(("403", "The role does not suffice"));
    }
    if operation.security.is_some() || operation.request_body.is_some() {
        may.push(("429", "Too many requests, or more than is allowed now: see Retry-After"));
    }
    if operation.request_body.is_some() {
        may.push(("413", "The body is too large"));
        may.push(("415", "The body is no application/json"));
        may.push(("422", "The body is understood and not usable"));
    }
    if operation.request_body.is_some() || operation.parameters.as_ref().is_some_and(|it| !it.is_empty()) {
        may.push(("400", "The request is not understood"));
    }
    if path.contains('{') {
        may.push(("404", "Not there, or somebody else's"));
    }
    for (status, description) in may {
        operation.responses.responses.entry(status.to_owned()).or_insert_with(|| {
            RefOr::T(ResponseBuilder::new().description(description).content("application/problem+json", problem()).build())
        });
    }
    // Those that are told by hand are problems too.
    for (status, response) in &mut operation.responses.responses {
        if let (RefOr::T(response), true) = (response, status.starts_with(['4', '5'])) {
            response.content = [("application/problem+json".to_owned(), problem().into())].into_iter().collect();
        }
    }
}

fn problem() -> Content {
    ContentBuilder::new().schema(Some(Ref::from_schema_name(ProblemDocument::name()))).build()
}
