//! The playback ledger: what was received, what was handed to Twilio, what the ear has heard.
//!
//! Twilio plays what it is given, in order, at 8 bytes a millisecond, and tells by an echoed mark when it got there.
//! Between echoes the position is extrapolated and capped by what was handed over. After `clear` Twilio echoes every
//! pending mark at once, so marks carry a generation: an echo of an older one proves nothing.

use std::collections::VecDeque;
use std::ptr;
use std::time::Duration;

use media::{BYTES_PER_MS, FRAME_BYTES, Frame, SILENCE};

use crate::Action;

/// A provider's item of speech, numbered in the order of appearance; one answer may have several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ItemId(pub u64);

/// A provider's answer, numbered in the order of appearance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResponseId(pub u64);

/// A label in the stream to the caller, echoed by Twilio when playback gets there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Counts the `clear`s before it.
    pub generation: u32,
    /// Counts the marks of the call.
    pub number: u32,
}

/// Frames between two marks: 200 ms. Denser marks have caused delays at Twilio, sparser ones blur the position.
const FRAMES_PER_MARK: u64 = 10;

/// Silence kept at Twilio between utterances, if any is: an utterance begins so much later.
const SILENCE_LEAD: u64 = 40 * BYTES_PER_MS as u64;

/// An utterance that left the ledger, heard in full or cut.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Utterance {
    /// `None` for our own phrases.
    pub(crate) item: Option<ItemId>,
    pub(crate) text: String,
    /// When its first sound reached the ear; equals `end` when none did.
    pub(crate) start: Duration,
    pub(crate) end: Duration,
    pub(crate) heard: Duration,
    pub(crate) received: Duration,
    /// Whether all of it was heard.
    pub(crate) complete: bool,
}

#[derive(Clone, Debug)]
struct Segment {
    item: Option<ItemId>,
    /// Received and not yet heard: what Twilio holds, then what waits.
    audio: VecDeque<u8>,
    /// How much of `audio` Twilio holds.
    handed: usize,
    /// Bytes heard and therefore no longer kept.
    passed: u64,
    /// Bytes received, silence at the end not counted.
    received: u64,
    /// Position in the stream where it begins; known once the first frame was handed over.
    start: Option<u64>,
    /// Bytes handed to Twilio, silence at the end included.
    sent: u64,
    /// No more audio will come.
    whole: bool,
    /// Its terminal mark was sent.
    closed: bool,
    /// The caller cannot interrupt it.
    protected: bool,
    started_at: Duration,
    text: String,
    /// The rest of the words never came as sound.
    cut_short: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Playback {
    lead: u64,
    backlog_max: u64,
    /// Silence is played between utterances.
    fill_silence: bool,
    /// Nothing is handed over: the floor is being settled.
    halted: bool,
    /// What is handed over is made quieter.
    pub(crate) ducked: bool,
    generation: u32,
    marks_made: u32,
    /// Bytes handed to Twilio over the whole call.
    sent: u64,
    /// The player was at `.0` at time `.1`.
    base: (u64, Duration),
    segments: VecDeque<Segment>,
    pending_marks: VecDeque<(u32, u64)>,
    pub(crate) underruns: u64,
    /// The player was stopped on purpose: that it is empty is no underrun.
    stopped: bool,
    /// How long the ear has waited in the middle of this utterance, all gaps together.
    dry: Duration,
    /// How much must have come before it goes on.
    refill: usize,
    pub(crate) frames: u64,
    accounts: Accounts,
}

/// Where every byte of speech went: what was taken in was handed over, thrown away unheard, or still waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Accounts {
    taken: u64,
    handed_over: u64,
    thrown_away: u64,
}

/// Gaps in an utterance, together, after which its source may count as slow, if they are also a tenth of what was heard.
/// Until then it goes on as soon as anything comes: each gap makes it later by its own length, so that jitter of that
/// length is hidden from then on.
const DRY_MAX: Duration = Duration::from_millis(100);
/// What must have come before an utterance of a slow source goes on: a few longer pauses are speech, many short ones are a
/// stutter. From 60 ms, doubled each time, to 480 ms.
const REFILL_MIN: usize = 60 * BYTES_PER_MS;
const REFILL_MAX: usize = 8 * REFILL_MIN;
/// Shorter gaps are not counted: the marks' echoes tell no more exactly where the ear is.
const GAP_MIN: Duration = Duration::from_millis(20);

/// Speech while it is not clear who has the floor: 12 dB down.
const DUCKED_GAIN: f32 = 0.25;

/// Most characters of speech in a second: more of a text cannot have been spoken yet.
const CHARACTERS_PER_SECOND: u64 = 18;

/// Asked for ten times a frame: in seconds and their fractions, it needs no division of 128 bits.
fn bytes(time: Duration) -> u64 {
    const { assert!(1000 % BYTES_PER_MS == 0) };
    let fraction = time.subsec_micros() / (1000 / BYTES_PER_MS as u32);
    time.as_secs() * (1000 * BYTES_PER_MS as u64) + u64::from(fraction)
}

fn time(bytes: u64) -> Duration {
    Duration::from_micros(bytes * 1000 / BYTES_PER_MS as u64)
}

impl Playback {
    pub(crate) fn new(lead: Duration, backlog_max: Duration, fill_silence: bool) -> Self {
        Self {
            lead: bytes(lead).max(FRAME_BYTES as u64),
            backlog_max: bytes(backlog_max),
            fill_silence,
            halted: false,
            ducked: false,
            generation: 0,
            marks_made: 0,
            sent: 0,
            base: (0, Duration::ZERO),
            segments: VecDeque::new(),
            pending_marks: VecDeque::new(),
            underruns: 0,
            stopped: false,
            dry: Duration::ZERO,
            refill: REFILL_MIN,
            frames: 0,
            accounts: Accounts::default(),
        }
    }

    /// See [`Call::looks_next_at`](crate::Call::looks_next_at).
    pub(crate) fn looks_next_at(&self) -> impl Iterator<Item = *const [u8]> {
        let last = self.segments.back();
        let segment = last.map(|it| ptr::slice_from_raw_parts(ptr::from_ref(it).cast(), size_of::<Segment>()));
        segment.into_iter().chain(last.and_then(|it| behind(&it.audio, FRAME_BYTES)))
    }

    /// Whether something is still to be heard.
    pub(crate) fn is_speaking(&self) -> bool {
        !self.segments.is_empty()
    }

    /// Whether the caller must hear something out that is being said, or about to be.
    pub(crate) fn is_protected(&self) -> bool {
        self.segments.iter().any(|it| it.protected)
    }

    /// Whether more of an item is still to come.
    pub(crate) fn is_unfinished(&self) -> bool {
        self.segments.iter().any(|it| it.item.is_some() && !it.whole)
    }

    /// Whether an utterance has begun, everything of it was played, and its rest has not come.
    pub(crate) fn is_starved(&self, now: Duration) -> bool {
        let open = self.segments.iter().any(|it| !it.closed);
        open && !self.halted && self.segments.iter().all(|it| it.waiting() < FRAME_BYTES) && self.head(now) == self.sent
    }

    /// Where Twilio's player is, by the last confirmed position.
    fn head(&self, now: Duration) -> u64 {
        self.sent.min(self.base.0 + bytes(now.saturating_sub(self.base.1)))
    }

    /// When everything handed over will have been played.
    pub(crate) fn expected_end(&self, now: Duration) -> Duration {
        let waiting: u64 = self.segments.iter().map(|it| it.waiting() as u64).sum();
        self.handed_over_end(now) + time(waiting)
    }

    /// When what was handed over so far will have been played.
    pub(crate) fn handed_over_end(&self, now: Duration) -> Duration {
        now + time(self.sent - self.head(now))
    }

    /// Takes audio of an item; returns how many bytes were refused because the backlog is full.
    pub(crate) fn push(&mut self, item: Option<ItemId>, ulaw: &[u8], protected: bool) -> usize {
        let waiting: usize = self.segments.iter().map(Segment::waiting).sum();
        let room = (self.backlog_max as usize).saturating_sub(waiting);
        let taken = &ulaw[..ulaw.len().min(room)];
        self.accounts.taken += taken.len() as u64;
        let segment = self.segment(item);
        segment.protected |= protected;
        segment.audio.extend(taken);
        segment.received += taken.len() as u64;
        ulaw.len() - taken.len()
    }

    /// Takes a whole utterance of our own.
    pub(crate) fn push_phrase(&mut self, ulaw: &[u8], protected: bool) {
        self.push(None, ulaw, protected);
        self.finish(None);
    }

    /// The item's last segment; a new item ends the one before it.
    fn segment(&mut self, item: Option<ItemId>) -> &mut Segment {
        let fresh = self.segments.back().is_none_or(|it| it.item != item || it.whole);
        if fresh {
            if let Some(last) = self.segments.back_mut() {
                last.whole = true;
            }
            self.segments.push_back(Segment {
                item,
                audio: VecDeque::new(),
                handed: 0,
                passed: 0,
                received: 0,
                start: None,
                sent: 0,
                whole: false,
                closed: false,
                protected: false,
                started_at: Duration::ZERO,
                text: String::new(),
                cut_short: false,
            });
        }
        self.segments.back_mut().expect("there is one, or it was just made")
    }

    /// No more audio will come for the item.
    pub(crate) fn finish(&mut self, item: Option<ItemId>) {
        for segment in self.segments.iter_mut().filter(|it| it.item == item) {
            segment.whole = true;
        }
    }

    /// No more audio will come for anything in the ledger.
    pub(crate) fn finish_all(&mut self) {
        self.segments.iter_mut().for_each(|it| it.whole = true);
    }

    /// Whoever was speaking is gone: what came is played, and of the words only those that can be in it count.
    pub(crate) fn abandon(&mut self) {
        for segment in self.segments.iter_mut().filter(|it| !it.whole) {
            segment.whole = true;
            let spoken = segment.received * CHARACTERS_PER_SECOND / (1000 * BYTES_PER_MS as u64);
            let written = segment.text.chars().count() as u64;
            if spoken < written {
                segment.text = words_heard(&segment.text, spoken, written);
                segment.cut_short = true;
            }
        }
    }

    /// The words of what is still to be heard, oldest first.
    pub(crate) fn words_to_come(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter(|it| it.item.is_some() && !it.text.is_empty()).map(|it| it.text.as_str())
    }

    /// The words of an item; `false` when it is not in the ledger (yet).
    pub(crate) fn set_text(&mut self, item: ItemId, text: &str) -> bool {
        let segment = self.segments.iter_mut().find(|it| it.item == Some(item) && !it.cut_short);
        segment.map(|it| text.clone_into(&mut it.text)).is_some()
    }

    /// Hands over nothing until told otherwise.
    pub(crate) fn halt(&mut self, halted: bool) {
        self.halted = halted;
    }

    /// Forgets what was heard.
    fn pass(&mut self, now: Duration) {
        let head = self.head(now);
        for segment in &mut self.segments {
            let Some(start) = segment.start else { break };
            let heard = head.saturating_sub(start).saturating_sub(segment.passed).min(segment.handed as u64);
            segment.audio.drain(..heard as usize);
            segment.passed += heard;
            segment.handed -= heard as usize;
        }
    }

    /// Hands over frames until Twilio's buffer holds the lead: they and their marks are appended to `actions`. Returns utterances
    /// that are over without any sound.
    pub(crate) fn pump(&mut self, now: Duration, actions: &mut Vec<Action>) -> Vec<Utterance> {
        let mut silent = Vec::new();
        self.segments.retain(|it| {
            let silence = it.whole && it.received == 0;
            if silence {
                silent.push(it.over(now, 0));
            }
            !silence
        });
        for index in 0..self.segments.len() {
            self.close(index, actions);
        }
        self.pass(now);
        while let Some(index) = self.segments.iter().position(|it| !it.closed) {
            let head = self.head(now);
            let segment = &self.segments[index];
            if self.halted || !segment.is_ready() || self.sent - head >= self.lead {
                break;
            }
            if head == self.sent {
                if self.is_refilling(segment) {
                    break;
                }
                // The player is idle: what comes now starts to play now.
                if segment.sent > 0 && !segment.whole && !self.stopped {
                    let gap = now.saturating_sub(self.base.1 + time(self.sent - self.base.0));
                    self.underruns += u64::from(gap >= GAP_MIN);
                    if self.is_slow(segment) {
                        self.refill = (self.refill * 2).min(REFILL_MAX);
                    }
                    self.dry += gap;
                }
                self.base = (self.sent, now);
            }
            self.stopped = false;
            let segment = &mut self.segments[index];
            if segment.start.is_none() {
                (self.dry, self.refill) = (Duration::ZERO, REFILL_MIN);
                segment.start = Some(self.sent);
                segment.started_at = now + time(self.sent - head);
            }
            let frame = segment.hand_over();
            self.accounts.handed_over += frame.ulaw().len() as u64;
            let frame = if self.ducked { frame.scaled(DUCKED_GAIN) } else { frame };
            actions.push(Action::PlayToCaller(frame.padded()));
            let periodic = (segment.sent / FRAME_BYTES as u64).is_multiple_of(FRAMES_PER_MARK);
            self.sent += FRAME_BYTES as u64;
            self.frames += 1;
            if !self.close(index, actions) && periodic {
                let mark = self.mark();
                actions.push(mark);
            }
        }
        while self.is_filling() && self.sent - self.head(now) < SILENCE_LEAD {
            if self.head(now) == self.sent {
                self.base = (self.sent, now);
            }
            actions.push(Action::PlayToCaller(Frame::SILENCE));
            self.sent += FRAME_BYTES as u64;
            self.frames += 1;
            if (self.sent / FRAME_BYTES as u64).is_multiple_of(FRAMES_PER_MARK) {
                let mark = self.mark();
                actions.push(mark);
            }
        }
        silent
    }

    /// Whether silence is due: never inside an utterance, whose frames must stay together.
    fn is_filling(&self) -> bool {
        self.fill_silence && (self.halted || self.segments.iter().all(|it| it.closed))
    }

    /// Puts the terminal mark behind a segment of which everything was handed over; its echo proves that all was heard.
    fn close(&mut self, index: usize, actions: &mut Vec<Action>) -> bool {
        let segment = &mut self.segments[index];
        let closes = segment.whole && segment.waiting() == 0 && !segment.closed;
        if closes {
            segment.closed = true;
            let mark = self.mark();
            actions.push(mark);
        }
        closes
    }

    fn mark(&mut self) -> Action {
        self.marks_made += 1;
        self.pending_marks.push_back((self.marks_made, self.sent));
        Action::MarkCaller(Mark { generation: self.generation, number: self.marks_made })
    }

    /// Twilio echoed a mark. Returns the utterances now known to be heard in full.
    pub(crate) fn confirm(&mut self, now: Duration, mark: Mark) -> Vec<Utterance> {
        if mark.generation != self.generation {
            return Vec::new();
        }
        let Some(index) = self.pending_marks.iter().position(|(number, _)| *number == mark.number) else { return Vec::new() };
        let position = self.pending_marks[index].1;
        self.pending_marks.drain(..=index);
        self.base = (position, now);
        self.heard_in_full(now, position)
    }

    /// Takes out the utterances that end at or before a position.
    fn heard_in_full(&mut self, now: Duration, position: u64) -> Vec<Utterance> {
        let mut over = Vec::new();
        while let Some(segment) = self.segments.front() {
            let end = segment.start.unwrap_or(u64::MAX).saturating_add(segment.sent);
            if !segment.closed || end > position {
                break;
            }
            let segment = self.segments.pop_front().expect("it was just looked at");
            over.push(segment.over(now, segment.received));
        }
        over
    }

    /// When [`pump`](Self::pump) should be called again: when half of the lead has been played. Speech that ran dry waits
    /// for audio, not for a time.
    pub(crate) fn next_pump(&self, now: Duration) -> Option<Duration> {
        let next = self.segments.iter().find(|it| !it.closed).filter(|it| !self.halted && it.is_ready());
        if next.is_some_and(|it| self.head(now) == self.sent && self.is_refilling(it)) {
            return None;
        }
        let lead = if next.is_some() { self.lead } else { SILENCE_LEAD };
        (next.is_some() || self.is_filling()).then(|| self.base.1 + time((self.sent - self.base.0).saturating_sub(lead / 2)))
    }

    /// Whether a segment of a slow source has too little to go on with.
    fn is_refilling(&self, segment: &Segment) -> bool {
        self.is_slow(segment) && !segment.whole && !self.stopped && segment.waiting() < self.refill
    }

    /// Whether a segment comes more slowly than it plays.
    fn is_slow(&self, segment: &Segment) -> bool {
        segment.sent > 0 && self.dry >= DRY_MAX.max(time(segment.sent) / 10)
    }

    /// Whether every byte that was taken in is accounted for.
    pub(crate) fn balances(&self) -> bool {
        let waiting: u64 = self.segments.iter().map(|it| it.waiting() as u64).sum();
        self.accounts.taken == self.accounts.handed_over + self.accounts.thrown_away + waiting
    }

    /// What the ear hears in the next 20 ms, as far as it is known; silence where nothing is played.
    pub(crate) fn at_the_ear(&mut self, now: Duration) -> [u8; FRAME_BYTES] {
        self.pass(now);
        let mut ulaw = [SILENCE; FRAME_BYTES];
        if self.head(now) < self.sent
            && let Some(segment) = self.segments.iter().find(|it| it.handed > 0)
        {
            let len = segment.handed.min(FRAME_BYTES);
            copy(&segment.audio, 0, &mut ulaw[..len]);
        }
        ulaw
    }

    /// Takes everything back that Twilio holds: it will be handed over again, from where the ear is. Twilio must be told to
    /// `clear`, then to play what comes with it: a faded end instead of a click.
    pub(crate) fn take_back(&mut self, now: Duration) -> Cleared {
        let head = self.head(now);
        self.pass(now);
        let over = self.heard_in_full(now, head);
        let held = time(self.sent - head);
        let fade = self.fade();
        for segment in &mut self.segments {
            self.accounts.handed_over -= segment.handed as u64;
            segment.handed = 0;
            segment.closed = false;
            segment.sent = segment.passed;
            if segment.passed == 0 {
                segment.start = None;
            }
        }
        self.silence(now, fade.is_some());
        // What was begun continues behind the fade.
        for segment in &mut self.segments {
            if segment.start.is_some() {
                segment.start = Some(self.sent.saturating_sub(segment.sent));
            }
        }
        Cleared { over, held, fade }
    }

    /// Throws away everything not yet heard. Twilio must be told to `clear`, then to play the fade.
    pub(crate) fn cut(&mut self, now: Duration) -> Cleared {
        self.pass(now);
        let fade = self.fade();
        self.throw_away(now, fade)
    }

    /// Same at the end of a call, when nobody listens any more.
    pub(crate) fn stop(&mut self, now: Duration) -> Cleared {
        self.throw_away(now, None)
    }

    fn throw_away(&mut self, now: Duration, fade: Option<Frame>) -> Cleared {
        let head = self.head(now);
        let held = time(self.sent - head);
        self.accounts.thrown_away += self.segments.iter().map(|it| it.waiting() as u64).sum::<u64>();
        let over = self
            .segments
            .drain(..)
            .map(|segment| {
                let heard = segment.start.map_or(0, |start| head.saturating_sub(start)).min(segment.received);
                segment.over(now, heard)
            })
            .collect();
        self.halted = false;
        self.silence(now, fade.is_some());
        Cleared { over, held, fade }
    }

    /// The next 20 ms that Twilio holds, fading; `None` when it holds less.
    fn fade(&self) -> Option<Frame> {
        let segment = self.segments.iter().find(|it| it.handed > 0).filter(|it| it.handed >= FRAME_BYTES)?;
        let mut ulaw = [SILENCE; FRAME_BYTES];
        copy(&segment.audio, 0, &mut ulaw);
        Some(Frame::from_ulaw(&ulaw).faded_out())
    }

    /// Twilio holds nothing any more, but for a fade.
    fn silence(&mut self, now: Duration, fade: bool) {
        self.generation += 1;
        self.pending_marks.clear();
        self.ducked = false;
        self.stopped = true;
        self.base = (self.sent, now);
        if fade {
            self.sent += FRAME_BYTES as u64;
            self.frames += 1;
        }
    }
}

/// What a stop of the player left.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cleared {
    /// Utterances that are over by it.
    pub(crate) over: Vec<Utterance>,
    /// How much Twilio held.
    pub(crate) held: Duration,
    /// What is to be played right behind the `clear`.
    pub(crate) fade: Option<Frame>,
}

/// Where the next `more` entries will most likely be written.
pub(crate) fn behind<T>(queue: &VecDeque<T>, more: usize) -> Option<*const [u8]> {
    queue.back().map(|it| ptr::slice_from_raw_parts(ptr::from_ref(it).wrapping_add(1).cast(), more * size_of::<T>()))
}

fn copy(audio: &VecDeque<u8>, from: usize, to: &mut [u8]) {
    let (front, back) = audio.as_slices();
    let front = front.get(from..).unwrap_or_default();
    let split = front.len().min(to.len());
    to[..split].copy_from_slice(&front[..split]);
    if split < to.len() {
        let from = from.saturating_sub(audio.as_slices().0.len());
        let rest = to.len() - split;
        to[split..].copy_from_slice(&back[from..from + rest]);
    }
}

impl Segment {
    /// Bytes received and not yet handed to Twilio.
    fn waiting(&self) -> usize {
        self.audio.len() - self.handed
    }

    /// Whether a frame can be handed over: a whole one, or the last.
    fn is_ready(&self) -> bool {
        self.waiting() >= FRAME_BYTES || (self.whole && self.waiting() > 0)
    }

    fn hand_over(&mut self) -> Frame {
        let len = self.waiting().min(FRAME_BYTES);
        let frame = Frame::filled(len, |ulaw| copy(&self.audio, self.handed, ulaw));
        self.handed += len;
        self.sent += FRAME_BYTES as u64;
        frame
    }

    fn over(&self, now: Duration, heard: u64) -> Utterance {
        let complete = self.whole && self.waiting() == 0 && heard == self.received && heard > 0;
        Utterance {
            item: self.item,
            text: if complete { self.text.clone() } else { words_heard(&self.text, heard, self.received) },
            start: if self.start.is_some() { self.started_at.min(now) } else { now },
            end: now,
            heard: time(heard),
            received: time(self.received),
            complete: complete && !self.cut_short,
        }
    }
}

/// The text up to where the ear got, in proportion of the audio, back to a word's end.
fn words_heard(text: &str, heard: u64, received: u64) -> String {
    let characters = text.chars().count() as u64;
    let keep = (characters * heard).checked_div(received).unwrap_or(0) as usize;
    let end = text.char_indices().nth(keep).map_or(text.len(), |(index, _)| index);
    let whole_word = text[end..].chars().next().is_none_or(char::is_whitespace);
    let cut = if whole_word { &text[..end] } else { text[..end].rfind(char::is_whitespace).map_or("", |space| &text[..space]) };
    cut.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_at_a_boundary() {
        let text = "open every day";
        for (heard, expected) in [(0, ""), (3, ""), (4, "open"), (9, "open"), (10, "open every"), (14, text)] {
            assert_eq!(words_heard(text, heard, 14), expected, "{heard}");
        }
        assert_eq!(words_heard("ăîț șă", 3, 6), "ăîț");
        assert_eq!(words_heard("", 5, 10), "");
        assert_eq!(words_heard("x y", 5, 0), "");
    }

    /// But for where the ring grows or begins again.
    #[test]
    fn where_the_next_audio_is_written_is_told_before() {
        let mut playback = Playback::new(Duration::from_millis(200), Duration::from_secs(10), false);
        assert_eq!(playback.looks_next_at().count(), 0);
        let (mut told, mut actions) = (0, Vec::new());
        playback.push(Some(ItemId(1)), &[0x80; 10 * FRAME_BYTES], false);
        for frame in 0..100 {
            let places: Vec<_> = playback.looks_next_at().map(|it| it.addr()..it.addr() + it.len()).collect();
            playback.push(Some(ItemId(1)), &[0x80; FRAME_BYTES], false);
            playback.pump(Duration::from_millis(20 * frame), &mut actions);
            let at = ptr::from_ref(playback.segments[0].audio.back().unwrap()).addr();
            told += u32::from(places.iter().any(|it| it.contains(&at)));
        }
        assert!(told > 80, "{told} of 100");
    }
}
