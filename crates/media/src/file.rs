//! Audio files: WAV and Ogg Opus are written and read, MP3, M4A and Ogg Vorbis are read.
//!
//! Everything streams through [`Read`](std::io::Read), [`Write`](std::io::Write) and [`Seek`](std::io::Seek); nothing is
//! held but the piece at hand. What is written can be played up to the last [`sync`](WavWriter::sync) if the process dies.

mod loudness;
mod opus;
mod peaks;
mod read;
mod wav;

pub use loudness::{Loudness, Meter};
pub use opus::{OPUS_RATES, OpusWriter};
pub use peaks::{Peak, Peaks};
pub use read::{Container, Limits, ReadError, Reader, Spec};
pub use wav::{Encoding, WavWriter};
