#![doc = include_str!("../README.md")]

pub mod audio;
pub mod elevenlabs;
mod lenient;
pub mod live;
pub mod openai;
mod template;
pub mod twilio;
pub mod websocket;

pub use lenient::{Number, Text};

/// A message that is not what its sender's protocol allows. Carries no payload: what people say stays out of logs.
#[derive(Debug, thiserror::Error)]
#[error("not a {peer} message: {problem}")]
pub struct Malformed {
    peer: &'static str,
    problem: String,
}

impl Malformed {
    fn json(peer: &'static str, error: &serde_json::Error) -> Self {
        // serde_json's text can quote the offending value; category and place cannot.
        let category = match error.classify() {
            serde_json::error::Category::Data => "a field has the wrong type or is missing",
            serde_json::error::Category::Eof => "it ends too early",
            _ => "it is not JSON",
        };
        Self { peer, problem: format!("{category} (column {})", error.column()) }
    }

    fn lacks(peer: &'static str, event: &str, field: &'static str) -> Self {
        let event: String = event.chars().take(64).collect();
        Self { peer, problem: format!("`{event}` lacks `{field}`") }
    }
}
