//! Files from other encoders, cut files, damaged files, files that are none.

use std::io::Cursor;
use std::time::Duration;

use media::file::{Container, Limits, ReadError, Reader, Spec};
use media::resample::convert;
use proptest::prelude::*;

const FILES: [(&str, &[u8], Container, u32, u16); 7] = [
    ("mp3", include_bytes!("../../../fixtures/files/stereo-22k.mp3"), Container::Mp3, 22_050, 2),
    ("m4a", include_bytes!("../../../fixtures/files/mono-44k.m4a"), Container::M4a, 44_100, 1),
    ("aac", include_bytes!("../../../fixtures/files/mono-44k.aac"), Container::Aac, 44_100, 1),
    ("vorbis", include_bytes!("../../../fixtures/files/stereo-48k-vorbis.ogg"), Container::OggVorbis, 48_000, 2),
    ("opus", include_bytes!("../../../fixtures/files/mono-48k.opus"), Container::OggOpus, 48_000, 1),
    ("alaw", include_bytes!("../../../fixtures/files/alaw-8k.wav"), Container::Wav, 8000, 1),
    ("24 bit", include_bytes!("../../../fixtures/files/24bit-16k.wav"), Container::Wav, 16_000, 1),
];

fn read(bytes: &[u8], limits: Limits) -> Result<(Spec, Vec<i16>), ReadError> {
    let mut reader = Reader::open(Cursor::new(bytes.to_vec()), limits)?;
    let samples = reader.read_all()?;
    assert_eq!(samples.len() % usize::from(reader.spec().channels), 0, "whole frames only");
    Ok((reader.spec(), samples))
}

/// Best correlation of `a` with `b` shifted by up to 100 ms: encoders delay.
fn likeness(a: &[i16], b: &[i16]) -> f64 {
    let product = |a: &[i16], b: &[i16]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let scale = (product(a, a) * product(b, b)).sqrt();
    (0..800).map(|lag| product(&a[lag.min(a.len())..], b).abs() / scale).fold(0.0, f64::max)
}

#[test]
fn every_kind_of_upload_is_understood() {
    let original: Vec<i16> = include_bytes!("../../../fixtures/speech/en/assistant-farewell.pcm24")
        .chunks_exact(2)
        .map(|it| i16::from_le_bytes([it[0], it[1]]))
        .take(36_000)
        .collect();
    let original = convert(&original, 24_000, 8000).unwrap();
    for (name, bytes, container, rate, channels) in FILES {
        let (spec, samples) = read(bytes, Limits::UPLOAD).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(spec, Spec { container, rate, channels }, "{name}");
        let left: Vec<i16> = samples.iter().step_by(usize::from(channels)).copied().collect();
        let heard = convert(&left, rate, 8000).unwrap();
        assert!(heard.len().abs_diff(12_000) < 1000, "{name}: {} samples of 12000", heard.len());
        let likeness = likeness(&heard, &original);
        assert!(likeness > 0.9, "{name}: {likeness:.3}");
    }
}

#[test]
fn limits_hold() {
    for (name, bytes, ..) in FILES {
        let small = Limits { bytes: bytes.len() as u64 - 1, ..Limits::UPLOAD };
        assert!(matches!(read(bytes, small), Err(ReadError::TooLarge(_))), "{name}");
        let short = Limits { duration: Duration::from_millis(700), ..Limits::UPLOAD };
        assert!(matches!(read(bytes, short), Err(ReadError::TooLong(_))), "{name}");
        let little = Limits { memory: 10_000, ..Limits::UPLOAD };
        assert!(matches!(read(bytes, little), Err(ReadError::TooMuch(10_000))), "{name}");
        let mut reader = Reader::open(Cursor::new(bytes.to_vec()), Limits::UPLOAD).unwrap();
        let mut packets = 0;
        let stopped = reader.read_all_while(|progress| {
            packets += 1;
            assert!((0.0..=1.0).contains(&progress), "{name}: {progress}");
            packets < 3
        });
        assert!(matches!(stopped, Err(ReadError::Stopped)) && packets == 3, "{name}");
    }
}

#[test]
fn what_is_no_audio_is_refused_in_plain_words() {
    for bytes in [&b""[..], b"<html>not found</html>", &[0; 5000], b"RIFF\x24\0\0\0WAVE", b"OggS\0\x02OpusHead"] {
        let error = read(bytes, Limits::UPLOAD).unwrap_err().to_string();
        assert!(error.contains("no audio") || error.contains("damaged"), "{error}");
    }
}

#[test]
fn a_cut_file_gives_what_it_has() {
    for (name, bytes, ..) in FILES {
        let (_, whole) = read(bytes, Limits::UPLOAD).unwrap();
        // An MP4 keeps its directory at the end: without it there is nothing to find.
        if name != "m4a" {
            let (_, part) = read(&bytes[..bytes.len() * 2 / 3], Limits::UPLOAD).unwrap_or_else(|error| panic!("{name}: {error}"));
            // Ogg is lost by the page, and pages may be long.
            assert!(part.len() > whole.len() / 5 && part.len() < whole.len(), "{name}: {} of {}", part.len(), whole.len());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn damage_never_panics_and_never_multiplies(file in 0..FILES.len(), hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20), cut in any::<prop::sample::Index>()) {
        let mut bytes = FILES[file].1.to_vec();
        for (index, value) in hits {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        let limits = Limits { duration: Duration::from_secs(20), ..Limits::UPLOAD };
        if let Ok((spec, samples)) = read(&bytes, limits) {
            prop_assert!(samples.len() as f64 / f64::from(spec.rate) / f64::from(spec.channels) <= 20.0);
        }
    }
}
