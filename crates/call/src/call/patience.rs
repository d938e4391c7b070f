//! How long anybody is waited for: an answer that is owed, a caller who says nothing.

use std::time::Duration;

use super::{Call, Phase};
use crate::{Action, EndReason, Prompt, Timer};

/// Silence before a caller who waits for a new session hears why.
const EXCUSE_AFTER: Duration = Duration::from_millis(400);

impl Call {
    /// Nothing may stand still for long: an answer that stopped in the middle is owed, silence of both sides is counted, and
    /// whoever waits hears something.
    pub(super) fn watch(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let tool_runs = self.tools.next_due().is_some();
        let waits = self.timers.is_set(Timer::Owed) || self.timers.is_set(Timer::Keys) || tool_runs;
        let ready = self.session.is_ready() && !self.muted.hold;
        let at_rest = matches!(self.phase, Phase::Talking) && ready && !waits;
        let speaking = self.playback.is_speaking();
        if at_rest && (self.playback.is_starved(now) || (self.active.is_some() && !speaking)) {
            self.owe(now, Prompt::Answer);
        }
        if !at_rest || speaking || self.active.is_some() {
            self.timers.set(Timer::Idle, None);
        } else if !self.timers.is_set(Timer::Idle) {
            self.timers.set(Timer::Idle, self.config.idle_after.map(|it| now + it));
        }
        let talking = matches!(self.phase, Phase::Talking);
        if !talking || speaking || self.talking || !self.someone_waits() {
            self.timers.set(Timer::Excuse, None);
        } else if !self.timers.is_set(Timer::Excuse) {
            self.timers.set(Timer::Excuse, Some(now + EXCUSE_AFTER));
        }
        let fills = talking && ready && tool_runs && !self.config.tool_fillers.is_empty();
        if !fills || speaking || self.talking {
            self.timers.set(Timer::Filler, None);
        } else if !self.timers.is_set(Timer::Filler) {
            self.timers.set(Timer::Filler, Some(now + self.config.tool_filler_after));
        }
        if talking && ready && !self.untold.is_empty() {
            if self.untold.iter().any(|it| matches!(it, Action::TellAssistant(_))) {
                self.owe(now, Prompt::Answer);
            }
            actions.extend(self.untold.drain(..));
        }
        if self.session.roll_due && at_rest && !speaking && self.active.is_none() && !self.talking && !self.unanswered {
            self.roll(now, actions);
        }
        if self.muted.hold
            && talking
            && !speaking
            && let Some(sound) = self.config.hold_sound.clone()
        {
            self.playback.push_phrase(&sound, false);
        }
    }

    /// The assistant has to say something now.
    pub(super) fn owe(&mut self, now: Duration, what: Prompt) {
        if matches!(self.phase, Phase::Talking) && self.session.is_ready() {
            self.owed = (what, 0);
            self.timers.set(Timer::Owed, self.config.answer_due.map(|it| now + it));
        }
    }

    /// An answer is owed and has not begun.
    pub(super) fn answer_overdue(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.owed.1 += 1;
        // Whatever must be heard out does not come: the caller is listened to again.
        self.greeting_awaited = false;
        match self.owed.1 {
            // What has begun and stopped cannot be asked for again.
            1 => actions.extend(self.active.is_none().then(|| Action::RequestResponse(self.owed.0.clone()))),
            2 => self.say_one_moment(),
            // Nothing more is expected of this session.
            _ => {
                actions.push(Action::CloseAssistant);
                return self.session_failed(now, EndReason::AssistantLost, actions);
            }
        }
        self.timers.set(Timer::Owed, self.config.answer_due.map(|it| now + it));
    }

    /// The caller waits while a session is replaced.
    pub(super) fn excuse(&mut self) {
        if !std::mem::replace(&mut self.session.excused, true) {
            self.say_one_moment();
        }
    }

    fn say_one_moment(&mut self) {
        if let Some(filler) = self.config.filler.clone() {
            self.playback.push_phrase(&filler, false);
        }
    }

    /// Whether the caller hears silence because there is no session.
    fn someone_waits(&self) -> bool {
        self.session.is_replaced() && !self.session.excused && (self.session.owes || self.unanswered)
    }

    /// Nobody has said anything for a while.
    pub(super) fn idle(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.idle_prompts < self.config.idle_prompts_max {
            self.idle_prompts += 1;
            self.ask(now, Prompt::AreYouThere, actions);
        } else {
            self.say_goodbye(now, EndReason::CallerSilent, actions);
        }
    }
}
