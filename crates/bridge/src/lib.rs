#![doc = include_str!("../README.md")]

mod accept;
mod assistant;
mod batch;
mod breaker;
mod directory;
mod downlink;
mod driver;
mod exchange;
mod history;
pub mod limits;
mod line;
mod metrics;
pub mod net;
mod outbox;
mod pace;
mod plan;
mod providers;
mod record;
mod ringing;
mod session;
mod socket;
mod spare;
mod tcp;
mod twilio;
mod uplink;
mod wake;
mod working_set;

pub use accept::Bridge;
pub use directory::{Directory, LiveControl, NotPerformed, Performed, Refusal, StreamToken};
pub use history::History;
pub use metrics::Metrics;
pub use net::Connect;
pub use plan::{
    AssistantPlan, CallFact, CallId, CallPlan, ElevenLabsPlan, Fact, HistoryItem, Journal, LivePlan, OpenAiPlan, SoundPlan,
    ToolAnswer, ToolDefinition, ToolEffect, ToolRequest, Tools, TranscriptionPlan, Turns,
};
pub use twilio::CALL_PARAMETER;
pub use twilio::TOKEN_PARAMETER;
