//! Changing the sample rate: `fir` for live audio between the telephone's rate and its multiples, `any` for everything
//! that is not live.

mod any;
mod fir;

pub use any::{AnyRate, RATES, UnsupportedRate, convert};
pub use fir::{Downsampler, TAPS_PER_PHASE, Upsampler, delay_ms};
