//! Who speaks: signs that the caller wants the floor, their proof, and the cut.

use std::time::Duration;

use media::detect::SpeechDetector;

use super::{Call, Phase, record_utterances};
use crate::playback::Cleared;
use crate::{Action, EndReason, Event, HeardBy, Meanwhile, Prompt, ResponseId, Timer};

/// A sound of the caller's that may be an interruption.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Suspicion {
    /// Speech so far, by our own detector.
    spoken: Duration,
    /// The provider has said that the caller's turn is over: it waits for us to ask for an answer.
    pub(super) turn_over: bool,
}

/// More alike than this, and what the line brings is what was just played.
const ECHO_SIMILARITY: f32 = 0.6;
/// A suspicion that nothing decides ends after this long.
const SUSPICION_MAX: Duration = Duration::from_secs(5);

impl Call {
    /// The provider's detector heard the caller begin.
    pub(super) fn speech_started(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.dismissed = false;
        self.tools_in_turn = 0;
        if self.playback.is_protected() {
            return;
        }
        if self.manner.decides {
            self.caller_is_there();
            self.timers.set(Timer::Owed, None);
            self.cut(now, false, actions);
        } else if self.config.interruption.heard_by != HeardBy::Ourselves {
            self.sign(now, actions);
        }
    }

    /// Our own detector heard the caller begin.
    pub(super) fn own_sign(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.config.interruption.heard_by != HeardBy::Provider {
            self.sign(now, actions);
        }
    }

    /// The provider has cut itself already.
    pub(super) fn assistant_interrupted(&mut self, now: Duration, through: ResponseId, actions: &mut Vec<Action>) {
        self.caller_is_there();
        self.newest = self.newest.max(Some(through));
        self.cut(now, false, actions);
        self.fence = self.fence.max(Some(through));
    }

    /// Somebody seems to speak who is not the assistant.
    fn sign(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let audible = self.playback.is_speaking();
        if self.suspicion.is_some() || (!audible && self.active.is_none()) {
            if !self.manner.decides {
                self.timers.set(Timer::Owed, None);
            }
            return;
        }
        if audible && self.is_echo() {
            self.counters.echoes += 1;
            self.dismissed = true;
            return;
        }
        let decides = self.manner.decides;
        match self.config.interruption.confirm.as_ref().filter(|_| audible) {
            None if !decides => {
                self.caller_is_there();
                self.timers.set(Timer::Owed, None);
                self.cut(now, true, actions);
            }
            None if !audible => (),
            confirm => {
                let meanwhile = confirm.map_or(Meanwhile::Duck, |it| it.meanwhile);
                self.suspicion = Some(Suspicion::default());
                self.timers.set(Timer::Verdict, Some(now + SUSPICION_MAX));
                match meanwhile {
                    Meanwhile::Duck => self.playback.ducked = true,
                    Meanwhile::Pause => {
                        let cleared = self.playback.take_back(now);
                        self.playback.halt(true);
                        self.clear(cleared, actions);
                    }
                }
            }
        }
    }

    fn is_echo(&mut self) -> bool {
        self.echo.as_mut().and_then(|it| it.compare()).is_some_and(|it| it.similarity > ECHO_SIMILARITY)
    }

    /// Our own detector hears the caller go on.
    pub(super) fn suspected_speech(&mut self, now: Duration, length: Duration, actions: &mut Vec<Action>) {
        let Some(suspicion) = &mut self.suspicion else { return };
        suspicion.spoken += length;
        let proven = self.config.interruption.confirm.as_ref().is_some_and(|it| suspicion.spoken >= it.speech);
        // With a provider that decides, its word is the proof.
        if proven && !self.manner.decides {
            self.interrupt(now, actions);
        }
    }

    /// Our own detector hears the caller no more: what they said decides, if it comes in time.
    pub(super) fn suspected_speech_ended(&mut self, now: Duration) {
        if self.suspicion.is_some() {
            let wait = self.config.interruption.confirm.as_ref().map_or(SUSPICION_MAX / 5, |it| it.words_within);
            self.timers.set(Timer::Verdict, Some(now + wait));
        }
    }

    /// The caller's words have come.
    pub(super) fn judge_words(&mut self, now: Duration, text: &str, actions: &mut Vec<Action>) {
        if self.manner.decides {
            return;
        }
        let Some(confirm) = &self.config.interruption.confirm else { return };
        let meant = !confirm.back_channel.covers(text);
        if self.suspicion.is_some() {
            if meant {
                self.interrupt(now, actions);
            } else {
                self.dismiss(now, actions);
            }
        } else if self.dismissed && meant {
            // The words came too late for the verdict: they count all the same.
            self.dismissed = false;
            self.cut(now, true, actions);
            self.ask(now, Prompt::Answer, actions);
        }
    }

    /// It was an interruption.
    fn interrupt(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let turn_over = self.suspicion.take().is_some_and(|it| it.turn_over);
        self.timers.set(Timer::Verdict, None);
        self.caller_is_there();
        self.cut(now, true, actions);
        if turn_over {
            self.ask(now, Prompt::Answer, actions);
        }
    }

    /// It was none: the assistant goes on as if nothing had been.
    pub(super) fn dismiss(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.timers.set(Timer::Verdict, None);
        if self.suspicion.take().is_some() {
            self.dismissed = true;
            (self.unanswered, self.unheard) = (false, false);
            self.counters.false_alarms += 1;
            self.playback.ducked = false;
            self.playback.halt(false);
            actions.push(Action::Record(Event::FalseAlarm { at: now }));
        }
    }

    /// Barge-in. Silence comes first: the caller is already talking.
    pub(super) fn cut(&mut self, now: Duration, cancel: bool, actions: &mut Vec<Action>) {
        if self.playback.is_protected() {
            return;
        }
        // A caller who speaks into the farewell does not want to be hung up on.
        if let Phase::Ending { reason: EndReason::AssistantHungUp | EndReason::CallerSilent, .. } = self.phase
            && self.session.is_ready()
        {
            self.phase = Phase::Talking;
            self.timers.set(Timer::Farewell, None);
        }
        self.silence(now, cancel, actions);
    }

    /// Stops what is being said and voids what is being made.
    pub(super) fn silence(&mut self, now: Duration, cancel: bool, actions: &mut Vec<Action>) {
        self.suspicion = None;
        self.timers.set(Timer::Verdict, None);
        let active = self.active.filter(|it| self.fence < Some(*it));
        if self.playback.is_speaking() {
            let reaction = self.speech.filter(|it| self.talking && it.1 <= now).map(|(start, _)| now - start);
            let cleared = self.playback.cut(now);
            let (over, held) = (cleared.over.clone(), cleared.held);
            self.clear(Cleared { over: Vec::new(), ..cleared }, actions);
            for utterance in &over {
                if let Some(item) = utterance.item.filter(|_| !utterance.complete) {
                    actions.push(Action::Truncate { item, heard: utterance.heard });
                }
            }
            self.counters.interruptions += 1;
            actions.push(Action::Record(Event::Interrupted {
                heard: over.iter().map(|it| it.heard).sum(),
                received: over.iter().map(|it| it.received).sum(),
                cleared: held,
                reaction,
            }));
            record_utterances(over, actions);
            self.fence = self.fence.max(self.newest);
        } else if active.is_none() {
            return;
        }
        if let Some(active) = active {
            self.fence = self.fence.max(Some(active));
            if cancel && self.session.is_ready() {
                actions.push(Action::CancelResponse(active));
            }
        }
        self.turn = None;
    }

    /// Has Twilio throw away what it holds, and end softly.
    fn clear(&mut self, cleared: Cleared, actions: &mut Vec<Action>) {
        actions.push(Action::ClearCaller);
        SpeechDetector::cleared(&mut self.detector);
        if let Some(fade) = cleared.fade {
            self.detector.played(fade.ulaw(), 20);
            actions.push(Action::PlayToCaller(fade));
        }
        record_utterances(cleared.over, actions);
    }
}
