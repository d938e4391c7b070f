#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use media::Frame;
use media::enhance::{Ambience, Bed, Chain, GainControl, NoiseSuppression};

static BED: LazyLock<Arc<Bed>> = LazyLock::new(|| {
    let tone: Vec<i16> = (0..9000).map(|n| (n * 7 % 2000) as i16).collect();
    Arc::new(Bed::new(&tone, 8000, -30.0).expect("it is long and loud enough"))
});

fuzz_target!(|audio: &[u8]| {
    let mut chain =
        Chain::default().with(NoiseSuppression::default()).with(GainControl::default()).with(Ambience::new(BED.clone()));
    for frame in Frame::cut(audio) {
        chain.process(&frame);
        let _ = frame.faded_out();
    }
});
