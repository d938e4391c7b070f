//! Telephone keys as tones in the audio itself: made, and recognised.
//!
//! Twilio reports keys as messages of their own; tones are for lines and recordings where nobody does, and for dialling
//! through another party's menu. Source: ITU-T Q.23 (frequencies) and Q.24 (what a receiver must take and refuse).

use std::f32::consts::TAU;

use super::HZ;

/// Low frequency of each row and high frequency of each column, Hz.
const ROWS_HZ: [f32; 4] = [697.0, 770.0, 852.0, 941.0];
const COLUMNS_HZ: [f32; 4] = [1209.0, 1336.0, 1477.0, 1633.0];
const KEYS: [[char; 4]; 4] = [['1', '2', '3', 'A'], ['4', '5', '6', 'B'], ['7', '8', '9', 'C'], ['*', '0', '#', 'D']];

/// A tone lasts this long, and so does the pause behind it: 100 ms.
const TONE: usize = HZ / 10;
/// `w` waits this long, as in Twilio's `digits`: 500 ms.
const WAIT: usize = HZ / 2;
/// Tones swell and fade over 5 ms: no click.
const RAMP: usize = HZ / 200;
/// Amplitudes, −10 and −8 dBFS: lines weaken the high tone more.
const ROW_AMPLITUDE: f32 = 32_767.0 * 0.316;
const COLUMN_AMPLITUDE: f32 = 32_767.0 * 0.398;

/// Something that is no key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no telephone key: expected 0-9, A-D, * and #, or w to wait half a second")]
pub struct NotAKey(pub char);

fn position(key: char) -> Option<(usize, usize)> {
    let key = key.to_ascii_uppercase();
    (0..16).map(|it| (it / 4, it % 4)).find(|(row, column)| KEYS[*row][*column] == key)
}

/// The keys as sound: 8 kHz mono, 100 ms a tone and 100 ms behind it, about −6 dBFS.
///
/// # Errors
/// [`NotAKey`] for the first character that is none.
pub fn tones(keys: &str) -> Result<Vec<i16>, NotAKey> {
    let mut out = Vec::new();
    for key in keys.chars() {
        if key.eq_ignore_ascii_case(&'w') {
            out.resize(out.len() + WAIT, 0);
            continue;
        }
        let (row, column) = position(key).ok_or(NotAKey(key))?;
        out.extend((0..TONE).map(|n| {
            let time = n as f32 / HZ as f32;
            let ramp = (n.min(TONE - 1 - n) as f32 / RAMP as f32).min(1.0);
            let (low, high) = ((TAU * ROWS_HZ[row] * time).sin(), (TAU * COLUMNS_HZ[column] * time).sin());
            (ramp * (ROW_AMPLITUDE * low + COLUMN_AMPLITUDE * high)).round_ties_even() as i16
        }));
        out.resize(out.len() + TONE, 0);
    }
    Ok(out)
}

/// Samples judged at a time, 12.75 ms, and the distance between two judgements.
const WINDOW: usize = 102;
const HOP: usize = WINDOW / 2;
/// Windows alike that make a key: 40 ms hold at least four that are filled well enough, 23 ms never more than three (Q.24).
const ALIKE: u32 = 4;
/// Windows without the key that end it: dropouts up to 10 ms do not repeat it, and 40 ms always suffice.
const GONE: u32 = 3;
/// Weakest tone, mean square of one of the pair: −45 dBFS.
const WEAKEST: f32 = 32_768.0 * 32_768.0 * 3.2e-5;
/// The low tone may be 8 dB stronger than the high one, the high tone 4 dB stronger than the low one (Q.24).
const LOW_OVER_HIGH: f32 = 6.31;
const HIGH_OVER_LOW: f32 = 2.51;
/// The pair stands this far above the other frequencies of its group: 8 dB.
const ABOVE_OTHERS: f32 = 6.31;
/// Share of the block's energy that lies in the pair. 1.5 % off, as Q.24 demands, leaves 0.8; a window half full
/// has half, speech far less.
const SHARE: f32 = 0.70;

/// Recognises keys in 8 kHz audio.
#[derive(Clone, Debug, Default)]
pub struct Detector {
    window: Vec<f32>,
    /// What the last windows held, and how many of them.
    last: Option<char>,
    alike: u32,
    /// The key that is held down.
    held: Option<char>,
}

impl Detector {
    /// Looks at the next samples, any number; a key is appended to `keys` some 40 ms after it began, once however long it is
    /// held.
    pub fn push(&mut self, samples: &[i16], keys: &mut String) {
        for sample in samples {
            self.window.push(f32::from(*sample));
            if self.window.len() < WINDOW {
                continue;
            }
            let found = judge(&self.window);
            self.window.drain(..HOP);
            self.alike = if found == self.last { self.alike.saturating_add(1) } else { 1 };
            self.last = found;
            if found.is_some() && found != self.held && self.alike == ALIKE {
                self.held = found;
                keys.extend(found);
            } else if found.is_none() && self.alike >= GONE {
                self.held = None;
            }
        }
    }
}

fn judge(block: &[f32]) -> Option<char> {
    let energy: f32 = block.iter().map(|it| it * it).sum::<f32>() / block.len() as f32;
    if energy < 2.0 * WEAKEST {
        return None;
    }
    let strongest = |group: &[f32; 4]| {
        let powers = group.map(|hz| power(block, hz));
        let best = (0..4).max_by(|a, b| powers[*a].total_cmp(&powers[*b]))?;
        let clear = (0..4).all(|it| it == best || powers[it] * ABOVE_OTHERS < powers[best]);
        (clear && powers[best] > WEAKEST).then_some((best, powers[best]))
    };
    let ((row, low), (column, high)) = (strongest(&ROWS_HZ)?, strongest(&COLUMNS_HZ)?);
    let balanced = low < high * LOW_OVER_HIGH && high < low * HIGH_OVER_LOW;
    (balanced && low + high > SHARE * energy).then_some(KEYS[row][column])
}

/// Mean square of the part of the block at `hz` (Goertzel's algorithm).
fn power(block: &[f32], hz: f32) -> f32 {
    let factor = 2.0 * (TAU * hz / HZ as f32).cos();
    let (mut last, mut before) = (0.0, 0.0);
    for sample in block {
        (last, before) = (sample + factor * last - before, last);
    }
    let magnitude = last * last + before * before - factor * last * before;
    2.0 * magnitude / (block.len() * block.len()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::g711::ulaw;

    fn heard(samples: &[i16]) -> String {
        let (mut detector, mut keys) = (Detector::default(), String::new());
        samples.chunks(160).for_each(|it| detector.push(it, &mut keys));
        keys
    }

    /// A pair of tones, `ms` long, with silence around.
    fn pair(low_hz: f32, high_hz: f32, low_db: f32, high_db: f32, ms: usize, offset: usize) -> Vec<i16> {
        let amplitude = |db: f32| 32_767.0 * 10_f32.powf(db / 20.0);
        let mut samples = vec![0; 400 + offset];
        samples.extend((0..ms * 8).map(|n| {
            let time = n as f32 / HZ as f32;
            (amplitude(low_db) * (TAU * low_hz * time).sin() + amplitude(high_db) * (TAU * high_hz * time).sin()) as i16
        }));
        samples.resize(samples.len() + 800, 0);
        samples.iter().map(|it| ulaw::decode(ulaw::encode(*it))).collect()
    }

    #[test]
    fn every_key_is_made_and_heard_through_the_telephone() {
        let all = "0123456789*#ABCD";
        let line: Vec<i16> = tones(all).unwrap().iter().map(|it| ulaw::decode(ulaw::encode(*it))).collect();
        assert_eq!(heard(&line), all);
        assert_eq!(tones("1w").unwrap().len(), 2 * TONE + WAIT);
        assert_eq!(tones("12x"), Err(NotAKey('x')));
    }

    #[test]
    fn what_q24_demands_is_taken_and_refused() {
        for offset in 0..WINDOW {
            assert_eq!(heard(&pair(770.0, 1336.0, -15.0, -15.0, 40, offset)), "5", "40 ms, offset {offset}");
            assert_eq!(heard(&pair(770.0, 1336.0, -15.0, -15.0, 23, offset)), "", "23 ms, offset {offset}");
        }
        for change in [0.985, 1.015] {
            assert_eq!(heard(&pair(770.0 * change, 1336.0 * change, -15.0, -15.0, 60, 0)), "5", "{change}");
        }
        for change in [0.96, 1.04] {
            assert_eq!(heard(&pair(770.0 * change, 1336.0 * change, -15.0, -15.0, 60, 0)), "", "{change}");
        }
        assert_eq!(heard(&pair(770.0, 1336.0, -15.0, -22.0, 60, 0)), "5", "low 7 dB stronger");
        assert_eq!(heard(&pair(770.0, 1336.0, -18.0, -15.0, 60, 0)), "5", "high 3 dB stronger");
        assert_eq!(heard(&pair(770.0, 1336.0, -15.0, -26.0, 60, 0)), "", "low 11 dB stronger");
        assert_eq!(heard(&pair(770.0, 1336.0, -38.0, -38.0, 60, 0)), "5", "weak");
        assert_eq!(heard(&pair(770.0, 1336.0, -60.0, -60.0, 60, 0)), "", "too weak");
    }

    #[test]
    fn a_key_held_down_is_one_key_and_pressed_twice_is_two() {
        assert_eq!(heard(&pair(941.0, 1477.0, -12.0, -12.0, 2000, 0)), "#");
        assert_eq!(heard(&tones("11").unwrap()), "11");
    }

    #[test]
    fn speech_is_no_key() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/speech");
        let mut seconds = 0;
        for language in ["en", "ro"] {
            for entry in std::fs::read_dir(format!("{folder}/{language}")).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|it| it == "ulaw") {
                    let samples: Vec<i16> = std::fs::read(&path).unwrap().iter().map(|it| ulaw::decode(*it)).collect();
                    assert_eq!(heard(&samples), "", "{}", path.display());
                    seconds += samples.len() / HZ;
                }
            }
        }
        assert!(seconds > 30, "{seconds}");
    }
}
