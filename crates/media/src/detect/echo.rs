//! Whether what the caller's line brings is what was just played to it.

use std::collections::VecDeque;

use super::HZ;

/// Compared at 2 kHz: speech has its strength below 1 kHz, and the search is 16 times cheaper.
const DECIMATION: usize = 4;
const LOW_HZ: usize = HZ / DECIMATION;
/// Audio compared: 256 ms.
const WINDOW: usize = 512;
/// Longest way of an echo: 800 ms, telephone network and Twilio's buffer included.
const LAG_MAX: usize = LOW_HZ * 8 / 10;
/// Mean square below which there is nothing to compare: −60 dBFS.
const SILENT: f32 = 32_768.0 * 32_768.0 * 1e-6;

/// The best match found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Echo {
    /// 1 when the line brings nothing but what was played, near 0 when it brings something else. Echo is above 0.6,
    /// another voice below 0.5.
    pub similarity: f32,
    /// How long the way there and back took.
    pub lag_ms: u32,
}

/// Remembers the last second in both directions and compares them when asked.
#[derive(Clone, Debug, Default)]
pub struct EchoDetector {
    played: Track,
    heard: Track,
}

/// The newest samples of one direction at the low rate.
#[derive(Clone, Debug, Default)]
struct Track {
    samples: VecDeque<f32>,
    sum: f32,
    count: usize,
}

impl Track {
    fn push(&mut self, input: &[i16], keep: usize) {
        for sample in input {
            self.sum += f32::from(*sample);
            self.count += 1;
            if self.count == DECIMATION {
                if self.samples.len() == keep {
                    self.samples.pop_front();
                }
                self.samples.push_back(self.sum / DECIMATION as f32);
                self.sum = 0.0;
                self.count = 0;
            }
        }
    }
}

/// Scalar product, in lanes that the CPU can add at once.
fn product(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; 16];
    for (a, b) in a.chunks_exact(16).zip(b.chunks_exact(16)) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += a * b;
        }
    }
    lanes.iter().sum()
}

impl EchoDetector {
    /// What was played to the caller, 8 kHz, in step with [`heard`](Self::heard): silence must be told as silence.
    pub fn played(&mut self, samples: &[i16]) {
        self.played.push(samples, WINDOW + LAG_MAX);
    }

    /// What came from the caller, 8 kHz.
    pub fn heard(&mut self, samples: &[i16]) {
        self.heard.push(samples, WINDOW);
    }

    /// Compares the last 256 ms heard with everything that was played in the last second. About 0.1 ms of work: to be asked
    /// when speech seems to begin, not on every frame. `None` while either side is silent or too short.
    pub fn compare(&mut self) -> Option<Echo> {
        let (heard, played) = (&*self.heard.samples.make_contiguous(), &*self.played.samples.make_contiguous());
        let loudness = product(heard, heard);
        if heard.len() < WINDOW || played.len() < WINDOW || loudness < SILENT * WINDOW as f32 {
            return None;
        }
        let best = (0..=played.len() - WINDOW)
            .filter_map(|lag| {
                let window = &played[played.len() - WINDOW - lag..][..WINDOW];
                let strength = product(window, window);
                let alike = product(window, heard).abs();
                (strength > SILENT * WINDOW as f32).then(|| (alike / (strength * loudness).sqrt(), lag))
            })
            .max_by(|a, b| a.0.total_cmp(&b.0))?;
        Some(Echo { similarity: best.0, lag_ms: (best.1 * 1000 / LOW_HZ) as u32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::g711::ulaw;

    fn speech(name: &str) -> Vec<i16> {
        let path = format!("{}/../../fixtures/speech/{name}.ulaw", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(path).unwrap().iter().map(|it| ulaw::decode(*it)).collect()
    }

    /// What is said of every half second of `heard` while `played` is played.
    fn compared(played: &[i16], heard: &[i16]) -> Vec<Echo> {
        let mut detector = EchoDetector::default();
        let mut found = Vec::new();
        for (index, (played, heard)) in played.chunks(160).zip(heard.chunks(160)).enumerate() {
            detector.played(played);
            detector.heard(heard);
            if index % 25 == 24 {
                found.extend(detector.compare());
            }
        }
        found
    }

    #[test]
    fn an_echo_is_known_by_its_sound_and_its_way() {
        let played = speech("en/assistant-hours");
        for (lag_ms, db) in [(40, -10.0), (300, -25.0), (600, -30.0)] {
            let gain = 10_f32.powf(db / 20.0);
            // The line weakens the highs and adds its own coding.
            let mut before = 0.0;
            let echo = played.iter().map(|it| {
                before = 0.5 * before + 0.5 * f32::from(*it);
                ulaw::decode(ulaw::encode((before * gain) as i16))
            });
            let heard: Vec<i16> = vec![0; lag_ms * 8].into_iter().chain(echo).collect();
            let found = compared(&played, &heard);
            assert!(found.len() > 5, "{}", found.len());
            for it in &found[2..] {
                assert!(it.similarity > 0.6 && it.lag_ms.abs_diff(lag_ms as u32) <= 2, "{lag_ms} ms, {db} dB: {it:?}");
            }
        }
    }

    #[test]
    fn another_voice_is_no_echo() {
        for (played, heard) in [
            ("en/assistant-hours", "en/caller-book"),
            ("ro/assistant-hours", "ro/caller-book"),
            ("en/assistant-greeting", "en/assistant-hours"),
        ] {
            for it in compared(&speech(played), &speech(heard)) {
                assert!(it.similarity < 0.5, "{played} and {heard}: {it:?}");
            }
        }
    }

    #[test]
    fn silence_is_nothing_to_compare() {
        assert_eq!(compared(&speech("en/assistant-hours"), &[0; 16_000]), []);
        assert_eq!(compared(&[0; 16_000], &speech("en/caller-book")), []);
        assert_eq!(EchoDetector::default().compare(), None);
    }
}
