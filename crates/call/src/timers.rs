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

/// At most one deadline per timer. Which is the earliest is kept at hand: it is asked for several times a frame, and changes
/// seldom. So is which are set: most are not, and what is not set need not be looked at to know that.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timers {
    /// A bit for each timer that is set.
    set: u32,
    /// Of those that are set, the earliest; of equal ones the first in the order of [`Timer`].
    earliest: Option<Timer>,
    /// Of use where the bit is set.
    at: [Duration; Timer::ALL.len()],
}

impl Timers {
    // Inlined: most of its uses take back what is not set.
    #[inline]
    pub(crate) fn set(&mut self, timer: Timer, at: Option<Duration>) {
        let bit = 1 << timer as u32;
        match at {
            Some(at) => {
                self.set |= bit;
                let before = std::mem::replace(&mut self.at[timer as usize], at);
                match self.earliest {
                    Some(first) if first == timer && at > before => self.find_earliest(),
                    Some(first) if self.due(first) < (at, timer) => (),
                    _ => self.earliest = Some(timer),
                }
            }
            None if self.set & bit != 0 => {
                self.set &= !bit;
                if self.earliest == Some(timer) {
                    self.find_earliest();
                }
            }
            None => (),
        }
    }

    #[inline(never)]
    fn find_earliest(&mut self) {
        let (mut set, mut earliest) = (self.set, None);
        while set != 0 {
            let timer = Timer::ALL[set.trailing_zeros() as usize];
            if earliest.is_none_or(|it| self.due(timer) < self.due(it)) {
                earliest = Some(timer);
            }
            set &= set - 1;
        }
        self.earliest = earliest;
    }

    fn due(&self, timer: Timer) -> (Duration, Timer) {
        (self.at[timer as usize], timer)
    }

    pub(crate) fn is_set(&self, timer: Timer) -> bool {
        self.set & (1 << timer as u32) != 0
    }

    /// The earliest deadline; of equal ones the first in the order of [`Timer`].
    pub(crate) fn next(&self) -> Option<(Duration, Timer)> {
        self.earliest.map(|it| self.due(it))
    }

    /// Removes and returns the earliest deadline that `now` has reached.
    pub(crate) fn expired(&mut self, now: Duration) -> Option<Timer> {
        let (at, timer) = self.next()?;
        (at <= now).then(|| {
            self.set(timer, None);
            timer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_earliest_is_always_known(steps in prop::collection::vec((0..Timer::ALL.len(), prop::option::of(0_u64..20)), 1..200)) {
            let mut timers = Timers::default();
            for (place, at) in steps {
                timers.set(Timer::ALL[place], at.map(Duration::from_millis));
                let all = Timer::ALL.into_iter().filter(|it| timers.is_set(*it)).map(|it| (timers.at[it as usize], it));
                prop_assert_eq!(timers.next(), all.min());
            }
        }
    }
}
