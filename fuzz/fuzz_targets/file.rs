#![no_main]

use std::io::Cursor;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use media::file::{Limits, Reader};

const LIMITS: Limits = Limits { bytes: 1 << 20, duration: Duration::from_secs(60), ..Limits::UPLOAD };

fuzz_target!(|bytes: &[u8]| {
    if let Ok(mut reader) = Reader::open(Cursor::new(bytes.to_vec()), LIMITS) {
        let spec = reader.spec();
        let mut samples = Vec::new();
        let mut frames = 0;
        while let Ok(true) = reader.read(&mut samples) {
            frames += samples.len() / usize::from(spec.channels);
            samples.clear();
        }
        assert!(frames as u64 <= 61 * u64::from(spec.rate));
    }
});
