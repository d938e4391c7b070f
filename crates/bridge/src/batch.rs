//! What the calls of a turn write, until all of them have decided: then it is sent in a row.
//!
//! Whoever reads it on the other side is woken once and not for each, and a call need not be polled once more to write
//! (decision 0027).

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use mio::Token;
use rustix::net::{SendFlags, send};

/// Room for this much is kept from one turn to the next.
const KEPT_BYTES_MAX: usize = 256 * 1024;

thread_local! {
    static BATCH: RefCell<Batch> = const { RefCell::new(Batch { is_open: false, bytes: Vec::new(), letters: Vec::new() }) };
}

struct Batch {
    /// Calls are being polled.
    is_open: bool,
    bytes: Vec<u8>,
    letters: Vec<Letter>,
}

/// A part of the bytes, and where it goes.
struct Letter {
    line: Arc<Line>,
    part: Range<usize>,
}

/// A connection that an exchange watches, as far as writing goes.
pub(crate) struct Line {
    pub(crate) socket: mio::net::TcpStream,
    /// What its exchange knows it by.
    token: Token,
    /// What the peer did not take.
    unsent: Mutex<Unsent>,
    has_unsent: AtomicBool,
}

#[derive(Default)]
struct Unsent {
    bytes: Vec<u8>,
    error: Option<io::Error>,
}

impl Line {
    pub(crate) fn new(socket: mio::net::TcpStream, token: Token) -> Self {
        Self { socket, token, unsent: Mutex::default(), has_unsent: AtomicBool::new(false) }
    }

    /// Takes bytes to be sent at the end of the turn; outside of one, sends what the peer takes. To be asked when nothing is left
    /// of [what was sent before](Self::poll_unsent).
    pub(crate) fn poll_write(self: &Arc<Self>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if post(self, bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        attempt(|| Ok(send(&self.socket, bytes, SendFlags::NOSIGNAL)?))
    }

    /// Sends what the peer did not take before, as far as it takes it now.
    ///
    /// # Errors
    /// Those of sending, also of what was sent at the end of a turn.
    pub(crate) fn poll_unsent(&self) -> Poll<io::Result<()>> {
        if !self.has_unsent.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        let mut unsent = self.unsent();
        let bytes = std::mem::take(&mut unsent.bytes);
        let sent = match unsent.error.take() {
            Some(error) => Err(error),
            None => send_all(&self.socket, &bytes),
        };
        self.has_unsent.store(false, Ordering::Release);
        match sent {
            Ok(sent) if sent == bytes.len() => Poll::Ready(Ok(())),
            Ok(sent) => {
                unsent.bytes = bytes;
                unsent.bytes.drain(..sent);
                self.has_unsent.store(true, Ordering::Release);
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Sends behind what the peer did not take; what it does not take now, and what goes wrong, is kept.
    fn send(&self, bytes: &[u8]) {
        let has_unsent = self.has_unsent.load(Ordering::Acquire);
        let sent = if has_unsent { Ok(0) } else { send_all(&self.socket, bytes) };
        if let Ok(sent) = &sent
            && *sent == bytes.len()
        {
            return;
        }
        let mut unsent = self.unsent();
        match sent {
            Ok(sent) => unsent.bytes.extend_from_slice(&bytes[sent..]),
            Err(error) => unsent.error = Some(error),
        }
        self.has_unsent.store(true, Ordering::Release);
    }

    fn unsent(&self) -> MutexGuard<'_, Unsent> {
        self.unsent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection, and what the peer has not taken of what was written.
    pub(crate) fn into_parts(self) -> (mio::net::TcpStream, Vec<u8>) {
        (self.socket, self.unsent.into_inner().unwrap_or_else(PoisonError::into_inner).bytes)
    }
}

/// Something on a socket that does not block.
pub(crate) fn attempt<T>(mut work: impl FnMut() -> io::Result<T>) -> Poll<io::Result<T>> {
    loop {
        match work() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            done => return Poll::Ready(done),
        }
    }
}

/// How many of the bytes the peer takes; if not all, it tells when it takes more.
fn send_all(socket: &mio::net::TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match attempt(|| Ok(send(socket, &bytes[sent..], SendFlags::NOSIGNAL)?)) {
            Poll::Ready(more) => sent += more?,
            Poll::Pending => break,
        }
    }
    Ok(sent)
}

/// `false` outside of a turn.
fn post(line: &Arc<Line>, bytes: &[u8]) -> bool {
    BATCH.with_borrow_mut(|it| {
        if it.is_open {
            let begin = it.bytes.len();
            it.bytes.extend_from_slice(bytes);
            let end = it.bytes.len();
            match it.letters.last_mut() {
                Some(last) if Arc::ptr_eq(&last.line, line) => last.part.end = end,
                _ => it.letters.push(Letter { line: line.clone(), part: begin..end }),
            }
        }
        it.is_open
    })
}

/// From now on this thread collects what is written.
pub(crate) fn open() {
    BATCH.with_borrow_mut(|it| it.is_open = true);
}

/// Sends what was written since [`open`]; `unsent` is told of connections whose peers did not take all of it.
pub(crate) fn send_out(mut unsent: impl FnMut(Token)) {
    BATCH.with_borrow_mut(|it| {
        it.is_open = false;
        for Letter { line, part } in it.letters.drain(..) {
            line.send(&it.bytes[part]);
            if line.has_unsent.load(Ordering::Acquire) {
                unsent(line.token);
            }
        }
        it.bytes.clear();
        it.bytes.shrink_to(KEPT_BYTES_MAX);
    });
}

/// Sends now what was written to a connection that leaves its exchange.
pub(crate) fn send_now(line: &Arc<Line>) {
    BATCH.with_borrow_mut(|it| {
        let (mine, others) = it.letters.drain(..).partition(|it| Arc::ptr_eq(&it.line, line));
        it.letters = others;
        let mine: Vec<Letter> = mine;
        mine.iter().for_each(|letter| line.send(&it.bytes[letter.part.clone()]));
    });
}
