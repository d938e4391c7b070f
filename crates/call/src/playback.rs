//! The playback ledger: what was received, what was handed to Twilio, what the ear has heard.
//!
//! Twilio plays what it is given, in order, at 8 bytes a millisecond, and tells by an echoed mark when it got there.
//! Between echoes the position is extrapolated and capped by what was handed over. After `clear` Twilio echoes every
//! pending mark at once, so marks carry a generation: an echo of an older one proves nothing.

use std::collections::VecDeque;
use std::time::Duration;

use media::{BYTES_PER_MS, FRAME_BYTES, Frame};

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

/// What a step of playing asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Order {
    Play(Frame),
    Mark(Mark),
}

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
    /// Received and not yet handed to Twilio.
    waiting: VecDeque<u8>,
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
    started_at: Duration,
    text: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Playback {
    lead: u64,
    backlog_max: u64,
    /// Silence is played between utterances.
    fill_silence: bool,
    generation: u32,
    marks_made: u32,
    /// Bytes handed to Twilio over the whole call.
    sent: u64,
    /// The player was at `.0` at time `.1`.
    base: (u64, Duration),
    segments: VecDeque<Segment>,
    pending_marks: VecDeque<(u32, u64)>,
    pub(crate) underruns: u64,
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

fn bytes(time: Duration) -> u64 {
    (time.as_micros() * BYTES_PER_MS as u128 / 1000) as u64
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
            generation: 0,
            marks_made: 0,
            sent: 0,
            base: (0, Duration::ZERO),
            segments: VecDeque::new(),
            pending_marks: VecDeque::new(),
            underruns: 0,
            frames: 0,
            accounts: Accounts::default(),
        }
    }

    /// Whether something is still to be heard.
    pub(crate) fn is_speaking(&self) -> bool {
        !self.segments.is_empty()
    }

    /// Whether an utterance has begun, everything of it was played, and its rest has not come.
    pub(crate) fn is_starved(&self, now: Duration) -> bool {
        let open = self.segments.iter().any(|it| !it.closed);
        open && self.segments.iter().all(|it| it.waiting.len() < FRAME_BYTES) && self.head(now) == self.sent
    }

    /// Where Twilio's player is, by the last confirmed position.
    fn head(&self, now: Duration) -> u64 {
        self.sent.min(self.base.0 + bytes(now.saturating_sub(self.base.1)))
    }

    /// When everything handed over will have been played.
    pub(crate) fn expected_end(&self, now: Duration) -> Duration {
        let waiting: u64 = self.segments.iter().map(|it| it.waiting.len() as u64).sum();
        self.handed_over_end(now) + time(waiting)
    }

    /// When what was handed over so far will have been played.
    pub(crate) fn handed_over_end(&self, now: Duration) -> Duration {
        now + time(self.sent - self.head(now))
    }

    /// Takes audio of an item; returns how many bytes were refused because the backlog is full.
    pub(crate) fn push(&mut self, item: Option<ItemId>, ulaw: &[u8]) -> usize {
        let waiting: usize = self.segments.iter().map(|it| it.waiting.len()).sum();
        let room = (self.backlog_max as usize).saturating_sub(waiting);
        let taken = &ulaw[..ulaw.len().min(room)];
        self.accounts.taken += taken.len() as u64;
        let segment = self.segment(item);
        segment.waiting.extend(taken);
        segment.received += taken.len() as u64;
        ulaw.len() - taken.len()
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
                waiting: VecDeque::new(),
                received: 0,
                start: None,
                sent: 0,
                whole: false,
                closed: false,
                started_at: Duration::ZERO,
                text: String::new(),
            });
        }
        self.segments.back_mut().expect("there is one, or it was just made")
    }

    /// No more audio will come for the item.
    pub(crate) fn finish(&mut self, item: Option<ItemId>) {
        if let Some(segment) = self.segments.iter_mut().find(|it| it.item == item) {
            segment.whole = true;
        }
    }

    /// No more audio will come for anything in the ledger.
    pub(crate) fn finish_all(&mut self) {
        self.segments.iter_mut().for_each(|it| it.whole = true);
    }

    /// The words of an item; `false` when it is not in the ledger (yet).
    pub(crate) fn set_text(&mut self, item: ItemId, text: &str) -> bool {
        let segment = self.segments.iter_mut().find(|it| it.item == Some(item));
        segment.map(|it| text.clone_into(&mut it.text)).is_some()
    }

    /// Hands over frames until Twilio's buffer holds the lead. Returns utterances that are over without any sound.
    pub(crate) fn pump(&mut self, now: Duration, orders: &mut Vec<Order>) -> Vec<Utterance> {
        let mut silent = Vec::new();
        self.segments.retain(|it| {
            let silence = it.whole && it.received == 0;
            if silence {
                silent.push(it.over(now, 0));
            }
            !silence
        });
        for index in 0..self.segments.len() {
            self.close(index, orders);
        }
        while let Some(index) = self.segments.iter().position(|it| !it.closed) {
            let head = self.head(now);
            let segment = &mut self.segments[index];
            let ready = segment.waiting.len() >= FRAME_BYTES || (segment.whole && !segment.waiting.is_empty());
            if !ready || self.sent - head >= self.lead {
                break;
            }
            if head == self.sent {
                // The player is idle: what comes now starts to play now.
                self.underruns += u64::from(segment.sent > 0);
                self.base = (self.sent, now);
            }
            if segment.start.is_none() {
                segment.start = Some(self.sent);
                segment.started_at = now + time(self.sent - head);
            }
            let len = segment.waiting.len().min(FRAME_BYTES);
            let mut ulaw = [0; FRAME_BYTES];
            let (front, back) = segment.waiting.as_slices();
            let split = front.len().min(len);
            ulaw[..split].copy_from_slice(&front[..split]);
            ulaw[split..len].copy_from_slice(&back[..len - split]);
            segment.waiting.drain(..len);
            self.accounts.handed_over += len as u64;
            orders.push(Order::Play(Frame::from_ulaw(&ulaw[..len]).padded()));
            segment.sent += FRAME_BYTES as u64;
            let periodic = (segment.sent / FRAME_BYTES as u64).is_multiple_of(FRAMES_PER_MARK);
            self.sent += FRAME_BYTES as u64;
            self.frames += 1;
            if !self.close(index, orders) && periodic {
                let mark = self.mark();
                orders.push(mark);
            }
        }
        while self.is_filling() && self.sent - self.head(now) < SILENCE_LEAD {
            if self.head(now) == self.sent {
                self.base = (self.sent, now);
            }
            orders.push(Order::Play(Frame::SILENCE));
            self.sent += FRAME_BYTES as u64;
            self.frames += 1;
            if (self.sent / FRAME_BYTES as u64).is_multiple_of(FRAMES_PER_MARK) {
                let mark = self.mark();
                orders.push(mark);
            }
        }
        silent
    }

    /// Whether silence is due: never inside an utterance, whose frames must stay together.
    fn is_filling(&self) -> bool {
        self.fill_silence && self.segments.iter().all(|it| it.closed)
    }

    /// Puts the terminal mark behind a segment of which everything was handed over; its echo proves that all was heard.
    fn close(&mut self, index: usize, orders: &mut Vec<Order>) -> bool {
        let segment = &mut self.segments[index];
        let closes = segment.whole && segment.waiting.is_empty() && !segment.closed;
        if closes {
            segment.closed = true;
            let mark = self.mark();
            orders.push(mark);
        }
        closes
    }

    fn mark(&mut self) -> Order {
        self.marks_made += 1;
        self.pending_marks.push_back((self.marks_made, self.sent));
        Order::Mark(Mark { generation: self.generation, number: self.marks_made })
    }

    /// Twilio echoed a mark. Returns the utterances now known to be heard in full.
    pub(crate) fn confirm(&mut self, now: Duration, mark: Mark) -> Vec<Utterance> {
        let mut over = Vec::new();
        if mark.generation != self.generation {
            return over;
        }
        let Some(index) = self.pending_marks.iter().position(|(number, _)| *number == mark.number) else { return over };
        let position = self.pending_marks[index].1;
        self.pending_marks.drain(..=index);
        self.base = (position, now);
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

    /// When [`pump`](Self::pump) should be called again: when half of the lead has been played.
    pub(crate) fn next_pump(&self) -> Option<Duration> {
        let waiting = self.segments.iter().any(|it| it.waiting.len() >= FRAME_BYTES || (it.whole && !it.waiting.is_empty()));
        let lead = if waiting { self.lead } else { SILENCE_LEAD };
        (waiting || self.is_filling()).then(|| self.base.1 + time((self.sent - self.base.0).saturating_sub(lead / 2)))
    }

    /// Whether every byte that was taken in is accounted for.
    pub(crate) fn balances(&self) -> bool {
        let waiting: u64 = self.segments.iter().map(|it| it.waiting.len() as u64).sum();
        self.accounts.taken == self.accounts.handed_over + self.accounts.thrown_away + waiting
    }

    /// Throws away everything not yet heard. Returns the utterances with what was heard of each, and how much Twilio held.
    pub(crate) fn cut(&mut self, now: Duration) -> (Vec<Utterance>, Duration) {
        let head = self.head(now);
        let cleared = time(self.sent - head);
        self.accounts.thrown_away += self.segments.iter().map(|it| it.waiting.len() as u64).sum::<u64>();
        let over = self
            .segments
            .drain(..)
            .map(|segment| {
                let heard = segment.start.map_or(0, |start| head.saturating_sub(start)).min(segment.received);
                segment.over(now, heard)
            })
            .collect();
        self.generation += 1;
        self.pending_marks.clear();
        self.base = (self.sent, now);
        (over, cleared)
    }
}

impl Segment {
    fn over(&self, now: Duration, heard: u64) -> Utterance {
        let complete = self.whole && self.waiting.is_empty() && heard == self.received && heard > 0;
        Utterance {
            item: self.item,
            text: if complete { self.text.clone() } else { words_heard(&self.text, heard, self.received) },
            start: if self.start.is_some() { self.started_at.min(now) } else { now },
            end: now,
            heard: time(heard),
            received: time(self.received),
            complete,
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
}
