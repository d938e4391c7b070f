//! Why a call's stream ended, whose doing it was, and what follows.

use std::fmt;

/// Why the stream ended. Written to the record; decides what `next` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndReason {
    /// Twilio said `stop`: hang-up or redirect, which look the same on the stream.
    CallerHungUp,
    /// The caller's socket closed without `stop`.
    CallerLost,
    /// No audio frame came for the media timeout, although 50 a second are due.
    MediaStalled,
    /// The caller's side broke the stream protocol or flooded it.
    CallerMisbehaved,
    /// The assistant ended the conversation: `end_call`, or its own normal close.
    AssistantHungUp,
    /// The assistant's socket was lost, or it stopped reading.
    AssistantLost,
    /// The provider turned the session down: key, quota, voice, configuration.
    AssistantRefused,
    /// The provider's account rests after failures, of this call or others: it was not asked.
    AssistantResting,
    /// The assistant's session was not ready in time.
    AssistantTimeout,
    /// The caller said nothing, though asked.
    CallerSilent,
    /// The caller pressed the key that ends the call.
    CallerKeyedOut,
    /// The caller is being connected with somebody else.
    Transferred,
    /// Somebody outside ended the call.
    HungUpFromOutside,
    /// The longest allowed duration was reached.
    DurationLimit,
    /// This process is shutting down; another one takes the call over.
    Drained,
    /// A newer stream of the same call took over.
    Superseded,
    /// A bug of ours ended this call, and only this one.
    InternalError,
}

/// Whose doing an end was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// Nobody: the call was over.
    Nobody,
    /// Twilio or the network to it.
    Telephone,
    /// The provider or the network to it.
    Provider,
    /// This server.
    Us,
}

/// What becomes of the caller after the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The conversation is over.
    HangUp,
    /// Say that we were cut off and go on in a new stream.
    Resume,
    /// Connect the caller with the destination that was recorded.
    Transfer,
    /// Nobody is left on the ladder: a person, if there is one, else an apology.
    GaveUp,
}

impl EndReason {
    /// Every reason, for tables and tests.
    pub const ALL: [Self; 17] = [
        Self::CallerHungUp,
        Self::CallerLost,
        Self::MediaStalled,
        Self::CallerMisbehaved,
        Self::AssistantHungUp,
        Self::AssistantLost,
        Self::AssistantRefused,
        Self::AssistantResting,
        Self::AssistantTimeout,
        Self::CallerSilent,
        Self::CallerKeyedOut,
        Self::Transferred,
        Self::HungUpFromOutside,
        Self::DurationLimit,
        Self::Drained,
        Self::Superseded,
        Self::InternalError,
    ];

    /// Whose doing it was; alarms and metrics go by this.
    pub fn blame(self) -> Blame {
        match self {
            Self::CallerHungUp | Self::AssistantHungUp | Self::CallerSilent | Self::DurationLimit => Blame::Nobody,
            Self::CallerKeyedOut | Self::Transferred | Self::HungUpFromOutside => Blame::Nobody,
            Self::CallerLost | Self::MediaStalled | Self::CallerMisbehaved => Blame::Telephone,
            Self::AssistantLost | Self::AssistantRefused | Self::AssistantResting | Self::AssistantTimeout => Blame::Provider,
            Self::Drained | Self::Superseded | Self::InternalError => Blame::Us,
        }
    }

    /// What becomes of a caller who is still there.
    pub fn next(self) -> Next {
        match self {
            Self::CallerHungUp | Self::AssistantHungUp | Self::CallerSilent | Self::CallerKeyedOut => Next::HangUp,
            Self::HungUpFromOutside | Self::DurationLimit | Self::CallerMisbehaved => Next::HangUp,
            Self::Transferred => Next::Transfer,
            Self::CallerLost | Self::MediaStalled => Next::Resume,
            Self::Drained | Self::Superseded | Self::InternalError => Next::Resume,
            Self::AssistantLost | Self::AssistantRefused | Self::AssistantResting | Self::AssistantTimeout => Next::GaveUp,
        }
    }

    /// Stable name for records and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::CallerHungUp => "caller_hung_up",
            Self::CallerLost => "caller_lost",
            Self::MediaStalled => "media_stalled",
            Self::CallerMisbehaved => "caller_misbehaved",
            Self::AssistantHungUp => "assistant_hung_up",
            Self::AssistantLost => "assistant_lost",
            Self::AssistantRefused => "assistant_refused",
            Self::AssistantResting => "assistant_resting",
            Self::AssistantTimeout => "assistant_timeout",
            Self::CallerSilent => "caller_silent",
            Self::CallerKeyedOut => "caller_keyed_out",
            Self::Transferred => "transferred",
            Self::HungUpFromOutside => "hung_up_from_outside",
            Self::DurationLimit => "duration_limit",
            Self::Drained => "drained",
            Self::Superseded => "superseded",
            Self::InternalError => "internal_error",
        }
    }

    /// The reason of that [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Blame {
    /// Stable name for records and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Telephone => "telephone",
            Self::Provider => "provider",
            Self::Us => "us",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_lead_back() {
        for reason in EndReason::ALL {
            assert_eq!(EndReason::from_name(reason.name()), Some(reason));
        }
        assert_eq!(EndReason::from_name("nonsense"), None);
    }
}
