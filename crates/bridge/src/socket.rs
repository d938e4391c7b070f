//! One end of an open WebSocket. Whoever owns it reads and writes in one task: a hundred messages a second of two sockets
//! cost one wake-up each and no hand-over.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use std::future::poll_fn;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::time::Instant;
use wire::websocket::{Inbox, Message, Role, Violation};

use crate::limits;
use crate::net::BoxIo;
use crate::outbox::{Outbox, Printer};
use crate::spare::{self, Use};
use crate::tcp::Tcp;
use crate::working_set::WorkingSet;

pub(crate) struct Socket {
    io: BoxIo,
    inbox: Inbox,
    /// The peer has sent its close: nothing more will come.
    peer_closed: bool,
    /// The connection has not passed on yet all that it was given.
    held_back: bool,
}

/// The connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    #[error("it was closed without a word")]
    Closed,
    #[error("{0}")]
    Broken(#[from] io::Error),
    #[error("it takes nothing any more")]
    Stalled,
    #[error("{0}")]
    Violation(#[from] Violation),
}

impl Socket {
    /// `early` came right behind the handshake. Messages may have `message_max` bytes.
    pub(crate) fn new(io: BoxIo, role: Role, message_max: usize, early: &[u8]) -> Self {
        let mut inbox = Inbox::new(role, message_max);
        inbox.fill(early);
        Self { io, inbox, peer_closed: false, held_back: false }
    }

    /// What carries it.
    pub(crate) fn io(&mut self) -> &mut BoxIo {
        &mut self.io
    }

    /// What is looked at when something comes, beside itself.
    pub(crate) fn looks_at(&mut self, set: &mut WorkingSet) {
        if let Some(tcp) = Tcp::of(&mut self.io) {
            tcp.looks_at(set);
        }
    }

    /// The peer has closed; what it sent before may still be there.
    pub(crate) fn ends(&mut self) {
        if let Some(tcp) = Tcp::of(&mut self.io) {
            tcp.ends();
        }
    }

    /// From now on, whoever waits for it is woken.
    pub(crate) fn leave_exchange(&mut self) {
        if let Some(tcp) = Tcp::of(&mut self.io) {
            tcp.take_back();
        }
    }

    /// Reads what has come, once; messages are then taken by [`message`](Self::message) until there is none.
    pub(crate) fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        if !self.inbox.has_buffer() {
            self.inbox.lend(spare::take(Use::Read));
        }
        let mut room = ReadBuf::new(self.inbox.room());
        let read = Pin::new(&mut self.io).poll_read(cx, &mut room);
        let bytes = room.filled().len();
        if read.is_pending() {
            self.rest();
        }
        ready!(read)?;
        if bytes == 0 {
            return Poll::Ready(Err(Lost::Closed));
        }
        self.inbox.filled(bytes);
        Poll::Ready(Ok(()))
    }

    /// Every message was taken: the buffer is lent to others.
    pub(crate) fn rest(&mut self) {
        if let Some(buffer) = self.inbox.take_back() {
            spare::give(Use::Read, buffer);
        }
    }

    /// The next message of what was read; when there is none any more, [`rest`](Self::rest).
    pub(crate) fn message(&mut self) -> Result<Option<Message<'_>>, Violation> {
        let message = self.inbox.message()?;
        self.peer_closed |= matches!(message, Some(Message::Close(..)));
        Ok(message)
    }

    /// The exchange has been told that what was written was not taken, perhaps by this one's peer.
    pub(crate) fn hold_back(&mut self) {
        self.held_back = true;
    }

    /// Writes what waits, as far as the peer takes it; what it does not is written when it does, if this is polled then.
    pub(crate) fn poll_send<P: Printer>(&mut self, outbox: &mut Outbox<P>, cx: &mut Context<'_>) -> Result<(), Lost> {
        if self.held_back {
            self.poll_pass_on(cx)?;
        }
        while !outbox.is_empty() {
            let bytes = outbox.bytes();
            if bytes.is_empty() {
                return Ok(());
            }
            match Pin::new(&mut self.io).poll_write(cx, bytes) {
                Poll::Ready(Ok(0)) => return Err(Lost::Closed),
                Poll::Ready(Ok(taken)) => outbox.took(taken),
                Poll::Ready(Err(error)) => return Err(error.into()),
                Poll::Pending => return if outbox.wait(Instant::now()) { Ok(()) } else { Err(Lost::Stalled) },
            }
            self.poll_pass_on(cx)?;
        }
        Ok(())
    }

    /// Encrypted connections keep what they were given until they are told, and all of them what the peer does not take.
    fn poll_pass_on(&mut self, cx: &mut Context<'_>) -> Result<(), Lost> {
        let passed_on = Pin::new(&mut self.io).poll_flush(cx)?;
        self.held_back = passed_on.is_pending();
        Ok(())
    }

    /// Waits for what comes next, read once.
    pub(crate) async fn receive(&mut self) -> Result<(), Lost> {
        poll_fn(|cx| self.poll_receive(cx)).await
    }

    /// Sends what is queued and a close, and waits for the peer's: it sees a close and not a reset. Whoever calls this bounds
    /// it. What the peer still says is not listened to.
    pub(crate) async fn close<P: Printer>(&mut self, outbox: &mut Outbox<P>, code: u16, reason: &'static str) {
        outbox.close(code, reason);
        let mut row = 0;
        let farewell = poll_fn(|cx| {
            loop {
                if self.poll_send(outbox, cx).is_err() {
                    return Poll::Ready(());
                }
                // What was read before may hold the peer's close.
                while !self.peer_closed {
                    match self.message() {
                        Ok(Some(_)) => (),
                        Ok(None) => break,
                        Err(_) => return Poll::Ready(()),
                    }
                }
                if self.peer_closed && outbox.is_closed() {
                    return Poll::Ready(());
                }
                match self.poll_receive(cx) {
                    Poll::Ready(Ok(())) => row += 1,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
                // Who floods goes on with it: others have their turn, and whoever bounds this has his.
                if row == limits::HAPPENINGS_IN_A_ROW {
                    row = 0;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        });
        farewell.await;
        self.shut_down().await;
    }

    /// Sends what is queued and a close to a peer that broke the protocol, and then only lets time pass, until whoever calls
    /// this has had enough: a connection dropped with unread bytes is reset, and that must not overtake the close. Nothing is
    /// read: what the peer goes on sending soon stays on its side, and costs nobody anything.
    ///
    /// Source: RFC 6455, section 7.1.7: what a peer says after its connection was failed is not processed, its close included.
    pub(crate) async fn dismiss<P: Printer>(&mut self, outbox: &mut Outbox<P>, code: u16) {
        outbox.close(code, "");
        let farewell = poll_fn(|cx| match self.poll_send(outbox, cx) {
            Ok(()) if !outbox.is_closed() => Poll::Pending,
            _ => Poll::Ready(()),
        });
        farewell.await;
        self.shut_down().await;
        std::future::pending::<()>().await;
    }

    async fn shut_down(&mut self) {
        let _ = poll_fn(|cx| Pin::new(&mut self.io).poll_shutdown(cx)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::twilio::{Clear, TwilioPrinter};
    use futures::FutureExt as _;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::task::Waker;
    use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
    use wire::websocket::{NORMAL_CLOSURE, POLICY_VIOLATION};

    /// Takes everything, and passes it on when the peer takes something.
    #[derive(Clone, Default)]
    struct Encrypted {
        taken: Arc<AtomicUsize>,
        passed_on: Arc<AtomicUsize>,
        blocked: Arc<AtomicBool>,
    }

    impl AsyncWrite for Encrypted {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.taken.fetch_add(bytes.len(), Ordering::Relaxed);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            if self.blocked.load(Ordering::Relaxed) {
                return Poll::Pending;
            }
            self.passed_on.store(self.taken.load(Ordering::Relaxed), Ordering::Relaxed);
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Has always something to say.
    struct Flood;

    impl AsyncRead for Flood {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            // An empty pong.
            into.put_slice(&[0x8A, 0x80, 1, 2, 3, 4]);
            Poll::Ready(Ok(()))
        }
    }

    /// Must not be read.
    struct Unread;

    impl AsyncRead for Unread {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            panic!("it is read");
        }
    }

    #[tokio::test]
    async fn a_close_that_is_answered_by_a_flood_can_be_given_up() {
        let mut socket = Socket::new(Box::new(tokio::io::join(Flood, tokio::io::sink())), Role::Server, 1024, &[]);
        let mut outbox = Outbox::new(TwilioPrinter::new("MZ0".into()), Role::Server, 4);
        let close = tokio::task::unconstrained(socket.close(&mut outbox, NORMAL_CLOSURE, ""));
        assert!(tokio::time::timeout(std::time::Duration::from_millis(10), close).await.is_err());
    }

    #[tokio::test]
    async fn who_is_dismissed_gets_a_close_and_is_not_read() {
        let (mut peer, sent) = tokio::io::simplex(1024);
        let mut socket = Socket::new(Box::new(tokio::io::join(Unread, sent)), Role::Server, 1024, &[]);
        let mut outbox = Outbox::new(TwilioPrinter::new("MZ0".into()), Role::Server, 4);
        outbox.control(Clear).unwrap();
        assert_eq!(socket.dismiss(&mut outbox, POLICY_VIOLATION).now_or_never(), None, "whoever called it has not had enough");
        let mut got = Vec::new();
        peer.read_to_end(&mut got).await.unwrap();
        let mut inbox = Inbox::new(Role::Client, 1024);
        inbox.fill(&got);
        assert!(matches!(inbox.message(), Ok(Some(Message::Text(_)))), "what was queued");
        assert_eq!(inbox.message(), Ok(Some(Message::Close(Some(POLICY_VIOLATION), ""))));
    }

    #[test]
    fn what_an_encrypted_connection_held_back_is_passed_on_later() {
        let io = Encrypted::default();
        let mut socket = Socket::new(Box::new(tokio::io::join(tokio::io::empty(), io.clone())), Role::Client, 1024, &[]);
        let mut outbox = Outbox::new(TwilioPrinter::new("MZ0".into()), Role::Client, 4);
        let cx = &mut Context::from_waker(Waker::noop());
        io.blocked.store(true, Ordering::Relaxed);
        outbox.control(Clear).unwrap();
        socket.poll_send(&mut outbox, cx).unwrap();
        assert!(io.taken.load(Ordering::Relaxed) > 0);
        assert_eq!(io.passed_on.load(Ordering::Relaxed), 0);
        io.blocked.store(false, Ordering::Relaxed);
        socket.poll_send(&mut outbox, cx).unwrap();
        assert_eq!(io.passed_on.load(Ordering::Relaxed), io.taken.load(Ordering::Relaxed), "nothing new was queued");
    }
}
