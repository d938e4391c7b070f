//! Optional stages that make audio better to hear or to understand. All are off by default: μ-law that nobody touches is
//! faster, and speech models cope with noise themselves.

mod ambience;
mod chain;
mod fade;
mod gain;
mod noise;

pub use ambience::{Ambience, Bed, BedError};
pub use chain::{Chain, Stage};
pub use fade::fade_out;
pub use gain::GainControl;
pub use noise::NoiseSuppression;

/// 20 ms of 8 kHz mono.
pub type Samples = [i16; crate::FRAME_BYTES];
