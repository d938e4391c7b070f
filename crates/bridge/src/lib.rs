#![doc = include_str!("../README.md")]

mod accept;
mod assistant;
mod directory;
mod driver;
mod elevenlabs;
pub mod limits;
mod metrics;
pub mod net;
mod openai;
mod plan;
mod record;
mod twilio;
mod writer;

pub use accept::Bridge;
pub use directory::{Directory, Refusal, StreamToken};
pub use metrics::Metrics;
pub use net::Connect;
pub use plan::{
    AssistantPlan, CallFact, CallId, CallPlan, ElevenLabsPlan, Fact, HistoryItem, Journal, OpenAiPlan, SoundPlan, ToolDefinition,
    ToolRequest, Tools,
};
pub use twilio::CALL_PARAMETER;
pub use twilio::TOKEN_PARAMETER;
