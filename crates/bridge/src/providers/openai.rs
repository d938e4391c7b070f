//! OpenAI Realtime ⇄ call.
//!
//! Rules of the service that live here: no audio before `session.updated` shows the formats; one response at a time
//! (`response.create` waits for `response.done`); truncating to zero is refused, so an unheard item is deleted; most
//! errors are races and leave the session open.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::socket::Socket;
use call::{Action, EndReason, Input, ItemId, Manner, Prompt, ResponseId};
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use media::{Format, Rate};
use secrecy::ExposeSecret as _;
use serde_json::value::RawValue;
use url::Url;
use wire::openai::{
    AudioConfig, AudioFormat, ClientEvent, ErrorBody, InputConfig, NewContent, NewItem, NoiseReduction, OutputConfig, Reasoning,
    ResponseConfig, ServerEvent, SessionConfig, Tool, Transcription, Truncation, TurnDetection, Voice,
};

use super::end_call;
use crate::Metrics;
use crate::assistant::{Beginning, Fault, Mapper, Provider, words};
use crate::downlink::Downlink;
use crate::metrics::QuotaLabels;
use crate::net::{self, Connect, DialError};
use crate::outbox::Stalled;
use crate::plan::{HistoryItem, OpenAiPlan, ToolDefinition, Turns};
use crate::uplink::{Uplink, UplinkControl};

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
/// Sessions end after 60 minutes without warning; ours are replaced at a pause after this long.
const SESSION_LIFE: Duration = Duration::from_secs(55 * 60);
/// Silence that ends a turn while the caller spells or reads out a number: people stop between groups.
const PATIENT_SILENCE_MS: u32 = 1500;
/// Errors in a row, with nothing said between them, after which a session counts as poisoned.
const ERRORS_MAX: u32 = 2;

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
    metrics: Arc<Metrics>,
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
    /// Errors since the last answer began.
    errors: u32,
    /// The caller is given time to spell.
    patient: bool,
}

/// Provider ids in the order of appearance, as numbers, each with a value.
struct Numbered<T> {
    next: u64,
    known: VecDeque<(String, u64, T)>,
    latest: Latest,
}

/// The id that was asked for last, unless it is longer than the service's are. The next one is the same, fifty times a second;
/// to see that costs no look at memory that is cold by then.
#[derive(Default)]
struct Latest {
    id: [u8; 32],
    len: usize,
    number: u64,
}

impl Latest {
    fn number(&self, id: &str) -> Option<u64> {
        (self.len > 0 && &self.id[..self.len] == id.as_bytes()).then_some(self.number)
    }

    fn note(&mut self, id: &str, number: u64) {
        self.len = 0;
        if let Some(place) = self.id.get_mut(..id.len()) {
            place.copy_from_slice(id.as_bytes());
            (self.len, self.number) = (id.len(), number);
        }
    }
}

impl<T: Default> Numbered<T> {
    fn new(first: u64) -> Self {
        Self { next: first, known: VecDeque::new(), latest: Latest::default() }
    }

    fn number(&mut self, id: &str) -> u64 {
        if let Some(number) = self.latest.number(id) {
            return number;
        }
        let known = self.known.iter().rev().find(|it| it.0 == id).map(|it| it.1);
        let number = known.unwrap_or_else(|| self.add(id));
        self.latest.note(id, number);
        number
    }

    fn add(&mut self, id: &str) -> u64 {
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

impl OpenAiPlan {
    pub(crate) fn manner(&self) -> Manner {
        Manner {
            decides: self.decides,
            utterance_gap: None,
            session_life: Some(SESSION_LIFE),
            session_tokens: self.session_tokens,
        }
    }

    /// Whether this is Azure's form of the service, which has its own header for keys.
    fn is_azure(&self) -> bool {
        self.url.host_str().is_some_and(|it| it.ends_with(".azure.com") || it.ends_with(".azure.us") || it.ends_with(".azure.cn"))
    }

    /// The address of a session. One that names a deployment or a model already is used as it is.
    fn address(&self) -> Url {
        let mut url = self.url.clone();
        if !url.query_pairs().any(|(name, _)| matches!(&*name, "model" | "deployment")) {
            url.query_pairs_mut().append_pair("model", &self.model);
        }
        url
    }

    fn key_header(&self) -> Result<(HeaderName, HeaderValue), DialError> {
        let (name, value) = match self.is_azure() {
            true => (HeaderName::from_static("api-key"), self.api_key.expose_secret().to_owned()),
            false => (header::AUTHORIZATION, format!("Bearer {}", self.api_key.expose_secret())),
        };
        let mut value = HeaderValue::try_from(value).map_err(|_| DialError::Address {
            host: self.url.host_str().unwrap_or_default().to_owned(),
            problem: "OPENAI_API_KEY holds characters that no header can carry".into(),
        })?;
        value.set_sensitive(true);
        Ok((name, value))
    }
}

impl Provider for OpenAiPlan {
    fn peer(&self) -> &'static str {
        "openai"
    }

    fn account(&self) -> String {
        super::account(&self.url, Some(&self.api_key))
    }

    fn dial(self: Arc<Self>, net: Arc<dyn Connect>) -> BoxFuture<'static, Result<Socket, DialError>> {
        Box::pin(async move {
            let headers = HeaderMap::from_iter([self.key_header()?]);
            net::websocket(net.as_ref(), &self.address(), headers).await
        })
    }

    fn print_audio(&self) -> fn(&mut String, &[u8]) {
        wire::openai::print_append
    }

    fn mapper(self: Arc<Self>, beginning: Beginning) -> Box<dyn Mapper> {
        Box::new(OpenAi::new(self, beginning))
    }
}

/// The tools of a session, `end_call` among them. Whose schema is not JSON is left out.
pub(super) fn tools(definitions: Vec<ToolDefinition>) -> Vec<Tool> {
    let tool = |it: ToolDefinition| {
        let parameters = RawValue::from_string(it.parameters).ok()?;
        Some(Tool { name: it.name, description: it.description, parameters })
    };
    definitions.into_iter().chain([end_call()]).filter_map(tool).collect()
}

impl OpenAi {
    fn new(plan: Arc<OpenAiPlan>, beginning: Beginning) -> Self {
        let Beginning { call: _, history, tools: definitions, metrics, first_number } = beginning;
        Self {
            plan,
            history,
            tools: tools(definitions),
            downlink: Downlink::new(metrics.clone(), "openai"),
            metrics,
            ready: false,
            responses: Numbered::new(first_number),
            items: Numbered::new(first_number),
            speaking: None,
            active: None,
            asked: false,
            wanted: None,
            tools_running: BTreeSet::new(),
            failures: 0,
            errors: 0,
            patient: false,
        }
    }

    fn send(&self, event: &ClientEvent<'_>, outbox: &mut Uplink) -> Result<(), Stalled> {
        let mut text = String::new();
        event.print(&mut text);
        outbox.control(UplinkControl::Text(text))
    }

    fn say(&mut self, role: &str, text: &str, outbox: &mut Uplink) -> Result<(), Stalled> {
        let content = if role == "assistant" { NewContent::OutputText { text } } else { NewContent::InputText { text } };
        self.send(&ClientEvent::ItemCreate { item: NewItem::Message { role, content: [content] } }, outbox)
    }

    /// Asks for an answer as soon as that is allowed.
    fn ask(&mut self, prompt: Prompt, outbox: &mut Uplink) -> Result<(), Stalled> {
        self.wanted = Some(prompt);
        self.ask_if_free(outbox)
    }

    fn ask_if_free(&mut self, outbox: &mut Uplink) -> Result<(), Stalled> {
        if self.active.is_some() || self.asked || !self.tools_running.is_empty() {
            return Ok(());
        }
        let Some(prompt) = self.wanted.take() else { return Ok(()) };
        self.asked = true;
        let plan = self.plan.clone();
        // Instructions of a response replace those of the session: say both, or the assistant forgets who it is.
        let instructions = words(&prompt, &plan.greeting).map(|it| format!("{}\n\n{it}", plan.instructions));
        let response = ResponseConfig {
            instructions: instructions.as_deref(),
            tool_choice: instructions.is_some().then_some("none"),
            output_modalities: Some(["audio"]),
        };
        self.send(&ClientEvent::ResponseCreate { response: Some(response) }, outbox)
    }

    fn turn_detection(plan: &OpenAiPlan, patient: bool) -> TurnDetection<'_> {
        let (create_response, interrupt_response) = (plan.decides, plan.decides);
        match &plan.turns {
            Turns::Server { threshold, prefix, silence } => {
                let silence = silence.as_millis() as u32;
                TurnDetection::ServerVad {
                    threshold: *threshold,
                    prefix_padding_ms: prefix.as_millis() as u32,
                    silence_duration_ms: if patient { silence.max(PATIENT_SILENCE_MS) } else { silence },
                    create_response,
                    interrupt_response,
                }
            }
            Turns::Semantic { eagerness } => TurnDetection::SemanticVad {
                eagerness: if patient { "low" } else { eagerness },
                create_response,
                interrupt_response,
            },
        }
    }

    fn configure(&mut self, outbox: &mut Uplink) -> Result<(), Stalled> {
        let (plan, tools) = (self.plan.clone(), std::mem::take(&mut self.tools));
        let transcription = plan.transcription.as_ref().map(|it| Transcription {
            model: &it.model,
            language: Some(&plan.language),
            prompt: it.prompt.as_deref(),
            keywords: &it.keywords,
        });
        let event = ClientEvent::SessionUpdate {
            session: Box::new(SessionConfig {
                output_modalities: Some(["audio"]),
                instructions: Some(&plan.instructions),
                audio: AudioConfig {
                    input: Some(InputConfig {
                        format: Some(AudioFormat::Pcmu),
                        transcription: Some(transcription),
                        noise_reduction: plan.noise_reduction.as_deref().map(|kind| NoiseReduction { kind }),
                        turn_detection: Some(Self::turn_detection(&plan, false)),
                    }),
                    output: Some(OutputConfig { format: AudioFormat::Pcmu, voice: Voice::new(&plan.voice), speed: plan.speed }),
                },
                tools: Some(&tools),
                tool_choice: Some(&plan.tool_choice),
                parallel_tool_calls: plan.parallel_tool_calls,
                reasoning: plan.reasoning_effort.as_deref().map(|effort| Reasoning { effort }),
                max_output_tokens: plan.max_output_tokens,
                truncation: plan.retention_ratio.map(|retention_ratio| Truncation { retention_ratio }),
                tracing: plan.tracing.then_some("auto"),
            }),
        };
        self.send(&event, outbox)
    }

    /// Waits longer for the end of a turn, or as usual again.
    fn listen_patiently(&mut self, patient: bool, outbox: &mut Uplink) -> Result<(), Stalled> {
        if self.patient == patient || !self.ready {
            return Ok(());
        }
        self.patient = patient;
        let plan = self.plan.clone();
        let input = InputConfig { turn_detection: Some(Self::turn_detection(&plan, patient)), ..InputConfig::default() };
        let session = SessionConfig { audio: AudioConfig { input: Some(input), output: None }, ..SessionConfig::default() };
        self.send(&ClientEvent::SessionUpdate { session: Box::new(session) }, outbox)
    }

    /// The configuration is in force: take its formats, replay what was said before.
    fn begin(&mut self, session: &wire::openai::Session, outbox: &mut Uplink) -> Result<(), Fault> {
        let input = format(session.input.as_ref())?;
        let output = format(session.output.as_ref())?;
        outbox.control(UplinkControl::Format(input))?;
        self.downlink.set_format(output);
        tracing::info!(input = %input, output = %self.downlink, "the OpenAI session is configured");
        for item in std::mem::take(&mut self.history) {
            match item {
                HistoryItem::Caller(text) => self.say("user", &text, outbox)?,
                HistoryItem::Assistant(text) => self.say("assistant", &text, outbox)?,
                HistoryItem::Note(text) => self.say("system", &text, outbox)?,
                // One that still runs is told when it has answered.
                HistoryItem::Tool { output: None, .. } => (),
                HistoryItem::Tool { id, name, arguments, output: Some(output) } => {
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

    fn error(&mut self, error: &ErrorBody, outbox: &mut Uplink) -> Result<(), Fault> {
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
        self.errors += 1;
        if self.errors >= ERRORS_MAX {
            return Err(Fault::Lost("the session answers everything with errors".into()));
        }
        self.asked = false;
        self.ask_if_free(outbox)?;
        Ok(())
    }

    fn response_done(
        &mut self,
        response: &wire::openai::Response,
        call: &mut dyn FnMut(Input<'_>),
        outbox: &mut Uplink,
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
            call(Input::Usage {
                input_tokens: count(usage.input_tokens),
                cached_tokens: count(usage.input_token_details.as_ref().and_then(|it| it.cached_tokens)),
                output_tokens: count(usage.output_tokens),
            });
        }
        if response.status.as_deref() == Some("failed") || response.is_text_only() {
            // Nothing (more) will be said: the caller hears silence unless something is done.
            self.failures += 1;
            let error = response.status_details.clone().and_then(|it| it.error).unwrap_or_default();
            let mut code = error.name();
            if response.is_text_only() {
                code = "text_only";
                // A model imitates what it finds in its conversation.
                for item_id in response.output.iter().filter_map(|it| it.id.as_deref()) {
                    self.send(&ClientEvent::ItemDelete { item_id }, outbox)?;
                }
            }
            tracing::warn!(code, failures = self.failures, "an answer failed");
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
    fn opened(&mut self, outbox: &mut Uplink) -> Result<(), Fault> {
        Ok(self.configure(outbox)?)
    }

    fn receive(&mut self, text: &str, call: &mut dyn FnMut(Input<'_>), outbox: &mut Uplink) -> Result<(), Fault> {
        match ServerEvent::parse(text)? {
            ServerEvent::AudioDelta { response_id, item_id, delta } => {
                let response = ResponseId(self.responses.number(&response_id));
                let item = ItemId(self.items.number(&item_id));
                if self.speaking.replace(item) != Some(item) {
                    self.downlink.reset();
                }
                self.downlink.push(&delta, &mut |ulaw| call(Input::AssistantAudio { response, item, ulaw }))?;
            }
            ServerEvent::AudioDone { response_id, item_id } => {
                let response = ResponseId(self.responses.number(&response_id));
                let item = ItemId(self.items.number(&item_id));
                if self.speaking == Some(item) {
                    self.downlink.flush(&mut |ulaw| call(Input::AssistantAudio { response, item, ulaw }));
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
            ServerEvent::SpeechStopped { item_id } => {
                let item = item_id.map(|it| ItemId(self.items.number(&it)));
                call(Input::CallerSpeechStopped { item });
            }
            ServerEvent::CallerTranscript { item_id, transcript } => {
                let item = Some(ItemId(self.items.number(&item_id)));
                call(Input::CallerText { item, text: &transcript });
            }
            // There was sound, and no words in it.
            ServerEvent::CallerTranscriptFailed { item_id } => {
                let item = Some(ItemId(self.items.number(&item_id)));
                call(Input::CallerText { item, text: "" });
            }
            ServerEvent::RateLimits(limits) => {
                for it in limits.iter().filter(|it| it.limit > 0.0) {
                    let name = if it.name == "requests" { "requests" } else { "tokens" };
                    self.metrics.quota_left.get_or_create(&QuotaLabels { name }).set(it.remaining / it.limit);
                }
            }
            ServerEvent::ResponseCreated { response_id } => {
                let response = ResponseId(self.responses.number(&response_id));
                self.active = Some(response);
                self.asked = false;
                self.errors = 0;
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
                call(Input::AssistantReady { opened: false });
            }
            ServerEvent::Error(error) => self.error(&error, outbox)?,
            ServerEvent::Other(kind) => {
                tracing::trace!(kind = &*kind, "an event without consequence");
            }
            ServerEvent::OutputItemDone { .. }
            | ServerEvent::SessionCreated(_)
            | ServerEvent::SessionUpdated(_)
            | ServerEvent::Committed { .. }
            | ServerEvent::Truncated { .. } => (),
        }
        Ok(())
    }

    fn perform(&mut self, action: &Action, outbox: &mut Uplink) -> Result<(), Stalled> {
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
            Action::RequestResponse(prompt) => self.ask(prompt.clone(), outbox),
            Action::InformAssistant(text) => self.say("system", text, outbox),
            Action::ListenPatiently(patient) => self.listen_patiently(*patient, outbox),
            Action::TellAssistant(text) => {
                self.say("user", text, outbox)?;
                self.ask(Prompt::Answer, outbox)
            }
            Action::AnswerTool { id, output, failed: _, respond } => {
                self.tools_running.remove(id);
                self.send(&ClientEvent::ItemCreate { item: NewItem::FunctionCallOutput { call_id: id, output } }, outbox)?;
                respond.clone().map_or(Ok(()), |it| self.ask(it, outbox))
            }
            _ => Ok(()),
        }
    }

    fn closed(&self, code: Option<u16>, _: &str) -> EndReason {
        // 4000: policy, such as a beta shape. Before the session was configured a close is a refusal.
        match code {
            Some(4000..=4999) => EndReason::AssistantRefused,
            _ => EndReason::AssistantLost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_keep_their_numbers() {
        let mut ids = Numbered::<()>::new(7);
        let long = "item_".repeat(20);
        for (id, number) in [("a", 7), ("a", 7), ("b", 8), (&long, 9), (&long, 9), ("a", 7), ("", 10), ("", 10), ("ab", 11)] {
            assert_eq!(ids.number(id), number, "{id}");
        }
        (0..REMEMBERED).for_each(|it| _ = ids.number(&it.to_string()));
        assert_eq!(ids.number("a"), 12 + REMEMBERED as u64, "it was forgotten");
    }

    fn plan(url: &str, key: &str) -> OpenAiPlan {
        OpenAiPlan::new(url.parse().unwrap(), key.to_owned().into(), "gpt-realtime-2.1")
    }

    #[test]
    fn addresses_and_keys_of_the_service_its_azure_form_and_compatible_ones() {
        // Azure has its own header and names a deployment, or a model in its newer form.
        for (url, address, header) in [
            ("wss://api.openai.com/v1/realtime", "wss://api.openai.com/v1/realtime?model=gpt-realtime-2.1", "authorization"),
            (
                "wss://we.openai.azure.com/openai/v1/realtime",
                "wss://we.openai.azure.com/openai/v1/realtime?model=gpt-realtime-2.1",
                "api-key",
            ),
            (
                "wss://we.openai.azure.com/openai/realtime?api-version=2025-04-01-preview&deployment=voice",
                "wss://we.openai.azure.com/openai/realtime?api-version=2025-04-01-preview&deployment=voice",
                "api-key",
            ),
            ("ws://localhost:9000/realtime?model=own", "ws://localhost:9000/realtime?model=own", "authorization"),
        ] {
            let plan = plan(url, "k-1");
            assert_eq!(plan.address().as_str(), address);
            let (name, value) = plan.key_header().unwrap();
            assert_eq!(name, header);
            assert!(value.is_sensitive() && value.to_str().unwrap().ends_with("k-1"));
        }
        let error = plan("wss://api.openai.com/v1/realtime", "a\nb").key_header().unwrap_err().to_string();
        assert!(error.contains("OPENAI_API_KEY") && !error.contains("a\nb"), "{error}");
    }
}
