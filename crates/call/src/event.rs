//! What happened on a call, for the record.

use std::fmt;
use std::time::Duration;

use media::detect::LineQuality;

use crate::EndReason;

/// One fact about a call. Words and keys are personal: `Debug` hides them.
#[derive(Clone, PartialEq)]
#[allow(missing_docs)] // The fields say what they are; offsets are since the stream's start.
pub enum Event {
    /// A session of the ladder's assistant `candidate` was ready this long after the stream's start.
    AssistantReady { after: Duration, candidate: usize },
    /// A session was lost in the middle of the call; another one follows, or the end.
    AssistantLost { reason: EndReason },
    /// A session that was about to reach its provider's limit is replaced.
    AssistantRolled,
    /// The caller heard the first sound this long after the stream's start.
    FirstAudio { after: Duration },
    /// The caller said something, as the provider wrote it down.
    CallerSaid { text: String, start: Duration, end: Duration },
    /// The assistant said something that was heard; `cut` when the caller did not hear all of it.
    AssistantSaid { text: String, start: Duration, end: Duration, cut: bool },
    /// The assistant was cut off; `heard` of `received` audio had reached the ear, and `cleared` was thrown away at Twilio.
    /// `reaction`: from the caller's first sound, by our own detector, to the `clear`.
    Interrupted { heard: Duration, received: Duration, cleared: Duration, reaction: Option<Duration> },
    /// What seemed to be an interruption was none.
    FalseAlarm { at: Duration },
    /// The caller pressed a key.
    Key { key: char },
    /// The caller is to be connected with a destination, by its name.
    Transfer { to: String },
    /// Somebody outside did something to the call.
    Controlled { what: &'static str },
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
            Self::AssistantLost { .. } => "assistant_lost",
            Self::AssistantRolled => "assistant_rolled",
            Self::FirstAudio { .. } => "first_audio",
            Self::FalseAlarm { .. } => "false_alarm",
            Self::Transfer { .. } => "transfer",
            Self::Controlled { .. } => "controlled",
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
            Self::AssistantLost { reason } => write!(f, "lost({reason})"),
            Self::Controlled { what } => write!(f, "controlled({what})"),
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
    /// Times a sound of the caller's line was an echo of what was played.
    pub echoes: u64,
    /// Times a sound seemed to be an interruption and was none.
    pub false_alarms: u64,
    /// Tokens billed, input.
    pub input_tokens: u64,
    /// The part of them that the provider had in its cache.
    pub cached_tokens: u64,
    /// Tokens billed, output.
    pub output_tokens: u64,
}

impl Counters {
    /// The listening quality of a stream of that length, 1 (bad) to 4.4 (G.711 at its best), estimated by the E-model (ITU-T
    /// G.107, with the loss constants of G.113 for G.711). What this server cannot see is assumed: 100 ms each way through
    /// the telephone network, and 100 ms of silence for every time the player ran dry. `None` below two seconds.
    pub fn estimated_mos(&self, duration: Duration) -> Option<f32> {
        const FRAME: Duration = Duration::from_millis(20);
        const NETWORK: Duration = Duration::from_millis(100);
        const FRAMES_PER_UNDERRUN: f32 = 5.0;
        let due = duration.as_secs_f32() / FRAME.as_secs_f32();
        if duration < Duration::from_secs(2) {
            return None;
        }
        let missing = (due - self.caller_frames as f32).max(0.0) + self.underruns as f32 * FRAMES_PER_UNDERRUN;
        let loss = (missing / due * 100.0).min(100.0);
        let delay = (NETWORK + 2 * self.jitter).as_secs_f32() * 1000.0;
        let impairment = 0.024 * delay + 0.11 * (delay - 177.3).max(0.0);
        let r = (93.2 - impairment - 95.0 * loss / (loss + 4.3)).clamp(0.0, 100.0);
        Some(1.0 + 0.035 * r + r * (r - 60.0) * (100.0 - r) * 7e-6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quality_is_estimated_as_the_e_model_does() {
        let minute = Duration::from_secs(60);
        let mos = |caller_frames, underruns, jitter| {
            let jitter = Duration::from_millis(jitter);
            Counters { caller_frames, underruns, jitter, ..Counters::default() }.estimated_mos(minute).unwrap()
        };
        // R = 93.2 − 2.4 = 90.8 → 4.35.
        assert!((mos(3000, 0, 0) - 4.35).abs() < 0.02, "{}", mos(3000, 0, 0));
        assert!(mos(3000, 0, 100) < 4.1 && mos(2900, 0, 0) < 3.2 && mos(3000, 10, 0) < mos(3000, 1, 0));
        assert!((1.0..1.2).contains(&mos(0, 0, 0)), "{}", mos(0, 0, 0));
        assert_eq!(Counters::default().estimated_mos(Duration::from_secs(1)), None);
    }
}
