//! Streaming resampling between 8 kHz and 16 or 24 kHz by a minimum-phase FIR.
//!
//! One low-pass prototype at the higher rate serves both directions: pass 3600 Hz, stop 4100 Hz, 80 dB. Minimum phase
//! has the magnitude of the linear-phase filter and a tenth of its delay (0.36 ms instead of 3.6 ms), and no frame is
//! ever held back: 160 samples in give 480 or 320 out at once.
//!
//! Every output is one sum over the taps in a fixed order, without fused multiply-add, so that any chunking and any CPU
//! give the same bytes. The loops run taps outside and a block of outputs inside: that vectorises, where one dot
//! product per output does not.

use std::sync::LazyLock;

/// Taps of each polyphase branch; both prototypes have 58 per phase.
pub const TAPS_PER_PHASE: usize = 58;
/// Samples of the lower rate remembered between calls.
const HISTORY: usize = TAPS_PER_PHASE - 1;
/// Outputs of one phase computed together: a multiple of every vector width.
const BLOCK: usize = 32;

/// The prototype's branches: `phases[p][j]` is tap `p + factor·j`, of sum 1 over all.
struct Prototype {
    phases: Vec<[f32; TAPS_PER_PHASE]>,
}

impl Prototype {
    /// Source: `filters/`, one coefficient a line after a comment.
    fn parse(text: &str, factor: usize) -> Self {
        let taps: Vec<f32> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.trim().parse().expect("filters/ hold numbers"))
            .collect();
        assert_eq!(taps.len(), TAPS_PER_PHASE * factor, "filters/ hold {TAPS_PER_PHASE} taps a phase");
        let phase = |p: usize| std::array::from_fn(|j| taps[p + factor * j]);
        Self { phases: (0..factor).map(phase).collect() }
    }
}

static BY_2: LazyLock<Prototype> = LazyLock::new(|| Prototype::parse(include_str!("../filters/fir-16000.txt"), 2));
static BY_3: LazyLock<Prototype> = LazyLock::new(|| Prototype::parse(include_str!("../filters/fir-24000.txt"), 3));

fn prototype(factor: usize) -> &'static Prototype {
    match factor {
        2 => &BY_2,
        3 => &BY_3,
        _ => panic!("rates are 8, 16 and 24 kHz, so the factor is 2 or 3, not {factor}"),
    }
}

/// `out[i] = Σ taps[j] · input[HISTORY + i − j]`, in the order of `j`.
///
/// The sums are local, so that they stay in registers: written through a reference they cost five times as much.
#[inline(always)]
fn convolve(taps: &[f32; TAPS_PER_PHASE], input: &[f32; HISTORY + BLOCK]) -> [f32; BLOCK] {
    let mut sums = [0.0; BLOCK];
    for (j, tap) in taps.iter().enumerate() {
        let window = &input[HISTORY - j..][..BLOCK];
        for (sum, sample) in sums.iter_mut().zip(window) {
            *sum += tap * sample;
        }
    }
    sums
}

/// Rounds to nearest (ties to even), then saturates. Filters overshoot: truncation or wrap-around would be heard.
#[inline]
fn to_sample(value: f32) -> i16 {
    value.round_ties_even() as i16
}

/// 8 kHz to 16 kHz (factor 2) or 24 kHz (factor 3).
#[derive(Clone, Debug)]
pub struct Upsampler {
    factor: usize,
    /// The last 57 input samples, then room for a block.
    input: [f32; HISTORY + BLOCK],
}

impl Upsampler {
    /// # Panics
    /// If `factor` is neither 2 nor 3.
    pub fn new(factor: usize) -> Self {
        prototype(factor);
        Self { factor, input: [0.0; HISTORY + BLOCK] }
    }

    /// Appends exactly `factor` samples to `out` for every sample of `input`.
    pub fn process(&mut self, input: &[i16], out: &mut Vec<i16>) {
        let prototype = prototype(self.factor);
        for chunk in input.chunks(BLOCK) {
            for (slot, sample) in self.input[HISTORY..].iter_mut().zip(chunk) {
                *slot = f32::from(*sample);
            }
            let base = out.len();
            out.resize(base + chunk.len() * self.factor, 0);
            for (p, taps) in prototype.phases.iter().enumerate() {
                let sums = convolve(taps, &self.input);
                for (i, sum) in sums[..chunk.len()].iter().enumerate() {
                    out[base + i * self.factor + p] = to_sample(sum * self.factor as f32);
                }
            }
            self.input.copy_within(chunk.len()..chunk.len() + HISTORY, 0);
        }
    }

    /// Forgets everything heard so far.
    pub fn reset(&mut self) {
        self.input.fill(0.0);
    }
}

/// 16 kHz (factor 2) or 24 kHz (factor 3) to 8 kHz.
#[derive(Clone, Debug)]
pub struct Downsampler {
    factor: usize,
    /// Input samples since the last kept one: 0 means that the next input is kept.
    phase: usize,
    /// Branch `p` holds the inputs `p` samples before each kept one.
    branches: Vec<[f32; HISTORY + BLOCK]>,
    /// Inputs already sorted into the branches for outputs that are not complete yet.
    pending: usize,
}

impl Downsampler {
    /// # Panics
    /// If `factor` is neither 2 nor 3.
    pub fn new(factor: usize) -> Self {
        prototype(factor);
        Self { factor, phase: 0, branches: vec![[0.0; HISTORY + BLOCK]; factor], pending: 0 }
    }

    /// Appends one sample to `out` for every `factor` samples of input, counted across calls.
    pub fn process(&mut self, input: &[i16], out: &mut Vec<i16>) {
        for sample in input {
            // Output m is Σ h[i]·x[factor·m − i]: the kept input itself belongs to branch 0, the ones before it to
            // branch factor−1 … 1 of the output that comes next.
            let value = f32::from(*sample);
            if self.phase == 0 {
                self.branches[0][HISTORY + self.pending] = value;
                self.pending += 1;
                if self.pending == BLOCK {
                    self.flush(out);
                }
            } else {
                self.branches[self.factor - self.phase][HISTORY + self.pending] = value;
            }
            self.phase = (self.phase + 1) % self.factor;
        }
        self.flush(out);
    }

    fn flush(&mut self, out: &mut Vec<i16>) {
        let ready = std::mem::take(&mut self.pending);
        if ready == 0 {
            return;
        }
        let mut sums = [0.0; BLOCK];
        for (branch, taps) in self.branches.iter_mut().zip(&prototype(self.factor).phases) {
            for (sum, part) in sums.iter_mut().zip(convolve(taps, branch)) {
                *sum += part;
            }
            // One further slot may already hold an input of the next output.
            let end = (HISTORY + ready + 1).min(HISTORY + BLOCK);
            branch.copy_within(ready..end, 0);
        }
        out.extend(sums[..ready].iter().map(|sum| to_sample(*sum)));
    }

    /// Forgets everything heard so far, the phase included.
    pub fn reset(&mut self) {
        self.phase = 0;
        self.pending = 0;
        for branch in &mut self.branches {
            branch.fill(0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up(factor: usize, input: &[i16]) -> Vec<i16> {
        let mut out = Vec::new();
        Upsampler::new(factor).process(input, &mut out);
        out
    }

    fn down(factor: usize, input: &[i16]) -> Vec<i16> {
        let mut out = Vec::new();
        Downsampler::new(factor).process(input, &mut out);
        out
    }

    fn impulse(len: usize) -> Vec<i16> {
        let mut signal = vec![0; len];
        signal[0] = 16_384;
        signal
    }

    #[track_caller]
    fn close(actual: &[i16], expected: &[i16]) {
        assert!(actual.iter().zip(expected).all(|(a, e)| (a - e).abs() <= 1), "{:?}\n{expected:?}", &actual[..expected.len()]);
    }

    #[test]
    fn impulse_responses_are_the_designed_ones() {
        close(&up(3, &impulse(160)), &[66, 361, 1168, 2787, 5316, 8396, 11108, 12209, 10711, 6550, 926, -4047]);
        close(&up(2, &impulse(160)), &[229, 1446, 4570, 9148, 12179, 9932, 2380, -4922, -5689, -208, 4401, 2729]);
        close(&down(3, &impulse(480)), &[22, 929, 3703, 2183, -2110, 897, 82, -636]);
        close(&down(2, &impulse(320)), &[114, 2285, 6090, 1190, -2844, 2200, -1095, 152]);
    }

    #[test]
    fn a_constant_stays_and_silence_is_exact() {
        assert!(up(3, &[8000; 200])[58 * 3..].iter().all(|it| (it - 8000).abs() <= 1));
        assert!(up(2, &[0; 500]).iter().all(|it| *it == 0));
        assert!(down(3, &[0; 500]).iter().all(|it| *it == 0));
    }

    #[test]
    fn full_scale_saturates_and_never_wraps() {
        let square: Vec<i16> = (0..8000).map(|i| if (i / 16) % 2 == 0 { i16::MAX } else { i16::MIN }).collect();
        let sign_changes = |signal: &[i16]| signal.windows(2).filter(|it| (it[0] >= 0) != (it[1] >= 0)).count();
        assert_eq!(sign_changes(&up(3, &square)), sign_changes(&square));
    }

    #[test]
    fn any_chunking_gives_the_same_samples() {
        let noise: Vec<i16> = (0..9600_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 16) as i16).collect();
        for factor in [2, 3] {
            let (whole_up, whole_down) = (up(factor, &noise), down(factor, &noise));
            for size in [1, 7, 31, 32, 33, 160, 161, 4800] {
                let (mut rise, mut fall) = (Upsampler::new(factor), Downsampler::new(factor));
                let (mut risen, mut fallen) = (Vec::new(), Vec::new());
                for chunk in noise.chunks(size) {
                    rise.process(chunk, &mut risen);
                    fall.process(chunk, &mut fallen);
                }
                assert_eq!(risen, whole_up, "up by {factor} in chunks of {size}");
                assert_eq!(fallen, whole_down, "down by {factor} in chunks of {size}");
            }
        }
    }

    #[test]
    fn every_frame_gives_its_exact_share_from_the_first_on() {
        for (factor, frame_up, frame_down) in [(2, 320, 320), (3, 480, 480)] {
            let (mut rise, mut fall) = (Upsampler::new(factor), Downsampler::new(factor));
            for _ in 0..5 {
                let (mut high, mut low) = (Vec::new(), Vec::new());
                rise.process(&[100; 160], &mut high);
                fall.process(&vec![100; frame_down], &mut low);
                assert_eq!((high.len(), low.len()), (frame_up, 160));
            }
        }
    }

    /// Strength of a sine at `hz` in dB relative to full scale.
    fn level(signal: &[i16], hz: f64, rate: f64) -> f64 {
        let (mut re, mut im) = (0.0, 0.0);
        for (n, sample) in signal.iter().enumerate() {
            let angle = std::f64::consts::TAU * hz * n as f64 / rate;
            re += f64::from(*sample) * angle.cos();
            im += f64::from(*sample) * angle.sin();
        }
        let amplitude = 2.0 * (re * re + im * im).sqrt() / signal.len() as f64;
        20.0 * (amplitude / 32_768.0).max(1e-9).log10()
    }

    fn sine(hz: f64, rate: f64, seconds: f64) -> Vec<i16> {
        (0..(rate * seconds) as usize).map(|n| (16_384.0 * (std::f64::consts::TAU * hz * n as f64 / rate).sin()) as i16).collect()
    }

    #[test]
    fn speech_passes_and_images_and_aliases_do_not() {
        for hz in [300.0, 1004.0, 2004.0, 3004.0, 3404.0] {
            let high = up(3, &sine(hz, 8000.0, 0.5));
            let tone = level(&high[4000..10_000], hz, 24_000.0);
            assert!((tone + 6.02).abs() < 0.15, "{hz} Hz passes at {tone:.2} dB");
            let image = level(&high[4000..10_000], 8000.0 - hz, 24_000.0);
            assert!(tone - image > 75.0, "{hz} Hz has an image {:.1} dB down", tone - image);
        }
        for hz in [4504.0, 5504.0, 7004.0, 9004.0, 11_004.0] {
            let low = down(3, &sine(hz, 24_000.0, 0.5));
            let alias: f64 = (low[1000..3000].iter().map(|it| f64::from(*it).powi(2)).sum::<f64>() / 2000.0).sqrt();
            let rejection = 20.0 * (16_384.0 / std::f64::consts::SQRT_2 / alias.max(1e-9)).log10();
            assert!(rejection > 75.0, "{hz} Hz leaves an alias only {rejection:.1} dB down");
        }
    }
}
