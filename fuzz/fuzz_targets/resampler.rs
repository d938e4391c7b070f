#![no_main]

use libfuzzer_sys::fuzz_target;
use media::resample::convert;

fuzz_target!(|input: (u32, u32, Vec<i16>)| {
    let (from, to, samples) = input;
    let (from, to) = (from % 200_000, to % 200_000);
    if let Ok(out) = convert(&samples, from, to) {
        let expected = (samples.len() as u64 * u64::from(to) + u64::from(from) / 2) / u64::from(from);
        assert_eq!(out.len() as u64, expected);
    }
});
