//! What all providers have in common: how they are reached, and a mapper between their messages and the call's words.
//!
//! A provider is added by implementing both traits in `providers` and by an arm in [`AssistantPlan::provider`].

use std::sync::Arc;

use crate::socket::Socket;
use call::{Action, EndReason, Input, Manner, Prompt};
use futures::future::BoxFuture;

use crate::Metrics;
use crate::net::{Connect, DialError};
use crate::outbox::Stalled;
use crate::plan::{AssistantPlan, CallId, HistoryItem, ToolDefinition};
use crate::uplink::Uplink;

/// Somebody who may answer.
pub(crate) trait Provider: Send + Sync {
    /// For logs and metrics.
    fn peer(&self) -> &'static str;
    /// Host and account: what one of them does says what the next session of the same will meet.
    fn account(&self) -> String;
    /// Opens its socket.
    fn dial(self: Arc<Self>, net: Arc<dyn Connect>) -> BoxFuture<'static, Result<Socket, DialError>>;
    /// Prints the message that carries caller audio.
    fn print_audio(&self) -> fn(&mut String, &[u8]);
    /// The conversation of a new session.
    fn mapper(self: Arc<Self>, beginning: Beginning) -> Box<dyn Mapper>;
}

/// What a session begins with.
pub(crate) struct Beginning {
    /// Whose conversation it is.
    pub(crate) call: CallId,
    /// What was said before, oldest first.
    pub(crate) history: Vec<HistoryItem>,
    pub(crate) tools: Vec<ToolDefinition>,
    pub(crate) metrics: Arc<Metrics>,
    /// Answers and items of this session are numbered from here: numbers of earlier sessions mean nothing any more.
    pub(crate) first_number: u64,
}

/// The conversation of one provider session: its ids, its state, its rules.
pub(crate) trait Mapper: Send {
    /// The socket is open.
    fn opened(&mut self, outbox: &mut Uplink) -> Result<(), Fault>;
    /// A text message; inputs go to `call` in order.
    fn receive(&mut self, text: &str, call: &mut dyn FnMut(Input<'_>), outbox: &mut Uplink) -> Result<(), Fault>;
    /// Performs what the call wants of the provider; audio does not come this way.
    fn perform(&mut self, action: &Action, outbox: &mut Uplink) -> Result<(), Stalled>;
    /// What a close of the socket means, with the reason that came along.
    fn closed(&self, code: Option<u16>, said: &str) -> EndReason;
}

/// Whose doing a broken session is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// One broken message: counted, and too many end the session.
    #[error("{0}")]
    Malformed(String),
    /// The provider will not serve this session.
    #[error("the provider refused: {0}")]
    Refused(String),
    /// The provider cannot go on.
    #[error("the provider gave up: {0}")]
    Lost(String),
    #[error("the provider reads nothing")]
    Stalled,
}

impl From<Stalled> for Fault {
    fn from(_: Stalled) -> Self {
        Self::Stalled
    }
}

impl From<wire::Malformed> for Fault {
    fn from(error: wire::Malformed) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl AssistantPlan {
    pub(crate) fn provider(&self) -> Arc<dyn Provider> {
        match self {
            Self::OpenAi(plan) => plan.clone(),
            Self::ElevenLabs(plan) => plan.clone(),
            Self::Live(plan) => plan.clone(),
        }
    }

    /// What the provider does by itself.
    pub fn manner(&self) -> Manner {
        match self {
            Self::OpenAi(plan) => plan.manner(),
            Self::ElevenLabs(plan) => plan.manner(),
            Self::Live(plan) => plan.manner(),
        }
    }
}

/// What an assistant is asked for, in words; `None` where the conversation itself asks. `greeting` is the operator's.
pub(crate) fn words(prompt: &Prompt, greeting: &str) -> Option<String> {
    let words = match prompt {
        Prompt::Answer => return None,
        Prompt::Greeting => greeting,
        Prompt::Continuation => {
            "The connection was interrupted for a moment. Go on where the conversation stopped: do not greet again, do not repeat what \
             was said, ask or answer what is open."
        }
        Prompt::AreYouThere => {
            "The caller has been silent for a while. Ask in one short sentence, in the caller's language, whether they are still there."
        }
        Prompt::EndingSoon => {
            "Tell the caller in one short sentence, in the caller's language, that this call must end in about half a minute."
        }
        Prompt::Connecting => "Tell the caller in one short sentence, in the caller's language, that you connect them now.",
        Prompt::Farewell => "Say goodbye to the caller in one short sentence.",
        Prompt::Say(text) => return Some(format!("Say exactly this, word for word, and nothing else: {text}")),
    };
    Some(words.to_owned())
}
