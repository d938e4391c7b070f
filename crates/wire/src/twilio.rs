//! Twilio Media Streams, the bidirectional kind (`<Connect><Stream>`).
//!
//! Source: Twilio, "Media Streams – WebSocket messages", and captures of live calls. All messages are text frames with
//! one JSON object. Numbers that count things arrive as strings. What we send may hold exactly the documented fields:
//! one field too many is warning 31951.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;

use crate::template::Template;
use crate::{Malformed, Number, Text, audio};

/// What Twilio sends.
#[derive(Debug, PartialEq)]
pub enum FromTwilio<'a> {
    /// First message, exactly once.
    Connected,
    /// Second message, exactly once; only now may anything be sent.
    Start(Start),
    /// Caller audio, in practice 20 ms of μ-law; any length is allowed.
    Media {
        /// Milliseconds since the start of the stream.
        timestamp_ms: u64,
        /// Base64 of raw μ-law.
        payload: Cow<'a, str>,
    },
    /// One key: `0`–`9`, `*`, `#`, also `A`–`D`.
    Dtmf {
        /// The key.
        digit: char,
    },
    /// A mark of ours: everything before it was played, or thrown away by `clear`.
    Mark {
        /// The name as we sent it.
        name: Cow<'a, str>,
    },
    /// Last message. Hang-up, redirect and REST all look the same.
    Stop,
    /// An event of a later protocol version: count it and go on.
    Other(String),
}

/// Who is calling, and what we passed along in `<Parameter>`s.
#[derive(Debug, Default, PartialEq)]
pub struct Start {
    /// `MZ…`; every message to Twilio must carry it.
    pub stream_sid: String,
    /// `CA…`
    pub call_sid: String,
    /// `AC…`
    pub account_sid: String,
    /// Always `audio/x-mulaw` so far.
    pub encoding: String,
    /// Always 8000 so far.
    pub sample_rate: u64,
    /// Name and value of every `<Parameter>`.
    pub custom_parameters: BTreeMap<String, String>,
}

impl<'a> FromTwilio<'a> {
    /// # Errors
    /// [`Malformed`] for anything but a JSON object with `event` and that event's own fields.
    pub fn parse(text: &'a str) -> Result<Self, Malformed> {
        if let Some(media) = Self::media(text) {
            return Ok(media);
        }
        Self::parse_any(text)
    }

    /// A `media` message as Twilio writes it.
    fn media(text: &'a str) -> Option<Self> {
        let mut it = Template::new(text)?;
        it.literal(r#"{"event":"media","sequenceNumber":""#)?;
        it.string()?;
        it.literal(r#","media":{"track":"inbound","chunk":""#)?;
        it.string()?;
        it.literal(r#","timestamp":""#)?;
        let timestamp_ms = it.string()?.trim().parse().unwrap_or(0);
        it.literal(r#","payload":""#)?;
        let payload = Cow::Borrowed(it.string()?);
        it.literal(r#"},"streamSid":""#)?;
        it.string()?;
        it.literal("}")?;
        it.end()?;
        Some(Self::Media { timestamp_ms, payload })
    }

    fn parse_any(text: &'a str) -> Result<Self, Malformed> {
        let envelope: Envelope<'a> = serde_json::from_str(text).map_err(|error| Malformed::json("Twilio", &error))?;
        let lacks = |field| Malformed::lacks("Twilio", &envelope.event, field);
        Ok(match &*envelope.event {
            "media" => {
                let media = envelope.media.ok_or_else(|| lacks("media"))?;
                Self::Media { timestamp_ms: media.timestamp.unwrap_or_default().0, payload: media.payload }
            }
            "mark" => Self::Mark { name: envelope.mark.ok_or_else(|| lacks("mark"))?.name },
            "dtmf" => {
                let digit = envelope.dtmf.ok_or_else(|| lacks("dtmf"))?.digit;
                let mut characters = digit.chars();
                match (characters.next(), characters.next()) {
                    (Some(digit @ ('0'..='9' | '*' | '#' | 'A'..='D')), None) => Self::Dtmf { digit },
                    _ => return Err(lacks("dtmf.digit")),
                }
            }
            "start" => {
                let start = envelope.start.ok_or_else(|| lacks("start"))?;
                let format = start.media_format.unwrap_or_default();
                Self::Start(Start {
                    stream_sid: start.stream_sid,
                    call_sid: start.call_sid,
                    account_sid: start.account_sid.unwrap_or_default(),
                    encoding: format.encoding.unwrap_or_default(),
                    sample_rate: format.sample_rate.unwrap_or_default().0,
                    custom_parameters: start.custom_parameters.unwrap_or_default(),
                })
            }
            "connected" => Self::Connected,
            "stop" => Self::Stop,
            other => Self::Other(other.chars().take(64).collect()),
        })
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    event: Text<'a>,
    #[serde(borrow)]
    media: Option<Media<'a>>,
    #[serde(borrow)]
    mark: Option<Mark<'a>>,
    dtmf: Option<Dtmf>,
    start: Option<RawStart>,
}

#[derive(Deserialize)]
struct Media<'a> {
    #[serde(borrow)]
    payload: Cow<'a, str>,
    timestamp: Option<Number>,
}

#[derive(Deserialize)]
struct Mark<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Dtmf {
    digit: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawStart {
    stream_sid: String,
    call_sid: String,
    account_sid: Option<String>,
    media_format: Option<MediaFormat>,
    custom_parameters: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MediaFormat {
    encoding: Option<String>,
    sample_rate: Option<Number>,
}

/// Replaces `out` by a `media` message with raw μ-law.
///
/// `stream_sid` goes in as it is: Twilio made it of letters and digits, which [`is_plain`] has checked at the start.
pub fn print_media(out: &mut String, stream_sid: &str, ulaw: &[u8]) {
    out.clear();
    out.push_str(r#"{"event":"media","streamSid":""#);
    out.push_str(stream_sid);
    out.push_str(r#"","media":{"payload":""#);
    audio::encode(ulaw, out);
    out.push_str(r#""}}"#);
}

/// Replaces `out` by a `mark` message; `name` is ours and plain ASCII.
pub fn print_mark(out: &mut String, stream_sid: &str, name: &str) {
    out.clear();
    out.push_str(r#"{"event":"mark","streamSid":""#);
    out.push_str(stream_sid);
    out.push_str(r#"","mark":{"name":""#);
    out.push_str(name);
    out.push_str(r#""}}"#);
}

/// Replaces `out` by a `clear` message: Twilio throws away all that waits, and echoes the pending marks.
pub fn print_clear(out: &mut String, stream_sid: &str) {
    out.clear();
    out.push_str(r#"{"event":"clear","streamSid":""#);
    out.push_str(stream_sid);
    out.push_str(r#""}"#);
}

/// Whether an id can stand in JSON without escaping: letters, digits, `_` and `-`, 1 to 64 of them.
pub fn is_plain(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'_' || it == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_fixture_parses() {
        let text = include_str!("../../../fixtures/twilio/from-twilio.jsonl");
        let events: Vec<FromTwilio<'_>> = text.lines().map(|it| FromTwilio::parse(it).unwrap()).collect();
        let [FromTwilio::Connected, FromTwilio::Start(start), media, dtmf, mark, FromTwilio::Stop] = &events[..] else {
            panic!("{events:?}")
        };
        assert_eq!(start.call_sid, "CA0123456789abcdef0123456789abcdef");
        assert_eq!((start.encoding.as_str(), start.sample_rate), ("audio/x-mulaw", 8000));
        assert_eq!(start.custom_parameters["callToken"], "k3yR7");
        let FromTwilio::Media { timestamp_ms: 20, payload: Cow::Borrowed(payload) } = media else { panic!("{media:?}") };
        let mut ulaw = Vec::new();
        audio::decode(payload, &mut ulaw).unwrap();
        assert_eq!(ulaw, [0xFF; 160]);
        assert_eq!(*dtmf, FromTwilio::Dtmf { digit: '5' });
        assert_eq!(*mark, FromTwilio::Mark { name: "resp_7:12480".into() });
    }

    #[test]
    fn what_we_send_has_exactly_the_documented_fields() {
        let sid = "MZ0123456789abcdef0123456789abcdef";
        let mut out = String::from("old");
        let mut lines = Vec::new();
        print_media(&mut out, sid, &[0xFF; 160]);
        lines.push(out.clone());
        print_mark(&mut out, sid, "resp_7:12480");
        lines.push(out.clone());
        print_clear(&mut out, sid);
        lines.push(out);
        assert_eq!(lines, include_str!("../../../fixtures/twilio/to-twilio.jsonl").lines().collect::<Vec<_>>());
    }

    #[test]
    fn the_unknown_is_passed_over_and_the_broken_named() {
        assert_eq!(FromTwilio::parse(r#"{"event":"hologram","x":[1]}"#).unwrap(), FromTwilio::Other("hologram".into()));
        assert_eq!(
            FromTwilio::parse(r#"{"event":"media"}"#).unwrap_err().to_string(),
            "not a Twilio message: `media` lacks `media`"
        );
        assert!(FromTwilio::parse(r#"{"event":"media","media":{"timestamp":7,"payload":"\/w==","new":null}}"#).is_ok());
        assert!(FromTwilio::parse(r#"{"event":"dtmf","dtmf":{"digit":"secret"}}"#).is_err());
    }

    #[test]
    fn an_error_never_quotes_the_message() {
        let error = FromTwilio::parse(r#"{"event":"media","media":"my card is 4111"}"#).unwrap_err().to_string();
        assert!(!error.contains("4111"), "{error}");
    }

    const MEDIA: &str = r#"{"event":"media","sequenceNumber":"4","media":{"track":"inbound","chunk":"2","timestamp":"20","payload":"fn5+/w=="},"streamSid":"MZ1"}"#;

    #[test]
    fn sound_is_read_the_short_way_in_the_form_that_twilio_writes() {
        let text = include_str!("../../../fixtures/twilio/from-twilio.jsonl");
        let sound = text.lines().find(|it| it.contains(r#""event":"media""#)).unwrap();
        assert!(FromTwilio::media(sound).is_some() && FromTwilio::media(MEDIA).is_some());
    }

    proptest! {
        #[test]
        fn nothing_panics(text in ".{0,200}") {
            let _ = FromTwilio::parse(&text);
        }

        /// Whatever is changed in a message: what the short way reads, the long way reads alike.
        #[test]
        fn the_short_way_means_the_same(at in 0..MEDIA.len(), len in 0_usize..4, put in r#"["\\\\{}:,0-9a-z\u{1}é ]{0,3}"#) {
            let mut text = MEDIA.to_owned();
            text.replace_range(at..(at + len).min(MEDIA.len()), &put);
            if let Some(short) = FromTwilio::media(&text) {
                prop_assert_eq!(Ok(short), FromTwilio::parse_any(&text).map_err(|it| it.to_string()), "{}", text);
            }
        }
    }
}
