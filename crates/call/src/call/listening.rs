//! The caller's side: frames, their arrival, what was said and when.

use std::time::Duration;

use media::g711::ulaw;
use media::{BYTES_PER_MS, FRAME_BYTES, Frame};

use super::{Call, Phase, Turn};
use crate::{Action, Event, ItemId, Prompt, Timer};

/// Frames kept while the caller is silent: the beginning of a word comes before its detection.
const KEPT_IN_SILENCE: usize = 10;
/// Room for frames is made for so many at a time.
const KEPT_GROWTH: usize = 16;
/// Turns whose times are remembered until their words come.
const TURNS_MAX: usize = 16;
/// A pause longer than this begins a new utterance.
const UTTERANCE_PAUSE: Duration = Duration::from_secs(1);
/// Detection comes this much later than speech.
const DETECTION: Duration = Duration::from_millis(60);
/// A callee who has said "hello?" and been silent for so long waits for us.
const OPENING_PAUSE: Duration = Duration::from_millis(500);
/// Whoever speaks on is opened to all the same, this long after the usual time.
const OPENING_MAX: Duration = Duration::from_secs(5);

impl Call {
    pub(super) fn caller_audio(&mut self, now: Duration, frame: &Frame, actions: &mut Vec<Action>) {
        self.counters.caller_frames += 1;
        self.timers.set(Timer::Media, Some(now + self.media_timeout));
        self.measure_arrival(now, frame);
        self.compare_with_played(now, frame);
        let speech = self.detector.push(frame.ulaw()).speech;
        let deaf = self.is_deaf();
        if self.opening_held && speech {
            self.callee_speaks(now);
        }
        if !deaf {
            self.listen(now, frame, speech, actions);
        }
        let frame = if deaf { &Frame::SILENCE } else { frame };
        self.keep(frame);
        if self.session.is_ready() && matches!(self.phase, Phase::Talking | Phase::Ending { .. }) {
            actions.push(Action::SendToAssistant(*frame));
        }
    }

    /// Whether the assistant hears silence instead of the caller.
    fn is_deaf(&self) -> bool {
        self.muted.caller || self.muted.hold || self.greeting_awaited || self.opening_held || self.playback.is_protected()
    }

    /// Follows the caller's speech by our own detector.
    fn listen(&mut self, now: Duration, frame: &Frame, speech: bool, actions: &mut Vec<Action>) {
        let begins = speech && !self.talking;
        let ends = self.talking && !speech;
        self.talking = speech;
        if speech {
            self.unanswered = true;
            self.unheard = true;
            self.timers.set(Timer::Idle, None);
            self.speech = match self.speech {
                Some((start, last)) if now.saturating_sub(last) < UTTERANCE_PAUSE => Some((start, now)),
                _ => Some((now.saturating_sub(DETECTION), now)),
            };
        }
        if begins {
            self.own_sign(now, actions);
        }
        if speech {
            self.suspected_speech(now, Duration::from_millis((frame.ulaw().len() / BYTES_PER_MS) as u64), actions);
        }
        if ends {
            self.suspected_speech_ended(now);
        }
    }

    /// Keeps what a new session would have to hear: everything since the caller began, else a little.
    fn keep(&mut self, frame: &Frame) {
        let waiting = self.unheard || matches!(self.phase, Phase::Connecting);
        let most = if waiting { self.preroll_frames_max } else { KEPT_IN_SILENCE.min(self.preroll_frames_max) };
        if self.kept.len() == self.kept.capacity() {
            // Doubling would hold a hundred frames that are never there.
            self.kept.reserve_exact(KEPT_GROWTH);
        }
        self.kept.push_back(*frame);
        let excess = self.kept.len().saturating_sub(most);
        // Not popped one by one: that would read what nobody needs any more, from memory that is cold by now.
        self.kept.drain(..excess);
        if !self.session.is_ready() {
            self.counters.caller_frames_dropped += excess as u64;
        }
        if self.kept.capacity() > most + 2 * KEPT_GROWTH {
            self.kept.shrink_to(most + KEPT_GROWTH);
        }
    }

    fn compare_with_played(&mut self, now: Duration, frame: &Frame) {
        let Some(echo) = &mut self.echo else { return };
        let mut heard = [0; FRAME_BYTES];
        for (sample, code) in heard.iter_mut().zip(frame.ulaw()) {
            *sample = ulaw::decode(*code);
        }
        let length = frame.ulaw().len();
        echo.heard(&heard[..length]);
        echo.played(&self.playback.at_the_ear(now).map(ulaw::decode)[..length]);
    }

    /// Jitter as RFC 3550 (section 6.4.1) smooths it. On TCP nothing is lost or reordered, only late.
    fn measure_arrival(&mut self, now: Duration, frame: &Frame) {
        let due = Duration::from_millis((frame.ulaw().len() / BYTES_PER_MS) as u64);
        if let Some(last) = self.last_frame.replace(now) {
            let gap = now.saturating_sub(last);
            self.counters.longest_gap = self.counters.longest_gap.max(gap);
            let (deviation, jitter) = (gap.abs_diff(due).as_micros() as i64, self.counters.jitter.as_micros() as i64);
            self.counters.jitter = Duration::from_micros((jitter + (deviation - jitter) / 16).max(0) as u64);
        }
    }

    /// The callee says something before we have opened: they are let finish.
    fn callee_speaks(&mut self, now: Duration) {
        let latest = self.config.callee_first.unwrap_or_default() + OPENING_MAX;
        if now < latest {
            self.timers.set(Timer::Opening, Some((now + OPENING_PAUSE).min(latest)));
        } else {
            self.open();
        }
    }

    /// The opening, which was made while the callee spoke, is let out.
    pub(super) fn open(&mut self) {
        if std::mem::take(&mut self.opening_held) {
            (self.unanswered, self.unheard) = (false, false);
        }
        self.playback.halt(false);
    }

    /// The caller has shown to be there.
    pub(super) fn caller_is_there(&mut self) {
        self.caller_took_part = true;
        self.idle_prompts = 0;
        self.timers.set(Timer::Idle, None);
    }

    pub(super) fn speech_stopped(&mut self, now: Duration, item: Option<ItemId>, actions: &mut Vec<Action>) {
        let (start, end) = self.speech.unwrap_or((now, now));
        if let Some(item) = item {
            if self.turns.len() == TURNS_MAX {
                self.turns.pop_front();
            }
            self.turns.push_back((item, start, end.min(now)));
        }
        self.tools_in_turn = 0;
        if std::mem::take(&mut self.patient) {
            actions.push(Action::ListenPatiently(false));
        }
        if let Some(suspicion) = &mut self.suspicion {
            suspicion.turn_over = true;
            return;
        }
        if self.dismissed {
            return;
        }
        self.turn = Some(Turn { speech_end: end.min(now), decided: now, first_audio: None });
        self.caller_took_part = true;
        if !self.manner.decides {
            self.ask(now, Prompt::Answer, actions);
        } else if !self.playback.is_speaking() {
            // Some providers tell of the end when their answer is playing already.
            self.owe(now, Prompt::Answer);
        }
    }

    pub(super) fn caller_text(&mut self, now: Duration, item: Option<ItemId>, text: &str, actions: &mut Vec<Action>) {
        self.caller_is_there();
        let turn = item.and_then(|item| self.turns.iter().position(|it| it.0 == item)).and_then(|it| self.turns.remove(it));
        let (start, end) = turn.map(|it| (it.1, it.2)).or(self.speech).unwrap_or((now, now));
        let text = text.trim();
        if !text.is_empty() {
            actions.push(Action::Record(Event::CallerSaid { text: text.to_owned(), start, end }));
        }
        if !self.talking {
            // It was understood: a new session is told the words.
            self.unheard = false;
        }
        self.judge_words(now, text, actions);
    }
}
