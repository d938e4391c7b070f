//! Every deadline of a call, by name.

use std::time::Duration;

/// What a deadline is for; goes to the log when a call wakes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// The assistant's session must be ready.
    Answer,
    /// A lost session is tried again.
    Redial,
    /// A session has served long enough.
    Roll,
    /// The caller waits for a session that is being replaced, and must hear something.
    Excuse,
    /// More audio is due at Twilio.
    Playout,
    /// A farewell must have begun, or must have been played.
    Farewell,
    /// A caller frame must have come.
    Media,
    /// The longest allowed call.
    Duration,
    /// A tool must have answered.
    Tool,
    /// The caller waits for a tool, and must hear something.
    Filler,
    /// A provider that announces no end of speech has sent none for a while: the utterance is whole.
    Utterance,
    /// The assistant owes an answer and has not begun it.
    Owed,
    /// Nobody has said anything for a while.
    Idle,
    /// The longest allowed call comes near.
    Warning,
    /// No further key has followed: the caller has keyed all they want to.
    Keys,
    /// It must be settled whether a sound was an interruption.
    Verdict,
    /// The callee has had their chance to speak first.
    Opening,
}

impl Timer {
    const ALL: [Self; 17] = [
        Self::Answer,
        Self::Redial,
        Self::Roll,
        Self::Excuse,
        Self::Playout,
        Self::Farewell,
        Self::Media,
        Self::Duration,
        Self::Tool,
        Self::Filler,
        Self::Utterance,
        Self::Owed,
        Self::Idle,
        Self::Warning,
        Self::Keys,
        Self::Verdict,
        Self::Opening,
    ];
}

/// At most one deadline per timer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timers([Option<Duration>; Timer::ALL.len()]);

impl Timers {
    pub(crate) fn set(&mut self, timer: Timer, at: Option<Duration>) {
        self.0[timer as usize] = at;
    }

    pub(crate) fn is_set(&self, timer: Timer) -> bool {
        self.0[timer as usize].is_some()
    }

    /// The earliest deadline; of equal ones the first in the order of [`Timer`].
    pub(crate) fn next(&self) -> Option<(Duration, Timer)> {
        Timer::ALL.into_iter().filter_map(|timer| Some((self.0[timer as usize]?, timer))).min()
    }

    /// Removes and returns the earliest deadline that `now` has reached.
    pub(crate) fn expired(&mut self, now: Duration) -> Option<Timer> {
        let (at, timer) = self.next()?;
        (at <= now).then(|| {
            self.0[timer as usize] = None;
            timer
        })
    }
}
