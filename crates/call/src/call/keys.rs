//! The keys of the caller's telephone.

use std::time::Duration;

use super::{Call, Farewell, Phase};
use crate::{Action, EndReason, Event, KeyAction, Prompt, Timer};

/// Longest entry: a card number with its prefix is shorter.
const KEYS_MAX: usize = 32;

impl Call {
    pub(super) fn caller_key(&mut self, now: Duration, key: char, actions: &mut Vec<Action>) {
        self.caller_is_there();
        actions.push(Action::Record(Event::Key { key }));
        if matches!(self.phase, Phase::Talking) {
            // A key is meant as an answer: the assistant stops talking, and the provider has not heard anything.
            self.cut(now, true, actions);
            self.timers.set(Timer::Owed, None);
        }
        if matches!(self.phase, Phase::Connecting | Phase::Talking) && self.keys.len() < KEYS_MAX {
            self.keys.push(key);
            self.timers.set(Timer::Keys, Some(now + self.config.key_gap));
        }
        if key == '#' || self.keys.len() == KEYS_MAX {
            self.keys_complete(now, actions);
        }
    }

    /// Does what the key is for, or tells the assistant what was keyed; while it connects, the keys wait for it.
    pub(super) fn keys_complete(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.timers.set(Timer::Keys, None);
        if self.keys.is_empty() || matches!(self.phase, Phase::Ending { .. } | Phase::Ended) {
            return;
        }
        let alone = self.keys.chars().next().filter(|_| self.keys.len() == 1);
        let action = self.config.key_actions.iter().find(|it| Some(it.0) == alone).map(|it| it.1.clone());
        match action {
            Some(KeyAction::Transfer(to)) => {
                self.keys.clear();
                self.transfer(now, &to, Some(Prompt::Connecting), actions);
            }
            Some(KeyAction::HangUp) => {
                self.keys.clear();
                self.say_goodbye(now, EndReason::CallerKeyedOut, actions);
            }
            None if self.session.is_ready() && matches!(self.phase, Phase::Talking) => {
                let keys = std::mem::take(&mut self.keys);
                actions.push(Action::TellAssistant(match keys.len() {
                    1 => format!("The caller pressed the key {keys} on the telephone."),
                    _ => format!("The caller keyed {keys} on the telephone."),
                }));
                self.owe(now, Prompt::Answer);
            }
            None => (),
        }
    }

    /// Has the assistant say goodbye, if it can, and ends the call.
    pub(super) fn say_goodbye(&mut self, now: Duration, reason: EndReason, actions: &mut Vec<Action>) {
        if self.session.is_ready() {
            actions.push(Action::RequestResponse(Prompt::Farewell));
            self.leave(now, reason, Farewell::Awaited);
        } else {
            self.leave(now, reason, Farewell::Enough);
        }
    }

    /// Hands the caller over; `next` connects them.
    pub(super) fn transfer(&mut self, now: Duration, to: &str, words: Option<Prompt>, actions: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Ending { .. } | Phase::Ended) {
            return;
        }
        actions.push(Action::Record(Event::Transfer { to: to.to_owned() }));
        let words = words.filter(|_| self.session.is_ready());
        let farewell = if words.is_some() { Farewell::Awaited } else { Farewell::Enough };
        actions.extend(words.map(Action::RequestResponse));
        self.leave(now, EndReason::Transferred, farewell);
    }
}
