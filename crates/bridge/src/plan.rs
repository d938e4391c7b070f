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
    /// Who may answer, in the order in which they are tried; as many as `config.assistants`.
    pub assistants: Vec<AssistantPlan>,
    pub config: Arc<CallConfig>,
    /// The first session is opened at once, while it rings.
    pub prepare: bool,
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
    Live(Arc<LivePlan>),
}

/// An OpenAI Realtime session, or a server that speaks the same.
#[derive(Clone, Debug)]
pub struct OpenAiPlan {
    /// `wss://…/v1/realtime`; the model is appended unless the address names a model or a deployment already. At a host of
    /// Azure's the key goes into Azure's header.
    pub url: Url,
    pub api_key: SecretString,
    pub model: String,
    /// A name, or an id that begins with `voice_`.
    pub voice: String,
    pub instructions: String,
    /// How to open the conversation.
    pub greeting: String,
    /// ISO 639-1.
    pub language: String,
    /// `None` leaves the caller without transcript.
    pub transcription: Option<TranscriptionPlan>,
    /// How the end of a turn is found.
    pub turns: Turns,
    /// The service answers at the end of a turn and cancels when the caller speaks; otherwise both are ours.
    pub decides: bool,
    /// `near_field` or `far_field`.
    pub noise_reduction: Option<String>,
    /// 0.25 to 1.5.
    pub speed: Option<f64>,
    /// `auto`, `none`, `required`.
    pub tool_choice: String,
    /// Only reasoning models take this and the next one.
    pub parallel_tool_calls: Option<bool>,
    /// `minimal` to `xhigh`.
    pub reasoning_effort: Option<String>,
    /// 1 to 4096 for one answer.
    pub max_output_tokens: Option<u32>,
    /// 0 to 1: what is kept of a full context.
    pub retention_ratio: Option<f64>,
    /// See [`call::Manner::session_tokens`].
    pub session_tokens: Option<u64>,
    /// Traces at the service.
    pub tracing: bool,
}

impl OpenAiPlan {
    /// A session as telephone calls need it, in English, with everything optional left to the service.
    pub fn new(url: Url, api_key: SecretString, model: &str) -> Self {
        Self {
            url,
            api_key,
            model: model.to_owned(),
            voice: "marin".into(),
            instructions: String::new(),
            greeting: String::new(),
            language: "en".into(),
            transcription: None,
            turns: Turns::TELEPHONE,
            decides: true,
            noise_reduction: None,
            speed: None,
            tool_choice: "auto".into(),
            parallel_tool_calls: None,
            reasoning_effort: None,
            max_output_tokens: None,
            retention_ratio: None,
            session_tokens: None,
            tracing: false,
        }
    }
}

/// Who writes down what the caller says.
#[derive(Clone, Debug, Default)]
pub struct TranscriptionPlan {
    pub model: String,
    /// What the calls are about; not every model takes it.
    pub prompt: Option<String>,
    /// Names and words to expect; not every model takes them.
    pub keywords: Vec<String>,
}

/// How OpenAI finds the end of a turn.
#[derive(Clone, Debug)]
pub enum Turns {
    /// By energy: `threshold` from 0 to 1, audio before the start that belongs to the turn, silence that ends it.
    Server { threshold: f64, prefix: Duration, silence: Duration },
    /// By meaning: `low`, `medium`, `high` or `auto` eagerness.
    Semantic { eagerness: String },
}

impl Turns {
    /// What telephone lines need: the service's default of 200 ms cuts people off.
    pub const TELEPHONE: Self =
        Self::Server { threshold: 0.5, prefix: Duration::from_millis(300), silence: Duration::from_millis(500) };
}

/// An ElevenLabs agent. What would override the agent's own settings is sent only if it is set, because each needs a
/// permission of its own there.
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
    pub prompt: Option<String>,
    pub first_message: Option<String>,
    pub voice_id: Option<String>,
    /// 0.7 to 1.2.
    pub speed: Option<f64>,
    /// Values for the agent's `{{variables}}`.
    pub dynamic_variables: serde_json::Map<String, serde_json::Value>,
}

/// An OpenAI Live session.
#[derive(Clone, Debug)]
pub struct LivePlan {
    /// `wss://api.openai.com/v1/live/sessions`.
    pub url: Url,
    pub api_key: SecretString,
    pub model: String,
    /// The text model that thinks and calls functions.
    pub thinking_model: String,
    pub voice: String,
    pub instructions: String,
    /// How to open the conversation.
    pub greeting: String,
}

/// Something that was said or done in an earlier epoch.
#[derive(Clone, PartialEq, Eq)]
pub enum HistoryItem {
    Caller(String),
    /// Only what was heard.
    Assistant(String),
    /// Something that happened outside the conversation.
    Note(String),
    Tool {
        id: String,
        name: String,
        arguments: String,
        /// `None` while it runs.
        output: Option<String>,
    },
}

impl fmt::Debug for HistoryItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Caller(_) => "Caller",
            Self::Assistant(_) => "Assistant",
            Self::Note(_) => "Note",
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
    /// The provider's id of this very call of the tool.
    pub id: String,
    pub name: String,
    /// JSON as the model wrote it; may be anything.
    pub arguments: String,
}

/// What a tool answers, and what it wants done with the call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolAnswer {
    /// For the model: text, by custom JSON.
    pub output: String,
    pub effect: Option<ToolEffect>,
}

/// See [`call::Effect`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolEffect {
    Transfer(String),
    Digits(String),
    Patience,
}

impl ToolEffect {
    pub(crate) fn as_effect(&self) -> call::Effect<'_> {
        match self {
            Self::Transfer(to) => call::Effect::Transfer(to),
            Self::Digits(keys) => call::Effect::Digits(keys),
            Self::Patience => call::Effect::Patience,
        }
    }
}

impl From<String> for ToolAnswer {
    fn from(output: String) -> Self {
        Self { output, effect: None }
    }
}

/// What an assistant may do during a call.
pub trait Tools: Send + Sync + 'static {
    /// The tools of a tenant; `end_call` is there without being named.
    fn definitions(&self, tenant: &str) -> Vec<ToolDefinition>;
    /// Runs one. The error text goes to the model.
    fn run(&self, request: ToolRequest) -> BoxFuture<'static, Result<ToolAnswer, String>>;
}
