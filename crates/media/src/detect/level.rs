//! How loud, how clipped, how noisy.

use crate::g711::ulaw;

/// Level given for digital silence, dB below full scale: the smallest step of 16 bits.
pub const SILENT_DBFS: f32 = -96.0;

/// Magnitude at which μ-law ends: 0x00 and 0x80 mean this or more.
const LARGEST: u16 = 32_124;
/// The bits of a μ-law code that are not its sign.
const MAGNITUDE: u8 = 0x7F;

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
        // By the ends of the range: every processor finds them eight samples at a time.
        let (lowest, highest) = samples.iter().fold((0_i16, 0_i16), |(low, high), it| (low.min(*it), high.max(*it)));
        let peak = lowest.unsigned_abs().max(highest.unsigned_abs());
        let clipped = if peak < LARGEST { 0 } else { samples.iter().filter(|it| it.unsigned_abs() >= LARGEST).count() as u32 };
        Self { mean_square, dbfs: dbfs(mean_square), peak, clipped }
    }

    /// Measures what μ-law codes mean, without decoding them.
    pub fn of_ulaw(codes: &[u8]) -> Self {
        let mean_square = ulaw_mean_square(codes);
        // But for the sign, a code is the less, the more it means.
        let loudest = codes.iter().fold(ulaw::SILENCE & MAGNITUDE, |least, it| least.min(it & MAGNITUDE));
        let clipped = if loudest == 0 { codes.iter().filter(|it| *it & MAGNITUDE == 0).count() as u32 } else { 0 };
        Self { mean_square, dbfs: dbfs(mean_square), peak: ulaw::decode(loudest).unsigned_abs(), clipped }
    }
}

/// Sum of the samples' squares. In whole numbers, whose order does not matter; a pair's fit 32 bits, and processors have an
/// instruction for four pairs.
fn energy(samples: &[i16]) -> u64 {
    let square = |it: i16| i32::from(it) * i32::from(it);
    let (pairs, last) = samples.as_chunks();
    let pairs = pairs.iter().map(|[a, b]| u64::from(square(*a).wrapping_add(square(*b)) as u32));
    pairs.sum::<u64>() + last.iter().map(|it| square(*it) as u64).sum::<u64>()
}

/// Mean of the squares of what μ-law codes mean.
///
/// But for its bias of 132 and its complement, a code is a small floating-point number: three bits of exponent, four of
/// mantissa and half a step. Put where a large one has them, eight at a time are squared without a look at a table.
fn ulaw_mean_square(codes: &[u8]) -> f32 {
    let square = |code: u8| (f32::from_bits(132_f32.to_bits() + (u32::from(!code & MAGNITUDE) << 19)) - 132.0).powi(2);
    let (eights, rest) = codes.as_chunks::<8>();
    let mut energy = [0.0; 8];
    for eight in eights {
        for (sum, code) in energy.iter_mut().zip(eight) {
            *sum += square(*code);
        }
    }
    (energy.iter().sum::<f32>() + rest.iter().map(|it| square(*it)).sum::<f32>()) / codes.len().max(1) as f32
}

/// Mean square of μ-law, dB below full scale; [`SILENT_DBFS`] at least.
pub(super) fn ulaw_dbfs(codes: &[u8]) -> f32 {
    dbfs(ulaw_mean_square(codes))
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
    #[test]
    fn ulaw_is_as_loud_as_what_it_means() {
        let codes: Vec<u8> = (0..=255).chain([0; 7]).collect();
        for length in [0, 1, 3, 160, 263] {
            for codes in codes.windows(length.max(1)).map(|it| &it[..length]) {
                let samples: Vec<i16> = codes.iter().map(|it| ulaw::decode(*it)).collect();
                let (found, expected) = (Level::of_ulaw(codes), Level::of(&samples));
                assert_eq!((found.peak, found.clipped), (expected.peak, expected.clipped), "{codes:?}");
                assert!((found.mean_square - expected.mean_square).abs() <= expected.mean_square * 1e-6, "{codes:?}");
                assert!((found.dbfs - expected.dbfs).abs() < 1e-4 && ulaw_dbfs(codes) == found.dbfs, "{codes:?}");
            }
        }
    }
}
