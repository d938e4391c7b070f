use std::fmt;

use nnnoiseless::DenoiseState;

use super::{Samples, Stage};
use crate::resample::{Downsampler, Upsampler, delay_ms};

/// The network hears 48 kHz.
const FACTOR: usize = 6;
/// It overlaps its windows by 10 ms.
const WINDOW_MS: f32 = 10.0;

/// Suppresses steady and unsteady noise by a small recurrent network (RNNoise in Rust).
///
/// Helps listeners, and speech models that were not trained on noise; measure before leaving it on. It delays by 10.7 ms:
/// 10 for the network's window, 0.36 for each change of rate.
pub struct NoiseSuppression {
    network: Box<DenoiseState<'static>>,
    up: Box<Upsampler>,
    down: Downsampler,
    high: Vec<i16>,
    input: [f32; DenoiseState::FRAME_SIZE],
    output: [f32; DenoiseState::FRAME_SIZE],
    low: Vec<i16>,
}

impl Default for NoiseSuppression {
    fn default() -> Self {
        Self {
            network: DenoiseState::new(),
            up: Box::new(Upsampler::new(FACTOR)),
            down: Downsampler::new(FACTOR),
            high: Vec::new(),
            input: [0.0; DenoiseState::FRAME_SIZE],
            output: [0.0; DenoiseState::FRAME_SIZE],
            low: Vec::new(),
        }
    }
}

impl fmt::Debug for NoiseSuppression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NoiseSuppression")
    }
}

impl Stage for NoiseSuppression {
    fn name(&self) -> &'static str {
        "noise suppression"
    }

    fn delay_ms(&self) -> f32 {
        // To a tenth: the parts are means over a band.
        ((WINDOW_MS + 2.0 * delay_ms(FACTOR)) * 10.0).round() / 10.0
    }

    fn cost_us(&self) -> f32 {
        90.0
    }

    fn process(&mut self, samples: &mut Samples) {
        self.high.clear();
        self.up.process(samples, &mut self.high);
        for block in self.high.chunks_exact_mut(DenoiseState::FRAME_SIZE) {
            for (slot, sample) in self.input.iter_mut().zip(&*block) {
                *slot = f32::from(*sample);
            }
            self.network.process_frame(&mut self.output, &self.input);
            for (sample, value) in block.iter_mut().zip(&self.output) {
                *sample = value.round_ties_even() as i16;
            }
        }
        self.low.clear();
        self.down.process(&self.high, &mut self.low);
        samples.copy_from_slice(&self.low);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::g711::ulaw;

    fn speech() -> Vec<i16> {
        include_bytes!("../../../../fixtures/speech/en/caller-book.ulaw").iter().map(|it| ulaw::decode(*it)).collect()
    }

    fn suppressed(signal: &[i16]) -> Vec<i16> {
        let mut stage = NoiseSuppression::default();
        signal
            .chunks_exact(160)
            .flat_map(|it| {
                let mut samples: Samples = it.try_into().unwrap();
                stage.process(&mut samples);
                samples
            })
            .collect()
    }

    #[test]
    fn it_delays_as_it_says_and_leaves_clean_speech_alone() {
        let clean = speech();
        let out = suppressed(&clean);
        let product = |lag: usize| -> f64 { out[lag..].iter().zip(&clean).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
        let best = (0..400).max_by(|a, b| product(*a).total_cmp(&product(*b))).unwrap();
        let stated = NoiseSuppression::default().delay_ms();
        assert!((best as f32 / 8.0 - stated).abs() < 0.5, "{} ms measured, {stated} ms stated", best as f32 / 8.0);
        let energy: f64 = clean.iter().map(|it| f64::from(*it).powi(2)).sum();
        assert!(product(best) / energy > 0.8, "{}", product(best) / energy);
    }

    #[test]
    fn noise_goes_and_silence_stays() {
        let mut state = 1_u32;
        let noise: Vec<i16> = (0..32_000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((state >> 16) as i16) / 64
            })
            .collect();
        let level = |it: &[i16]| crate::detect::Level::of(it).dbfs;
        let (before, after) = (level(&noise[16_000..]), level(&suppressed(&noise)[16_000..]));
        assert!(before - after > 10.0, "{before} → {after} dBFS");
        assert!(suppressed(&[0; 16_000]).iter().all(|it| it.abs() <= 1));
    }
}
