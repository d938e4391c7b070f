//! Calls that are made: ordered, looked up, given up; and numbers that are not to be called.

use axum::Json;
use axum::extract::State;
use desk::{CancelError, Order, OrderRefused};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use store::VoiceSessionRow;
use twilio::is_e164;
use utoipa::{IntoParams, ToSchema};

use super::given::{Asked, At, Given, limit, moment, page};
use super::request_key;
use crate::App;
use crate::access::{Operator, Viewer};
use crate::problem::Problem;

/// Longest reason, in characters.
const REASON_MAX: usize = 200;

/// Somebody is to be called.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Initiate {
    /// A customer of the tenant's; without it whoever has that number, made if it is new.
    customer_id: Option<String>,
    /// As people write it; numbers without country are of the country that is called from. Without it the customer's.
    phone: Option<String>,
    /// The name of an assistant.
    agent_type: String,
    /// Whoever is called has agreed to be.
    consent: Option<bool>,
}

/// What became of the order.
#[derive(Serialize, ToSchema)]
pub(crate) struct Initiated {
    /// `vs_…`
    session_id: String,
    /// Twilio's; null while the call waits to be dialled, and in a simulation.
    call_sid: Option<String>,
    /// `queued`, `simulation`, or how it ended. `/api/sessions/{id}` tells how it fares.
    status: String,
    message: String,
    /// Whether there is an account to make calls with.
    twilio_configured: bool,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct PageQuery {
    /// `next` of the page before.
    cursor: Option<String>,
    /// 1 to 100, default 50.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct SessionPage {
    /// The newest first.
    sessions: Vec<Session>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A call that is made.
#[derive(Serialize, ToSchema)]
pub(crate) struct Session {
    /// `vs_…`
    id: String,
    customer_id: Option<String>,
    /// E.164; empty once its person was erased.
    phone: String,
    from_number: Option<String>,
    agent_type: String,
    call_sid: Option<String>,
    /// Ours, for `/api/calls/{id}`; once it was answered.
    call_id: Option<String>,
    /// `created`, `simulation`, or in Twilio's words.
    status: String,
    /// Why it came to nothing.
    problem: Option<String>,
    consent: bool,
    /// In Twilio's words: `human`, `machine_end_beep`, …
    answered_by: Option<String>,
    /// Seconds.
    duration: Option<u64>,
    recording_url: Option<String>,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    answered_at: Option<String>,
    #[schema(format = DateTime)]
    ended_at: Option<String>,
}

impl From<VoiceSessionRow> for Session {
    fn from(it: VoiceSessionRow) -> Self {
        Self {
            id: it.id,
            customer_id: it.customer,
            phone: it.phone,
            from_number: it.from_number,
            agent_type: it.agent_type,
            call_sid: it.call_sid,
            call_id: it.call,
            status: it.status,
            problem: it.problem,
            consent: it.consent,
            answered_by: it.answered_by,
            duration: it.duration_s,
            recording_url: it.recording_url,
            created_at: moment(it.created_at_ms),
            answered_at: it.answered_at_ms.map(moment),
            ended_at: it.ended_at_ms.map(moment),
        }
    }
}

/// A number that is not to be called.
#[derive(Serialize, ToSchema)]
pub(crate) struct DoNotCall {
    /// E.164.
    number: String,
    reason: String,
    /// Who put it here.
    author: String,
    #[schema(format = DateTime)]
    created_at: String,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct DoNotCallPage {
    numbers: Vec<DoNotCall>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reason {
    /// Why; 1 to 200 characters.
    reason: String,
}

/// How calls that are made stand; the address of an earlier system.
#[derive(Serialize, ToSchema)]
pub(crate) struct OutboundHealth {
    /// `ok`
    status: &'static str,
    /// Whether calls can be connected with the provider's own number.
    elevenlabs_number_configured: bool,
    /// Whether there is an account to make calls with.
    twilio_configured: bool,
}

/// Call somebody.
///
/// The call is noted before it is dialled, and dialled once, whatever breaks meanwhile. With an `Idempotency-Key` the same order
/// is one call however often it is sent. Without a Twilio account nothing is dialled: `status` is `simulation`.
#[utoipa::path(post, path = "/api/calls/initiate", tag = "outbound", security(("bearer" = ["operator"])),
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 128 printable characters")),
    request_body = Initiate, responses((status = 200, body = Initiated),
    (status = 409, description = "The key was used for another call, or nothing is configured", body = inline(super::ProblemDocument)),
    (status = 502, description = "Twilio refused, or the call could not be made; `session_id` says which", body = inline(super::ProblemDocument))))]
pub(crate) async fn initiate(
    State(app): State<App>,
    who: Operator,
    headers: HeaderMap,
    Given(it): Given<Initiate>,
) -> Result<Json<Initiated>, Problem> {
    let order = Order {
        phone: it.phone.filter(|it| !it.trim().is_empty()),
        customer: it.customer_id.filter(|it| !it.is_empty()),
        agent_type: it.agent_type,
        consent: it.consent.unwrap_or(false),
        key: request_key(&headers)?,
    };
    let row = app.caller.order(&who.tenant, &order).await.map_err(|refused| match refused {
        OrderRefused::NotCalled(it) => {
            let status = if it.is_passing() { StatusCode::TOO_MANY_REQUESTS } else { StatusCode::UNPROCESSABLE_ENTITY };
            Problem::new(status, it.to_string()).code(it.code())
        }
        OrderRefused::UnknownCustomer => Problem::unusable("customer_id: there is no such customer").code("unknown_customer"),
        OrderRefused::NoPhone => Problem::unusable(refused.to_string()).code("no_phone"),
        OrderRefused::KeyTaken | OrderRefused::NothingConfigured => Problem::new(StatusCode::CONFLICT, refused.to_string()),
        OrderRefused::Store(error) => error.into(),
    })?;
    app.store.tenant(&who.tenant).audit(&who.actor, "call.initiate", &row.id, Some(&row.agent_type)).await?;
    if row.call_sid.is_none()
        && let Some(problem) = &row.problem
    {
        let detail = format!("nobody is called: {problem}");
        return Err(Problem::new(StatusCode::BAD_GATEWAY, detail).code("not_dialled").with("session_id", row.id));
    }
    let message = match (row.status.as_str(), &row.call_sid) {
        ("simulation", _) => "Simulation: there is no Twilio account, and nobody is called".to_owned(),
        (_, None) => "The call waits for its turn".to_owned(),
        (_, Some(_)) => "The call is being made".to_owned(),
    };
    // Before Twilio has told anything, and whatever it has told meanwhile: the order was taken.
    let under_way = row.status != "simulation" && row.ended_at_ms.is_none();
    let status = if under_way { "queued".to_owned() } else { row.status };
    let twilio_configured = app.caller.is_configured();
    Ok(Json(Initiated { session_id: row.id, call_sid: row.call_sid, status, message, twilio_configured }))
}

/// Calls that were made, the newest first.
#[utoipa::path(get, path = "/api/sessions", tag = "outbound", security(("bearer" = ["viewer"])), params(PageQuery),
    responses((status = 200, body = SessionPage)))]
pub(crate) async fn sessions(
    State(app): State<App>,
    who: Viewer,
    Asked(it): Asked<PageQuery>,
) -> Result<Json<SessionPage>, Problem> {
    let most = limit(it.limit)?;
    let rows = app.store.tenant(&who.tenant).sessions(it.cursor.as_deref(), most + 1).await?;
    let (rows, next) = page(rows, most, |it| it.id.clone());
    Ok(Json(SessionPage { sessions: rows.into_iter().map(Session::from).collect(), next }))
}

/// A call that was made.
#[utoipa::path(get, path = "/api/sessions/{id}", tag = "outbound", security(("bearer" = ["viewer"])), params(("id" = String, Path)),
    responses((status = 200, body = Session)))]
pub(crate) async fn session(State(app): State<App>, who: Viewer, At(id): At<String>) -> Result<Json<Session>, Problem> {
    let row = app.store.tenant(&who.tenant).session(&id).await?.ok_or_else(Problem::not_there)?;
    Ok(Json(row.into()))
}

/// Give a call up: it is not dialled any more, or it ends.
#[utoipa::path(delete, path = "/api/sessions/{id}", tag = "outbound", security(("bearer" = ["operator"])), params(("id" = String, Path)),
    responses((status = 200, body = Session), (status = 502, description = "Twilio could not be asked", body = inline(super::ProblemDocument))))]
pub(crate) async fn cancel(State(app): State<App>, who: Operator, At(id): At<String>) -> Result<Json<Session>, Problem> {
    let row = app.caller.cancel(&who.tenant, &id).await.map_err(|error| match error {
        CancelError::Store(error) => error.into(),
        CancelError::Twilio(error) => Problem::new(StatusCode::BAD_GATEWAY, error.to_string()),
    })?;
    let row = row.ok_or_else(Problem::not_there)?;
    app.store.tenant(&who.tenant).audit(&who.actor, "session.cancel", &id, None).await?;
    Ok(Json(row.into()))
}

/// Numbers that are not to be called, in order.
#[utoipa::path(get, path = "/api/do-not-call", tag = "outbound", security(("bearer" = ["viewer"])), params(PageQuery),
    responses((status = 200, body = DoNotCallPage)))]
pub(crate) async fn do_not_call(
    State(app): State<App>,
    who: Viewer,
    Asked(it): Asked<PageQuery>,
) -> Result<Json<DoNotCallPage>, Problem> {
    let most = limit(it.limit)?;
    let rows = app.store.tenant(&who.tenant).not_to_be_called(it.cursor.as_deref(), most + 1).await?;
    let (rows, next) = page(rows, most, |it| it.number.clone());
    let entry = |it: store::DoNotCallRow| DoNotCall {
        number: it.number,
        reason: it.reason,
        author: it.author,
        created_at: moment(it.created_at_ms),
    };
    Ok(Json(DoNotCallPage { numbers: rows.into_iter().map(entry).collect(), next }))
}

fn e164(number: &str) -> Result<(), Problem> {
    if is_e164(number) { Ok(()) } else { Err(Problem::unusable("the number: expected E.164, such as +40312345678")) }
}

/// Do not call a number any more. Calls that wait to be dialled are not made.
#[utoipa::path(put, path = "/api/do-not-call/{number}", tag = "outbound", security(("bearer" = ["operator"])),
    params(("number" = String, Path, description = "E.164")), request_body = Reason, responses((status = 204)))]
pub(crate) async fn put_do_not_call(
    State(app): State<App>,
    who: Operator,
    At(number): At<String>,
    Given(it): Given<Reason>,
) -> Result<StatusCode, Problem> {
    e164(&number)?;
    let reason = it.reason.trim();
    if reason.is_empty() || reason.chars().count() > REASON_MAX {
        return Err(Problem::unusable(format!("reason: expected 1 to {REASON_MAX} characters")));
    }
    app.store.tenant(&who.tenant).do_not_call(&number, reason, &who.actor).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A number may be called again.
#[utoipa::path(delete, path = "/api/do-not-call/{number}", tag = "outbound", security(("bearer" = ["operator"])),
    params(("number" = String, Path, description = "E.164")), responses((status = 204)))]
pub(crate) async fn delete_do_not_call(
    State(app): State<App>,
    who: Operator,
    At(number): At<String>,
) -> Result<StatusCode, Problem> {
    let scope = app.store.tenant(&who.tenant);
    if !scope.may_call(&number).await? {
        return Err(Problem::not_there());
    }
    scope.audit(&who.actor, "do_not_call.remove", "a number", None).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Whether calls can be made; the address of an earlier system.
#[utoipa::path(get, path = "/api/twilio/health", tag = "outbound", responses((status = 200, body = OutboundHealth)))]
pub(crate) async fn health(State(app): State<App>) -> Json<OutboundHealth> {
    Json(OutboundHealth {
        status: "ok",
        elevenlabs_number_configured: app.caller.has_provider_number(),
        twilio_configured: app.caller.is_configured(),
    })
}

/// What Twilio would be answered when somebody picks up, without a call.
#[utoipa::path(post, path = "/api/twilio/test", tag = "outbound", security(("bearer" = ["operator"])),
    responses((status = 200, description = "TwiML", content_type = "text/xml", body = String)))]
pub(crate) async fn test(State(app): State<App>, _who: Operator) -> axum::response::Response {
    crate::webhook::render(&app.caller.example())
}
