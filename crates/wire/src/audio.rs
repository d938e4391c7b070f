//! Audio inside JSON: base64, standard alphabet, padded, into buffers that the caller keeps.

use base64_simd::STANDARD;

/// The text is not base64; nothing of it was used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("audio is not base64")]
pub struct NotBase64;

/// Replaces the contents of `audio` by the decoded bytes.
///
/// # Errors
/// [`NotBase64`]; `audio` is then empty.
pub fn decode(base64: &str, audio: &mut Vec<u8>) -> Result<(), NotBase64> {
    audio.clear();
    STANDARD.decode_append(base64, audio).map_err(|_| NotBase64)
}

/// Appends `audio` to `text`.
pub fn encode(audio: &[u8], text: &mut String) {
    STANDARD.encode_append(audio, text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(audio in prop::collection::vec(any::<u8>(), 0..700)) {
            let (mut text, mut back) = (String::new(), Vec::new());
            encode(&audio, &mut text);
            decode(&text, &mut back).unwrap();
            prop_assert_eq!(back, audio);
        }

        #[test]
        fn garbage_is_refused_and_leaves_nothing(text in ".{0,80}") {
            let mut audio = vec![1, 2, 3];
            if decode(&text, &mut audio).is_err() {
                prop_assert!(audio.is_empty());
            }
        }
    }
}
