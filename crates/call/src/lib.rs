#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

mod call;
mod config;
mod end;
mod event;
mod playback;
mod timers;
mod tools;
mod vocabulary;
mod words;

pub use call::Call;
pub use config::{CallConfig, Confirm, HeardBy, Interruption, KeyAction, Manner, Meanwhile, Prompt};
pub use end::{Blame, EndReason, Next};
pub use event::{Counters, Event, Latency};
pub use playback::{ItemId, Mark, ResponseId};
pub use timers::Timer;
pub use vocabulary::{Action, Control, Effect, Input};
pub use words::BackChannel;
