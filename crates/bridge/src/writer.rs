//! The write half of a socket: a task of its own, fed by two bounded lock-free rings.
//!
//! The media ring drops its oldest entry when the peer does not keep up; the control ring overtakes it and never drops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::{BufMut as _, Bytes, BytesMut};
use crossbeam_queue::ArrayQueue;
use futures::{Sink, SinkExt as _};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use crate::limits;

/// Turns queue entries into messages; keeps what that needs (ids, converters).
pub(crate) trait Printer: Send + 'static {
    type Media: Send + 'static;
    type Control: Send + 'static;
    /// Replaces `out` by the message; `false` when there is nothing to send.
    fn media(&mut self, media: Self::Media, out: &mut String) -> bool;
    /// Same for a control entry.
    fn control(&mut self, control: Self::Control, out: &mut String) -> bool;
}

enum Control<C> {
    Order(C),
    Ping,
    Close(u16, &'static str),
}

struct Shared<P: Printer> {
    media: ArrayQueue<P::Media>,
    control: ArrayQueue<Control<P::Control>>,
    wake: Notify,
    dropped: AtomicU64,
    /// The writer is gone: what is queued now is never sent.
    gone: AtomicBool,
}

/// The queueing end, held by the driver.
pub(crate) struct Outbox<P: Printer>(Arc<Shared<P>>);

/// The peer does not read: its control ring is full.
#[derive(Debug)]
pub(crate) struct Stalled;

impl<P: Printer> Outbox<P> {
    /// Queues audio; the oldest entry gives way when the ring is full.
    pub(crate) fn media(&self, media: P::Media) {
        if self.0.media.force_push(media).is_some() {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.0.wake.notify_one();
    }

    /// Queues what must not be lost and overtakes audio.
    pub(crate) fn control(&self, control: P::Control) -> Result<(), Stalled> {
        let queued = self.0.control.push(Control::Order(control)).map_err(|_| Stalled);
        self.0.wake.notify_one();
        queued
    }

    /// Asks the peer whether it is there.
    pub(crate) fn ping(&self) {
        let _ = self.0.control.push(Control::Ping);
        self.0.wake.notify_one();
    }

    /// Throws away queued audio.
    pub(crate) fn discard_media(&self) {
        while self.0.media.pop().is_some() {}
    }

    /// Sends what is queued, then closes. Audio still queued goes out first.
    pub(crate) fn close(&self, code: u16, reason: &'static str) {
        let _ = self.0.control.force_push(Control::Close(code, reason));
        self.0.wake.notify_one();
    }

    /// Entries that gave way so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Whether the writer has ended, by closing or by an error.
    pub(crate) fn is_gone(&self) -> bool {
        self.0.gone.load(Ordering::Relaxed)
    }
}

/// Makes an outbox with room for `media_ring` entries of audio, and the task that empties it. The task ends after a close, on a write error and on a stall.
pub(crate) fn writer<P, S>(printer: P, sink: S, media_ring: usize) -> (Outbox<P>, impl Future<Output = ()> + Send + 'static)
where
    P: Printer,
    S: Sink<Message, Error = Error> + Send + Unpin + 'static,
{
    let shared = Arc::new(Shared {
        media: ArrayQueue::new(media_ring),
        control: ArrayQueue::new(limits::CONTROL_RING),
        wake: Notify::new(),
        dropped: AtomicU64::new(0),
        gone: AtomicBool::new(false),
    });
    let task = {
        let shared = shared.clone();
        async move {
            run(&shared, printer, sink).await;
            shared.gone.store(true, Ordering::Relaxed);
        }
    };
    (Outbox(shared), task)
}

async fn run<P: Printer>(shared: &Shared<P>, mut printer: P, mut sink: impl Sink<Message, Error = Error> + Unpin) {
    let mut text = String::with_capacity(512);
    let mut buffer = BytesMut::with_capacity(4096);
    loop {
        let mut close = None;
        let mut unflushed = false;
        loop {
            let printed = match shared.control.pop() {
                Some(Control::Order(control)) => printer.control(control, &mut text),
                Some(Control::Ping) => {
                    if !matches!(timeout(limits::WRITE_TIMEOUT, sink.feed(Message::Ping(Bytes::new()))).await, Ok(Ok(()))) {
                        return;
                    }
                    unflushed = true;
                    continue;
                }
                Some(Control::Close(code, reason)) => {
                    close = Some((code, reason));
                    continue;
                }
                None => match shared.media.pop() {
                    Some(media) => printer.media(media, &mut text),
                    None => break,
                },
            };
            if printed {
                if !matches!(timeout(limits::WRITE_TIMEOUT, sink.feed(message(&text, &mut buffer))).await, Ok(Ok(()))) {
                    return;
                }
                unflushed = true;
            }
        }
        if unflushed && !matches!(timeout(limits::WRITE_TIMEOUT, sink.flush()).await, Ok(Ok(()))) {
            return;
        }
        if let Some((code, reason)) = close {
            let frame = CloseFrame { code: CloseCode::from(code), reason: Utf8Bytes::from_static(reason) };
            let _ = timeout(limits::CLOSE_TIMEOUT, sink.send(Message::Close(Some(frame)))).await;
            return;
        }
        shared.wake.notified().await;
    }
}

/// The text as a message, in a buffer that is reused once the socket has let go of it.
pub(crate) fn message(text: &str, buffer: &mut BytesMut) -> Message {
    buffer.put_slice(text.as_bytes());
    Message::Text(Utf8Bytes::try_from(buffer.split().freeze()).expect("a str is UTF-8"))
}
