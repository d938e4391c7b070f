//! OpenAI Live, the full-duplex API beside Realtime: one stream of sound each way, without turns, items or answers.
//!
//! Source: the service's outline of autumn 2026. Its shapes were not seen on a live socket: everything optional is read
//! as optional, and what is unknown is passed over.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::openai::{ErrorBody, Tool};
use crate::{Malformed, Number, Text, audio};

/// What the service sends, as far as a bridge can use it.
#[derive(Debug)]
pub enum ServerEvent<'a> {
    /// The session is configured: audio may flow.
    Started,
    /// The next piece of speech, base64 in the session's format, to be played in order.
    Audio { delta: Text<'a> },
    /// Words of the caller's.
    CallerText { delta: Text<'a> },
    /// Words of the assistant's.
    AssistantText { delta: Text<'a> },
    /// The model behind the voice wants a function run.
    FunctionCall { id: String, name: String, arguments: String },
    /// Seconds of session so far: what is billed.
    Usage { seconds: u64 },
    /// The session is over: `close_requested`, `expired`, `content`, `remote_hangup`, `connection_lost`.
    Closed { reason: Text<'a> },
    /// Something was refused.
    Error(ErrorBody),
    /// A type that a bridge needs not act on, or does not know.
    Other(Text<'a>),
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    #[serde(borrow)]
    delta: Option<Text<'a>>,
    #[serde(borrow)]
    reason: Option<Text<'a>>,
    usage: Option<Usage>,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    error: Option<ErrorBody>,
}

#[derive(Deserialize)]
struct Usage {
    seconds: Option<Number>,
}

/// The inside of a `response.event`: an event of the Responses API.
#[derive(Deserialize)]
struct Wrapped {
    r#type: String,
    item: Option<crate::openai::Item>,
}

impl<'a> ServerEvent<'a> {
    /// # Errors
    /// [`Malformed`] for anything but a JSON object with a `type` and, for the types above, their own fields.
    pub fn parse(text: &'a str) -> Result<Self, Malformed> {
        const PEER: &str = "OpenAI Live";
        let it: Envelope<'a> = serde_json::from_str(text).map_err(|error| Malformed::json(PEER, &error))?;
        let kind = it.kind;
        let lacks = |field| Malformed::lacks(PEER, &kind, field);
        Ok(match &*kind {
            "session.started" => Self::Started,
            "session.output_audio.delta" => Self::Audio { delta: it.delta.ok_or_else(|| lacks("delta"))? },
            "session.input_transcript.delta" => Self::CallerText { delta: it.delta.ok_or_else(|| lacks("delta"))? },
            "session.output_transcript.delta" => Self::AssistantText { delta: it.delta.ok_or_else(|| lacks("delta"))? },
            "session.usage.updated" => Self::Usage { seconds: it.usage.and_then(|it| it.seconds).unwrap_or_default().0 },
            "session.closed" => Self::Closed { reason: it.reason.ok_or_else(|| lacks("reason"))? },
            "error" => Self::Error(it.error.unwrap_or_default()),
            "response.event" => {
                let wrapped = it.event.and_then(|it| serde_json::from_str::<Wrapped>(it.get()).ok());
                let item = wrapped.filter(|it| it.r#type == "response.output_item.done").and_then(|it| it.item);
                match item.filter(|it| it.kind.as_deref() == Some("function_call")) {
                    Some(item) => Self::FunctionCall {
                        id: item.call_id.ok_or_else(|| lacks("event.item.call_id"))?,
                        name: item.name.ok_or_else(|| lacks("event.item.name"))?,
                        arguments: item.arguments.unwrap_or_else(|| "{}".into()),
                    },
                    None => Self::Other(kind),
                }
            }
            _ => Self::Other(kind),
        })
    }
}

/// Replaces `out` by caller audio.
pub fn print_append(out: &mut String, audio: &[u8]) {
    out.clear();
    out.push_str(r#"{"type":"session.input_audio.append","audio":""#);
    audio::encode(audio, out);
    out.push_str(r#""}"#);
}

/// What we send besides audio.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type")]
pub enum ClientEvent<'a> {
    /// The first event: everything about the session, once.
    #[serde(rename = "session.start")]
    Start {
        /// What is wanted.
        session: Session<'a>,
    },
    /// Something the assistant should do or know, at most 500 tokens.
    #[serde(rename = "session.instructions.append")]
    InstructionsAppend {
        /// The words.
        content: &'a str,
        /// Required, and null outside a delegation.
        delegation_id: Option<&'a str>,
    },
    /// Something the assistant knows without saying it.
    #[serde(rename = "session.thinking.append")]
    ThinkingAppend {
        /// The words.
        content: &'a str,
        /// See above.
        delegation_id: Option<&'a str>,
    },
    /// The answer to a function call.
    #[serde(rename = "response.item.create")]
    ItemCreate {
        /// The new item.
        item: FunctionOutput<'a>,
    },
    /// Asks the model behind the voice to go on.
    #[serde(rename = "response.create")]
    ResponseCreate,
}

impl ClientEvent<'_> {
    /// Replaces `out` by this event.
    pub fn print(&self, out: &mut String) {
        out.clear();
        out.push_str(&serde_json::to_string(self).expect("strings, numbers and plain structs always serialise"));
    }
}

/// A session as it is begun.
#[derive(Clone, Debug, Serialize)]
pub struct Session<'a> {
    /// `gpt-live-1`; not in the address.
    pub model: &'a str,
    /// The prompt: fixed for the session.
    pub instructions: &'a str,
    /// What was said before, at most 128 messages.
    pub input: Vec<Message<'a>>,
    /// Both directions.
    pub audio: Audio<'a>,
    /// Who does the thinking and the functions.
    pub delegation: Delegation<'a>,
}

/// Words of an earlier session.
#[derive(Clone, Debug, Serialize)]
pub struct Message<'a> {
    /// `user` or `assistant`.
    pub role: &'a str,
    /// The words.
    pub content: &'a str,
}

/// Both directions of sound.
#[derive(Clone, Debug, Serialize)]
pub struct Audio<'a> {
    /// The same for both.
    pub format: Format,
    /// The voice.
    pub output: Output<'a>,
}

/// Here the rate is required, for μ-law too.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Format {
    /// `audio/pcmu` or `audio/pcm`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Samples a second.
    pub rate: u32,
}

/// The assistant's voice.
#[derive(Clone, Debug, Serialize)]
pub struct Output<'a> {
    /// `marin`, …
    pub voice: &'a str,
}

/// Who does the thinking: a text model with functions.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename = "responses")]
pub struct Delegation<'a> {
    /// That model.
    pub responses: Responses<'a>,
}

/// A text model with functions.
#[derive(Clone, Debug, Serialize)]
pub struct Responses<'a> {
    /// Its name.
    pub model: &'a str,
    /// Its prompt.
    pub instructions: &'a str,
    /// What it may call.
    pub tools: &'a [Tool],
}

/// The answer to a function call.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename = "function_call_output")]
pub struct FunctionOutput<'a> {
    /// From the call.
    pub call_id: &'a str,
    /// Free text, by custom JSON.
    pub output: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn the_outlined_events_are_read_and_unknown_ones_passed_over() {
        let parse = |event: Value| format!("{:?}", ServerEvent::parse(&event.to_string()).unwrap());
        assert_eq!(parse(json!({"type": "session.started", "session": {}})), "Started");
        assert!(parse(json!({"type": "session.output_audio.delta", "delta": "//8="})).starts_with("Audio"));
        assert!(parse(json!({"type": "session.usage.updated", "usage": {"seconds": 12}})).contains("12"));
        assert!(parse(json!({"type": "session.closed", "reason": "expired", "usage": null})).contains("expired"));
        let item = json!({"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"});
        let event = json!({"type": "response.event", "event": {"type": "response.output_item.done", "item": item}});
        assert!(parse(event).starts_with("FunctionCall"));
        for other in ["info", "session.delegation.created", "response.event", "something.new"] {
            assert!(parse(json!({"type": other})).starts_with("Other"), "{other}");
        }
        for broken in ["{}", "[]", r#"{"type":"session.output_audio.delta"}"#, r#"{"type":"session.closed"}"#] {
            assert!(ServerEvent::parse(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn what_is_sent_has_the_outlined_shape() {
        let mut out = String::new();
        let session = Session {
            model: "gpt-live-1",
            instructions: "Be brief.",
            input: vec![Message { role: "user", content: "hi" }],
            audio: Audio { format: Format { kind: "audio/pcmu", rate: 8000 }, output: Output { voice: "marin" } },
            delegation: Delegation { responses: Responses { model: "gpt-5", instructions: "Help.", tools: &[] } },
        };
        ClientEvent::Start { session }.print(&mut out);
        let expected = json!({"type": "session.start", "session": {
            "model": "gpt-live-1", "instructions": "Be brief.", "input": [{"role": "user", "content": "hi"}],
            "audio": {"format": {"type": "audio/pcmu", "rate": 8000}, "output": {"voice": "marin"}},
            "delegation": {"type": "responses", "responses": {"model": "gpt-5", "instructions": "Help.", "tools": []}},
        }});
        assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), expected);
        ClientEvent::ThinkingAppend { content: "x", delegation_id: None }.print(&mut out);
        let expected = json!({"type": "session.thinking.append", "content": "x", "delegation_id": null});
        assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), expected);
        print_append(&mut out, &[0xFF, 0xFF]);
        let expected = json!({"type": "session.input_audio.append", "audio": "//8="});
        assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), expected);
    }
}
