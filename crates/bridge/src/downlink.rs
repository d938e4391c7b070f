//! The provider's speech on its way to the call: decoded, checked, converted to μ-law.

use std::fmt;
use std::sync::Arc;

use media::{Encoding, Format, Rate, Sniffer, Transcoder};

use crate::Metrics;
use crate::assistant::Fault;
use crate::spare::{self, Use};

fn passthrough() -> Transcoder {
    Transcoder::new(Format::Ulaw8k, Format::Ulaw8k).expect("μ-law passes through")
}

/// The provider's speech on its way to the call: decoded, checked, converted to μ-law.
pub(crate) struct Downlink {
    transcoder: Transcoder,
    sniffer: Sniffer,
    /// The first bytes of a session, until it is sure that they are not static: 800 bytes, usually less than one piece.
    held: Vec<u8>,
    metrics: Arc<Metrics>,
    peer: &'static str,
}

impl Downlink {
    pub(crate) fn new(metrics: Arc<Metrics>, peer: &'static str) -> Self {
        Self { transcoder: passthrough(), sniffer: Sniffer::new(Encoding::Ulaw), held: Vec::new(), metrics, peer }
    }

    /// The announced format.
    pub(crate) fn set_format(&mut self, format: Format) {
        self.transcoder = Transcoder::new(format, Format::Ulaw8k).expect("one side is μ-law");
        self.sniffer = Sniffer::new(if format == Format::Ulaw8k { Encoding::Ulaw } else { Encoding::Pcm16 });
    }

    /// Converts a piece; `play` gets the result, if there is any yet.
    pub(crate) fn push(&mut self, base64: &str, play: &mut dyn FnMut(&[u8])) -> Result<(), Fault> {
        let mut encoded = spare::take(Use::Decoded);
        let decoded = wire::audio::decode(base64, &mut encoded);
        if decoded.is_ok() {
            self.check(&encoded);
            if self.sniffer.has_judged() {
                self.convert(play, |transcoder, ulaw| transcoder.push(&encoded, ulaw));
            } else {
                self.held.extend_from_slice(&encoded);
            }
        }
        spare::give(Use::Decoded, encoded);
        decoded.map_err(|error| Fault::Malformed(error.to_string()))
    }

    /// Announced one format, sent the other: the caller would hear static. Trusts the bytes.
    fn check(&mut self, encoded: &[u8]) {
        if let Some(real) = self.sniffer.push(encoded) {
            let format = match real {
                Encoding::Ulaw => Format::Ulaw8k,
                Encoding::Pcm16 => Format::Pcm16(Rate::Hz24000),
            };
            tracing::warn!(peer = self.peer, announced = %self.transcoder, "the audio is really {format}, converting from that");
            self.metrics.format_mismatches.inc();
            self.set_format(format);
        }
    }

    /// What was held comes first.
    fn convert(&mut self, play: &mut dyn FnMut(&[u8]), more: impl FnOnce(&mut Transcoder, &mut Vec<u8>)) {
        let mut ulaw = spare::take(Use::Converted);
        if !self.held.is_empty() {
            self.transcoder.push(&self.held, &mut ulaw);
            self.held = Vec::new();
        }
        more(&mut self.transcoder, &mut ulaw);
        if !ulaw.is_empty() {
            play(&ulaw);
        }
        spare::give(Use::Converted, ulaw);
    }

    /// Ends an utterance; `play` gets its tail, if there is any.
    pub(crate) fn flush(&mut self, play: &mut dyn FnMut(&[u8])) {
        self.convert(play, |transcoder, ulaw| {
            if !transcoder.is_passthrough() {
                transcoder.flush(ulaw);
            }
        });
    }

    /// An utterance was cut, or another one begins.
    pub(crate) fn reset(&mut self) {
        self.held.clear();
        self.transcoder.reset();
    }
}

impl fmt::Display for Downlink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.transcoder.fmt(f)
    }
}
