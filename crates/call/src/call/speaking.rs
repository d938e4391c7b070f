//! The assistant's side: its answers, their sound and words.

use std::time::Duration;

use super::{Call, Farewell, Phase, Turn};
use crate::{Action, ItemId, Prompt, ResponseId, Timer};

/// Texts kept for items without audio; a provider sends a handful at most.
const EARLY_TEXTS_MAX: usize = 8;

impl Call {
    /// Asks for an answer, which then is owed.
    pub(super) fn ask(&mut self, now: Duration, prompt: Prompt, actions: &mut Vec<Action>) {
        actions.push(Action::RequestResponse(prompt.clone()));
        self.owe(now, prompt);
    }

    pub(super) fn response_started(&mut self, response: ResponseId) {
        self.active = Some(response);
        self.newest = self.newest.max(Some(response));
    }

    pub(super) fn response_done(&mut self, response: ResponseId) {
        if self.active == Some(response) {
            self.active = None;
            // It answered, if only by silence or a tool; what failed is asked for again by its mapper.
            self.timers.set(Timer::Owed, None);
        }
    }

    pub(super) fn assistant_audio(&mut self, now: Duration, response: ResponseId, item: ItemId, ulaw: &[u8]) {
        if self.muted.assistant || self.muted.hold {
            // The rest of an answer whose beginning nobody heard is of no use later.
            self.newest = self.newest.max(Some(response));
            self.fence = self.fence.max(Some(response));
        }
        if self.fence >= Some(response) {
            self.counters.assistant_ms_dropped += (ulaw.len() / media::BYTES_PER_MS) as u64;
            return;
        }
        self.newest = self.newest.max(Some(response));
        self.spoke = self.spoke.max(Some(response));
        self.timers.set(Timer::Owed, None);
        self.timers.set(Timer::Filler, None);
        if std::mem::take(&mut self.greeting_awaited) {
            self.greeting = Some(response);
        }
        let answer_begins = !self.playback.is_speaking();
        let refused = self.playback.push(Some(item), ulaw, self.greeting == Some(response));
        self.counters.assistant_ms_dropped += (refused / media::BYTES_PER_MS) as u64;
        if let Some(index) = self.early_texts.iter().position(|(id, _)| *id == item)
            && let Some((_, text)) = self.early_texts.remove(index)
        {
            self.playback.set_text(item, &text);
        }
        if let Some(turn) = &mut self.turn {
            turn.first_audio.get_or_insert(now);
        } else if let Some((_, last)) = self.speech.filter(|_| answer_begins && self.unanswered) {
            // The provider announced no end of turn: its first sound is the decision.
            self.turn = Some(Turn { speech_end: last, decided: now, first_audio: Some(now) });
        }
        (self.unanswered, self.unheard) = (false, false);
        self.timers.set(Timer::Utterance, self.manner.utterance_gap.map(|gap| now + gap));
        if let Phase::Ending { farewell, .. } = &mut self.phase {
            *farewell = Farewell::Enough;
            let until = self.playback.expected_end(now) + self.config.farewell_timeout;
            self.timers.set(Timer::Farewell, Some(until));
        }
    }

    pub(super) fn assistant_text(&mut self, item: ItemId, text: &str) {
        if self.playback.set_text(item, text) {
            return;
        }
        match self.early_texts.iter_mut().find(|(id, _)| *id == item) {
            Some((_, known)) => text.clone_into(known),
            None => {
                if self.early_texts.len() >= EARLY_TEXTS_MAX {
                    self.early_texts.pop_front();
                }
                self.early_texts.push_back((item, text.to_owned()));
            }
        }
    }
}
