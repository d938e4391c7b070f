//! A connection as its exchange has it: watched, read and written for a call.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Poll, ready};

use mio::{Interest, Registry, Token};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::net::TcpStream;

/// The connections that an exchange watches.
pub(crate) struct Lines {
    registry: Registry,
    /// By token. A call that ends lets go of its connections, and they are closed; nobody is told here.
    lines: Mutex<Vec<Weak<Line>>>,
}

impl Lines {
    pub(crate) fn new(registry: Registry) -> Self {
        Self { registry, lines: Mutex::default() }
    }

    /// From now on the exchange is told of what comes and of room for more; once each time.
    ///
    /// # Errors
    /// The socket cannot be watched.
    pub(crate) fn watch(&self, socket: TcpStream, kept: Box<Kept>, token: Token) -> io::Result<Arc<Line>> {
        let mut socket = mio::net::TcpStream::from_std(socket.into_std()?);
        self.registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
        let (has_unread, has_unsent) = (kept.has_unread().into(), kept.has_unsent().into());
        let line = Arc::new(Line { socket, token, kept: Mutex::new(kept), has_unread, has_unsent });
        let mut lines = lock(&self.lines);
        if lines.len() <= token.0 {
            lines.resize(token.0 + 1, Weak::new());
        }
        lines[token.0] = Arc::downgrade(&line);
        Ok(line)
    }

    /// Back to the runtime, with what the call has not read and the peer not taken.
    ///
    /// # Errors
    /// The socket cannot be watched by the runtime.
    pub(crate) fn release(&self, line: Line) -> io::Result<(TcpStream, Box<Kept>)> {
        let Line { mut socket, kept, .. } = line;
        self.registry.deregister(&mut socket)?;
        Ok((TcpStream::from_std(socket.into())?, kept.into_inner().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Tells of the connections that are known by these tokens and still there.
    pub(crate) fn each(&self, tokens: impl Iterator<Item = Token>, tell: impl FnMut(Arc<Line>)) {
        let lines = lock(&self.lines);
        tokens.filter_map(|it| lines.get(it.0)?.upgrade()).for_each(tell);
    }
}

/// See the module.
pub(crate) struct Line {
    socket: mio::net::TcpStream,
    /// What its exchange knows it by.
    token: Token,
    /// Elsewhere: most times nothing is kept, and neither a lock nor a look at it is needed to see that.
    kept: Mutex<Box<Kept>>,
    has_unread: AtomicBool,
    has_unsent: AtomicBool,
}

/// What a connection keeps for its call and for its peer.
#[derive(Default)]
pub(crate) struct Kept {
    /// What came and was not read, before anything that is still to come.
    unread: Vec<u8>,
    /// What ended it, told behind what was not read.
    unread_error: Option<io::Error>,
    /// What was written and the peer did not take, before anything that is still to be written.
    unsent: Vec<u8>,
    /// What came of sending, told by the next write.
    unsent_error: Option<io::Error>,
}

impl Kept {
    /// Gives what was not read, as far as there is room for it, then what ended it.
    pub(crate) fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if self.unread.is_empty() {
            return self.unread_error.take().map_or(Ok(0), Err);
        }
        let bytes = room.len().min(self.unread.len());
        room[..bytes].copy_from_slice(&self.unread[..bytes]);
        passed_on(&mut self.unread, bytes);
        Ok(bytes)
    }

    /// Gives what was not taken to whoever takes it, who tells how many bytes he took.
    ///
    /// # Errors
    /// What came of sending before, and those of whoever takes.
    pub(crate) fn poll_send(&mut self, take: impl FnOnce(&[u8]) -> Poll<io::Result<usize>>) -> Poll<io::Result<()>> {
        self.unsent_error.take().map_or(Ok(()), Err)?;
        let bytes = ready!(take(&self.unsent))?;
        passed_on(&mut self.unsent, bytes);
        Poll::Ready(Ok(()))
    }

    pub(crate) fn has_unread(&self) -> bool {
        !self.unread.is_empty() || self.unread_error.is_some()
    }

    pub(crate) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty() || self.unsent_error.is_some()
    }
}

impl Line {
    pub(crate) fn token(&self) -> Token {
        self.token
    }

    /// Whether its call is to read what was kept before anything else is read.
    pub(crate) fn has_unread(&self) -> bool {
        self.has_unread.load(Ordering::Acquire)
    }

    /// Whether the peer is to take what was kept before anything else is written.
    pub(crate) fn has_unsent(&self) -> bool {
        self.has_unsent.load(Ordering::Acquire)
    }

    /// Reads what was kept.
    pub(crate) fn read_kept(&self, room: &mut [u8]) -> io::Result<usize> {
        let mut kept = self.kept();
        let read = kept.read(room);
        self.has_unread.store(kept.has_unread(), Ordering::Release);
        read
    }

    /// Reads what has come, when nothing was kept; 0 bytes are the end.
    pub(crate) fn poll_read(&self, room: &mut [u8]) -> Poll<io::Result<usize>> {
        attempt(|| Ok(recv(&self.socket, &mut *room, RecvFlags::empty())?.0))
    }

    /// Reads for its call, when nothing was kept; how many bytes. What goes wrong is told to the call when it reads.
    pub(crate) fn read_ahead(&self, room: &mut [u8]) -> usize {
        match self.poll_read(room) {
            Poll::Ready(Ok(bytes)) => bytes,
            Poll::Pending => 0,
            Poll::Ready(Err(error)) => {
                self.kept().unread_error = Some(error);
                self.has_unread.store(true, Ordering::Release);
                0
            }
        }
    }

    /// Keeps what the call has not read, behind what was kept.
    pub(crate) fn keep_unread(&self, bytes: &[u8]) {
        self.kept().unread.extend_from_slice(bytes);
        self.has_unread.store(true, Ordering::Release);
    }

    /// Writes what the peer takes. To be asked when nothing is left of [what was sent before](Self::poll_unsent).
    pub(crate) fn poll_write(&self, bytes: &[u8]) -> Poll<io::Result<usize>> {
        attempt(|| Ok(send(&self.socket, bytes, SendFlags::NOSIGNAL)?))
    }

    /// Sends what the peer did not take before, as far as it takes it now.
    ///
    /// # Errors
    /// Those of sending, also of what was sent at the end of a turn.
    pub(crate) fn poll_unsent(&self) -> Poll<io::Result<()>> {
        if !self.has_unsent() {
            return Poll::Ready(Ok(()));
        }
        let mut kept = self.kept();
        let sent = kept.poll_send(|bytes| Poll::Ready(self.send_all(bytes)));
        if matches!(sent, Poll::Ready(Err(_))) {
            kept.unsent = Vec::new();
        }
        self.has_unsent.store(kept.has_unsent(), Ordering::Release);
        if kept.has_unsent() { Poll::Pending } else { sent }
    }

    /// Sends behind what the peer did not take; what it does not take now, and what goes wrong, is kept.
    pub(crate) fn send(&self, bytes: &[u8]) {
        let sent = if self.has_unsent() { Ok(0) } else { self.send_all(bytes) };
        if let Ok(sent) = &sent
            && *sent == bytes.len()
        {
            return;
        }
        let mut kept = self.kept();
        match sent {
            Ok(sent) => kept.unsent.extend_from_slice(&bytes[sent..]),
            Err(error) => kept.unsent_error = Some(error),
        }
        self.has_unsent.store(true, Ordering::Release);
    }

    /// How many of the bytes the peer takes; if not all, the exchange is told when it takes more.
    fn send_all(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut sent = 0;
        while sent < bytes.len() {
            match self.poll_write(&bytes[sent..]) {
                Poll::Ready(more) => sent += more?,
                Poll::Pending => break,
            }
        }
        Ok(sent)
    }

    /// Nothing more will be written.
    pub(crate) fn shut_down(&self) -> io::Result<()> {
        self.socket.shutdown(std::net::Shutdown::Write)
    }

    fn kept(&self) -> MutexGuard<'_, Box<Kept>> {
        lock(&self.kept)
    }
}

/// What is kept seldom keeps no room.
fn passed_on(kept: &mut Vec<u8>, bytes: usize) {
    kept.drain(..bytes);
    if kept.is_empty() {
        *kept = Vec::new();
    }
}

fn lock<T>(it: &Mutex<T>) -> MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Something on a socket that does not block.
fn attempt<T>(mut work: impl FnMut() -> io::Result<T>) -> Poll<io::Result<T>> {
    loop {
        match work() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            done => return Poll::Ready(done),
        }
    }
}
