//! OpenAI Live as a server, as far as its outline goes: one stream of sound each way, no turns, no items; the model
//! listens while it speaks and falls silent by itself when the caller speaks.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use futures::SinkExt as _;
use http::{StatusCode, header};
use media::Format;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::net::Listener;
use crate::provider::{Agenda, Arrived, Behaviour, Ears, Turn, pieces};
use crate::script::{Cause, Reply};
use crate::timeline::{Moment, Party, Timeline};
use crate::web::{Socket, upgrade};

/// The simulated service.
#[derive(Clone)]
pub struct Live {
    pub behaviour: Arc<Behaviour>,
    pub timeline: Timeline,
}

impl Live {
    /// Serves sessions at `/v1/live/sessions` until `stop`.
    pub async fn serve(self, listener: Listener, stop: CancellationToken) {
        let router = Router::new().route("/v1/live/sessions", any(session)).with_state(self);
        let _ = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
    }
}

async fn session(State(service): State<Live>, request: Request) -> Response {
    let bearer = format!("Bearer {}", service.behaviour.api_key);
    if request.headers().get(header::AUTHORIZATION).is_none_or(|it| it != bearer.as_str()) {
        service.timeline.note(Party::Provider, Moment::SessionRefused { reason: "invalid_api_key".into() });
        return StatusCode::UNAUTHORIZED.into_response();
    }
    upgrade(request, move |socket| async move {
        let ears = Ears::new(service.behaviour.speech.caller, Format::Ulaw8k);
        let session = Session {
            service,
            socket,
            ears,
            agenda: Agenda::new(),
            started: false,
            resumes: false,
            speaking: None,
            spoken: Duration::ZERO,
            tools: Vec::new(),
            closed: false,
        };
        session.run().await;
    })
}

enum Due {
    Event(Value),
    Word(Value),
    Audio(Vec<u8>),
    Respond(Cause),
    SpeechOver,
    Expired,
}

struct Session {
    service: Live,
    socket: Socket,
    ears: Ears,
    agenda: Agenda<Due>,
    started: bool,
    /// It was given a history and has said nothing yet.
    resumes: bool,
    /// What is being said.
    speaking: Option<&'static str>,
    /// Speech sent so far.
    spoken: Duration,
    tools: Vec<(String, String)>,
    closed: bool,
}

impl Session {
    fn note(&self, moment: Moment) {
        self.service.timeline.note(Party::Provider, moment);
    }

    async fn send(&mut self, event: Value) {
        if self.socket.send(Message::text(event.to_string())).await.is_err() && !std::mem::replace(&mut self.closed, true) {
            // The client is gone, without a close.
            self.note(Moment::SessionClosed { code: None });
        }
    }

    async fn refuse(&mut self, code: &str, message: &str) {
        self.note(Moment::ClientError { code: code.into(), detail: message.into() });
        self.send(json!({"type": "error", "error": {"code": code, "type": "invalid_request_error", "message": message}})).await;
    }

    async fn close(&mut self, code: u16, reason: &str) {
        self.note(Moment::SessionClosed { code: Some(code) });
        self.send(json!({"type": "session.closed", "reason": reason, "usage": {"seconds": 1}})).await;
        let frame = CloseFrame { code: code.into(), reason: reason.to_owned().into() };
        let _ = self.socket.send(Message::Close(Some(frame))).await;
        self.closed = true;
    }

    async fn run(mut self) {
        self.note(Moment::SessionOpened);
        self.agenda.later(self.service.behaviour.session_max, Due::Expired);
        while !self.closed {
            match self.agenda.next(&mut self.socket).await {
                Arrived::Text(text) => self.receive(&text).await,
                Arrived::Binary => self.close(1003, "content").await,
                Arrived::Due(due) => self.happen(due).await,
                Arrived::Closed(code) => return self.note(Moment::SessionClosed { code }),
            }
        }
    }

    async fn receive(&mut self, text: &str) {
        let Ok(event) = serde_json::from_str::<Value>(text) else {
            return self.refuse("invalid_json", "the message is not JSON").await;
        };
        match event["type"].as_str().unwrap_or_default() {
            "session.start" if !self.started => self.start(&event["session"]).await,
            _ if !self.started => self.refuse("session_not_started", "session.start must come first").await,
            "session.input_audio.append" => self.hear(event["audio"].as_str().unwrap_or_default()).await,
            "session.instructions.append" | "session.thinking.append" | "session.commentary.append" => {
                if event.get("delegation_id").is_none() {
                    return self.refuse("missing_required_parameter", "delegation_id may be null, and must be there").await;
                }
                let text = event["content"].as_str().unwrap_or_default().to_owned();
                let cause = match crate::script::first_key(&text) {
                    Some(key) => Cause::Key(key),
                    None if std::mem::take(&mut self.resumes) => Cause::Continue,
                    None if self.speaking.is_none() && text.contains("Greet") => Cause::Start,
                    None => Cause::Asked,
                };
                self.note(Moment::ToldInText { text });
                if event["type"] == "session.instructions.append" {
                    self.agenda.later(self.service.behaviour.thinking, Due::Respond(cause));
                }
            }
            "response.item.create" => {
                let call = event["item"]["call_id"].as_str().unwrap_or_default();
                let Some(index) = self.tools.iter().position(|it| it.0 == call) else {
                    return self.refuse("invalid_value", "no function was called with this id").await;
                };
                let (_, name) = self.tools.swap_remove(index);
                let output = event["item"]["output"].as_str().unwrap_or_default().to_owned();
                self.note(Moment::ToolAnswered { name: name.clone(), output });
                self.agenda.later(self.service.behaviour.thinking, Due::Respond(Cause::Answered(name)));
            }
            "response.create" | "session.update" => (),
            "session.close" => self.close(1000, "close_requested").await,
            other => {
                let problem = format!("the type `{other}` is unknown");
                self.refuse("invalid_value", &problem).await;
            }
        }
    }

    async fn start(&mut self, session: &Value) {
        let format = &session["audio"]["format"];
        if !session["model"].is_string() || format["type"] != "audio/pcmu" || format["rate"] != 8000 {
            return self.refuse("invalid_value", "model and audio.format with its rate are required").await;
        }
        self.started = true;
        let items = session["input"].as_array().map_or(0, Vec::len);
        self.resumes = items > 0;
        if self.resumes {
            self.note(Moment::Replayed { items });
        }
        self.note(Moment::SessionConfigured { input: "audio/pcmu".into(), output: "audio/pcmu".into() });
        self.send(json!({"type": "session.started", "session": session})).await;
    }

    async fn hear(&mut self, base64: &str) {
        let mut audio = Vec::new();
        if wire::audio::decode(base64, &mut audio).is_err() {
            return self.refuse("invalid_value", "the audio is not base64").await;
        }
        for turn in self.ears.listen(&audio) {
            match turn {
                Turn::Started => {
                    self.agenda.retain(|it| !matches!(it, Due::Audio(_) | Due::Word(_) | Due::Respond(_) | Due::SpeechOver));
                    if let Some(utterance) = self.speaking.take() {
                        self.note(Moment::Interrupted { utterance, generated_ms: 0 });
                    }
                }
                Turn::Stopped(heard) => {
                    let name = heard.filter(|it| it.complete).and_then(|it| it.name);
                    self.note(Moment::CallerUnderstood { utterance: name, ms: heard.map_or(0, |it| it.ms) });
                    if let Some(name) = name {
                        let delta = self.service.behaviour.text_of(name);
                        self.send(json!({"type": "session.input_transcript.delta", "delta": delta, "start_ms": 0, "end_ms": 0}))
                            .await;
                        self.agenda.later(self.service.behaviour.thinking, Due::Respond(Cause::Hear(name.into())));
                    }
                }
            }
        }
    }

    async fn happen(&mut self, due: Due) {
        match due {
            Due::Event(event) | Due::Word(event) => self.send(event).await,
            Due::Audio(bytes) => {
                self.spoken += Duration::from_millis(bytes.len() as u64 / 8);
                if self.service.behaviour.breaks(self.spoken) {
                    // The socket is gone without a close, as when a network drops out.
                    self.note(Moment::SessionClosed { code: None });
                    self.closed = true;
                    return;
                }
                let mut delta = String::new();
                wire::audio::encode(&bytes, &mut delta);
                self.send(json!({"type": "session.output_audio.delta", "delta": delta})).await;
            }
            Due::SpeechOver => self.speaking = None,
            Due::Respond(cause) => self.respond(&cause),
            Due::Expired => self.close(1001, "expired").await,
        }
    }

    /// Speech is sent as fast as it plays: nothing has to be thrown away when the caller speaks.
    fn respond(&mut self, cause: &Cause) {
        match self.service.behaviour.reply(cause) {
            Some(Reply::Say(name)) => {
                let Some(utterance) = self.service.behaviour.utterance(&name) else { return };
                self.note(Moment::SpeaksTo { utterance: utterance.name });
                self.speaking = Some(utterance.name);
                // The words come in step with their sound.
                let (words, whole) = (utterance.text.split_inclusive(' '), utterance.text.len().max(1));
                let mut said = 0;
                for word in words {
                    let begins = Duration::from_millis((utterance.ms() * said / whole) as u64);
                    let delta = json!({"type": "session.output_transcript.delta", "delta": word, "start_ms": 0, "end_ms": 0});
                    self.agenda.later(begins, Due::Word(delta));
                    said += word.len();
                }
                let mut at = Duration::ZERO;
                for (bytes, time) in pieces(utterance, Format::Ulaw8k) {
                    self.agenda.later(at, Due::Audio(bytes));
                    at += time;
                }
                self.agenda.later(at, Due::SpeechOver);
            }
            Some(Reply::Call(name)) => {
                let id = format!("call_{}", Uuid::new_v4().simple());
                self.note(Moment::ToolCalled { name: name.clone() });
                self.tools.push((id.clone(), name.clone()));
                let item =
                    json!({"type": "function_call", "status": "completed", "call_id": id, "name": name, "arguments": "{}"});
                let event = json!({"type": "response.output_item.done", "item": item});
                self.agenda.later(Duration::ZERO, Due::Event(json!({"type": "response.event", "event": event})));
            }
            None => (),
        }
    }
}
