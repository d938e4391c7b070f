#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

mod call;
mod end;
mod event;
mod playback;
mod timers;
mod tools;

pub use call::{Action, Call, CallConfig, Input, Prompt};
pub use end::{Blame, EndReason, Next};
pub use event::{Counters, Event, Latency};
pub use playback::{ItemId, Mark, ResponseId};
pub use timers::Timer;
