use std::fmt;

use super::Samples;
use crate::Frame;
use crate::g711::ulaw;

/// One step that changes audio in place, 20 ms at a time.
pub trait Stage: Send + fmt::Debug {
    /// What it is, for people.
    fn name(&self) -> &'static str;
    /// How much later audio comes out, in milliseconds.
    fn delay_ms(&self) -> f32;
    /// Processor time for 20 ms in microseconds: what `cargo bench --bench stages` showed on the machine of `docs/sound.md`.
    fn cost_us(&self) -> f32;
    /// Changes 20 ms.
    fn process(&mut self, samples: &mut Samples);
}

/// Stages in order. [`Display`](fmt::Display) prints them with their delay and cost.
#[derive(Debug, Default)]
pub struct Chain {
    stages: Vec<Box<dyn Stage>>,
}

impl Chain {
    /// Adds a stage at the end.
    #[must_use]
    pub fn with(mut self, stage: impl Stage + 'static) -> Self {
        self.stages.push(Box::new(stage));
        self
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// How much later audio comes out, in milliseconds.
    pub fn delay_ms(&self) -> f32 {
        self.stages.iter().map(|it| it.delay_ms()).sum()
    }

    /// Runs a frame through all stages; a short one is lengthened by silence first. Returns PCM, 160 samples.
    pub fn process(&mut self, frame: &Frame) -> Samples {
        let mut samples = [0; crate::FRAME_BYTES];
        for (sample, code) in samples.iter_mut().zip(frame.padded().ulaw()) {
            *sample = ulaw::decode(*code);
        }
        for stage in &mut self.stages {
            stage.process(&mut samples);
        }
        samples
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, stage) in self.stages.iter().enumerate() {
            let arrow = if index == 0 { "" } else { " → " };
            write!(f, "{arrow}{} ({} ms, {} µs)", stage.name(), stage.delay_ms(), stage.cost_us())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enhance::{GainControl, NoiseSuppression};

    #[test]
    fn a_chain_says_what_it_is_and_adds_up() {
        let chain = Chain::default().with(NoiseSuppression::default()).with(GainControl::default());
        assert_eq!(chain.to_string(), "noise suppression (10.7 ms, 90 µs) → gain control (0 ms, 1 µs)");
        assert!((chain.delay_ms() - 10.7).abs() < 0.01 && !chain.is_empty());
    }

    #[test]
    fn an_empty_chain_changes_nothing() {
        let frame = Frame::from_ulaw(&[0x20, 0x31, 0xC5]);
        let samples = Chain::default().process(&frame);
        assert_eq!(samples[..4], [ulaw::decode(0x20), ulaw::decode(0x31), ulaw::decode(0xC5), 0]);
    }
}
