//! What the business decided about a call before its stream starts, and what the bridge asks upward.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use call::{CallConfig, EndReason, Event};
use futures::future::BoxFuture;
use media::enhance::{Ambience, Bed, Chain, GainControl, NoiseSuppression};
use secrecy::SecretString;
use url::Url;

/// Our id of a call: a UUIDv7. It appears in addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(pub Arc<str>);

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Everything needed to run one stream of a call.
#[derive(Clone, Debug)]
pub struct CallPlan {
    pub call: CallId,
    pub tenant: Arc<str>,
    /// Twilio's ids; the stream must show the same.
    pub call_sid: String,
    pub account_sid: String,
    /// Counts the streams of the call.
    pub epoch: u32,
    pub assistant: AssistantPlan,
    pub config: CallConfig,
    /// What was said in earlier epochs, oldest first.
    pub history: Vec<HistoryItem>,
    pub sound: SoundPlan,
    /// Where the two-channel recording goes; `None` records nothing.
    pub recording: Option<PathBuf>,
}

/// What is done to the audio of a call. By default nothing.
#[derive(Clone, Debug, Default)]
pub struct SoundPlan {
    /// The assistant hears the caller without noise, 10.7 ms later.
    pub noise_suppression: bool,
    /// The assistant hears quiet callers louder and loud ones quieter.
    pub gain_control: bool,
    /// The caller hears this under everything.
    pub ambience: Option<Arc<Bed>>,
}

impl SoundPlan {
    /// What caller audio goes through on its way to the assistant.
    pub(crate) fn uplink(&self) -> Chain {
        let mut chain = Chain::default();
        if self.noise_suppression {
            chain = chain.with(NoiseSuppression::default());
        }
        if self.gain_control {
            chain = chain.with(GainControl::default());
        }
        chain
    }

    /// What assistant audio goes through on its way to the caller.
    pub(crate) fn downlink(&self) -> Chain {
        self.ambience.clone().map_or_else(Chain::default, |bed| Chain::default().with(Ambience::new(bed)))
    }
}

/// Which provider answers, and how.
#[derive(Clone, Debug)]
pub enum AssistantPlan {
    OpenAi(Arc<OpenAiPlan>),
    ElevenLabs(Arc<ElevenLabsPlan>),
}

/// An OpenAI Realtime session, or a server that speaks the same.
#[derive(Clone, Debug)]
pub struct OpenAiPlan {
    /// `wss://…/v1/realtime`, without query.
    pub url: Url,
    pub api_key: SecretString,
    pub model: String,
    pub voice: String,
    pub instructions: String,
    /// How to open the conversation.
    pub greeting: String,
    /// ISO 639-1.
    pub language: String,
    /// `None` leaves the caller without transcript.
    pub transcription_model: Option<String>,
    pub vad_threshold: f64,
    pub vad_prefix: Duration,
    pub vad_silence: Duration,
}

/// An ElevenLabs agent.
#[derive(Clone, Debug)]
pub struct ElevenLabsPlan {
    /// `https://api.elevenlabs.io` or a residency host.
    pub base_url: Url,
    pub agent_id: String,
    /// With a key the agent may be private: a signed URL is fetched.
    pub api_key: Option<SecretString>,
    /// The agent's security settings permit overrides of first message and language.
    pub allow_overrides: bool,
    pub language: String,
    /// Values for the agent's `{{variables}}`.
    pub dynamic_variables: serde_json::Map<String, serde_json::Value>,
}

/// Something that was said or done in an earlier epoch.
#[derive(Clone, PartialEq, Eq)]
pub enum HistoryItem {
    Caller(String),
    /// Only what was heard.
    Assistant(String),
    Tool {
        id: String,
        name: String,
        arguments: String,
        output: String,
    },
}

impl fmt::Debug for HistoryItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Caller(_) => "Caller",
            Self::Assistant(_) => "Assistant",
            Self::Tool { .. } => "Tool",
        })
    }
}

/// A fact with the call it belongs to.
#[derive(Clone, Debug)]
pub struct CallFact {
    pub call: CallId,
    pub tenant: Arc<str>,
    pub epoch: u32,
    pub fact: Fact,
}

/// What the bridge itself knows of a call, beside the call's own events.
#[derive(Clone, Debug)]
pub enum Fact {
    StreamStarted {
        stream_sid: String,
    },
    Call(Event),
    /// Told when recording begins, with no length, and again when the file is complete.
    Recorded {
        path: PathBuf,
        length: Duration,
        /// SHA-256 of the complete file.
        sha256: Option<[u8; 32]>,
    },
}

impl CallFact {
    /// The reason, if this fact is the end of a stream.
    pub fn end(&self) -> Option<EndReason> {
        match self.fact {
            Fact::Call(Event::Ended { reason, .. }) => Some(reason),
            _ => None,
        }
    }
}

/// Where facts go. Must not wait: it is called on the path of audio.
pub trait Journal: Send + Sync + 'static {
    fn record(&self, fact: CallFact);
}

/// A tool as a provider is told about it.
#[derive(Clone, Debug)]
pub struct ToolDefinition {
    pub name: String,
    pub description: String,
    /// JSON Schema of the arguments.
    pub parameters: String,
}

/// A tool to run. Who is calling comes from the plan, never from the model's words.
#[derive(Clone, Debug)]
pub struct ToolRequest {
    pub call: CallId,
    pub tenant: Arc<str>,
    pub name: String,
    /// JSON as the model wrote it; may be anything.
    pub arguments: String,
}

/// What an assistant may do during a call.
pub trait Tools: Send + Sync + 'static {
    /// The tools of a tenant; `end_call` is there without being named.
    fn definitions(&self, tenant: &str) -> Vec<ToolDefinition>;
    /// Runs one. The error text goes to the model.
    fn run(&self, request: ToolRequest) -> BoxFuture<'static, Result<String, String>>;
}
