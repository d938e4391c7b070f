//! What we say ourselves, per language: as audio in a stream, as text for TwiML.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use call::BackChannel;

/// Languages we have phrases in. Others use English.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Language {
    #[default]
    English,
    Romanian,
}

impl Language {
    /// ISO 639-1, for providers and records.
    pub fn code(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Romanian => "ro",
        }
    }

    /// BCP 47, for `<Say language>`.
    pub fn say(self) -> &'static str {
        match self {
            Self::English => "en-US",
            Self::Romanian => "ro-RO",
        }
    }

    /// "Sorry, the line dropped for a moment", μ-law 8 kHz.
    pub(crate) fn cut_off(self) -> Option<Arc<[u8]>> {
        Some(match self {
            Self::English => Arc::from(include_bytes!("../phrases/en/cut-off.ulaw").as_slice()),
            Self::Romanian => Arc::from(include_bytes!("../phrases/ro/cut-off.ulaw").as_slice()),
        })
    }

    /// Where the caller knows why.
    pub(crate) fn nothing(self) -> Option<Arc<[u8]>> {
        None
    }

    /// "One moment, please", μ-law 8 kHz.
    pub(crate) fn one_moment(self) -> Arc<[u8]> {
        static SHARED: LazyLock<[Arc<[u8]>; 2]> = LazyLock::new(|| {
            let sounds: [&[u8]; 2] =
                [include_bytes!("../phrases/en/one-moment.ulaw"), include_bytes!("../phrases/ro/one-moment.ulaw")];
            sounds.map(Arc::from)
        });
        SHARED[self as usize].clone()
    }

    /// What is said while a tool takes its time, μ-law 8 kHz, in turn.
    pub(crate) fn fillers(self) -> Vec<Arc<[u8]>> {
        static SHARED: LazyLock<[[Arc<[u8]>; 2]; 2]> = LazyLock::new(|| {
            let sounds: [[&[u8]; 2]; 2] = [
                [include_bytes!("../phrases/en/checking.ulaw"), include_bytes!("../phrases/en/still-checking.ulaw")],
                [include_bytes!("../phrases/ro/checking.ulaw"), include_bytes!("../phrases/ro/still-checking.ulaw")],
            ];
            sounds.map(|it| it.map(Arc::from))
        });
        SHARED[self as usize].to_vec()
    }

    /// What callers say without wanting the floor; `more` are the operator's own.
    pub fn back_channel(self, more: &[String]) -> BackChannel {
        let list = match self {
            Self::English => include_str!("../phrases/en/back-channel.txt"),
            Self::Romanian => include_str!("../phrases/ro/back-channel.txt"),
        };
        BackChannel::new(list.lines().filter(|it| !it.starts_with('#')).chain(more.iter().map(String::as_str)))
    }

    /// When nothing else is left to offer.
    pub(crate) fn apology(self) -> &'static str {
        match self {
            Self::English => "We are sorry, we cannot take your call right now. Please try again later.",
            Self::Romanian => "Ne pare rău, nu vă putem răspunde acum. Vă rugăm să reveniți mai târziu.",
        }
    }

    /// When every place is taken.
    pub(crate) fn busy(self) -> &'static str {
        match self {
            Self::English => "All our lines are busy at the moment. Please call again in a few minutes.",
            Self::Romanian => "Toate liniile sunt ocupate momentan. Vă rugăm să sunați din nou peste câteva minute.",
        }
    }

    /// For a number that no route knows.
    pub(crate) fn not_in_service(self) -> &'static str {
        match self {
            Self::English => "This number is not in service.",
            Self::Romanian => "Acest număr nu este în funcțiune.",
        }
    }
}

impl FromStr for Language {
    type Err = String;

    /// Takes `en`, `ro`, and regional forms such as `ro-RO`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split('-').next().unwrap_or_default().to_ascii_lowercase().as_str() {
            "en" => Ok(Self::English),
            "ro" => Ok(Self::Romanian),
            _ => Err("expected en or ro".into()),
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}
