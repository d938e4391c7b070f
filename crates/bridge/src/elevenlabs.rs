//! ElevenLabs agent ⇄ call.
//!
//! The agent decides turns, interruptions and formats; nothing is told back about what was heard. An event id numbers a
//! turn: audio up to an interruption's id is void.

use std::sync::Arc;

use call::{Action, EndReason, Input, ItemId, Prompt, ResponseId};
use http::{HeaderMap, HeaderName, HeaderValue};
use media::{Format, Rate};
use secrecy::ExposeSecret as _;
use tokio_tungstenite::WebSocketStream;
use url::Url;
use wire::elevenlabs::{AgentOverride, ClientEvent, Metadata, Override, ServerEvent};

use crate::Metrics;
use crate::assistant::{Downlink, Fault, Mapper, Uplink, UplinkControl};
use crate::net::{self, BoxIo, Connect, DialError};
use crate::plan::{ElevenLabsPlan, HistoryItem};
use crate::writer::Stalled;

pub(crate) struct ElevenLabs {
    plan: Arc<ElevenLabsPlan>,
    history: Vec<HistoryItem>,
    downlink: Downlink,
    speaking: Option<u64>,
    ready: bool,
    printed: String,
}

pub(crate) async fn dial(plan: &ElevenLabsPlan, net: &dyn Connect) -> Result<WebSocketStream<BoxIo>, DialError> {
    let host = plan.base_url.host_str().unwrap_or_default().to_owned();
    let address = |problem: &str| DialError::Address { host: host.clone(), problem: problem.to_owned() };
    let mut url = plan.base_url.clone();
    let url = match &plan.api_key {
        Some(key) => {
            url.set_path("/v1/convai/conversation/get-signed-url");
            url.query_pairs_mut().append_pair("agent_id", &plan.agent_id);
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
            url.query_pairs_mut().append_pair("agent_id", &plan.agent_id);
            url
        }
    };
    net::websocket(net, &url, HeaderMap::new()).await
}

impl ElevenLabs {
    pub(crate) fn new(plan: Arc<ElevenLabsPlan>, history: Vec<HistoryItem>, metrics: Metrics) -> Self {
        Self {
            plan,
            history,
            downlink: Downlink::new(metrics, "elevenlabs"),
            speaking: None,
            ready: false,
            printed: String::new(),
        }
    }

    fn send(&mut self, event: &ClientEvent<'_>, outbox: &Uplink) -> Result<(), Stalled> {
        event.print(&mut self.printed);
        outbox.control(UplinkControl::Text(self.printed.clone()))
    }

    fn begin(&mut self, metadata: &Metadata<'_>, outbox: &Uplink) -> Result<(), Fault> {
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
                    HistoryItem::Tool { name, output, .. } => text.push_str(&format!("Tool {name} answered: {output}\n")),
                }
            }
            self.send(&ClientEvent::ContextualUpdate { text: &text }, outbox)?;
        }
        self.ready = true;
        Ok(())
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
    fn opened(&mut self, outbox: &Uplink) -> Result<(), Fault> {
        let plan = self.plan.clone();
        let resumed = !self.history.is_empty();
        let conversation_config_override = plan.allow_overrides.then(|| Override {
            agent: Some(AgentOverride {
                prompt: None,
                // Empty: the agent does not greet a second time.
                first_message: resumed.then_some(""),
                language: Some(&plan.language),
            }),
            tts: None,
        });
        let dynamic_variables = (!plan.dynamic_variables.is_empty()).then_some(&plan.dynamic_variables);
        Ok(self
            .send(&ClientEvent::ConversationInitiationClientData { conversation_config_override, dynamic_variables }, outbox)?)
    }

    fn receive(&mut self, text: &str, call: &mut dyn FnMut(Input<'_>), outbox: &Uplink) -> Result<(), Fault> {
        match ServerEvent::parse(text)? {
            ServerEvent::Audio { event_id, audio } => {
                if self.speaking.replace(event_id) != Some(event_id) {
                    self.downlink.reset();
                }
                self.downlink.push(&audio)?;
                if !self.downlink.ulaw.is_empty() {
                    call(Input::AssistantAudio {
                        response: ResponseId(event_id),
                        item: ItemId(event_id),
                        ulaw: &self.downlink.ulaw,
                    });
                }
            }
            ServerEvent::Ping { event_id } => self.send(&ClientEvent::Pong { event_id }, outbox)?,
            ServerEvent::Interruption { event_id } => {
                self.downlink.reset();
                call(Input::AssistantInterrupted { through: ResponseId(event_id) });
            }
            ServerEvent::UserTranscript { text } => {
                // The final transcript is the only sign that the caller's turn is over.
                call(Input::CallerSpeechStopped);
                call(Input::CallerText(&text));
            }
            ServerEvent::AgentResponse { event_id, text } => call(Input::AssistantText { item: ItemId(event_id), text: &text }),
            ServerEvent::ClientToolCall { id, name, parameters } => {
                call(Input::ToolCalled { id: &id, name: &name, arguments: parameters });
            }
            ServerEvent::Metadata(metadata) if !self.ready => {
                self.begin(&metadata, outbox)?;
                call(Input::AssistantReady);
            }
            ServerEvent::Error { code: 1008, kind, message } => return Err(Fault::Refused(format!("{kind}: {message}"))),
            ServerEvent::Error { kind, message, .. } if kind != "max_duration_exceeded" => {
                return Err(Fault::Lost(format!("{kind}: {message}")));
            }
            ServerEvent::AgentToolResponse { name } => tracing::debug!(tool = &*name, "the agent ran a tool of its own"),
            ServerEvent::Other(kind) => tracing::trace!(kind = &*kind, "an event without consequence"),
            // What was really heard is known here better than there: the playback ledger cuts the text.
            ServerEvent::AgentResponseCorrection { .. } | ServerEvent::Metadata(_) | ServerEvent::Error { .. } => (),
        }
        Ok(())
    }

    fn perform(&mut self, action: &Action, outbox: &Uplink) -> Result<(), Stalled> {
        match action {
            Action::Truncate { .. } => {
                self.downlink.reset();
                Ok(())
            }
            Action::TellAssistant(text) => self.send(&ClientEvent::UserMessage { text }, outbox),
            Action::RequestResponse(prompt) => match request(*prompt) {
                Some(text) => self.send(&ClientEvent::UserMessage { text }, outbox),
                None => Ok(()),
            },
            Action::AnswerTool { id, output, failed, respond: _ } => {
                let result = if output.is_empty() { "done" } else { output };
                self.send(&ClientEvent::ClientToolResult { tool_call_id: id, result, is_error: *failed }, outbox)
            }
            // The agent speaks, answers and stops by itself.
            _ => Ok(()),
        }
    }

    fn closed(&self, code: Option<u16>) -> EndReason {
        match code {
            Some(1000) if self.ready => EndReason::AssistantHungUp,
            // Closed before the metadata: configuration, not network.
            Some(1008) => EndReason::AssistantRefused,
            _ if !self.ready => EndReason::AssistantRefused,
            _ => EndReason::AssistantLost,
        }
    }

    fn peer(&self) -> &'static str {
        "elevenlabs"
    }
}

/// An agent opens and answers by itself; for the rest it is spoken to as if the caller had written.
fn request(prompt: Prompt) -> Option<&'static str> {
    match prompt {
        Prompt::Greeting | Prompt::Continuation => None,
        Prompt::Answer => Some("(The caller is waiting for your answer.)"),
        Prompt::AreYouThere => {
            Some("(The caller has been silent for a while. Ask in one short sentence whether they are still there.)")
        }
        Prompt::EndingSoon => Some("(Tell the caller in one short sentence that this call must end in about half a minute.)"),
        Prompt::Farewell => Some("(The call must end now. Say goodbye in one short sentence.)"),
    }
}
