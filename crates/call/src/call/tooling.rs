//! What the assistant does beside talking.

use std::time::Duration;

use super::{Call, Farewell, Phase};
use crate::tools::Answered;
use crate::{Action, Effect, EndReason, Event, Prompt, Timer};

/// The tool that every assistant has: it ends the call.
const END_CALL: &str = "end_call";

impl Call {
    pub(super) fn tool_called(&mut self, now: Duration, id: &str, name: &str, arguments: &str, actions: &mut Vec<Action>) {
        if !matches!(self.phase, Phase::Talking) {
            return;
        }
        let used = self.tools.count() as u32;
        if !self.tools.begin(id, name, self.session.number, now + self.config.tool_timeout) {
            return;
        }
        self.timers.set(Timer::Owed, None);
        self.tools_in_turn += 1;
        let (id, name) = (id.to_owned(), name.to_owned());
        actions.push(Action::Record(Event::ToolCalled { id: id.clone(), name: name.clone(), arguments: arguments.to_owned() }));
        let refusal = if name == END_CALL && !self.caller_took_part {
            Some("refused: the caller has not said anything yet")
        } else if used >= self.config.tools_per_call {
            Some("refused: too many tools were used in this call; go on without")
        } else if self.tools_in_turn > self.config.tools_per_turn {
            Some("refused: too many tools were used for one answer; answer with what you know")
        } else {
            None
        };
        match refusal {
            Some(refusal) => self.tool_finished(now, &id, refusal, true, None, actions),
            None if name == END_CALL => self.end_call(now, id, actions),
            None => actions.push(Action::RunTool { id, name, arguments: arguments.to_owned() }),
        }
    }

    fn end_call(&mut self, now: Duration, id: String, actions: &mut Vec<Action>) {
        self.tools.finish(&id);
        let said = self.has_taken_leave();
        let output = "the call ends after your farewell".to_owned();
        actions.push(Action::Record(Event::ToolFinished { id: id.clone(), output: output.clone(), failed: false }));
        actions.push(Action::AnswerTool { id, output, failed: false, respond: (!said).then_some(Prompt::Farewell) });
        self.leave(now, EndReason::AssistantHungUp, if said { Farewell::Enough } else { Farewell::Awaited });
    }

    /// Words spoken along with a tool are its announcement; otherwise one is asked for.
    fn has_taken_leave(&self) -> bool {
        self.playback.is_speaking() || (self.active.is_some() && self.spoke == self.active)
    }

    pub(super) fn tool_finished(
        &mut self,
        now: Duration,
        id: &str,
        output: &str,
        failed: bool,
        effect: Option<Effect<'_>>,
        actions: &mut Vec<Action>,
    ) {
        let Some(answered) = self.tools.finish(id) else { return };
        let said = self.has_taken_leave();
        let transfer = matches!(effect, Some(Effect::Transfer(_))) && matches!(self.phase, Phase::Talking);
        let respond = match transfer {
            true => (!said).then_some(Prompt::Connecting),
            false => Some(Prompt::Answer),
        };
        self.answer_tool(now, answered, output, failed, respond, actions);
        match effect {
            Some(Effect::Transfer(to)) if transfer => {
                let awaited = !said && self.session.is_ready();
                self.transfer(now, to, None, actions);
                if let Phase::Ending { farewell, .. } = &mut self.phase {
                    *farewell = if awaited { Farewell::Awaited } else { Farewell::Enough };
                }
            }
            Some(Effect::Digits(keys)) => self.play_keys(keys),
            Some(Effect::Patience) => {
                self.patient = true;
                actions.push(Action::ListenPatiently(true));
            }
            _ => (),
        }
    }

    fn answer_tool(
        &mut self,
        now: Duration,
        answered: Answered,
        output: &str,
        failed: bool,
        respond: Option<Prompt>,
        actions: &mut Vec<Action>,
    ) {
        let Answered { id, name, session } = answered;
        actions.push(Action::Record(Event::ToolFinished { id: id.clone(), output: output.to_owned(), failed }));
        if !self.session.is_ready() || session != self.session.number {
            // The session that asked is gone: the one that follows is told.
            let fact = format!("The tool {name}, which you called before, answered: {output}");
            self.untold.push_back(Action::TellAssistant(fact));
            return;
        }
        let respond = respond.filter(|_| matches!(self.phase, Phase::Talking));
        actions.push(Action::AnswerTool { id, output: output.to_owned(), failed, respond: respond.clone() });
        if let Some(prompt) = respond {
            self.owe(now, prompt);
        }
    }

    pub(super) fn tools_overdue(&mut self, now: Duration, actions: &mut Vec<Action>) {
        while let Some(answered) = self.tools.overdue(now) {
            self.answer_tool(now, answered, "the tool did not answer in time", true, Some(Prompt::Answer), actions);
        }
    }

    /// The caller waits for a tool: says so, differently each time.
    pub(super) fn say_filler(&mut self, now: Duration) {
        let fillers = &self.config.tool_fillers;
        if let Some(filler) = fillers.get(self.fillers % fillers.len().max(1)).cloned() {
            self.fillers += 1;
            self.playback.push_phrase(&filler, false);
        }
        // Twice as long until the next one: a filler a second drives people mad.
        self.timers.set(Timer::Filler, Some(now + self.config.tool_filler_after * 2));
    }

    /// Keys as sound in the line; nonsense plays nothing.
    pub(super) fn play_keys(&mut self, keys: &str) {
        if let Ok(samples) = media::detect::dtmf::tones(keys) {
            let ulaw: Vec<u8> = samples.into_iter().map(media::g711::ulaw::encode).collect();
            self.playback.push_phrase(&ulaw, true);
        }
    }
}
