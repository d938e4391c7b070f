//! What can be heard in audio: speech, levels, keys, beeps, echoes.
//!
//! Everything works on 8 kHz mono, in pieces of any length, and counts time in samples.

mod beep;
pub mod dtmf;
mod echo;
mod level;
mod speech;

pub use beep::{Beep, BeepDetector};
pub use echo::{Echo, EchoDetector};
pub use level::{Level, LineQuality, SILENT_DBFS};
pub use speech::{Activity, SpeechDetector};

/// Samples per second of everything here.
const HZ: usize = 8000;
