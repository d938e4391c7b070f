//! Twilio's side of many calls: exact pacing, marks that are echoed when their sound was played, and a clock on every frame.
//!
//! One thread and one epoll carry all streams. Calls are spread over 20 slots of a millisecond; in each slot the calls of that
//! slot speak, and ten slots later their marks are echoed.

use std::collections::VecDeque;
use std::io::{self, Read as _};
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime};
use wire::websocket::{Message, Role};

use super::burst::{BLOCK, Ear, Heard, Symbol, Voice};
use super::machine::now;
use super::peer::{Came, Out, Peer};
use super::provider::Behaviour;
use super::spread::Spread;

const SLOTS: usize = 20;
const SLOT: u64 = 1_000_000;
const FRAME: u64 = SLOTS as u64 * SLOT;
/// Send times that are remembered: 5 s.
const REMEMBERED: usize = 256;
/// A server that has sent nothing for so long begins anew with its next sound.
const PAUSE: u64 = 5 * FRAME;
/// A conversation's rhythm: silence, then so much speech, over and over.
const LISTENS_FRAMES: u32 = 128;
const SPEAKS_FRAMES: u32 = 3 * BLOCK;
/// In every second silence a caller presses a key, at this frame of it.
const KEY_FRAME: u32 = 40;

/// A stream that was opened: everything up to `start` was said on it.
pub(super) struct Opened {
    pub(super) socket: TcpStream,
    /// Read behind the head of the answer.
    pub(super) stream_sid: String,
    pub(super) started: u64,
}

/// What was noted in a window.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// From the caller's hand to the caller's ear, through the provider's echo.
    pub(super) round_trip: Spread,
    /// Call, frame, nanosecond: sent, heard again.
    pub(super) sent: Vec<(u32, u32, u64)>,
    pub(super) heard: Vec<(u32, u32, u64)>,
    /// Frames that never came back, that came twice, and that were another call's.
    pub(super) lost: u64,
    pub(super) repeated: u64,
    pub(super) foreign: u64,
    /// How late frames were sent.
    pub(super) lateness: Spread,
    /// Call and nanosecond of a `clear`.
    pub(super) clears: Vec<(u32, u64)>,
    /// Call and nanosecond of the first sound of an answer, silence before it.
    pub(super) sounds: Vec<(u32, u64)>,
    /// From `start` to the first sound.
    pub(super) first_audio: Spread,
    pub(super) frames_heard: u64,
    /// Keys pressed.
    pub(super) keys: u64,
}

#[derive(Default)]
struct Shared {
    arrivals: Mutex<Vec<Opened>>,
    /// What is noted; `None` while nothing is.
    notes: Mutex<Option<Notes>>,
    live: AtomicUsize,
    gone: AtomicUsize,
    hang_up: AtomicBool,
    end: AtomicBool,
}

/// All callers, on a thread of their own.
pub(super) struct Callers {
    shared: Arc<Shared>,
    waker: Arc<Waker>,
    thread: Option<std::thread::JoinHandle<Result<()>>>,
}

impl Callers {
    /// Starts the thread.
    ///
    /// # Errors
    /// When there is no epoll.
    pub(super) fn start(behaviour: Behaviour) -> Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        let shared = Arc::<Shared>::default();
        let thread = {
            let shared = shared.clone();
            std::thread::Builder::new().name("callers".into()).spawn(move || run(poll, &shared, behaviour))?
        };
        Ok(Self { shared, waker, thread: Some(thread) })
    }

    /// Gives a stream a caller.
    pub(super) fn add(&self, opened: Opened) {
        self.shared.arrivals.lock().unwrap_or_else(PoisonError::into_inner).push(opened);
        let _ = self.waker.wake();
    }

    /// Callers on the line, and callers whose stream was lost.
    pub(super) fn count(&self) -> (usize, usize) {
        (self.shared.live.load(Ordering::Relaxed), self.shared.gone.load(Ordering::Relaxed))
    }

    /// From now on everything is noted.
    pub(super) fn note(&self) {
        *self.notes() = Some(Notes::default());
    }

    /// What was noted; nothing is from now on.
    pub(super) fn tell(&self) -> Notes {
        self.notes().take().unwrap_or_default()
    }

    fn notes(&self) -> std::sync::MutexGuard<'_, Option<Notes>> {
        self.shared.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All callers hang up: `stop`, then the close.
    pub(super) fn hang_up(&self) {
        self.shared.hang_up.store(true, Ordering::Relaxed);
        let _ = self.waker.wake();
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Relaxed);
        let _ = self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

const WAKE: Token = Token(usize::MAX);
const TIMER: Token = Token(usize::MAX - 1);

fn run(mut poll: Poll, shared: &Shared, behaviour: Behaviour) -> Result<()> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
    let began = now() / SLOT * SLOT + 2 * SLOT;
    let spec = |it: u64| Timespec { tv_sec: (it / 1_000_000_000) as i64, tv_nsec: (it % 1_000_000_000) as i64 };
    let times = Itimerspec { it_interval: spec(SLOT), it_value: spec(began) };
    timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &times)?;
    poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
    let mut timer = std::fs::File::from(timer);
    let mut events = Events::with_capacity(1024);
    let mut calls: Vec<Option<Caller>> = Vec::new();
    let mut slot = 0_u64;
    while !shared.end.load(Ordering::Relaxed) {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            it => it?,
        }
        // Taken for a whole round of events: nobody else wants it in between.
        let mut notes = shared.notes.lock().unwrap_or_else(PoisonError::into_inner);
        for event in &events {
            match event.token() {
                TIMER => drop(timer.read(&mut [0; 8])),
                WAKE => {
                    let arrived = std::mem::take(&mut *shared.arrivals.lock().unwrap_or_else(PoisonError::into_inner));
                    for opened in arrived {
                        let index = calls.len();
                        let mut caller = Caller::new(index as u32, opened, behaviour)?;
                        poll.registry().register(caller.peer.socket(), Token(index), Interest::READABLE | Interest::WRITABLE)?;
                        calls.push(Some(caller));
                        shared.live.fetch_add(1, Ordering::Relaxed);
                    }
                    if shared.hang_up.swap(false, Ordering::Relaxed) {
                        calls.iter_mut().flatten().for_each(Caller::hang_up);
                    }
                }
                Token(index) => {
                    let Some(caller) = calls[index].as_mut() else { continue };
                    if caller.listen(notes.as_mut()).is_err() {
                        let _ = poll.registry().deregister(caller.peer.socket());
                        shared.gone.fetch_add(usize::from(!caller.hung_up), Ordering::Relaxed);
                        shared.live.fetch_sub(1, Ordering::Relaxed);
                        calls[index] = None;
                    }
                }
            }
        }
        // Late slots are caught up with, as a telephone network does.
        while began + slot * SLOT <= now() {
            let due = began + slot * SLOT;
            let place = slot as usize % SLOTS;
            for caller in calls.iter_mut().skip(place).step_by(SLOTS).flatten() {
                caller.speak(due, notes.as_mut());
            }
            for caller in calls.iter_mut().skip((place + SLOTS / 2) % SLOTS).step_by(SLOTS).flatten() {
                caller.echo_marks();
            }
            slot += 1;
        }
    }
    Ok(())
}

struct Caller {
    call: u32,
    peer: Peer,
    stream_sid: String,
    voice: Voice,
    conversing: bool,
    /// Messages and frames sent.
    sequence: u64,
    frames: u32,
    text: String,
    /// When the newest frames were sent.
    sent: Vec<u64>,
    hearing: Hearing,
    hung_up: bool,
}

/// The caller's ear: what was played, and when its marks are due.
struct Hearing {
    started: Option<u64>,
    played_until: u64,
    marks: VecDeque<(u64, String)>,
    ear: Ear,
    /// When the newest frames came, as many as a block has.
    came: VecDeque<u64>,
    /// The first frame that is expected next, and frames that came since it was.
    expected: Option<u32>,
    since: u32,
    silent: bool,
    /// When the last frame came.
    last: u64,
    cleared: bool,
    audio: Vec<u8>,
}

impl Caller {
    fn new(call: u32, opened: Opened, behaviour: Behaviour) -> io::Result<Self> {
        opened.socket.set_nonblocking(true)?;
        let peer = Peer::new(mio::net::TcpStream::from_std(opened.socket), Role::Client, false, None);
        Ok(Self {
            call,
            peer,
            stream_sid: opened.stream_sid,
            voice: Voice::new(call),
            conversing: behaviour == Behaviour::Converse,
            // `start` was the first.
            sequence: 1,
            frames: 0,
            text: String::new(),
            sent: vec![0; REMEMBERED],
            hearing: Hearing {
                started: Some(opened.started),
                played_until: 0,
                marks: VecDeque::new(),
                ear: Ear::default(),
                came: VecDeque::new(),
                expected: None,
                since: 0,
                silent: true,
                last: 0,
                cleared: false,
                audio: Vec::new(),
            },
            hung_up: false,
        })
    }

    /// Says the next 20 ms.
    fn speak(&mut self, due: u64, notes: Option<&mut Notes>) {
        use std::fmt::Write as _;
        if self.hung_up {
            return;
        }
        let (frame, at) = (self.frames, u64::from(self.frames) * 20);
        let rhythm = LISTENS_FRAMES + SPEAKS_FRAMES;
        // Calls do not all speak at once.
        let place = (frame + self.call * 7) % rhythm;
        let sound = match self.conversing {
            true if place < LISTENS_FRAMES => self.voice.silence(),
            true => self.voice.frame(self.call, place - LISTENS_FRAMES),
            false => self.voice.frame(self.call, frame),
        };
        self.sequence += 1;
        self.text.clear();
        let _ = write!(
            self.text,
            r#"{{"event":"media","sequenceNumber":"{}","media":{{"track":"inbound","chunk":"{}","timestamp":"{at}","payload":"{sound}"}},"streamSid":"{}"}}"#,
            self.sequence,
            frame + 1,
            self.stream_sid
        );
        self.peer.out.text(&self.text);
        let key = self.conversing && place == KEY_FRAME && (frame / rhythm) % 2 == 1;
        if key {
            self.press();
        }
        let sent = now();
        self.sent[frame as usize % REMEMBERED] = sent;
        self.frames += 1;
        let _ = self.peer.flush();
        if let Some(notes) = notes {
            notes.lateness.add(sent.saturating_sub(due) / 1000);
            notes.keys += u64::from(key);
            if !self.conversing {
                notes.sent.push((self.call, frame, sent));
            }
        }
    }

    /// Presses a key.
    fn press(&mut self) {
        self.sequence += 1;
        self.peer.out.text(&format!(
            r#"{{"event":"dtmf","streamSid":"{}","sequenceNumber":"{}","dtmf":{{"track":"inbound_track","digit":"{}"}}}}"#,
            self.stream_sid,
            self.sequence,
            self.call % 10
        ));
    }

    /// Tells of sound that was played to its mark.
    fn echo_marks(&mut self) {
        use std::fmt::Write as _;
        let (now, mut any) = (now(), false);
        while let Some((_, name)) = self.hearing.marks.pop_front_if(|it| it.0 <= now) {
            self.sequence += 1;
            self.text.clear();
            let (text, sequence, sid) = (&mut self.text, self.sequence, &self.stream_sid);
            let _ = write!(
                text,
                r#"{{"event":"mark","sequenceNumber":"{sequence}","streamSid":"{sid}","mark":{{"name":"{name}"}}}}"#
            );
            self.peer.out.text(&self.text);
            any = true;
        }
        if any {
            let _ = self.peer.flush();
        }
    }

    fn listen(&mut self, mut notes: Option<&mut Notes>) -> io::Result<()> {
        let (call, sent, hearing) = (self.call, &self.sent, &mut self.hearing);
        let mut over = false;
        self.peer.read(|came, out: &mut Out| match came {
            Came::Message(Message::Text(text)) => hearing.message(call, text, sent, notes.as_deref_mut()),
            Came::Message(Message::Close(..)) => {
                out.close(1000);
                over = true;
            }
            _ => (),
        })?;
        self.peer.flush()?;
        if self.hearing.cleared {
            self.hearing.cleared = false;
            self.echo_marks();
        }
        if over { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    fn hang_up(&mut self) {
        self.hung_up = true;
        self.sequence += 1;
        let stop = format!(
            r#"{{"event":"stop","sequenceNumber":"{}","streamSid":"{}","stop":{{"accountSid":"{}","callSid":"CA"}}}}"#,
            self.sequence,
            self.stream_sid,
            super::target::ACCOUNT
        );
        self.peer.out.text(&stop);
        self.peer.out.close(1000);
        let _ = self.peer.flush();
    }
}

impl Hearing {
    fn message(&mut self, call: u32, text: &str, sent: &[u64], notes: Option<&mut Notes>) {
        let came = now();
        if let Some((_, rest)) = text.split_once(r#""payload":""#) {
            let payload = rest.split('"').next().unwrap_or_default();
            if wire::audio::decode(payload, &mut self.audio).is_err() {
                return;
            }
            self.played_until = self.played_until.max(came) + FRAME;
            self.hear(call, came, sent, notes);
        } else if let Some((_, rest)) = text.split_once(r#""mark":{"name":""#) {
            let name = rest.split('"').next().unwrap_or_default();
            self.marks.push_back((self.played_until.max(came), name.to_owned()));
        } else if text.starts_with(r#"{"event":"clear""#) {
            self.played_until = came;
            self.marks.iter_mut().for_each(|it| it.0 = came);
            self.cleared = true;
            if let Some(notes) = notes {
                notes.clears.push((call, came));
            }
        }
    }

    fn hear(&mut self, call: u32, came: u64, sent: &[u64], notes: Option<&mut Notes>) {
        let symbol = Symbol::of_ulaw(&self.audio);
        let sounds = symbol != Symbol::Silence;
        // A server that has nothing to say sends nothing.
        let paused = came.saturating_sub(self.last) > PAUSE;
        let begins = sounds && (self.silent || paused);
        (self.silent, self.last) = (!sounds, came);
        if self.came.len() == BLOCK as usize {
            self.came.pop_front();
        }
        self.came.push_back(came);
        self.since += 1;
        let heard = self.ear.hear(symbol);
        let first_audio = if sounds { self.started.take() } else { None };
        let block = match heard {
            Heard::Block(it) => Some(it),
            Heard::Nothing | Heard::Broken => None,
        };
        let Some(notes) = notes else {
            if let Some(block) = block {
                (self.expected, self.since) = (Some(block.first + BLOCK), 0);
            }
            return;
        };
        notes.frames_heard += 1;
        if let Some(started) = first_audio {
            notes.first_audio.add((came - started) / 1000);
        }
        if begins {
            notes.sounds.push((call, came));
        }
        let Some(block) = block else { return };
        if block.call != call {
            notes.foreign += u64::from(BLOCK);
            return;
        }
        // So many frames came since the last block, and so many should have.
        if let Some(expected) = self.expected {
            let (should, did) = ((block.first + BLOCK).wrapping_sub(expected), self.since);
            if should < 1 << 20 {
                notes.lost += u64::from(should.saturating_sub(did));
                notes.repeated += u64::from(did.saturating_sub(should));
            } else {
                notes.repeated += u64::from(did);
            }
        }
        (self.expected, self.since) = (Some(block.first + BLOCK), 0);
        for (came, frame) in self.came.iter().zip(block.first..) {
            let sent = sent[frame as usize % REMEMBERED];
            notes.round_trip.add(came.saturating_sub(sent) / 1000);
            notes.heard.push((call, frame, *came));
        }
    }
}

/// How long a `Notes` window must be at least so that whole blocks fall into it.
pub(super) const WINDOW_MIN: Duration = Duration::from_secs(2);
