use std::fmt;
use std::sync::Arc;

use super::{Samples, Stage};
use crate::detect::Level;
use crate::resample::UnsupportedRate;

/// Samples in which the end of a bed fades into its beginning: 250 ms.
const SEAM: usize = 2000;

/// Why a recording is no bed.
#[derive(Debug, thiserror::Error, PartialEq)]
#[allow(missing_docs)] // The messages say what they are.
pub enum BedError {
    #[error("it lasts {0} ms: expected a second or more")]
    TooShort(usize),
    #[error("it is silent")]
    Silent,
    #[error(transparent)]
    Rate(#[from] UnsupportedRate),
}

/// A loop of background sound, 8 kHz mono, at the level at which it is mixed. Shared by all calls.
pub struct Bed(Vec<i16>);

impl Bed {
    /// Makes a loop without a seam from mono samples, at `dbfs` (dB below full scale; −45 is an office next door).
    ///
    /// # Errors
    /// [`BedError`] for recordings that cannot be looped.
    pub fn new(samples: &[i16], rate: u32, dbfs: f32) -> Result<Self, BedError> {
        let samples = crate::resample::convert(samples, rate, 8000)?;
        if samples.len() < 8000 {
            return Err(BedError::TooShort(samples.len() / 8));
        }
        let level = Level::of(&samples).dbfs;
        if level <= -80.0 {
            return Err(BedError::Silent);
        }
        let gain = 10_f32.powf((dbfs - level) / 20.0);
        let length = samples.len() - SEAM;
        let looped = (0..length).map(|n| {
            // The last stretch is laid under the first, by equal power: what follows the end is what came before the start.
            let angle = (n as f32 / SEAM as f32).min(1.0) * std::f32::consts::FRAC_PI_2;
            let tail = samples.get(length + n).map_or(0.0, |it| f32::from(*it) * angle.cos());
            ((f32::from(samples[n]) * angle.sin() + tail) * gain).round_ties_even() as i16
        });
        Ok(Self(looped.collect()))
    }
}

impl fmt::Debug for Bed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bed({} ms)", self.0.len() / 8)
    }
}

/// Mixes a [`Bed`] under what is played: a line that is never dead.
#[derive(Clone, Debug)]
pub struct Ambience {
    bed: Arc<Bed>,
    position: usize,
}

impl Ambience {
    /// Begins at the start of the bed.
    pub fn new(bed: Arc<Bed>) -> Self {
        Self { bed, position: 0 }
    }
}

impl Stage for Ambience {
    fn name(&self) -> &'static str {
        "ambience"
    }

    fn delay_ms(&self) -> f32 {
        0.0
    }

    fn cost_us(&self) -> f32 {
        0.2
    }

    fn process(&mut self, samples: &mut Samples) {
        for sample in samples {
            *sample = sample.saturating_add(self.bed.0[self.position]);
            self.position = (self.position + 1) % self.bed.0.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room() -> Vec<i16> {
        let mut state = 7_u32;
        (0..40_000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 20) as i16 - 2048
            })
            .collect()
    }

    #[test]
    fn it_sounds_on_for_ever_at_its_level_without_a_seam() {
        let mut stage = Ambience::new(Arc::new(Bed::new(&room(), 16_000, -45.0).unwrap()));
        let levels: Vec<f32> = (0..1000)
            .map(|_| {
                let mut samples = [0; 160];
                stage.process(&mut samples);
                Level::of(&samples).dbfs
            })
            .collect();
        assert!(levels.iter().all(|it| (it + 45.0).abs() < 2.5), "{levels:?}");
    }

    #[test]
    fn speech_is_added_to_and_saturates() {
        let mut stage = Ambience::new(Arc::new(Bed::new(&room(), 8000, -20.0).unwrap()));
        let mut loud = [32_700; 160];
        stage.process(&mut loud);
        assert!(loud.iter().all(|it| *it > 15_000));
    }

    #[test]
    fn what_cannot_be_looped_is_refused() {
        assert_eq!(Bed::new(&[5; 100], 8000, -40.0).err(), Some(BedError::TooShort(12)));
        assert_eq!(Bed::new(&[0; 9000], 8000, -40.0).err(), Some(BedError::Silent));
    }
}
