//! The assistant's session: reached, lost, replaced, rolled; and the ladder of those who may answer.

use std::time::Duration;

use media::{BYTES_PER_MS, SILENCE};

use super::{Call, Farewell, Phase};
use crate::{Action, EndReason, Event, Prompt, Timer};

/// Pauses before the attempts to reach one assistant again.
const PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(250), Duration::from_secs(1)];
/// A session that has lasted so long was of use: the next loss is a new one.
const OF_USE: Duration = Duration::from_secs(30);
/// A session that must be rolled and finds no pause is rolled this long after it was due.
const ROLL_MAX: Duration = Duration::from_secs(4 * 60);

/// 700 ms of silence.
const BREATH: [u8; 700 * BYTES_PER_MS] = [SILENCE; 700 * BYTES_PER_MS];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Link {
    #[default]
    Connecting,
    Ready,
    /// Between two attempts, or given up.
    Gone,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Session {
    link: Link,
    /// Whose turn it is on the ladder.
    pub(super) candidate: usize,
    /// Attempts to reach it since it was last of use.
    attempts: usize,
    /// Counts the sessions that were ready.
    pub(super) number: u32,
    ready_at: Duration,
    /// The assistant owed or was giving an answer when its session was lost.
    pub(super) owes: bool,
    /// The caller was told to wait.
    pub(super) excused: bool,
    /// It has served long enough.
    pub(super) roll_due: bool,
    /// From how many tokens its first answer was made.
    first_tokens: Option<u64>,
}

impl Session {
    /// Whether the assistant can be spoken to.
    pub(super) fn is_ready(&self) -> bool {
        self.link == Link::Ready
    }

    /// Whether there is a socket, or one is being opened.
    pub(super) fn is_open(&self) -> bool {
        self.link != Link::Gone
    }

    /// Whether one was there, and another one is awaited.
    pub(super) fn is_replaced(&self) -> bool {
        self.number > 0 && !self.is_ready()
    }
}

impl Call {
    pub(super) fn assistant_ready(&mut self, now: Duration, opened: bool, actions: &mut Vec<Action>) {
        if self.session.link != Link::Connecting || matches!(self.phase, Phase::Ended) {
            return;
        }
        self.session.link = Link::Ready;
        self.session.number += 1;
        self.session.ready_at = now;
        self.session.first_tokens = None;
        self.timers.set(Timer::Answer, None);
        self.timers.set(Timer::Roll, self.manner.session_life.map(|it| now + it));
        actions.push(Action::Record(Event::AssistantReady { after: now, candidate: self.session.candidate }));
        if matches!(self.phase, Phase::Connecting) {
            self.phase = Phase::Talking;
            self.greeting_awaited = self.config.protect_greeting && self.config.opening == Prompt::Greeting;
            let opening = self.config.opening.clone();
            if !opened {
                actions.push(Action::RequestResponse(opening.clone()));
            }
            actions.extend(self.kept.drain(..).map(Action::SendToAssistant));
            self.owe(now, opening);
        } else if matches!(self.phase, Phase::Talking) {
            self.resume(now, actions);
        }
        self.session.owes = false;
        self.session.excused = false;
        self.keys_complete(now, actions);
    }

    /// Goes on with a new session: the words that nobody has answered first.
    fn resume(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.unheard {
            actions.extend(self.kept.drain(..).map(Action::SendToAssistant));
            if !self.talking {
                self.owe(now, Prompt::Answer);
            }
        } else if self.session.owes || self.unanswered {
            // What the old session left unfinished and what the new one says are two sentences.
            if self.playback.is_speaking() {
                self.playback.push_phrase(&BREATH, false);
            }
            self.ask(now, Prompt::Continuation, actions);
        }
    }

    pub(super) fn assistant_ended(&mut self, now: Duration, reason: EndReason, actions: &mut Vec<Action>) {
        if reason == EndReason::AssistantHungUp {
            self.forget_session();
            self.playback.finish_all();
            self.give_up(now, reason);
        } else {
            // Its socket is gone already: nothing is left to be closed.
            self.session_failed(now, reason, actions);
        }
    }

    /// The session is of no use any more, or was never reached.
    pub(super) fn session_failed(&mut self, now: Duration, reason: EndReason, actions: &mut Vec<Action>) {
        if self.session.is_ready() && now.saturating_sub(self.session.ready_at) >= OF_USE {
            self.session.attempts = 0;
        }
        let reached = self.session.is_ready();
        self.forget_session();
        self.playback.abandon();
        if !matches!(self.phase, Phase::Connecting | Phase::Talking) {
            return self.give_up(now, reason);
        }
        if self.session.number > 0 {
            actions.push(Action::Record(Event::AssistantLost { reason }));
        }
        self.session.attempts += 1;
        // A refusal stands, and who does not answer in time is not waited for twice.
        let again = reached || reason == EndReason::AssistantLost;
        if !again || self.session.attempts > PAUSES.len() {
            if self.session.candidate + 1 == self.config.assistants.len() {
                return self.give_up(now, reason);
            }
            self.session.candidate += 1;
            self.manner = self.config.assistants[self.session.candidate];
            self.session.attempts = 1;
        }
        match PAUSES[self.session.attempts - 1] {
            Duration::ZERO => self.redial(now, actions),
            pause => self.timers.set(Timer::Redial, Some(now + pause)),
        }
    }

    /// Opens a session with the assistant whose turn it is.
    pub(super) fn redial(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.session.link = Link::Connecting;
        actions.push(Action::ConnectAssistant { candidate: self.session.candidate });
        let wait = if self.session.number == 0 { self.config.answer_timeout } else { self.config.reconnect_timeout };
        self.timers.set(Timer::Answer, Some(now + wait));
    }

    /// A session has reached the age at which its provider ends it.
    pub(super) fn roll_due(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.session.roll_due {
            return self.roll(now, actions);
        }
        self.session.roll_due = true;
        self.timers.set(Timer::Roll, Some(now + ROLL_MAX));
    }

    /// An answer was made from so many tokens.
    pub(super) fn session_grown(&mut self, tokens: u64) {
        let first = *self.session.first_tokens.get_or_insert(tokens);
        let limit = self.manner.session_tokens.map(|it| it.max(2 * first));
        self.session.roll_due |= limit.is_some_and(|it| tokens > it);
    }

    /// Replaces a session that still works.
    pub(super) fn roll(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Talking) && self.session.is_ready() {
            self.forget_session();
            self.playback.abandon();
            self.session.attempts = 1;
            actions.extend([Action::Record(Event::AssistantRolled), Action::CloseAssistant]);
            self.redial(now, actions);
        }
    }

    /// Nothing that the session was doing will be finished by it.
    fn forget_session(&mut self) {
        let owes = self.timers.is_set(Timer::Owed) || self.active.is_some() || self.playback.is_unfinished();
        self.session.owes |= self.session.is_ready() && owes;
        self.session.link = Link::Gone;
        self.session.roll_due = false;
        self.active = None;
        self.fence = self.fence.max(self.newest);
        self.turn = None;
        self.suspicion = None;
        self.playback.ducked = false;
        if !self.opening_held {
            self.playback.halt(false);
        }
        self.turns.clear();
        for timer in [Timer::Answer, Timer::Redial, Timer::Roll, Timer::Owed, Timer::Utterance, Timer::Verdict] {
            self.timers.set(timer, None);
        }
    }

    /// Nobody is left to talk to: what was said is heard out, then the call moves on.
    fn give_up(&mut self, now: Duration, reason: EndReason) {
        if let Phase::Ending { farewell, .. } = &mut self.phase {
            // It was leaving anyway; nothing more will be said.
            *farewell = Farewell::Enough;
        } else {
            self.leave(now, reason, Farewell::Enough);
        }
    }
}
