//! A TCP connection that the runtime watches, or, during a call, the call's exchange.

use std::any::Any;
use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use mio::Token;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::batch;
use crate::exchange::poll_number;
use crate::line::{Kept, Line, Lines};
use crate::net::BoxIo;
use crate::working_set::WorkingSet;

/// See the module.
pub(crate) struct Tcp(Watched);

enum Watched {
    /// By the runtime: whoever waits is woken. What an exchange kept goes before anything else.
    Runtime(TcpStream, Box<Kept>),
    /// By an exchange: it polls the call when something has come, so that nobody is noted who waits.
    Exchange(Exchanged),
    /// By nobody: neither would have it.
    Nobody,
}

struct Exchanged {
    line: Arc<Line>,
    lines: Arc<Lines>,
    /// The poll of the call in which a read left nothing: whoever reads on in it need not ask the kernel. What comes later is
    /// told of anew, once: a later poll must ask.
    drained: Option<u64>,
    /// The peer has closed. What came together with the end is told of once, so that it must be read up to the end.
    ending: bool,
}

impl Tcp {
    /// In the runtime's care.
    pub(crate) fn new(socket: TcpStream) -> Self {
        Self(Watched::Runtime(socket, Box::default()))
    }

    /// The TCP connection that carries `io`, encrypted or not; others, such as one in memory, wake whoever waits for them.
    pub(crate) fn of(io: &mut BoxIo) -> Option<&mut Self> {
        let io: &mut dyn Any = io.as_mut();
        if io.is::<Self>() { io.downcast_mut() } else { io.downcast_mut::<TlsStream<Self>>().map(|it| it.get_mut().0) }
    }

    /// Lets an exchange watch it. One that it does not take is as good as closed.
    pub(crate) fn hand_over(&mut self, lines: &Arc<Lines>, token: Token) {
        self.0 = match mem::replace(&mut self.0, Watched::Nobody) {
            Watched::Runtime(socket, kept) => noted(lines.watch(socket, kept, token).map(|line| {
                let lines = lines.clone();
                Watched::Exchange(Exchanged { line, lines, drained: None, ending: false })
            })),
            other => other,
        };
    }

    /// Back to the runtime, in a turn of the call whose it is.
    pub(crate) fn take_back(&mut self) {
        self.0 = match mem::replace(&mut self.0, Watched::Nobody) {
            Watched::Exchange(Exchanged { line, lines, .. }) => {
                batch::let_go(&line);
                // Nobody else has it in a turn of the call.
                let released =
                    Arc::into_inner(line).ok_or_else(|| io::ErrorKind::ResourceBusy.into()).and_then(|it| lines.release(it));
                noted(released.map(|(socket, kept)| Watched::Runtime(socket, kept)))
            }
            other => other,
        };
    }

    /// What is looked at when something comes.
    pub(crate) fn looks_at(&self, set: &mut WorkingSet) {
        set.add(self);
        if let Watched::Exchange(it) = &self.0 {
            set.add(&*it.line);
        }
    }

    /// The exchange has been told that the peer closed.
    pub(crate) fn ends(&mut self) {
        if let Watched::Exchange(it) = &mut self.0 {
            it.ending = true;
        }
    }
}

fn noted(watched: io::Result<Watched>) -> Watched {
    watched.unwrap_or_else(|error| {
        tracing::error!(%error, "a connection cannot be watched");
        Watched::Nobody
    })
}

impl Exchanged {
    fn poll_read(&mut self, room: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.drained.take() == Some(poll_number()) {
            return Poll::Pending;
        }
        let (bytes, is_all) = if let Some(taken) = batch::take(&self.line, room) {
            taken
        } else if self.line.has_unread() {
            (self.line.read_kept(room)?, false)
        } else {
            let bytes = ready!(self.line.poll_read(room))?;
            (bytes, bytes < room.len())
        };
        self.drained = (is_all && !self.ending).then(poll_number);
        Poll::Ready(Ok(bytes))
    }
}

fn unwatched<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
}

impl AsyncRead for Tcp {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Watched::Runtime(socket, kept) if !kept.has_unread() => Pin::new(socket).poll_read(cx, into),
            Watched::Runtime(_, kept) => {
                let read = kept.read(into.initialize_unfilled())?;
                into.advance(read);
                Poll::Ready(Ok(()))
            }
            Watched::Exchange(it) => {
                let read = ready!(it.poll_read(into.initialize_unfilled()))?;
                into.advance(read);
                Poll::Ready(Ok(()))
            }
            Watched::Nobody => unwatched(),
        }
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.as_mut().poll_flush(cx))?;
        match &mut self.0 {
            Watched::Runtime(socket, _) => Pin::new(socket).poll_write(cx, bytes),
            Watched::Exchange(Exchanged { line, .. }) => {
                if batch::post(line, bytes) {
                    Poll::Ready(Ok(bytes.len()))
                } else {
                    line.poll_write(bytes)
                }
            }
            Watched::Nobody => unwatched(),
        }
    }

    /// Passes on what the peer did not take at the end of a turn.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Watched::Runtime(socket, kept) => {
                while kept.has_unsent() {
                    ready!(kept.poll_send(|bytes| Pin::new(&mut *socket).poll_write(cx, bytes)))?;
                }
                Poll::Ready(Ok(()))
            }
            Watched::Exchange(Exchanged { line, .. }) => line.poll_unsent(),
            Watched::Nobody => unwatched(),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        match &mut self.0 {
            Watched::Runtime(socket, _) => Pin::new(socket).poll_shutdown(cx),
            Watched::Exchange(Exchanged { line, .. }) => {
                batch::send_now(line);
                ready!(line.poll_unsent())?;
                Poll::Ready(line.shut_down())
            }
            Watched::Nobody => unwatched(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    async fn pair() -> (Tcp, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Tcp::new(near), listener.accept().await.unwrap().0)
    }

    fn read(tcp: &mut Tcp, bytes: &mut [u8]) -> Poll<usize> {
        let mut into = ReadBuf::new(bytes);
        let polled = Pin::new(tcp).poll_read(&mut Context::from_waker(std::task::Waker::noop()), &mut into);
        polled.map(|it| it.map(|()| into.filled().len()).unwrap())
    }

    /// Events up to one of a kind.
    fn wait(poll: &mut mio::Poll, found: impl Fn(&mio::event::Event) -> bool) {
        let mut events = mio::Events::with_capacity(8);
        for _ in 0..50 {
            poll.poll(&mut events, Some(Duration::from_millis(100))).unwrap();
            if events.iter().any(&found) {
                return;
            }
        }
        panic!("no such event");
    }

    #[tokio::test]
    async fn it_goes_to_an_exchange_and_back_and_loses_nothing() {
        let mut poll = mio::Poll::new().unwrap();
        let lines = Arc::new(Lines::new(poll.registry().try_clone().unwrap()));
        let (mut near, mut far) = pair().await;
        far.write_all(b"before").await.unwrap();
        near.hand_over(&lines, Token(7));
        wait(&mut poll, |it| it.token() == Token(7) && it.is_readable());
        let mut bytes = [0; 64];
        assert_eq!(read(&mut near, &mut bytes), Poll::Ready(6));
        assert_eq!(read(&mut near, &mut bytes), Poll::Pending, "nothing is left, and nobody asked the kernel");
        far.write_all(b"during").await.unwrap();
        wait(&mut poll, |it| it.is_readable());
        assert_eq!(read(&mut near, &mut bytes[..4]), Poll::Ready(4));
        assert_eq!(read(&mut near, &mut bytes[..4]), Poll::Ready(2), "a full buffer says nothing of what is left");
        far.write_all(b"after").await.unwrap();
        near.take_back();
        assert_eq!(near.read(&mut bytes).await.unwrap(), 5);
        near.write_all(b"answer").await.unwrap();
        assert_eq!(far.read(&mut bytes).await.unwrap(), 6);
    }

    #[tokio::test]
    async fn an_end_that_comes_with_the_last_words_is_seen() {
        let mut poll = mio::Poll::new().unwrap();
        let lines = Arc::new(Lines::new(poll.registry().try_clone().unwrap()));
        let (mut near, mut far) = pair().await;
        far.write_all(b"bye").await.unwrap();
        drop(far);
        near.hand_over(&lines, Token(0));
        wait(&mut poll, |it| it.is_read_closed());
        near.ends();
        let mut bytes = [0; 64];
        assert_eq!(read(&mut near, &mut bytes), Poll::Ready(3));
        assert_eq!(read(&mut near, &mut bytes), Poll::Ready(0));
    }

    #[tokio::test]
    async fn one_that_nobody_watches_is_closed() {
        let mut near = Tcp(Watched::Nobody);
        assert_eq!(near.read(&mut [0; 8]).await.unwrap_err().kind(), io::ErrorKind::NotConnected);
        assert_eq!(near.write(b"x").await.unwrap_err().kind(), io::ErrorKind::NotConnected);
    }
}
