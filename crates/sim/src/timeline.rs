//! What truly happened, as the simulators saw it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Who saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// The telephone network and the caller on it.
    Telephone,
    /// The AI provider.
    Provider,
}

/// One thing that happened. Numbers are milliseconds unless they say otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moment {
    // The telephone network.
    Webhook {
        path: String,
        status: u16,
        answer: String,
    },
    StreamOpened {
        stream_sid: String,
    },
    /// The stream's socket is closed; `code` is what the server closed it with.
    StreamClosed {
        code: Option<u16>,
    },
    /// The caller's side lost its connection without a close.
    StreamLost,
    StreamRefused {
        status: u16,
    },
    CallerSays {
        utterance: &'static str,
    },
    CallerSaid {
        utterance: &'static str,
    },
    CallerHeard {
        utterance: Option<&'static str>,
        ms: usize,
        complete: bool,
    },
    KeyPressed {
        key: char,
    },
    /// The server sent `clear`; so much was thrown away, and so much of the caller's speech had passed by then.
    Cleared {
        discarded_ms: usize,
        after_speech_ms: Option<usize>,
    },
    /// Twilio's error or warning.
    Warning {
        code: u32,
        text: String,
    },
    /// Something else was ordered of a live call, by REST.
    Updated,
    /// Somebody else was rung, with this outcome.
    Dialled {
        status: &'static str,
    },
    CallEnded {
        status: &'static str,
        seconds: u64,
    },
    /// A step of the caller's script did not happen.
    StepFailed {
        step: String,
    },
    // The provider.
    SessionOpened,
    SessionConfigured {
        input: String,
        output: String,
    },
    SessionRefused {
        reason: String,
    },
    CallerUnderstood {
        utterance: Option<&'static str>,
        ms: usize,
    },
    Replayed {
        items: usize,
    },
    SpeaksTo {
        utterance: &'static str,
    },
    Interrupted {
        utterance: &'static str,
        generated_ms: usize,
    },
    Truncated {
        utterance: &'static str,
        heard_ms: usize,
        generated_ms: usize,
    },
    Deleted {
        utterance: &'static str,
    },
    ToolCalled {
        name: String,
    },
    ToolAnswered {
        name: String,
        output: String,
    },
    ToldInText {
        text: String,
    },
    /// The client broke the protocol and was told so.
    ClientError {
        code: String,
        detail: String,
    },
    SessionClosed {
        code: Option<u16>,
    },
}

/// Sees every moment as it happens.
pub type Watcher = Arc<dyn Fn(Duration, Party, &Moment) + Send + Sync>;

/// A record of moments, shared by everybody in a simulation. Cheap to clone.
#[derive(Clone)]
pub struct Timeline {
    start: Instant,
    moments: Arc<Mutex<Vec<(Duration, Party, Moment)>>>,
    watcher: Option<Watcher>,
}

impl Timeline {
    /// An empty record that begins now; `watcher` sees every moment as it happens.
    pub fn new(watcher: Option<Watcher>) -> Self {
        Self { start: Instant::now(), moments: Arc::default(), watcher }
    }

    pub(crate) fn note(&self, party: Party, moment: Moment) {
        let at = self.start.elapsed();
        if let Some(watcher) = &self.watcher {
            watcher(at, party, &moment);
        }
        self.moments.lock().unwrap_or_else(PoisonError::into_inner).push((at, party, moment));
    }

    /// Everything so far, in order.
    pub fn moments(&self) -> Vec<(Duration, Party, Moment)> {
        self.moments.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins anew, for long runs.
    pub fn forget(&self) {
        *self.moments.lock().unwrap_or_else(PoisonError::into_inner) = Vec::new();
    }

    /// How often something happened.
    pub fn count(&self, like: impl Fn(&Moment) -> bool) -> usize {
        self.moments.lock().unwrap_or_else(PoisonError::into_inner).iter().filter(|it| like(&it.2)).count()
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |it: &Option<&'static str>| it.map_or_else(|| "something not understood".to_owned(), |it| format!("‹{it}›"));
        match self {
            Self::Webhook { path, status, answer } => write!(f, "POST {path} → {status} {answer}"),
            Self::StreamOpened { .. } => f.write_str("media stream open"),
            Self::StreamClosed { code } => {
                write!(f, "media stream closed{}", code.map_or(String::new(), |it| format!(" by the server ({it})")))
            }
            Self::StreamLost => f.write_str("media stream lost"),
            Self::Updated => f.write_str("the call was updated"),
            Self::Dialled { status } => write!(f, "somebody else was rung: {status}"),
            Self::StreamRefused { status } => write!(f, "media stream refused: HTTP {status}"),
            Self::CallerSays { utterance } => write!(f, "caller begins ‹{utterance}›"),
            Self::CallerSaid { utterance } => write!(f, "caller has said ‹{utterance}›"),
            Self::CallerHeard { utterance, ms, complete } => {
                write!(f, "caller heard {} ({ms} ms{})", name(utterance), if *complete { ", to its end" } else { ", cut off" })
            }
            Self::KeyPressed { key } => write!(f, "caller presses {key}"),
            Self::Cleared { discarded_ms, after_speech_ms } => {
                write!(f, "clear: {discarded_ms} ms thrown away")?;
                after_speech_ms.map_or(Ok(()), |it| write!(f, ", {it} ms into the caller's words"))
            }
            Self::Warning { code, text } => write!(f, "Twilio {code}: {text}"),
            Self::CallEnded { status, seconds } => write!(f, "call over: {status} after {seconds} s"),
            Self::StepFailed { step } => write!(f, "did not happen: {step}"),
            Self::SessionOpened => f.write_str("session open"),
            Self::SessionConfigured { input, output } => write!(f, "session configured: in {input}, out {output}"),
            Self::SessionRefused { reason } => write!(f, "session refused: {reason}"),
            Self::CallerUnderstood { utterance, ms } => write!(f, "understood {} ({ms} ms)", name(utterance)),
            Self::Replayed { items } => write!(f, "told {items} things that were said before"),
            Self::SpeaksTo { utterance } => write!(f, "answers ‹{utterance}›"),
            Self::Interrupted { utterance, generated_ms } => {
                write!(f, "hears the caller and stops ‹{utterance}› after {generated_ms} ms generated")
            }
            Self::Truncated { utterance, heard_ms, generated_ms } => {
                write!(f, "told that {heard_ms} of {generated_ms} ms of ‹{utterance}› were heard")
            }
            Self::Deleted { utterance } => write!(f, "told that nothing of ‹{utterance}› was heard"),
            Self::ToolCalled { name } => write!(f, "calls the tool {name}"),
            Self::ToolAnswered { name, output } => write!(f, "got the answer of {name}: {output}"),
            Self::ToldInText { text } => write!(f, "told: {text}"),
            Self::ClientError { code, detail } => write!(f, "refuses a message: {code}: {detail}"),
            Self::SessionClosed { code } => write!(f, "session closed{}", code.map_or(String::new(), |it| format!(" ({it})"))),
        }
    }
}
