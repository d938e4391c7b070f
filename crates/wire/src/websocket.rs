//! WebSocket frames (RFC 6455): what comes is unmasked and read where it lies, what goes is printed into a buffer that the
//! caller keeps. No handshake, no extension, no I/O.
//!
//! A call's two sockets carry a hundred small messages a second, so a message must cost no allocation and no copy of its
//! own: [`Inbox`] hands out slices of the buffer that was read into.

use std::ops::Range;

/// Whose end of the connection this is: clients mask what they send (section 5.3), servers do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We accepted the connection.
    Server,
    /// We opened it.
    Client,
}

/// What the peer sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A whole text, checked to be UTF-8.
    Text(&'a str),
    /// Whole binary data.
    Binary(&'a [u8]),
    /// To be answered with a pong of the same bytes, 125 at most.
    Ping(&'a [u8]),
    /// The answer to a ping of ours.
    Pong,
    /// The peer closes, with a code if it gave one; nothing follows.
    Close(Option<u16>, &'a str),
}

/// The code of a close whose connection has served its purpose (section 7.4.1).
pub const NORMAL_CLOSURE: u16 = 1000;
/// The code of a close to a peer that did what it may not, where no other code says more (section 7.4.1).
pub const POLICY_VIOLATION: u16 = 1008;

/// The peer broke the protocol; the connection is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Reserved bits, unknown opcodes, wrong masking, broken fragments or control frames.
    #[error("the peer broke the WebSocket protocol: {0}")]
    Protocol(&'static str),
    /// A text or the reason of a close is not UTF-8.
    #[error("the peer sent a text that is not UTF-8")]
    NotText,
    /// A message is longer than this end takes.
    #[error("the peer sent a message of more than {0} bytes")]
    TooLong(usize),
}

impl Violation {
    /// The code to close with (section 7.4.1).
    pub fn close_code(self) -> u16 {
        match self {
            Self::Protocol(_) => 1002,
            Self::NotText => 1007,
            Self::TooLong(_) => 1009,
        }
    }
}

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Most bytes in front of a payload.
const HEAD_MAX: usize = 14;
/// Most bytes of a control frame's payload.
const CONTROL_MAX: usize = 125;

/// Size of a buffer that nobody has lent.
const BUFFER_BYTES: usize = 512;

/// Bytes of a connection on their way to becoming messages.
#[derive(Debug)]
pub struct Inbox {
    role: Role,
    buffer: Vec<u8>,
    /// What was read and not yet taken.
    filled: Range<usize>,
    message_max: usize,
    /// The pieces so far of a message that comes in several frames, and whether it is text.
    pieces: Option<(bool, Vec<u8>)>,
}

struct Head {
    last: bool,
    opcode: u8,
    mask: Option<[u8; 4]>,
    /// Of the payload, in the buffer.
    payload: Range<usize>,
}

impl Inbox {
    /// Takes messages of up to `message_max` bytes.
    pub fn new(role: Role, message_max: usize) -> Self {
        Self { role, buffer: Vec::new(), filled: 0..0, message_max, pieces: None }
    }

    /// Whether nothing of a message is waiting here.
    pub fn is_empty(&self) -> bool {
        self.filled.is_empty()
    }

    /// Whether it has a buffer to read into.
    pub fn has_buffer(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Gives it a buffer to read into, as long as it is empty. A buffer that holds the beginning of a message is kept.
    pub fn lend(&mut self, buffer: Vec<u8>) {
        if self.is_empty() {
            (self.buffer, self.filled) = (buffer, 0..0);
        }
    }

    /// Takes the buffer back, if nothing of a message is in it. Without one it holds no memory.
    pub fn take_back(&mut self) -> Option<Vec<u8>> {
        (self.is_empty() && self.has_buffer()).then(|| std::mem::take(&mut self.buffer))
    }

    /// Where the next bytes are to be read into; never empty. The buffer grows with what has come, never with what a peer
    /// announces.
    pub fn room(&mut self) -> &mut [u8] {
        if self.filled.is_empty() {
            self.filled = 0..0;
            if self.buffer.is_empty() {
                self.buffer = vec![0; BUFFER_BYTES];
            }
        } else if self.filled.end == self.buffer.len() {
            if self.filled.start > 0 {
                self.buffer.copy_within(self.filled.clone(), 0);
                self.filled = 0..self.filled.len();
            } else {
                let size = (self.buffer.len() * 2).min(self.message_max.saturating_add(HEAD_MAX)).max(self.buffer.len() + 1);
                self.buffer.resize(size, 0);
            }
        }
        &mut self.buffer[self.filled.end..]
    }

    /// So many bytes were read into [`room`](Self::room).
    ///
    /// # Panics
    /// When that is more than there was room for.
    pub fn filled(&mut self, bytes: usize) {
        self.filled.end += bytes;
        assert!(self.filled.end <= self.buffer.len(), "more was read than there was room for");
    }

    /// Takes in bytes that were read elsewhere, as behind a handshake.
    pub fn fill(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.room();
            let len = room.len().min(bytes.len());
            room[..len].copy_from_slice(&bytes[..len]);
            self.filled(len);
            bytes = &bytes[len..];
        }
    }

    /// The next whole message, if it has come.
    ///
    /// # Errors
    /// [`Violation`]; what follows cannot be understood.
    pub fn message(&mut self) -> Result<Option<Message<'_>>, Violation> {
        loop {
            let Some(head) = self.head()? else { return Ok(None) };
            let payload = head.payload;
            self.filled.start = payload.end;
            if let Some(mask) = head.mask {
                apply_mask(&mut self.buffer[payload.clone()], mask);
            }
            match (head.opcode, head.last) {
                (TEXT, true) => return Ok(Some(Message::Text(text(&self.buffer[payload])?))),
                (BINARY, true) => return Ok(Some(Message::Binary(&self.buffer[payload]))),
                (TEXT | BINARY, false) => self.pieces = Some((head.opcode == TEXT, self.buffer[payload].to_vec())),
                (CONTINUATION, last) => {
                    if let Some((_, pieces)) = &mut self.pieces {
                        pieces.extend_from_slice(&self.buffer[payload]);
                    }
                    if last && let Some((is_text, whole)) = self.pieces.take() {
                        // In front of what follows it, so that it can be handed out like any other.
                        let whole = self.put_back(&whole);
                        let whole = &self.buffer[whole];
                        return Ok(Some(if is_text { Message::Text(text(whole)?) } else { Message::Binary(whole) }));
                    }
                }
                (PING, _) => return Ok(Some(Message::Ping(&self.buffer[payload]))),
                (PONG, _) => return Ok(Some(Message::Pong)),
                _ => {
                    // What a peer sends behind its close is nothing.
                    self.filled.start = self.filled.end;
                    return close(&self.buffer[payload]).map(Some);
                }
            }
        }
    }

    /// Puts a whole message in front of the bytes that follow it; returns where it lies.
    fn put_back(&mut self, whole: &[u8]) -> Range<usize> {
        let rest = self.buffer[self.filled.clone()].to_vec();
        self.buffer.clear();
        self.buffer.extend_from_slice(whole);
        self.buffer.extend_from_slice(&rest);
        self.filled = whole.len()..self.buffer.len();
        0..whole.len()
    }

    /// The head of the next frame, once the whole frame has come.
    fn head(&self) -> Result<Option<Head>, Violation> {
        let bytes = &self.buffer[self.filled.clone()];
        let &[first, second, ..] = bytes else { return Ok(None) };
        let (last, opcode, masked) = (first & 0x80 != 0, first & 0x0F, second & 0x80 != 0);
        if first & 0x70 != 0 {
            return Err(Violation::Protocol("reserved bits are set"));
        }
        if masked != (self.role == Role::Server) {
            return Err(Violation::Protocol(if masked {
                "a server's frame is masked"
            } else {
                "a client's frame is not masked"
            }));
        }
        match opcode {
            CONTINUATION if self.pieces.is_none() => return Err(Violation::Protocol("a continuation of nothing")),
            TEXT | BINARY if self.pieces.is_some() => return Err(Violation::Protocol("a message inside another")),
            CONTINUATION | TEXT | BINARY => (),
            CLOSE | PING | PONG if !last => return Err(Violation::Protocol("a control frame in pieces")),
            CLOSE | PING | PONG if usize::from(second & 0x7F) > CONTROL_MAX => {
                return Err(Violation::Protocol("a control frame of more than 125 bytes"));
            }
            CLOSE | PING | PONG => (),
            _ => return Err(Violation::Protocol("an unknown opcode")),
        }
        let (length, mut at) = match second & 0x7F {
            126 => match bytes.get(2..4) {
                Some(it) => (u64::from(u16::from_be_bytes(it.try_into().expect("two bytes"))), 4),
                None => return Ok(None),
            },
            127 => match bytes.get(2..10) {
                Some(it) => (u64::from_be_bytes(it.try_into().expect("eight bytes")), 10),
                None => return Ok(None),
            },
            short => (u64::from(short), 2),
        };
        let before = self.pieces.as_ref().map_or(0, |it| it.1.len());
        let length = usize::try_from(length).ok().filter(|it| opcode >= CLOSE || *it <= self.message_max.saturating_sub(before));
        let Some(length) = length else { return Err(Violation::TooLong(self.message_max)) };
        let mask = if masked {
            let Some(it) = bytes.get(at..at + 4) else { return Ok(None) };
            at += 4;
            Some(it.try_into().expect("four bytes"))
        } else {
            None
        };
        let start = self.filled.start + at;
        Ok((bytes.len() >= at + length).then(|| Head { last, opcode, mask, payload: start..start + length }))
    }
}

fn text(bytes: &[u8]) -> Result<&str, Violation> {
    simdutf8::basic::from_utf8(bytes).map_err(|_| Violation::NotText)
}

fn close(payload: &[u8]) -> Result<Message<'_>, Violation> {
    match payload {
        [] => Ok(Message::Close(None, "")),
        [high, low, reason @ ..] => match u16::from_be_bytes([*high, *low]) {
            // Section 7.4: what may stand on the wire.
            code @ (1000..=1003 | 1007..=1014 | 3000..=4999) => Ok(Message::Close(Some(code), text(reason)?)),
            _ => Err(Violation::Protocol("a close with a code that means nothing")),
        },
        [_] => Err(Violation::Protocol("a close with half a code")),
    }
}

fn apply_mask(payload: &mut [u8], mask: [u8; 4]) {
    let wide = [mask; 8];
    let (whole, rest) = payload.as_chunks_mut::<32>();
    for it in whole {
        xor(it, wide.as_flattened());
    }
    let (words, rest) = rest.as_chunks_mut::<4>();
    for it in words {
        xor(it, &mask);
    }
    xor(rest, &mask);
}

fn xor(bytes: &mut [u8], key: &[u8]) {
    for (byte, key) in bytes.iter_mut().zip(key) {
        *byte ^= key;
    }
}

/// Appends one whole frame; `mask` is a fresh random key where we are the client.
fn print(out: &mut Vec<u8>, opcode: u8, payload: &[u8], mask: Option<[u8; 4]>) {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    out.reserve(payload.len() + HEAD_MAX);
    out.push(0x80 | opcode);
    match payload.len() {
        short @ 0..=125 => out.push(masked | short as u8),
        middle @ 126..=0xFFFF => {
            out.push(masked | 126);
            out.extend_from_slice(&(middle as u16).to_be_bytes());
        }
        long => {
            out.push(masked | 127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(mask.as_ref().map_or(&[], |it| &it[..]));
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(mask) = mask {
        apply_mask(&mut out[start..], mask);
    }
}

/// Appends a text message; `mask` is a fresh random key where we are the client, `None` where we are the server.
pub fn print_text(out: &mut Vec<u8>, text: &str, mask: Option<[u8; 4]>) {
    print(out, TEXT, text.as_bytes(), mask);
}

/// Appends a ping without content.
pub fn print_ping(out: &mut Vec<u8>, mask: Option<[u8; 4]>) {
    print(out, PING, &[], mask);
}

/// Appends the answer to a ping, whose content is 125 bytes at most.
pub fn print_pong(out: &mut Vec<u8>, ping: &[u8], mask: Option<[u8; 4]>) {
    print(out, PONG, &ping[..ping.len().min(CONTROL_MAX)], mask);
}

/// Appends a close with a code and a reason of 123 bytes at most.
pub fn print_close(out: &mut Vec<u8>, code: u16, reason: &str, mask: Option<[u8; 4]>) {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(&reason.as_bytes()[..reason.len().min(CONTROL_MAX - 2)]);
    print(out, CLOSE, &payload, mask);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MASK: Option<[u8; 4]> = Some([0x37, 0xFA, 0x21, 0x3D]);

    fn one(role: Role, bytes: &[u8]) -> Result<Option<String>, Violation> {
        let mut inbox = Inbox::new(role, 1000);
        inbox.fill(bytes);
        inbox.message().map(|it| it.map(|it| format!("{it:?}")))
    }

    /// The examples of RFC 6455, section 5.7.
    #[test]
    fn the_examples_of_the_standard() {
        let hello = Ok(Some(format!("{:?}", Message::Text("Hello"))));
        assert_eq!(one(Role::Client, &[0x81, 0x05, 0x48, 0x65, 0x6C, 0x6C, 0x6F]), hello);
        let masked = [0x81, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58];
        assert_eq!(one(Role::Server, &masked), hello);
        let mut out = Vec::new();
        print_text(&mut out, "Hello", MASK);
        assert_eq!(out, masked);
        let pieces = [0x01, 0x03, 0x48, 0x65, 0x6C, 0x80, 0x02, 0x6C, 0x6F];
        assert_eq!(one(Role::Client, &pieces), hello);
        assert_eq!(
            one(Role::Client, &[0x89, 0x05, 0x48, 0x65, 0x6C, 0x6C, 0x6F]),
            Ok(Some(format!("{:?}", Message::Ping(b"Hello"))))
        );
    }

    /// Section 5.3: octet i is combined with octet i mod 4 of the key.
    #[test]
    fn the_key_repeats_every_four_bytes() {
        for size in 0..100 {
            let payload: Vec<u8> = (0..size).collect();
            let expected: Vec<u8> = payload.iter().enumerate().map(|(i, it)| it ^ MASK.unwrap()[i % 4]).collect();
            let mut masked = payload;
            apply_mask(&mut masked, MASK.unwrap());
            assert_eq!(masked, expected, "{size} bytes");
        }
    }

    #[test]
    fn what_the_standard_forbids_is_named() {
        let protocol = |bytes: &[u8]| matches!(one(Role::Client, bytes), Err(Violation::Protocol(_)));
        for bytes in [
            &[0xC1, 0x00][..],                     // a reserved bit
            &[0x83, 0x00],                         // an opcode that is none
            &[0x8B, 0x00],                         // a control opcode that is none
            &[0x81, 0x80, 1, 2, 3, 4],             // masked by a server
            &[0x80, 0x00],                         // a continuation of nothing
            &[0x01, 0x01, 0x61, 0x81, 0x01, 0x62], // a message inside another
            &[0x09, 0x00],                         // a ping in pieces
            &[0x89, 0x7E, 0x00, 0x7E],             // a ping of 126 bytes
            &[0x88, 0x01, 0x03],                   // half a code
            &[0x88, 0x02, 0x03, 0xED],             // 1005 must not be sent
            &[0x88, 0x02, 0x03, 0xF8, 0x81, 0x00], // 1016 means nothing
        ] {
            assert!(protocol(bytes), "{bytes:02x?}");
        }
        assert!(matches!(one(Role::Server, &[0x81, 0x00]), Err(Violation::Protocol(_))), "a client must mask");
        assert_eq!(one(Role::Client, &[0x81, 0x01, 0xFF]), Err(Violation::NotText));
        assert_eq!(one(Role::Client, &[0x88, 0x03, 0x03, 0xE8, 0xFF]), Err(Violation::NotText));
        assert_eq!(one(Role::Client, &[0x81, 0x7E, 0x03, 0xE9]), Err(Violation::TooLong(1000)));
        assert_eq!(
            one(Role::Client, &[0x81, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]),
            Err(Violation::TooLong(1000))
        );
        let mut pieces = vec![0x01, 0x7E, 0x03, 0xE8];
        pieces.extend([b'a'; 1000]);
        pieces.extend([0x80, 0x01, b'a']);
        assert_eq!(one(Role::Client, &pieces), Err(Violation::TooLong(1000)), "pieces count together");
        let codes = [Violation::Protocol(""), Violation::NotText, Violation::TooLong(1)].map(Violation::close_code);
        assert_eq!(codes, [1002, 1007, 1009]);
    }

    #[test]
    fn memory_follows_what_has_come_and_not_what_is_announced() {
        let mut inbox = Inbox::new(Role::Client, 1 << 22);
        let mut head = vec![0x81, 0x7F];
        head.extend((1_u64 << 22).to_be_bytes());
        inbox.fill(&head);
        assert_eq!(inbox.message(), Ok(None));
        assert!(inbox.take_back().is_none(), "the beginning of a message is in it");
        inbox.room();
        assert_eq!(inbox.buffer.len(), BUFFER_BYTES, "4 MB were announced, 10 bytes came");
        inbox.fill(&vec![b'x'; 1 << 22]);
        assert!(matches!(inbox.message(), Ok(Some(Message::Text(text))) if text.len() == 1 << 22));
        assert!(inbox.take_back().is_some_and(|it| it.len() >= 1 << 22), "and can be given away");
        inbox.lend(vec![0; 64]);
        assert_eq!(inbox.room().len(), 64);
    }

    proptest! {
        /// Whatever the pieces in which bytes come, control frames between them included, the messages are the same.
        #[test]
        fn messages_come_out_whole(
            texts in prop::collection::vec((".{0,300}", 1_usize..5, any::<bool>()), 1..6),
            reads in prop::collection::vec(1_usize..200, 1..20),
            server in any::<bool>(),
        ) {
            let (role, mask) = if server { (Role::Server, MASK) } else { (Role::Client, None) };
            let (mut bytes, mut expected) = (Vec::new(), Vec::new());
            for (text, pieces, pinged) in &texts {
                let size = text.len().div_ceil(*pieces).max(1);
                let parts: Vec<&[u8]> = if text.is_empty() { vec![&[]] } else { text.as_bytes().chunks(size).collect() };
                for (index, part) in parts.iter().enumerate() {
                    let start = bytes.len();
                    print(&mut bytes, if index == 0 { TEXT } else { CONTINUATION }, part, mask);
                    if index + 1 < parts.len() {
                        bytes[start] &= 0x7F;
                        if *pinged {
                            print_ping(&mut bytes, mask);
                            expected.push("Ping([])".to_owned());
                        }
                    }
                }
                expected.push(format!("{:?}", Message::Text(text)));
            }
            print_close(&mut bytes, 1001, "bye", mask);
            expected.push(format!("{:?}", Message::Close(Some(1001), "bye")));
            let (mut inbox, mut found, mut at) = (Inbox::new(role, 4096), Vec::new(), 0);
            for read in reads.iter().cycle() {
                let end = (at + read).min(bytes.len());
                inbox.fill(&bytes[at..end]);
                at = end;
                while let Some(message) = inbox.message().unwrap() {
                    found.push(format!("{message:?}"));
                }
                if at == bytes.len() {
                    break;
                }
            }
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..300), server in any::<bool>()) {
            let mut inbox = Inbox::new(if server { Role::Server } else { Role::Client }, 200);
            inbox.fill(&bytes);
            while let Ok(Some(_)) = inbox.message() {}
        }
    }
}
