use std::f32::consts::PI;

use crate::Frame;
use crate::g711::ulaw;

/// Takes samples down to silence along half a cosine: speech that must stop ends without a click. 20 to 30 ms are enough.
pub fn fade_out(samples: &mut [i16]) {
    let length = samples.len() as f32;
    for (n, sample) in samples.iter_mut().enumerate() {
        let gain = 0.5 + 0.5 * (PI * (n as f32 + 1.0) / length).cos();
        *sample = (f32::from(*sample) * gain).round_ties_even() as i16;
    }
}

impl Frame {
    /// The same audio, fading to silence over its length.
    #[must_use]
    pub fn faded_out(&self) -> Self {
        let mut samples: Vec<i16> = self.ulaw().iter().map(|it| ulaw::decode(*it)).collect();
        fade_out(&mut samples);
        let codes: Vec<u8> = samples.iter().map(|it| ulaw::encode(*it)).collect();
        Self::from_ulaw(&codes)
    }

    /// The same audio with every sample multiplied; more than full scale is limited to it.
    #[must_use]
    pub fn scaled(&self, gain: f32) -> Self {
        let mut codes = [0; crate::FRAME_BYTES];
        for (code, it) in codes.iter_mut().zip(self.ulaw()) {
            // `as` saturates.
            *code = ulaw::encode((f32::from(ulaw::decode(*it)) * gain).round_ties_even() as i16);
        }
        Self::from_ulaw(&codes[..self.ulaw().len()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SILENCE;

    #[test]
    fn it_begins_at_full_strength_and_ends_in_silence_without_a_step() {
        let mut samples = [10_000; 240];
        fade_out(&mut samples);
        assert!(samples[0] > 9990 && samples[239] == 0, "{} {}", samples[0], samples[239]);
        assert!(samples.windows(2).all(|it| it[0] >= it[1] && it[0] - it[1] < 70));
        fade_out(&mut []);
    }

    #[test]
    fn a_frame_keeps_its_length() {
        let faded = Frame::from_ulaw(&[0x80; 100]).faded_out();
        assert_eq!((faded.ulaw().len(), faded.ulaw()[99]), (100, SILENCE));
        assert_eq!(Frame::from_ulaw(&[]).faded_out().ulaw(), []);
    }

    #[test]
    fn a_scaled_frame_is_quieter_or_louder_and_never_wraps() {
        let frame = Frame::from_ulaw(&[ulaw::encode(8000), ulaw::encode(-30_000)]);
        let samples = |gain: f32| frame.scaled(gain).ulaw().iter().map(|it| ulaw::decode(*it)).collect::<Vec<_>>();
        assert!((-7700..=-7300).contains(&samples(0.25)[1]) && (1900..=2100).contains(&samples(0.25)[0]));
        assert_eq!(samples(4.0), [ulaw::decode(ulaw::encode(32_000)), ulaw::decode(ulaw::encode(-32_767))]);
        assert_eq!(Frame::from_ulaw(&[]).scaled(0.5).ulaw(), []);
    }
}
