//! Any rate to any other, for audio that is not live: uploads, spoken messages, hold music, files.

use audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Indexing, Resampler as _, WindowFunction};

/// Rates that can be converted, in Hz.
pub const RATES: std::ops::RangeInclusive<u32> = 4_000..=192_000;

/// A rate outside of [`RATES`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a sample rate of {0} Hz: expected {low} to {high} Hz", low = RATES.start(), high = RATES.end())]
pub struct UnsupportedRate(pub u32);

/// Streaming conversion of mono PCM between two rates, linear phase, by FFT in blocks of 100 ms or more.
///
/// The output is as long as the input, to the sample, and begins where the input begins: the filter's delay is trimmed. It
/// comes up to a block late, which is why live calls use [`Upsampler`](crate::resample::Upsampler) instead.
pub struct AnyRate {
    from: u32,
    to: u32,
    /// `None` when the rates are the same.
    engine: Option<Fft<f32>>,
    input: Vec<f32>,
    output: Vec<f32>,
    /// Output still to be thrown away: the filter's delay.
    trim: usize,
    taken: u64,
    given: u64,
}

impl AnyRate {
    /// # Errors
    /// [`UnsupportedRate`] when a rate is outside of [`RATES`].
    pub fn new(from: u32, to: u32) -> Result<Self, UnsupportedRate> {
        if let Some(wrong) = [from, to].into_iter().find(|it| !RATES.contains(it)) {
            return Err(UnsupportedRate(wrong));
        }
        let engine = (from != to).then(|| {
            let (from, to) = (from as usize, to as usize);
            // The shortest blocks that hold whole numbers of samples at both rates. An even number of them, or the filter's
            // middle falls between two samples and the output is late by a fraction of one.
            let block = from / greatest_common_divisor(from, to);
            let blocks = (from / 10).div_ceil(block).next_multiple_of(2);
            Fft::new_custom(from, to, block * blocks, 1, 1, WindowFunction::BlackmanHarris2, FixedSync::Both)
                .expect("both rates are positive, and so is the block")
        });
        let room = engine.as_ref().map_or(0, |it| it.output_frames_max());
        let trim = engine.as_ref().map_or(0, |it| it.output_delay());
        Ok(Self { from, to, engine, input: Vec::new(), output: vec![0.0; room], trim, taken: 0, given: 0 })
    }

    /// Appends what is ready; up to a block stays inside.
    pub fn push(&mut self, input: &[i16], out: &mut Vec<i16>) {
        self.taken += input.len() as u64;
        let Some(block) = self.engine.as_ref().map(|it| it.input_frames_next()) else {
            self.given += input.len() as u64;
            return out.extend_from_slice(input);
        };
        self.input.extend(input.iter().map(|it| f32::from(*it)));
        while self.input.len() >= block {
            self.run(block, out);
        }
    }

    /// Appends the rest. In all, `round(input · to / from)` samples were given.
    pub fn finish(mut self, out: &mut Vec<i16>) {
        let owed = (self.taken * u64::from(self.to) + u64::from(self.from) / 2) / u64::from(self.from);
        while self.engine.is_some() && self.given < owed {
            let had = out.len();
            self.run(self.input.len(), out);
            let surplus = self.given.saturating_sub(owed) as usize;
            out.truncate((out.len() - surplus).max(had));
        }
    }

    /// One block, of which `partial` samples are there and the rest is silence.
    fn run(&mut self, partial: usize, out: &mut Vec<i16>) {
        let Some(engine) = &mut self.engine else { return };
        let had = self.input.len();
        self.input.resize(had.max(engine.input_frames_next()), 0.0);
        let (frames, room) = (self.input.len(), self.output.len());
        let source = InterleavedSlice::new(&self.input, 1, frames).expect("one channel of that length");
        let mut sink = InterleavedSlice::new_mut(&mut self.output, 1, room).expect("one channel of that length");
        let indexing = Indexing::new().partial_len(partial);
        let (_, written) = engine.process_into_buffer(&source, &mut sink, Some(&indexing)).expect("the buffers have room");
        self.input.drain(..partial);
        self.input.truncate(had - partial);
        let skipped = self.trim.min(written);
        self.trim -= skipped;
        out.extend(self.output[skipped..written].iter().map(|it| it.round_ties_even() as i16));
        self.given += (written - skipped) as u64;
    }
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// Converts a whole piece of audio. See [`AnyRate`].
///
/// # Errors
/// [`UnsupportedRate`] when a rate is outside of [`RATES`].
pub fn convert(input: &[i16], from: u32, to: u32) -> Result<Vec<i16>, UnsupportedRate> {
    let mut engine = AnyRate::new(from, to)?;
    let mut out = Vec::with_capacity((input.len() as u64 * u64::from(to) / u64::from(from)) as usize + 1);
    engine.push(input, &mut out);
    engine.finish(&mut out);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sine(hz: f64, rate: u32, samples: usize) -> Vec<i16> {
        let step = std::f64::consts::TAU * hz / f64::from(rate);
        (0..samples).map(|n| (10_000.0 * (step * n as f64).sin()) as i16).collect()
    }

    #[test]
    fn a_tone_stays_in_place_at_every_rate() {
        for (from, to) in
            [(22_050, 8000), (44_100, 8000), (48_000, 8000), (8000, 44_100), (16_000, 24_000), (11_025, 8000), (8001, 8000)]
        {
            for samples in [1, 1000, from as usize, 3 * from as usize + 7] {
                let out = convert(&sine(701.0, from, samples), from, to).unwrap();
                let expected = (samples as f64 * f64::from(to) / f64::from(from)).round() as usize;
                assert_eq!(out.len(), expected, "{samples} samples {from} → {to}");
                let ideal = sine(701.0, to, expected);
                let middle = expected / 4..expected * 3 / 4;
                if samples >= from as usize {
                    let worst = out[middle.clone()].iter().zip(&ideal[middle]).map(|(a, b)| (a - b).abs()).max();
                    assert!(worst < Some(40), "{from} → {to}: off by {worst:?}");
                }
            }
        }
    }

    #[test]
    fn pieces_may_be_of_any_size() {
        let input = sine(440.0, 44_100, 30_000);
        let whole = convert(&input, 44_100, 8000).unwrap();
        for size in [1, 441, 5000] {
            let (mut engine, mut out) = (AnyRate::new(44_100, 8000).unwrap(), Vec::new());
            input.chunks(size).for_each(|it| engine.push(it, &mut out));
            engine.finish(&mut out);
            assert_eq!(out, whole);
        }
    }

    #[test]
    fn absurd_rates_are_refused_with_their_limits() {
        assert_eq!(AnyRate::new(0, 8000).err(), Some(UnsupportedRate(0)));
        let text = AnyRate::new(8000, 2_000_000).err().unwrap().to_string();
        assert_eq!(text, "a sample rate of 2000000 Hz: expected 4000 to 192000 Hz");
    }
}
