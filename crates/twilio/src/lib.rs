#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

pub mod rest;
mod signature;
pub mod twiml;
mod webhook;

/// Whether a text is a telephone number in E.164: `+`, then 4 to 15 digits, of which the first is no 0.
pub fn is_e164(text: &str) -> bool {
    let digits = text.strip_prefix('+').unwrap_or_default();
    (4..=15).contains(&digits.len()) && digits.bytes().all(|it| it.is_ascii_digit()) && !digits.starts_with('0')
}

pub use signature::{Algorithm, Body, Refused, Validator, sign};
pub use webhook::{
    CallStatus, ConferenceStatus, DialEnded, Form, Gathered, MachineDetected, MessageReceived, MessageStatus, MissingParameter,
    Queued, Recorded, RecordingStatus, StreamStatus, Transcribed, VoiceRequest,
};
