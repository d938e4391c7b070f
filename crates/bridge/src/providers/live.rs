//! OpenAI Live ⇄ call.
//!
//! There are no turns, items or answers: the model listens while it speaks and settles the floor by itself. What it says
//! between two utterances of the caller's is one answer here, which is as much as a transcript needs. Functions are the
//! business of a text model behind the voice.

use std::sync::Arc;
use std::time::Duration;

use crate::socket::Socket;
use call::{Action, EndReason, Input, ItemId, Manner, ResponseId};
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, header};
use media::Format;
use secrecy::ExposeSecret as _;
use wire::live::{Audio, ClientEvent, Delegation, FunctionOutput, Message, Output, Responses, ServerEvent, Session};
use wire::openai::Tool;

use crate::assistant::{Beginning, Fault, Mapper, Provider, words};
use crate::downlink::Downlink;
use crate::net::{self, Connect, DialError};
use crate::outbox::Stalled;
use crate::plan::{HistoryItem, LivePlan};
use crate::uplink::{Uplink, UplinkControl};

/// Speech that does not go on for so long is over: nothing announces its end, and it comes as it plays, in pieces of any
/// length.
const UTTERANCE_GAP: Duration = Duration::from_secs(1);
/// The service's limit for one instruction is 500 tokens; a token has three characters or more.
const CONTENT_MAX: usize = 1500;

pub(crate) struct Live {
    plan: Arc<LivePlan>,
    history: Vec<HistoryItem>,
    tools: Vec<Tool>,
    downlink: Downlink,
    /// Number of the answer that is being given, and its words.
    answer: u64,
    said: String,
    /// The caller's words since the last answer.
    heard: String,
    ready: bool,
    billed_seconds: u64,
}

impl LivePlan {
    pub(crate) fn manner(&self) -> Manner {
        Manner { decides: true, utterance_gap: Some(UTTERANCE_GAP), session_life: None, session_tokens: None }
    }
}

impl Provider for LivePlan {
    fn peer(&self) -> &'static str {
        "openai-live"
    }

    fn account(&self) -> String {
        super::account(&self.url, Some(&self.api_key))
    }

    fn dial(self: Arc<Self>, net: Arc<dyn Connect>) -> BoxFuture<'static, Result<Socket, DialError>> {
        Box::pin(async move {
            let bearer = format!("Bearer {}", self.api_key.expose_secret());
            let mut key = HeaderValue::try_from(bearer).map_err(|_| DialError::Address {
                host: self.url.host_str().unwrap_or_default().to_owned(),
                problem: "OPENAI_API_KEY holds characters that no header can carry".into(),
            })?;
            key.set_sensitive(true);
            net::websocket(net.as_ref(), &self.url, HeaderMap::from_iter([(header::AUTHORIZATION, key)])).await
        })
    }

    fn print_audio(&self) -> fn(&mut String, &[u8]) {
        wire::live::print_append
    }

    fn mapper(self: Arc<Self>, beginning: Beginning) -> Box<dyn Mapper> {
        let Beginning { call: _, history, tools, metrics, first_number } = beginning;
        Box::new(Live {
            plan: self,
            history,
            tools: super::openai::tools(tools),
            downlink: Downlink::new(metrics, "openai-live"),
            answer: first_number + 1,
            said: String::new(),
            heard: String::new(),
            ready: false,
            billed_seconds: 0,
        })
    }
}

impl Live {
    fn send(&self, event: &ClientEvent<'_>, outbox: &mut Uplink) -> Result<(), Stalled> {
        let mut text = String::new();
        event.print(&mut text);
        outbox.control(UplinkControl::Text(text))
    }

    /// Tells the voice what to do.
    fn instruct(&mut self, words: &str, outbox: &mut Uplink) -> Result<(), Stalled> {
        self.begin_answer();
        let end = (0..=words.len().min(CONTENT_MAX)).rev().find(|it| words.is_char_boundary(*it)).unwrap_or(0);
        self.send(&ClientEvent::InstructionsAppend { content: &words[..end], delegation_id: None }, outbox)
    }

    /// The assistant speaks after the caller has: the caller's words are whole, and an answer begins.
    fn caller_is_done(&mut self, call: &mut dyn FnMut(Input<'_>)) {
        if !self.heard.is_empty() {
            call(Input::CallerSpeechStopped { item: None });
            call(Input::CallerText { item: None, text: &std::mem::take(&mut self.heard) });
            self.begin_answer();
        }
    }

    /// What is said from now on is another answer.
    fn begin_answer(&mut self) {
        self.answer += 1;
        self.said.clear();
        self.downlink.reset();
    }
}

impl Mapper for Live {
    fn opened(&mut self, outbox: &mut Uplink) -> Result<(), Fault> {
        let (plan, history, tools) = (self.plan.clone(), std::mem::take(&mut self.history), std::mem::take(&mut self.tools));
        let input = history.iter().filter_map(|it| match it {
            HistoryItem::Caller(content) => Some(Message { role: "user", content }),
            HistoryItem::Note(content) => Some(Message { role: "system", content }),
            HistoryItem::Assistant(content) => Some(Message { role: "assistant", content }),
            // The model behind the voice keeps no functions of an earlier session.
            HistoryItem::Tool { .. } => None,
        });
        let session = Session {
            model: &plan.model,
            instructions: &plan.instructions,
            input: input.collect(),
            audio: Audio { format: wire::live::Format { kind: "audio/pcmu", rate: 8000 }, output: Output { voice: &plan.voice } },
            delegation: Delegation {
                responses: Responses { model: &plan.thinking_model, instructions: &plan.instructions, tools: &tools },
            },
        };
        Ok(self.send(&ClientEvent::Start { session }, outbox)?)
    }

    fn receive(&mut self, text: &str, call: &mut dyn FnMut(Input<'_>), outbox: &mut Uplink) -> Result<(), Fault> {
        match ServerEvent::parse(text)? {
            ServerEvent::Started if !self.ready => {
                self.ready = true;
                outbox.control(UplinkControl::Format(Format::Ulaw8k))?;
                self.downlink.set_format(Format::Ulaw8k);
                tracing::info!("the Live session is open");
                call(Input::AssistantReady { opened: false });
            }
            ServerEvent::Audio { delta } => {
                self.caller_is_done(call);
                let (response, item) = (ResponseId(self.answer), ItemId(self.answer));
                self.downlink.push(&delta, &mut |ulaw| call(Input::AssistantAudio { response, item, ulaw }))?;
            }
            ServerEvent::CallerText { delta } => self.heard.push_str(&delta),
            ServerEvent::AssistantText { delta } => {
                self.caller_is_done(call);
                self.said.push_str(&delta);
                call(Input::AssistantText { item: ItemId(self.answer), text: &self.said });
            }
            ServerEvent::FunctionCall { id, name, arguments } => {
                self.begin_answer();
                call(Input::ToolCalled { id: &id, name: &name, arguments: &arguments });
            }
            ServerEvent::Usage { seconds } => {
                self.billed_seconds = seconds;
            }
            ServerEvent::Closed { reason } => {
                tracing::info!(reason = &*reason, billed_seconds = self.billed_seconds, "the Live session is over");
                return match &*reason {
                    "content" => Err(Fault::Refused("the service ended the session for its content".into())),
                    _ => Err(Fault::Lost(reason.to_string())),
                };
            }
            ServerEvent::Error(error) if !self.ready => {
                return Err(Fault::Refused(format!("{}: {}", error.name(), error.message.as_deref().unwrap_or("no text"))));
            }
            ServerEvent::Error(error) => tracing::warn!(code = error.name(), "OpenAI Live reported an error"),
            ServerEvent::Other(kind) => tracing::trace!(kind = &*kind, "an event without consequence"),
            ServerEvent::Started => (),
        }
        Ok(())
    }

    fn perform(&mut self, action: &Action, outbox: &mut Uplink) -> Result<(), Stalled> {
        match action {
            Action::RequestResponse(prompt) => match words(prompt, &self.plan.greeting.clone()) {
                Some(words) => self.instruct(&words, outbox),
                None => self.instruct("The caller waits for your answer.", outbox),
            },
            Action::TellAssistant(text) => self.instruct(text, outbox),
            Action::InformAssistant(text) => {
                self.send(&ClientEvent::ThinkingAppend { content: text, delegation_id: None }, outbox)
            }
            Action::AnswerTool { id, output, respond, .. } => {
                self.send(&ClientEvent::ItemCreate { item: FunctionOutput { call_id: id, output } }, outbox)?;
                self.send(&ClientEvent::ResponseCreate, outbox)?;
                match respond.as_ref().and_then(|it| words(it, "")) {
                    Some(words) => self.instruct(&words, outbox),
                    None => Ok(()),
                }
            }
            Action::Truncate { .. } => {
                self.downlink.reset();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn closed(&self, _: Option<u16>, _: &str) -> EndReason {
        if self.ready { EndReason::AssistantLost } else { EndReason::AssistantRefused }
    }
}
