#![no_main]

use libfuzzer_sys::fuzz_target;
use media::{Format, Rate, Transcoder};

const FORMATS: [Format; 5] = [
    Format::Ulaw8k,
    Format::Alaw8k,
    Format::Pcm16(Rate::Hz8000),
    Format::Pcm16(Rate::Hz16000),
    Format::Pcm16(Rate::Hz24000),
];

fuzz_target!(|input: (u8, u8, Vec<u8>, Vec<u8>)| {
    let (from, to, audio, cuts) = input;
    let (from, to) = (FORMATS[usize::from(from) % 5], FORMATS[usize::from(to) % 5]);
    let (Ok(mut whole), Ok(mut pieces)) = (Transcoder::new(from, to), Transcoder::new(from, to)) else { return };
    let (mut at_once, mut in_pieces, mut rest) = (Vec::new(), Vec::new(), audio.as_slice());
    whole.push(&audio, &mut at_once);
    for cut in &cuts {
        let (piece, after) = rest.split_at(usize::from(*cut).min(rest.len()));
        pieces.push(piece, &mut in_pieces);
        rest = after;
    }
    pieces.push(rest, &mut in_pieces);
    assert_eq!(at_once, in_pieces);
    let ms = audio.len() / from.bytes_per_ms();
    assert!(at_once.len().abs_diff(ms * to.bytes_per_ms()) <= 2 * to.bytes_per_ms());
    whole.flush(&mut at_once);
    pieces.flush(&mut in_pieces);
    assert_eq!(at_once, in_pieces);
    whole.reset();
});
