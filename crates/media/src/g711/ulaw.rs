//! μ-law: what Twilio sends and takes.
//!
//! Source: ITU-T G.711 (11/1988), table 2a; the encoder takes the magnitude first, as libsndfile does, so that
//! `encode(-x)` and `encode(x)` differ in the sign bit alone.

/// Digital silence: positive zero.
pub const SILENCE: u8 = 0xFF;

/// Linear value of every μ-law code, in `-32_124..=32_124`.
pub static DECODE: [i16; 256] = {
    let mut table = [0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = decode_by_rule(code as u8);
        code += 1;
    }
    table
};

/// Expands one μ-law code to linear PCM.
#[inline]
pub fn decode(code: u8) -> i16 {
    DECODE[usize::from(code)]
}

/// Compresses one linear sample; values beyond ±32 635 clip.
///
/// The segment is where the leading one stands, and the step the four bits behind it: a float's exponent and the beginning of
/// its fraction. Rows of samples are compressed several at a time so, which a table of 64 kB would not be.
#[inline]
pub fn encode(sample: i16) -> u8 {
    let biased = i32::from(sample).abs().min(32_635) + 132;
    let segment_and_step = ((biased as f32).to_bits() >> 19) - ((127 + 7) << 4);
    let mask = if sample < 0 { 0x7f } else { 0xff };
    mask ^ segment_and_step as u8
}

const fn decode_by_rule(code: u8) -> i16 {
    let code = !code;
    let magnitude = ((((code & 15) as i32) << 3) + 132) << ((code >> 4) & 7);
    (if code & 0x80 != 0 { 132 - magnitude } else { magnitude - 132 }) as i16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::g711::crc;

    #[test]
    fn all_256_codes_expand_as_g711_says() {
        assert_eq!(crc((0..=255).flat_map(|code| decode(code).to_le_bytes())), 0x0c84_7a9f);
    }

    #[test]
    fn all_65536_samples_compress_as_g711_says() {
        assert_eq!(crc((i16::MIN..=i16::MAX).map(encode)), 0xeb8e_daa8);
        assert_eq!(crc((0..=i16::MAX).map(encode)), 0x542f_2ac0);
        assert_eq!(crc((i16::MIN..=-1).rev().map(encode)), 0xb737_e966);
    }

    #[test]
    fn round_trip_is_identity_but_for_negative_zero() {
        for code in 0..=255 {
            assert_eq!(encode(decode(code)), if code == 0x7f { 0xff } else { code });
        }
        assert!((1..=i16::MAX).all(|it| encode(-it) == encode(it) ^ 0x80));
    }

    #[test]
    fn single_values() {
        for (sample, code) in
            [(0, 0xff), (3, 0xff), (4, 0xfe), (-3, 0x7f), (-4, 0x7e), (1000, 0xce), (-32_768, 0x00), (32_767, 0x80)]
        {
            assert_eq!(encode(sample), code, "{sample}");
        }
        for (code, sample) in [(0x00, -32_124), (0x0f, -16_764), (0x80, 32_124), (0xef, 132), (0x7f, 0), (0xff, 0)] {
            assert_eq!(decode(code), sample, "{code:02x}");
        }
    }
}
