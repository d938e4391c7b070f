//! Twilio's webhooks: parse, ask the desk, render.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bridge::CallId;
use desk::Who;
use http::{StatusCode, header};
use twilio::{DialEnded, Form, MachineDetected, MissingParameter, StreamStatus, VoiceRequest, twiml};

use crate::App;
use crate::problem::problem;
use crate::signed::Signed;

/// Longest id of ours: a UUID.
const ID_MAX: usize = 64;

pub(crate) async fn voice(State(app): State<App>, Signed(form): Signed) -> Response {
    match VoiceRequest::from_form(&form) {
        Ok(request) => render(&app.desk.answer(&request).await),
        Err(missing) => unusable(&missing),
    }
}

/// The Voice URL failed: no disk, no database and no provider is asked.
pub(crate) async fn fallback(State(app): State<App>, Signed(form): Signed) -> Response {
    tracing::error!(
        call_sid = form.get("CallSid"),
        code = form.get("ErrorCode"),
        url = form.get("ErrorUrl"),
        "Twilio could not use the answer of the Voice URL"
    );
    render(&app.desk.fallback(form.get("To")))
}

pub(crate) async fn next(State(app): State<App>, Path((call, epoch)): Path<(String, u32)>, Signed(form): Signed) -> Response {
    match VoiceRequest::from_form(&form) {
        Ok(request) => match app.desk.next(&id(&call), epoch, &request).await {
            Ok(document) => render(&document),
            Err(desk::TryElsewhere) => problem(StatusCode::SERVICE_UNAVAILABLE, "this server is shutting down: ask again"),
        },
        Err(missing) => unusable(&missing),
    }
}

pub(crate) async fn dialled(State(app): State<App>, Path((call, epoch)): Path<(String, u32)>, Signed(form): Signed) -> Response {
    let outcome = DialEnded::from_form(&form).ok().and_then(|it| it.status);
    match VoiceRequest::from_form(&form) {
        Ok(request) => match app.desk.dialled(&id(&call), epoch, outcome.as_ref(), &request).await {
            Ok(document) => render(&document),
            Err(desk::TryElsewhere) => problem(StatusCode::SERVICE_UNAVAILABLE, "this server is shutting down: ask again"),
        },
        Err(missing) => unusable(&missing),
    }
}

pub(crate) async fn rung(State(app): State<App>, Path((call, place)): Path<(String, u32)>, Signed(form): Signed) -> Response {
    after_ringing(&app, &id(&call), place, Who::Everybody, &form).await
}

pub(crate) async fn people(State(app): State<App>, Path((call, place)): Path<(String, u32)>, Signed(form): Signed) -> Response {
    after_ringing(&app, &id(&call), place, Who::People, &form).await
}

async fn after_ringing(app: &App, call: &CallId, place: u32, next: Who, form: &Form) -> Response {
    let outcome = DialEnded::from_form(form).ok().and_then(|it| it.status);
    match VoiceRequest::from_form(form) {
        Ok(request) => render(&app.desk.rung(call, place, next, outcome.as_ref(), &request).await),
        Err(missing) => unusable(&missing),
    }
}

pub(crate) async fn status(State(app): State<App>, Signed(form): Signed) -> Response {
    match VoiceRequest::from_form(&form) {
        Ok(request) => {
            app.desk.status(&request).await;
            StatusCode::NO_CONTENT.into_response()
        }
        Err(missing) => unusable(&missing),
    }
}

/// Somebody whom we have called has answered.
pub(crate) async fn connect(State(app): State<App>, Path(session): Path<String>, Signed(form): Signed) -> Response {
    match VoiceRequest::from_form(&form) {
        Ok(request) => render(&app.caller.connect(&session, &request).await),
        Err(missing) => unusable(&missing),
    }
}

pub(crate) async fn session_status(State(app): State<App>, Path(session): Path<String>, Signed(form): Signed) -> Response {
    match VoiceRequest::from_form(&form) {
        Ok(request) => {
            app.caller.status(&session, &request).await;
            StatusCode::NO_CONTENT.into_response()
        }
        Err(missing) => unusable(&missing),
    }
}

pub(crate) async fn dial_status(State(app): State<App>, Path(session): Path<String>, Signed(form): Signed) -> Response {
    match (DialEnded::from_form(&form), form.get("AccountSid")) {
        (Ok(ended), Some(account)) => render(&app.caller.dial_ended(&session, account, &ended).await),
        (Err(missing), _) => unusable(&missing),
        (_, None) => unusable(&MissingParameter("AccountSid")),
    }
}

/// A person or a machine has answered.
pub(crate) async fn detected(State(app): State<App>, Path(session): Path<String>, Signed(form): Signed) -> Response {
    match (MachineDetected::from_form(&form), form.get("AccountSid")) {
        (Ok(detected), Some(account)) => {
            app.caller.detected(&session, account, &detected).await;
            StatusCode::NO_CONTENT.into_response()
        }
        (Err(missing), _) => unusable(&missing),
        (_, None) => unusable(&MissingParameter("AccountSid")),
    }
}

pub(crate) async fn stream_status(State(app): State<App>, Path(call): Path<String>, Signed(form): Signed) -> Response {
    match StreamStatus::from_form(&form) {
        Ok(status) => {
            app.desk.stream_status(&id(&call), &status).await;
            StatusCode::NO_CONTENT.into_response()
        }
        Err(missing) => unusable(&missing),
    }
}

fn id(text: &str) -> CallId {
    CallId(text.chars().take(ID_MAX).collect::<String>().into())
}

pub(crate) fn render(document: &twiml::Response) -> Response {
    ([(header::CONTENT_TYPE, "text/xml; charset=utf-8")], document.render()).into_response()
}

fn unusable(missing: &MissingParameter) -> Response {
    problem(StatusCode::BAD_REQUEST, missing.to_string())
}
