//! Tells from the bytes themselves whether audio is μ-law or 16-bit PCM.
//!
//! Providers have announced one and sent the other; the caller then hears static. Read in the right encoding, speech
//! is smooth from sample to sample; read in the wrong one, it is noise.

use crate::g711::ulaw;

/// Bytes judged before a verdict: 100 ms of μ-law, 17 ms of PCM at 24 kHz.
const ENOUGH_BYTES: usize = 800;
/// Audible windows judged per session.
const WINDOWS: u8 = 8;
/// Mean magnitude below which audio is too quiet to judge.
const LOUD_ENOUGH: f32 = 200.0;
/// Mean magnitude that no speech reaches over 100 ms.
const NO_SPEECH: f32 = 16_000.0;
/// PCM read as μ-law is 3 to 39 times rougher than read as PCM; real μ-law is at most 1.3 times rougher (synthesised speech).
const CLEARLY_ROUGHER: f32 = 2.0;
/// μ-law read as PCM is never calm: its quiet codes are PCM's loudest samples. Speech in PCM is rough only where it is quiet.
const LOUD_AND_ROUGH: (f32, f32) = (9000.0, 0.25);

/// How samples are written as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// One byte a sample.
    Ulaw,
    /// Two bytes a sample, little endian.
    Pcm16,
}

/// Watches the first audible audio of a session and says when it contradicts the announced encoding.
#[derive(Debug)]
pub struct Sniffer {
    announced: Encoding,
    seen: Vec<u8>,
    judged: bool,
    /// Audible windows still to be judged: one may be a quiet consonant that looks like either.
    windows_left: u8,
}

impl Sniffer {
    /// Checks audio against `announced`.
    pub fn new(announced: Encoding) -> Self {
        Self { announced, seen: Vec::with_capacity(ENOUGH_BYTES), judged: false, windows_left: WINDOWS }
    }

    /// Whether enough was seen to tell silence from static: until then audio is better held back.
    pub fn has_judged(&self) -> bool {
        self.judged
    }

    /// Looks at the next bytes (any number); answers with the real encoding once, when it is clearly not the announced one.
    pub fn push(&mut self, bytes: &[u8]) -> Option<Encoding> {
        // Windows follow each other without a gap: a piece may end inside a sample, and half a sample further on PCM is
        // noise too.
        let mut rest = bytes;
        while self.windows_left > 0 && !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(ENOUGH_BYTES - self.seen.len()));
            self.seen.extend_from_slice(piece);
            rest = after;
            if self.seen.len() == ENOUGH_BYTES {
                let verdict = self.judge();
                self.judged = true;
                self.seen.clear();
                if verdict.is_some() {
                    self.windows_left = 0;
                    return verdict;
                }
            }
        }
        None
    }

    fn judge(&mut self) -> Option<Encoding> {
        let as_ulaw: Vec<f32> = self.seen.iter().map(|it| f32::from(ulaw::decode(*it))).collect();
        let as_pcm: Vec<f32> = self.seen.chunks_exact(2).map(|it| f32::from(i16::from_le_bytes([it[0], it[1]]))).collect();
        // Silence in PCM is full scale in μ-law, and no line is that: zeros give PCM away before the first word.
        if self.announced == Encoding::Ulaw && mean_magnitude(&as_pcm) < LOUD_ENOUGH && mean_magnitude(&as_ulaw) > NO_SPEECH {
            return Some(Encoding::Pcm16);
        }
        // Keep waiting through the silence before the first word.
        if mean_magnitude(&as_ulaw) < LOUD_ENOUGH || mean_magnitude(&as_pcm) < LOUD_ENOUGH {
            return None;
        }
        self.windows_left -= 1;
        match self.announced {
            Encoding::Ulaw => (roughness(&as_ulaw) > CLEARLY_ROUGHER * roughness(&as_pcm)).then_some(Encoding::Pcm16),
            Encoding::Pcm16 => {
                let (loud, rough) = LOUD_AND_ROUGH;
                (mean_magnitude(&as_pcm) > loud && roughness(&as_pcm) > rough).then_some(Encoding::Ulaw)
            }
        }
    }
}

fn mean_magnitude(samples: &[f32]) -> f32 {
    samples.iter().map(|it| it.abs()).sum::<f32>() / samples.len() as f32
}

/// Mean step between neighbours over mean magnitude: well below 1 for speech, about 1.3 for noise.
fn roughness(samples: &[f32]) -> f32 {
    let steps = samples.windows(2).map(|it| (it[1] - it[0]).abs()).sum::<f32>() / (samples.len() - 1) as f32;
    steps / mean_magnitude(samples).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voice(rate: f64) -> Vec<i16> {
        (0..4000)
            .map(|n| (f64::from(n) / rate, n))
            .map(|(t, _)| (4000.0 * (t * 900.0).sin() + 2000.0 * (t * 4700.0).sin()) as i16)
            .collect()
    }

    #[test]
    fn an_honest_provider_is_believed() {
        let ulaw: Vec<u8> = voice(8000.0).iter().map(|it| ulaw::encode(*it)).collect();
        let pcm: Vec<u8> = voice(24_000.0).iter().flat_map(|it| it.to_le_bytes()).collect();
        assert_eq!(Sniffer::new(Encoding::Ulaw).push(&ulaw), None);
        assert_eq!(Sniffer::new(Encoding::Pcm16).push(&pcm), None);
    }

    #[test]
    fn recorded_speech_in_odd_pieces_is_judged_rightly() {
        let ulaw = include_bytes!("../../../fixtures/speech/en/assistant-greeting.ulaw");
        let pcm = include_bytes!("../../../fixtures/speech/en/assistant-greeting.pcm24");
        let verdict = |announced, audio: &[u8], piece: usize| {
            let mut sniffer = Sniffer::new(announced);
            audio.chunks(piece).find_map(|it| sniffer.push(it))
        };
        for piece in [1, 37, 801, 2663, 4000] {
            assert_eq!(verdict(Encoding::Ulaw, ulaw, piece), None, "{piece}");
            assert_eq!(verdict(Encoding::Pcm16, pcm, piece), None, "{piece}");
            assert_eq!(verdict(Encoding::Ulaw, pcm, piece), Some(Encoding::Pcm16), "{piece}");
            assert_eq!(verdict(Encoding::Pcm16, ulaw, piece), Some(Encoding::Ulaw), "{piece}");
        }
    }

    #[test]
    fn a_wrong_announcement_is_found_even_after_silence_and_in_pieces() {
        let ulaw: Vec<u8> = voice(8000.0).iter().map(|it| ulaw::encode(*it)).collect();
        let pcm: Vec<u8> = [0; 1600].into_iter().chain(voice(24_000.0).iter().flat_map(|it| it.to_le_bytes())).collect();
        let verdict = |announced, audio: &[u8]| {
            let mut sniffer = Sniffer::new(announced);
            audio.chunks(100).find_map(|it| sniffer.push(it))
        };
        assert_eq!(verdict(Encoding::Ulaw, &pcm), Some(Encoding::Pcm16));
        assert_eq!(verdict(Encoding::Pcm16, &ulaw), Some(Encoding::Ulaw));
    }
}
