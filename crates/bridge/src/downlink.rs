//! The provider's speech on its way to the call: decoded, checked, converted to μ-law.

use std::fmt;

use media::{Encoding, Format, Rate, Sniffer, Transcoder};

use crate::Metrics;
use crate::assistant::Fault;

fn passthrough() -> Transcoder {
    Transcoder::new(Format::Ulaw8k, Format::Ulaw8k).expect("μ-law passes through")
}

/// The provider's speech on its way to the call: decoded, checked, converted to μ-law.
pub(crate) struct Downlink {
    transcoder: Transcoder,
    sniffer: Sniffer,
    encoded: Vec<u8>,
    /// The first bytes of a session, until it is sure that they are not static: 800 bytes, usually less than one piece.
    held: Vec<u8>,
    /// What the last step made, valid until the next one.
    pub(crate) ulaw: Vec<u8>,
    metrics: Metrics,
    peer: &'static str,
}

impl Downlink {
    pub(crate) fn new(metrics: Metrics, peer: &'static str) -> Self {
        Self {
            transcoder: passthrough(),
            sniffer: Sniffer::new(Encoding::Ulaw),
            encoded: Vec::with_capacity(4096),
            held: Vec::new(),
            ulaw: Vec::with_capacity(4096),
            metrics,
            peer,
        }
    }

    /// The announced format.
    pub(crate) fn set_format(&mut self, format: Format) {
        self.transcoder = Transcoder::new(format, Format::Ulaw8k).expect("one side is μ-law");
        self.sniffer = Sniffer::new(if format == Format::Ulaw8k { Encoding::Ulaw } else { Encoding::Pcm16 });
    }

    /// Converts a piece; `self.ulaw` holds the result.
    pub(crate) fn push(&mut self, base64: &str) -> Result<(), Fault> {
        self.ulaw.clear();
        wire::audio::decode(base64, &mut self.encoded).map_err(|error| Fault::Malformed(error.to_string()))?;
        if let Some(real) = self.sniffer.push(&self.encoded) {
            // Announced one format, sent the other: the caller would hear static. Trust the bytes.
            let format = match real {
                Encoding::Ulaw => Format::Ulaw8k,
                Encoding::Pcm16 => Format::Pcm16(Rate::Hz24000),
            };
            tracing::warn!(peer = self.peer, announced = %self.transcoder, "the audio is really {format}, converting from that");
            self.metrics.format_mismatches.inc();
            self.set_format(format);
        }
        if !self.sniffer.has_judged() {
            self.held.extend_from_slice(&self.encoded);
            return Ok(());
        }
        self.release();
        self.transcoder.push(&self.encoded, &mut self.ulaw);
        Ok(())
    }

    fn release(&mut self) {
        if !self.held.is_empty() {
            self.transcoder.push(&self.held, &mut self.ulaw);
            self.held = Vec::new();
        }
    }

    /// Ends an utterance; `self.ulaw` holds its tail.
    pub(crate) fn flush(&mut self) {
        self.ulaw.clear();
        self.release();
        if !self.transcoder.is_passthrough() {
            self.transcoder.flush(&mut self.ulaw);
        }
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
