//! What waits to be written to a socket: audio, of which the oldest gives way, and control, which overtakes it and is never
//! dropped. Printed only when the socket takes it, so that what gives way is audio and not half a message.

use std::cell::Cell;
use std::collections::VecDeque;
use std::thread::LocalKey;

use tokio::time::Instant;
use wire::websocket::{self, Role};

use crate::limits;
use crate::spare::{self, Use};

/// Turns entries into messages; keeps what that needs (ids, converters).
pub(crate) trait Printer: Send + 'static {
    type Media: Send + 'static;
    type Control: Send + 'static;
    /// Replaces `out` by the message; `false` when there is nothing to send.
    fn media(&mut self, media: &Self::Media, out: &mut String) -> bool;
    /// Same for a control entry.
    fn control(&mut self, control: Self::Control, out: &mut String) -> bool;
    /// The thread's queue for audio, lent to whoever has something to send and given back, empty, when it is printed.
    fn queue() -> &'static LocalKey<Cell<VecDeque<Self::Media>>>;
}

enum Control<C> {
    Order(C),
    Ping,
    Close(u16, &'static str),
}

/// The peer does not read: its control entries are too many.
#[derive(Debug)]
pub(crate) struct Stalled;

/// Bytes on their way into the socket above which pings are not answered.
const PONG_BYTES_MAX: usize = 4096;

/// See the module.
pub(crate) struct Outbox<P: Printer> {
    printer: P,
    media_max: usize,
    media: VecDeque<P::Media>,
    control: VecDeque<Control<P::Control>>,
    dropped: u64,
    bytes: Bytes,
    /// The socket takes nothing since then.
    blocked: Option<Instant>,
    /// Nothing is written behind a close.
    closed: bool,
}

/// Whole frames on their way into the socket.
struct Bytes {
    role: Role,
    random: fastrand::Rng,
    buffer: Vec<u8>,
    /// How much of it the socket has taken.
    taken: usize,
}

impl Bytes {
    /// Clients mask with a key that nobody can foretell.
    fn mask(&mut self) -> Option<[u8; 4]> {
        (self.role == Role::Client).then(|| self.random.u32(..).to_ne_bytes())
    }
}

impl<P: Printer> Outbox<P> {
    /// With room for `media_max` entries of audio.
    pub(crate) fn new(printer: P, role: Role, media_max: usize) -> Self {
        Self {
            printer,
            media_max,
            media: VecDeque::new(),
            control: VecDeque::new(),
            dropped: 0,
            bytes: Bytes { role, random: fastrand::Rng::new(), buffer: Vec::new(), taken: 0 },
            blocked: None,
            closed: false,
        }
    }

    /// Queues audio; the oldest entry gives way when there are too many.
    pub(crate) fn media(&mut self, media: P::Media) {
        if self.media.capacity() == 0 {
            self.media = P::queue().take();
        }
        if self.media.len() == self.media_max {
            self.media.pop_front();
            self.dropped += 1;
        }
        self.media.push_back(media);
    }

    /// Queues what must not be lost and overtakes audio.
    pub(crate) fn control(&mut self, control: P::Control) -> Result<(), Stalled> {
        if self.control.len() >= limits::CONTROL_RING {
            return Err(Stalled);
        }
        self.control.push_back(Control::Order(control));
        Ok(())
    }

    /// Asks the peer whether it is there.
    pub(crate) fn ping(&mut self) {
        self.control.push_back(Control::Ping);
    }

    /// Answers a ping; only while nothing else waits, so that a peer that pings and does not read costs nothing.
    pub(crate) fn pong(&mut self, content: &[u8]) {
        if self.bytes.buffer.len() < PONG_BYTES_MAX && !self.closed {
            let mask = self.bytes.mask();
            websocket::print_pong(&mut self.bytes.buffer, content, mask);
        }
    }

    /// Throws away queued audio.
    pub(crate) fn discard_media(&mut self) {
        self.media.clear();
    }

    /// Sends what is queued, audio too, then closes.
    pub(crate) fn close(&mut self, code: u16, reason: &'static str) {
        if !self.control.iter().any(|it| matches!(it, Control::Close(..))) {
            self.control.push_back(Control::Close(code, reason));
        }
    }

    /// Prints what is queued.
    pub(crate) fn printer(&self) -> &P {
        &self.printer
    }

    /// Entries of audio that gave way so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// When the peer counts as gone unless it has taken something by then.
    pub(crate) fn patience(&self) -> Option<Instant> {
        self.blocked.map(|it| it + limits::WRITE_TIMEOUT)
    }

    /// Whether nothing waits. Asked several times in a turn of a call, mostly for no reason.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.media.is_empty() && self.control.is_empty() && self.bytes.buffer.is_empty()
    }

    /// Bytes for the socket: what it has not taken yet, else everything that waits, printed now. Empty when there is nothing.
    pub(crate) fn bytes(&mut self) -> &[u8] {
        // Only whole messages behind whole messages: what a slow peer has not begun to take may still give way.
        let waits = !self.control.is_empty() || !self.media.is_empty();
        if waits && self.bytes.taken == 0 && self.blocked.is_none() && !self.closed {
            if self.bytes.buffer.is_empty() {
                self.bytes.buffer = spare::take(Use::Write);
            }
            spare::with_text(|text| self.print(text));
        }
        &self.bytes.buffer[self.bytes.taken..]
    }

    fn print(&mut self, text: &mut String) {
        let mut close = None;
        while let Some(control) = self.control.pop_front() {
            match control {
                Control::Order(it) => {
                    if self.printer.control(it, text) {
                        let mask = self.bytes.mask();
                        websocket::print_text(&mut self.bytes.buffer, text, mask);
                    }
                }
                Control::Ping => {
                    let mask = self.bytes.mask();
                    websocket::print_ping(&mut self.bytes.buffer, mask);
                }
                Control::Close(code, reason) => close = Some((code, reason)),
            }
        }
        // Printed where they lie: frames are the largest things that are moved about.
        for media in &self.media {
            if self.printer.media(media, text) {
                let mask = self.bytes.mask();
                websocket::print_text(&mut self.bytes.buffer, text, mask);
            }
        }
        if self.media.capacity() > 0 {
            // Also puts its beginning back to where it is warm.
            self.media.clear();
            P::queue().set(std::mem::take(&mut self.media));
        }
        if let Some((code, reason)) = close {
            let mask = self.bytes.mask();
            websocket::print_close(&mut self.bytes.buffer, code, reason, mask);
            self.closed = true;
        }
    }

    /// The socket has taken so many bytes.
    pub(crate) fn took(&mut self, bytes: usize) {
        self.bytes.taken += bytes;
        self.blocked = None;
        if self.bytes.taken == self.bytes.buffer.len() {
            self.bytes.taken = 0;
            spare::give(Use::Write, std::mem::take(&mut self.bytes.buffer));
        }
    }

    /// The socket takes nothing now; `false` when it has not for too long.
    pub(crate) fn wait(&mut self, now: Instant) -> bool {
        now.duration_since(*self.blocked.get_or_insert(now)) < limits::WRITE_TIMEOUT
    }

    /// Whether the close went out.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed && self.bytes.buffer.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Plain;

    thread_local! {
        static QUEUE: Cell<VecDeque<u32>> = const { Cell::new(VecDeque::new()) };
    }

    impl Printer for Plain {
        type Media = u32;
        type Control = &'static str;

        fn media(&mut self, media: &u32, out: &mut String) -> bool {
            *out = media.to_string();
            true
        }

        fn control(&mut self, control: &'static str, out: &mut String) -> bool {
            *out = control.to_owned();
            true
        }

        fn queue() -> &'static LocalKey<Cell<VecDeque<u32>>> {
            &QUEUE
        }
    }

    fn texts(mut bytes: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        while let [_, length, rest @ ..] = bytes {
            let (text, behind) = rest.split_at(usize::from(*length));
            found.push(String::from_utf8_lossy(text).into_owned());
            bytes = behind;
        }
        found
    }

    #[test]
    fn control_overtakes_audio_and_the_oldest_audio_gives_way() {
        let mut outbox = Outbox::new(Plain, Role::Server, 3);
        (0..5).for_each(|it| outbox.media(it));
        outbox.control("clear").unwrap();
        assert_eq!(texts(outbox.bytes()), ["clear", "2", "3", "4"]);
        assert_eq!(outbox.dropped(), 2);
    }

    #[test]
    fn a_blocked_socket_finishes_its_message_and_gets_the_newest() {
        let mut outbox = Outbox::new(Plain, Role::Server, 2);
        outbox.media(1);
        let whole = outbox.bytes().len();
        outbox.took(1);
        assert!(outbox.wait(Instant::now()));
        (10..15).for_each(|it| outbox.media(it));
        assert_eq!(outbox.bytes().len(), whole - 1, "the rest of the message that was begun");
        outbox.took(whole - 1);
        assert_eq!(texts(outbox.bytes()), ["13", "14"]);
    }

    #[test]
    fn a_peer_that_reads_nothing_stalls_control() {
        let mut outbox = Outbox::new(Plain, Role::Server, 2);
        (0..limits::CONTROL_RING).for_each(|_| outbox.control("x").unwrap());
        assert!(outbox.control("x").is_err());
    }

    #[test]
    fn patience_ends() {
        let (mut outbox, began) = (Outbox::new(Plain, Role::Server, 2), Instant::now());
        outbox.media(1);
        assert!(outbox.wait(began));
        assert_eq!(outbox.patience(), Some(began + limits::WRITE_TIMEOUT));
        assert!(!outbox.wait(began + limits::WRITE_TIMEOUT));
    }
}
