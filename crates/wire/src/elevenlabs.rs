//! ElevenLabs agents (conversational WebSocket).
//!
//! Source: the AsyncAPI contract of the official packages. The payload key differs from type to type and is copied
//! exactly. Unknown types and fields are passed over: the set grows several times a year.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::template::Template;
use crate::{Malformed, Number, Text, audio};

/// What the agent sends, as far as a bridge can use it.
#[derive(Debug)]
pub enum ServerEvent<'a> {
    /// First message: the formats of this connection, decided by the agent's configuration.
    Metadata(Metadata<'a>),
    /// A piece of speech: base64 in the announced output format.
    Audio { event_id: u64, audio: Text<'a> },
    /// The caller took the floor: stop playing, drop audio up to and including this event.
    Interruption { event_id: u64 },
    /// Must be answered at once with the same id; with the service's own measurement of the way there and back.
    Ping { event_id: u64, ms: Option<u64> },
    /// Final text of what the caller said.
    UserTranscript { text: Text<'a> },
    /// Full text of an answer, sent around its first audio.
    AgentResponse { event_id: u64, text: Text<'a> },
    /// The part of an interrupted answer that counts as said.
    AgentResponseCorrection { event_id: u64, text: Text<'a> },
    /// A client tool to run.
    ClientToolCall { id: Text<'a>, name: Text<'a>, parameters: &'a str },
    /// A tool the agent ran itself; `end_call` announces the close.
    AgentToolResponse { name: Text<'a> },
    /// Precedes a close with the same code.
    Error { code: u64, kind: String, message: String },
    /// A type that a bridge needs not act on, or does not know.
    Other(Text<'a>),
}

/// Formats by ElevenLabs' names: `ulaw_8000`, `pcm_16000`, …; missing in old versions.
#[derive(Debug, Deserialize)]
pub struct Metadata<'a> {
    /// For looking the conversation up later.
    #[serde(borrow)]
    pub conversation_id: Option<Text<'a>>,
    /// What the agent sends.
    #[serde(borrow)]
    pub agent_output_audio_format: Option<Text<'a>>,
    /// What it wants.
    #[serde(borrow)]
    pub user_input_audio_format: Option<Text<'a>>,
}

#[derive(Deserialize, Default)]
struct Envelope<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    #[serde(borrow)]
    conversation_initiation_metadata_event: Option<Metadata<'a>>,
    #[serde(borrow)]
    audio_event: Option<Audio<'a>>,
    interruption_event: Option<Id>,
    ping_event: Option<Ping>,
    #[serde(borrow)]
    user_transcription_event: Option<UserTranscription<'a>>,
    #[serde(borrow)]
    agent_response_event: Option<AgentResponse<'a>>,
    #[serde(borrow)]
    agent_response_correction_event: Option<Correction<'a>>,
    #[serde(borrow)]
    client_tool_call: Option<ToolCall<'a>>,
    #[serde(borrow)]
    agent_tool_response: Option<ToolResponse<'a>>,
    error_event: Option<ErrorEvent>,
}

#[derive(Deserialize)]
struct Id {
    event_id: Number,
}

#[derive(Deserialize)]
struct Ping {
    event_id: Number,
    ping_ms: Option<Number>,
}

#[derive(Deserialize)]
struct Audio<'a> {
    event_id: Number,
    #[serde(borrow)]
    audio_base_64: Text<'a>,
}

#[derive(Deserialize)]
struct UserTranscription<'a> {
    #[serde(borrow)]
    user_transcript: Text<'a>,
}

#[derive(Deserialize)]
struct AgentResponse<'a> {
    event_id: Option<Number>,
    #[serde(borrow)]
    agent_response: Text<'a>,
}

#[derive(Deserialize)]
struct Correction<'a> {
    event_id: Option<Number>,
    #[serde(borrow)]
    corrected_agent_response: Text<'a>,
}

#[derive(Deserialize)]
struct ToolCall<'a> {
    #[serde(borrow)]
    tool_call_id: Text<'a>,
    #[serde(borrow)]
    tool_name: Text<'a>,
    #[serde(borrow)]
    parameters: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ToolResponse<'a> {
    #[serde(borrow)]
    tool_name: Text<'a>,
}

#[derive(Deserialize)]
struct ErrorEvent {
    code: Option<Number>,
    error_type: Option<String>,
    message: Option<String>,
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
    /// [`Malformed`] for anything but a JSON object with a `type` and, for the types above, their own payload.
    pub fn parse(text: &'a str) -> Result<Self, Malformed> {
        if let Some(audio) = Self::audio(text) {
            return Ok(audio);
        }
        Self::parse_any(text)
    }

    /// A piece of speech as the service writes it, where it tells no times of letters.
    fn audio(text: &'a str) -> Option<Self> {
        let mut it = Template::new(text)?;
        it.literal(r#"{"type":"audio","audio_event":{"audio_base_64":""#)?;
        let audio = Text(Cow::Borrowed(it.string()?));
        it.literal(r#","event_id":"#)?;
        let event_id = it.number()?;
        it.literal("}}")?;
        it.end()?;
        Some(Self::Audio { event_id, audio })
    }

    fn parse_any(text: &'a str) -> Result<Self, Malformed> {
        const PEER: &str = "ElevenLabs";
        let it: Envelope<'a> = Envelope::parse(text).map_err(|error| Malformed::json(PEER, &error))?;
        let kind = it.kind;
        let lacks = |field| Malformed::lacks(PEER, &kind, field);
        Ok(match &*kind {
            "audio" => {
                let payload = it.audio_event.ok_or_else(|| lacks("audio_event"))?;
                Self::Audio { event_id: payload.event_id.0, audio: payload.audio_base_64 }
            }
            "ping" => {
                let payload = it.ping_event.ok_or_else(|| lacks("ping_event"))?;
                Self::Ping { event_id: payload.event_id.0, ms: payload.ping_ms.map(|it| it.0) }
            }
            "interruption" => {
                Self::Interruption { event_id: it.interruption_event.ok_or_else(|| lacks("interruption_event"))?.event_id.0 }
            }
            "user_transcript" => Self::UserTranscript {
                text: it.user_transcription_event.ok_or_else(|| lacks("user_transcription_event"))?.user_transcript,
            },
            "agent_response" => {
                let payload = it.agent_response_event.ok_or_else(|| lacks("agent_response_event"))?;
                Self::AgentResponse { event_id: payload.event_id.unwrap_or_default().0, text: payload.agent_response }
            }
            "agent_response_correction" => {
                let payload = it.agent_response_correction_event.ok_or_else(|| lacks("agent_response_correction_event"))?;
                Self::AgentResponseCorrection {
                    event_id: payload.event_id.unwrap_or_default().0,
                    text: payload.corrected_agent_response,
                }
            }
            "client_tool_call" => {
                let payload = it.client_tool_call.ok_or_else(|| lacks("client_tool_call"))?;
                Self::ClientToolCall {
                    id: payload.tool_call_id,
                    name: payload.tool_name,
                    parameters: payload.parameters.map_or("{}", RawValue::get),
                }
            }
            "agent_tool_response" => {
                Self::AgentToolResponse { name: it.agent_tool_response.ok_or_else(|| lacks("agent_tool_response"))?.tool_name }
            }
            "conversation_initiation_metadata" => Self::Metadata(
                it.conversation_initiation_metadata_event.ok_or_else(|| lacks("conversation_initiation_metadata_event"))?,
            ),
            "error" => {
                let payload = it.error_event.ok_or_else(|| lacks("error_event"))?;
                Self::Error {
                    code: payload.code.unwrap_or_default().0,
                    kind: payload.error_type.unwrap_or_default(),
                    message: payload.message.unwrap_or_default(),
                }
            }
            _ => Self::Other(kind),
        })
    }
}

/// Replaces `out` by caller audio, which has no `type`.
pub fn print_user_audio(out: &mut String, audio: &[u8]) {
    out.clear();
    out.push_str(r#"{"user_audio_chunk":""#);
    audio::encode(audio, out);
    out.push_str(r#""}"#);
}

/// What we send besides audio.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ClientEvent<'a> {
    /// Must be the first message, also when empty.
    ConversationInitiationClientData {
        /// Each part needs its own permission in the agent's settings; without it the socket closes with 1008.
        #[serde(skip_serializing_if = "Option::is_none")]
        conversation_config_override: Option<Override<'a>>,
        /// Values for the `{{variables}}` of the agent's prompt.
        #[serde(skip_serializing_if = "Option::is_none")]
        dynamic_variables: Option<&'a serde_json::Map<String, serde_json::Value>>,
        /// Who is calling, for the service's own history; no personal data.
        #[serde(skip_serializing_if = "Option::is_none")]
        user_id: Option<&'a str>,
    },
    /// Answer to a ping.
    Pong {
        /// From the ping.
        event_id: u64,
    },
    /// Answer to a client tool call; never empty.
    ClientToolResult {
        /// From the call.
        tool_call_id: &'a str,
        /// Free text, by custom JSON.
        result: &'a str,
        /// Whether the tool failed.
        is_error: bool,
    },
    /// Silent context; does not interrupt.
    ContextualUpdate {
        /// What the agent should know.
        text: &'a str,
    },
    /// Text as if the caller had said it; triggers an answer.
    UserMessage {
        /// The words.
        text: &'a str,
    },
    /// Somebody is there, though nothing is heard: puts the turn timeout off.
    UserActivity,
}

impl ClientEvent<'_> {
    /// Replaces `out` by this message.
    pub fn print(&self, out: &mut String) {
        out.clear();
        out.push_str(&serde_json::to_string(self).expect("strings, numbers and plain structs always serialise"));
    }
}

/// What is changed for this conversation.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Override<'a> {
    /// Words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentOverride<'a>>,
    /// Voice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tts: Option<TtsOverride<'a>>,
}

/// Changes of the agent's words.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AgentOverride<'a> {
    /// The prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Prompt<'a>>,
    /// Empty: the agent waits for the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_message: Option<&'a str>,
    /// Must be enabled in the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<&'a str>,
}

/// The prompt, one level deeper than everything else.
#[derive(Clone, Debug, Serialize)]
pub struct Prompt<'a> {
    /// The words.
    pub prompt: &'a str,
}

/// Changes of the voice.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TtsOverride<'a> {
    /// ElevenLabs voice id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub voice_id: Option<&'a str>,
    /// 0.7 to 1.2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    const SERVER: &str = include_str!("../../../fixtures/elevenlabs/server-events.jsonl");
    const CLIENT: &str = include_str!("../../../fixtures/elevenlabs/client-events.jsonl");

    #[test]
    fn every_fixture_parses_and_replays_as_the_official_client_does() {
        let (mut chunks, mut played, mut interrupted) = (0, 0, 0);
        for (number, line) in SERVER.lines().enumerate() {
            match ServerEvent::parse(line).unwrap_or_else(|error| panic!("line {}: {error}", number + 1)) {
                ServerEvent::Audio { event_id, audio } => {
                    let mut bytes = Vec::new();
                    audio::decode(&audio, &mut bytes).unwrap();
                    chunks += 1;
                    played += usize::from(event_id > interrupted);
                }
                ServerEvent::Interruption { event_id } => interrupted = event_id,
                _ => (),
            }
        }
        assert_eq!((chunks, played, interrupted), (7, 6, 3));
    }

    #[test]
    fn what_we_send_equals_the_validated_messages() {
        let known: Vec<Value> = CLIENT.lines().map(|it| serde_json::from_str(it).unwrap()).collect();
        let mut out = String::new();
        let events = [
            ClientEvent::ConversationInitiationClientData {
                conversation_config_override: None,
                dynamic_variables: None,
                user_id: None,
            },
            ClientEvent::Pong { event_id: 2 },
            ClientEvent::ClientToolResult {
                tool_call_id: "book_table_5f1d0c2a9b",
                result: r#"{"ok":true,"ref":"HT-4471"}"#,
                is_error: false,
            },
        ];
        for event in events {
            event.print(&mut out);
            assert!(known.contains(&serde_json::from_str(&out).unwrap()), "{out}");
        }
        let keys_of = |kind: &str| -> Vec<String> {
            let line = known.iter().find(|it| it["type"] == kind).unwrap_or_else(|| panic!("{kind} is in no fixture"));
            line.as_object().unwrap().keys().cloned().collect()
        };
        for event in
            [ClientEvent::ContextualUpdate { text: "t" }, ClientEvent::UserMessage { text: "t" }, ClientEvent::UserActivity]
        {
            event.print(&mut out);
            let printed: Value = serde_json::from_str(&out).unwrap();
            let known = keys_of(printed["type"].as_str().unwrap());
            assert!(printed.as_object().unwrap().keys().all(|it| known.contains(it)), "{out}");
        }
        let audio = known.iter().find_map(|it| it["user_audio_chunk"].as_str()).unwrap();
        let mut bytes = Vec::new();
        audio::decode(audio, &mut bytes).unwrap();
        print_user_audio(&mut out, &bytes);
        assert!(known.contains(&serde_json::from_str(&out).unwrap()));
    }

    proptest! {
        #[test]
        fn damaged_events_never_panic(line in 0usize..53, at in 0usize..3000, byte in any::<u8>()) {
            let mut bytes = SERVER.lines().nth(line).unwrap().as_bytes().to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = ServerEvent::parse(&String::from_utf8_lossy(&bytes));
        }
    }
}
