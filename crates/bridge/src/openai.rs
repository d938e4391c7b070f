//! OpenAI Realtime ⇄ call.
//!
//! Rules of the service that live here: no audio before `session.updated` shows the formats; one response at a time
//! (`response.create` waits for `response.done`); truncating to zero is refused, so an unheard item is deleted; most
//! errors are races and leave the session open.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use call::{Action, EndReason, Input, ItemId, Prompt, ResponseId};
use http::{HeaderMap, HeaderValue, header};
use media::{Format, Rate};
use secrecy::ExposeSecret as _;
use serde_json::value::RawValue;
use tokio_tungstenite::WebSocketStream;
use wire::openai::{
    AudioConfig, AudioFormat, ClientEvent, ErrorBody, InputConfig, NewContent, NewItem, OutputConfig, ResponseConfig,
    ServerEvent, ServerVad, SessionConfig, Tool, Transcription,
};

use crate::Metrics;
use crate::assistant::{Downlink, Fault, Mapper, Uplink, UplinkControl};
use crate::net::{self, BoxIo, Connect, DialError};
use crate::plan::{HistoryItem, OpenAiPlan, ToolDefinition};
use crate::writer::Stalled;

/// Items and responses whose ids are remembered: a turn has two or three.
const REMEMBERED: usize = 32;

/// Errors that are races of a conversation, not faults: the answer came too late, or was there already.
const BENIGN: [&str; 5] = [
    "response_cancel_not_active",
    "item_truncate_invalid_item_id",
    "item_delete_invalid_item_id",
    "unsupported_content_type",
    "input_audio_buffer_commit_empty",
];
/// Errors that no retry heals.
const FATAL: [&str; 7] = [
    "insufficient_quota",
    "billing_hard_limit_reached",
    "account_deactivated",
    "invalid_api_key",
    "model_not_found",
    "beta_api_shape_disabled",
    "missing_required_parameter",
];

pub(crate) struct OpenAi {
    plan: Arc<OpenAiPlan>,
    history: Vec<HistoryItem>,
    tools: Vec<Tool>,
    metrics: Metrics,
    ready: bool,
    downlink: Downlink,
    responses: Numbered<()>,
    items: Numbered<String>,
    /// The item whose audio the downlink is converting.
    speaking: Option<ItemId>,
    active: Option<ResponseId>,
    /// `response.create` was sent and not yet answered.
    asked: bool,
    /// To be asked as soon as nothing is active and every tool has answered.
    wanted: Option<Prompt>,
    /// Calls that wait for their output.
    tools_running: BTreeSet<String>,
    /// Answers that failed in a row.
    failures: u32,
    printed: String,
}

/// Provider ids in the order of appearance, as numbers, each with a value.
struct Numbered<T> {
    next: u64,
    known: VecDeque<(String, u64, T)>,
}

impl<T: Default> Numbered<T> {
    fn new() -> Self {
        Self { next: 1, known: VecDeque::with_capacity(REMEMBERED) }
    }

    fn number(&mut self, id: &str) -> u64 {
        if let Some((_, number, _)) = self.known.iter().rev().find(|it| it.0 == id) {
            return *number;
        }
        if self.known.len() == REMEMBERED {
            self.known.pop_front();
        }
        let number = self.next;
        self.next += 1;
        self.known.push_back((id.to_owned(), number, T::default()));
        number
    }

    fn id(&self, number: u64) -> Option<&str> {
        self.known.iter().find(|it| it.1 == number).map(|it| it.0.as_str())
    }

    fn value(&mut self, number: u64) -> Option<&mut T> {
        self.known.iter_mut().find(|it| it.1 == number).map(|it| &mut it.2)
    }
}

pub(crate) async fn dial(plan: &OpenAiPlan, net: &dyn Connect) -> Result<WebSocketStream<BoxIo>, DialError> {
    let mut url = plan.url.clone();
    url.query_pairs_mut().append_pair("model", &plan.model);
    let mut headers = HeaderMap::new();
    let mut key = HeaderValue::try_from(format!("Bearer {}", plan.api_key.expose_secret())).map_err(|_| DialError::Address {
        host: plan.url.host_str().unwrap_or_default().to_owned(),
        problem: "OPENAI_API_KEY holds characters that no header can carry".into(),
    })?;
    key.set_sensitive(true);
    headers.insert(header::AUTHORIZATION, key);
    net::websocket(net, &url, headers).await
}

impl OpenAi {
    pub(crate) fn new(plan: Arc<OpenAiPlan>, history: Vec<HistoryItem>, tools: Vec<ToolDefinition>, metrics: Metrics) -> Self {
        let end_call = ToolDefinition {
            name: "end_call".into(),
            description: "Ends the call. Call it when the caller has said goodbye or has nothing further to ask.".into(),
            parameters: r#"{"type":"object","properties":{}}"#.into(),
        };
        let tool = |it: ToolDefinition| {
            let parameters = RawValue::from_string(it.parameters).ok()?;
            Some(Tool { name: it.name, description: it.description, parameters })
        };
        Self {
            plan,
            history,
            tools: tools.into_iter().chain([end_call]).filter_map(tool).collect(),
            downlink: Downlink::new(metrics.clone(), "openai"),
            metrics,
            ready: false,
            responses: Numbered::new(),
            items: Numbered::new(),
            speaking: None,
            active: None,
            asked: false,
            wanted: None,
            tools_running: BTreeSet::new(),
            failures: 0,
            printed: String::new(),
        }
    }

    fn send(&mut self, event: &ClientEvent<'_>, outbox: &Uplink) -> Result<(), Stalled> {
        event.print(&mut self.printed);
        outbox.control(UplinkControl::Text(self.printed.clone()))
    }

    fn say(&mut self, role: &str, text: &str, outbox: &Uplink) -> Result<(), Stalled> {
        let content = if role == "assistant" { NewContent::OutputText { text } } else { NewContent::InputText { text } };
        self.send(&ClientEvent::ItemCreate { item: NewItem::Message { role, content: [content] } }, outbox)
    }

    /// Asks for an answer as soon as that is allowed.
    fn ask(&mut self, prompt: Prompt, outbox: &Uplink) -> Result<(), Stalled> {
        self.wanted = Some(prompt);
        self.ask_if_free(outbox)
    }

    fn ask_if_free(&mut self, outbox: &Uplink) -> Result<(), Stalled> {
        if self.active.is_some() || self.asked || !self.tools_running.is_empty() {
            return Ok(());
        }
        let Some(prompt) = self.wanted.take() else { return Ok(()) };
        self.asked = true;
        let plan = self.plan.clone();
        let response = match prompt {
            Prompt::Answer => None,
            Prompt::Greeting => Some(plan.greeting.as_str()),
            Prompt::Continuation => Some(
                "The line dropped for a moment and the caller was told so. Go on where the conversation stopped: do not greet again, \
                 do not repeat what was said, ask or answer what is open.",
            ),
            Prompt::AreYouThere => Some(
                "The caller has been silent for a while. Ask in one short sentence, in the caller's language, whether they are still there.",
            ),
            Prompt::EndingSoon => Some(
                "Tell the caller in one short sentence, in the caller's language, that this call must end in about half a minute.",
            ),
            Prompt::Farewell => Some("Say goodbye to the caller in one short sentence."),
        };
        // Instructions of a response replace those of the session: say both, or the assistant forgets who it is.
        let instructions = response.map(|it| format!("{}\n\n{it}", plan.instructions));
        let response = instructions.as_deref().map(|it| ResponseConfig { instructions: Some(it), tool_choice: Some("none") });
        self.send(&ClientEvent::ResponseCreate { response }, outbox)
    }

    fn configure(&mut self, outbox: &Uplink) -> Result<(), Stalled> {
        let (plan, tools) = (self.plan.clone(), std::mem::take(&mut self.tools));
        let event = ClientEvent::SessionUpdate {
            session: SessionConfig {
                output_modalities: ["audio"],
                instructions: &plan.instructions,
                audio: AudioConfig {
                    input: InputConfig {
                        format: AudioFormat::Pcmu,
                        transcription: plan
                            .transcription_model
                            .as_deref()
                            .map(|model| Transcription { model, language: Some(&plan.language) }),
                        turn_detection: ServerVad {
                            threshold: plan.vad_threshold,
                            prefix_padding_ms: plan.vad_prefix.as_millis() as u32,
                            silence_duration_ms: plan.vad_silence.as_millis() as u32,
                            create_response: true,
                            interrupt_response: true,
                        },
                    },
                    output: OutputConfig { format: AudioFormat::Pcmu, voice: &plan.voice },
                },
                tools: &tools,
                tool_choice: "auto",
            },
        };
        self.send(&event, outbox)
    }

    /// The configuration is in force: take its formats, replay what was said before.
    fn begin(&mut self, session: &wire::openai::Session, outbox: &Uplink) -> Result<(), Fault> {
        let input = format(session.input.as_ref())?;
        let output = format(session.output.as_ref())?;
        outbox.control(UplinkControl::Format(input))?;
        self.downlink.set_format(output);
        tracing::info!(input = %input, output = %self.downlink, "the OpenAI session is configured");
        for item in std::mem::take(&mut self.history) {
            match item {
                HistoryItem::Caller(text) => self.say("user", &text, outbox)?,
                HistoryItem::Assistant(text) => self.say("assistant", &text, outbox)?,
                HistoryItem::Tool { id, name, arguments, output } => {
                    let call = NewItem::FunctionCall { call_id: &id, name: &name, arguments: &arguments };
                    self.send(&ClientEvent::ItemCreate { item: call }, outbox)?;
                    let output = NewItem::FunctionCallOutput { call_id: &id, output: &output };
                    self.send(&ClientEvent::ItemCreate { item: output }, outbox)?;
                }
            }
        }
        self.ready = true;
        Ok(())
    }

    fn error(&mut self, error: &ErrorBody, outbox: &Uplink) -> Result<(), Fault> {
        let name = error.name();
        if name == "session_expired" {
            return Err(Fault::Lost("the session reached its 60 minutes".into()));
        }
        if !self.ready || FATAL.contains(&name) {
            let parameter = error.param.as_deref().map(|it| format!(" ({it})")).unwrap_or_default();
            return Err(Fault::Refused(format!("{name}{parameter}: {}", error.message.as_deref().unwrap_or("no text"))));
        }
        if name == "conversation_already_has_active_response" {
            // Somebody was faster; ask again when that answer is done.
            self.asked = false;
            self.wanted.get_or_insert(Prompt::Answer);
            return Ok(());
        }
        // A truncation one frame too long is answered with `invalid_value`; the item then ends where its audio does.
        if BENIGN.contains(&name) || error.message.as_deref().is_some_and(|it| it.contains("already shorter than")) {
            tracing::debug!(code = name, "a race with the provider");
            return Ok(());
        }
        tracing::warn!(code = name, param = error.param.as_deref(), "OpenAI reported an error");
        self.metrics.faults.get_or_create(&crate::metrics::PeerLabels { peer: "openai" }).inc();
        self.asked = false;
        self.ask_if_free(outbox)?;
        Ok(())
    }

    fn response_done(
        &mut self,
        response: &wire::openai::Response,
        call: &mut dyn FnMut(Input<'_>),
        outbox: &Uplink,
    ) -> Result<(), Fault> {
        if let Some(id) = &response.id {
            let number = ResponseId(self.responses.number(id));
            if self.active == Some(number) {
                self.active = None;
            }
            call(Input::ResponseDone(number));
        }
        if let Some(usage) = &response.usage {
            let count = |it: Option<wire::Number>| it.unwrap_or_default().0;
            call(Input::Usage { input_tokens: count(usage.input_tokens), output_tokens: count(usage.output_tokens) });
        }
        if response.status.as_deref() == Some("failed") {
            // Nothing (more) will be said: the caller hears silence unless something is done.
            self.failures += 1;
            let error = response.status_details.clone().and_then(|it| it.error).unwrap_or_default();
            tracing::warn!(code = error.name(), failures = self.failures, "an answer failed");
            if FATAL.contains(&error.name()) {
                return Err(Fault::Refused(error.name().to_owned()));
            }
            if self.failures > 1 {
                return Err(Fault::Lost("two answers in a row failed".into()));
            }
            self.wanted.get_or_insert(Prompt::Answer);
        } else {
            self.failures = 0;
        }
        self.ask_if_free(outbox)?;
        Ok(())
    }
}

fn format(announced: Option<&AudioFormat>) -> Result<Format, Fault> {
    match announced {
        // A gateway that does not echo formats got what it was asked for; the bytes are checked anyway.
        None | Some(AudioFormat::Pcmu) => Ok(Format::Ulaw8k),
        Some(AudioFormat::Pcm { rate: 24_000 }) => Ok(Format::Pcm16(Rate::Hz24000)),
        Some(AudioFormat::Pcm { rate: 16_000 }) => Ok(Format::Pcm16(Rate::Hz16000)),
        Some(AudioFormat::Pcm { rate: 8_000 }) => Ok(Format::Pcm16(Rate::Hz8000)),
        Some(other) => {
            Err(Fault::Refused(format!("the session insists on {other:?}, expected audio/pcmu or audio/pcm at 8, 16 or 24 kHz")))
        }
    }
}

impl Mapper for OpenAi {
    fn opened(&mut self, outbox: &Uplink) -> Result<(), Fault> {
        Ok(self.configure(outbox)?)
    }

    fn receive(&mut self, text: &str, call: &mut dyn FnMut(Input<'_>), outbox: &Uplink) -> Result<(), Fault> {
        match ServerEvent::parse(text)? {
            ServerEvent::AudioDelta { response_id, item_id, delta } => {
                let response = ResponseId(self.responses.number(&response_id));
                let item = ItemId(self.items.number(&item_id));
                if self.speaking.replace(item) != Some(item) {
                    self.downlink.reset();
                }
                self.downlink.push(&delta)?;
                if !self.downlink.ulaw.is_empty() {
                    call(Input::AssistantAudio { response, item, ulaw: &self.downlink.ulaw });
                }
            }
            ServerEvent::AudioDone { response_id, item_id } => {
                let response = ResponseId(self.responses.number(&response_id));
                let item = ItemId(self.items.number(&item_id));
                if self.speaking == Some(item) {
                    self.downlink.flush();
                    if !self.downlink.ulaw.is_empty() {
                        call(Input::AssistantAudio { response, item, ulaw: &self.downlink.ulaw });
                    }
                }
                call(Input::AssistantAudioDone { response, item });
            }
            ServerEvent::TranscriptDelta { item_id, delta } => {
                let item = self.items.number(&item_id);
                if let Some(words) = self.items.value(item) {
                    words.push_str(&delta);
                    call(Input::AssistantText { item: ItemId(item), text: words });
                }
            }
            ServerEvent::TranscriptDone { item_id, transcript } => {
                let item = ItemId(self.items.number(&item_id));
                call(Input::AssistantText { item, text: &transcript });
            }
            ServerEvent::SpeechStarted => call(Input::CallerSpeechStarted),
            ServerEvent::SpeechStopped => call(Input::CallerSpeechStopped),
            ServerEvent::CallerTranscript { transcript, .. } => call(Input::CallerText(&transcript)),
            ServerEvent::ResponseCreated { response_id } => {
                let response = ResponseId(self.responses.number(&response_id));
                self.active = Some(response);
                self.asked = false;
                call(Input::ResponseStarted(response));
            }
            ServerEvent::OutputItemDone { item, .. } if item.kind.as_deref() == Some("function_call") => {
                if let (Some(id), Some(name)) = (&item.call_id, &item.name)
                    && item.status.as_deref().is_none_or(|it| it == "completed")
                {
                    self.tools_running.insert(id.clone());
                    call(Input::ToolCalled { id, name, arguments: item.arguments.as_deref().unwrap_or("{}") });
                }
            }
            ServerEvent::ResponseDone(response) => self.response_done(&response, call, outbox)?,
            ServerEvent::SessionUpdated(session) if !self.ready => {
                self.begin(&session, outbox)?;
                call(Input::AssistantReady);
            }
            ServerEvent::Error(error) => self.error(&error, outbox)?,
            ServerEvent::Other(kind) => {
                tracing::trace!(kind = &*kind, "an event without consequence");
            }
            ServerEvent::OutputItemDone { .. }
            | ServerEvent::SessionCreated(_)
            | ServerEvent::SessionUpdated(_)
            | ServerEvent::Committed { .. }
            | ServerEvent::CallerTranscriptFailed { .. }
            | ServerEvent::Truncated { .. } => (),
        }
        Ok(())
    }

    fn perform(&mut self, action: &Action, outbox: &Uplink) -> Result<(), Stalled> {
        match action {
            Action::Truncate { item, heard } => {
                self.downlink.reset();
                let Some(item_id) = self.items.id(item.0).map(str::to_owned) else { return Ok(()) };
                let item_id = item_id.as_str();
                let event = if *heard < Duration::from_millis(1) {
                    ClientEvent::ItemDelete { item_id }
                } else {
                    ClientEvent::ItemTruncate { item_id, content_index: 0, audio_end_ms: heard.as_millis() as u64 }
                };
                self.send(&event, outbox)
            }
            Action::CancelResponse(response) => match self.responses.id(response.0).map(str::to_owned) {
                Some(response_id) => self.send(&ClientEvent::ResponseCancel { response_id: &response_id }, outbox),
                None => Ok(()),
            },
            Action::RequestResponse(prompt) => self.ask(*prompt, outbox),
            Action::TellAssistant(text) => {
                self.say("user", text, outbox)?;
                self.ask(Prompt::Answer, outbox)
            }
            Action::AnswerTool { id, output, failed: _, respond } => {
                self.tools_running.remove(id);
                self.send(&ClientEvent::ItemCreate { item: NewItem::FunctionCallOutput { call_id: id, output } }, outbox)?;
                if let Some(prompt) = respond { self.ask(*prompt, outbox) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    fn closed(&self, code: Option<u16>) -> EndReason {
        // 4000: policy, such as a beta shape. Before the session was configured a close is a refusal.
        match code {
            Some(4000..=4999) => EndReason::AssistantRefused,
            _ => EndReason::AssistantLost,
        }
    }

    fn peer(&self) -> &'static str {
        "openai"
    }
}
