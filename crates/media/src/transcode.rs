//! One direction of one leg: from the format it arrives in to the format it leaves in.

use std::fmt;

use crate::{Downsampler, Format, Rate, SILENCE, TAPS_PER_PHASE, Upsampler, g711};

/// The pair of formats that no live path needs; one end is always the telephone's μ-law.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("no live conversion from {from} to {to}: one side must be μ-law 8k")]
pub struct Unsupported {
    from: Format,
    to: Format,
}

/// Converts a stream of bytes piece by piece; pieces may end anywhere, even inside a sample.
///
/// [`Display`](fmt::Display) prints the path with its delay: `μ-law 8k → PCM 24k (0.36 ms)`.
#[derive(Debug)]
pub struct Transcoder {
    from: Format,
    to: Format,
    stage: Stage,
    /// First byte of a sample whose second byte comes with the next piece.
    odd: Option<u8>,
    /// Bytes of output since the last flush, for padding the last frame.
    written: usize,
    pcm: Vec<i16>,
    resampled: Vec<i16>,
}

#[derive(Debug)]
enum Stage {
    Passthrough,
    Expand(Option<Box<Upsampler>>),
    Compress(Option<Downsampler>),
}

impl Transcoder {
    /// # Errors
    /// [`Unsupported`] when neither side is μ-law.
    pub fn new(from: Format, to: Format) -> Result<Self, Unsupported> {
        let factor = |rate: Rate| (rate != Rate::Hz8000).then(|| rate.hz() as usize / 8_000);
        let stage = match (from, to) {
            (Format::Ulaw8k, Format::Ulaw8k) => Stage::Passthrough,
            (Format::Ulaw8k, Format::Pcm16(rate)) => Stage::Expand(factor(rate).map(|it| Box::new(Upsampler::new(it)))),
            (Format::Pcm16(rate), Format::Ulaw8k) => Stage::Compress(factor(rate).map(Downsampler::new)),
            (Format::Pcm16(_), Format::Pcm16(_)) => return Err(Unsupported { from, to }),
        };
        Ok(Self { from, to, stage, odd: None, written: 0, pcm: Vec::new(), resampled: Vec::new() })
    }

    /// Whether bytes go through untouched.
    pub fn is_passthrough(&self) -> bool {
        matches!(self.stage, Stage::Passthrough)
    }

    /// Appends to `out` what `input` becomes. Nothing is held back but an odd last byte.
    pub fn push(&mut self, input: &[u8], out: &mut Vec<u8>) {
        let before = out.len();
        match &mut self.stage {
            Stage::Passthrough => out.extend_from_slice(input),
            Stage::Expand(up) => {
                self.pcm.clear();
                self.pcm.extend(input.iter().map(|code| g711::decode(*code)));
                let samples = match up {
                    Some(up) => {
                        self.resampled.clear();
                        up.process(&self.pcm, &mut self.resampled);
                        &self.resampled
                    }
                    None => &self.pcm,
                };
                out.extend(samples.iter().flat_map(|it| it.to_le_bytes()));
            }
            Stage::Compress(down) => {
                self.pcm.clear();
                let mut rest = input;
                if let (Some(low), Some((high, tail))) = (self.odd, rest.split_first()) {
                    self.pcm.push(i16::from_le_bytes([low, *high]));
                    self.odd = None;
                    rest = tail;
                }
                let pairs = rest.chunks_exact(2);
                if let [low] = pairs.remainder() {
                    self.odd = Some(*low);
                }
                self.pcm.extend(pairs.map(|it| i16::from_le_bytes([it[0], it[1]])));
                compress(&self.pcm, down.as_mut(), &mut self.resampled, out);
            }
        }
        self.written += out.len() - before;
    }

    /// Ends an utterance: lets the filter ring out and, towards the telephone, fills the last 20 ms frame with silence.
    /// An odd byte left over is dropped: half a sample is no sound.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        let before = out.len();
        if let Stage::Compress(Some(down)) = &mut self.stage
            && self.written > 0
        {
            let factor = if self.from == Format::Pcm16(Rate::Hz24000) { 3 } else { 2 };
            self.pcm.clear();
            self.pcm.resize(TAPS_PER_PHASE * factor - 1, 0);
            compress(&self.pcm, Some(down), &mut self.resampled, out);
        }
        self.written += out.len() - before;
        if self.to == Format::Ulaw8k {
            let short = self.written.next_multiple_of(crate::FRAME_BYTES) - self.written;
            out.resize(out.len() + short, SILENCE);
        }
        self.odd = None;
        self.written = 0;
    }

    /// Forgets filter state and odd bytes: the utterance was cut and the next one starts afresh.
    pub fn reset(&mut self) {
        match &mut self.stage {
            Stage::Expand(Some(up)) => up.reset(),
            Stage::Compress(Some(down)) => down.reset(),
            _ => (),
        }
        self.odd = None;
        self.written = 0;
    }
}

fn compress(pcm: &[i16], down: Option<&mut Downsampler>, scratch: &mut Vec<i16>, out: &mut Vec<u8>) {
    let samples = match down {
        Some(down) => {
            scratch.clear();
            down.process(pcm, scratch);
            scratch.as_slice()
        }
        None => pcm,
    };
    out.extend(samples.iter().map(|it| g711::encode(*it)));
}

impl fmt::Display for Transcoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.stage {
            Stage::Passthrough => write!(f, "{} passthrough", self.from),
            stage => {
                // Group delay of the two prototypes; nothing is held back.
                let delay_ms = match (stage, self.from, self.to) {
                    (Stage::Expand(None) | Stage::Compress(None), ..) => 0.0,
                    (_, Format::Pcm16(Rate::Hz16000), _) | (_, _, Format::Pcm16(Rate::Hz16000)) => 0.33,
                    _ => 0.36,
                };
                write!(f, "{} → {} ({delay_ms} ms)", self.from, self.to)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PCM_24K: Format = Format::Pcm16(Rate::Hz24000);
    const PCM_16K: Format = Format::Pcm16(Rate::Hz16000);

    fn convert(from: Format, to: Format, input: &[u8]) -> Vec<u8> {
        let (mut out, mut transcoder) = (Vec::new(), Transcoder::new(from, to).unwrap());
        transcoder.push(input, &mut out);
        out
    }

    #[test]
    fn prints_its_path() {
        assert_eq!(Transcoder::new(Format::Ulaw8k, PCM_24K).unwrap().to_string(), "μ-law 8k → PCM 24k (0.36 ms)");
        assert_eq!(Transcoder::new(Format::Ulaw8k, Format::Ulaw8k).unwrap().to_string(), "μ-law 8k passthrough");
        assert!(Transcoder::new(PCM_16K, PCM_24K).is_err());
    }

    #[test]
    fn sizes_follow_from_the_formats() {
        assert_eq!(convert(Format::Ulaw8k, PCM_24K, &[SILENCE; 160]).len(), 960);
        assert_eq!(convert(Format::Ulaw8k, PCM_16K, &[SILENCE; 160]).len(), 640);
        assert_eq!(convert(Format::Ulaw8k, Format::Pcm16(Rate::Hz8000), &[SILENCE; 160]).len(), 320);
        assert_eq!(convert(PCM_24K, Format::Ulaw8k, &[0; 960]), [SILENCE; 160]);
    }

    #[test]
    fn the_end_of_an_utterance_fills_its_frame_with_silence() {
        let mut out = Vec::new();
        let mut transcoder = Transcoder::new(PCM_24K, Format::Ulaw8k).unwrap();
        transcoder.push(&[1, 0, 2], &mut out);
        transcoder.flush(&mut out);
        assert_eq!(out.len(), 160);
        assert!(out[100..].iter().all(|it| *it == SILENCE));
    }

    proptest! {
        #[test]
        fn pieces_may_end_anywhere(audio in prop::collection::vec(any::<u8>(), 0..3000), cuts in prop::collection::vec(1usize..400, 1..20)) {
            for (from, to) in [(PCM_24K, Format::Ulaw8k), (PCM_16K, Format::Ulaw8k), (Format::Ulaw8k, PCM_24K), (Format::Ulaw8k, Format::Ulaw8k)] {
                let mut pieces = Transcoder::new(from, to).unwrap();
                let (mut out, mut rest, mut cut) = (Vec::new(), audio.as_slice(), cuts.iter().cycle());
                while !rest.is_empty() {
                    let (piece, tail) = rest.split_at((*cut.next().unwrap()).min(rest.len()));
                    pieces.push(piece, &mut out);
                    rest = tail;
                }
                prop_assert_eq!(&out, &convert(from, to, &audio));
            }
        }
    }
}
