//! What the callers of a load run say: a code that names call and frame, and survives μ-law, resampling and filters.
//!
//! A call speaks blocks of 16 frames. The first frame is silent; each of the others is a tone at one of four levels, two
//! bits: six frames tell the call, seven count the blocks, two are a checksum. Whoever reads a block knows of each of its 16
//! frames whose it is and which one; what is lost, repeated, or another call's shows.

use media::g711::ulaw;
use media::{FRAME_BYTES, SILENCE};

/// Frames of a block.
pub const BLOCK: u32 = 16;
/// Calls that can be told apart.
pub const CALLS_MAX: u32 = 1 << 12;
const BLOCKS: u32 = 1 << 14;
/// Amplitudes of the four levels, 6 dB apart.
const AMPLITUDES: [f64; 4] = [1000.0, 2000.0, 4000.0, 8000.0];
/// Mean magnitudes that lie between silence, the levels, and too loud.
const BOUNDS: [u32; 5] = [320, 900, 1800, 3600, 7200];

/// What a frame carries: silence, or one of four levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symbol {
    Silence,
    Level(u8),
    /// Louder than anything that was said.
    Noise,
}

impl Symbol {
    /// By the mean magnitude of the middle of a frame.
    fn of(mean: u32) -> Self {
        match BOUNDS.iter().filter(|it| mean >= **it).count() {
            0 => Self::Silence,
            5 => Self::Noise,
            level => Self::Level(level as u8 - 1),
        }
    }

    /// Of a frame of μ-law.
    pub fn of_ulaw(frame: &[u8]) -> Self {
        let middle = &frame[frame.len() / 4..frame.len() * 3 / 4];
        let sum: u32 = middle.iter().map(|it| u32::from(ulaw::decode(*it).unsigned_abs())).sum();
        Self::of(sum / middle.len().max(1) as u32)
    }

    /// Of a frame of 16-bit PCM, little endian.
    pub fn of_pcm(frame: &[u8]) -> Self {
        let (samples, _) = frame.as_chunks::<2>();
        let middle = &samples[samples.len() / 4..samples.len() * 3 / 4];
        let sum: u32 = middle.iter().map(|it| u32::from(i16::from_le_bytes(*it).unsigned_abs())).sum();
        Self::of(sum / middle.len().max(1) as u32)
    }
}

/// The symbol of a call's frame.
fn symbol(call: u32, frame: u32) -> Symbol {
    let (block, place) = (frame / BLOCK % BLOCKS, frame % BLOCK);
    let digit = |number: u32, place: u32| (number >> (2 * place) & 3) as u8;
    match place {
        0 => Symbol::Silence,
        1..=6 => Symbol::Level(digit(call, place - 1)),
        7..=13 => Symbol::Level(digit(block, place - 7)),
        _ => Symbol::Level(digit(checksum(call, block), place - 14)),
    }
}

fn checksum(call: u32, block: u32) -> u32 {
    let mixed = (call.wrapping_mul(0x9E37) ^ block.wrapping_mul(0x79B9)).wrapping_mul(0x85EB_CA6B);
    mixed >> 28
}

/// The sounds of the code as base64 of μ-law, made once.
#[derive(Debug)]
pub struct Voice {
    silence: String,
    levels: [String; 4],
}

impl Voice {
    /// Of one of 16 pitches.
    pub fn new(call: u32) -> Self {
        let pitch = 430.0 + 70.0 * f64::from(call % 16);
        let tone = |amplitude: f64| {
            let step = pitch * std::f64::consts::TAU / 8000.0;
            let sound: [u8; FRAME_BYTES] = std::array::from_fn(|n| ulaw::encode((amplitude * (step * n as f64).sin()) as i16));
            let mut text = String::new();
            wire::audio::encode(&sound, &mut text);
            text
        };
        let mut silence = String::new();
        wire::audio::encode(&[SILENCE; FRAME_BYTES], &mut silence);
        Self { silence, levels: AMPLITUDES.map(tone) }
    }

    /// What a call says in its frame of that number.
    pub fn frame(&self, call: u32, frame: u32) -> &str {
        match symbol(call, frame) {
            Symbol::Level(level) => &self.levels[usize::from(level)],
            _ => &self.silence,
        }
    }

    /// 20 ms of nothing.
    pub fn silence(&self) -> &str {
        &self.silence
    }
}

/// A block that was heard whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    pub call: u32,
    /// Number of its first frame.
    pub first: u32,
}

/// What a frame turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A piece of a block, or silence between blocks.
    Nothing,
    /// The last frame of a block.
    Block(Block),
    /// What came is no block: something was lost, repeated or mixed up.
    Broken,
}

/// Listens to a stream of frames.
#[derive(Clone, Debug, Default)]
pub struct Ear {
    /// Digits heard of the block; `None` until a silent frame came.
    digits: Option<Vec<u8>>,
}

impl Ear {
    /// Hears a frame.
    pub fn hear(&mut self, symbol: Symbol) -> Heard {
        match symbol {
            Symbol::Silence => {
                let broken = self.digits.as_ref().is_some_and(|it| !it.is_empty());
                self.digits = Some(Vec::with_capacity(BLOCK as usize));
                if broken { Heard::Broken } else { Heard::Nothing }
            }
            Symbol::Noise => {
                self.digits = None;
                Heard::Broken
            }
            Symbol::Level(digit) => {
                let Some(digits) = &mut self.digits else { return Heard::Nothing };
                digits.push(digit);
                if digits.len() < BLOCK as usize - 1 {
                    return Heard::Nothing;
                }
                let number =
                    |range: std::ops::Range<usize>| digits[range].iter().rev().fold(0, |number, it| number << 2 | u32::from(*it));
                let (call, block, sum) = (number(0..6), number(6..13), number(13..15));
                self.digits = None;
                if sum == checksum(call, block) { Heard::Block(Block { call, first: block * BLOCK }) } else { Heard::Broken }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use media::{Format, Rate, Transcoder};

    fn frame(call: u32, number: u32) -> Vec<u8> {
        let mut ulaw = Vec::new();
        wire::audio::decode(Voice::new(call).frame(call, number), &mut ulaw).unwrap();
        ulaw
    }

    fn blocks(call: u32, frames: impl Iterator<Item = u32>) -> Vec<Heard> {
        let mut ear = Ear::default();
        frames.map(|it| ear.hear(Symbol::of_ulaw(&frame(call, it)))).filter(|it| *it != Heard::Nothing).collect()
    }

    #[test]
    fn a_call_is_heard_as_itself_frame_by_frame() {
        for call in [0, 1, 77, 4095] {
            let expected: Vec<_> = (0..5).map(|it| Heard::Block(Block { call, first: it * BLOCK })).collect();
            assert_eq!(blocks(call, 0..80), expected);
        }
    }

    #[test]
    fn a_frame_lost_repeated_or_of_another_call_is_seen() {
        assert!(blocks(5, (0..64).filter(|it| *it != 20)).contains(&Heard::Broken));
        assert!(blocks(5, (0..64).flat_map(|it| if it == 20 { vec![20, 20] } else { vec![it] })).contains(&Heard::Broken));
        let mut ear = Ear::default();
        let mixed = (0..64).map(|it| ear.hear(Symbol::of_ulaw(&frame(if it == 20 { 2730 } else { 5 }, it))));
        assert!(mixed.collect::<Vec<_>>().contains(&Heard::Broken));
    }

    #[test]
    fn it_survives_the_ways_that_audio_takes() {
        for rate in [Rate::Hz16000, Rate::Hz24000] {
            let pcm = Format::Pcm16(rate);
            let (mut up, mut down) =
                (Transcoder::new(Format::Ulaw8k, pcm).unwrap(), Transcoder::new(pcm, Format::Ulaw8k).unwrap());
            let (mut far, mut near, mut found) = (Ear::default(), Ear::default(), (0, 0));
            for number in 0..320 {
                let (mut there, mut back) = (Vec::new(), Vec::new());
                up.push(&frame(901, number), &mut there);
                down.push(&there, &mut back);
                found.0 += u32::from(matches!(far.hear(Symbol::of_pcm(&there)), Heard::Block(it) if it.call == 901));
                found.1 += u32::from(matches!(near.hear(Symbol::of_ulaw(&back)), Heard::Block(it) if it.call == 901));
            }
            assert_eq!(found, (20, 20), "{rate:?}");
        }
    }
}
