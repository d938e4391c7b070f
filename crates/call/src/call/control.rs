//! What people and programs outside do to a live call.

use std::time::Duration;

use super::{Call, Phase};
use crate::{Action, Control, EndReason, Event, Prompt, Timer};

/// Who hears nothing at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Muted {
    /// The assistant hears silence.
    pub(super) caller: bool,
    /// The caller hears nothing of the assistant.
    pub(super) assistant: bool,
    pub(super) hold: bool,
}

impl Call {
    pub(super) fn control(&mut self, now: Duration, control: Control<'_>, actions: &mut Vec<Action>) {
        if !matches!(self.phase, Phase::Connecting | Phase::Talking) {
            return;
        }
        actions.push(Action::Record(Event::Controlled { what: control.name() }));
        match control {
            Control::Say(text) => {
                self.silence(now, true, actions);
                if self.session.is_ready() {
                    self.ask(now, Prompt::Say(text.into()), actions);
                } else {
                    self.untold.push_back(Action::RequestResponse(Prompt::Say(text.into())));
                }
            }
            Control::Inform(text) => self.untold.push_back(Action::InformAssistant(text.to_owned())),
            Control::MuteCaller(on) => self.muted.caller = on,
            Control::MuteAssistant(on) => {
                self.muted.assistant = on;
                if on {
                    self.silence(now, true, actions);
                }
            }
            Control::Hold(on) if on != self.muted.hold => {
                self.muted.hold = on;
                self.silence(now, true, actions);
                self.timers.set(Timer::Owed, None);
                if !on {
                    let fact = "The caller was on hold and is back. Go on with them.".to_owned();
                    self.untold.push_back(Action::TellAssistant(fact));
                }
            }
            Control::Hold(_) => (),
            Control::Digits(keys) => self.play_keys(keys),
            Control::Transfer(to) => self.transfer(now, to, Some(Prompt::Connecting), actions),
            Control::HangUp => {
                self.silence(now, true, actions);
                self.say_goodbye(now, EndReason::HungUpFromOutside, actions);
            }
        }
    }
}

impl Control<'_> {
    /// Stable name for records.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Say(_) => "say",
            Self::Inform(_) => "inform",
            Self::MuteCaller(true) => "mute_caller",
            Self::MuteCaller(false) => "unmute_caller",
            Self::MuteAssistant(true) => "mute_assistant",
            Self::MuteAssistant(false) => "unmute_assistant",
            Self::Hold(true) => "hold",
            Self::Hold(false) => "unhold",
            Self::Digits(_) => "digits",
            Self::Transfer(_) => "transfer",
            Self::HangUp => "hang_up",
        }
    }
}
