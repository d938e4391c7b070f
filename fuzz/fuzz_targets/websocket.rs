#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::websocket::{Inbox, Role};

/// Longest message taken.
const MOST: usize = 4096;

// Frames of a stranger, in pieces: whatever comes, memory stays bounded and nothing panics.
fuzz_target!(|input: (bool, u8, &[u8])| {
    let (server, piece, bytes) = input;
    let mut inbox = Inbox::new(if server { Role::Server } else { Role::Client }, MOST);
    for piece in bytes.chunks(usize::from(piece).max(1)) {
        inbox.fill(piece);
        loop {
            match inbox.message() {
                Ok(Some(_)) => (),
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(inbox.room().len() <= 4 * MOST, "the buffer grows with what has come, within the limit");
    }
});
