//! OpenAI Realtime, the GA shapes.
//!
//! Source: the official Python package's types and the published OpenAPI document. The beta spellings of the delta
//! events are read as the GA ones (old gateways and Azure versions still send them); only GA is printed.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::template::Template;
use crate::{Malformed, Number, Text, audio};

/// What the service sends, as far as a bridge can use it.
#[derive(Debug)]
pub enum ServerEvent<'a> {
    /// First event of a session, with the server's defaults.
    SessionCreated(Session),
    /// The configuration now in force. Audio may flow once this shows the wanted formats.
    SessionUpdated(Session),
    /// The detector heard the caller begin.
    SpeechStarted,
    /// The detector heard the caller end; what they said will be this item.
    SpeechStopped { item_id: Option<Text<'a>> },
    /// The caller's turn became an item.
    Committed { item_id: Text<'a> },
    /// An answer begins.
    ResponseCreated { response_id: String },
    /// A piece of the answer's audio: base64 in the session's output format, any length.
    AudioDelta { response_id: Text<'a>, item_id: Text<'a>, delta: Text<'a> },
    /// The item's audio is complete, played or not.
    AudioDone { response_id: Text<'a>, item_id: Text<'a> },
    /// A piece of the words that the audio says; usually ahead of it.
    TranscriptDelta { item_id: Text<'a>, delta: Text<'a> },
    /// All words of the item.
    TranscriptDone { item_id: Text<'a>, transcript: Text<'a> },
    /// What the caller said in an item, from the separate transcription model.
    CallerTranscript { item_id: Text<'a>, transcript: Text<'a> },
    /// The caller's turn stays without text.
    CallerTranscriptFailed { item_id: Text<'a> },
    /// An output item is complete; function calls are taken from here and nowhere else.
    OutputItemDone { response_id: Text<'a>, item: Item },
    /// The answer is over, whatever its outcome.
    ResponseDone(Response),
    /// Confirms a truncation.
    Truncated { item_id: Text<'a>, audio_end_ms: u64 },
    /// What is left of the quota.
    RateLimits(Vec<RateLimit>),
    /// Most errors leave the session open; `code` decides.
    Error(ErrorBody),
    /// An event that a bridge needs not act on, or does not know.
    Other(Text<'a>),
}

/// The parts of a session that are checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// Format of what we send; `None` when the session object does not say.
    pub input: Option<AudioFormat>,
    /// Format of what the service announces to send.
    pub output: Option<AudioFormat>,
    /// Unix seconds at which the service closes the session.
    pub expires_at: Option<u64>,
}

/// Audio formats of the service; PCM is 16-bit little endian.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type")]
pub enum AudioFormat {
    /// μ-law at 8 kHz, without a `rate` key.
    #[serde(rename = "audio/pcmu")]
    Pcmu,
    /// A-law at 8 kHz.
    #[serde(rename = "audio/pcma")]
    Pcma,
    /// Linear, 24 kHz the only rate.
    #[serde(rename = "audio/pcm")]
    Pcm {
        /// Samples per second.
        rate: u64,
    },
}

/// An item as it stands in `response.output_item.done`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Item {
    /// The service's id.
    pub id: Option<String>,
    /// `message`, `function_call`, …
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// `completed` means that arguments are whole.
    pub status: Option<String>,
    /// Function name.
    pub name: Option<String>,
    /// Id to answer a function call by.
    pub call_id: Option<String>,
    /// JSON as a string; may be invalid.
    pub arguments: Option<String>,
}

/// A finished answer.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Response {
    /// The service's id.
    pub id: Option<String>,
    /// `completed`, `cancelled`, `incomplete`, `failed`.
    pub status: Option<String>,
    /// Why it is not `completed`.
    pub status_details: Option<StatusDetails>,
    /// Tokens, billed per response.
    pub usage: Option<Usage>,
    /// What was said and called, without audio.
    pub output: Vec<OutputItem>,
}

impl Response {
    /// Whether it holds words and neither sound nor a call: nothing that a telephone could play.
    pub fn is_text_only(&self) -> bool {
        let mut parts = self.output.iter().flat_map(|it| &it.content).filter_map(|it| it.kind.as_deref());
        let text = parts.clone().any(|it| matches!(it, "output_text" | "text"));
        let calls = self.output.iter().any(|it| it.kind.as_deref() == Some("function_call"));
        text && !calls && !parts.any(|it| matches!(it, "output_audio" | "audio"))
    }
}

/// What an answer consists of.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct OutputItem {
    /// The service's id.
    pub id: Option<String>,
    /// `message`, `function_call`, …
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Its parts.
    pub content: Vec<Part>,
}

/// A part of a message.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Part {
    /// `output_audio` (older: `audio`), `output_text`, …
    #[serde(rename = "type")]
    pub kind: Option<String>,
}

/// One quota of the account.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct RateLimit {
    /// `requests` or `tokens`.
    pub name: String,
    /// The whole.
    pub limit: f64,
    /// What is left of it.
    pub remaining: f64,
}

/// Reason of an answer that did not complete.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct StatusDetails {
    /// `turn_detected`, `client_cancelled`, `max_output_tokens`, `content_filter`.
    pub reason: Option<String>,
    /// Only with `failed`.
    pub error: Option<ErrorBody>,
}

/// Tokens of one answer.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Usage {
    /// The whole conversation as input, each time.
    pub input_tokens: Option<Number>,
    /// The answer.
    pub output_tokens: Option<Number>,
    /// More about the input.
    pub input_token_details: Option<InputTokenDetails>,
}

/// More about the input of an answer.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct InputTokenDetails {
    /// The cheaper part of `input_tokens`.
    pub cached_tokens: Option<Number>,
}

/// The inside of an `error` event or of a failed response.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct ErrorBody {
    /// `invalid_request_error`, `server_error`, …
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Stable name, often null.
    pub code: Option<String>,
    /// English text.
    pub message: Option<String>,
    /// The offending key.
    pub param: Option<String>,
}

impl ErrorBody {
    /// Code, else type: what metrics and decisions go by.
    pub fn name(&self) -> &str {
        self.code.as_deref().or(self.kind.as_deref()).unwrap_or("unknown_error")
    }
}

#[derive(Deserialize, Default)]
struct Envelope<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    #[serde(borrow)]
    response_id: Option<Text<'a>>,
    #[serde(borrow)]
    item_id: Option<Text<'a>>,
    #[serde(borrow)]
    delta: Option<Text<'a>>,
    #[serde(borrow)]
    transcript: Option<Text<'a>>,
    audio_end_ms: Option<Number>,
    #[serde(borrow)]
    session: Option<&'a RawValue>,
    #[serde(borrow)]
    response: Option<&'a RawValue>,
    #[serde(borrow)]
    item: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    rate_limits: Option<&'a RawValue>,
}

impl<'a> Envelope<'a> {
    /// An event of an unknown type may use our field names for other things: then only its type is read.
    fn parse(text: &'a str) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Head<'a> {
            #[serde(borrow, rename = "type")]
            kind: Text<'a>,
        }
        serde_json::from_str(text).or_else(|error| match serde_json::from_str::<Head<'a>>(text) {
            Ok(head) => Ok(Self { kind: head.kind, ..Self::default() }),
            Err(_) => Err(error),
        })
    }
}

impl<'a> ServerEvent<'a> {
    /// # Errors
    /// [`Malformed`] for anything but a JSON object with a `type` and, for the types above, their own fields.
    pub fn parse(text: &'a str) -> Result<Self, Malformed> {
        if let Some(delta) = Self::audio_delta(text) {
            return Ok(delta);
        }
        Self::parse_any(text)
    }

    /// A piece of speech as the service writes it.
    fn audio_delta(text: &'a str) -> Option<Self> {
        let mut it = Template::new(text)?;
        it.literal(r#"{"type":"response.output_audio.delta","event_id":""#)?;
        it.string()?;
        it.literal(r#","response_id":""#)?;
        let response_id = Text(Cow::Borrowed(it.string()?));
        it.literal(r#","item_id":""#)?;
        let item_id = Text(Cow::Borrowed(it.string()?));
        it.literal(r#","output_index":"#)?;
        it.number()?;
        it.literal(r#","content_index":"#)?;
        it.number()?;
        it.literal(r#","delta":""#)?;
        let delta = Text(Cow::Borrowed(it.string()?));
        it.literal("}")?;
        it.end()?;
        Some(Self::AudioDelta { response_id, item_id, delta })
    }

    fn parse_any(text: &'a str) -> Result<Self, Malformed> {
        const PEER: &str = "OpenAI";
        let bad = |error: serde_json::Error| Malformed::json(PEER, &error);
        let it: Envelope<'a> = Envelope::parse(text).map_err(|error| Malformed::json(PEER, &error))?;
        let kind = it.kind;
        let lacks = |field| Malformed::lacks(PEER, &kind, field);
        let empty = || Text(Cow::Borrowed(""));
        Ok(match &*kind {
            "response.output_audio.delta" | "response.audio.delta" => Self::AudioDelta {
                response_id: it.response_id.ok_or_else(|| lacks("response_id"))?,
                item_id: it.item_id.ok_or_else(|| lacks("item_id"))?,
                delta: it.delta.ok_or_else(|| lacks("delta"))?,
            },
            "response.output_audio.done" | "response.audio.done" => Self::AudioDone {
                response_id: it.response_id.ok_or_else(|| lacks("response_id"))?,
                item_id: it.item_id.ok_or_else(|| lacks("item_id"))?,
            },
            "response.output_audio_transcript.delta" | "response.audio_transcript.delta" => Self::TranscriptDelta {
                item_id: it.item_id.ok_or_else(|| lacks("item_id"))?,
                delta: it.delta.unwrap_or_else(empty),
            },
            "response.output_audio_transcript.done" | "response.audio_transcript.done" => Self::TranscriptDone {
                item_id: it.item_id.ok_or_else(|| lacks("item_id"))?,
                transcript: it.transcript.unwrap_or_else(empty),
            },
            "input_audio_buffer.speech_started" => Self::SpeechStarted,
            "input_audio_buffer.speech_stopped" => Self::SpeechStopped { item_id: it.item_id },
            "input_audio_buffer.committed" => Self::Committed { item_id: it.item_id.ok_or_else(|| lacks("item_id"))? },
            "conversation.item.input_audio_transcription.completed" => Self::CallerTranscript {
                item_id: it.item_id.ok_or_else(|| lacks("item_id"))?,
                transcript: it.transcript.unwrap_or_else(empty),
            },
            "conversation.item.input_audio_transcription.failed" => {
                Self::CallerTranscriptFailed { item_id: it.item_id.ok_or_else(|| lacks("item_id"))? }
            }
            "conversation.item.truncated" => Self::Truncated {
                item_id: it.item_id.ok_or_else(|| lacks("item_id"))?,
                audio_end_ms: it.audio_end_ms.unwrap_or_default().0,
            },
            "session.created" => Self::SessionCreated(session(it.session.ok_or_else(|| lacks("session"))?).map_err(bad)?),
            "session.updated" => Self::SessionUpdated(session(it.session.ok_or_else(|| lacks("session"))?).map_err(bad)?),
            "response.created" => {
                let response: Response =
                    serde_json::from_str(it.response.ok_or_else(|| lacks("response"))?.get()).map_err(bad)?;
                Self::ResponseCreated { response_id: response.id.ok_or_else(|| lacks("response.id"))? }
            }
            "response.done" => {
                Self::ResponseDone(serde_json::from_str(it.response.ok_or_else(|| lacks("response"))?.get()).map_err(bad)?)
            }
            "response.output_item.done" => Self::OutputItemDone {
                response_id: it.response_id.ok_or_else(|| lacks("response_id"))?,
                item: serde_json::from_str(it.item.ok_or_else(|| lacks("item"))?.get()).map_err(bad)?,
            },
            "rate_limits.updated" => Self::RateLimits(match it.rate_limits {
                Some(limits) => serde_json::from_str(limits.get()).map_err(bad)?,
                None => Vec::new(),
            }),
            "error" => Self::Error(match it.error {
                Some(error) => serde_json::from_str(error.get()).map_err(bad)?,
                None => ErrorBody::default(),
            }),
            _ => Self::Other(kind),
        })
    }
}

/// Reads the GA shape, and the beta one for what old gateways answer.
fn session(raw: &RawValue) -> Result<Session, serde_json::Error> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Raw {
        audio: Option<Audio>,
        input_audio_format: Option<String>,
        output_audio_format: Option<String>,
        expires_at: Option<Number>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Audio {
        input: Option<Side>,
        output: Option<Side>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Side {
        format: Option<RawFormat>,
    }
    #[derive(Deserialize)]
    struct RawFormat {
        r#type: Option<String>,
        rate: Option<Number>,
    }
    let ga = |side: Option<Side>| {
        let format = side?.format?;
        match format.r#type.as_deref() {
            Some("audio/pcmu") => Some(AudioFormat::Pcmu),
            Some("audio/pcma") => Some(AudioFormat::Pcma),
            Some("audio/pcm") => Some(AudioFormat::Pcm { rate: format.rate.map_or(24_000, |it| it.0) }),
            _ => None,
        }
    };
    let beta = |name: Option<String>| match name.as_deref() {
        Some("g711_ulaw") => Some(AudioFormat::Pcmu),
        Some("g711_alaw") => Some(AudioFormat::Pcma),
        Some("pcm16") => Some(AudioFormat::Pcm { rate: 24_000 }),
        _ => None,
    };
    let raw: Raw = serde_json::from_str(raw.get())?;
    let audio = raw.audio.unwrap_or_default();
    Ok(Session {
        input: ga(audio.input).or_else(|| beta(raw.input_audio_format)),
        output: ga(audio.output).or_else(|| beta(raw.output_audio_format)),
        expires_at: raw.expires_at.map(|it| it.0),
    })
}

/// Replaces `out` by `input_audio_buffer.append`. At most 15 MiB of audio an event; a frame is far below.
pub fn print_append(out: &mut String, audio: &[u8]) {
    out.clear();
    out.push_str(r#"{"type":"input_audio_buffer.append","audio":""#);
    audio::encode(audio, out);
    out.push_str(r#""}"#);
}

/// What we send besides audio.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type")]
pub enum ClientEvent<'a> {
    /// Configures the session; answered by `session.updated`, or refused as a whole by `error`.
    #[serde(rename = "session.update")]
    SessionUpdate {
        /// The wanted configuration.
        session: Box<SessionConfig<'a>>,
    },
    /// Adds an item at the end of the conversation.
    #[serde(rename = "conversation.item.create")]
    ItemCreate {
        /// The new item.
        item: NewItem<'a>,
    },
    /// Cuts an assistant item to what was heard. `audio_end_ms` must be above 0 and at most the audio produced.
    #[serde(rename = "conversation.item.truncate")]
    ItemTruncate {
        /// The item being heard.
        item_id: &'a str,
        /// Always 0: an answer has one audio part.
        content_index: u32,
        /// Heard milliseconds.
        audio_end_ms: u64,
    },
    /// Removes an item of which nothing was heard (truncating to 0 is refused).
    #[serde(rename = "conversation.item.delete")]
    ItemDelete {
        /// The unheard item.
        item_id: &'a str,
    },
    /// Asks for an answer; refused while another one is active.
    #[serde(rename = "response.create")]
    ResponseCreate {
        /// Overrides for this answer.
        #[serde(skip_serializing_if = "Option::is_none")]
        response: Option<ResponseConfig<'a>>,
    },
    /// Stops an answer.
    #[serde(rename = "response.cancel")]
    ResponseCancel {
        /// Which one; without it the default conversation's.
        response_id: &'a str,
    },
}

impl ClientEvent<'_> {
    /// Replaces `out` by this event.
    pub fn print(&self, out: &mut String) {
        out.clear();
        out.push_str(&serde_json::to_string(self).expect("strings, numbers and plain structs always serialise"));
    }
}

/// Session configuration as sent; every number is given, because partly filled objects get surprising defaults. Keys that
/// are left out keep what is in force.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(tag = "type", rename = "realtime")]
pub struct SessionConfig<'a> {
    /// `["audio"]`: a transcript always comes along.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_modalities: Option<[&'a str; 1]>,
    /// The prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<&'a str>,
    /// Both directions.
    pub audio: AudioConfig<'a>,
    /// Functions the model may call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<&'a [Tool]>,
    /// `auto`, `none`, `required`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<&'a str>,
    /// Only reasoning models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel_tool_calls: Option<bool>,
    /// Only reasoning models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<Reasoning<'a>>,
    /// 1 to 4096 for one answer; left out: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u32>,
    /// What becomes of the oldest items when the context is full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncation: Option<Truncation>,
    /// `auto` switches the service's own traces on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<&'a str>,
}

/// How much a model thinks before it speaks.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Reasoning<'a> {
    /// `minimal`, `low`, `medium`, `high`, `xhigh`.
    pub effort: &'a str,
}

/// What becomes of the oldest items when the context is full.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(tag = "type", rename = "retention_ratio")]
pub struct Truncation {
    /// 0 to 1: this share of the context is kept, so that the prompt cache survives longer.
    pub retention_ratio: f64,
}

/// Both directions of audio.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AudioConfig<'a> {
    /// What we send.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<InputConfig<'a>>,
    /// What we want back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputConfig<'a>>,
}

/// The caller's direction.
#[derive(Clone, Debug, Default, Serialize)]
pub struct InputConfig<'a> {
    /// μ-law for passthrough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<AudioFormat>,
    /// Transcription of the caller; `null` switches it off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transcription: Option<Option<Transcription<'a>>>,
    /// The service's own noise reduction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise_reduction: Option<NoiseReduction<'a>>,
    /// Who decides when a turn is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turn_detection: Option<TurnDetection<'a>>,
}

/// The service's own noise reduction.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct NoiseReduction<'a> {
    /// `near_field` (a telephone at the ear) or `far_field` (hands-free).
    #[serde(rename = "type")]
    pub kind: &'a str,
}

/// A separate model that writes down what the caller says.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Transcription<'a> {
    /// For example `gpt-transcribe`.
    pub model: &'a str,
    /// ISO 639-1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<&'a str>,
    /// What the call is about; not for every model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<&'a str>,
    /// Words to expect; only some models.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub keywords: &'a [String],
}

/// Who decides when the caller's turn is over.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TurnDetection<'a> {
    /// Energy, with every number given.
    ServerVad {
        /// 0.0 to 1.0.
        threshold: f64,
        /// Audio before the detected start that belongs to the turn.
        prefix_padding_ms: u32,
        /// Silence that ends a turn.
        silence_duration_ms: u32,
        /// Answer by itself at the end of a turn.
        create_response: bool,
        /// Cancel its own answer when the caller speaks.
        interrupt_response: bool,
    },
    /// A model that listens for the end of a thought.
    SemanticVad {
        /// `low` waits up to 8 s, `medium` 4 s, `high` 2 s.
        eagerness: &'a str,
        /// See above.
        create_response: bool,
        /// See above.
        interrupt_response: bool,
    },
}

/// The assistant's direction.
#[derive(Clone, Debug, Serialize)]
pub struct OutputConfig<'a> {
    /// μ-law for passthrough.
    pub format: AudioFormat,
    /// `marin`, `cedar`, …; locked once audio was produced.
    pub voice: Voice<'a>,
    /// 0.25 to 1.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed: Option<f64>,
}

/// A voice by name, or one of our own by id.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
pub enum Voice<'a> {
    /// `marin`, …
    Name(&'a str),
    /// `voice_…`
    Custom {
        /// The service's id.
        id: &'a str,
    },
}

impl<'a> Voice<'a> {
    /// What a setting means.
    pub fn new(setting: &'a str) -> Self {
        if setting.starts_with("voice_") { Self::Custom { id: setting } } else { Self::Name(setting) }
    }
}

/// A function the model may call.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename = "function")]
pub struct Tool {
    /// Function name.
    pub name: String,
    /// When to call it.
    pub description: String,
    /// JSON Schema of the arguments.
    pub parameters: Box<RawValue>,
}

/// Overrides of one answer.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ResponseConfig<'a> {
    /// Replaces the session's prompt for this answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<&'a str>,
    /// `none` keeps the model from calling functions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<&'a str>,
    /// `["audio"]`: after a history of texts the model would otherwise answer in text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_modalities: Option<[&'a str; 1]>,
}

/// An item we add.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum NewItem<'a> {
    /// Words of one party. Assistant audio cannot be created, only text.
    Message {
        /// `system`, `user` or `assistant`.
        role: &'a str,
        /// One part.
        content: [NewContent<'a>; 1],
    },
    /// A call that an earlier session made; only for replay.
    FunctionCall {
        /// Id shared with its output.
        call_id: &'a str,
        /// Function name.
        name: &'a str,
        /// JSON as a string.
        arguments: &'a str,
    },
    /// The answer to a function call.
    FunctionCallOutput {
        /// From the call.
        call_id: &'a str,
        /// Free text, by custom JSON.
        output: &'a str,
    },
}

/// Text of an item we add.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum NewContent<'a> {
    /// For roles `system` and `user`.
    InputText {
        /// The words.
        text: &'a str,
    },
    /// For role `assistant`.
    OutputText {
        /// The words that were heard.
        text: &'a str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const SERVER: &str = include_str!("../../../fixtures/openai/server-events.jsonl");
    const EDGES: &str = include_str!("../../../fixtures/openai/edge-cases.jsonl");
    const CLIENT: &str = include_str!("../../../fixtures/openai/client-events.jsonl");

    #[test]
    fn every_fixture_parses() {
        let mut audio_bytes = 0;
        for (number, line) in SERVER.lines().chain(EDGES.lines()).enumerate() {
            let event = ServerEvent::parse(line).unwrap_or_else(|error| panic!("line {}: {error}", number + 1));
            if let ServerEvent::AudioDelta { delta, .. } = event {
                let mut audio = Vec::new();
                audio::decode(&delta, &mut audio).unwrap();
                audio_bytes += audio.len();
            }
        }
        assert!(audio_bytes > 4000);
    }

    #[test]
    fn the_events_a_bridge_acts_on_are_all_recognised() {
        let mut acted: Vec<&str> = Vec::new();
        let others: Vec<&str> = SERVER
            .lines()
            .filter_map(|line| match ServerEvent::parse(line).unwrap() {
                ServerEvent::Other(Text(Cow::Borrowed(kind))) => Some(kind),
                _ => {
                    acted.push(line);
                    None
                }
            })
            .collect();
        assert!(acted.len() > 60, "{}", acted.len());
        let ignored = ["conversation.item.added", "response.content_part.added", "response.function_call_arguments.done"];
        assert!(ignored.iter().all(|it| others.contains(it)), "{others:?}");
        let forbidden =
            ["response.output_audio.delta", "input_audio_buffer.speech_started", "response.done", "error", "session.updated"];
        assert!(!forbidden.iter().any(|it| others.contains(it)), "{others:?}");
    }

    #[test]
    fn formats_come_from_the_session_and_beta_names_are_understood() {
        let updated = |line: &str| match ServerEvent::parse(line).unwrap() {
            ServerEvent::SessionUpdated(session) => session,
            other => panic!("{other:?}"),
        };
        let session = updated(SERVER.lines().nth(1).unwrap());
        assert_eq!((session.input, session.output), (Some(AudioFormat::Pcmu), Some(AudioFormat::Pcmu)));
        let lying = updated(EDGES.lines().nth(18).unwrap());
        assert_eq!(lying.output, Some(AudioFormat::Pcm { rate: 24_000 }));
        let beta = updated(EDGES.lines().nth(3).unwrap());
        assert_eq!(beta.output, Some(AudioFormat::Pcmu));
    }

    #[test]
    fn a_function_call_is_read_whole() {
        let call = SERVER.lines().find_map(|line| match ServerEvent::parse(line).unwrap() {
            ServerEvent::OutputItemDone { item, .. } if item.kind.as_deref() == Some("function_call") => Some(item),
            _ => None,
        });
        let call = call.unwrap();
        assert_eq!((call.name.as_deref(), call.status.as_deref()), (Some("book_table"), Some("completed")));
        assert!(serde_json::from_str::<Value>(&call.arguments.unwrap()).is_ok() && call.call_id.is_some());
    }

    /// Keys of objects, with their path; what an exact schema would check.
    fn keys(prefix: &str, value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => map.iter().for_each(|(key, value)| {
                found.push(format!("{prefix}.{key}"));
                // Argument schemas are the user's own.
                if key != "parameters" {
                    keys(&format!("{prefix}.{key}"), value, found);
                }
            }),
            Value::Array(items) => items.iter().for_each(|it| keys(prefix, it, found)),
            _ => (),
        }
    }

    #[test]
    fn an_answer_in_text_only_is_told_from_others() {
        let done = |output: Value| {
            let event = json!({"type": "response.done", "response": {"id": "r", "status": "completed", "output": output}});
            match ServerEvent::parse(&event.to_string()).unwrap() {
                ServerEvent::ResponseDone(response) => response.is_text_only(),
                other => panic!("{other:?}"),
            }
        };
        let message = |kind: &str| json!({"type": "message", "content": [{"type": kind, "text": "x", "transcript": "x"}]});
        let call = json!({"type": "function_call", "name": "n"});
        assert!(done(json!([message("output_text")])));
        for fine in
            [json!([]), json!([message("output_audio")]), json!([message("audio")]), json!([message("output_text"), call])]
        {
            assert!(!done(fine.clone()), "{fine}");
        }
    }

    #[test]
    fn what_we_send_uses_only_keys_of_validated_events() {
        let mut known = Vec::new();
        CLIENT.lines().for_each(|line| {
            let event: Value = serde_json::from_str(line).unwrap();
            keys(event["type"].as_str().unwrap(), &event, &mut known);
        });
        let tool = Tool {
            name: "end_call".into(),
            description: "Ends it".into(),
            parameters: RawValue::from_string(r#"{"type":"object"}"#.into()).unwrap(),
        };
        let text = |role, text| NewItem::Message { role, content: [NewContent::InputText { text }] };
        let server_vad = TurnDetection::ServerVad {
            threshold: 0.5,
            prefix_padding_ms: 300,
            silence_duration_ms: 500,
            create_response: true,
            interrupt_response: true,
        };
        let semantic_vad = TurnDetection::SemanticVad { eagerness: "auto", create_response: true, interrupt_response: true };
        let events = [
            ClientEvent::SessionUpdate {
                session: Box::new(SessionConfig {
                    output_modalities: Some(["audio"]),
                    instructions: Some("Be \"brief\"."),
                    audio: AudioConfig {
                        input: Some(InputConfig {
                            format: Some(AudioFormat::Pcmu),
                            transcription: Some(Some(Transcription {
                                model: "gpt-transcribe",
                                language: Some("en"),
                                ..Transcription::default()
                            })),
                            noise_reduction: Some(NoiseReduction { kind: "near_field" }),
                            turn_detection: Some(server_vad),
                        }),
                        output: Some(OutputConfig { format: AudioFormat::Pcmu, voice: Voice::new("marin"), speed: Some(1.0) }),
                    },
                    tools: Some(std::slice::from_ref(&tool)),
                    tool_choice: Some("auto"),
                    parallel_tool_calls: Some(false),
                    reasoning: Some(Reasoning { effort: "low" }),
                    max_output_tokens: Some(1024),
                    truncation: None,
                    tracing: None,
                }),
            },
            ClientEvent::SessionUpdate {
                session: Box::new(SessionConfig {
                    audio: AudioConfig {
                        input: Some(InputConfig { turn_detection: Some(semantic_vad), ..InputConfig::default() }),
                        output: None,
                    },
                    ..SessionConfig::default()
                }),
            },
            ClientEvent::ItemCreate { item: text("user", "hello") },
            ClientEvent::ItemCreate {
                item: NewItem::Message { role: "assistant", content: [NewContent::OutputText { text: "hi" }] },
            },
            ClientEvent::ItemCreate { item: NewItem::FunctionCall { call_id: "c", name: "n", arguments: "{}" } },
            ClientEvent::ItemCreate { item: NewItem::FunctionCallOutput { call_id: "c", output: "{}" } },
            ClientEvent::ItemTruncate { item_id: "item_1", content_index: 0, audio_end_ms: 640 },
            ClientEvent::ItemDelete { item_id: "item_1" },
            ClientEvent::ResponseCreate { response: None },
            ClientEvent::ResponseCreate {
                response: Some(ResponseConfig {
                    instructions: Some("x"),
                    tool_choice: Some("none"),
                    output_modalities: Some(["audio"]),
                }),
            },
            ClientEvent::ResponseCancel { response_id: "resp_1" },
        ];
        let mut out = String::new();
        for event in events {
            event.print(&mut out);
            let printed: Value = serde_json::from_str(&out).unwrap();
            let mut used = Vec::new();
            keys(printed["type"].as_str().unwrap(), &printed, &mut used);
            for key in used {
                assert!(known.contains(&key), "{key} is in no validated event");
            }
        }
        print_append(&mut out, &[0xFF, 0xFF]);
        assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), json!({"type": "input_audio_buffer.append", "audio": "//8="}));
    }

    proptest! {
        #[test]
        fn damaged_events_never_panic(line in 0usize..147, cut in 0usize..2000, byte in any::<u8>()) {
            let line = SERVER.lines().nth(line).unwrap();
            let mut bytes = line.as_bytes().to_vec();
            let at = cut % bytes.len();
            bytes[at] = byte;
            let damaged = String::from_utf8_lossy(&bytes).into_owned();
            let _ = ServerEvent::parse(&damaged);
            let _ = ServerEvent::parse(String::from_utf8_lossy(&bytes[..at]).as_ref());
        }
    }
}
