#![doc = include_str!("../README.md")]

mod balancer;
mod ear;
mod elevenlabs;
mod lateness;
mod live;
mod net;
mod openai;
mod provider;
mod rest;
mod script;
mod speech;
mod stream;
mod telephone;
mod timeline;
pub mod twiml;
pub mod web;

pub use balancer::Balancer;
pub use ear::{Ear, Heard};
pub use elevenlabs::ElevenLabs;
pub use lateness::Lateness;
pub use live::Live;
pub use net::{BoxIo, Io, Listener, Network};
pub use openai::OpenAi;
pub use provider::{Behaviour, OutputFormat};
pub use rest::RestApi;
pub use script::{AssistantScript, Broken, CallerScript};
pub use speech::{Speech, Utterance};
pub use telephone::{CallOutcome, Callee, TelephoneNetwork};
pub use timeline::{Moment, Party, Timeline, Watcher};

/// One sample as μ-law, for listening to recordings.
pub fn ulaw(sample: i16) -> u8 {
    media::g711::ulaw::encode(sample)
}
