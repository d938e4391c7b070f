//! One direction of one leg: from the format it arrives in to the format it leaves in.

use std::cell::RefCell;
use std::fmt;

use crate::g711::{alaw, ulaw};
use crate::resample::{Downsampler, TAPS_PER_PHASE, Upsampler, delay_ms};
use crate::{FRAME_BYTES, Format, Rate};

/// The pair of rates that no live path needs: 16 and 24 kHz. [`AnyRate`](crate::resample::AnyRate) converts those.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("no live conversion from {from} to {to}: one side must be at 8 kHz, or both at the same rate")]
pub struct Unsupported {
    from: Format,
    to: Format,
}

/// Converts a stream of bytes piece by piece; pieces may end anywhere, even inside a sample.
///
/// One object serves one direction of one leg: it keeps the filter's state and the odd byte. Nothing is held back, nothing
/// is allocated once its buffers have grown. [`Display`](fmt::Display) prints the path with its delay:
/// `μ-law 8k → PCM 24k (0.36 ms)`.
#[derive(Debug)]
pub struct Transcoder {
    from: Format,
    to: Format,
    stage: Stage,
    /// First byte of a sample whose second byte comes with the next piece.
    odd: Option<u8>,
    /// Bytes of output since the last flush, for padding the last frame.
    written: usize,
}

/// Samples on their way through a converter. Lent by the thread: every converter's own would be cold in the cache when its next
/// piece comes, 20 ms and hundreds of calls later.
#[derive(Default)]
struct Scratch {
    pcm: Vec<i16>,
    resampled: Vec<i16>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

#[derive(Debug)]
enum Stage {
    /// Bytes go through untouched.
    Passthrough,
    /// Decode, encode.
    SameRate,
    /// Decode, resample, encode.
    Up(Box<Upsampler>),
    Down(Downsampler),
}

impl Transcoder {
    /// # Errors
    /// [`Unsupported`] for 16 ⇄ 24 kHz.
    pub fn new(from: Format, to: Format) -> Result<Self, Unsupported> {
        let factor = |rate: Rate| rate.hz() as usize / 8000;
        let stage = match (from.rate(), to.rate()) {
            _ if from == to => Stage::Passthrough,
            (a, b) if a == b => Stage::SameRate,
            (Rate::Hz8000, high) => Stage::Up(Box::new(Upsampler::new(factor(high)))),
            (high, Rate::Hz8000) => Stage::Down(Downsampler::new(factor(high))),
            _ => return Err(Unsupported { from, to }),
        };
        Ok(Self { from, to, stage, odd: None, written: 0 })
    }

    /// Whether bytes go through untouched.
    pub fn is_passthrough(&self) -> bool {
        matches!(self.stage, Stage::Passthrough)
    }

    /// Delay in milliseconds: the filter's mean group delay over 300–3400 Hz.
    pub fn delay_ms(&self) -> f32 {
        match &self.stage {
            Stage::Passthrough | Stage::SameRate => 0.0,
            Stage::Up(up) => delay_ms(up.factor()),
            Stage::Down(down) => delay_ms(down.factor()),
        }
    }

    /// Appends to `out` what `input` becomes. Nothing is held back but an odd last byte.
    pub fn push(&mut self, input: &[u8], out: &mut Vec<u8>) {
        let before = out.len();
        if self.is_passthrough() {
            out.extend_from_slice(input);
        } else {
            SCRATCH.with_borrow_mut(|scratch| {
                self.decode(input, &mut scratch.pcm);
                self.convert(scratch, out);
            });
        }
        self.written += out.len() - before;
    }

    /// Ends an utterance towards a telephone: lets the filter ring out, and fills the last 20 ms frame with silence.
    /// An odd byte left over is dropped: half a sample is no sound. Towards the assistant there is no end, and nothing to do.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        let before = out.len();
        if let (Stage::Down(down), true) = (&self.stage, self.written > 0) {
            let tail = TAPS_PER_PHASE * down.factor() - 1;
            SCRATCH.with_borrow_mut(|scratch| {
                scratch.pcm.clear();
                scratch.pcm.resize(tail, 0);
                self.convert(scratch, out);
            });
        }
        self.written += out.len() - before;
        let silence = match self.to {
            Format::Ulaw8k => Some(ulaw::SILENCE),
            Format::Alaw8k => Some(alaw::SILENCE),
            Format::Pcm16(_) => None,
        };
        if let Some(silence) = silence {
            let short = self.written.next_multiple_of(FRAME_BYTES) - self.written;
            out.resize(out.len() + short, silence);
        }
        self.odd = None;
        self.written = 0;
    }

    /// Forgets filter state, odd byte and partial frame: the utterance was cut and the next one starts afresh.
    pub fn reset(&mut self) {
        match &mut self.stage {
            Stage::Passthrough | Stage::SameRate => (),
            Stage::Up(up) => up.reset(),
            Stage::Down(down) => down.reset(),
        }
        self.odd = None;
        self.written = 0;
    }

    /// Bytes to samples.
    fn decode(&mut self, input: &[u8], pcm: &mut Vec<i16>) {
        pcm.clear();
        match self.from {
            Format::Ulaw8k => pcm.extend(input.iter().map(|it| ulaw::decode(*it))),
            Format::Alaw8k => pcm.extend(input.iter().map(|it| alaw::decode(*it))),
            Format::Pcm16(_) => {
                let mut rest = input;
                if let (Some(low), Some((high, tail))) = (self.odd, rest.split_first()) {
                    pcm.push(i16::from_le_bytes([low, *high]));
                    self.odd = None;
                    rest = tail;
                }
                let pairs = rest.chunks_exact(2);
                if let [low] = pairs.remainder() {
                    self.odd = Some(*low);
                }
                pcm.extend(pairs.map(|it| i16::from_le_bytes([it[0], it[1]])));
            }
        }
    }

    /// Samples to bytes.
    fn convert(&mut self, Scratch { pcm, resampled }: &mut Scratch, out: &mut Vec<u8>) {
        resampled.clear();
        let samples = match &mut self.stage {
            Stage::Passthrough | Stage::SameRate => pcm,
            Stage::Up(up) => {
                up.process(pcm, resampled);
                resampled
            }
            Stage::Down(down) => {
                down.process(pcm, resampled);
                resampled
            }
        };
        match self.to {
            Format::Ulaw8k => out.extend(samples.iter().map(|it| ulaw::encode(*it))),
            Format::Alaw8k => out.extend(samples.iter().map(|it| alaw::encode(*it))),
            Format::Pcm16(_) => {
                let start = out.len();
                out.resize(start + 2 * samples.len(), 0);
                let (places, _) = out[start..].as_chunks_mut();
                for (place, sample) in places.iter_mut().zip(samples.iter()) {
                    *place = sample.to_le_bytes();
                }
            }
        }
    }
}

impl fmt::Display for Transcoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_passthrough() {
            write!(f, "{} passthrough", self.from)
        } else {
            write!(f, "{} → {} ({} ms)", self.from, self.to, self.delay_ms())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SILENCE;
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
    fn g711_around_pcm_is_the_same_as_pcm_between() {
        let ulaw: Vec<u8> = (0..4800_u32).map(|it| (it.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let pcm: Vec<u8> = ulaw.iter().flat_map(|it| ulaw::decode(*it).to_le_bytes()).collect();
        assert_eq!(convert(Format::Ulaw8k, PCM_24K, &ulaw), convert(Format::Pcm16(Rate::Hz8000), PCM_24K, &pcm));
        let high = convert(Format::Ulaw8k, PCM_24K, &ulaw);
        let low = convert(PCM_24K, Format::Pcm16(Rate::Hz8000), &high);
        let encoded: Vec<u8> = low.chunks_exact(2).map(|it| ulaw::encode(i16::from_le_bytes([it[0], it[1]]))).collect();
        assert_eq!(convert(PCM_24K, Format::Ulaw8k, &high), encoded);
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
            const PCM_8K: Format = Format::Pcm16(Rate::Hz8000);
            for (from, to) in [(PCM_24K, Format::Ulaw8k), (PCM_16K, Format::Alaw8k), (Format::Ulaw8k, PCM_24K), (Format::Ulaw8k, Format::Ulaw8k), (PCM_8K, PCM_16K), (PCM_24K, PCM_8K)] {
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
