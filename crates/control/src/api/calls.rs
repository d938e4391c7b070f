//! Calls: the list, one of them, and what may be done to one that lives.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bridge::{CallId, LiveControl, Performed};
use desk::OrderError;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use store::{CallFilter, CallRow, Speaker};
use utoipa::{IntoParams, ToSchema};

use super::given::{self, Asked, At, Given, limit, moment, ms};
use super::request_key;
use crate::App;
use crate::access::{Operator, Viewer};
use crate::problem::Problem;

/// Addresses of recordings are good for so long.
const RECORDING_LIFE: Duration = Duration::from_secs(3600);
/// Longest text that is said or told, in characters.
const TEXT_MAX: usize = 2000;

/// Which calls.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct CallsQuery {
    /// In Twilio's words, such as `completed`.
    status: Option<String>,
    /// `inbound` or `outbound`.
    direction: Option<String>,
    /// Calling or called, E.164.
    number: Option<String>,
    /// By name.
    assistant: Option<String>,
    /// Begun at this moment or later.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Begun before this moment.
    #[param(format = DateTime)]
    to: Option<String>,
    /// Only calls that are not over.
    live: Option<bool>,
    /// `next` of the page before.
    cursor: Option<String>,
    /// 1 to 100, default 50.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct CallPage {
    /// The newest first.
    calls: Vec<Call>,
    /// For the next page; not there on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A call as it stands.
#[derive(Serialize, ToSchema)]
pub(crate) struct Call {
    id: String,
    /// Twilio's.
    call_sid: String,
    direction: String,
    /// E.164; not there once its person was erased, or when the caller hides it.
    from_number: Option<String>,
    to_number: Option<String>,
    forwarded_from: Option<String>,
    caller_name: Option<String>,
    /// What answered: the name of an assistant or of a route.
    assistant: String,
    language: String,
    status: String,
    #[schema(format = DateTime)]
    started_at: String,
    #[schema(format = DateTime)]
    ended_at: Option<String>,
    /// Seconds, by Twilio's account.
    duration: Option<u64>,
    end_reason: Option<String>,
    /// Whose doing the end was.
    end_blame: Option<String>,
    /// Whom the caller was to be connected with.
    transfer_to: Option<String>,
}

impl From<CallRow> for Call {
    fn from(it: CallRow) -> Self {
        Self {
            id: it.id,
            call_sid: it.call_sid,
            direction: it.direction,
            from_number: it.from_number,
            to_number: it.to_number,
            forwarded_from: it.forwarded_from,
            caller_name: it.caller_name,
            assistant: it.assistant,
            language: it.language,
            status: it.status,
            started_at: moment(it.started_at_ms),
            ended_at: it.ended_at_ms.map(moment),
            duration: it.duration_s,
            end_reason: it.end_reason,
            end_blame: it.end_blame,
            transfer_to: it.transfer_to,
        }
    }
}

/// A call with everything that happened on it.
#[derive(Serialize, ToSchema)]
pub(crate) struct CallDetail {
    #[serde(flatten)]
    call: Call,
    transcript: Vec<Line>,
    /// What the caller waited for, turn by turn.
    turns: Vec<Turn>,
    tool_calls: Vec<ToolCall>,
    recordings: Vec<Recording>,
    quality: Quality,
    /// What the provider says of the conversation, once it has.
    review: Option<Review>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Review {
    /// Its id at the provider.
    conversation_id: String,
    /// `success`, `failure`, `unknown`.
    successful: Option<String>,
    summary: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Line {
    /// `caller` or `assistant`.
    speaker: &'static str,
    text: String,
    /// Milliseconds from the start of the stream.
    start_ms: u64,
    end_ms: u64,
    /// The caller interrupted: nothing behind it was heard.
    cut: bool,
}

/// Microseconds; together, from the caller's last sound to the assistant's first.
#[derive(Serialize, ToSchema)]
pub(crate) struct Turn {
    /// Until it was clear that the caller had finished.
    endpointing_us: u64,
    /// Until the provider's first sound.
    thinking_us: u64,
    /// Until it was handed to Twilio.
    bridging_us: u64,
    /// Until it was heard, as estimated.
    playout_us: u64,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct ToolCall {
    name: String,
    /// JSON, as the assistant wrote it.
    arguments: String,
    output: Option<String>,
    failed: Option<bool>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Recording {
    channels: u16,
    length_ms: u64,
    /// Good for an hour; not there while the recording lies on the server that made it.
    url: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Quality {
    /// Estimated listening quality (G.107), 1.0 to 4.5.
    mos: Option<f64>,
    first_audio_ms: Option<u64>,
    interruptions: u64,
    underruns: u64,
    jitter_us: u64,
    longest_gap_ms: u64,
    sessions_lost: u64,
    sessions_rolled: u64,
    /// Other servers that took the call over.
    resumes: u32,
    input_tokens: u64,
    output_tokens: u64,
}

/// What is done to a live call.
#[derive(Deserialize, ToSchema)]
#[serde(tag = "order", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum LiveOrder {
    /// The assistant says something, in its own voice; 1 to 2000 characters.
    Say { text: String },
    /// The assistant is told something that the caller does not hear; 1 to 2000 characters.
    Whisper { text: String },
    /// The assistant does not hear the caller.
    MuteCaller { on: bool },
    /// The caller does not hear the assistant.
    MuteAssistant { on: bool },
    /// The caller hears the sound for people on hold.
    Hold { on: bool },
    /// The recording goes on, or leaves silence.
    Record { on: bool },
    /// Keys are pressed for whoever is at the other end: 0-9, A-D, *, #, w for half a second.
    Digits { keys: String },
    /// The caller is connected with a destination, by its name.
    Transfer { to: String },
    /// The call ends.
    HangUp,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Done {
    /// `done`; `done_before`: the same order, by its `Idempotency-Key`, was carried out earlier.
    outcome: &'static str,
}

impl LiveOrder {
    fn control(self) -> Result<LiveControl, Problem> {
        let text = |it: String| {
            let fits = !it.trim().is_empty() && it.chars().count() <= TEXT_MAX;
            if fits { Ok(it) } else { Err(Problem::unusable(format!("text: expected 1 to {TEXT_MAX} characters"))) }
        };
        Ok(match self {
            Self::Say { text: it } => LiveControl::Say(text(it)?),
            Self::Whisper { text: it } => LiveControl::Inform(text(it)?),
            Self::MuteCaller { on } => LiveControl::MuteCaller(on),
            Self::MuteAssistant { on } => LiveControl::MuteAssistant(on),
            Self::Hold { on } => LiveControl::Hold(on),
            Self::Record { on } => LiveControl::Record(on),
            Self::Digits { keys } => format!("digits {keys}").parse().map_err(Problem::unusable)?,
            Self::Transfer { to } => LiveControl::Transfer(text(to)?),
            Self::HangUp => LiveControl::HangUp,
        })
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Say { .. } => "say",
            Self::Whisper { .. } => "whisper",
            Self::MuteCaller { .. } => "mute_caller",
            Self::MuteAssistant { .. } => "mute_assistant",
            Self::Hold { .. } => "hold",
            Self::Record { .. } => "record",
            Self::Digits { .. } => "digits",
            Self::Transfer { .. } => "transfer",
            Self::HangUp => "hang_up",
        }
    }
}

fn cursor(call: &CallRow) -> String {
    URL_SAFE_NO_PAD.encode(format!("{} {}", call.started_at_ms, call.id))
}

fn behind(cursor: &str) -> Option<(i64, String)> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
    let (at, id) = text.split_once(' ')?;
    Some((at.parse().ok()?, id.to_owned()))
}

async fn page(app: &App, tenant: &str, it: CallsQuery) -> Result<Json<CallPage>, Problem> {
    let wrong = |detail: &'static str| Problem::new(StatusCode::BAD_REQUEST, detail);
    let most = limit(it.limit)?;
    if it.direction.as_deref().is_some_and(|it| it != "inbound" && it != "outbound") {
        return Err(wrong("direction: expected inbound or outbound"));
    }
    let behind = match it.cursor.as_deref().map(behind) {
        Some(None) => return Err(wrong("cursor: expected `next` of the page before")),
        other => other.flatten(),
    };
    let filter = CallFilter {
        status: it.status.as_deref(),
        direction: it.direction.as_deref(),
        number: it.number.as_deref(),
        assistant: it.assistant.as_deref(),
        from_ms: ms("from", it.from.as_deref())?,
        to_ms: ms("to", it.to.as_deref())?,
        live: it.live.unwrap_or(false),
        behind: behind.as_ref().map(|it| (it.0, it.1.as_str())),
    };
    let (rows, next) = given::page(app.store.tenant(tenant).find_calls(&filter, most + 1).await?, most, cursor);
    Ok(Json(CallPage { calls: rows.into_iter().map(Call::from).collect(), next }))
}

async fn detail(app: &App, tenant: &str, id: &str) -> Result<Json<CallDetail>, Problem> {
    let scope = app.store.tenant(tenant);
    let row = scope.call(id).await?.ok_or_else(Problem::not_there)?;
    let line = |it: store::Line| Line {
        speaker: if it.speaker == Speaker::Caller { "caller" } else { "assistant" },
        text: it.text,
        start_ms: it.start_ms,
        end_ms: it.end_ms,
        cut: it.cut,
    };
    let turn = |it: store::TurnRow| Turn {
        endpointing_us: it.endpointing_us,
        thinking_us: it.thinking_us,
        bridging_us: it.bridging_us,
        playout_us: it.playout_us,
    };
    let tool = |it: store::ToolCallRow| ToolCall { name: it.name, arguments: it.arguments, output: it.output, failed: it.failed };
    let mut recordings = Vec::new();
    for it in scope.recordings(id).await? {
        let ticket = match it.location.strip_prefix("object:") {
            Some(object) => app.files.ticket(tenant, object, RECORDING_LIFE).await.unwrap_or_else(|error| {
                tracing::error!(%error, "the address of a recording cannot be made");
                None
            }),
            None => None,
        };
        let url = ticket.map(|it| app.desk.public_url().http(&format!("/files/{it}")));
        recordings.push(Recording { channels: it.channels, length_ms: it.length_ms, url });
    }
    let quality = Quality {
        mos: row.mos_hundredths.map(|it| f64::from(it) / 100.0),
        first_audio_ms: row.first_audio_ms,
        interruptions: row.interruptions,
        underruns: row.underruns,
        jitter_us: row.jitter_us,
        longest_gap_ms: row.longest_gap_ms,
        sessions_lost: row.sessions_lost,
        sessions_rolled: row.sessions_rolled,
        resumes: row.resumes,
        input_tokens: row.input_tokens,
        output_tokens: row.output_tokens,
    };
    let (successful, summary) = (row.successful.clone(), row.summary.clone());
    let review = row.provider_conversation.clone().map(|conversation_id| Review { conversation_id, successful, summary });
    Ok(Json(CallDetail {
        review,
        transcript: scope.transcript(id).await?.into_iter().map(line).collect(),
        turns: scope.turns(id).await?.into_iter().map(turn).collect(),
        tool_calls: scope.tool_calls(id).await?.into_iter().map(tool).collect(),
        recordings,
        quality,
        call: row.into(),
    }))
}

/// Calls, the newest first.
#[utoipa::path(get, path = "/api/calls", tag = "calls", security(("bearer" = ["viewer"])), params(CallsQuery),
    responses((status = 200, body = CallPage)))]
pub(crate) async fn list(State(app): State<App>, who: Viewer, Asked(it): Asked<CallsQuery>) -> Result<Json<CallPage>, Problem> {
    page(&app, &who.tenant, it).await
}

/// A call with everything that happened on it.
#[utoipa::path(get, path = "/api/calls/{id}", tag = "calls", security(("bearer" = ["viewer"])), params(("id" = String, Path)),
    responses((status = 200, body = CallDetail)))]
pub(crate) async fn show(State(app): State<App>, who: Viewer, At(id): At<String>) -> Result<Json<CallDetail>, Problem> {
    detail(&app, &who.tenant, &id).await
}

/// Calls, the newest first; the address of an earlier system.
#[utoipa::path(get, path = "/api/aloha/calls", tag = "calls", security(("bearer" = ["viewer"])), params(CallsQuery),
    responses((status = 200, body = CallPage)))]
pub(crate) async fn aloha_list(who: Viewer, app: State<App>, query: Asked<CallsQuery>) -> Result<Json<CallPage>, Problem> {
    list(app, who, query).await
}

/// A call with everything that happened on it; the address of an earlier system.
#[utoipa::path(get, path = "/api/aloha/calls/{id}", tag = "calls", security(("bearer" = ["viewer"])), params(("id" = String, Path)),
    responses((status = 200, body = CallDetail)))]
pub(crate) async fn aloha_show(who: Viewer, app: State<App>, id: At<String>) -> Result<Json<CallDetail>, Problem> {
    show(app, who, id).await
}

/// Do something to a live call, whichever server has it.
///
/// With an `Idempotency-Key` the same order is carried out once.
#[utoipa::path(post, path = "/api/calls/{id}/orders", tag = "calls", security(("bearer" = ["operator"])),
    params(("id" = String, Path), ("Idempotency-Key" = Option<String>, Header, description = "1 to 128 printable characters")),
    request_body = LiveOrder, responses((status = 200, body = Done),
    (status = 409, description = "The call is not live, or cannot do that", body = inline(super::ProblemDocument)),
    (status = 504, description = "The server that has the call does not answer", body = inline(super::ProblemDocument))))]
pub(crate) async fn order(
    State(app): State<App>,
    who: Operator,
    At(id): At<String>,
    headers: HeaderMap,
    Given(it): Given<LiveOrder>,
) -> Result<Json<Done>, Problem> {
    let (what, key) = (it.name(), request_key(&headers)?.unwrap_or_else(|| uuid::Uuid::now_v7().to_string()));
    // Other tenants' and other calls' keys are others.
    let key = format!("{} {id} {key}", who.tenant);
    let directory = Some(&**app.desk.bridge().directory());
    let done = desk::order(&app.store, directory, &who.tenant, &CallId(id.as_str().into()), &key, it.control()?).await;
    let done = done.map_err(|error| match error {
        OrderError::Unknown(_) => Problem::not_there(),
        OrderError::NotLive => Problem::new(StatusCode::CONFLICT, "the call is not live"),
        OrderError::NoAnswer(_) => Problem::new(StatusCode::GATEWAY_TIMEOUT, error.to_string()),
        OrderError::Refused(problem) => Problem::new(StatusCode::CONFLICT, problem),
        OrderError::Store(error) => error.into(),
    })?;
    app.store.tenant(&who.tenant).audit(&who.actor, "call.order", &id, Some(what)).await?;
    Ok(Json(Done { outcome: if done == Performed::Before { "done_before" } else { "done" } }))
}
