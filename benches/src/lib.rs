#![doc = include_str!("../README.md")]

pub mod converters;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use call::{Action, Call, CallConfig, Input, ItemId, Manner, ResponseId};
use media::g711::ulaw;
use media::{FRAME_BYTES, Format, Frame, Rate, Transcoder};
use wire::openai::ServerEvent;
use wire::twilio::FromTwilio;
use wire::websocket::{Inbox, Message, Role, print_text};

/// Counts what the current thread allocates, and what the process holds.
pub struct Counting;

static LIVE: AtomicI64 = AtomicI64::new(0);

/// Bytes that the process has allocated and not freed.
pub fn live_bytes() -> i64 {
    LIVE.load(Ordering::Relaxed)
}

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|it| it.set(it.get() + 1));
        LIVE.fetch_add(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller's promises are those that `System` wants.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|it| it.set(it.get() + 1));
        LIVE.fetch_add(size as i64 - layout.size() as i64, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Allocations that `work` makes on this thread, per round; the first rounds let buffers grow and are not counted.
pub fn allocations_per_round(rounds: u64, mut work: impl FnMut()) -> f64 {
    for _ in 0..1000 {
        work();
    }
    let before = ALLOCATIONS.get();
    for _ in 0..rounds {
        work();
    }
    (ALLOCATIONS.get() - before) as f64 / rounds as f64
}

/// Formats a provider may speak.
pub const FORMATS: [(&str, Format); 3] =
    [("passthrough", Format::Ulaw8k), ("16k", Format::Pcm16(Rate::Hz16000)), ("24k", Format::Pcm16(Rate::Hz24000))];

/// 20 ms of something like a voice, μ-law.
pub fn voice() -> [u8; FRAME_BYTES] {
    std::array::from_fn(|n| ulaw::encode((4000.0 * (n as f64 * 0.3).sin() + 2500.0 * (n as f64 * 0.71).sin()) as i16))
}

/// A call in the middle of a conversation.
fn talking() -> Call {
    let manner = Manner { decides: true, utterance_gap: None, session_life: None, session_tokens: None };
    // Benchmarks run for years of a call's time.
    let for_ever = Duration::from_secs(1 << 40);
    let config = CallConfig { duration_max: Duration::MAX, media_timeout: for_ever, ..CallConfig::new(vec![manner]) };
    let mut call = Call::new(config);
    call.handle(Duration::ZERO, Input::AssistantReady { opened: false }, &mut Vec::new());
    call
}

/// One frame from the caller's socket to the text for the provider's.
pub struct CallerToAssistant {
    call: Call,
    now: Duration,
    message: Vec<u8>,
    inbox: Inbox,
    audio: Vec<u8>,
    actions: Vec<Action>,
    queue: VecDeque<Frame>,
    transcoder: Transcoder,
    converted: Vec<u8>,
    text: String,
    out: Vec<u8>,
}

/// Any key will do: only its cost counts.
const MASK: Option<[u8; 4]> = Some([0x5A, 0x13, 0xC7, 0x88]);

/// What a socket would have read.
fn read_into(inbox: &mut Inbox, bytes: &[u8]) {
    inbox.room()[..bytes.len()].copy_from_slice(bytes);
    inbox.filled(bytes.len());
}

impl CallerToAssistant {
    pub fn new(format: Format) -> Self {
        let mut payload = String::new();
        wire::audio::encode(&voice(), &mut payload);
        // As Twilio writes it.
        let text = format!(
            r#"{{"event":"media","sequenceNumber":"412","media":{{"track":"inbound","chunk":"411","timestamp":"8220","payload":"{payload}"}},"streamSid":"MZ0123456789abcdef0123456789abcdef"}}"#
        );
        let mut message = Vec::new();
        print_text(&mut message, &text, MASK);
        let mut inbox = Inbox::new(Role::Server, 65_536);
        inbox.lend(vec![0; 8192]);
        Self {
            call: talking(),
            now: Duration::ZERO,
            message,
            inbox,
            audio: Vec::new(),
            actions: Vec::new(),
            queue: VecDeque::new(),
            transcoder: Transcoder::new(Format::Ulaw8k, format).expect("one side is μ-law"),
            converted: Vec::new(),
            text: String::new(),
            out: Vec::new(),
        }
    }

    /// Returns the bytes of the message.
    pub fn frame(&mut self) -> usize {
        self.now += Duration::from_millis(20);
        read_into(&mut self.inbox, &self.message);
        let Ok(Some(Message::Text(text))) = self.inbox.message() else { unreachable!("it is a text") };
        let Ok(FromTwilio::Media { payload, .. }) = FromTwilio::parse(text) else { unreachable!("it is a media message") };
        wire::audio::decode(&payload, &mut self.audio).expect("it is base64");
        for frame in Frame::cut(&self.audio) {
            self.call.handle(self.now, Input::CallerAudio(&frame), &mut self.actions);
        }
        for action in self.actions.drain(..) {
            if let Action::SendToAssistant(frame) = action {
                self.queue.push_back(frame);
            }
        }
        self.out.clear();
        while let Some(frame) = self.queue.pop_front() {
            if self.transcoder.is_passthrough() {
                wire::openai::print_append(&mut self.text, frame.ulaw());
            } else {
                self.converted.clear();
                self.transcoder.push(frame.ulaw(), &mut self.converted);
                wire::openai::print_append(&mut self.text, &self.converted);
            }
            print_text(&mut self.out, &self.text, MASK);
        }
        self.out.len()
    }
}

/// 20 ms from the provider's socket to the text for the caller's.
pub struct AssistantToCaller {
    call: Call,
    now: Duration,
    message: Vec<u8>,
    inbox: Inbox,
    audio: Vec<u8>,
    ulaw: Vec<u8>,
    actions: Vec<Action>,
    echoes: Vec<call::Mark>,
    queue: VecDeque<Frame>,
    transcoder: Transcoder,
    text: String,
    out: Vec<u8>,
}

impl AssistantToCaller {
    pub fn new(format: Format) -> Self {
        let mut audio = Vec::new();
        Transcoder::new(Format::Ulaw8k, format).expect("one side is μ-law").push(&voice(), &mut audio);
        let mut delta = String::new();
        wire::audio::encode(&audio, &mut delta);
        let text = format!(
            r#"{{"type":"response.output_audio.delta","event_id":"event_0123456789abcdef01234","response_id":"resp_0123456789abcdef01234","item_id":"item_0123456789abcdef01234","output_index":0,"content_index":0,"delta":"{delta}"}}"#
        );
        let mut message = Vec::new();
        print_text(&mut message, &text, None);
        let mut inbox = Inbox::new(Role::Client, 65_536);
        inbox.lend(vec![0; 8192]);
        Self {
            call: talking(),
            now: Duration::ZERO,
            message,
            inbox,
            audio: Vec::new(),
            ulaw: Vec::new(),
            actions: Vec::new(),
            echoes: Vec::new(),
            queue: VecDeque::new(),
            transcoder: Transcoder::new(format, Format::Ulaw8k).expect("one side is μ-law"),
            text: String::new(),
            out: Vec::new(),
        }
    }

    /// Returns the bytes of the messages.
    pub fn frame(&mut self) -> usize {
        self.now += Duration::from_millis(20);
        read_into(&mut self.inbox, &self.message);
        let Ok(Some(Message::Text(text))) = self.inbox.message() else { unreachable!("it is a text") };
        let Ok(ServerEvent::AudioDelta { delta, .. }) = ServerEvent::parse(text) else { unreachable!("it is a delta") };
        wire::audio::decode(&delta, &mut self.audio).expect("it is base64");
        self.ulaw.clear();
        self.transcoder.push(&self.audio, &mut self.ulaw);
        let input = Input::AssistantAudio { response: ResponseId(1), item: ItemId(1), ulaw: &self.ulaw };
        self.call.handle(self.now, input, &mut self.actions);
        for mark in self.echoes.drain(..) {
            self.call.handle(self.now, Input::MarkPlayed(mark), &mut self.actions);
        }
        for action in self.actions.drain(..) {
            match action {
                Action::PlayToCaller(frame) => self.queue.push_back(frame),
                Action::MarkCaller(mark) => self.echoes.push(mark),
                _ => (),
            }
        }
        self.out.clear();
        while let Some(frame) = self.queue.pop_front() {
            wire::twilio::print_media(&mut self.text, "MZ0123456789abcdef0123456789abcdef", frame.ulaw());
            print_text(&mut self.out, &self.text, None);
        }
        self.out.len()
    }
}

/// A provider takes so long from the end of a turn to the first sound of its answer.
pub const THINKING: Duration = Duration::from_millis(300);
/// What a caller may wait from the end of their turn to the first sound, all in all.
pub const TURN_BUDGET: Duration = Duration::from_millis(500);

/// One turn of a call: the caller stops, a provider that takes [`THINKING`] answers with a second of speech.
pub struct Turn {
    call: Call,
    now: Duration,
    answers: u64,
    actions: Vec<Action>,
}

impl Default for Turn {
    fn default() -> Self {
        Self { call: talking(), now: Duration::ZERO, answers: 0, actions: Vec::new() }
    }
}

impl Turn {
    fn input(&mut self, input: Input<'_>) {
        self.call.handle(self.now, input, &mut self.actions);
    }

    /// Has a turn; returns the time from its end to the first frame handed to Twilio, all of it the call's and the provider's.
    pub fn turn(&mut self) -> Duration {
        self.now += Duration::from_secs(3);
        self.actions.clear();
        self.input(Input::CallerSpeechStarted);
        self.input(Input::CallerSpeechStopped { item: None });
        let ended = self.now;
        self.now += THINKING;
        self.answers += 1;
        let (response, item) = (ResponseId(self.answers), ItemId(self.answers));
        self.input(Input::ResponseStarted(response));
        self.actions.clear();
        let second = [voice()[0]; 50 * FRAME_BYTES];
        self.input(Input::AssistantAudio { response, item, ulaw: &second });
        assert!(self.actions.iter().any(|it| matches!(it, Action::PlayToCaller(_))), "an answer is played at once");
        let took = self.now - ended;
        self.input(Input::AssistantAudioDone { response, item });
        self.input(Input::ResponseDone(response));
        while let Some((at, _)) = self.call.deadline().filter(|it| it.0 < ended + Duration::from_secs(2)) {
            self.now = at;
            self.input(Input::Tick);
            let marks: Vec<_> =
                self.actions.drain(..).filter_map(|it| if let Action::MarkCaller(it) = it { Some(it) } else { None }).collect();
            marks.into_iter().for_each(|it| self.input(Input::MarkPlayed(it)));
        }
        took
    }
}
