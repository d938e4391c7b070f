use super::{Samples, Stage};
use crate::detect::{Level, SpeechDetector};

/// Where speech is brought, dB below full scale.
const TARGET_DBFS: f32 = -23.0;
/// Most that is added and taken away.
const MOST_DB: f32 = 12.0;
const LEAST_DB: f32 = -6.0;
/// Fastest change: 3 dB a second.
const STEP_DB: f32 = 0.06;
/// Weight of a new frame in the mean level of speech: about a second of speech decides.
const WEIGHT: f32 = 0.02;
/// No sample is raised above this.
const CEILING: f32 = 32_000.0;

/// Brings quiet callers up and loud ones down, slowly, and only while they speak: noise in pauses is never lifted.
#[derive(Debug, Default)]
pub struct GainControl {
    detector: SpeechDetector,
    /// Mean power of speech so far, of full scale.
    speech: Option<f32>,
    gain_db: f32,
    /// Factor at the end of the last frame.
    factor: Option<f32>,
}

impl Stage for GainControl {
    fn name(&self) -> &'static str {
        "gain control"
    }

    fn delay_ms(&self) -> f32 {
        0.0
    }

    fn cost_us(&self) -> f32 {
        1.0
    }

    fn process(&mut self, samples: &mut Samples) {
        let level = Level::of(samples);
        if self.detector.push_samples(samples.iter().copied()).speech {
            let power = 10_f32.powf(level.dbfs / 10.0);
            let mean = self.speech.map_or(power, |it| it + WEIGHT * (power - it));
            self.speech = Some(mean);
            let wanted = (TARGET_DBFS - 10.0 * mean.log10()).clamp(LEAST_DB, MOST_DB);
            self.gain_db += (wanted - self.gain_db).clamp(-STEP_DB, STEP_DB);
        }
        let loudest = f32::from(level.peak).max(1.0);
        let factor = 10_f32.powf(self.gain_db / 20.0).min((CEILING / loudest).max(1.0));
        let before = self.factor.replace(factor).unwrap_or(factor).min((CEILING / loudest).max(1.0));
        if factor == 1.0 && before == 1.0 {
            return;
        }
        let step = (factor - before) / samples.len() as f32;
        for (n, sample) in samples.iter_mut().enumerate() {
            *sample = (f32::from(*sample) * (before + step * n as f32)).round_ties_even() as i16;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::g711::ulaw;

    /// Twenty seconds of speech with pauses, scaled.
    fn speech(gain: f32) -> Vec<Samples> {
        let mut codes = include_bytes!("../../../../fixtures/speech/en/caller-book.ulaw").to_vec();
        codes.resize(codes.len() + 4000, crate::SILENCE);
        let signal = codes.iter().cycle().take(160_000).map(|it| (f32::from(ulaw::decode(*it)) * gain) as i16);
        signal.collect::<Vec<i16>>().chunks_exact(160).map(|it| it.try_into().unwrap()).collect()
    }

    fn controlled(gain: f32) -> Vec<Samples> {
        let mut stage = GainControl::default();
        let mut frames = speech(gain);
        frames.iter_mut().for_each(|it| stage.process(it));
        frames
    }

    fn level(frames: &[Samples]) -> f32 {
        Level::of(&frames.concat()).dbfs
    }

    #[test]
    fn quiet_and_loud_callers_come_closer() {
        for (gain, change) in [(0.1, 8.0..12.1), (0.25, 3.0..12.1), (2.0, -6.1..-2.0)] {
            let (before, after) = (level(&speech(gain)[800..]), level(&controlled(gain)[800..]));
            assert!(change.contains(&(after - before)), "× {gain}: {before} → {after}");
        }
    }

    #[test]
    fn noise_alone_is_left_alone_and_nothing_clips() {
        let mut stage = GainControl::default();
        let hiss: Samples = std::array::from_fn(|n| if n % 3 == 0 { 40 } else { -20 });
        for _ in 0..1000 {
            let mut samples = hiss;
            stage.process(&mut samples);
            assert_eq!(samples, hiss);
        }
        assert!(
            controlled(4.0)
                .concat()
                .iter()
                .zip(speech(4.0).concat())
                .all(|(after, before)| { after.unsigned_abs() <= before.unsigned_abs().max(CEILING as u16) })
        );
    }
}
