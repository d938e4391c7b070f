//! Live resampling between 8 kHz and 16, 24 or 48 kHz by a minimum-phase FIR.
//!
//! One low-pass prototype at the higher rate serves both directions: pass 3600 Hz, stop 4100 Hz, 80 dB. Minimum phase
//! has the magnitude of the linear-phase filter and a tenth of its delay (0.36 ms instead of 3.6 ms), and no frame is
//! ever held back: 160 samples in give 480 or 320 out at once.
//!
//! Every output is one sum over the taps in a fixed order, without fused multiply-add, so that any chunking and any CPU
//! give the same bytes: wider registers compute more outputs at a time, never one output in another order. The loops run
//! taps outside and a block of outputs inside: that vectorises, where one dot product per output does not. All that is done to a
//! frame is compiled for every width, the sums and what is around them: converting and sorting samples takes as long otherwise as
//! a third of the sums.

use std::array::from_fn;
use std::sync::LazyLock;

/// Taps of each polyphase branch; every prototype has 58 per phase.
pub const TAPS_PER_PHASE: usize = 58;
/// Samples of the lower rate remembered between calls.
const HISTORY: usize = TAPS_PER_PHASE - 1;
/// Samples of the lower rate computed together: a frame is two.
const BLOCK: usize = 80;

/// What the samples of a branch are summed from: the remembered ones, a block, and one that belongs to the next block.
type Window = [f32; HISTORY + BLOCK + 1];
const EMPTY: Window = [0.0; HISTORY + BLOCK + 1];

/// The prototype's branches: `phases[p][j]` is tap `p + factor·j`, of sum 1 over all.
struct Prototype {
    phases: Vec<[f32; TAPS_PER_PHASE]>,
}

impl Prototype {
    /// Source: `filters/`, one coefficient a line after a comment; made by `filters/design.py`.
    fn parse(text: &str, factor: usize) -> Self {
        let taps: Vec<f32> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.trim().parse().expect("filters/ hold numbers"))
            .collect();
        assert_eq!(taps.len(), TAPS_PER_PHASE * factor, "filters/ hold {TAPS_PER_PHASE} taps a phase");
        let phase = |p: usize| from_fn(|j| taps[p + factor * j]);
        Self { phases: (0..factor).map(phase).collect() }
    }
}

static BY_2: LazyLock<Prototype> = LazyLock::new(|| Prototype::parse(include_str!("../../filters/fir-16000.txt"), 2));
static BY_3: LazyLock<Prototype> = LazyLock::new(|| Prototype::parse(include_str!("../../filters/fir-24000.txt"), 3));
static BY_6: LazyLock<Prototype> = LazyLock::new(|| Prototype::parse(include_str!("../../filters/fir-48000.txt"), 6));

fn prototype(factor: usize) -> &'static Prototype {
    match factor {
        2 => &BY_2,
        3 => &BY_3,
        6 => &BY_6,
        _ => panic!("rates are 8, 16, 24 and 48 kHz, so the factor is 2, 3 or 6, not {factor}"),
    }
}

/// Mean group delay over 300–3400 Hz of one direction, in milliseconds, rounded to two digits. Nothing else delays.
///
/// `cargo bench --bench converters` measures it; a test holds the two together.
pub fn delay_ms(factor: usize) -> f32 {
    match factor {
        2 => 0.33,
        _ => 0.36,
    }
}

/// Adds `Σ taps[j] · window[HISTORY + i − j]`, in the order of `j`, to `sums[i]`.
///
/// `LANES` sums are kept in registers: ten registers of whatever width the CPU has. With fewer, every addition waits for
/// the one before; with more, they spill.
#[inline(always)]
fn convolve<const LANES: usize>(taps: &[f32; TAPS_PER_PHASE], window: &Window, sums: &mut [f32; BLOCK]) {
    const { assert!(BLOCK.is_multiple_of(LANES)) };
    for (block, out) in sums.chunks_exact_mut(LANES).enumerate() {
        let mut lanes = [0.0; LANES];
        lanes.copy_from_slice(out);
        for (j, tap) in taps.iter().enumerate() {
            let samples = &window[HISTORY - j + block * LANES..][..LANES];
            for (lane, sample) in lanes.iter_mut().zip(samples) {
                *lane += tap * sample;
            }
        }
        out.copy_from_slice(&lanes);
    }
}

/// A converter, compiled for each width of registers.
trait Resample {
    /// Appends to `out` what `input` becomes, by a factor of 2, 3 or 6, `LANES` sums at a time.
    fn run<const FACTOR: usize, const LANES: usize>(&mut self, input: &[i16], out: &mut Vec<i16>);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn run_avx512<const FACTOR: usize>(converter: &mut impl Resample, input: &[i16], out: &mut Vec<i16>) {
    converter.run::<FACTOR, 80>(input, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn run_avx2<const FACTOR: usize>(converter: &mut impl Resample, input: &[i16], out: &mut Vec<i16>) {
    converter.run::<FACTOR, 80>(input, out);
}

/// [`run`](Resample::run) as wide as this CPU can.
#[inline]
fn run<const FACTOR: usize>(converter: &mut impl Resample, input: &[i16], out: &mut Vec<i16>) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        // The first CPUs with AVX-512 slow their clock where it is used; those that also have VBMI2 do not.
        let avx512 = has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512vbmi2");
        // SAFETY: what is compiled for wide registers may only be called where the CPU has them, and both lines have asked it.
        // No safe call exists, because which CPU it is shows only at run time.
        #[allow(unsafe_code)]
        if avx512 {
            return unsafe { run_avx512::<FACTOR>(converter, input, out) };
        } else if has!("avx2") {
            return unsafe { run_avx2::<FACTOR>(converter, input, out) };
        }
    }
    converter.run::<FACTOR, 40>(input, out);
}

fn run_by(factor: usize, converter: &mut impl Resample, input: &[i16], out: &mut Vec<i16>) {
    match factor {
        2 => run::<2>(converter, input, out),
        3 => run::<3>(converter, input, out),
        _ => run::<6>(converter, input, out),
    }
}

/// Rounds to nearest (ties to even) and saturates. Filters overshoot: truncation or wrap-around would be heard.
///
/// Adding 1.5 · 2²³ leaves no bits for a fraction, so the sum is rounded as IEEE 754 says and the result stands in the
/// low 16 bits; unlike `round_ties_even` this vectorises on every CPU.
#[inline]
fn to_sample(value: f32) -> i16 {
    (value.clamp(-32_768.0, 32_767.0) + 12_582_912.0).to_bits() as u16 as i16
}

/// 8 kHz to 16 kHz (factor 2), 24 kHz (factor 3) or 48 kHz (factor 6).
#[derive(Clone, Debug)]
pub struct Upsampler {
    factor: usize,
    window: Window,
}

impl Upsampler {
    /// # Panics
    /// If `factor` is none of 2, 3 and 6.
    pub fn new(factor: usize) -> Self {
        prototype(factor);
        Self { factor, window: EMPTY }
    }

    /// Output samples per input sample.
    pub fn factor(&self) -> usize {
        self.factor
    }

    /// Appends exactly `factor` samples to `out` for every sample of `input`.
    pub fn process(&mut self, input: &[i16], out: &mut Vec<i16>) {
        run_by(self.factor, self, input, out);
    }

    /// Forgets everything heard so far.
    pub fn reset(&mut self) {
        self.window = EMPTY;
    }
}

impl Resample for Upsampler {
    #[inline(always)]
    fn run<const FACTOR: usize, const LANES: usize>(&mut self, input: &[i16], out: &mut Vec<i16>) {
        let prototype = prototype(FACTOR);
        for chunk in input.chunks(BLOCK) {
            for (slot, sample) in self.window[HISTORY..].iter_mut().zip(chunk) {
                *slot = f32::from(*sample);
            }
            let mut phases = [[0; BLOCK]; FACTOR];
            for (phase, taps) in phases.iter_mut().zip(&prototype.phases) {
                let mut sums = [0.0; BLOCK];
                convolve::<LANES>(taps, &self.window, &mut sums);
                *phase = sums.map(|it| to_sample(it * FACTOR as f32));
            }
            let samples: [[i16; FACTOR]; BLOCK] = from_fn(|i| from_fn(|p| phases[p][i]));
            out.extend_from_slice(samples[..chunk.len()].as_flattened());
            self.window.copy_within(chunk.len()..chunk.len() + HISTORY, 0);
        }
    }
}

/// 16 kHz (factor 2), 24 kHz (factor 3) or 48 kHz (factor 6) to 8 kHz.
#[derive(Clone, Debug)]
pub struct Downsampler {
    /// Input samples since the last kept one: 0 means that the next input is kept.
    phase: usize,
    /// Branch `p` holds the inputs `p` samples before each kept one.
    branches: Vec<Window>,
}

impl Downsampler {
    /// # Panics
    /// If `factor` is none of 2, 3 and 6.
    pub fn new(factor: usize) -> Self {
        prototype(factor);
        Self { phase: 0, branches: vec![EMPTY; factor] }
    }

    /// Input samples per output sample.
    pub fn factor(&self) -> usize {
        self.branches.len()
    }

    /// Appends one sample to `out` for every `factor` samples of input, counted across calls.
    pub fn process(&mut self, input: &[i16], out: &mut Vec<i16>) {
        run_by(self.factor(), self, input, out);
    }

    /// Puts every input into its branch. Output m is Σ h[i]·x[factor·m − i]: the kept input itself belongs to branch 0,
    /// the ones after it to branch factor−1 … 1 of the output that comes next.
    #[inline(always)]
    fn sort<const FACTOR: usize>(&mut self, chunk: &[i16]) {
        for (p, branch) in self.branches.iter_mut().enumerate() {
            // Inputs since the last kept one when this branch's turn comes.
            let turn = (FACTOR - p) % FACTOR;
            let first = (turn + FACTOR - self.phase) % FACTOR;
            // A kept input in between moves it on by an output.
            let slot = usize::from(turn > 0 && (self.phase == 0 || turn < self.phase));
            let (groups, rest) = chunk.get(first..).unwrap_or_default().as_chunks::<FACTOR>();
            let (places, behind) = branch[HISTORY + slot..].split_at_mut(groups.len());
            for (place, group) in places.iter_mut().zip(groups) {
                *place = f32::from(group[0]);
            }
            if let (Some(place), Some(last)) = (behind.first_mut(), rest.first()) {
                *place = f32::from(*last);
            }
        }
    }

    /// Forgets everything heard so far, the phase included.
    pub fn reset(&mut self) {
        self.phase = 0;
        self.branches.fill(EMPTY);
    }
}

impl Resample for Downsampler {
    #[inline(always)]
    fn run<const FACTOR: usize, const LANES: usize>(&mut self, input: &[i16], out: &mut Vec<i16>) {
        for chunk in input.chunks(BLOCK * FACTOR) {
            self.sort::<FACTOR>(chunk);
            let kept = (self.phase + chunk.len()).div_ceil(FACTOR) - self.phase.div_ceil(FACTOR);
            self.phase = (self.phase + chunk.len()) % FACTOR;
            if kept == 0 {
                continue;
            }
            let mut sums = [0.0; BLOCK];
            for (branch, taps) in self.branches.iter_mut().zip(&prototype(FACTOR).phases) {
                convolve::<LANES>(taps, branch, &mut sums);
                branch.copy_within(kept..kept + HISTORY + 1, 0);
            }
            out.extend(sums[..kept].iter().map(|it| to_sample(*it)));
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
    fn every_width_gives_the_same_bits() {
        let mut window = EMPTY;
        for (i, slot) in window.iter_mut().enumerate() {
            *slot = f32::from(((i as u32).wrapping_mul(2_654_435_761) >> 16) as i16);
        }
        let taps = &prototype(3).phases[1];
        // The rule itself: one output, one tap after the other.
        let expected: [f32; BLOCK] =
            from_fn(|i| taps.iter().enumerate().fold(0.0, |sum: f32, (j, tap)| sum + tap * window[HISTORY + i - j]));
        let of = |run: fn(&[f32; TAPS_PER_PHASE], &Window, &mut [f32; BLOCK])| {
            let mut sums = [0.0; BLOCK];
            run(taps, &window, &mut sums);
            sums.map(f32::to_bits)
        };
        assert_eq!(of(convolve::<1>), expected.map(f32::to_bits));
        assert_eq!(of(convolve::<40>), expected.map(f32::to_bits));
        assert_eq!(of(convolve::<80>), expected.map(f32::to_bits));
    }

    #[test]
    fn this_cpu_gives_the_same_bytes_as_any() {
        fn check<const FACTOR: usize>() {
            let input: Vec<i16> = (0..2000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 16) as i16).collect();
            let both = |run: fn(&mut Upsampler, &[i16], &mut Vec<i16>), back: fn(&mut Downsampler, &[i16], &mut Vec<i16>)| {
                let (mut up, mut down) = (Upsampler::new(FACTOR), Downsampler::new(FACTOR));
                let (mut high, mut low) = (Vec::new(), Vec::new());
                for piece in input.chunks(333) {
                    run(&mut up, piece, &mut high);
                    back(&mut down, piece, &mut low);
                }
                (high, low)
            };
            let expected = both(Upsampler::run::<FACTOR, 1>, Downsampler::run::<FACTOR, 1>);
            assert_eq!(both(Upsampler::process, Downsampler::process), expected, "by {FACTOR}");
            // The narrower width of a CPU that has a wider one, too.
            #[cfg(target_arch = "x86_64")]
            if std::arch::is_x86_feature_detected!("avx2") {
                // SAFETY: as in `run`, and the line above has asked the CPU. `run` itself would take the widest.
                #[allow(unsafe_code)]
                let narrow = both(
                    |it, input, out| unsafe { run_avx2::<FACTOR>(it, input, out) },
                    |it, input, out| unsafe { run_avx2::<FACTOR>(it, input, out) },
                );
                assert_eq!(narrow, expected, "by {FACTOR}");
            }
        }
        check::<2>();
        check::<3>();
        check::<6>();
    }

    #[test]
    fn rounding_is_to_nearest_even_and_saturates() {
        for (value, sample) in
            [(0.5, 0), (1.5, 2), (-0.5, 0), (-1.5, -2), (2.5, 2), (32_767.4, 32_767), (1e9, 32_767), (-1e9, -32_768)]
        {
            assert_eq!(to_sample(value), sample, "{value}");
        }
        assert!((-40_000..40_000).all(|it| {
            let value = it as f32 + 0.3;
            to_sample(value) == value.round_ties_even() as i16
        }));
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
