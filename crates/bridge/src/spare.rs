//! Buffers that are lent for a moment: a thread works on one call at a time, so its calls share them. A call's own would be
//! 10 kB of memory each, and cold when its turn comes, twenty milliseconds and hundreds of calls later.

use std::cell::{Cell, RefCell};

use call::Action;

/// Size of a buffer to read into: all that a socket has ready, most times.
pub(crate) const READ_BYTES: usize = 8192;
/// A buffer that has grown beyond this is given back to the allocator after its burst.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// A call has two sockets: both may hold a buffer at once.
const READERS: usize = 2;

thread_local! {
    static READ: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static WRITE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static DECODED: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static CONVERTED: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static ACTIONS: Cell<Vec<Action>> = const { Cell::new(Vec::new()) };
    static TEXT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// What a buffer is for.
#[derive(Clone, Copy)]
pub(crate) enum Use {
    /// To read into; it has [`READ_BYTES`] bytes of anything, or more.
    Read,
    /// To write from; it is empty.
    Write,
    /// Audio out of base64; it is empty.
    Decoded,
    /// Audio out of a converter; it is empty.
    Converted,
}

/// Borrows a buffer; one that is not given back is made anew next time.
pub(crate) fn take(purpose: Use) -> Vec<u8> {
    match purpose {
        Use::Read => READ.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; READ_BYTES]),
        Use::Write => cleared(WRITE.take()),
        Use::Decoded => cleared(DECODED.take()),
        Use::Converted => cleared(CONVERTED.take()),
    }
}

fn cleared(mut buffer: Vec<u8>) -> Vec<u8> {
    buffer.clear();
    buffer
}

/// Gives a buffer back.
pub(crate) fn give(purpose: Use, buffer: Vec<u8>) {
    if buffer.capacity() > KEPT_BYTES_MAX {
        return;
    }
    match purpose {
        Use::Read if buffer.len() < READ_BYTES => (),
        Use::Read => READ.with_borrow_mut(|them| {
            if them.len() < READERS {
                them.push(buffer);
            }
        }),
        Use::Write => WRITE.set(buffer),
        Use::Decoded => DECODED.set(buffer),
        Use::Converted => CONVERTED.set(buffer),
    }
}

/// Lends a text to print into.
pub(crate) fn with_text<R>(work: impl FnOnce(&mut String) -> R) -> R {
    TEXT.with_borrow_mut(work)
}

/// Borrows an empty list of actions.
pub(crate) fn take_actions() -> Vec<Action> {
    ACTIONS.take()
}

/// Gives it back, empty.
pub(crate) fn give_actions(mut actions: Vec<Action>) {
    actions.clear();
    ACTIONS.set(actions);
}
