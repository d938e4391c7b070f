//! How loud a whole recording is.

use ebur128::{EbuR128, Mode};

/// What a [`Meter`] says at the end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loudness {
    /// Integrated loudness, LUFS; `None` below 400 ms and for silence. Telephone speech at its usual level is near −23.
    pub integrated_lufs: Option<f64>,
    /// Highest sample of any channel, dB below full scale; `None` for silence.
    pub peak_dbfs: Option<f64>,
}

/// Measures by EBU R 128 / ITU-R BS.1770-4: gated, so that pauses do not count.
pub struct Meter {
    engine: EbuR128,
}

impl Meter {
    /// For interleaved samples; `None` for rates and channels that the standard does not cover.
    pub fn new(channels: u16, rate: u32) -> Option<Self> {
        EbuR128::new(u32::from(channels), rate, Mode::I | Mode::SAMPLE_PEAK | Mode::HISTOGRAM).ok().map(|engine| Self { engine })
    }

    /// Adds interleaved samples.
    pub fn push(&mut self, samples: &[i16]) {
        self.engine.add_frames_i16(samples).expect("every buffer of whole frames is taken");
    }

    /// The result so far.
    pub fn loudness(&self) -> Loudness {
        let integrated = self.engine.loudness_global().ok().filter(|it| it.is_finite());
        let peak = (0..self.engine.channels()).filter_map(|it| self.engine.sample_peak(it).ok()).fold(0.0, f64::max);
        Loudness { integrated_lufs: integrated, peak_dbfs: (peak > 0.0).then(|| 20.0 * peak.log10()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_scale_tone_has_the_loudness_of_the_standard() {
        // BS.1770-4, annex 1: 997 Hz at 0 dBFS in one channel is −3.01 LUFS.
        let mut meter = Meter::new(1, 48_000).unwrap();
        let tone: Vec<i16> =
            (0..96_000).map(|n| (32_767.0 * (std::f64::consts::TAU * 997.0 * f64::from(n) / 48_000.0).sin()) as i16).collect();
        tone.chunks(960).for_each(|it| meter.push(it));
        let loudness = meter.loudness();
        assert!((loudness.integrated_lufs.unwrap() + 3.01).abs() < 0.1, "{loudness:?}");
        assert!(loudness.peak_dbfs.unwrap().abs() < 0.01, "{loudness:?}");
    }

    #[test]
    fn silence_and_next_to_nothing_have_none() {
        let mut meter = Meter::new(2, 8000).unwrap();
        meter.push(&[0; 320]);
        assert_eq!(meter.loudness(), Loudness { integrated_lufs: None, peak_dbfs: None });
        assert!(Meter::new(0, 8000).is_none());
    }
}
