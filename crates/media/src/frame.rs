//! The unit of telephone audio and the formats it is converted to.

use std::fmt;

use crate::g711;

/// Bytes of μ-law per millisecond: 8 kHz, one byte a sample.
pub const BYTES_PER_MS: usize = 8;
/// Playing time of a full frame in milliseconds.
pub const FRAME_MS: usize = 20;
/// Bytes (and samples) of a full frame: 20 ms at 8 kHz.
pub const FRAME_BYTES: usize = FRAME_MS * BYTES_PER_MS;
/// Digital silence in μ-law: positive zero.
pub const SILENCE: u8 = g711::ulaw::SILENCE;

/// Up to 20 ms of G.711 μ-law, 8 kHz, mono: 0 to 160 bytes, held in place.
///
/// Full frames are 160 bytes; only the last frame of an utterance or of an oddly sized packet is shorter.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    len: u8,
    bytes: [u8; FRAME_BYTES],
}

impl Frame {
    /// 20 ms of silence.
    pub const SILENCE: Self = Self { len: FRAME_BYTES as u8, bytes: [SILENCE; FRAME_BYTES] };

    /// Takes over at most 160 bytes of μ-law; the rest of a longer slice is ignored.
    pub fn from_ulaw(ulaw: &[u8]) -> Self {
        let len = ulaw.len().min(FRAME_BYTES);
        Self::filled(len, |bytes| bytes.copy_from_slice(&ulaw[..len]))
    }

    /// Of so many bytes of μ-law, at most 160, which are silence until `fill` has written them where they will lie.
    pub fn filled(len: usize, fill: impl FnOnce(&mut [u8])) -> Self {
        let mut frame = Self { len: len.min(FRAME_BYTES) as u8, ..Self::SILENCE };
        fill(&mut frame.bytes[..usize::from(frame.len)]);
        frame
    }

    /// Cuts μ-law of any length into frames; only the last one can be short.
    pub fn cut(ulaw: &[u8]) -> impl Iterator<Item = Self> {
        ulaw.chunks(FRAME_BYTES).map(Self::from_ulaw)
    }

    /// The μ-law bytes, 0 to 160 of them.
    pub fn ulaw(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The same audio, lengthened to 20 ms by silence.
    pub fn padded(mut self) -> Self {
        self.len = FRAME_BYTES as u8;
        self
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({} ms)", usize::from(self.len) / BYTES_PER_MS)
    }
}

/// Sample rates of live audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// 8 000 Hz: the telephone.
    Hz8000,
    /// 16 000 Hz: ElevenLabs `pcm_16000`.
    Hz16000,
    /// 24 000 Hz: OpenAI `audio/pcm`, ElevenLabs `pcm_24000`.
    Hz24000,
}

impl Rate {
    /// Samples per second.
    pub fn hz(self) -> u32 {
        match self {
            Self::Hz8000 => 8_000,
            Self::Hz16000 => 16_000,
            Self::Hz24000 => 24_000,
        }
    }
}

/// How one direction of one leg carries its audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// G.711 μ-law at 8 kHz, one byte a sample: the telephone of Twilio.
    Ulaw8k,
    /// G.711 A-law at 8 kHz, one byte a sample: other telephone lines.
    Alaw8k,
    /// Signed 16-bit little-endian PCM, two bytes a sample.
    Pcm16(Rate),
}

impl Format {
    /// Samples per second.
    pub fn rate(self) -> Rate {
        match self {
            Self::Ulaw8k | Self::Alaw8k => Rate::Hz8000,
            Self::Pcm16(rate) => rate,
        }
    }

    /// Bytes that play for one millisecond.
    pub fn bytes_per_ms(self) -> usize {
        match self {
            Self::Ulaw8k | Self::Alaw8k => BYTES_PER_MS,
            Self::Pcm16(rate) => rate.hz() as usize / 500,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ulaw8k => f.write_str("μ-law 8k"),
            Self::Alaw8k => f.write_str("A-law 8k"),
            Self::Pcm16(rate) => write!(f, "PCM {}k", rate.hz() / 1000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cutting_keeps_every_byte_and_only_the_last_frame_is_short() {
        for len in [0, 1, 159, 160, 161, 320, 1234] {
            let audio: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let frames: Vec<Frame> = Frame::cut(&audio).collect();
            assert_eq!(frames.iter().flat_map(|it| it.ulaw().to_vec()).collect::<Vec<u8>>(), audio);
            assert!(frames.iter().rev().skip(1).all(|it| it.ulaw().len() == FRAME_BYTES));
        }
    }

    #[test]
    fn padding_is_silence() {
        assert_eq!(Frame::from_ulaw(&[1, 2]).padded().ulaw()[..4], [1, 2, SILENCE, SILENCE]);
        assert_eq!(Frame::from_ulaw(&[]).padded(), Frame::SILENCE);
    }
}
