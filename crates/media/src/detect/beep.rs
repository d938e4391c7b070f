//! The beep of an answering machine: when it ends, the message may begin.

use super::HZ;
use super::level::dbfs;

/// Samples judged at a time: 10 ms.
const STEP: usize = HZ / 100;
const STEP_MS: u32 = 10;
/// Frequencies of beeps, Hz. Below are voices and hum, above nobody's machine.
const BAND_HZ: std::ops::RangeInclusive<f32> = 350.0..=2600.0;
/// Call-progress tones of most of the world (ringback, busy): pure, and no beep.
const PROGRESS_HZ: std::ops::RangeInclusive<f32> = 410.0..=465.0;
/// The same tone: within 2 %.
const STEADY: f32 = 0.02;
/// Shortest and longest beep.
const SHORTEST_MS: u32 = 120;
const LONGEST_MS: u32 = 4000;
/// A step is a pure tone when this share of its energy is not explained by one sinusoid.
const IMPURITY: f32 = 0.02;
/// Weakest beep, dB below full scale.
const WEAKEST_DBFS: f32 = -40.0;
/// Silence that proves the end, and that tells a beep from the first tone of a row of tones ("the number you have dialled").
const QUIET_MS: u32 = 60;

/// A beep that has ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Beep {
    /// Its frequency.
    pub hz: f32,
    /// How long it lasted, to 10 ms.
    pub ms: u32,
}

/// Waits for a single steady tone of 120 ms to 4 s with quiet behind it. Speech, music, keys and ringing are none.
#[derive(Clone, Debug, Default)]
pub struct BeepDetector {
    step: Vec<f32>,
    tone: Option<Tone>,
    /// Tones that came without quiet between them: a melody or an information tone.
    row: u32,
    quiet_ms: u32,
}

#[derive(Clone, Copy, Debug)]
struct Tone {
    hz: f32,
    dbfs: f32,
    ms: u32,
    /// How long it has been over.
    over_ms: u32,
}

impl BeepDetector {
    /// Looks at the next samples, any number; returns a beep 60 ms after its end.
    pub fn push(&mut self, samples: &[i16]) -> Option<Beep> {
        let mut beep = None;
        for sample in samples {
            self.step.push(f32::from(*sample));
            if self.step.len() == STEP {
                beep = self.judge().or(beep);
                self.step.clear();
            }
        }
        beep
    }

    fn judge(&mut self) -> Option<Beep> {
        let level = dbfs(self.step.iter().map(|it| it * it).sum::<f32>() / STEP as f32);
        let found = (level > WEAKEST_DBFS).then(|| pure_tone(&self.step)).flatten().filter(|it| BAND_HZ.contains(it));
        let quiet = |tone: &Tone| level < tone.dbfs - 15.0;
        match (&mut self.tone, found) {
            (Some(tone), Some(hz)) if tone.over_ms == 0 && (hz - tone.hz).abs() < STEADY * tone.hz => {
                tone.ms += STEP_MS;
                tone.dbfs = tone.dbfs.max(level);
            }
            (Some(tone), _) if quiet(tone) => {
                tone.over_ms += STEP_MS;
                if tone.over_ms >= QUIET_MS {
                    let tone = *tone;
                    self.tone = None;
                    let alone = std::mem::take(&mut self.row) <= 1;
                    let long_enough = (SHORTEST_MS..=LONGEST_MS).contains(&tone.ms);
                    return (alone && long_enough && !PROGRESS_HZ.contains(&tone.hz))
                        .then_some(Beep { hz: tone.hz, ms: tone.ms });
                }
            }
            // The step in which a tone ends holds half of it.
            (Some(tone), None) if tone.over_ms == 0 && tone.ms >= SHORTEST_MS => tone.over_ms = 1,
            (_, Some(hz)) => {
                self.row += u32::from(self.tone.is_none_or(|it| it.ms >= SHORTEST_MS));
                self.tone = Some(Tone { hz, dbfs: level, ms: STEP_MS, over_ms: 0 });
                self.quiet_ms = 0;
            }
            (_, None) => {
                self.tone = None;
                self.quiet_ms = if level < WEAKEST_DBFS { self.quiet_ms + STEP_MS } else { 0 };
                if self.quiet_ms >= QUIET_MS {
                    self.row = 0;
                }
            }
        }
        None
    }
}

/// Frequency of the sinusoid that explains nearly all of `step`.
///
/// A sinusoid obeys `x[n−1] + x[n+1] = 2·cos(ω)·x[n]`; the best factor in the least-squares sense gives ω, and what it
/// leaves over tells whether there was only one.
fn pure_tone(step: &[f32]) -> Option<f32> {
    let (mut product, mut energy, mut sum_energy) = (0.0, 0.0, 0.0);
    for it in step.windows(3) {
        let sum = it[0] + it[2];
        product += it[1] * sum;
        energy += it[1] * it[1];
        sum_energy += sum * sum;
    }
    let factor = product / energy.max(1.0);
    let left = sum_energy - factor * product;
    let pure = left < IMPURITY * energy * factor.abs().max(0.5);
    (pure && factor.abs() < 2.0).then(|| (factor / 2.0).acos() / std::f32::consts::TAU * HZ as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::dtmf;
    use crate::g711::ulaw;

    fn tone(hz: f32, ms: usize, dbfs: f32) -> Vec<i16> {
        let amplitude = 32_768.0 * 2_f32.sqrt() * 10_f32.powf(dbfs / 20.0);
        (0..ms * 8).map(|n| (amplitude * (std::f32::consts::TAU * hz * n as f32 / HZ as f32).sin()) as i16).collect()
    }

    fn speech(name: &str) -> Vec<i16> {
        let path = format!("{}/../../fixtures/speech/{name}.ulaw", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(path).unwrap().iter().map(|it| ulaw::decode(*it)).collect()
    }

    /// Through the telephone with a noise floor near −60 dBFS, in frames; beeps with the time they were reported.
    fn beeps(parts: &[Vec<i16>]) -> Vec<(Beep, usize)> {
        let mut noise = 1_u32;
        let line: Vec<i16> = parts
            .concat()
            .iter()
            .map(|it| {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ulaw::decode(ulaw::encode(it.saturating_add((noise >> 25) as i16 - 64)))
            })
            .collect();
        let mut detector = BeepDetector::default();
        line.chunks(160).enumerate().filter_map(|(index, it)| Some((detector.push(it)?, (index + 1) * 20))).collect()
    }

    #[test]
    fn a_machine_is_heard_whatever_its_beep() {
        let greeting = speech("en/assistant-greeting");
        let greeting_ms = greeting.len() / 8;
        for hz in [500.0, 850.0, 1000.0, 1400.0, 2100.0] {
            for ms in [150, 400, 1500] {
                for dbfs in [-12.0, -30.0] {
                    let heard = beeps(&[greeting.clone(), vec![0; 4000], tone(hz, ms, dbfs), vec![0; 4000]]);
                    assert_eq!(heard.len(), 1, "{hz} Hz, {ms} ms, {dbfs} dBFS: {heard:?}");
                    let (beep, at_ms) = heard[0];
                    assert!((beep.hz - hz).abs() < 0.01 * hz && beep.ms.abs_diff(ms as u32) <= 20, "{hz} Hz, {ms} ms: {beep:?}");
                    assert!((at_ms - greeting_ms - 500 - ms) <= 120, "{at_ms} ms");
                }
            }
        }
    }

    #[test]
    fn what_is_no_beep_is_none() {
        let silence = || vec![0; 8000];
        let dual: Vec<i16> = tone(440.0, 2000, -20.0).iter().zip(tone(480.0, 2000, -20.0)).map(|(a, b)| a + b).collect();
        for (name, parts) in [
            ("European ringback", vec![tone(425.0, 1000, -20.0), silence()]),
            ("American ringback", vec![dual, silence()]),
            ("keys", vec![dtmf::tones("1234567890").unwrap(), silence()]),
            ("a click of a tone", vec![tone(1000.0, 60, -20.0), silence()]),
            ("a modem", vec![tone(2100.0, 5000, -20.0), silence()]),
            ("information tones", vec![tone(950.0, 330, -20.0), tone(1400.0, 330, -20.0), tone(1800.0, 330, -20.0), silence()]),
        ] {
            assert_eq!(beeps(&parts), [], "{name}");
        }
        for name in ["en/assistant-greeting", "en/assistant-hours", "en/caller-book", "ro/assistant-hours", "ro/caller-book"] {
            assert_eq!(beeps(&[speech(name), silence()]), [], "{name}");
        }
    }
}
