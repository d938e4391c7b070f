//! The recorded utterances, embedded: made by `cargo xtask fixtures` from `fixtures/speech/utterances.txt`.

/// One recorded sentence.
#[derive(Debug)]
pub struct Utterance {
    pub name: &'static str,
    pub text: &'static str,
    /// μ-law, 8 kHz.
    pub ulaw: &'static [u8],
    /// PCM16, little endian, 24 kHz.
    pub pcm24: &'static [u8],
}

impl Utterance {
    /// Playing time.
    pub fn ms(&self) -> usize {
        self.ulaw.len() / media::BYTES_PER_MS
    }
}

/// All utterances of a language.
#[derive(Clone, Copy, Debug)]
pub struct Speech {
    pub caller: &'static [Utterance],
    pub assistant: &'static [Utterance],
}

macro_rules! utterances {
    ($language:literal, $role:literal, $($name:literal => $text:literal),+ $(,)?) => {
        &[$(Utterance {
            name: $name,
            text: $text,
            ulaw: include_bytes!(concat!("../../../fixtures/speech/", $language, "/", $role, "-", $name, ".ulaw")),
            pcm24: include_bytes!(concat!("../../../fixtures/speech/", $language, "/", $role, "-", $name, ".pcm24")),
        }),+]
    };
}

const ENGLISH: Speech = Speech {
    caller: utterances!("en", "caller",
        "ask-hours" => "Hello, when are you open on Friday?",
        "book" => "Sorry, just book a table for two at eight.",
        "mhm" => "Mm hmm.",
        "stop" => "Stop, that is enough.",
        "hello" => "Hello?",
    ),
    assistant: utterances!("en", "assistant",
        "greeting" => "Harbour Table, good evening. How can I help you?",
        "hours" => "We are open every day from noon until eleven at night, and on Fridays and Saturdays the kitchen stays open until midnight.",
        "booked" => "Of course. A table for two at eight. Press nine when you are done.",
        "resumed" => "I am back. You wanted a table for two at eight?",
        "farewell" => "Thank you for calling. Goodbye.",
    ),
};

const ROMANIAN: Speech = Speech {
    caller: utterances!("ro", "caller",
        "ask-hours" => "Bună ziua, când sunteți deschiși vineri?",
        "book" => "Scuze, rezervați doar o masă pentru doi la ora opt.",
        "mhm" => "Da, da.",
        "stop" => "Stop, ajunge.",
        "hello" => "Alo, cine e?",
    ),
    assistant: utterances!("ro", "assistant",
        "greeting" => "Masa din Port, bună seara. Cu ce vă pot ajuta?",
        "hours" => "Suntem deschiși în fiecare zi de la prânz până la unsprezece noaptea, iar vinerea și sâmbăta bucătăria rămâne deschisă până la miezul nopții.",
        "booked" => "Desigur. O masă pentru doi la ora opt. Apăsați nouă când ați terminat.",
        "resumed" => "Am revenit. Doreați o masă pentru doi la ora opt?",
        "farewell" => "Vă mulțumim pentru apel. La revedere.",
    ),
};

impl Speech {
    /// The utterances of `en` or `ro`.
    pub fn of(language: &str) -> Option<Self> {
        match language {
            "en" => Some(ENGLISH),
            "ro" => Some(ROMANIAN),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_that_were_spoken() {
        let script = include_str!("../../../fixtures/speech/utterances.txt");
        for (language, speech) in [("en", ENGLISH), ("ro", ROMANIAN)] {
            for (role, utterances) in [("caller", speech.caller), ("assistant", speech.assistant)] {
                for it in utterances {
                    let line = format!("{language} {role} {}: {}", it.name, it.text);
                    assert!(script.lines().any(|known| known == line), "{line}");
                    assert!(it.pcm24.len().abs_diff(it.ulaw.len() * 6) < 100, "{line}: both formats are equally long");
                }
            }
        }
    }
}
