//! A-law: what most of the world's telephone trunks speak. Used for files and foreign lines; Twilio always sends μ-law.
//!
//! Source: ITU-T G.711 (11/1988), table 1a: 13 bits, one's complement for negatives, every other bit inverted.

/// Digital silence: the smallest positive value. A-law has no zero.
pub const SILENCE: u8 = 0xD5;

/// Linear value of every A-law code, in `-32_256..=32_256`.
pub static DECODE: [i16; 256] = {
    let mut table = [0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = decode_by_rule(code as u8);
        code += 1;
    }
    table
};

/// A-law code of the upper 13 bits of a sample, indexed by those bits.
static ENCODE: [u8; 8192] = {
    let mut table = [0; 8192];
    let mut bits = 0;
    while bits < 8192 {
        table[bits] = encode_by_rule((bits << 3) as u16 as i16);
        bits += 1;
    }
    table
};

/// Expands one A-law code to linear PCM.
#[inline]
pub fn decode(code: u8) -> i16 {
    DECODE[usize::from(code)]
}

/// Compresses one linear sample; its lowest three bits do not matter.
#[inline]
pub fn encode(sample: i16) -> u8 {
    ENCODE[usize::from(sample as u16 >> 3)]
}

const fn decode_by_rule(code: u8) -> i16 {
    let code = code ^ 0x55;
    let step = ((code & 15) as i32) << 4;
    let segment = (code >> 4) & 7;
    let magnitude = if segment == 0 { step + 8 } else { (step + 0x108) << (segment - 1) };
    (if code & 0x80 != 0 { magnitude } else { -magnitude }) as i16
}

const fn encode_by_rule(sample: i16) -> u8 {
    let value = (sample >> 3) as i32;
    let (mask, magnitude) = if value < 0 { (0x55, !value) } else { (0xd5, value) };
    // Segments 0 and 1 share a step; from there on each is twice as wide.
    let segment = if magnitude < 32 { 0 } else { 27 - magnitude.leading_zeros() as i32 };
    let step = if segment < 2 { magnitude >> 1 } else { magnitude >> segment };
    mask ^ ((segment << 4) | (step & 15)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::g711::crc;

    #[test]
    fn all_codes_and_samples_are_as_g711_says() {
        assert_eq!(crc((0..=255).flat_map(|code| decode(code).to_le_bytes())), 0x9d76_4657);
        assert_eq!(crc((i16::MIN..=i16::MAX).map(encode)), 0x9133_796e);
    }

    #[test]
    fn round_trip_is_identity() {
        assert!((0..=255).all(|code| encode(decode(code)) == code));
        assert_eq!(encode(0), SILENCE);
    }
}
