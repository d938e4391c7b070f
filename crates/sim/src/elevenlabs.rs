//! An ElevenLabs agent, as a server: signed address, initiation first, formats by the agent, pings that must be answered,
//! interruptions by event id, corrections, client tools, close codes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use futures::SinkExt as _;
use http::StatusCode;
use media::{Format, Rate};
use serde_json::{Value, json};
use tokio::time::Instant;
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

/// Between two pings.
const PING_EVERY: Duration = Duration::from_secs(2);
/// A ping must be answered by then.
const PONG_TIMEOUT: Duration = Duration::from_secs(10);
/// Without any input the conversation is ended.
const INPUT_TIMEOUT: Duration = Duration::from_secs(60);

/// The simulated service with one agent.
#[derive(Clone)]
pub struct ElevenLabs {
    behaviour: Arc<Behaviour>,
    timeline: Timeline,
    agent_id: String,
    /// Handed out and not yet used.
    signatures: Arc<Mutex<Vec<String>>>,
    /// `ws://host:port`, for signed addresses.
    address: String,
}

impl ElevenLabs {
    /// An agent that is reached at `address` (`127.0.0.1:port`).
    pub fn new(behaviour: Arc<Behaviour>, timeline: Timeline, agent_id: &str, address: &str) -> Self {
        Self { behaviour, timeline, agent_id: agent_id.into(), signatures: Arc::default(), address: format!("ws://{address}") }
    }

    /// Serves until `stop`.
    pub async fn serve(self, listener: Listener, stop: CancellationToken) {
        let router = Router::new()
            .route("/v1/convai/conversation/get-signed-url", get(signed_url))
            .route("/v1/convai/conversation", any(conversation))
            .with_state(self);
        let _ = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
    }

    fn refuse(&self, status: StatusCode, reason: &str) -> Response {
        self.timeline.note(Party::Provider, Moment::SessionRefused { reason: reason.into() });
        let detail = json!({"detail": {"type": "authentication_error", "code": reason, "message": reason, "status": reason}});
        (status, axum::Json(detail)).into_response()
    }
}

async fn signed_url(State(service): State<ElevenLabs>, request: Request) -> Response {
    let key = request.headers().get("xi-api-key").and_then(|it| it.to_str().ok());
    if key != Some(service.behaviour.api_key.as_str()) {
        return service.refuse(StatusCode::UNAUTHORIZED, "invalid_api_key");
    }
    if parameter(&request, "agent_id") != Some(service.agent_id.clone()) {
        return service.refuse(StatusCode::NOT_FOUND, "agent_not_found");
    }
    let signature = Uuid::new_v4().simple().to_string();
    service.signatures.lock().unwrap_or_else(PoisonError::into_inner).push(signature.clone());
    let (address, agent) = (&service.address, &service.agent_id);
    let url = format!("{address}/v1/convai/conversation?agent_id={agent}&conversation_signature={signature}");
    axum::Json(json!({"signed_url": url})).into_response()
}

async fn conversation(State(service): State<ElevenLabs>, request: Request) -> Response {
    let signature = parameter(&request, "conversation_signature").unwrap_or_default();
    let known = {
        let mut signatures = service.signatures.lock().unwrap_or_else(PoisonError::into_inner);
        signatures.iter().position(|it| *it == signature).map(|index| signatures.swap_remove(index)).is_some()
    };
    // An agent without a key is public: it is talked to by its name.
    let public = service.behaviour.api_key.is_empty() && parameter(&request, "agent_id") == Some(service.agent_id.clone());
    if !known && !public {
        return service.refuse(StatusCode::FORBIDDEN, "the agent is private and the signature is not valid");
    }
    upgrade(request, move |socket| async move { Session::new(service, socket).run().await })
}

fn parameter(request: &Request, name: &str) -> Option<String> {
    let query = request.uri().query().unwrap_or_default();
    form_urlencoded::parse(query.as_bytes()).find(|it| it.0 == name).map(|it| it.1.into_owned())
}

enum Due {
    Event(Value),
    Audio { event: u64, bytes: Vec<u8>, time: Duration },
    Respond(Option<Cause>),
    SpeechOver(u64),
    Ping,
    HangUp,
    Expired,
}

struct Speaking {
    event: u64,
    utterance: &'static Utterance,
    began: Instant,
    generated: Duration,
}

struct Session {
    service: ElevenLabs,
    socket: Socket,
    initiated: bool,
    input: Format,
    output: Format,
    ears: Ears,
    agenda: Agenda<Due>,
    event: u64,
    speaking: Option<Speaking>,
    tools: Vec<(String, String)>,
    ping: u64,
    unanswered_ping: Option<Instant>,
    /// Answers begun.
    answers: usize,
    /// It was told of an earlier conversation and has not gone on with it yet.
    continues: bool,
    /// Speech sent so far.
    spoken: Duration,
    last_input: Instant,
    closed: bool,
}

impl Session {
    fn new(service: ElevenLabs, socket: Socket) -> Self {
        let (input, output) = match service.behaviour.format {
            OutputFormat::Ulaw => (Format::Ulaw8k, Format::Ulaw8k),
            OutputFormat::Pcm16 => (Format::Pcm16(Rate::Hz16000), Format::Pcm16(Rate::Hz16000)),
            OutputFormat::Lies => (Format::Ulaw8k, Format::Pcm16(Rate::Hz24000)),
        };
        let ears = Ears::new(service.behaviour.speech.caller, input);
        Self {
            service,
            socket,
            initiated: false,
            input,
            output,
            ears,
            agenda: Agenda::new(),
            event: 0,
            speaking: None,
            tools: Vec::new(),
            ping: 0,
            unanswered_ping: None,
            answers: 0,
            continues: false,
            spoken: Duration::ZERO,
            last_input: Instant::now(),
            closed: false,
        }
    }

    fn note(&self, moment: Moment) {
        self.service.timeline.note(Party::Provider, moment);
    }

    fn later(&mut self, after: Duration, due: Due) {
        self.agenda.later(after, due);
    }

    async fn send(&mut self, event: Value) {
        if self.socket.send(Message::text(event.to_string())).await.is_err() && !std::mem::replace(&mut self.closed, true) {
            // The client is gone, without a close.
            self.note(Moment::SessionClosed { code: None });
        }
    }

    /// An error event, then the close with the same code.
    async fn fail(&mut self, code: u16, kind: &str, message: &str) {
        self.note(Moment::ClientError { code: kind.into(), detail: message.into() });
        let error =
            json!({"code": code, "error_type": kind, "message": message, "reason": null, "debug_message": null, "details": null});
        self.send(json!({"type": "error", "error_event": error})).await;
        self.close(code, kind).await;
    }

    async fn close(&mut self, code: u16, reason: &str) {
        self.note(Moment::SessionClosed { code: Some(code) });
        let frame = CloseFrame { code: code.into(), reason: reason.to_owned().into() };
        let _ = self.socket.send(Message::Close(Some(frame))).await;
        self.closed = true;
    }

    async fn run(&mut self) {
        self.note(Moment::SessionOpened);
        self.later(self.service.behaviour.session_max, Due::Expired);
        if let Some(after) = self.service.behaviour.hangs_up_after {
            self.later(after, Due::HangUp);
        }
        while !self.closed {
            match self.agenda.next(&mut self.socket).await {
                Arrived::Text(text) => self.receive(&text).await,
                Arrived::Binary => self.fail(1008, "invalid_message", "a binary message").await,
                Arrived::Due(due) => self.happen(due).await,
                Arrived::Closed(code) => return self.note(Moment::SessionClosed { code }),
            }
        }
    }

    async fn receive(&mut self, text: &str) {
        let Ok(message) = serde_json::from_str::<Value>(text) else {
            return self.fail(1008, "invalid_message", "the message is not JSON").await;
        };
        if !self.initiated {
            return match message["type"].as_str() {
                Some("conversation_initiation_client_data") => self.initiate(&message).await,
                _ => self.fail(1008, "invalid_message", "conversation_initiation_client_data must come first").await,
            };
        }
        if let Some(audio) = message["user_audio_chunk"].as_str() {
            return self.hear(audio).await;
        }
        // A pong keeps the socket alive, not the conversation.
        if message["type"] != "pong" {
            self.last_input = Instant::now();
        }
        match message["type"].as_str() {
            Some("pong") => {
                if message["event_id"].as_u64() == Some(self.ping) {
                    self.unanswered_ping = None;
                }
            }
            Some("client_tool_result") => {
                let id = message["tool_call_id"].as_str().unwrap_or_default();
                let Some(result) = message["result"].as_str().filter(|it| !it.is_empty()) else {
                    return self.fail(1008, "missing_fields", "result must be a string that is not empty").await;
                };
                if let Some(index) = self.tools.iter().position(|it| it.0 == id) {
                    let (_, name) = self.tools.swap_remove(index);
                    self.note(Moment::ToolAnswered { name: name.clone(), output: result.into() });
                    self.later(self.service.behaviour.thinking, Due::Respond(Some(Cause::Answered(name))));
                }
            }
            Some("user_message") => {
                let text = message["text"].as_str().unwrap_or_default().to_owned();
                let key = crate::script::first_key(&text);
                let cause = match key {
                    Some(key) => Cause::Key(key),
                    None if std::mem::take(&mut self.continues) => Cause::Continue,
                    None => Cause::Asked,
                };
                self.note(Moment::ToldInText { text });
                self.later(self.service.behaviour.thinking, Due::Respond(Some(cause)));
            }
            Some("contextual_update") => {
                let text = message["text"].as_str().unwrap_or_default();
                let items = text.lines().count().saturating_sub(1);
                self.continues = items > 0;
                self.note(Moment::Replayed { items });
            }
            Some("user_activity" | "feedback" | "mcp_tool_approval_result") => (),
            other => {
                let problem = format!("the type {other:?} is unknown");
                self.fail(1008, "invalid_message", &problem).await;
            }
        }
    }

    async fn initiate(&mut self, message: &Value) {
        let overrides = &message["conversation_config_override"];
        if !overrides.is_null() && !self.service.behaviour.permits_overrides {
            // Overrides are off by default in an agent's settings.
            return self.fail(1008, "override_error", "this agent permits no overrides").await;
        }
        for (part, allowed) in [("agent", &["prompt", "first_message", "language"][..]), ("tts", &["voice_id", "speed"])] {
            let keys = overrides[part].as_object().into_iter().flat_map(|it| it.keys());
            if let Some(unknown) = keys.into_iter().find(|it| !allowed.contains(&it.as_str())) {
                let problem = format!("{part}.{unknown} cannot be overridden");
                return self.fail(1008, "override_error", &problem).await;
            }
        }
        self.initiated = true;
        let name = |format: Format| match format {
            Format::Pcm16(rate) => format!("pcm_{}", rate.hz()),
            Format::Ulaw8k => "ulaw_8000".into(),
            Format::Alaw8k => unreachable!("agents speak no A-law"),
        };
        let announced = if self.service.behaviour.format == OutputFormat::Lies { Format::Ulaw8k } else { self.output };
        let metadata = json!({
            "conversation_id": format!("conv_{}", Uuid::new_v4().simple()),
            "agent_output_audio_format": name(announced), "user_input_audio_format": name(self.input),
        });
        self.note(Moment::SessionConfigured { input: name(self.input), output: name(announced) });
        let setup = self.service.behaviour.setup;
        let event = json!({"type": "conversation_initiation_metadata", "conversation_initiation_metadata_event": metadata});
        self.later(setup, Due::Event(event));
        // The agent opens by itself.
        self.later(setup + self.service.behaviour.thinking, Due::Respond(Some(Cause::Start)));
        self.later(PING_EVERY, Due::Ping);
    }

    async fn hear(&mut self, base64: &str) {
        let mut audio = Vec::new();
        if wire::audio::decode(base64, &mut audio).is_err() {
            return self.fail(1008, "value_error", "the audio is not base64").await;
        }
        self.last_input = Instant::now();
        for turn in self.ears.listen(&audio) {
            match turn {
                Turn::Started => self.interrupt().await,
                Turn::Stopped(heard) => {
                    let name = heard.filter(|it| it.complete).and_then(|it| it.name);
                    self.note(Moment::CallerUnderstood { utterance: name, ms: heard.map_or(0, |it| it.ms) });
                    let text = name.map_or("...", |it| self.service.behaviour.text_of(it));
                    let event = json!({"user_transcript": text, "event_id": self.event});
                    self.send(json!({"type": "user_transcript", "user_transcription_event": event})).await;
                    self.later(self.service.behaviour.thinking, Due::Respond(name.map(|it| Cause::Hear(it.into()))));
                }
            }
        }
    }

    /// The caller speaks: what is being said is void, as far as the agent's own clock says that it was not heard.
    async fn interrupt(&mut self) {
        self.agenda.retain(|it| !matches!(it, Due::Respond(_)));
        let Some(speaking) = self.speaking.take() else { return };
        self.agenda.retain(|it| !matches!(it, Due::Audio { .. } | Due::SpeechOver(_)));
        let moment =
            Moment::Interrupted { utterance: speaking.utterance.name, generated_ms: speaking.generated.as_millis() as usize };
        self.note(moment);
        self.send(json!({"type": "interruption", "interruption_event": {"event_id": speaking.event}})).await;
        let heard = speaking.began.elapsed().as_millis() as usize;
        let text = speaking.utterance.text;
        let keep = text.len() * heard.min(speaking.utterance.ms()) / speaking.utterance.ms().max(1);
        let keep = (0..=keep).rev().find(|it| text.is_char_boundary(*it)).unwrap_or(0);
        let correction =
            json!({"original_agent_response": text, "corrected_agent_response": &text[..keep], "event_id": speaking.event});
        self.later(
            Duration::from_millis(50),
            Due::Event(json!({"type": "agent_response_correction", "agent_response_correction_event": correction})),
        );
    }

    async fn happen(&mut self, due: Due) {
        match due {
            Due::Event(event) => self.send(event).await,
            Due::Audio { event, bytes, time } => {
                self.spoken += time;
                if self.service.behaviour.breaks(self.spoken) {
                    // The socket is gone without a close, as when a network drops out.
                    self.note(Moment::SessionClosed { code: None });
                    self.closed = true;
                    return;
                }
                if let Some(speaking) = &mut self.speaking {
                    speaking.generated += time;
                }
                let mut audio = String::new();
                wire::audio::encode(&bytes, &mut audio);
                self.send(json!({"type": "audio", "audio_event": {"audio_base_64": audio, "event_id": event}})).await;
            }
            Due::SpeechOver(event) => {
                if self.speaking.as_ref().is_some_and(|it| it.event == event) {
                    self.speaking = None;
                }
            }
            Due::Respond(_) if self.answers == self.service.behaviour.answers_max => (),
            Due::Respond(cause) => {
                self.answers += 1;
                self.respond(cause).await;
            }
            Due::Ping => {
                if self.unanswered_ping.is_some_and(|it| it.elapsed() > PONG_TIMEOUT) {
                    return self.fail(1002, "asyncio_timeout", "a ping was not answered").await;
                }
                if self.last_input.elapsed() > INPUT_TIMEOUT {
                    return self.fail(1002, "transport_receive_timeout", "no user input for 60 s").await;
                }
                if self.unanswered_ping.is_none() {
                    self.ping += 1;
                    self.unanswered_ping = Some(Instant::now());
                    self.send(json!({"type": "ping", "ping_event": {"event_id": self.ping, "ping_ms": null}})).await;
                }
                self.later(PING_EVERY, Due::Ping);
            }
            Due::HangUp => self.close(1000, "").await,
            Due::Expired => self.close(1000, "max_duration_exceeded").await,
        }
    }

    async fn respond(&mut self, cause: Option<Cause>) {
        self.event += 1;
        let event = self.event;
        match cause.and_then(|it| self.service.behaviour.reply(&it)) {
            Some(Reply::Say(name)) => {
                let Some(utterance) = self.service.behaviour.utterance(&name) else { return };
                self.note(Moment::SpeaksTo { utterance: utterance.name });
                self.send(json!({"type": "agent_response", "agent_response_event": {"agent_response": utterance.text, "event_id": event}})).await;
                let mut at = Duration::ZERO;
                for (bytes, time) in pieces(utterance, self.output) {
                    self.later(at, Due::Audio { event, bytes, time });
                    at += time.div_f32(self.service.behaviour.burst);
                }
                self.speaking = Some(Speaking { event, utterance, began: Instant::now(), generated: Duration::ZERO });
                self.later(Duration::from_millis(utterance.ms() as u64), Due::SpeechOver(event));
            }
            Some(Reply::Call(name)) => {
                let id = format!("{name}_{}", &Uuid::new_v4().simple().to_string()[..10]);
                self.note(Moment::ToolCalled { name: name.clone() });
                self.tools.push((id.clone(), name.clone()));
                let call = json!({"tool_name": name, "tool_call_id": id, "parameters": {}, "event_id": event});
                self.send(json!({"type": "client_tool_call", "client_tool_call": call})).await;
            }
            None => (),
        }
    }
}
