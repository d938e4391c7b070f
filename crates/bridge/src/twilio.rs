//! Twilio Media Streams ⇄ call: what is queued for the caller's socket and how it is printed.

use std::cell::Cell;
use std::collections::VecDeque;
use std::thread::LocalKey;

use call::Mark;
use media::Frame;

use crate::outbox::Printer;

/// `<Parameter>` with the single-use token.
pub const TOKEN_PARAMETER: &str = "token";
/// `<Parameter>` with our id of the call.
pub const CALL_PARAMETER: &str = "call";

/// Audio and marks share a queue: a mark is worth something only behind its audio.
pub(crate) enum Media {
    Frame(Frame),
    Mark(Mark),
}

/// Overtakes audio.
pub(crate) struct Clear;

pub(crate) struct TwilioPrinter {
    stream_sid: String,
    name: String,
}

impl TwilioPrinter {
    pub(crate) fn new(stream_sid: String) -> Self {
        Self { stream_sid, name: String::new() }
    }

    /// Twilio's id of the stream, which is in every message.
    pub(crate) fn stream_sid(&self) -> &str {
        &self.stream_sid
    }
}

thread_local! {
    static QUEUE: Cell<VecDeque<Media>> = const { Cell::new(VecDeque::new()) };
}

impl Printer for TwilioPrinter {
    type Media = Media;
    type Control = Clear;

    fn media(&mut self, media: &Media, out: &mut String) -> bool {
        match media {
            Media::Frame(frame) => wire::twilio::print_media(out, &self.stream_sid, frame.ulaw()),
            Media::Mark(mark) => {
                print_mark_name(*mark, &mut self.name);
                wire::twilio::print_mark(out, &self.stream_sid, &self.name);
            }
        }
        true
    }

    fn control(&mut self, Clear: Clear, out: &mut String) -> bool {
        wire::twilio::print_clear(out, &self.stream_sid);
        true
    }

    fn queue() -> &'static LocalKey<Cell<VecDeque<Media>>> {
        &QUEUE
    }
}

/// `g2:17`: generation and number.
fn print_mark_name(mark: Mark, name: &mut String) {
    use std::fmt::Write as _;
    name.clear();
    let _ = write!(name, "g{}:{}", mark.generation, mark.number);
}

/// The mark of that name; `None` for one that is not ours.
pub(crate) fn parse_mark(name: &str) -> Option<Mark> {
    let (generation, number) = name.strip_prefix('g')?.split_once(':')?;
    Some(Mark { generation: generation.parse().ok()?, number: number.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mark_names_lead_back() {
        let mark = Mark { generation: 3, number: 4_000_000_000 };
        let mut name = String::from("old");
        print_mark_name(mark, &mut name);
        assert_eq!((name.as_str(), parse_mark(&name)), ("g3:4000000000", Some(mark)));
        assert!(wire::twilio::is_plain(&name.replace(':', "_")));
        for foreign in ["", "g", "g1", "x1:2", "g1:2:3", "g-1:2"] {
            assert_eq!(parse_mark(foreign), None, "{foreign}");
        }
    }
}
