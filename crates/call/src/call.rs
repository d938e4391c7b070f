//! The state machine. Start reading at [`Call::handle`].

mod control;
mod floor;
mod keys;
mod listening;
mod patience;
mod session;
mod speaking;
mod tooling;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use media::Frame;
use media::detect::{EchoDetector, SpeechDetector};

use crate::playback::{Cleared, Playback, Utterance, behind};
use crate::timers::Timers;
use crate::tools::ToolLedger;
use crate::{Action, CallConfig, Counters, EndReason, Event, Input, ItemId, Latency, Manner, Prompt, ResponseId, Timer};

use control::Muted;
use floor::Suspicion;
use session::Session;

/// Phase-specific data lives in its variant: a phase cannot carry another's leftovers.
#[derive(Clone, Debug)]
enum Phase {
    /// No assistant was there yet.
    Connecting,
    Talking,
    Ending {
        reason: EndReason,
        farewell: Farewell,
    },
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Farewell {
    /// A goodbye was asked for and has not begun.
    Awaited,
    /// What is in the ledger is all there will be.
    Enough,
}

/// The latency of a turn while it is being measured.
#[derive(Clone, Copy, Debug)]
struct Turn {
    speech_end: Duration,
    decided: Duration,
    first_audio: Option<Duration>,
}

/// One phone call as a value.
#[derive(Debug)]
pub struct Call {
    config: Arc<CallConfig>,
    /// Of it, what every frame looks at: the rest lies elsewhere, and is cold by then.
    media_timeout: Duration,
    preroll_frames_max: usize,
    /// Of the assistant whose turn it is.
    manner: Manner,
    phase: Phase,
    timers: Timers,
    playback: Playback,
    tools: ToolLedger,
    /// Tools used since the caller last spoke.
    tools_in_turn: u32,
    /// Fillers said so far.
    fillers: usize,
    detector: SpeechDetector,
    /// Only where signs of our own are weighed.
    echo: Option<Box<EchoDetector>>,
    counters: Counters,
    /// The assistant's side.
    session: Session,
    /// The answer being generated.
    active: Option<ResponseId>,
    /// The newest answer heard of.
    newest: Option<ResponseId>,
    /// Answers up to here are void.
    fence: Option<ResponseId>,
    /// The newest answer that made a sound.
    spoke: Option<ResponseId>,
    /// The greeting was asked for, must be heard out and has not begun; then the answer that is it.
    greeting_awaited: bool,
    greeting: Option<ResponseId>,
    /// The caller has said or keyed something.
    caller_took_part: bool,
    /// When the last caller frame came.
    last_frame: Option<Duration>,
    /// Local detector: the caller is speaking.
    talking: bool,
    /// Local detector: the caller's current or last utterance.
    speech: Option<(Duration, Duration)>,
    /// When the caller spoke, by the provider's items.
    turns: VecDeque<(ItemId, Duration, Duration)>,
    /// The caller has spoken since the assistant's last sound.
    unanswered: bool,
    /// The caller has spoken, and neither words nor an answer show that it was understood.
    unheard: bool,
    /// Caller frames that nobody has understood yet: the newest few, or all since the caller began.
    kept: VecDeque<Frame>,
    /// A sound of the caller's that may be an interruption.
    suspicion: Option<Suspicion>,
    /// The caller's last utterance was taken for no interruption.
    dismissed: bool,
    turn: Option<Turn>,
    /// What the assistant owes, and how often it has been overdue.
    owed: (Prompt, u32),
    /// How often the silent caller has been asked.
    idle_prompts: u32,
    /// Keys not yet told to the assistant.
    keys: String,
    /// What is to be done with the assistant once it is there.
    untold: VecDeque<Action>,
    /// Texts of items whose audio has not come yet.
    early_texts: VecDeque<(ItemId, String)>,
    muted: Muted,
    /// The caller spells or reads out a number.
    patient: bool,
    /// The callee is being waited for.
    opening_held: bool,
    heard_something: bool,
}

impl Call {
    /// A call whose stream has just started. The first assistant of the ladder is being dialled.
    ///
    /// # Panics
    /// When the ladder is empty.
    pub fn new(config: impl Into<Arc<CallConfig>>) -> Self {
        let config = config.into();
        assert!(!config.assistants.is_empty(), "a call needs an assistant");
        let mut timers = Timers::default();
        timers.set(Timer::Answer, Some(config.answer_timeout));
        timers.set(Timer::Media, Some(config.media_timeout));
        timers.set(Timer::Duration, Some(config.duration_max));
        timers.set(Timer::Warning, config.warn_before.and_then(|it| config.duration_max.checked_sub(it)));
        timers.set(Timer::Opening, config.callee_first);
        let mut playback = Playback::new(config.lead, config.backlog_max, config.fill_silence);
        playback.halt(config.callee_first.is_some());
        if let Some(notice) = &config.notice {
            playback.push_phrase(notice, true);
        }
        if let Some(phrase) = &config.phrase {
            playback.push_phrase(phrase, false);
        }
        Self {
            phase: Phase::Connecting,
            timers,
            playback,
            tools: ToolLedger::default(),
            tools_in_turn: 0,
            fillers: 0,
            detector: SpeechDetector::default(),
            echo: config.interruption.echo_guard.then(Box::default),
            counters: Counters::default(),
            session: Session::default(),
            active: None,
            newest: None,
            fence: None,
            spoke: None,
            greeting_awaited: false,
            greeting: None,
            caller_took_part: false,
            last_frame: None,
            talking: false,
            speech: None,
            turns: VecDeque::new(),
            unanswered: false,
            unheard: false,
            kept: VecDeque::new(),
            suspicion: None,
            dismissed: false,
            turn: None,
            owed: (config.opening.clone(), 0),
            idle_prompts: 0,
            keys: String::new(),
            untold: VecDeque::new(),
            early_texts: VecDeque::new(),
            muted: Muted::default(),
            patient: false,
            opening_held: config.callee_first.is_some(),
            heard_something: false,
            media_timeout: config.media_timeout,
            preroll_frames_max: config.preroll_frames_max,
            manner: config.assistants[0],
            config,
        }
    }

    /// Advances the call to `now` (since the stream's start) by one input; appends what must be done, in order, to
    /// `actions`. After the end nothing is appended any more.
    pub fn handle(&mut self, now: Duration, input: Input<'_>, actions: &mut Vec<Action>) {
        while let Some(timer) = self.timers.expired(now) {
            self.expire(now, timer, actions);
        }
        if self.is_ended() {
            return;
        }
        match input {
            Input::Tick => (),
            Input::CallerAudio(frame) => self.caller_audio(now, frame, actions),
            Input::CallerKey(key) => self.caller_key(now, key, actions),
            Input::MarkPlayed(mark) => {
                let over = self.playback.confirm(now, mark);
                record_utterances(over, actions);
            }
            Input::CallerStopped => self.end(now, EndReason::CallerHungUp, actions),
            Input::CallerEnded(reason) => self.end(now, reason, actions),
            Input::AssistantReady { opened } => self.assistant_ready(now, opened, actions),
            Input::ResponseStarted(response) => self.response_started(response),
            Input::ResponseDone(response) => self.response_done(response),
            Input::AssistantAudio { response, item, ulaw } => self.assistant_audio(now, response, item, ulaw),
            Input::AssistantAudioDone { response, item } => {
                if self.fence < Some(response) {
                    self.playback.finish(Some(item));
                }
            }
            Input::AssistantText { item, text } => self.assistant_text(item, text),
            Input::CallerText { item, text } => self.caller_text(now, item, text, actions),
            Input::CallerSpeechStarted => self.speech_started(now, actions),
            Input::CallerSpeechStopped { item } => self.speech_stopped(now, item, actions),
            Input::AssistantInterrupted { through } => self.assistant_interrupted(now, through, actions),
            Input::ToolCalled { id, name, arguments } => self.tool_called(now, id, name, arguments, actions),
            Input::ToolFinished { id, output, failed, effect } => self.tool_finished(now, id, output, failed, effect, actions),
            Input::Usage { input_tokens, cached_tokens, output_tokens } => {
                self.counters.input_tokens += input_tokens;
                self.counters.cached_tokens += cached_tokens;
                self.counters.output_tokens += output_tokens;
                self.session_grown(input_tokens);
            }
            Input::AssistantEnded(reason) => self.assistant_ended(now, reason, actions),
            Input::Control(control) => self.control(now, control, actions),
            Input::Drain => self.leave(now, EndReason::Drained, Farewell::Enough),
        }
        self.settle(now, actions);
    }

    /// When `handle` wants [`Input::Tick`] at the latest, and why; the reason goes to the log.
    pub fn deadline(&self) -> Option<(Duration, Timer)> {
        self.timers.next()
    }

    /// What the next input makes it look at or write to outside of itself, for whoever wants to have that fetched from memory
    /// before. Only where it lies, as a guess: never to be followed.
    pub fn looks_next_at(&self) -> impl Iterator<Item = *const [u8]> {
        self.playback.looks_next_at().chain(behind(&self.kept, 1)).chain(self.detector.looks_next_at())
    }

    /// Whether the end was reached; nothing will happen any more.
    pub fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    /// What went through so far.
    pub fn counters(&self) -> Counters {
        Counters { played_frames: self.playback.frames, underruns: self.playback.underruns, ..self.counters }
    }

    /// The words of what the assistant has said and the caller is still to hear, oldest first: a new session must know them.
    pub fn words_to_come(&self) -> impl Iterator<Item = &str> {
        self.playback.words_to_come()
    }

    /// Plays what is due, ends what is over, sets the timers that follow from the state.
    fn settle(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.is_ended() {
            return;
        }
        let before = actions.len();
        let silent = self.playback.pump(now, actions);
        let (handed_over_end, mut batch, mut sound) = (self.playback.handed_over_end(now), 0, false);
        for action in &actions[before..] {
            if let Action::PlayToCaller(frame) = action {
                self.detector.played(frame.ulaw(), (handed_over_end - now).as_millis() as u32);
                batch += 1;
                sound |= !self.heard_something && *frame != Frame::SILENCE;
            }
        }
        record_utterances(silent, actions);
        if batch > 0 {
            // Frames of this batch play after what Twilio still holds; the first one begins where the rest ends.
            let ear = handed_over_end.saturating_sub(Duration::from_millis(20) * batch).max(now);
            if sound {
                self.heard_something = true;
                actions.push(Action::Record(Event::FirstAudio { after: ear }));
            }
            if let Some(turn) = self.turn
                && let Some(first_audio) = turn.first_audio
            {
                actions.push(Action::Record(Event::Turn(Latency {
                    endpointing: turn.decided.saturating_sub(turn.speech_end),
                    thinking: first_audio.saturating_sub(turn.decided),
                    bridging: now.saturating_sub(first_audio),
                    playout: ear - now,
                })));
                self.turn = None;
            }
        }
        if let Phase::Ending { reason, farewell } = &self.phase
            && *farewell == Farewell::Enough
            && !self.playback.is_speaking()
            && (self.active.is_none() || !self.session.is_ready())
        {
            let reason = *reason;
            return self.end(now, reason, actions);
        }
        self.watch(now, actions);
        self.timers.set(Timer::Playout, self.playback.next_pump(now));
        self.timers.set(Timer::Tool, self.tools.next_due());
    }

    /// Ends after what is still to be heard.
    fn leave(&mut self, now: Duration, reason: EndReason, farewell: Farewell) {
        if !matches!(self.phase, Phase::Ending { .. } | Phase::Ended) {
            self.phase = Phase::Ending { reason, farewell };
            self.suspicion = None;
            self.open();
            for done in [
                Timer::Answer,
                Timer::Redial,
                Timer::Roll,
                Timer::Excuse,
                Timer::Owed,
                Timer::Idle,
                Timer::Warning,
                Timer::Keys,
                Timer::Filler,
                Timer::Opening,
                Timer::Verdict,
            ] {
                self.timers.set(done, None);
            }
            let until = self.playback.expected_end(now) + self.config.farewell_timeout;
            self.timers.set(Timer::Farewell, Some(until));
        }
    }

    fn end(&mut self, now: Duration, reason: EndReason, actions: &mut Vec<Action>) {
        let Cleared { over, .. } = self.playback.stop(now);
        debug_assert!(self.playback.balances(), "speech has vanished: {:?}", self.playback);
        record_utterances(over, actions);
        self.phase = Phase::Ended;
        self.timers = Timers::default();
        actions.push(Action::Record(Event::Ended {
            reason,
            duration: now,
            counters: self.counters(),
            line: self.detector.line(),
        }));
        if self.session.is_open() {
            actions.push(Action::CloseAssistant);
        }
        actions.push(Action::CloseCaller);
    }

    fn expire(&mut self, now: Duration, timer: Timer, actions: &mut Vec<Action>) {
        match timer {
            Timer::Answer => {
                actions.push(Action::CloseAssistant);
                self.session_failed(now, EndReason::AssistantTimeout, actions);
            }
            Timer::Redial => self.redial(now, actions),
            Timer::Roll => self.roll_due(now, actions),
            Timer::Excuse => self.excuse(),
            Timer::Media => return self.end(now, EndReason::MediaStalled, actions),
            Timer::Farewell => {
                if let Phase::Ending { reason, .. } = self.phase {
                    return self.end(now, reason, actions);
                }
            }
            Timer::Duration => {
                if matches!(self.phase, Phase::Talking) && self.session.is_ready() {
                    actions.push(Action::RequestResponse(Prompt::Farewell));
                    self.leave(now, EndReason::DurationLimit, Farewell::Awaited);
                } else {
                    return self.end(now, EndReason::DurationLimit, actions);
                }
            }
            Timer::Tool => self.tools_overdue(now, actions),
            Timer::Filler => self.say_filler(now),
            Timer::Utterance => {
                self.playback.finish_all();
                self.active = None;
            }
            Timer::Playout => (),
            Timer::Owed => self.answer_overdue(now, actions),
            Timer::Idle => self.idle(now, actions),
            Timer::Keys => self.keys_complete(now, actions),
            Timer::Warning => {
                if matches!(self.phase, Phase::Talking) && self.session.is_ready() {
                    actions.push(Action::RequestResponse(Prompt::EndingSoon));
                }
            }
            Timer::Verdict => self.dismiss(now, actions),
            Timer::Opening => self.open(),
        }
        self.settle(now, actions);
    }
}

fn record_utterances(over: Vec<Utterance>, actions: &mut Vec<Action>) {
    for it in over {
        // Our own phrases are no part of the conversation; of an unheard item nothing was said.
        let text = it.text.trim();
        if it.item.is_some() && !text.is_empty() {
            actions.push(Action::Record(Event::AssistantSaid {
                text: text.to_owned(),
                start: it.start,
                end: it.end,
                cut: !it.complete,
            }));
        }
    }
}

#[cfg(test)]
mod tests;
