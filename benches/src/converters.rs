//! Rate converters measured from outside: PCM16 in, PCM16 out, 20 ms pieces.
//!
//! Every figure has the definition of `docs/sound.md`, section "How it is measured".

use std::f64::consts::TAU;

use audioadapter_buffers::direct::InterleavedSlice;
use media::resample::AnyRate;
use media::{Format, Rate, Transcoder};
use realfft::RealFftPlanner;
use rubato::{Async, Fft, FixedAsync, FixedSync, Resampler, SincInterpolationParameters, WindowFunction};

/// Something that turns samples of one rate into samples of another, piece by piece.
pub trait Converter {
    /// Appends what comes out for `input`.
    fn push(&mut self, input: &[i16], out: &mut Vec<i16>);
}

/// A converter to be measured.
#[derive(Clone, Copy)]
pub struct Candidate {
    pub name: &'static str,
    /// Rates in Hz: from, to.
    pub make: fn(u32, u32) -> Box<dyn Converter>,
}

/// Ours, and the well-known library in the settings that suit it.
pub const CANDIDATES: [Candidate; 4] = [
    Candidate { name: "offhook", make: |from, to| Box::new(Ours::new(from, to)) },
    Candidate { name: "rubato FFT, 5 ms Hann", make: |from, to| Box::new(Rubato::new(short_fft(from, to))) },
    Candidate { name: "rubato FFT, default", make: |from, to| Box::new(Rubato::new(default_fft(from, to))) },
    Candidate { name: "rubato sinc 256", make: |from, to| Box::new(Rubato::new(sinc(from, to))) },
];

/// The one for audio that is not live.
pub const NOT_LIVE: Candidate = Candidate {
    name: "offhook, not live",
    make: |from, to| Box::new(NotLive(AnyRate::new(from, to).expect("the rates are usual"))),
};

/// Both directions of both live pairs.
pub const PAIRS: [(u32, u32); 4] = [(8000, 16_000), (8000, 24_000), (16_000, 8000), (24_000, 8000)];

struct Ours {
    transcoder: Transcoder,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Ours {
    fn new(from: u32, to: u32) -> Self {
        let format = |hz| {
            let rate = [Rate::Hz8000, Rate::Hz16000, Rate::Hz24000].into_iter().find(|it| it.hz() == hz);
            Format::Pcm16(rate.expect("a live rate"))
        };
        let transcoder = Transcoder::new(format(from), format(to)).expect("one side is at 8 kHz");
        Self { transcoder, input: Vec::new(), output: Vec::new() }
    }
}

impl Converter for Ours {
    fn push(&mut self, input: &[i16], out: &mut Vec<i16>) {
        self.input.clear();
        self.input.extend(input.iter().flat_map(|it| it.to_le_bytes()));
        self.output.clear();
        self.transcoder.push(&self.input, &mut self.output);
        out.extend(self.output.chunks_exact(2).map(|it| i16::from_le_bytes([it[0], it[1]])));
    }
}

struct NotLive(AnyRate);

impl Converter for NotLive {
    fn push(&mut self, input: &[i16], out: &mut Vec<i16>) {
        self.0.push(input, out);
    }
}

struct Rubato<R> {
    engine: R,
    waiting: Vec<f32>,
    block: Vec<f32>,
}

fn short_fft(from: u32, to: u32) -> Fft<f32> {
    let made = Fft::new_custom(from as usize, to as usize, from as usize / 50, 4, 1, WindowFunction::Hann, FixedSync::Input);
    made.expect("the rates are usual")
}

fn default_fft(from: u32, to: u32) -> Fft<f32> {
    Fft::new(from as usize, to as usize, from as usize / 50, 1, FixedSync::Input).expect("the rates are usual")
}

fn sinc(from: u32, to: u32) -> Async<f32> {
    let (ratio, frame) = (f64::from(to) / f64::from(from), from as usize / 50);
    let made = Async::new_sinc(ratio, 1.0, &SincInterpolationParameters::default(), frame, 1, FixedAsync::Input);
    made.expect("the rates are usual")
}

impl<R: Resampler<f32>> Rubato<R> {
    fn new(engine: R) -> Self {
        let room = engine.output_frames_max();
        Self { engine, waiting: Vec::new(), block: vec![0.0; room] }
    }
}

impl<R: Resampler<f32>> Converter for Rubato<R> {
    fn push(&mut self, input: &[i16], out: &mut Vec<i16>) {
        self.waiting.extend(input.iter().map(|it| f32::from(*it)));
        while self.waiting.len() >= self.engine.input_frames_next() {
            let taken = self.engine.input_frames_next();
            let source = InterleavedSlice::new(&self.waiting[..taken], 1, taken).expect("one channel");
            let room = self.block.len();
            let mut sink = InterleavedSlice::new_mut(&mut self.block, 1, room).expect("one channel");
            let (_, written) = self.engine.process_into_buffer(&source, &mut sink, None).expect("the buffers have room");
            out.extend(self.block[..written].iter().map(|it| it.round_ties_even() as i16));
            self.waiting.drain(..taken);
        }
    }
}

/// What was measured of one converter in one direction. Decibels and milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Mean group delay over 300–3400 Hz plus what is held back.
    pub latency_ms: f64,
    /// The most audio fed and not yet returned, after the tenth piece.
    pub held_ms: f64,
    /// Largest less smallest gain over 300–3400 Hz.
    pub ripple_db: f64,
    /// Largest less smallest group delay over 300–3400 Hz.
    pub delay_spread_ms: f64,
    /// Going up: the strongest image of a tone. Going down: what is left of a tone that does not fit. Worst tone.
    pub rejection_db: f64,
    /// A tone over everything that is not the tone. Worst tone.
    pub sinad_db: f64,
    /// Every 20 ms in gave exactly 20 ms out, the first too.
    pub exact: bool,
    /// The same samples for every way of cutting the input.
    pub any_chunking: bool,
    /// A full-scale square keeps its sign changes.
    pub saturates: bool,
    /// Silence stays silence, to the bit.
    pub silent: bool,
    /// Peak to peak of a constant 8000, once settled.
    pub constant_ripple: i16,
}

/// Measures everything that needs no clock.
pub fn measure(candidate: Candidate, from: u32, to: u32) -> Figures {
    let make = || (candidate.make)(from, to);
    let (ripple_db, mean_delay_ms, delay_spread_ms) = response(&mut *make(), from, to);
    let held_ms = held(&mut *make(), from, to);
    let (fed, frame) = (noise(from as usize * 3), from as usize / 50);
    let exact = {
        let (mut converter, mut out) = (make(), Vec::new());
        fed.chunks(frame).take(20).all(|it| {
            out.clear();
            converter.push(it, &mut out);
            out.len() == to as usize / 50
        })
    };
    let whole = in_pieces(&mut *make(), &fed, &[fed.len()]);
    let any_chunking = [vec![frame / 20], vec![frame / 4], vec![frame], vec![frame * 5], vec![1, 7, 161, 33, 4801]]
        .iter()
        .all(|sizes| in_pieces(&mut *make(), &fed, sizes) == whole);
    // 250 Hz: 500 sign changes a second, counted in the second second.
    let square: Vec<i16> =
        (0..from as usize * 3).map(|n| if (n * 500 / from as usize).is_multiple_of(2) { i16::MAX } else { i16::MIN }).collect();
    let squared = run(&mut *make(), &square);
    let second = &squared[to as usize..to as usize * 2];
    let saturates = second.windows(2).filter(|it| (it[0] >= 0) != (it[1] >= 0)).count().abs_diff(500) <= 1;
    let silent = run(&mut *make(), &vec![0; from as usize * 3]).iter().all(|it| *it == 0);
    let constant = run(&mut *make(), &vec![8000; from as usize]);
    let settled = &constant[constant.len() / 2..constant.len() * 3 / 4];
    Figures {
        latency_ms: mean_delay_ms + held_ms,
        held_ms,
        ripple_db,
        delay_spread_ms,
        rejection_db: if from < to { image_rejection(make, from, to) } else { alias_rejection(make, from, to) },
        sinad_db: sinad(make, from, to),
        exact,
        any_chunking,
        saturates,
        silent,
        constant_ripple: settled.iter().max().unwrap_or(&0) - settled.iter().min().unwrap_or(&0),
    }
}

fn run(converter: &mut dyn Converter, input: &[i16]) -> Vec<i16> {
    in_pieces(converter, input, &[160])
}

fn in_pieces(converter: &mut dyn Converter, mut input: &[i16], sizes: &[usize]) -> Vec<i16> {
    let mut out = Vec::new();
    for size in sizes.iter().cycle() {
        let (piece, rest) = input.split_at((*size).min(input.len()));
        if piece.is_empty() {
            return out;
        }
        converter.push(piece, &mut out);
        input = rest;
    }
    out
}

/// The same noise every time.
pub fn noise(samples: usize) -> Vec<i16> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 50) as i16 - 8192
    };
    (0..samples).map(|_| next()).collect()
}

fn held(converter: &mut dyn Converter, from: u32, to: u32) -> f64 {
    let (mut fed, mut out, mut most) = (0, Vec::new(), 0.0_f64);
    for (index, piece) in noise(from as usize * 2).chunks(from as usize / 50).enumerate() {
        converter.push(piece, &mut out);
        fed += piece.len();
        if index >= 10 {
            most = most.max(1000.0 * (fed as f64 / f64::from(from) - out.len() as f64 / f64::from(to)));
        }
    }
    most
}

const TONE_STEP_HZ: usize = 10;
const SPEECH_HZ: std::ops::RangeInclusive<usize> = 300..=3400;

/// Gain ripple, mean group delay and its spread, by a periodic multitone of every 10 Hz from 20 to 3980 Hz.
fn response(converter: &mut dyn Converter, from: u32, to: u32) -> (f64, f64, f64) {
    let tones: Vec<usize> = (20..=3980).step_by(TONE_STEP_HZ).collect();
    let period = from as usize / TONE_STEP_HZ;
    // Phases that rise with the square keep the crest low (Schroeder).
    let phase = |k: usize| -std::f64::consts::PI * (k * k) as f64 / tones.len() as f64;
    let one: Vec<f64> = (0..period)
        .map(|n| tones.iter().enumerate().map(|(k, hz)| (TAU * (*hz * n) as f64 / f64::from(from) + phase(k)).cos()).sum())
        .collect();
    let peak = one.iter().fold(0.0_f64, |most, it| most.max(it.abs()));
    let scale = 32_767.0 * 10_f64.powf(-3.0 / 20.0) / peak;
    let one: Vec<i16> = one.iter().map(|it| (it * scale).round() as i16).collect();
    let input: Vec<i16> = one.iter().copied().cycle().take(period * 25).collect();
    let output = run(converter, &input);
    let spectrum_in = period_spectrum(&input, period, 3, 15, &tones);
    let spectrum_out = period_spectrum(&output, to as usize / TONE_STEP_HZ, 3, 15, &tones);
    let (mut gains, mut delays, mut before) = (Vec::new(), Vec::new(), None);
    for ((hz, x), y) in tones.iter().zip(&spectrum_in).zip(&spectrum_out) {
        let gain = (y.0 * y.0 + y.1 * y.1).sqrt() / (x.0 * x.0 + x.1 * x.1).sqrt();
        let angle = y.1.atan2(y.0) - x.1.atan2(x.0);
        if let Some(last) = before {
            // The step of phase between this tone and the one before, unwrapped.
            let step: f64 = angle - last;
            let step = step - TAU * (step / TAU).round();
            if SPEECH_HZ.contains(hz) {
                gains.push(gain);
                delays.push(-1000.0 * step / (TAU * TONE_STEP_HZ as f64));
            }
        }
        before = Some(angle);
    }
    let (low, high) = extremes(&gains);
    let weight: f64 = gains.iter().map(|it| it * it).sum();
    let mean = gains.iter().zip(&delays).map(|(gain, delay)| gain * gain * delay).sum::<f64>() / weight;
    let (earliest, latest) = extremes(&delays);
    (20.0 * (high / low).log10(), mean, latest - earliest)
}

fn extremes(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), it| (low.min(*it), high.max(*it)))
}

/// Complex amplitudes of `tones` over whole periods, the first `skip` left out, `periods` averaged.
fn period_spectrum(signal: &[i16], period: usize, skip: usize, periods: usize, tones: &[usize]) -> Vec<(f64, f64)> {
    let mean: Vec<f64> = (0..period)
        .map(|n| (skip..skip + periods).map(|p| f64::from(signal[p * period + n])).sum::<f64>() / periods as f64)
        .collect();
    let spectrum = spectrum(&mean);
    tones.iter().map(|hz| spectrum[hz / TONE_STEP_HZ]).map(|it| (it.0 / period as f64, it.1 / period as f64)).collect()
}

fn spectrum(signal: &[f64]) -> Vec<(f64, f64)> {
    let plan = RealFftPlanner::<f64>::new().plan_fft_forward(signal.len());
    let (mut input, mut output) = (signal.to_vec(), plan.make_output_vec());
    plan.process(&mut input, &mut output).expect("the lengths fit");
    output.iter().map(|it| (it.re, it.im)).collect()
}

const TONES_HZ: [f64; 16] =
    [300.0, 400.0, 500.0, 697.0, 852.0, 1000.0, 1209.0, 1477.0, 1800.0, 2100.0, 2400.0, 2700.0, 3000.0, 3200.0, 3300.0, 3400.0];

/// 0.6 s at −6 dBFS.
fn tone(hz: f64, rate: u32) -> Vec<i16> {
    let amplitude = 32_767.0 * 10_f64.powf(-6.0 / 20.0);
    (0..rate as usize * 3 / 5).map(|n| (amplitude * (TAU * hz * n as f64 / f64::from(rate)).sin()).round() as i16).collect()
}

/// The middle 0.32 s.
fn middle(signal: &[i16], rate: u32) -> Vec<f64> {
    let (start, length) = (rate as usize * 14 / 100, rate as usize * 32 / 100);
    signal[start..start + length].iter().map(|it| f64::from(*it)).collect()
}

/// Least-squares amplitudes of sines at all `hz` at once; returns them and the residual.
fn fit(signal: &[f64], hz: &[f64], rate: u32) -> (Vec<f64>, Vec<f64>) {
    let unknowns = hz.len() * 2;
    let basis = |n: usize| -> Vec<f64> {
        hz.iter()
            .flat_map(|it| {
                let angle = TAU * it * n as f64 / f64::from(rate);
                [angle.cos(), angle.sin()]
            })
            .collect()
    };
    let mut system = vec![vec![0.0; unknowns + 1]; unknowns];
    for (n, value) in signal.iter().enumerate() {
        let row = basis(n);
        for (i, a) in row.iter().enumerate() {
            for (j, b) in row.iter().enumerate() {
                system[i][j] += a * b;
            }
            system[i][unknowns] += a * value;
        }
    }
    let solution = solve(system);
    let residual =
        signal.iter().enumerate().map(|(n, value)| value - basis(n).iter().zip(&solution).map(|(a, b)| a * b).sum::<f64>());
    let residual = residual.collect();
    (solution.chunks(2).map(|it| it[0].hypot(it[1])).collect(), residual)
}

/// Gaussian elimination; the last column is the right-hand side.
fn solve(mut system: Vec<Vec<f64>>) -> Vec<f64> {
    let size = system.len();
    for column in 0..size {
        let pivot = (column..size).max_by(|a, b| system[*a][column].abs().total_cmp(&system[*b][column].abs())).expect("rows");
        system.swap(column, pivot);
        let pivot_row = system[column].clone();
        for (_, row) in system.iter_mut().enumerate().filter(|it| it.0 != column) {
            let factor = row[column] / pivot_row[column];
            row.iter_mut().zip(&pivot_row).for_each(|(it, above)| *it -= factor * above);
        }
    }
    (0..size).map(|row| system[row][size] / system[row][row]).collect()
}

fn decibels(ratio: f64) -> f64 {
    20.0 * ratio.max(1e-12).log10()
}

fn image_rejection(make: impl Fn() -> Box<dyn Converter>, from: u32, to: u32) -> f64 {
    let worst = TONES_HZ.iter().map(|hz| {
        let output = middle(&run(&mut *make(), &tone(*hz, from)), to);
        let images = (1..4).flat_map(|k| [f64::from(from) * f64::from(k) - hz, f64::from(from) * f64::from(k) + hz]);
        let all: Vec<f64> = std::iter::once(*hz).chain(images.filter(|it| *it < f64::from(to) / 2.0)).collect();
        let (levels, _) = fit(&output, &all, to);
        decibels(levels[0] / extremes(&levels[1..]).1)
    });
    worst.fold(f64::INFINITY, f64::min)
}

fn alias_rejection(make: impl Fn() -> Box<dyn Converter>, from: u32, to: u32) -> f64 {
    let highest = if from == 16_000 { 7700 } else { 11_700 };
    let tones = [4500.0, 4600.0, 4800.0]
        .into_iter()
        .chain((5000..=highest).step_by(100).filter(|it| it % 500 == 0 || it % 700 == 0).map(f64::from));
    let worst = tones.map(|hz| {
        let input = tone(hz, from);
        let output = middle(&run(&mut *make(), &input), to);
        // Where nothing at all is left, the last bit is.
        decibels(rms(&middle(&input, from)) / rms(&output).max(0.1))
    });
    worst.fold(f64::INFINITY, f64::min)
}

/// Without the mean.
fn rms(signal: &[f64]) -> f64 {
    let mean = signal.iter().sum::<f64>() / signal.len() as f64;
    (signal.iter().map(|it| (it - mean) * (it - mean)).sum::<f64>() / signal.len() as f64).sqrt()
}

fn sinad(make: impl Fn() -> Box<dyn Converter>, from: u32, to: u32) -> f64 {
    let worst = TONES_HZ.iter().map(|hz| {
        let output = middle(&run(&mut *make(), &tone(*hz, from)), to);
        let (levels, residual) = fit(&output, &[*hz], to);
        // Going up, what lies above the telephone's band counts as image, not as distortion.
        let hz_per_bin = f64::from(to) / residual.len() as f64;
        let within = spectrum(&residual).into_iter().enumerate().filter(|(bin, _)| *bin as f64 * hz_per_bin <= 3950.0);
        let power: f64 = within.map(|(bin, it)| (it.0 * it.0 + it.1 * it.1) * if bin == 0 { 1.0 } else { 2.0 }).sum();
        decibels(levels[0] / 2_f64.sqrt() / (power / (residual.len() as f64).powi(2)).sqrt())
    });
    worst.fold(f64::INFINITY, f64::min)
}
