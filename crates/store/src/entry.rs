//! What is journalled. This is a file format: fields are added, never renamed or removed.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One fact about one call. (`call`, `epoch`, `seq`) is its key.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub tenant: String,
    /// Our id of the call.
    pub call: String,
    /// Counts the owners of the call: 0 for the first stream, one more for each resumption.
    pub epoch: u32,
    /// Counts the facts of an epoch.
    pub seq: u64,
    /// Unix time in milliseconds.
    pub at_ms: i64,
    #[serde(flatten)]
    pub fact: Fact,
}

/// Who said a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speaker {
    Caller,
    Assistant,
}

/// What happened. Times with `_ms` are since the stream's start unless the name says otherwise.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fact {
    /// The voice webhook was answered with a stream.
    Ringing {
        call_sid: String,
        account_sid: String,
        from: Option<String>,
        to: Option<String>,
        direction: String,
        api_version: Option<String>,
        forwarded_from: Option<String>,
        caller_name: Option<String>,
        assistant: String,
        language: String,
        node: String,
    },
    /// A node took the call over; the entry's epoch is the new one.
    Claimed {
        node: String,
    },
    StreamStarted {
        stream_sid: String,
    },
    AssistantReady {
        after_ms: u64,
        /// Place on the ladder of those who may answer.
        #[serde(default)]
        candidate: u32,
    },
    /// A session was lost in the middle of the stream; another one follows, or the end.
    AssistantLost {
        reason: String,
    },
    /// A session is replaced before its provider ends it.
    AssistantRolled,
    /// The caller heard the first sound.
    FirstAudio {
        after_ms: u64,
    },
    Said {
        speaker: Speaker,
        text: String,
        start_ms: u64,
        end_ms: u64,
        cut: bool,
    },
    Interrupted {
        heard_ms: u64,
        received_ms: u64,
        cleared_ms: u64,
        /// From the caller's first sound to the `clear`.
        #[serde(default)]
        reaction_ms: Option<u64>,
    },
    /// What seemed to be an interruption was none.
    FalseAlarm {
        at_ms: u64,
    },
    /// The caller is to be connected with a destination, by its name.
    Transfer {
        to: String,
    },
    /// How that ended, in Twilio's words.
    Transferred {
        to: String,
        status: String,
    },
    /// The caller left a message for the business.
    Message {
        name: Option<String>,
        number: Option<String>,
        text: String,
    },
    /// Somebody outside did something to the call.
    Controlled {
        what: String,
    },
    Key {
        key: char,
    },
    ToolCalled {
        id: String,
        name: String,
        arguments: String,
    },
    ToolFinished {
        id: String,
        output: String,
        failed: bool,
    },
    Turn {
        endpointing_us: u64,
        thinking_us: u64,
        bridging_us: u64,
        playout_us: u64,
    },
    /// The stream of this epoch is over.
    Ended {
        /// The epoch whose stream it was; a late fact may be numbered in a newer one.
        stream: u32,
        reason: String,
        blame: String,
        duration_ms: u64,
        frames_in: u64,
        frames_in_dropped: u64,
        frames_out: u64,
        assistant_ms_dropped: u64,
        underruns: u64,
        jitter_us: u64,
        longest_gap_ms: u64,
        interruptions: u64,
        input_tokens: u64,
        #[serde(default)]
        cached_tokens: u64,
        output_tokens: u64,
        #[serde(default)]
        false_alarms: u64,
        #[serde(default)]
        echoes: u64,
        /// Estimated listening quality (G.107), hundredths: 100 to 450.
        #[serde(default)]
        mos_hundredths: Option<u32>,
        /// How the caller's line sounded: dB below full scale of speech and of what lies between it.
        #[serde(default)]
        speech_dbfs: Option<i16>,
        #[serde(default)]
        noise_dbfs: Option<i16>,
        #[serde(default)]
        clipped_samples: u64,
    },
    Recorded {
        /// The epoch whose stream it was.
        stream: u32,
        location: String,
        channels: u16,
        length_ms: u64,
        /// Of the complete file, hexadecimal.
        #[serde(default)]
        sha256: Option<String>,
    },
    /// `next` was asked and answered.
    Next {
        answer: String,
    },
    /// A status callback. Only a higher rank replaces a status.
    Status {
        status: String,
        rank: i64,
        terminal: bool,
        duration_s: Option<u64>,
    },
    StreamStatus {
        event: String,
        error: Option<String>,
    },
    /// What the provider says of a conversation that is over.
    Reviewed {
        /// Its id there.
        conversation: String,
        /// `success`, `failure`, `unknown`.
        successful: Option<String>,
        summary: Option<String>,
    },
}

impl Fact {
    /// Stable name, as journalled.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Ringing { .. } => "ringing",
            Self::Claimed { .. } => "claimed",
            Self::StreamStarted { .. } => "stream_started",
            Self::AssistantReady { .. } => "assistant_ready",
            Self::AssistantLost { .. } => "assistant_lost",
            Self::AssistantRolled => "assistant_rolled",
            Self::FirstAudio { .. } => "first_audio",
            Self::FalseAlarm { .. } => "false_alarm",
            Self::Transfer { .. } => "transfer",
            Self::Transferred { .. } => "transferred",
            Self::Message { .. } => "message",
            Self::Controlled { .. } => "controlled",
            Self::Said { .. } => "said",
            Self::Interrupted { .. } => "interrupted",
            Self::Key { .. } => "key",
            Self::ToolCalled { .. } => "tool_called",
            Self::ToolFinished { .. } => "tool_finished",
            Self::Turn { .. } => "turn",
            Self::Ended { .. } => "ended",
            Self::Recorded { .. } => "recorded",
            Self::Next { .. } => "next",
            Self::Status { .. } => "status",
            Self::StreamStatus { .. } => "stream_status",
            Self::Reviewed { .. } => "reviewed",
        }
    }
}

impl fmt::Debug for Fact {
    /// The kind alone: facts hold words and numbers of people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{} {:?}", self.call, self.epoch, self.seq, self.fact)
    }
}
