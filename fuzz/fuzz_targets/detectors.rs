#![no_main]

use libfuzzer_sys::fuzz_target;
use media::detect::{BeepDetector, EchoDetector, Level, SpeechDetector, dtmf};
use media::file::Peaks;
use media::g711::ulaw;
use media::{Encoding, Sniffer};

fuzz_target!(|input: (Vec<u8>, u8, u32)| {
    let (audio, piece, ahead) = input;
    let (mut speech, mut keys, mut beeps, mut echo) =
        (SpeechDetector::default(), dtmf::Detector::default(), BeepDetector::default(), EchoDetector::default());
    let (mut sniffer, mut found, mut peaks) = (Sniffer::new(Encoding::Pcm16), String::new(), Peaks::new(64));
    for codes in audio.chunks(usize::from(piece).max(1)) {
        let samples: Vec<i16> = codes.iter().map(|it| ulaw::decode(*it)).collect();
        speech.played(codes, ahead);
        speech.push(codes);
        keys.push(&samples, &mut found);
        beeps.push(&samples);
        echo.played(&samples);
        echo.heard(&samples);
        sniffer.push(codes);
        peaks.push(samples.iter().copied());
        assert!(Level::of(&samples).dbfs.is_finite());
    }
    speech.cleared();
    if let Some(echo) = echo.compare() {
        assert!((0.0..=1.001).contains(&echo.similarity));
    }
    assert!(peaks.peaks().len() <= 64);
    assert!(speech.line().speech_dbfs.is_none_or(f32::is_finite));
    let _ = dtmf::tones(&String::from_utf8_lossy(&audio[..audio.len().min(20)]));
});
