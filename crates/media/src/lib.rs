#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

pub mod detect;
pub mod enhance;
pub mod file;
mod frame;
pub mod g711;
pub mod resample;
mod sniff;
mod transcode;

pub use frame::{BYTES_PER_MS, FRAME_BYTES, FRAME_MS, Format, Frame, Rate, SILENCE};
pub use sniff::{Encoding, Sniffer};
pub use transcode::{Transcoder, Unsupported};
