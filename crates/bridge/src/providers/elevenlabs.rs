//! ElevenLabs agent ⇄ call.
//!
//! The agent decides turns, interruptions and formats; nothing is told back about what was heard. An event id numbers a
//! turn: audio up to an interruption's id is void.

use std::sync::Arc;
use std::time::Duration;

use crate::socket::Socket;
use call::{Action, EndReason, Input, ItemId, Manner, Prompt, ResponseId};
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue};
use media::{Format, Rate};
use secrecy::ExposeSecret as _;
use url::Url;
use wire::elevenlabs::{AgentOverride, ClientEvent, Metadata, Override, Prompt as PromptOverride, ServerEvent, TtsOverride};

use crate::Metrics;
use crate::assistant::{Beginning, Fault, Mapper, Provider, words};
use crate::downlink::Downlink;
use crate::net::{self, Connect, DialError};
use crate::outbox::Stalled;
use crate::plan::{CallId, ElevenLabsPlan, HistoryItem};
use crate::uplink::{Uplink, UplinkControl};

/// The agent announces no end of its speech; it comes faster than it plays.
const UTTERANCE_GAP: Duration = Duration::from_millis(400);

pub(crate) struct ElevenLabs {
    plan: Arc<ElevenLabsPlan>,
    call: CallId,
    history: Vec<HistoryItem>,
    metrics: Arc<Metrics>,
    first_number: u64,
    downlink: Downlink,
    speaking: Option<u64>,
    /// A second greeting in one call, which could not be forbidden, is not played.
    greeting: Greeting,
    ready: bool,
    /// The conversation has reached the longest duration that the agent's settings allow.
    expired: bool,
}

/// What becomes of the agent's first words.
#[derive(Clone, Copy, PartialEq)]
enum Greeting {
    Played,
    /// The first event that carries sound is dropped.
    Unwanted,
    Dropped(u64),
}

impl ElevenLabsPlan {
    pub(crate) fn manner(&self) -> Manner {
        Manner { decides: true, utterance_gap: Some(UTTERANCE_GAP), session_life: None, session_tokens: None }
    }

    /// What is asked of the agent's settings, by the names that people find there.
    fn overrides(&self) -> String {
        let asked = [
            ("language", self.allow_overrides),
            ("first message", self.allow_overrides || self.first_message.is_some()),
            ("system prompt", self.prompt.is_some()),
            ("voice", self.voice_id.is_some()),
            ("voice speed", self.speed.is_some()),
        ];
        asked.iter().filter(|it| it.1).map(|it| it.0).collect::<Vec<_>>().join(", ")
    }

    async fn open(&self, net: &dyn Connect) -> Result<Socket, DialError> {
        let host = self.base_url.host_str().unwrap_or_default().to_owned();
        let address = |problem: &str| DialError::Address { host: host.clone(), problem: problem.to_owned() };
        let mut url = self.base_url.clone();
        let url = match &self.api_key {
            Some(key) => {
                url.set_path("/v1/convai/conversation/get-signed-url");
                url.query_pairs_mut().append_pair("agent_id", &self.agent_id);
                let mut headers = HeaderMap::new();
                let mut key = HeaderValue::try_from(key.expose_secret())
                    .map_err(|_| address("ELEVENLABS_API_KEY holds characters that no header can carry"))?;
                key.set_sensitive(true);
                headers.insert(HeaderName::from_static("xi-api-key"), key);
                let answer = net::get(net, &url, headers).await?;
                let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap_or_default();
                let signed = answer["signed_url"].as_str().and_then(|it| Url::parse(it).ok());
                signed.ok_or_else(|| DialError::Answer { host: host.clone(), problem: "it holds no `signed_url`".into() })?
            }
            None => {
                let scheme = if url.scheme() == "http" { "ws" } else { "wss" };
                url.set_scheme(scheme).map_err(|()| address("its scheme is neither http nor https"))?;
                url.set_path("/v1/convai/conversation");
                url.query_pairs_mut().append_pair("agent_id", &self.agent_id);
                url
            }
        };
        net::websocket(net, &url, HeaderMap::new()).await
    }
}

impl Provider for ElevenLabsPlan {
    fn peer(&self) -> &'static str {
        "elevenlabs"
    }

    fn account(&self) -> String {
        super::account(&self.base_url, self.api_key.as_ref())
    }

    fn dial(self: Arc<Self>, net: Arc<dyn Connect>) -> BoxFuture<'static, Result<Socket, DialError>> {
        Box::pin(async move { self.open(net.as_ref()).await })
    }

    fn print_audio(&self) -> fn(&mut String, &[u8]) {
        wire::elevenlabs::print_user_audio
    }

    fn mapper(self: Arc<Self>, beginning: Beginning) -> Box<dyn Mapper> {
        Box::new(ElevenLabs::new(self, beginning))
    }
}

impl ElevenLabs {
    fn new(plan: Arc<ElevenLabsPlan>, beginning: Beginning) -> Self {
        let Beginning { call, history, metrics, first_number, tools: _ } = beginning;
        // An agent that has greeted once greets every time.
        let greets = matches!(history.first(), Some(HistoryItem::Assistant(_)));
        Self {
            downlink: Downlink::new(metrics.clone(), "elevenlabs"),
            greeting: if greets && !plan.allow_overrides { Greeting::Unwanted } else { Greeting::Played },
            plan,
            call,
            history,
            metrics,
            first_number,
            speaking: None,
            ready: false,
            expired: false,
        }
    }

    fn response(&self, event_id: u64) -> ResponseId {
        ResponseId(self.first_number + event_id)
    }

    fn item(&self, event_id: u64) -> ItemId {
        ItemId(self.first_number + event_id)
    }

    /// Whether an event belongs to a greeting that is not wanted.
    fn is_unwanted(&mut self, event_id: u64) -> bool {
        match self.greeting {
            Greeting::Played => false,
            Greeting::Unwanted => {
                self.greeting = Greeting::Dropped(event_id);
                true
            }
            Greeting::Dropped(first) => first == event_id,
        }
    }

    fn send(&self, event: &ClientEvent<'_>, outbox: &mut Uplink) -> Result<(), Stalled> {
        let mut text = String::new();
        event.print(&mut text);
        outbox.control(UplinkControl::Text(text))
    }

    fn begin(&mut self, metadata: &Metadata<'_>, outbox: &mut Uplink) -> Result<(), Fault> {
        let output = format(metadata.agent_output_audio_format.as_deref(), "TTS output format")?;
        let input = format(metadata.user_input_audio_format.as_deref(), "user input audio format")?;
        outbox.control(UplinkControl::Format(input))?;
        self.downlink.set_format(output);
        tracing::info!(input = %input, output = %self.downlink, "the ElevenLabs conversation is open");
        if !self.history.is_empty() {
            // There is no way to resume: the new conversation is told what was said.
            let mut text = String::from("The line dropped and this call continues. Do not greet again. So far was said:\n");
            for item in std::mem::take(&mut self.history) {
                match item {
                    HistoryItem::Caller(words) => text.push_str(&format!("Caller: {words}\n")),
                    HistoryItem::Assistant(words) => text.push_str(&format!("You: {words}\n")),
                    HistoryItem::Note(words) => text.push_str(&format!("{words}\n")),
                    HistoryItem::Tool { name, output: Some(output), .. } => {
                        text.push_str(&format!("Tool {name} answered: {output}\n"));
                    }
                    HistoryItem::Tool { output: None, .. } => (),
                }
            }
            self.send(&ClientEvent::ContextualUpdate { text: &text }, outbox)?;
        }
        self.ready = true;
        Ok(())
    }
}

impl ElevenLabs {
    /// What a refusal means, in words that lead to its cure.
    fn explain(&self, kind: &str, message: &str) -> String {
        match kind {
            "override_error" => format!(
                "the agent permits none of, or not all of: {}. Switch them on in the agent's Security settings, or unset \
                 elevenlabs.allow_overrides, .prompt, .first_message, .voice_id and .speed ({message})",
                self.plan.overrides()
            ),
            "missing_dynamic_variable" | "missing_dynamic_variable_transfer" => {
                format!("the agent's prompt uses a variable that it was not given: add it under [variables] ({message})")
            }
            _ => format!("{kind}: {message}"),
        }
    }
}

/// ElevenLabs' name of a format; old versions leave it out and mean PCM at 16 kHz.
fn format(name: Option<&str>, setting: &str) -> Result<Format, Fault> {
    match name {
        Some("ulaw_8000") => Ok(Format::Ulaw8k),
        None | Some("pcm_16000") => Ok(Format::Pcm16(Rate::Hz16000)),
        Some("pcm_8000") => Ok(Format::Pcm16(Rate::Hz8000)),
        Some("pcm_24000") => Ok(Format::Pcm16(Rate::Hz24000)),
        Some(other) => Err(Fault::Refused(format!(
            "the agent's {setting} is {other}: choose ulaw_8000 in the agent's settings (pcm_8000, pcm_16000 and pcm_24000 work too)"
        ))),
    }
}

impl Mapper for ElevenLabs {
    fn opened(&mut self, outbox: &mut Uplink) -> Result<(), Fault> {
        let plan = self.plan.clone();
        let resumed = !self.history.is_empty();
        // Empty: the agent does not greet a second time.
        let first_message = match resumed {
            true => plan.allow_overrides.then_some(""),
            false => plan.first_message.as_deref(),
        };
        let agent = AgentOverride {
            prompt: plan.prompt.as_deref().map(|prompt| PromptOverride { prompt }),
            first_message,
            language: plan.allow_overrides.then_some(plan.language.as_str()),
        };
        let tts = TtsOverride { voice_id: plan.voice_id.as_deref(), speed: plan.speed };
        let has_agent = agent.prompt.is_some() || agent.first_message.is_some() || agent.language.is_some();
        let has_tts = tts.voice_id.is_some() || tts.speed.is_some();
        let conversation_config_override =
            (has_agent || has_tts).then(|| Override { agent: has_agent.then_some(agent), tts: has_tts.then_some(tts) });
        let dynamic_variables = (!plan.dynamic_variables.is_empty()).then_some(&plan.dynamic_variables);
        // What is told about the conversation afterwards is found by it.
        let call = self.call.clone();
        let user_id = Some(&*call.0);
        let event = ClientEvent::ConversationInitiationClientData { conversation_config_override, dynamic_variables, user_id };
        Ok(self.send(&event, outbox)?)
    }

    fn receive(&mut self, text: &str, call: &mut dyn FnMut(Input<'_>), outbox: &mut Uplink) -> Result<(), Fault> {
        match ServerEvent::parse(text)? {
            ServerEvent::Audio { event_id, .. } | ServerEvent::AgentResponse { event_id, .. } if self.is_unwanted(event_id) => {}
            ServerEvent::Audio { event_id, audio } => {
                if self.speaking.replace(event_id) != Some(event_id) {
                    self.downlink.reset();
                }
                let (response, item) = (self.response(event_id), self.item(event_id));
                self.downlink.push(&audio, &mut |ulaw| call(Input::AssistantAudio { response, item, ulaw }))?;
            }
            ServerEvent::Ping { event_id, ms } => {
                self.send(&ClientEvent::Pong { event_id }, outbox)?;
                if let Some(ms) = ms {
                    self.metrics.provider_ping.observe(ms as f64 / 1000.0);
                }
            }
            ServerEvent::Interruption { event_id } => {
                self.downlink.reset();
                call(Input::AssistantInterrupted { through: self.response(event_id) });
            }
            ServerEvent::UserTranscript { text } => {
                // The final transcript is the only sign that the caller's turn is over.
                call(Input::CallerSpeechStopped { item: None });
                // Three dots: there was sound, and no words in it.
                let text = if text.chars().all(|it| it == '.' || it.is_whitespace()) { "" } else { &*text };
                call(Input::CallerText { item: None, text });
            }
            ServerEvent::AgentResponse { event_id, text } => {
                call(Input::AssistantText { item: self.item(event_id), text: &text });
            }
            ServerEvent::ClientToolCall { id, name, parameters } => {
                call(Input::ToolCalled { id: &id, name: &name, arguments: parameters });
            }
            ServerEvent::Metadata(metadata) if !self.ready => {
                self.begin(&metadata, outbox)?;
                call(Input::AssistantReady { opened: false });
            }
            ServerEvent::Error { code: 1008, kind, message } => return Err(Fault::Refused(self.explain(&kind, &message))),
            ServerEvent::Error { kind, .. } if kind == "max_duration_exceeded" => self.expired = true,
            ServerEvent::Error { kind, message, .. } => return Err(Fault::Lost(format!("{kind}: {message}"))),
            ServerEvent::AgentToolResponse { name } => tracing::debug!(tool = &*name, "the agent ran a tool of its own"),
            ServerEvent::Other(kind) => tracing::trace!(kind = &*kind, "an event without consequence"),
            // What was really heard is known here better than there: the playback ledger cuts the text.
            ServerEvent::AgentResponseCorrection { .. } | ServerEvent::Metadata(_) => (),
        }
        Ok(())
    }

    fn perform(&mut self, action: &Action, outbox: &mut Uplink) -> Result<(), Stalled> {
        match action {
            Action::Truncate { .. } => {
                self.downlink.reset();
                Ok(())
            }
            Action::TellAssistant(text) => self.send(&ClientEvent::UserMessage { text }, outbox),
            Action::InformAssistant(text) => self.send(&ClientEvent::ContextualUpdate { text }, outbox),
            Action::RequestResponse(prompt) => match request(prompt) {
                Some(text) => self.send(&ClientEvent::UserMessage { text: &text }, outbox),
                None => Ok(()),
            },
            // The pauses that end a turn are the agent's settings; this only puts its own impatience off.
            Action::ListenPatiently(true) => self.send(&ClientEvent::UserActivity, outbox),
            Action::AnswerTool { id, output, failed, respond: _ } => {
                let result = if output.is_empty() { "done" } else { output };
                self.send(&ClientEvent::ClientToolResult { tool_call_id: id, result, is_error: *failed }, outbox)
            }
            // The agent speaks, answers and stops by itself.
            _ => Ok(()),
        }
    }

    fn closed(&self, code: Option<u16>, said: &str) -> EndReason {
        // Newer servers say so before, older ones only here.
        let expired = self.expired || said.contains("max_duration");
        match code {
            Some(1000) if self.ready && !expired => EndReason::AssistantHungUp,
            // Closed before the metadata: configuration, not network.
            Some(1008) => EndReason::AssistantRefused,
            _ if !self.ready => EndReason::AssistantRefused,
            _ => EndReason::AssistantLost,
        }
    }
}

/// An agent opens and answers by itself; for the rest it is spoken to as if the caller had written.
fn request(prompt: &Prompt) -> Option<String> {
    match prompt {
        Prompt::Greeting => None,
        Prompt::Answer => Some("(The caller is waiting for your answer.)".into()),
        other => words(other, "").map(|it| format!("({it})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_explained_in_the_words_of_the_agents_settings() {
        let plan = ElevenLabsPlan {
            base_url: "https://api.elevenlabs.io".parse().unwrap(),
            agent_id: "agent_1".into(),
            api_key: None,
            allow_overrides: false,
            language: "ro".into(),
            prompt: Some("Be brief.".into()),
            first_message: None,
            voice_id: Some("v1".into()),
            speed: None,
            dynamic_variables: serde_json::Map::new(),
        };
        assert_eq!(plan.overrides(), "system prompt, voice");
        let metrics = Arc::new(Metrics::new(&mut prometheus_client::registry::Registry::default()));
        let beginning = Beginning { call: CallId("c1".into()), history: Vec::new(), tools: Vec::new(), metrics, first_number: 0 };
        let agent = ElevenLabs::new(Arc::new(plan), beginning);
        let told = agent.explain("override_error", "not allowed");
        assert!(told.contains("system prompt, voice. Switch them on in the agent's Security settings"), "{told}");
        assert!(agent.explain("missing_dynamic_variable", "name").contains("add it under [variables]"));
        assert_eq!(agent.explain("quota_exceeded", "none left"), "quota_exceeded: none left");
    }

    #[test]
    fn formats_are_those_of_the_metadata_and_others_are_refused_with_the_fix() {
        // C-17.
        assert_eq!(format(Some("ulaw_8000"), "output").ok(), Some(Format::Ulaw8k));
        assert_eq!(format(None, "output").ok(), Some(Format::Pcm16(Rate::Hz16000)));
        let error = format(Some("mp3_44100_128"), "output format").unwrap_err().to_string();
        assert!(error.contains("mp3_44100_128") && error.contains("choose ulaw_8000"), "{error}");
    }
}
