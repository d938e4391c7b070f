//! One end of a WebSocket without a runtime: what the generator, its providers and the bare relay are made of, so that they
//! cost as little as sockets can.

use std::cell::Cell;
use std::io::{self, Read, Write};

use mio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use wire::websocket::{self, Inbox, Message, Role};

/// Bytes that may wait for a peer that does not read.
const WAITING_MAX: usize = 8 << 20;
/// Largest head of a request or an answer.
const HEAD_MAX: usize = 16 * 1024;
/// Largest message: speech comes in seconds.
const MESSAGE_MAX: usize = 8 << 20;

thread_local! {
    /// All ends share a buffer to read into: one is read from at a time.
    static SPARE: Cell<Vec<u8>> = Cell::new(vec![0; 8192]);
}

/// What is still to be sent.
pub(super) struct Out {
    bytes: Vec<u8>,
    role: Role,
    random: fastrand::Rng,
}

impl Out {
    pub(super) fn text(&mut self, text: &str) {
        let mask = self.mask();
        websocket::print_text(&mut self.bytes, text, mask);
    }

    pub(super) fn close(&mut self, code: u16) {
        let mask = self.mask();
        websocket::print_close(&mut self.bytes, code, "", mask);
    }

    /// Whatever, such as the head of an answer.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn mask(&mut self) -> Option<[u8; 4]> {
        (self.role == Role::Client).then(|| self.random.u32(..).to_ne_bytes())
    }

    /// Accepts a request for a WebSocket.
    pub(super) fn accept(&mut self, head: &str) {
        let accept = derive_accept_key(header(head, "sec-websocket-key").unwrap_or_default().as_bytes());
        self.raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ");
        self.raw(accept.as_bytes());
        self.raw(b"\r\n\r\n");
    }
}

/// A header of a head, by its name in lower case.
pub(super) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.lines().filter_map(|it| it.split_once(':'));
    lines.map(|it| (it.0, it.1.trim())).find(|it| it.0.eq_ignore_ascii_case(name)).map(|it| it.1)
}

pub(super) enum Came<'a> {
    /// The head of a request, or of the answer to ours.
    Head(&'a str),
    Message(Message<'a>),
}

/// A socket with what was read and what is to be written.
pub(super) struct Peer {
    socket: TcpStream,
    tls: Option<Box<rustls::ServerConnection>>,
    /// The head as far as it has come; `None` behind it.
    head: Option<Vec<u8>>,
    inbox: Inbox,
    pub(super) out: Out,
}

impl Peer {
    /// What comes first is a head, if `head`.
    pub(super) fn new(socket: TcpStream, role: Role, head: bool, tls: Option<rustls::ServerConnection>) -> Self {
        let _ = socket.set_nodelay(true);
        Self {
            socket,
            tls: tls.map(Box::new),
            head: head.then(Vec::new),
            inbox: Inbox::new(role, MESSAGE_MAX),
            out: Out { bytes: Vec::new(), role, random: fastrand::Rng::new() },
        }
    }

    pub(super) fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    /// Reads what has come; `each` takes it and may answer. Answers are sent by [`flush`](Self::flush).
    ///
    /// # Errors
    /// When the peer is gone or makes no sense.
    pub(super) fn read(&mut self, mut each: impl FnMut(Came<'_>, &mut Out)) -> io::Result<()> {
        if self.inbox.is_empty() {
            self.inbox.lend(SPARE.take());
        }
        let read = self.read_on(&mut each);
        if let Some(buffer) = self.inbox.take_back() {
            SPARE.set(buffer);
        }
        read
    }

    fn read_on(&mut self, each: &mut impl FnMut(Came<'_>, &mut Out)) -> io::Result<()> {
        loop {
            let room = self.inbox.room();
            let size = room.len();
            let read = match &mut self.tls {
                None => self.socket.read(room),
                Some(tls) => read_tls(tls, &mut self.socket, room),
            };
            match read {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    self.take(read, each)?;
                    // Less than there was room for: nothing is left, and epoll tells when more comes.
                    if read < size && self.tls.is_none() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self, mut read: usize, each: &mut impl FnMut(Came<'_>, &mut Out)) -> io::Result<()> {
        if let Some(head) = &mut self.head {
            head.extend_from_slice(&self.inbox.room()[..read]);
            let Some(end) = head.windows(4).position(|it| it == b"\r\n\r\n") else {
                return if head.len() < HEAD_MAX { Ok(()) } else { Err(io::Error::other("a head of more than 16 kB")) };
            };
            let whole = self.head.take().expect("it was just looked at");
            let (head, rest) = whole.split_at(end + 4);
            each(Came::Head(std::str::from_utf8(head).map_err(io::Error::other)?), &mut self.out);
            self.inbox.fill(rest);
            read = 0;
        }
        self.inbox.filled(read);
        while let Some(message) = self.inbox.message().map_err(io::Error::other)? {
            if let Message::Ping(content) = message {
                let mask = self.out.mask();
                websocket::print_pong(&mut self.out.bytes, content, mask);
            } else {
                each(Came::Message(message), &mut self.out);
            }
        }
        Ok(())
    }

    /// Sends as much as the peer takes now.
    ///
    /// # Errors
    /// When the peer is gone, or has not read for too long.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.writer().write_all(&self.out.bytes)?;
            self.out.bytes.clear();
            while tls.wants_write() {
                match tls.write_tls(&mut self.socket) {
                    Ok(_) => (),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
            return Ok(());
        }
        while !self.out.bytes.is_empty() {
            match self.socket.write(&self.out.bytes) {
                Ok(sent) if sent == self.out.bytes.len() => self.out.bytes.clear(),
                Ok(sent) => drop(self.out.bytes.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return if self.out.bytes.len() < WAITING_MAX { Ok(()) } else { Err(error) };
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn read_tls(tls: &mut rustls::ServerConnection, socket: &mut TcpStream, room: &mut [u8]) -> io::Result<usize> {
    loop {
        match tls.reader().read(room) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
            read => return read,
        }
        if tls.read_tls(socket)? == 0 {
            return Ok(0);
        }
        tls.process_new_packets().map_err(io::Error::other)?;
        // The handshake has answers of its own.
        while tls.wants_write() {
            tls.write_tls(socket)?;
        }
    }
}
