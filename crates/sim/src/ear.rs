//! Listens: finds utterances in a stream of audio and tells which of the known ones they are.
//!
//! Every 20 ms become four numbers: level, and the first three lags of the autocorrelation (the colour of the sound).
//! An utterance is recognised when this trajectory follows that of a known one. Audio that was garbled, cut, repeated
//! or resampled badly is not.

use media::FRAME_BYTES;
use media::g711::ulaw;

use crate::speech::Utterance;

/// Level of speech, dB below full scale.
const AUDIBLE_DBFS: f32 = -45.0;
/// Silence that ends an utterance, in frames: longer than any pause within one.
const PAUSE_FRAMES: usize = 35;
/// Frames needed for a verdict.
const ENOUGH_FRAMES: usize = 20;
/// Mean distance up to which two sounds are the same; different sentences are beyond 0.5.
const SAME: f32 = 0.22;
/// Frames by which the beginnings may differ.
const SHIFT_FRAMES: isize = 4;

type Feature = [f32; 4];

/// What was heard so far in the current or last utterance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Its name, if it is a known one so far.
    pub name: Option<&'static str>,
    /// Milliseconds from its beginning.
    pub ms: usize,
    /// It was heard to its end.
    pub complete: bool,
}

/// One listener.
pub struct Ear {
    known: Vec<(&'static str, Vec<Feature>)>,
    heard: Vec<Feature>,
    silence: usize,
    partial: Vec<u8>,
    /// The utterance that ended with the last frame.
    ended: Option<Heard>,
}

impl Ear {
    /// A listener that knows these utterances.
    pub fn new(known: &'static [Utterance]) -> Self {
        let known = known.iter().map(|it| (it.name, trimmed(it.ulaw))).collect();
        Self { known, heard: Vec::new(), silence: 0, partial: Vec::new(), ended: None }
    }

    /// Takes μ-law of any length; returns an utterance that has just ended.
    pub fn listen(&mut self, ulaw: &[u8]) -> Option<Heard> {
        self.ended = None;
        self.partial.extend_from_slice(ulaw);
        let whole = self.partial.len() / FRAME_BYTES * FRAME_BYTES;
        let frames: Vec<Feature> = self.partial[..whole].chunks(FRAME_BYTES).map(feature).collect();
        self.partial.drain(..whole);
        for frame in frames {
            let audible = frame[0] > AUDIBLE_DBFS;
            if self.heard.is_empty() && !audible {
                continue;
            }
            self.silence = if audible { 0 } else { self.silence + 1 };
            self.heard.push(frame);
            if self.silence == PAUSE_FRAMES {
                self.end();
            }
        }
        self.ended
    }

    /// Ends the utterance in progress, as when the other side was cut off; returns what it was.
    pub fn end(&mut self) -> Option<Heard> {
        let speech = self.heard.len().saturating_sub(self.silence);
        if speech > 0 {
            self.ended = Some(self.judge(speech));
        }
        self.heard.clear();
        self.silence = 0;
        self.ended
    }

    /// What the utterance in progress is, as far as one can tell.
    pub fn hearing(&self) -> Option<Heard> {
        let speech = self.heard.len().saturating_sub(self.silence);
        (speech > 0).then(|| self.judge(speech))
    }

    fn judge(&self, speech: usize) -> Heard {
        let heard = &self.heard[..speech];
        let ms = speech * media::FRAME_MS;
        if speech < ENOUGH_FRAMES {
            return Heard { name: None, ms, complete: false };
        }
        let best =
            self.known.iter().map(|(name, known)| (distance(heard, known), name, known.len())).min_by(|a, b| a.0.total_cmp(&b.0));
        match best {
            Some((distance, name, length)) if distance < SAME => {
                Heard { name: Some(name), ms, complete: speech.abs_diff(length) <= 4 + length / 25 }
            }
            _ => Heard { name: None, ms, complete: false },
        }
    }
}

/// Level and colour of 20 ms.
fn feature(ulaw: &[u8]) -> Feature {
    let samples: Vec<f32> = ulaw.iter().map(|it| f32::from(ulaw::decode(*it)) / 32_768.0).collect();
    let lag = |lag: usize| samples.iter().zip(&samples[lag..]).map(|(a, b)| a * b).sum::<f32>();
    let energy = lag(0);
    let level = 10.0 * (energy / samples.len() as f32).max(1e-6).log10();
    if level <= AUDIBLE_DBFS {
        return [AUDIBLE_DBFS, 0.0, 0.0, 0.0];
    }
    [level, lag(1) / energy, lag(2) / energy, lag(3) / energy]
}

/// Features from the first to the last audible frame.
fn trimmed(ulaw: &[u8]) -> Vec<Feature> {
    let frames: Vec<Feature> = ulaw.chunks_exact(FRAME_BYTES).map(feature).collect();
    let audible = |it: &Feature| it[0] > AUDIBLE_DBFS;
    let first = frames.iter().position(audible).unwrap_or(0);
    let last = frames.iter().rposition(audible).map_or(0, |it| it + 1);
    frames[first..last].to_vec()
}

/// Mean difference over the common length, for the best alignment of the beginnings.
fn distance(heard: &[Feature], known: &[Feature]) -> f32 {
    // More was heard than the utterance has: it is another one, or two run together.
    if heard.len() > known.len() + 2 * SHIFT_FRAMES as usize {
        return f32::INFINITY;
    }
    let at = |shift: isize| {
        let pairs = heard
            .iter()
            .enumerate()
            .filter_map(|(index, frame)| Some((frame, known.get(usize::try_from(index as isize + shift).ok()?)?)));
        let (sum, count) = pairs.fold((0.0, 0), |(sum, count), (a, b)| {
            let level = ((a[0] - b[0]).abs() / 20.0).min(1.0);
            let colour: f32 = (1..4).map(|it| (a[it] - b[it]).abs()).sum::<f32>() / 3.0;
            (sum + level + colour, count + 1)
        });
        if count * 10 < heard.len() * 8 { f32::INFINITY } else { sum / count as f32 }
    };
    (-SHIFT_FRAMES..=SHIFT_FRAMES).map(at).fold(f32::INFINITY, f32::min)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Speech;
    use media::{Format, Rate, SILENCE, Transcoder};

    fn everything(language: &str) -> impl Iterator<Item = &'static Utterance> {
        let speech = Speech::of(language).unwrap();
        speech.caller.iter().chain(speech.assistant)
    }

    fn hear(ear: &mut Ear, audio: &[u8]) -> Option<Heard> {
        let mut last = None;
        for piece in audio.chunks(160).chain(std::iter::repeat_n([SILENCE; 160].as_slice(), 50)) {
            last = ear.listen(piece).or(last);
        }
        last
    }

    #[test]
    fn every_utterance_is_told_from_all_others() {
        for language in ["en", "ro"] {
            let speech = Speech::of(language).unwrap();
            for said in everything(language) {
                let ears = [Ear::new(speech.caller), Ear::new(speech.assistant)];
                let recognised: Vec<&str> = ears.into_iter().filter_map(|mut ear| hear(&mut ear, said.ulaw)?.name).collect();
                assert_eq!(recognised, [said.name], "{language} {}", said.name);
            }
        }
    }

    #[test]
    fn conversion_to_a_provider_and_back_is_understood() {
        for rate in [Rate::Hz16000, Rate::Hz24000] {
            for said in Speech::of("en").unwrap().caller {
                let (mut pcm, mut back) = (Vec::new(), Vec::new());
                Transcoder::new(Format::Ulaw8k, Format::Pcm16(rate)).unwrap().push(said.ulaw, &mut pcm);
                Transcoder::new(Format::Pcm16(rate), Format::Ulaw8k).unwrap().push(&pcm, &mut back);
                let heard = hear(&mut Ear::new(Speech::of("en").unwrap().caller), &back).unwrap();
                assert_eq!((heard.name, heard.complete), (Some(said.name), true));
            }
        }
    }

    #[test]
    fn damage_is_not_understood() {
        let known = Speech::of("en").unwrap().assistant;
        let whole = known[1].ulaw;
        let judged = |audio: &[u8]| hear(&mut Ear::new(known), audio).unwrap();
        let half = judged(&whole[..whole.len() / 2]);
        assert_eq!((half.name, half.complete), (Some("hours"), false));
        // Taken for 16-bit PCM, slowed down, every other frame lost, reversed.
        let as_pcm: Vec<u8> = whole.chunks_exact(2).map(|it| ulaw::encode(i16::from_le_bytes([it[0], it[1]]))).collect();
        let slow: Vec<u8> = whole.iter().flat_map(|it| [*it; 2]).collect();
        let gaps: Vec<u8> = whole.chunks(320).flat_map(|it| it[..160.min(it.len())].to_vec()).collect();
        let reversed: Vec<u8> = whole.iter().rev().copied().collect();
        for (name, damaged) in [("pcm", as_pcm), ("slow", slow), ("gaps", gaps), ("reversed", reversed)] {
            let heard = judged(&damaged);
            assert!(heard.name.is_none() || !heard.complete, "{name}: {heard:?}");
        }
    }
}
