//! Everything that happens on a call becomes a numbered fact, goes to the journal, and is remembered as far as the call
//! itself still needs it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bridge::{CallFact, CallId, History, HistoryItem};
use call::Event;
use store::{Entry, Fact, Journal, Speaker};
use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;

use crate::tools::Message;

/// Facts that a slow listener may lag behind.
const FEED: usize = 1024;
/// A finished call is remembered so long for late facts: recording, status callbacks.
const REMEMBERED: Duration = Duration::from_secs(600);
/// A call whose end was never told is forgotten after Twilio's longest call, 24 hours, and an hour.
const LONGEST_CALL: Duration = Duration::from_secs(25 * 3600);

/// The assistant waits so long for the disk before it says that a message could not be taken.
const MESSAGE_WAIT: Duration = Duration::from_secs(5);

/// What this process knows of a call.
#[derive(Debug)]
struct Remembered {
    /// Its newest stream is this process's own, as far as is known: what is said in it is known here first.
    ours: bool,
    epoch: u32,
    seq: u64,
    history: History,
    /// Where the caller is to be connected to.
    transfer: Option<String>,
    /// Its stream or the call itself has ended.
    over: bool,
    /// Twilio has told the call's final status.
    finished: bool,
    touched: Instant,
}

/// Numbers facts and hands them on.
pub struct Ledger {
    journal: Journal,
    calls: Mutex<HashMap<CallId, Remembered>>,
    feed: broadcast::Sender<Entry>,
    /// Somebody began to listen.
    listened: Notify,
}

impl Ledger {
    pub fn new(journal: Journal) -> Arc<Self> {
        Arc::new(Self { journal, calls: Mutex::default(), feed: broadcast::channel(FEED).0, listened: Notify::new() })
    }

    /// Every fact as it happens, of this process's calls and, a moment later, of other processes'; a listener that lags loses
    /// the oldest.
    pub fn subscribe(&self) -> broadcast::Receiver<Entry> {
        let listener = self.feed.subscribe();
        self.listened.notify_one();
        listener
    }

    /// Waits until somebody listens.
    pub(crate) async fn listened_to(&self) {
        while !self.has_listeners() {
            self.listened.notified().await;
        }
    }

    /// Whether anybody listens.
    pub(crate) fn has_listeners(&self) -> bool {
        self.feed.receiver_count() > 0
    }

    /// Passes on what happened on another process's call.
    pub(crate) fn pass_on(&self, entry: Entry) {
        let _ = self.feed.send(entry);
    }

    /// The journal behind it.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    fn calls(&self) -> MutexGuard<'_, HashMap<CallId, Remembered>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an epoch of ours: 0 for a new call, a higher one when a call is taken over.
    pub(crate) fn begin(&self, call: &CallId, epoch: u32, history: Vec<HistoryItem>) {
        self.remember(call, true, epoch, 0, history, None);
    }

    /// Learns of a call whose stream was, or is, another process's. `seq` is the first free number of that epoch.
    pub(crate) fn learn(&self, call: &CallId, epoch: u32, seq: u64, history: Vec<HistoryItem>, transfer: Option<String>) {
        self.remember(call, false, epoch, seq, history, transfer);
    }

    fn remember(&self, call: &CallId, ours: bool, epoch: u32, seq: u64, history: Vec<HistoryItem>, transfer: Option<String>) {
        let now = Instant::now();
        let mut calls = self.calls();
        calls.retain(|_, it| now.duration_since(it.touched) < if it.over { REMEMBERED } else { LONGEST_CALL });
        calls.insert(
            call.clone(),
            Remembered { ours, epoch, seq, history: History::new(history), transfer, over: false, finished: false, touched: now },
        );
    }

    /// Whether the call's newest stream is this process's own.
    pub(crate) fn owns(&self, call: &CallId) -> bool {
        self.calls().get(call).is_some_and(|it| it.ours)
    }

    /// The number of the next fact of an epoch, as far as this process has numbered any.
    pub(crate) fn next_seq(&self, call: &CallId, epoch: u32) -> u64 {
        self.calls().get(call).filter(|it| it.epoch == epoch).map_or(0, |it| it.seq)
    }

    /// Whether this process numbers the call's facts.
    pub(crate) fn knows(&self, call: &CallId) -> bool {
        self.calls().contains_key(call)
    }

    /// Notes that the call's final status was told to an earlier process.
    pub(crate) fn finish(&self, call: &CallId) {
        if let Some(it) = self.calls().get_mut(call) {
            it.finished = true;
            it.over = true;
        }
    }

    /// Whether the call itself is over: nothing that is asked about it can be news.
    pub(crate) fn is_finished(&self, call: &CallId) -> bool {
        self.calls().get(call).is_some_and(|it| it.finished)
    }

    /// The newest epoch of the call known here.
    pub(crate) fn epoch(&self, call: &CallId) -> Option<u32> {
        self.calls().get(call).map(|it| it.epoch)
    }

    /// What was said so far.
    pub(crate) fn history(&self, call: &CallId) -> Option<Vec<HistoryItem>> {
        self.calls().get(call).map(|it| it.history.items())
    }

    /// Where the caller is to be connected to, by name.
    pub(crate) fn transfer(&self, call: &CallId) -> Option<String> {
        self.calls().get(call).and_then(|it| it.transfer.clone())
    }

    fn entry(&self, call: &CallId, tenant: &str, epoch: Option<u32>, fact: Fact) -> Entry {
        let mut calls = self.calls();
        let remembered = calls.entry(call.clone()).or_insert_with(|| Remembered {
            ours: epoch.is_some(),
            epoch: epoch.unwrap_or(0),
            seq: 0,
            history: History::default(),
            transfer: None,
            over: false,
            finished: false,
            touched: Instant::now(),
        });
        remembered.touched = Instant::now();
        remembered.remember(&fact);
        let seq = remembered.seq;
        remembered.seq += 1;
        let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_millis() as i64);
        // Facts of an older epoch that come late count in the current one: numbers stay unique.
        Entry { tenant: tenant.to_owned(), call: call.to_string(), epoch: remembered.epoch, seq, at_ms, fact }
    }

    /// Journals a fact without waiting.
    pub(crate) fn append(&self, call: &CallId, tenant: &str, fact: Fact) {
        let entry = self.entry(call, tenant, None, fact);
        let _ = self.feed.send(entry.clone());
        self.journal.append(entry);
    }

    /// Journals a fact and waits up to `wait` until it is on disk; `false` when that is not known.
    pub(crate) async fn commit(&self, call: &CallId, tenant: &str, fact: Fact, wait: Duration) -> bool {
        let entry = self.entry(call, tenant, None, fact);
        let _ = self.feed.send(entry.clone());
        matches!(tokio::time::timeout(wait, self.journal.commit(entry)).await, Ok(Ok(())))
    }
}

impl Ledger {
    /// Writes a caller's message down; `false` when it is not known to be on disk.
    pub async fn keep(&self, message: Message) -> bool {
        let Message { call, tenant, name, number, text } = message;
        self.commit(&call, &tenant, Fact::Message { name, number, text }, MESSAGE_WAIT).await
    }
}

impl bridge::Journal for Ledger {
    fn record(&self, it: CallFact) {
        let entry = self.entry(&it.call, &it.tenant, Some(it.epoch), fact(it.epoch, it.fact));
        let _ = self.feed.send(entry.clone());
        self.journal.append(entry);
    }
}

impl Remembered {
    fn remember(&mut self, fact: &Fact) {
        self.finished |= matches!(fact, Fact::Status { terminal: true, .. });
        self.over |= self.finished || matches!(fact, Fact::Ended { .. });
        match fact {
            Fact::Said { speaker: Speaker::Caller, text, start_ms, .. } => self.history.caller_said(*start_ms, text),
            Fact::Said { speaker: Speaker::Assistant, text, start_ms, .. } => self.history.assistant_said(*start_ms, text),
            Fact::ToolCalled { id, name, arguments } => self.history.tool_called(id, name, arguments),
            Fact::ToolFinished { id, output, .. } => self.history.tool_finished(id, output),
            Fact::Transfer { to } => self.transfer = Some(to.clone()),
            Fact::Transferred { to, status } => {
                self.history.note(format!("The caller was to be connected with {to}; that ended with: {status}."));
            }
            _ => (),
        }
    }
}

fn fact(stream: u32, fact: bridge::Fact) -> Fact {
    let ms = |it: Duration| it.as_millis() as u64;
    let us = |it: Duration| it.as_micros() as u64;
    match fact {
        bridge::Fact::StreamStarted { stream_sid } => Fact::StreamStarted { stream_sid },
        bridge::Fact::Recorded { path, length, sha256 } => {
            let sha256 = sha256.map(|it| it.iter().map(|byte| format!("{byte:02x}")).collect());
            Fact::Recorded { stream, location: path.display().to_string(), channels: 2, length_ms: ms(length), sha256 }
        }
        bridge::Fact::Call(event) => match event {
            Event::AssistantReady { after, candidate } => {
                Fact::AssistantReady { after_ms: ms(after), candidate: candidate as u32 }
            }
            Event::AssistantLost { reason } => Fact::AssistantLost { reason: reason.name().into() },
            Event::AssistantRolled => Fact::AssistantRolled,
            Event::FirstAudio { after } => Fact::FirstAudio { after_ms: ms(after) },
            Event::FalseAlarm { at } => Fact::FalseAlarm { at_ms: ms(at) },
            Event::Transfer { to } => Fact::Transfer { to },
            Event::Controlled { what } => Fact::Controlled { what: what.into() },
            Event::CallerSaid { text, start, end } => {
                Fact::Said { speaker: Speaker::Caller, text, start_ms: ms(start), end_ms: ms(end), cut: false }
            }
            Event::AssistantSaid { text, start, end, cut } => {
                Fact::Said { speaker: Speaker::Assistant, text, start_ms: ms(start), end_ms: ms(end), cut }
            }
            Event::Interrupted { heard, received, cleared, reaction } => Fact::Interrupted {
                heard_ms: ms(heard),
                received_ms: ms(received),
                cleared_ms: ms(cleared),
                reaction_ms: reaction.map(ms),
            },
            Event::Key { key } => Fact::Key { key },
            Event::ToolCalled { id, name, arguments } => Fact::ToolCalled { id, name, arguments },
            Event::ToolFinished { id, output, failed } => Fact::ToolFinished { id, output, failed },
            Event::Turn(it) => Fact::Turn {
                endpointing_us: us(it.endpointing),
                thinking_us: us(it.thinking),
                bridging_us: us(it.bridging),
                playout_us: us(it.playout),
            },
            Event::Ended { reason, duration, counters, line } => Fact::Ended {
                stream,
                reason: reason.name().into(),
                blame: reason.blame().name().into(),
                duration_ms: ms(duration),
                frames_in: counters.caller_frames,
                frames_in_dropped: counters.caller_frames_dropped,
                frames_out: counters.played_frames,
                assistant_ms_dropped: counters.assistant_ms_dropped,
                underruns: counters.underruns,
                jitter_us: us(counters.jitter),
                longest_gap_ms: ms(counters.longest_gap),
                interruptions: counters.interruptions,
                input_tokens: counters.input_tokens,
                cached_tokens: counters.cached_tokens,
                false_alarms: counters.false_alarms,
                echoes: counters.echoes,
                mos_hundredths: counters.estimated_mos(duration).map(|it| (it * 100.0).round() as u32),
                output_tokens: counters.output_tokens,
                speech_dbfs: line.speech_dbfs.map(|it| it.round() as i16),
                noise_dbfs: line.noise_dbfs.map(|it| it.round() as i16),
                clipped_samples: line.clipped,
            },
        },
    }
}
