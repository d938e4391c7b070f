//! Words that take no floor.

use std::collections::BTreeSet;
use std::sync::Arc;

/// What callers say to show that they are listening: "mhm", "okay", "da, da". Shared by all calls of a language.
#[derive(Clone, Debug, Default)]
pub struct BackChannel(Arc<BTreeSet<String>>);

impl BackChannel {
    /// Takes words and short phrases in any case and punctuation.
    pub fn new<'a>(phrases: impl IntoIterator<Item = &'a str>) -> Self {
        Self(Arc::new(phrases.into_iter().map(plain).filter(|it| !it.is_empty()).collect()))
    }

    /// Whether the text holds nothing else; an empty one holds nothing at all. At most eight words are looked at: whoever
    /// says more has something to say.
    pub fn covers(&self, text: &str) -> bool {
        let text = plain(text);
        let words: Vec<&str> = text.split_whitespace().collect();
        words.len() <= 8 && self.covers_from(&words)
    }

    /// Whether phrases of the list, one after the other, make up the words.
    fn covers_from(&self, words: &[&str]) -> bool {
        words.is_empty() || (1..=words.len()).any(|it| self.0.contains(&words[..it].join(" ")) && self.covers_from(&words[it..]))
    }
}

/// Small letters, one space between words, no punctuation.
fn plain(text: &str) -> String {
    let letters: String =
        text.chars().map(|it| if it.is_alphanumeric() || it == '\'' { it } else { ' ' }).flat_map(char::to_lowercase).collect();
    letters.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_wholly_listed_is_covered() {
        let list = BackChannel::new(["uh-huh", "OK", "mhm", "i see", "da", "așa e"]);
        for covered in ["Uh-huh.", "ok, OK!", "Mhm… I see.", "DA", "Așa e, da.", "", " … "] {
            assert!(list.covers(covered), "{covered}");
        }
        for talk in ["ok stop", "no", "I", "see", "wait", "da, dar când?", "da da da da da da da da da"] {
            assert!(!list.covers(talk), "{talk}");
        }
        assert!(!BackChannel::default().covers("ok") && BackChannel::default().covers(""));
    }
}
