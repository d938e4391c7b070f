//! The state machine. Start reading at [`Call::handle`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use media::Frame;
use media::detect::SpeechDetector;

use crate::playback::{Order, Playback, Utterance};
use crate::timers::Timers;
use crate::tools::ToolLedger;
use crate::{Counters, EndReason, Event, ItemId, Latency, Mark, ResponseId, Timer};

/// Limits and timers of one call. No `Default`: only the operator knows the right values.
#[derive(Clone, Debug)]
pub struct CallConfig {
    /// Longest wait for the assistant's session.
    pub answer_timeout: Duration,
    /// Caller frames (20 ms each) kept while the assistant connects; the oldest go first.
    pub preroll_frames_max: usize,
    /// Audio kept at Twilio ahead of the ear: enough to hide scheduling, little enough to make `clear` cheap.
    pub lead: Duration,
    /// Silence is played between utterances, to carry a background sound; otherwise nothing is.
    pub fill_silence: bool,
    /// Assistant audio kept here; what comes on top is dropped and counted.
    pub backlog_max: Duration,
    /// Longest wait for a farewell to begin, and for its last mark after its expected end.
    pub farewell_timeout: Duration,
    /// Longest gap between caller frames.
    pub media_timeout: Duration,
    /// Longest call; the assistant is asked to say goodbye when it is reached.
    pub duration_max: Duration,
    /// How long before that the assistant is asked to warn the caller; `None` never.
    pub warn_before: Option<Duration>,
    /// Longest wait for a tool.
    pub tool_timeout: Duration,
    /// An answer that is owed must begin within this time: then it is asked for again, then `filler` is played, then the
    /// assistant counts as lost. `None` waits for ever.
    pub answer_due: Option<Duration>,
    /// What is played while an answer is overdue, μ-law.
    pub filler: Option<Arc<[u8]>>,
    /// Silence of both sides after which the assistant asks whether the caller is there; `None` never.
    pub idle_after: Option<Duration>,
    /// How often it asks before it says goodbye.
    pub idle_prompts_max: u32,
    /// Keys that follow each other within this time are one entry, told to the assistant as a whole; `#` ends one at once.
    pub key_gap: Duration,
    /// Gap in the audio that ends an utterance, for providers that announce no end; `None` for those that do. Speech comes
    /// faster than it plays, so a short gap is proof enough.
    pub utterance_gap: Option<Duration>,
    /// The provider cancels its own answer when it hears the caller; otherwise we order it.
    pub provider_cancels: bool,
    /// Our own phrase at the start of the stream, μ-law: what a resumed caller hears at once.
    pub phrase: Option<Arc<[u8]>>,
    /// What the assistant is asked for when it is ready.
    pub opening: Prompt,
}

/// What an answer is asked for. Providers that speak unprompted ignore it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Greet the caller.
    Greeting,
    /// Go on after an interruption of the line: no greeting, no repetition.
    Continuation,
    /// Answer what was just added to the conversation.
    Answer,
    /// Ask whether the caller is still there.
    AreYouThere,
    /// Tell the caller that the call must end soon.
    EndingSoon,
    /// Say goodbye.
    Farewell,
}

/// What happened.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // Fields are what their types say.
pub enum Input<'a> {
    /// Time went by; see [`Call::deadline`].
    Tick,
    /// Up to 20 ms from the caller.
    CallerAudio(Frame),
    /// A key of the caller's.
    CallerKey(char),
    /// Twilio echoed a mark.
    MarkPlayed(Mark),
    /// Twilio said `stop`.
    CallerStopped,
    /// The caller's side ended otherwise: lost, stalled, misbehaved, superseded.
    CallerEnded(EndReason),
    /// The session is configured, history replayed, formats known.
    AssistantReady,
    /// The provider began an answer.
    ResponseStarted(ResponseId),
    /// The provider finished an answer, whatever its outcome.
    ResponseDone(ResponseId),
    /// Speech of an answer, μ-law, any length.
    AssistantAudio { response: ResponseId, item: ItemId, ulaw: &'a [u8] },
    /// The item's audio is complete.
    AssistantAudioDone { response: ResponseId, item: ItemId },
    /// All words of an item known so far.
    AssistantText { item: ItemId, text: &'a str },
    /// What the caller said, as the provider wrote it down.
    CallerText(&'a str),
    /// The provider's detector heard the caller begin.
    CallerSpeechStarted,
    /// The provider's detector heard the caller end.
    CallerSpeechStopped,
    /// The provider cut itself: everything up to this answer is void.
    AssistantInterrupted { through: ResponseId },
    /// The assistant wants a tool run.
    ToolCalled { id: &'a str, name: &'a str, arguments: &'a str },
    /// A tool answered.
    ToolFinished { id: &'a str, output: &'a str, failed: bool },
    /// Tokens billed.
    Usage { input_tokens: u64, output_tokens: u64 },
    /// The session is over: normally, lost or refused.
    AssistantEnded(EndReason),
    /// This process is shutting down: leave at the end of the utterance.
    Drain,
}

/// What must be done, in order.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // Fields are what their types say.
pub enum Action {
    /// Caller audio for the provider.
    SendToAssistant(Frame),
    /// 20 ms for Twilio.
    PlayToCaller(Frame),
    /// A mark behind the audio sent so far.
    MarkCaller(Mark),
    /// Throw away what Twilio holds.
    ClearCaller,
    /// Tell the provider how much of an item was heard; zero means nothing of it.
    Truncate { item: ItemId, heard: Duration },
    /// Stop an answer that the provider would not stop by itself.
    CancelResponse(ResponseId),
    /// Ask for an answer.
    RequestResponse(Prompt),
    /// Add a fact to the conversation, and have it answered.
    TellAssistant(String),
    /// Run a tool; the answer comes back as [`Input::ToolFinished`].
    RunTool { id: String, name: String, arguments: String },
    /// The answer to a tool call; `respond` asks the assistant to go on.
    AnswerTool { id: String, output: String, failed: bool, respond: Option<Prompt> },
    /// A fact for the record.
    Record(Event),
    /// Close the provider's socket normally.
    CloseAssistant,
    /// Close the caller's socket normally: Twilio then asks `next`.
    CloseCaller,
}

/// Phase-specific data lives in its variant: a phase cannot carry another's leftovers.
#[derive(Clone, Debug)]
enum Phase {
    Connecting { preroll: VecDeque<Frame> },
    Talking,
    Ending { reason: EndReason, farewell: Farewell },
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
    config: CallConfig,
    phase: Phase,
    timers: Timers,
    playback: Playback,
    tools: ToolLedger,
    detector: SpeechDetector,
    counters: Counters,
    /// Whether the assistant's socket is there.
    assistant_alive: bool,
    /// The answer being generated.
    active: Option<ResponseId>,
    /// The newest answer heard of.
    newest: Option<ResponseId>,
    /// Answers up to here are void.
    fence: Option<ResponseId>,
    /// The newest answer that made a sound.
    spoke: Option<ResponseId>,
    /// The caller has said or keyed something.
    caller_took_part: bool,
    /// When the last caller frame came.
    last_frame: Option<Duration>,
    /// Local detector: the caller's current or last utterance.
    speech: Option<(Duration, Duration)>,
    /// The caller has spoken since the assistant's last sound.
    unanswered: bool,
    turn: Option<Turn>,
    /// What the assistant owes, and how often it has been overdue.
    owed: (Prompt, u32),
    /// How often the silent caller has been asked.
    idle_prompts: u32,
    /// Keys not yet told to the assistant.
    keys: String,
    /// Texts of items whose audio has not come yet.
    early_texts: VecDeque<(ItemId, String)>,
    orders: Vec<Order>,
}

/// Texts kept for items without audio; a provider sends a handful at most.
const EARLY_TEXTS_MAX: usize = 8;
/// Longest entry: a card number with its prefix is shorter.
const KEYS_MAX: usize = 32;

impl Call {
    /// A call whose stream has just started.
    pub fn new(config: CallConfig) -> Self {
        let mut timers = Timers::default();
        timers.set(Timer::Answer, Some(config.answer_timeout));
        timers.set(Timer::Media, Some(config.media_timeout));
        timers.set(Timer::Duration, Some(config.duration_max));
        timers.set(Timer::Warning, config.warn_before.and_then(|it| config.duration_max.checked_sub(it)));
        let mut playback = Playback::new(config.lead, config.backlog_max, config.fill_silence);
        if let Some(phrase) = &config.phrase {
            playback.push(None, phrase);
            playback.finish(None);
        }
        Self {
            phase: Phase::Connecting { preroll: VecDeque::with_capacity(config.preroll_frames_max) },
            timers,
            playback,
            tools: ToolLedger::default(),
            detector: SpeechDetector::default(),
            counters: Counters::default(),
            assistant_alive: true,
            active: None,
            newest: None,
            fence: None,
            spoke: None,
            caller_took_part: false,
            last_frame: None,
            speech: None,
            unanswered: false,
            turn: None,
            owed: (config.opening, 0),
            idle_prompts: 0,
            keys: String::new(),
            early_texts: VecDeque::new(),
            orders: Vec::with_capacity(32),
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
            Input::AssistantReady => self.assistant_ready(now, actions),
            Input::ResponseStarted(response) => {
                self.active = Some(response);
                self.newest = self.newest.max(Some(response));
            }
            Input::ResponseDone(response) => {
                if self.active == Some(response) {
                    self.active = None;
                    // It answered, if only by silence or a tool; what failed is asked for again by its mapper.
                    self.timers.set(Timer::Owed, None);
                }
            }
            Input::AssistantAudio { response, item, ulaw } => self.assistant_audio(now, response, item, ulaw),
            Input::AssistantAudioDone { response, item } => {
                if self.fence < Some(response) {
                    self.playback.finish(Some(item));
                }
            }
            Input::AssistantText { item, text } => self.assistant_text(item, text),
            Input::CallerText(text) => self.caller_text(now, text, actions),
            Input::CallerSpeechStarted => {
                self.caller_is_there();
                self.timers.set(Timer::Owed, None);
                self.cut(now, !self.config.provider_cancels, actions);
            }
            Input::CallerSpeechStopped => {
                self.turn_decided(now);
                // Some providers tell of the end when their answer is playing already.
                if !self.playback.is_speaking() {
                    self.owe(now, Prompt::Answer);
                }
            }
            Input::AssistantInterrupted { through } => {
                self.caller_is_there();
                self.newest = self.newest.max(Some(through));
                self.cut(now, false, actions);
                self.fence = self.fence.max(Some(through));
            }
            Input::ToolCalled { id, name, arguments } => self.tool_called(now, id, name, arguments, actions),
            Input::ToolFinished { id, output, failed } => self.tool_finished(now, id, output, failed, actions),
            Input::Usage { input_tokens, output_tokens } => {
                self.counters.input_tokens += input_tokens;
                self.counters.output_tokens += output_tokens;
            }
            Input::AssistantEnded(reason) => self.assistant_ended(now, reason),
            Input::Drain => self.leave(now, EndReason::Drained, Farewell::Enough),
        }
        self.settle(now, actions);
    }

    /// When `handle` wants [`Input::Tick`] at the latest, and why; the reason goes to the log.
    pub fn deadline(&self) -> Option<(Duration, Timer)> {
        self.timers.next()
    }

    /// Whether the end was reached; nothing will happen any more.
    pub fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    /// What went through so far.
    pub fn counters(&self) -> Counters {
        Counters { played_frames: self.playback.frames, underruns: self.playback.underruns, ..self.counters }
    }

    /// Plays what is due, ends what is over, sets the timers that follow from the state.
    fn settle(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.is_ended() {
            return;
        }
        let mut orders = std::mem::take(&mut self.orders);
        let silent = self.playback.pump(now, &mut orders);
        record_utterances(silent, actions);
        if let (Some(turn), true) = (self.turn, orders.iter().any(|it| matches!(it, Order::Play(_))))
            && let Some(first_audio) = turn.first_audio
        {
            // Frames of this batch play after what Twilio still holds; the first one begins where the rest ends.
            let batch = orders.iter().filter(|it| matches!(it, Order::Play(_))).count() as u32;
            let ear = self.playback.handed_over_end(now).saturating_sub(Duration::from_millis(20) * batch).max(now);
            actions.push(Action::Record(Event::Turn(Latency {
                endpointing: turn.decided.saturating_sub(turn.speech_end),
                thinking: first_audio.saturating_sub(turn.decided),
                bridging: now.saturating_sub(first_audio),
                playout: ear - now,
            })));
            self.turn = None;
        }
        let heard_in = (self.playback.handed_over_end(now) - now).as_millis() as u32;
        for order in orders.drain(..) {
            actions.push(match order {
                Order::Play(frame) => {
                    self.detector.played(frame.ulaw(), heard_in);
                    Action::PlayToCaller(frame)
                }
                Order::Mark(mark) => Action::MarkCaller(mark),
            });
        }
        self.orders = orders;
        if let Phase::Ending { reason, farewell } = &self.phase
            && *farewell == Farewell::Enough
            && !self.playback.is_speaking()
            && (self.active.is_none() || !self.assistant_alive)
        {
            let reason = *reason;
            return self.end(now, reason, actions);
        }
        self.watch(now);
        self.timers.set(Timer::Playout, self.playback.next_pump());
        self.timers.set(Timer::Tool, self.tools.next_due());
    }

    fn caller_audio(&mut self, now: Duration, frame: Frame, actions: &mut Vec<Action>) {
        self.counters.caller_frames += 1;
        self.timers.set(Timer::Media, Some(now + self.config.media_timeout));
        self.measure_arrival(now, frame);
        if self.detector.push(frame.ulaw()).speech {
            self.unanswered = true;
            self.timers.set(Timer::Idle, None);
            // A pause of over a second begins a new utterance; detection itself comes 60 ms late.
            self.speech = match self.speech {
                Some((start, last)) if now.saturating_sub(last) < Duration::from_secs(1) => Some((start, now)),
                _ => Some((now.saturating_sub(Duration::from_millis(60)), now)),
            };
        }
        match &mut self.phase {
            Phase::Connecting { preroll } => {
                if preroll.len() >= self.config.preroll_frames_max {
                    preroll.pop_front();
                    self.counters.caller_frames_dropped += 1;
                }
                preroll.push_back(frame);
            }
            Phase::Talking | Phase::Ending { .. } if self.assistant_alive => actions.push(Action::SendToAssistant(frame)),
            _ => self.counters.caller_frames_dropped += 1,
        }
    }

    /// Jitter as RFC 3550 (section 6.4.1) smooths it. On TCP nothing is lost or reordered, only late.
    fn measure_arrival(&mut self, now: Duration, frame: Frame) {
        let due = Duration::from_millis((frame.ulaw().len() / media::BYTES_PER_MS) as u64);
        if let Some(last) = self.last_frame.replace(now) {
            let gap = now.saturating_sub(last);
            self.counters.longest_gap = self.counters.longest_gap.max(gap);
            let (deviation, jitter) = (gap.abs_diff(due).as_micros() as i64, self.counters.jitter.as_micros() as i64);
            self.counters.jitter = Duration::from_micros((jitter + (deviation - jitter) / 16).max(0) as u64);
        }
    }

    fn caller_key(&mut self, now: Duration, key: char, actions: &mut Vec<Action>) {
        self.caller_is_there();
        actions.push(Action::Record(Event::Key { key }));
        if matches!(self.phase, Phase::Talking) {
            // A key is meant as an answer: the assistant stops talking, and the provider has not heard anything.
            self.cut(now, true, actions);
            self.timers.set(Timer::Owed, None);
        }
        if matches!(self.phase, Phase::Connecting { .. } | Phase::Talking) && self.keys.len() < KEYS_MAX {
            self.keys.push(key);
            self.timers.set(Timer::Keys, Some(now + self.config.key_gap));
        }
        if key == '#' || self.keys.len() == KEYS_MAX {
            self.keys_complete(now, actions);
        }
    }

    /// Tells the assistant what was keyed; while it connects, the keys wait for it.
    fn keys_complete(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.timers.set(Timer::Keys, None);
        if !matches!(self.phase, Phase::Talking) || self.keys.is_empty() {
            return;
        }
        let keys = std::mem::take(&mut self.keys);
        actions.push(Action::TellAssistant(match keys.len() {
            1 => format!("The caller pressed the key {keys} on the telephone."),
            _ => format!("The caller keyed {keys} on the telephone."),
        }));
        self.owe(now, Prompt::Answer);
    }

    fn assistant_ready(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if let Phase::Connecting { preroll } = &mut self.phase {
            actions.push(Action::Record(Event::AssistantReady { after: now }));
            actions.push(Action::RequestResponse(self.config.opening));
            actions.extend(preroll.drain(..).map(Action::SendToAssistant));
            self.phase = Phase::Talking;
            self.timers.set(Timer::Answer, None);
            self.owe(now, self.config.opening);
            self.keys_complete(now, actions);
        }
    }

    /// Nothing may stand still for long: an answer that stopped in the middle is owed, and silence of both sides is counted.
    fn watch(&mut self, now: Duration) {
        let waits = self.timers.is_set(Timer::Owed) || self.timers.is_set(Timer::Keys) || self.tools.next_due().is_some();
        let at_rest = matches!(self.phase, Phase::Talking) && !waits;
        let speaking = self.playback.is_speaking();
        if at_rest && (self.playback.is_starved(now) || (self.active.is_some() && !speaking)) {
            self.owe(now, Prompt::Answer);
        }
        if !at_rest || speaking || self.active.is_some() {
            self.timers.set(Timer::Idle, None);
        } else if !self.timers.is_set(Timer::Idle) {
            self.timers.set(Timer::Idle, self.config.idle_after.map(|it| now + it));
        }
    }

    /// The caller has shown to be there.
    fn caller_is_there(&mut self) {
        self.caller_took_part = true;
        self.idle_prompts = 0;
        self.timers.set(Timer::Idle, None);
    }

    /// The assistant has to say something now.
    fn owe(&mut self, now: Duration, what: Prompt) {
        if matches!(self.phase, Phase::Talking) && self.assistant_alive {
            self.owed = (what, 0);
            self.timers.set(Timer::Owed, self.config.answer_due.map(|it| now + it));
        }
    }

    /// An answer is owed and has not begun.
    fn answer_overdue(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.owed.1 += 1;
        match self.owed {
            // What has begun and stopped cannot be asked for again.
            (what, 1) => actions.extend(self.active.is_none().then_some(Action::RequestResponse(what))),
            (_, 2) => {
                if let Some(filler) = &self.config.filler {
                    self.playback.push(None, filler);
                    self.playback.finish(None);
                }
            }
            _ => {
                // Nothing more is expected of this session.
                self.active = None;
                self.playback.finish_all();
                return self.leave(now, EndReason::AssistantLost, Farewell::Enough);
            }
        }
        self.timers.set(Timer::Owed, self.config.answer_due.map(|it| now + it));
    }

    /// Nobody has said anything for a while.
    fn idle(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.idle_prompts < self.config.idle_prompts_max {
            self.idle_prompts += 1;
            actions.push(Action::RequestResponse(Prompt::AreYouThere));
            self.owe(now, Prompt::AreYouThere);
        } else {
            actions.push(Action::RequestResponse(Prompt::Farewell));
            self.leave(now, EndReason::CallerSilent, Farewell::Awaited);
        }
    }

    fn assistant_audio(&mut self, now: Duration, response: ResponseId, item: ItemId, ulaw: &[u8]) {
        if self.fence >= Some(response) {
            self.counters.assistant_ms_dropped += (ulaw.len() / media::BYTES_PER_MS) as u64;
            return;
        }
        self.newest = self.newest.max(Some(response));
        self.spoke = self.spoke.max(Some(response));
        self.timers.set(Timer::Owed, None);
        let answer_begins = !self.playback.is_speaking();
        let refused = self.playback.push(Some(item), ulaw);
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
        self.unanswered = false;
        self.timers.set(Timer::Utterance, self.config.utterance_gap.map(|gap| now + gap));
        if let Phase::Ending { farewell, .. } = &mut self.phase {
            *farewell = Farewell::Enough;
            let until = self.playback.expected_end(now) + self.config.farewell_timeout;
            self.timers.set(Timer::Farewell, Some(until));
        }
    }

    fn assistant_text(&mut self, item: ItemId, text: &str) {
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

    fn caller_text(&mut self, now: Duration, text: &str, actions: &mut Vec<Action>) {
        self.caller_is_there();
        if !text.trim().is_empty() {
            let (start, end) = self.speech.unwrap_or((now, now));
            actions.push(Action::Record(Event::CallerSaid { text: text.trim().to_owned(), start, end }));
        }
    }

    fn turn_decided(&mut self, now: Duration) {
        let speech_end = self.speech.map_or(now, |(_, last)| last).min(now);
        self.turn = Some(Turn { speech_end, decided: now, first_audio: None });
        self.caller_took_part = true;
    }

    /// Barge-in. Silence comes first: the caller is already talking.
    fn cut(&mut self, now: Duration, cancel: bool, actions: &mut Vec<Action>) {
        // A caller who speaks into the farewell does not want to be hung up on.
        if let Phase::Ending { reason: EndReason::AssistantHungUp | EndReason::CallerSilent, .. } = self.phase
            && self.assistant_alive
        {
            self.phase = Phase::Talking;
            self.timers.set(Timer::Farewell, None);
        }
        let active = self.active.filter(|it| self.fence < Some(*it));
        if !self.playback.is_speaking() && active.is_none() {
            return;
        }
        if self.playback.is_speaking() {
            actions.push(Action::ClearCaller);
            self.detector.cleared();
            let (over, cleared) = self.playback.cut(now);
            for utterance in &over {
                if let Some(item) = utterance.item.filter(|_| !utterance.complete) {
                    actions.push(Action::Truncate { item, heard: utterance.heard });
                }
            }
            self.counters.interruptions += 1;
            actions.push(Action::Record(Event::Interrupted {
                heard: over.iter().map(|it| it.heard).sum(),
                received: over.iter().map(|it| it.received).sum(),
                cleared,
            }));
            record_utterances(over, actions);
            self.fence = self.fence.max(self.newest);
        }
        if let Some(active) = active {
            self.fence = self.fence.max(Some(active));
            if cancel && self.assistant_alive {
                actions.push(Action::CancelResponse(active));
            }
        }
        self.turn = None;
    }

    fn tool_called(&mut self, now: Duration, id: &str, name: &str, arguments: &str, actions: &mut Vec<Action>) {
        if !matches!(self.phase, Phase::Talking) || !self.tools.begin(id, now + self.config.tool_timeout) {
            return;
        }
        self.timers.set(Timer::Owed, None);
        let (id, name) = (id.to_owned(), name.to_owned());
        actions.push(Action::Record(Event::ToolCalled { id: id.clone(), name: name.clone(), arguments: arguments.to_owned() }));
        if name != END_CALL {
            return actions.push(Action::RunTool { id, name, arguments: arguments.to_owned() });
        }
        if !self.caller_took_part {
            let output = "refused: the caller has not said anything yet".to_owned();
            return self.tool_finished(now, &id, &output, true, actions);
        }
        self.tools.finish(&id);
        // Words spoken along with the call are the farewell; otherwise one is asked for.
        let said = self.playback.is_speaking() || (self.active.is_some() && self.spoke == self.active);
        let output = "the call ends after your farewell".to_owned();
        actions.push(Action::Record(Event::ToolFinished { id: id.clone(), output: output.clone(), failed: false }));
        actions.push(Action::AnswerTool { id, output, failed: false, respond: (!said).then_some(Prompt::Farewell) });
        self.leave(now, EndReason::AssistantHungUp, if said { Farewell::Enough } else { Farewell::Awaited });
    }

    fn tool_finished(&mut self, now: Duration, id: &str, output: &str, failed: bool, actions: &mut Vec<Action>) {
        if self.tools.finish(id) {
            let (id, output) = (id.to_owned(), output.to_owned());
            actions.push(Action::Record(Event::ToolFinished { id: id.clone(), output: output.clone(), failed }));
            if self.assistant_alive {
                actions.push(Action::AnswerTool {
                    id,
                    output,
                    failed,
                    respond: matches!(self.phase, Phase::Talking).then_some(Prompt::Answer),
                });
                self.owe(now, Prompt::Answer);
            }
        }
    }

    fn assistant_ended(&mut self, now: Duration, reason: EndReason) {
        self.assistant_alive = false;
        self.active = None;
        self.playback.finish_all();
        if let Phase::Ending { farewell, .. } = &mut self.phase {
            // It was leaving anyway; nothing more will be said.
            *farewell = Farewell::Enough;
        } else {
            self.leave(now, reason, Farewell::Enough);
        }
    }

    /// Ends after what is still to be heard.
    fn leave(&mut self, now: Duration, reason: EndReason, farewell: Farewell) {
        if !matches!(self.phase, Phase::Ending { .. } | Phase::Ended) {
            self.phase = Phase::Ending { reason, farewell };
            for done in [Timer::Answer, Timer::Owed, Timer::Idle, Timer::Warning, Timer::Keys] {
                self.timers.set(done, None);
            }
            let until = self.playback.expected_end(now) + self.config.farewell_timeout;
            self.timers.set(Timer::Farewell, Some(until));
        }
    }

    fn end(&mut self, now: Duration, reason: EndReason, actions: &mut Vec<Action>) {
        let (over, _) = self.playback.cut(now);
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
        if self.assistant_alive {
            actions.push(Action::CloseAssistant);
        }
        actions.push(Action::CloseCaller);
    }

    fn expire(&mut self, now: Duration, timer: Timer, actions: &mut Vec<Action>) {
        match timer {
            Timer::Answer => self.leave(now, EndReason::AssistantTimeout, Farewell::Enough),
            Timer::Media => return self.end(now, EndReason::MediaStalled, actions),
            Timer::Farewell => {
                if let Phase::Ending { reason, .. } = self.phase {
                    return self.end(now, reason, actions);
                }
            }
            Timer::Duration => {
                if matches!(self.phase, Phase::Talking) {
                    actions.push(Action::RequestResponse(Prompt::Farewell));
                    self.leave(now, EndReason::DurationLimit, Farewell::Awaited);
                } else {
                    return self.end(now, EndReason::DurationLimit, actions);
                }
            }
            Timer::Tool => {
                while let Some(id) = self.tools.overdue(now) {
                    let output = "the tool did not answer in time".to_owned();
                    actions.push(Action::Record(Event::ToolFinished { id: id.clone(), output: output.clone(), failed: true }));
                    if self.assistant_alive {
                        actions.push(Action::AnswerTool {
                            id,
                            output,
                            failed: true,
                            respond: matches!(self.phase, Phase::Talking).then_some(Prompt::Answer),
                        });
                    }
                }
            }
            Timer::Utterance => {
                self.playback.finish_all();
                self.active = None;
            }
            Timer::Playout => (),
            Timer::Owed => self.answer_overdue(now, actions),
            Timer::Idle => self.idle(now, actions),
            Timer::Keys => self.keys_complete(now, actions),
            Timer::Warning => {
                if matches!(self.phase, Phase::Talking) {
                    actions.push(Action::RequestResponse(Prompt::EndingSoon));
                }
            }
        }
        self.settle(now, actions);
    }
}

/// The tool that every assistant has: it ends the call.
const END_CALL: &str = "end_call";

fn record_utterances(over: Vec<Utterance>, actions: &mut Vec<Action>) {
    for it in over {
        // Our own phrases are no part of the conversation; of an unheard item nothing was said.
        if it.item.is_some() && !it.text.is_empty() {
            actions.push(Action::Record(Event::AssistantSaid { text: it.text, start: it.start, end: it.end, cut: !it.complete }));
        }
    }
}

#[cfg(test)]
mod tests;
