//! Towards the provider: enhanced where that is wanted, converted to its format, printed as its messages.

use std::cell::Cell;
use std::collections::VecDeque;
use std::thread::LocalKey;

use media::enhance::Chain;
use media::{Format, Frame, Rate, Transcoder};

use crate::outbox::{Outbox, Printer};
use crate::spare::{self, Use};

/// The queue towards a provider.
pub(crate) type Uplink = Outbox<UplinkPrinter>;

/// Overtakes audio.
pub(crate) enum UplinkControl {
    /// A message as it is.
    Text(String),
    /// Audio is sent in this format from now on.
    Format(Format),
}

/// Enhances caller frames where that is wanted, converts them to the provider's format and prints them.
pub(crate) struct UplinkPrinter {
    chain: Chain,
    transcoder: Transcoder,
    print: fn(&mut String, &[u8]),
}

impl UplinkPrinter {
    /// `print` replaces its first argument by the message that carries the audio.
    pub(crate) fn new(print: fn(&mut String, &[u8]), chain: Chain) -> Self {
        let transcoder = uplink_transcoder(&chain, Format::Ulaw8k);
        Self { chain, transcoder, print }
    }
}

thread_local! {
    static QUEUE: Cell<VecDeque<Frame>> = const { Cell::new(VecDeque::new()) };
}

impl Printer for UplinkPrinter {
    type Media = Frame;
    type Control = UplinkControl;

    fn media(&mut self, frame: &Frame, out: &mut String) -> bool {
        if self.transcoder.is_passthrough() {
            (self.print)(out, frame.ulaw());
            return true;
        }
        let mut converted = spare::take(Use::Converted);
        if self.chain.is_empty() {
            self.transcoder.push(frame.ulaw(), &mut converted);
        } else {
            let mut pcm = spare::take(Use::Decoded);
            pcm.extend(self.chain.process(frame).iter().flat_map(|it| it.to_le_bytes()));
            self.transcoder.push(&pcm, &mut converted);
            spare::give(Use::Decoded, pcm);
        }
        (self.print)(out, &converted);
        spare::give(Use::Converted, converted);
        true
    }

    fn control(&mut self, control: UplinkControl, out: &mut String) -> bool {
        match control {
            UplinkControl::Text(text) => {
                *out = text;
                true
            }
            UplinkControl::Format(format) => {
                self.transcoder = uplink_transcoder(&self.chain, format);
                let arrow = if self.chain.is_empty() { "" } else { " → " };
                tracing::debug!(path = %format_args!("{}{arrow}{}", self.chain, self.transcoder), "caller to assistant");
                false
            }
        }
    }

    fn queue() -> &'static LocalKey<Cell<VecDeque<Frame>>> {
        &QUEUE
    }
}

/// From what leaves the chain to what the provider takes. An empty chain leaves μ-law as it is.
fn uplink_transcoder(chain: &Chain, to: Format) -> Transcoder {
    let from = if chain.is_empty() { Format::Ulaw8k } else { Format::Pcm16(Rate::Hz8000) };
    Transcoder::new(from, to).expect("one side is at 8 kHz")
}
