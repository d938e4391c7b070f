//! What the simulated providers have in common: a pair of ears with a turn detector, and a voice that comes in bursts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use media::detect::SpeechDetector;
use media::{BYTES_PER_MS, Format, Frame, Rate, Transcoder};

use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::ear::{Ear, Heard};
use crate::script::{AssistantScript, Cause, Reply};
use crate::speech::{Speech, Utterance};
use crate::web::Socket;

/// How the provider deals with audio formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFormat {
    /// As asked: μ-law.
    Ulaw,
    /// Insists on PCM (24 kHz at OpenAI, 16 kHz at ElevenLabs), and says so.
    Pcm16,
    /// Says μ-law and sends PCM: seen in the field.
    Lies,
}

/// How a simulated provider behaves.
#[derive(Clone, Debug)]
pub struct Behaviour {
    pub script: AssistantScript,
    pub speech: Speech,
    pub format: OutputFormat,
    /// From the end of a turn to the first audio of the answer.
    pub thinking: Duration,
    /// The only key that is let in; an agent with an empty one is public (ElevenLabs).
    pub api_key: String,
    /// The session is closed after this long.
    pub session_max: Duration,
    /// From the connection to the configured session.
    pub setup: Duration,
    /// Speech is generated this many times faster than it plays.
    pub burst: f32,
    /// After so much speech the first session's socket breaks, in the middle of whatever it says.
    pub breaks_after: Option<Duration>,
    /// Set once it has broken.
    broken: Arc<AtomicBool>,
    /// The assistant ends the conversation by itself after this long (ElevenLabs).
    pub hangs_up_after: Option<Duration>,
    /// After so many answers the first session refuses every further request with a server error (OpenAI).
    pub poisoned_after: Option<usize>,
    /// This answer of the first session, from 1, is only written (OpenAI): what models do after a history of texts.
    pub text_only: Option<usize>,
    /// The agent's settings permit all overrides (ElevenLabs).
    pub permits_overrides: bool,
    /// Messages that no client expects, sent at the beginning of each session.
    pub nonsense: Vec<String>,
    /// After so many answers a session says nothing more and keeps its socket open: it hangs.
    pub answers_max: usize,
}

impl Behaviour {
    /// Answers after 300 ms, four times faster than real time, for an hour.
    pub fn new(script: AssistantScript, speech: Speech, format: OutputFormat, api_key: &str) -> Self {
        Self {
            script,
            speech,
            format,
            thinking: Duration::from_millis(300),
            api_key: api_key.to_owned(),
            session_max: Duration::from_secs(3600),
            setup: Duration::ZERO,
            burst: 4.0,
            breaks_after: None,
            hangs_up_after: None,
            poisoned_after: None,
            text_only: None,
            permits_overrides: false,
            broken: Arc::default(),
            nonsense: Vec::new(),
            answers_max: usize::MAX,
        }
    }

    /// Whether a session that has given so many answers refuses the next one.
    pub(crate) fn is_poisoned(&self, answers: usize) -> bool {
        self.poisoned_after.is_some_and(|it| answers >= it) && !self.broken.load(Ordering::Relaxed)
    }

    /// Whether the answer with this number, from 1, is only written.
    pub(crate) fn is_text_only(&self, answer: usize) -> bool {
        self.text_only == Some(answer) && !self.broken.load(Ordering::Relaxed)
    }

    /// The first session is over.
    pub(crate) fn heal(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// Whether the socket breaks now that so much was said.
    pub(crate) fn breaks(&self, spoken: Duration) -> bool {
        self.breaks_after.is_some_and(|it| spoken >= it) && !self.broken.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn utterance(&self, name: &str) -> Option<&'static Utterance> {
        self.speech.assistant.iter().find(|it| it.name == name)
    }

    pub(crate) fn reply(&self, cause: &Cause) -> Option<Reply> {
        self.script.reply(cause).cloned()
    }

    pub(crate) fn text_of(&self, name: &str) -> &'static str {
        self.speech.caller.iter().find(|it| it.name == name).map_or("", |it| it.text)
    }
}

/// Turn detection by real energy, and recognition of what was said.
pub(crate) struct Ears {
    to_ulaw: Transcoder,
    ulaw: Vec<u8>,
    pending: Vec<u8>,
    detector: SpeechDetector,
    ear: Ear,
    /// Milliseconds of audio received: the provider's clock.
    pub(crate) ms: usize,
    speaking: bool,
    quiet_ms: usize,
    pub(crate) silence_ms: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Turn {
    Started,
    Stopped(Option<Heard>),
}

impl Ears {
    pub(crate) fn new(known: &'static [Utterance], format: Format) -> Self {
        Self {
            to_ulaw: Transcoder::new(format, Format::Ulaw8k).expect("one side is μ-law"),
            ulaw: Vec::new(),
            pending: Vec::new(),
            detector: SpeechDetector::default(),
            ear: Ear::new(known),
            ms: 0,
            speaking: false,
            quiet_ms: 0,
            silence_ms: 500,
        }
    }

    pub(crate) fn listen(&mut self, audio: &[u8]) -> Vec<Turn> {
        self.ulaw.clear();
        self.to_ulaw.push(audio, &mut self.ulaw);
        self.pending.extend_from_slice(&self.ulaw);
        let whole = self.pending.len() / media::FRAME_BYTES * media::FRAME_BYTES;
        let frames: Vec<Frame> = Frame::cut(&self.pending[..whole]).collect();
        self.pending.drain(..whole);
        let mut turns = Vec::new();
        for frame in frames {
            self.ms += frame.ulaw().len() / BYTES_PER_MS;
            let ended = self.ear.listen(frame.ulaw());
            let speech = self.detector.push(frame.ulaw()).speech;
            self.quiet_ms = if speech { 0 } else { self.quiet_ms + media::FRAME_MS };
            if speech && !self.speaking {
                self.speaking = true;
                turns.push(Turn::Started);
            } else if self.speaking && self.quiet_ms >= self.silence_ms {
                self.speaking = false;
                turns.push(Turn::Stopped(self.ear.end().or(ended)));
            }
        }
        turns
    }
}

/// What a provider's session will do later, and the next thing that happens to it.
pub(crate) struct Agenda<D> {
    due: Vec<(Instant, u64, D)>,
    numbered: u64,
}

/// What happens to a session.
pub(crate) enum Arrived<D> {
    /// A message of the client.
    Text(Utf8Bytes),
    /// The client broke the rule that everything is text.
    Binary,
    /// The client is gone, with the code of its close.
    Closed(Option<u16>),
    /// The time of something planned has come.
    Due(D),
}

impl<D> Agenda<D> {
    pub(crate) fn new() -> Self {
        Self { due: Vec::new(), numbered: 0 }
    }

    pub(crate) fn later(&mut self, after: Duration, due: D) {
        self.numbered += 1;
        self.due.push((Instant::now() + after, self.numbered, due));
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(&D) -> bool) {
        self.due.retain(|it| keep(&it.2));
    }

    /// Waits for a message or for the earliest plan; plans of one instant happen in the order they were made.
    pub(crate) async fn next(&mut self, socket: &mut Socket) -> Arrived<D> {
        loop {
            let earliest = self.due.iter().enumerate().min_by_key(|(_, it)| (it.0, it.1)).map(|(index, it)| (index, it.0));
            let planned = async {
                match earliest {
                    Some((index, at)) => {
                        sleep_until(at).await;
                        index
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                message = socket.next() => match message {
                    Some(Ok(Message::Text(text))) => return Arrived::Text(text),
                    Some(Ok(Message::Binary(_))) => return Arrived::Binary,
                    Some(Ok(Message::Close(frame))) => {
                        // The answer to the close goes out with the next poll.
                        let _ = socket.next().await;
                        return Arrived::Closed(frame.map(|it| it.code.into()));
                    }
                    Some(Ok(_)) => (),
                    Some(Err(_)) | None => return Arrived::Closed(None),
                },
                index = planned => return Arrived::Due(self.due.swap_remove(index).2),
            }
        }
    }
}

/// Sizes of delivered pieces in bytes: never whole frames, sometimes half a sample.
const PIECES: [usize; 7] = [320, 1280, 1234, 801, 2663, 4000, 1166];

/// An utterance as pieces in a format, each with its playing time.
pub(crate) fn pieces(utterance: &Utterance, format: Format) -> Vec<(Vec<u8>, Duration)> {
    let audio = match format {
        Format::Ulaw8k => utterance.ulaw.to_vec(),
        Format::Pcm16(Rate::Hz24000) => utterance.pcm24.to_vec(),
        other => {
            let mut audio = Vec::new();
            Transcoder::new(Format::Ulaw8k, other).expect("one side is μ-law").push(utterance.ulaw, &mut audio);
            audio
        }
    };
    let (mut rest, mut found) = (audio.as_slice(), Vec::new());
    for size in PIECES.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at((*size).min(rest.len()));
        let time = Duration::from_micros((piece.len() * 1000 / format.bytes_per_ms()) as u64);
        found.push((piece.to_vec(), time));
        rest = after;
    }
    found
}
