//! OpenAI Realtime, GA, as a server: session gate, formats, turn detection on real audio, bursts, truncation rules,
//! races and their errors.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use futures::SinkExt as _;
use http::{HeaderMap, StatusCode, header};
use media::{Format, Rate};
use serde_json::{Value, json};

use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::net::Listener;
use crate::provider::{Agenda, Arrived, Behaviour, Ears, OutputFormat, Turn, pieces};
use crate::script::{Cause, Reply};
use crate::speech::Utterance;
use crate::timeline::{Moment, Party, Timeline};
use crate::web::{Socket, upgrade};

/// The simulated service.
#[derive(Clone)]
pub struct OpenAi {
    pub behaviour: Arc<Behaviour>,
    pub timeline: Timeline,
}

impl OpenAi {
    /// Serves sessions at `/v1/realtime`, and what is known of models at `/v1/models/…`, until `stop`.
    pub async fn serve(self, listener: Listener, stop: CancellationToken) {
        let router = Router::new().route("/v1/realtime", any(session)).route("/v1/models/{model}", get(model)).with_state(self);
        let _ = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
    }
}

/// Whether a request shows the account's key.
fn is_known(service: &OpenAi, headers: &HeaderMap) -> bool {
    let key = headers.get(header::AUTHORIZATION).and_then(|it| it.to_str().ok()).and_then(|it| it.strip_prefix("Bearer "));
    key == Some(service.behaviour.api_key.as_str())
}

async fn model(State(service): State<OpenAi>, Path(model): Path<String>, headers: HeaderMap) -> Response {
    if !is_known(&service, &headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    if !model.starts_with("gpt-realtime") {
        return StatusCode::NOT_FOUND.into_response();
    }
    axum::Json(json!({"id": model, "object": "model", "created": 1_756_339_200, "owned_by": "openai"})).into_response()
}

async fn session(State(service): State<OpenAi>, request: Request) -> Response {
    let refuse = |status: StatusCode, reason: &str| {
        service.timeline.note(Party::Provider, Moment::SessionRefused { reason: reason.to_owned() });
        let error = json!({"error": {"type": "invalid_request_error", "code": reason, "message": reason, "param": null}});
        (status, axum::Json(error)).into_response()
    };
    if !is_known(&service, request.headers()) {
        return refuse(StatusCode::UNAUTHORIZED, "invalid_api_key");
    }
    if !request.uri().query().is_some_and(|it| it.split('&').any(|it| it.starts_with("model="))) {
        return refuse(StatusCode::BAD_REQUEST, "missing_model");
    }
    let beta = request.headers().contains_key("openai-beta");
    upgrade(request, move |socket| async move {
        let mut session = Session::new(service, socket);
        if beta {
            session.error("beta_api_shape_disabled", "The beta API shape is disabled", None, None).await;
            return session.close(4000, "invalid_request_error.beta_api_shape_disabled").await;
        }
        session.run().await;
    })
}

/// Something that happens later.
enum Due {
    Event(Value),
    Audio { bytes: Vec<u8>, time: Duration },
    ResponseOver,
    Respond(Option<Cause>),
    Expired,
}

struct ActiveResponse {
    id: String,
    item: String,
    utterance: Option<&'static Utterance>,
    /// What it writes instead of saying it.
    text: Option<&'static str>,
    generated: Duration,
}

struct Item {
    utterance: Option<&'static Utterance>,
    /// Audio generated so far; `None` for items without model audio.
    audio: Option<Duration>,
}

struct Session {
    service: OpenAi,
    socket: Socket,
    configured: bool,
    input: Format,
    output: Format,
    /// What the session object says, which is not always what is done.
    announced_output: Value,
    voice: Value,
    ears: Ears,
    create_response: bool,
    interrupt_response: bool,
    agenda: Agenda<Due>,
    active: Option<ActiveResponse>,
    items: HashMap<String, Item>,
    /// What the next response answers.
    cause: Option<Cause>,
    /// An answer that was only written, by its item, and what it answers: once deleted, that is unanswered again.
    written: Option<(String, Option<Cause>)>,
    replayed: usize,
    /// Answers begun.
    answers: usize,
    /// Speech sent so far.
    spoken: Duration,
    spoke: bool,
    tools: HashMap<String, String>,
    closed: bool,
}

fn id(prefix: &str) -> String {
    format!("{prefix}_{}", &Uuid::new_v4().simple().to_string()[..21])
}

/// Keys that the service accepts, by path; `*` stands for free content.
fn allowed(path: &str) -> Option<&'static [&'static str]> {
    Some(match path {
        "session.update" => &["type", "event_id", "session"],
        "session.update.session" => &[
            "type",
            "model",
            "output_modalities",
            "instructions",
            "audio",
            "tools",
            "tool_choice",
            "parallel_tool_calls",
            "reasoning",
            "max_output_tokens",
            "truncation",
            "tracing",
            "prompt",
            "include",
        ],
        "session.update.session.audio" => &["input", "output"],
        "session.update.session.audio.input" => &["format", "transcription", "noise_reduction", "turn_detection"],
        "session.update.session.audio.output" => &["format", "voice", "speed"],
        "session.update.session.audio.input.format" | "session.update.session.audio.output.format" => &["type", "rate"],
        "session.update.session.audio.input.transcription" => &["model", "language", "prompt", "keywords", "languages", "delay"],
        "session.update.session.audio.input.turn_detection" => &[
            "type",
            "threshold",
            "prefix_padding_ms",
            "silence_duration_ms",
            "idle_timeout_ms",
            "create_response",
            "interrupt_response",
            "eagerness",
        ],
        "input_audio_buffer.append" => &["type", "event_id", "audio"],
        "input_audio_buffer.commit" | "input_audio_buffer.clear" => &["type", "event_id"],
        "conversation.item.create" => &["type", "event_id", "previous_item_id", "item"],
        "conversation.item.create.item" => {
            &["id", "object", "type", "status", "role", "content", "call_id", "name", "arguments", "output"]
        }
        "conversation.item.truncate" => &["type", "event_id", "item_id", "content_index", "audio_end_ms"],
        "conversation.item.delete" | "conversation.item.retrieve" => &["type", "event_id", "item_id"],
        "response.create" => &["type", "event_id", "response"],
        "response.create.response" => &[
            "instructions",
            "output_modalities",
            "audio",
            "tools",
            "tool_choice",
            "parallel_tool_calls",
            "reasoning",
            "max_output_tokens",
            "conversation",
            "input",
            "metadata",
            "prompt",
        ],
        "response.cancel" => &["type", "event_id", "response_id"],
        _ => return None,
    })
}

/// The first key that the service does not know.
fn unknown_key(path: &str, value: &Value) -> Option<String> {
    let (Some(object), Some(keys)) = (value.as_object(), allowed(path)) else { return None };
    object.iter().find_map(|(key, value)| {
        let path = format!("{path}.{key}");
        if keys.contains(&key.as_str()) { unknown_key(&path, value) } else { Some(path) }
    })
}

impl Session {
    fn new(service: OpenAi, socket: Socket) -> Self {
        let pcm = Format::Pcm16(Rate::Hz24000);
        let ears = Ears::new(service.behaviour.speech.caller, pcm);
        Self {
            service,
            socket,
            configured: false,
            input: pcm,
            output: pcm,
            announced_output: json!({"type": "audio/pcm", "rate": 24000}),
            voice: json!("alloy"),
            ears,
            create_response: true,
            interrupt_response: true,
            agenda: Agenda::new(),
            active: None,
            items: HashMap::new(),
            cause: None,
            written: None,
            replayed: 0,
            answers: 0,
            spoken: Duration::ZERO,
            spoke: false,
            tools: HashMap::new(),
            closed: false,
        }
    }

    fn note(&self, moment: Moment) {
        self.service.timeline.note(Party::Provider, moment);
    }

    fn later(&mut self, after: Duration, due: Due) {
        self.agenda.later(after, due);
    }

    async fn send(&mut self, mut event: Value) {
        event["event_id"] = id("event").into();
        if self.socket.send(Message::text(event.to_string())).await.is_err() && !std::mem::replace(&mut self.closed, true) {
            // The client is gone, without a close.
            self.note(Moment::SessionClosed { code: None });
        }
    }

    async fn error(&mut self, code: &str, message: &str, param: Option<&str>, event_id: Option<&str>) {
        self.note(Moment::ClientError { code: code.into(), detail: message.into() });
        let error =
            json!({"type": "invalid_request_error", "code": code, "message": message, "param": param, "event_id": event_id});
        self.send(json!({"type": "error", "error": error})).await;
    }

    async fn close(&mut self, code: u16, reason: &str) {
        self.note(Moment::SessionClosed { code: Some(code) });
        let frame = CloseFrame { code: code.into(), reason: reason.to_owned().into() };
        let _ = self.socket.send(Message::Close(Some(frame))).await;
        self.closed = true;
    }

    fn object(&self) -> Value {
        let input = match self.input {
            Format::Ulaw8k => json!({"type": "audio/pcmu"}),
            Format::Alaw8k => json!({"type": "audio/pcma"}),
            Format::Pcm16(_) => json!({"type": "audio/pcm", "rate": 24000}),
        };
        json!({
            "type": "realtime", "object": "realtime.session", "id": "sess_sim", "model": "gpt-realtime-2.1", "output_modalities": ["audio"],
            "audio": {"input": {"format": input}, "output": {"format": self.announced_output, "voice": self.voice}},
        })
    }

    async fn run(&mut self) {
        self.note(Moment::SessionOpened);
        self.later(self.service.behaviour.session_max, Due::Expired);
        self.send(json!({"type": "session.created", "session": self.object()})).await;
        while !self.closed {
            match self.agenda.next(&mut self.socket).await {
                Arrived::Text(text) => self.receive(&text).await,
                Arrived::Binary => self.close(1003, "binary").await,
                Arrived::Due(due) => self.happen(due).await,
                Arrived::Closed(code) => {
                    self.service.behaviour.heal();
                    return self.note(Moment::SessionClosed { code });
                }
            }
        }
    }

    async fn receive(&mut self, text: &str) {
        let Ok(event) = serde_json::from_str::<Value>(text) else {
            return self.error("invalid_json", "the message is not JSON", None, None).await;
        };
        let kind = event["type"].as_str().unwrap_or_default().to_owned();
        let event_id = event["event_id"].as_str().map(str::to_owned);
        if allowed(&kind).is_none() {
            return self.error("invalid_value", &format!("Invalid value: '{kind}'"), Some("type"), event_id.as_deref()).await;
        }
        if let Some(key) = unknown_key(&kind, &event) {
            let param = key.strip_prefix(&format!("{kind}.")).unwrap_or(&key).to_owned();
            let message = format!("Unknown parameter: '{param}'.");
            return self.error("unknown_parameter", &message, Some(&param), event_id.as_deref()).await;
        }
        match kind.as_str() {
            "session.update" => self.update(&event["session"]).await,
            "input_audio_buffer.append" => self.append(event["audio"].as_str().unwrap_or_default()).await,
            "conversation.item.create" => self.create_item(&event["item"]).await,
            "conversation.item.truncate" => self.truncate(&event).await,
            "conversation.item.delete" => self.delete(event["item_id"].as_str().unwrap_or_default()).await,
            "response.create" => self.create_response(&event["response"]).await,
            "response.cancel" => self.cancel(event["response_id"].as_str()).await,
            _ => (),
        }
    }

    async fn update(&mut self, session: &Value) {
        if session["type"] != "realtime" {
            let message = "Missing required parameter: 'session.type'.";
            return self.error("missing_required_parameter", message, Some("session.type"), None).await;
        }
        let format = |side: &Value| match side["format"]["type"].as_str() {
            Some("audio/pcmu") => Some(Format::Ulaw8k),
            Some("audio/pcm") if side["format"]["rate"] == 24_000 => Some(Format::Pcm16(Rate::Hz24000)),
            _ => None,
        };
        let voice = &session["audio"]["output"]["voice"];
        if self.spoke && !voice.is_null() && *voice != self.voice {
            return self
                .error(
                    "cannot_update_voice",
                    "the voice is locked once audio was produced",
                    Some("session.audio.output.voice"),
                    None,
                )
                .await;
        }
        if !voice.is_null() {
            self.voice = voice.clone();
        }
        let audio = &session["audio"];
        let insists = self.service.behaviour.format == OutputFormat::Pcm16;
        if let Some(wanted) = format(&audio["input"]).filter(|_| !insists) {
            self.input = wanted;
        }
        if let Some(wanted) = format(&audio["output"]).filter(|_| !insists) {
            self.output = wanted;
            self.announced_output = audio["output"]["format"].clone();
        }
        if self.service.behaviour.format == OutputFormat::Lies {
            self.output = Format::Pcm16(Rate::Hz24000);
        }
        let silence = self.ears.silence_ms;
        if !self.configured {
            self.ears = Ears::new(self.service.behaviour.speech.caller, self.input);
        }
        let turn = &audio["input"]["turn_detection"];
        self.ears.silence_ms = turn["silence_duration_ms"].as_u64().map_or(silence, |it| it as usize);
        self.create_response = turn["create_response"].as_bool().unwrap_or(self.create_response);
        self.interrupt_response = turn["interrupt_response"].as_bool().unwrap_or(self.interrupt_response);
        let first = !std::mem::replace(&mut self.configured, true);
        if first {
            for text in self.service.behaviour.nonsense.clone() {
                let _ = self.socket.send(Message::text(text)).await;
            }
        }
        let announced = if self.announced_output["type"] == "audio/pcmu" { "audio/pcmu" } else { "audio/pcm 24000" };
        self.note(Moment::SessionConfigured { input: self.input.to_string(), output: announced.into() });
        let updated = json!({"type": "session.updated", "session": self.object()});
        if self.service.behaviour.setup.is_zero() {
            self.send(updated).await;
        } else {
            self.later(self.service.behaviour.setup, Due::Event(updated));
        }
    }

    async fn append(&mut self, base64: &str) {
        let mut audio = Vec::new();
        if wire::audio::decode(base64, &mut audio).is_err() || audio.len() > 15 << 20 {
            return self.error("invalid_value", "the audio is not base64, or too much", Some("audio"), None).await;
        }
        for turn in self.ears.listen(&audio) {
            match turn {
                Turn::Started => self.speech_started().await,
                Turn::Stopped(heard) => self.speech_stopped(heard).await,
            }
        }
    }

    async fn speech_started(&mut self) {
        let item = id("item");
        self.send(json!({"type": "input_audio_buffer.speech_started", "audio_start_ms": self.ears.ms.saturating_sub(300), "item_id": item})).await;
        if self.interrupt_response {
            self.stop_response("turn_detected").await;
        }
        // An answer that was about to begin is not given.
        self.agenda.retain(|it| !matches!(it, Due::Respond(_)));
    }

    async fn speech_stopped(&mut self, heard: Option<crate::Heard>) {
        let item = id("item");
        let name = heard.filter(|it| it.complete).and_then(|it| it.name);
        self.note(Moment::CallerUnderstood { utterance: name, ms: heard.map_or(0, |it| it.ms) });
        self.send(json!({"type": "input_audio_buffer.speech_stopped", "audio_end_ms": self.ears.ms, "item_id": item})).await;
        self.send(json!({"type": "input_audio_buffer.committed", "previous_item_id": null, "item_id": item})).await;
        let content = json!([{"type": "input_audio", "transcript": null}]);
        let message = json!({"id": item, "object": "realtime.item", "type": "message", "status": "completed", "role": "user", "content": content});
        self.send(json!({"type": "conversation.item.added", "previous_item_id": null, "item": message})).await;
        self.send(json!({"type": "conversation.item.done", "previous_item_id": null, "item": message})).await;
        self.items.insert(item.clone(), Item { utterance: None, audio: None });
        let transcript = match name {
            Some(name) => json!({
                "type": "conversation.item.input_audio_transcription.completed", "item_id": item, "content_index": 0,
                "transcript": self.service.behaviour.text_of(name), "usage": {"type": "duration", "seconds": 1},
            }),
            None => json!({
                "type": "conversation.item.input_audio_transcription.failed", "item_id": item, "content_index": 0,
                "error": {"type": "transcription_error", "code": "audio_unintelligible", "message": "not understood", "param": null},
            }),
        };
        self.later(Duration::from_millis(120), Due::Event(transcript));
        let cause = name.map(|it| Cause::Hear(it.into()));
        if self.create_response {
            self.later(self.service.behaviour.thinking, Due::Respond(cause));
        } else {
            // Answered when the client asks for it.
            self.cause = cause;
        }
    }

    async fn create_item(&mut self, item: &Value) {
        let number = item["id"].as_str().map_or_else(|| id("item"), str::to_owned);
        match item["type"].as_str() {
            Some("message") => {
                let (role, part) = (item["role"].as_str().unwrap_or_default(), &item["content"][0]);
                let expected = if role == "assistant" { "output_text" } else { "input_text" };
                let text = part["text"].as_str().unwrap_or_default().to_owned();
                if part["type"] != expected || !matches!(role, "user" | "assistant" | "system") {
                    let message = "Missing required parameter: 'item.content[0].text'.";
                    return self.error("missing_required_parameter", message, Some("item.content[0].text"), None).await;
                }
                let key = crate::script::first_key(&text);
                if let (Some(key), "user") = (key, role) {
                    self.cause = Some(Cause::Key(key));
                    self.note(Moment::ToldInText { text });
                } else if role == "user" && self.answers > 0 {
                    self.cause = Some(Cause::Asked);
                    self.note(Moment::ToldInText { text });
                } else if self.answers == 0 {
                    self.replayed += 1;
                } else {
                    self.note(Moment::ToldInText { text });
                }
            }
            Some("function_call") => self.replayed += 1,
            Some("function_call_output") => {
                let call = item["call_id"].as_str().unwrap_or_default();
                let output = item["output"].as_str().unwrap_or_default().to_owned();
                match self.tools.remove(call) {
                    Some(name) => {
                        self.note(Moment::ToolAnswered { name: name.clone(), output });
                        self.cause = Some(Cause::Answered(name));
                    }
                    None => self.replayed += 1,
                }
            }
            _ => return self.error("invalid_value", "the item has no known type", Some("item.type"), None).await,
        }
        self.items.insert(number.clone(), Item { utterance: None, audio: None });
        let mut item = item.clone();
        item["id"] = number.into();
        self.send(json!({"type": "conversation.item.added", "previous_item_id": null, "item": item})).await;
        self.send(json!({"type": "conversation.item.done", "previous_item_id": null, "item": item})).await;
    }

    async fn truncate(&mut self, event: &Value) {
        let item_id = event["item_id"].as_str().unwrap_or_default().to_owned();
        let Some(item) = self.items.get(&item_id) else {
            return self.error("item_truncate_invalid_item_id", "the item does not exist", Some("item_id"), None).await;
        };
        let Some(end_ms) = event["audio_end_ms"].as_u64() else {
            return self.error("invalid_type", "audio_end_ms must be an integer", Some("audio_end_ms"), None).await;
        };
        let (Some(audio), Some(utterance)) = (item.audio, item.utterance) else {
            return self.error("unsupported_content_type", "Only model output audio messages can be truncated", None, None).await;
        };
        let audio_ms = audio.as_millis() as u64;
        if end_ms == 0 || end_ms > audio_ms {
            let message = format!("Audio content of {audio_ms}ms is already shorter than {end_ms}ms");
            return self.error("invalid_value", &message, Some("audio_end_ms"), None).await;
        }
        self.note(Moment::Truncated { utterance: utterance.name, heard_ms: end_ms as usize, generated_ms: audio_ms as usize });
        self.items.insert(item_id.clone(), Item { utterance: Some(utterance), audio: Some(Duration::from_millis(end_ms)) });
        self.send(json!({"type": "conversation.item.truncated", "item_id": item_id, "content_index": 0, "audio_end_ms": end_ms}))
            .await;
    }

    async fn delete(&mut self, item_id: &str) {
        match self.items.remove(item_id) {
            Some(item) => {
                if let Some((_, cause)) = self.written.take_if(|it| it.0 == item_id) {
                    self.cause = cause;
                }
                if let Some(utterance) = item.utterance {
                    self.note(Moment::Deleted { utterance: utterance.name });
                }
                self.send(json!({"type": "conversation.item.deleted", "item_id": item_id})).await;
            }
            None => self.error("item_delete_invalid_item_id", "the item does not exist", Some("item_id"), None).await,
        }
    }

    async fn create_response(&mut self, response: &Value) {
        if self.service.behaviour.is_poisoned(self.answers) {
            return self.error("server_error", "The server had an error while processing your request", None, None).await;
        }
        if self.active.is_some() {
            let message = "Conversation already has an active response in progress";
            return self.error("conversation_already_has_active_response", message, None, None).await;
        }
        let opening = response["instructions"].is_string() && self.cause.is_none();
        let cause = match self.cause.take() {
            Some(cause) => Some(cause),
            None if opening && self.replayed > 0 => {
                let items = std::mem::take(&mut self.replayed);
                self.note(Moment::Replayed { items });
                Some(Cause::Continue)
            }
            None if opening && !self.spoke => Some(Cause::Start),
            None if opening => Some(Cause::Asked),
            None => None,
        };
        // The id exists at once, the words come after some thought.
        self.begin(cause, self.service.behaviour.thinking).await;
    }

    async fn cancel(&mut self, response: Option<&str>) {
        let fits = self.active.as_ref().is_some_and(|it| response.is_none_or(|id| id == it.id));
        if fits {
            self.stop_response("client_cancelled").await;
        } else {
            self.error("response_cancel_not_active", "Cancellation failed: no active response found", None, None).await;
        }
    }

    async fn happen(&mut self, due: Due) {
        match due {
            Due::Event(event) => self.send(event).await,
            Due::Audio { bytes, time } => {
                self.spoken += time;
                if self.service.behaviour.breaks(self.spoken) {
                    // The socket is gone without a close, as when a network drops out.
                    self.note(Moment::SessionClosed { code: None });
                    self.closed = true;
                    return;
                }
                if let Some(active) = &mut self.active {
                    active.generated += time;
                    let (response, item, generated) = (active.id.clone(), active.item.clone(), active.generated);
                    if let Some(item) = self.items.get_mut(&item) {
                        item.audio = Some(generated);
                    }
                    let mut delta = String::new();
                    wire::audio::encode(&bytes, &mut delta);
                    self.spoke = true;
                    self.send(json!({
                        "type": "response.output_audio.delta", "response_id": response, "item_id": item,
                        "output_index": 0, "content_index": 0, "delta": delta,
                    }))
                    .await;
                }
            }
            Due::ResponseOver => self.finish_response("completed", Value::Null).await,
            Due::Respond(cause) => {
                if self.active.is_none() {
                    self.begin(cause, Duration::ZERO).await;
                }
            }
            Due::Expired => {
                self.error("session_expired", "Your session hit the maximum duration of 60 minutes.", None, None).await;
                self.close(1001, "session_expired").await;
            }
        }
    }

    /// Begins an answer; its audio comes after `delay`, faster than it plays.
    async fn begin(&mut self, cause: Option<Cause>, delay: Duration) {
        if self.answers == self.service.behaviour.answers_max {
            return;
        }
        self.answers += 1;
        let (response, item) = (id("resp"), id("item"));
        let reply = cause.as_ref().and_then(|it| self.service.behaviour.reply(it));
        let head = json!({"id": response, "object": "realtime.response", "status": "in_progress", "status_details": null, "output": [], "usage": null});
        self.send(json!({"type": "response.created", "response": head})).await;
        self.send(json!({"type": "rate_limits.updated", "rate_limits": []})).await;
        let mut active =
            ActiveResponse { id: response.clone(), item: item.clone(), utterance: None, text: None, generated: Duration::ZERO };
        let mut at = delay;
        match reply {
            Some(Reply::Say(name)) => {
                let Some(utterance) = self.service.behaviour.utterance(&name) else { return };
                if self.service.behaviour.is_text_only(self.answers) {
                    self.written = Some((item, cause));
                    self.active = Some(ActiveResponse { text: Some(utterance.text), ..active });
                    return self.later(at, Due::ResponseOver);
                }
                self.note(Moment::SpeaksTo { utterance: utterance.name });
                active.utterance = Some(utterance);
                self.items.insert(item.clone(), Item { utterance: Some(utterance), audio: None });
                let message = json!({"id": item, "object": "realtime.item", "type": "message", "status": "in_progress", "role": "assistant", "content": []});
                self.later(at, Due::Event(json!({"type": "response.output_item.added", "response_id": response, "output_index": 0, "item": message})));
                self.later(at, Due::Event(json!({"type": "conversation.item.added", "previous_item_id": null, "item": message})));
                let part = json!({"type": "audio", "transcript": ""});
                let place = json!({"response_id": response, "item_id": item, "output_index": 0, "content_index": 0});
                self.later(at, Due::Event(with(&place, json!({"type": "response.content_part.added", "part": part}))));
                for word in utterance.text.split_inclusive(' ') {
                    let delta = json!({"type": "response.output_audio_transcript.delta", "delta": word, "obfuscation": "x"});
                    self.later(at, Due::Event(with(&place, delta)));
                }
                for (bytes, time) in pieces(utterance, self.output) {
                    self.later(at, Due::Audio { bytes, time });
                    at += time.div_f32(self.service.behaviour.burst);
                }
            }
            Some(Reply::Call(name)) => {
                let call = id("call");
                self.note(Moment::ToolCalled { name: name.clone() });
                self.tools.insert(call.clone(), name.clone());
                let function = json!({"id": item, "object": "realtime.item", "type": "function_call", "status": "completed", "name": name, "call_id": call, "arguments": "{}"});
                let done = json!({"type": "response.function_call_arguments.done", "response_id": response, "item_id": item, "output_index": 0, "call_id": call, "name": name, "arguments": "{}"});
                self.later(at, Due::Event(done));
                self.later(at, Due::Event(json!({"type": "response.output_item.done", "response_id": response, "output_index": 0, "item": function})));
            }
            None => (),
        }
        self.active = Some(active);
        self.later(at, Due::ResponseOver);
    }

    async fn stop_response(&mut self, reason: &str) {
        if let Some(active) = &self.active {
            if let Some(utterance) = active.utterance {
                self.note(Moment::Interrupted { utterance: utterance.name, generated_ms: active.generated.as_millis() as usize });
            }
            // Transcripts that are under way still come; the answer's own events do not.
            self.agenda.retain(|it| match it {
                Due::Event(event) => !event["type"].as_str().unwrap_or_default().starts_with("response."),
                Due::Audio { .. } | Due::ResponseOver => false,
                Due::Respond(_) | Due::Expired => true,
            });
            self.finish_response("cancelled", json!({"type": "cancelled", "reason": reason})).await;
        }
    }

    async fn finish_response(&mut self, status: &str, details: Value) {
        let Some(active) = self.active.take() else { return };
        let mut output = Vec::new();
        if let Some(text) = active.text {
            self.items.insert(active.item.clone(), Item { utterance: None, audio: None });
            let place = json!({"response_id": active.id, "item_id": active.item, "output_index": 0, "content_index": 0});
            self.send(with(&place, json!({"type": "response.output_text.delta", "delta": text}))).await;
            self.send(with(&place, json!({"type": "response.output_text.done", "text": text}))).await;
            let content = json!([{"type": "output_text", "text": text}]);
            let item = json!({"id": active.item, "object": "realtime.item", "type": "message", "status": "completed", "role": "assistant", "content": content});
            self.send(json!({"type": "response.output_item.done", "response_id": active.id, "output_index": 0, "item": item}))
                .await;
            output.push(item);
        }
        if let Some(utterance) = active.utterance {
            let place = json!({"response_id": active.id, "item_id": active.item, "output_index": 0, "content_index": 0});
            self.send(with(&place, json!({"type": "response.output_audio.done"}))).await;
            self.send(with(&place, json!({"type": "response.output_audio_transcript.done", "transcript": utterance.text}))).await;
            let content = json!([{"type": "output_audio", "transcript": utterance.text}]);
            let item = json!({"id": active.item, "object": "realtime.item", "type": "message", "status": "completed", "role": "assistant", "content": content});
            self.send(json!({"type": "response.output_item.done", "response_id": active.id, "output_index": 0, "item": item}))
                .await;
            output.push(item);
        }
        let tokens = active.generated.as_millis() as u64 / 50;
        let usage = json!({"total_tokens": 100 + tokens, "input_tokens": 100, "output_tokens": tokens, "input_token_details": {"text_tokens": 80, "audio_tokens": 20, "cached_tokens": 0}});
        let response = json!({"id": active.id, "object": "realtime.response", "status": status, "status_details": details, "output": output, "usage": usage});
        self.send(json!({"type": "response.done", "response": response})).await;
    }
}

fn with(place: &Value, mut event: Value) -> Value {
    for (key, value) in place.as_object().into_iter().flatten() {
        event[key] = value.clone();
    }
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_validated_client_event_passes_and_a_beta_key_does_not() {
        for line in include_str!("../../../fixtures/openai/client-events.jsonl").lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            let kind = event["type"].as_str().unwrap();
            if allowed(kind).is_some() {
                assert_eq!(unknown_key(kind, &event), None, "{line}");
            }
        }
        let beta = json!({"type": "session.update", "session": {"type": "realtime", "input_audio_format": "g711_ulaw"}});
        assert_eq!(unknown_key("session.update", &beta).as_deref(), Some("session.update.session.input_audio_format"));
    }
}
