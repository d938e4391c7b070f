//! What happened on a call, for the record.

use std::fmt;
use std::time::Duration;

use media::detect::LineQuality;

use crate::EndReason;

/// One fact about a call. Words and keys are personal: `Debug` hides them.
#[derive(Clone, PartialEq)]
#[allow(missing_docs)] // The fields say what they are; offsets are since the stream's start.
pub enum Event {
    /// The assistant's session was ready this long after the stream's start.
    AssistantReady { after: Duration },
    /// The caller said something, as the provider wrote it down.
    CallerSaid { text: String, start: Duration, end: Duration },
    /// The assistant said something that was heard; `cut` when the caller did not hear all of it.
    AssistantSaid { text: String, start: Duration, end: Duration, cut: bool },
    /// The caller interrupted; `heard` of `received` audio had reached the ear, and `cleared` was thrown away at Twilio.
    Interrupted { heard: Duration, received: Duration, cleared: Duration },
    /// The caller pressed a key.
    Key { key: char },
    /// The assistant asked for a tool, for the first time with this id.
    ToolCalled { id: String, name: String, arguments: String },
    /// The tool's answer went back.
    ToolFinished { id: String, output: String, failed: bool },
    /// A turn's latency: caller's last speech to the assistant's first sound.
    Turn(Latency),
    /// The stream is over. Always the last event of an epoch.
    Ended { reason: EndReason, duration: Duration, counters: Counters, line: LineQuality },
}

impl Event {
    /// Stable name for records.
    pub fn name(&self) -> &'static str {
        match self {
            Self::AssistantReady { .. } => "assistant_ready",
            Self::CallerSaid { .. } => "caller_said",
            Self::AssistantSaid { .. } => "assistant_said",
            Self::Interrupted { .. } => "interrupted",
            Self::Key { .. } => "key",
            Self::ToolCalled { .. } => "tool_called",
            Self::ToolFinished { .. } => "tool_finished",
            Self::Turn(_) => "turn",
            Self::Ended { .. } => "ended",
        }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interrupted { heard, received, .. } => write!(f, "interrupted({heard:?} of {received:?} heard)"),
            Self::Turn(latency) => write!(f, "turn({latency:?})"),
            Self::Ended { reason, .. } => write!(f, "ended({reason})"),
            other => f.write_str(other.name()),
        }
    }
}

/// The parts of one turn's latency. Their sum is the whole, by construction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Caller's last speech frame → the provider's end-of-turn decision. Owner: the provider's detector.
    pub endpointing: Duration,
    /// Decision → first audio byte. Owner: the provider's model and the network to it.
    pub thinking: Duration,
    /// First audio byte → first frame handed to Twilio. Owner: this server.
    pub bridging: Duration,
    /// First frame handed to Twilio → its playing begins, by the playback ledger. Owner: what was still queued there.
    pub playout: Duration,
}

impl Latency {
    /// Caller's last speech frame → first sound of the answer.
    pub fn total(&self) -> Duration {
        self.endpointing + self.thinking + self.bridging + self.playout
    }
}

/// What went through a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames that came from the caller.
    pub caller_frames: u64,
    /// Caller frames dropped because the assistant was not ready for longer than the preroll.
    pub caller_frames_dropped: u64,
    /// Frames handed to Twilio.
    pub played_frames: u64,
    /// Assistant audio thrown away before Twilio got it, in milliseconds: late audio of a cut answer, or past the backlog limit.
    pub assistant_ms_dropped: u64,
    /// Times the player ran dry in the middle of an utterance.
    pub underruns: u64,
    /// How unevenly caller frames arrived, smoothed (RFC 3550), at the end.
    pub jitter: Duration,
    /// Longest time between two caller frames.
    pub longest_gap: Duration,
    /// Times the caller interrupted.
    pub interruptions: u64,
    /// Tokens billed, input.
    pub input_tokens: u64,
    /// Tokens billed, output.
    pub output_tokens: u64,
}
