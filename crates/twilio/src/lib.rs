#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

pub mod rest;
mod signature;
pub mod twiml;
mod webhook;

pub use signature::{Algorithm, Body, Refused, Validator, sign};
pub use webhook::{
    CallStatus, ConferenceStatus, DialEnded, Form, Gathered, MachineDetected, MessageReceived, MessageStatus, MissingParameter,
    Queued, Recorded, RecordingStatus, StreamStatus, Transcribed, VoiceRequest,
};
