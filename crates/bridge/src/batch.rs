//! What the calls of a turn read and write. Before the first of them decides, what has come for all of them is read in a row;
//! what they write is sent in a row when the last has decided.
//!
//! The kernel's code and ours take turns once for all of them and not twice for each, and whoever reads on the other side
//! is woken once (decisions 0027 and 0029).

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use mio::Token;

use crate::line::Line;
use crate::spare::READ_BYTES;

/// Room for this much is kept from one turn to the next.
const KEPT_BYTES_MAX: usize = 256 * 1024;
/// Of what has come, as much is read ahead; the rest is read by its calls.
const AHEAD_BYTES_MAX: usize = KEPT_BYTES_MAX;

thread_local! {
    static CAME: RefCell<Came> = const { RefCell::new(Came { bytes: Vec::new(), parts: Vec::new() }) };
    static WRITTEN: RefCell<Written> = const { RefCell::new(Written { is_open: false, bytes: Vec::new(), letters: Vec::new() }) };
}

/// What was read ahead.
struct Came {
    bytes: Vec<u8>,
    /// Those of the first call last.
    parts: Vec<Part>,
}

/// A part of the bytes, and where it comes from.
struct Part {
    line: Arc<Line>,
    at: Range<usize>,
    /// There was no more to read.
    is_all: bool,
}

struct Written {
    /// Calls are being polled.
    is_open: bool,
    bytes: Vec<u8>,
    letters: Vec<Letter>,
}

/// A part of the bytes, and where it goes.
struct Letter {
    line: Arc<Line>,
    at: Range<usize>,
}

/// A turn begins: what the calls of this thread write is collected from now on.
pub(crate) fn open() {
    WRITTEN.with_borrow_mut(|it| it.is_open = true);
}

/// Reads what has come on connections, which are told of in the order of their calls.
pub(crate) fn read_ahead(each: impl FnOnce(&mut dyn FnMut(Arc<Line>))) {
    CAME.with_borrow_mut(|Came { bytes, parts }| {
        debug_assert!(parts.is_empty(), "what a call did not read in its turn was kept");
        let mut begin = 0;
        each(&mut |line| {
            let end = begin + READ_BYTES;
            // What is kept for a call is read first; it was told of it already.
            if end > AHEAD_BYTES_MAX || line.has_unread() {
                return;
            }
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            let size = line.read_ahead(&mut bytes[begin..end]);
            if size > 0 {
                parts.push(Part { line, at: begin..begin + size, is_all: size < READ_BYTES });
                begin += size;
            }
        });
        parts.reverse();
    });
}

/// Reads what was read ahead on a connection, as far as there is room for it, and tells whether nothing was left, not even by
/// the kernel. `None` when nothing was read ahead.
pub(crate) fn take(line: &Arc<Line>, room: &mut [u8]) -> Option<(usize, bool)> {
    CAME.with_borrow_mut(|Came { bytes, parts }| {
        // Those of the call whose turn it is are the last.
        let place = parts.iter().rposition(|it| Arc::ptr_eq(&it.line, line))?;
        let Part { at, is_all, .. } = &mut parts[place];
        let size = room.len().min(at.len());
        room[..size].copy_from_slice(&bytes[at.start..at.start + size]);
        at.start += size;
        if at.start < at.end {
            return Some((size, false));
        }
        let is_all = *is_all;
        parts.remove(place);
        Some((size, is_all))
    })
}

/// The call to which such tokens belong has had its turn: what it did not read is kept for it.
pub(crate) fn keep_unread(of_call: impl Fn(Token) -> bool) {
    CAME.with_borrow_mut(|Came { bytes, parts }| {
        while let Some(Part { line, at, .. }) = parts.pop_if(|it| of_call(it.line.token())) {
            line.keep_unread(&bytes[at]);
        }
    });
}

/// Takes bytes to be sent at the end of the turn; `false` outside of one.
pub(crate) fn post(line: &Arc<Line>, new: &[u8]) -> bool {
    WRITTEN.with_borrow_mut(|Written { is_open, bytes, letters }| {
        if *is_open {
            let begin = bytes.len();
            bytes.extend_from_slice(new);
            let end = bytes.len();
            match letters.last_mut() {
                Some(last) if Arc::ptr_eq(&last.line, line) => last.at.end = end,
                _ => letters.push(Letter { line: line.clone(), at: begin..end }),
            }
        }
        *is_open
    })
}

/// The turn is over: sends what was written in it. `unsent` is told of connections whose peers did not take all of it.
pub(crate) fn send_out(mut unsent: impl FnMut(Token)) {
    WRITTEN.with_borrow_mut(|Written { is_open, bytes, letters }| {
        *is_open = false;
        for Letter { line, at } in letters.drain(..) {
            line.send(&bytes[at]);
            if line.has_unsent() {
                unsent(line.token());
            }
        }
        bytes.clear();
        bytes.shrink_to(KEPT_BYTES_MAX);
    });
}

/// Sends what was written to a connection in this turn.
pub(crate) fn send_now(line: &Arc<Line>) {
    WRITTEN.with_borrow_mut(|Written { bytes, letters, .. }| {
        for Letter { line, at } in letters.extract_if(.., |it| Arc::ptr_eq(&it.line, line)) {
            line.send(&bytes[at]);
        }
    });
}

/// A connection leaves its exchange: nothing of it is left here.
pub(crate) fn let_go(line: &Arc<Line>) {
    send_now(line);
    CAME.with_borrow_mut(|Came { bytes, parts }| {
        for Part { line, at, .. } in parts.extract_if(.., |it| Arc::ptr_eq(&it.line, line)) {
            line.keep_unread(&bytes[at]);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::Lines;
    use std::io::Write as _;
    use std::task::Poll;
    use tokio::net::{TcpListener, TcpStream};

    /// A connection that is watched, and its far end.
    async fn line(lines: &Lines, token: usize) -> (Arc<Line>, std::net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let near: TcpStream = listener.accept().await.unwrap().0;
        (lines.watch(near, Box::default(), Token(token)).unwrap(), far)
    }

    fn take_all(line: &Arc<Line>) -> Option<(Vec<u8>, bool)> {
        let mut room = [0; 64];
        take(line, &mut room).map(|(bytes, is_all)| (room[..bytes].to_vec(), is_all))
    }

    fn read_kept(line: &Line) -> Vec<u8> {
        let mut room = [0; 64];
        let bytes = line.read_kept(&mut room).unwrap();
        room[..bytes].to_vec()
    }

    #[tokio::test]
    async fn what_has_come_for_all_is_read_before_the_first_decides() {
        let lines = Lines::new(mio::Poll::new().unwrap().registry().try_clone().unwrap());
        let (first, mut far_first) = line(&lines, 0).await;
        let (second, mut far_second) = line(&lines, 2).await;
        let ahead = || read_ahead(|tell| lines.each([Token(0), Token(1), Token(2), Token(99)].into_iter(), tell));
        far_first.write_all(b"one").unwrap();
        far_second.write_all(b"two").unwrap();
        ahead();
        far_first.write_all(b"three").unwrap();
        assert_eq!(take_all(&first), Some((b"one".to_vec(), true)));
        assert_eq!(take_all(&first), None, "what came behind it belongs to a later turn");
        keep_unread(|it| it == Token(0));
        // The second call looks at something else and is told of more.
        keep_unread(|it| it == Token(2));
        assert_eq!(take_all(&second), None);
        far_second.write_all(b"four").unwrap();
        ahead();
        assert_eq!(take_all(&first), Some((b"three".to_vec(), true)));
        assert_eq!(take_all(&second), None, "what was kept comes first");
        assert_eq!(read_kept(&second), b"two");
        let mut room = [0; 64];
        assert!(matches!(second.poll_read(&mut room), Poll::Ready(Ok(4))), "and the kernel has the rest");
    }

    #[tokio::test]
    async fn a_full_piece_says_nothing_of_what_is_left() {
        let lines = Lines::new(mio::Poll::new().unwrap().registry().try_clone().unwrap());
        let (line, mut far) = line(&lines, 0).await;
        far.write_all(&[7; READ_BYTES + 5]).unwrap();
        read_ahead(|tell| lines.each([Token(0)].into_iter(), tell));
        let mut room = [0; READ_BYTES / 2];
        assert_eq!(take(&line, &mut room), Some((READ_BYTES / 2, false)));
        assert_eq!(take(&line, &mut room), Some((READ_BYTES / 2, false)));
        assert_eq!(take(&line, &mut room), None);
        assert!(matches!(line.poll_read(&mut room), Poll::Ready(Ok(5))));
    }
}
