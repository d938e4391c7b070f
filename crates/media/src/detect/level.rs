//! How loud, how clipped, how noisy.

/// Level given for digital silence, dB below full scale: the smallest step of 16 bits.
pub const SILENT_DBFS: f32 = -96.0;

/// Magnitude at which μ-law ends: 0x00 and 0x80 mean this or more.
const LARGEST: u16 = 32_124;

/// What one stretch of samples measures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// Mean of the samples' squares, 0 to 2³⁰.
    pub mean_square: f32,
    /// Root mean square, dB below full scale (a full-scale sine is −3); [`SILENT_DBFS`] at least.
    pub dbfs: f32,
    /// Largest magnitude, 0 to 32 768.
    pub peak: u16,
    /// Samples at the end of the scale.
    pub clipped: u32,
}

impl Level {
    /// Measures `samples`; of none, silence.
    pub fn of(samples: &[i16]) -> Self {
        let mean_square = energy(samples) as f32 / samples.len().max(1) as f32;
        let peak = samples.iter().map(|it| it.unsigned_abs()).max().unwrap_or(0);
        let clipped = if peak < LARGEST { 0 } else { samples.iter().filter(|it| it.unsigned_abs() >= LARGEST).count() as u32 };
        Self { mean_square, dbfs: dbfs(mean_square), peak, clipped }
    }
}

/// Sum of the samples' squares. In whole numbers, whose order does not matter, and by halves of 32 bits: eight samples at a
/// time on any processor.
fn energy(samples: &[i16]) -> u64 {
    let halves = samples.chunks(1 << 15).map(|some| {
        let (mut low, mut high) = (0_u32, 0_u32);
        for it in some {
            let square = (i32::from(*it) * i32::from(*it)) as u32;
            low += square & 0xFFFF;
            high += square >> 16;
        }
        u64::from(low) + (u64::from(high) << 16)
    });
    halves.sum()
}

/// Mean square of 16-bit samples to dB below full scale.
pub(super) fn dbfs(mean_square: f32) -> f32 {
    (10.0 * (mean_square / (32_768.0 * 32_768.0)).log10()).max(SILENT_DBFS)
}

/// The state of a telephone line over a whole call.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LineQuality {
    /// Mean level of speech, dB below full scale; `None` before any was heard. Usual is −30 to −15.
    pub speech_dbfs: Option<f32>,
    /// Mean level between speech; `None` when there was no pause.
    pub noise_dbfs: Option<f32>,
    /// Samples at the end of the scale: more than a few mean distortion before it reached us.
    pub clipped: u64,
}

impl LineQuality {
    /// Speech over noise in dB. Below 15, recognition suffers.
    pub fn snr_db(&self) -> Option<f32> {
        Some(self.speech_dbfs? - self.noise_dbfs?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_relative_to_full_scale() {
        let sine: Vec<i16> = (0..800).map(|n| (32_767.0 * (std::f64::consts::TAU * f64::from(n) / 8.0).sin()) as i16).collect();
        let level = Level::of(&sine);
        assert!((level.dbfs + 3.01).abs() < 0.01 && level.peak == 32_767, "{level:?}");
        assert_eq!(level.clipped, 200);
        assert_eq!(Level::of(&[0; 160]), Level { mean_square: 0.0, dbfs: SILENT_DBFS, peak: 0, clipped: 0 });
        assert_eq!(Level::of(&[]), Level { mean_square: 0.0, dbfs: SILENT_DBFS, peak: 0, clipped: 0 });
        assert_eq!(energy(&[i16::MIN; 100_000]), 100_000 << 30);
        let loudest = Level { mean_square: (1 << 30) as f32, dbfs: 0.0, peak: 32_768, clipped: 1 };
        assert_eq!(Level::of(&[i16::MIN]), loudest);
    }
}
