#![doc = include_str!("../README.md")]

pub mod converters;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::{BufMut as _, BytesMut};
use call::{Action, Call, CallConfig, Input, ItemId, Manner, ResponseId};
use crossbeam_queue::ArrayQueue;
use media::g711::ulaw;
use media::{FRAME_BYTES, Format, Frame, Rate, Transcoder};
use wire::openai::ServerEvent;
use wire::twilio::FromTwilio;

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
    let config = CallConfig { duration_max: Duration::MAX, ..CallConfig::new(vec![manner]) };
    let mut call = Call::new(config);
    call.handle(Duration::ZERO, Input::AssistantReady { opened: false }, &mut Vec::new());
    call
}

/// One frame from the caller's socket to the text for the provider's.
pub struct CallerToAssistant {
    call: Call,
    now: Duration,
    message: String,
    audio: Vec<u8>,
    actions: Vec<Action>,
    ring: ArrayQueue<Frame>,
    transcoder: Transcoder,
    converted: Vec<u8>,
    text: String,
    buffer: BytesMut,
}

impl CallerToAssistant {
    pub fn new(format: Format) -> Self {
        let mut message = String::new();
        wire::twilio::print_media(&mut message, "MZ0123456789abcdef0123456789abcdef", &voice());
        // As Twilio writes it.
        let message = message
            .replace(r#""media":{"#, r#""sequenceNumber":"412","media":{"track":"inbound","chunk":"411","timestamp":"8220","#);
        Self {
            call: talking(),
            now: Duration::ZERO,
            message,
            audio: Vec::new(),
            actions: Vec::new(),
            ring: ArrayQueue::new(55),
            transcoder: Transcoder::new(Format::Ulaw8k, format).expect("one side is μ-law"),
            converted: Vec::new(),
            text: String::new(),
            buffer: BytesMut::with_capacity(4096),
        }
    }

    /// Returns the bytes of the message.
    pub fn frame(&mut self) -> usize {
        self.now += Duration::from_millis(20);
        let Ok(FromTwilio::Media { payload, .. }) = FromTwilio::parse(&self.message) else {
            unreachable!("it is a media message")
        };
        wire::audio::decode(&payload, &mut self.audio).expect("it is base64");
        for frame in Frame::cut(&self.audio) {
            self.call.handle(self.now, Input::CallerAudio(frame), &mut self.actions);
        }
        for action in self.actions.drain(..) {
            if let Action::SendToAssistant(frame) = action {
                self.ring.force_push(frame);
            }
        }
        let mut sent = 0;
        while let Some(frame) = self.ring.pop() {
            if self.transcoder.is_passthrough() {
                wire::openai::print_append(&mut self.text, frame.ulaw());
            } else {
                self.converted.clear();
                self.transcoder.push(frame.ulaw(), &mut self.converted);
                wire::openai::print_append(&mut self.text, &self.converted);
            }
            self.buffer.put_slice(self.text.as_bytes());
            sent += self.buffer.split().freeze().len();
        }
        sent
    }
}

/// 20 ms from the provider's socket to the text for the caller's.
pub struct AssistantToCaller {
    call: Call,
    now: Duration,
    message: String,
    audio: Vec<u8>,
    ulaw: Vec<u8>,
    actions: Vec<Action>,
    echoes: Vec<call::Mark>,
    ring: ArrayQueue<Frame>,
    transcoder: Transcoder,
    text: String,
    buffer: BytesMut,
}

impl AssistantToCaller {
    pub fn new(format: Format) -> Self {
        let mut audio = Vec::new();
        Transcoder::new(Format::Ulaw8k, format).expect("one side is μ-law").push(&voice(), &mut audio);
        let mut delta = String::new();
        wire::audio::encode(&audio, &mut delta);
        let message = format!(
            r#"{{"type":"response.output_audio.delta","event_id":"event_0123456789abcdef01234","response_id":"resp_0123456789abcdef01234","item_id":"item_0123456789abcdef01234","output_index":0,"content_index":0,"delta":"{delta}"}}"#
        );
        Self {
            call: talking(),
            now: Duration::ZERO,
            message,
            audio: Vec::new(),
            ulaw: Vec::new(),
            actions: Vec::new(),
            echoes: Vec::new(),
            ring: ArrayQueue::new(55),
            transcoder: Transcoder::new(format, Format::Ulaw8k).expect("one side is μ-law"),
            text: String::new(),
            buffer: BytesMut::with_capacity(4096),
        }
    }

    /// Returns the bytes of the messages.
    pub fn frame(&mut self) -> usize {
        self.now += Duration::from_millis(20);
        let Ok(ServerEvent::AudioDelta { delta, .. }) = ServerEvent::parse(&self.message) else { unreachable!("it is a delta") };
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
                Action::PlayToCaller(frame) => drop(self.ring.force_push(frame)),
                Action::MarkCaller(mark) => self.echoes.push(mark),
                _ => (),
            }
        }
        let mut sent = 0;
        while let Some(frame) = self.ring.pop() {
            wire::twilio::print_media(&mut self.text, "MZ0123456789abcdef0123456789abcdef", frame.ulaw());
            self.buffer.put_slice(self.text.as_bytes());
            sent += self.buffer.split().freeze().len();
        }
        sent
    }
}
