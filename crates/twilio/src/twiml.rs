//! TwiML: what Twilio does next with a call.
//!
//! Source: Twilio, "TwiML for Programmable Voice". Only documents built here leave the server, so that nothing a caller
//! or a model said can become a verb.

use std::borrow::Cow;

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

/// Longest text of one `<Say>`, in characters.
pub const SAY_CHARACTERS_MAX: usize = 4000;
/// Name and value of a `<Parameter>` together stay below this many characters.
pub const PARAMETER_CHARACTERS: usize = 500;
/// Largest document that Twilio reads, in bytes (error 11750).
pub const DOCUMENT_BYTES_MAX: usize = 64 * 1024;

/// A document; verbs run in order. An empty one hangs up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    verbs: Vec<Verb>,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Speaks a text.
    Say {
        /// The words.
        text: String,
        /// BCP 47, such as `en-US`.
        language: String,
    },
    /// Waits.
    Pause {
        /// Seconds, at least 1.
        seconds: u32,
    },
    /// Ends the call.
    Hangup,
    /// Does not answer the call; only as first verb.
    Reject {
        /// The caller hears a busy tone instead of "not in service".
        busy: bool,
    },
    /// Continues with another document; nothing after it runs.
    Redirect {
        /// Absolute address, requested by POST.
        url: String,
    },
    /// Rings somebody else and connects the caller with them.
    Dial {
        /// E.164.
        number: String,
        /// Absolute address, requested by POST with `DialCallStatus` when that is over.
        action: String,
        /// Longest ringing, 5 to 600 seconds.
        timeout_seconds: u32,
    },
    /// Opens a media stream; what follows runs only if `action` is never requested.
    Connect {
        /// Absolute address, requested by POST when the stream is over.
        action: String,
        /// The stream.
        stream: Stream,
    },
}

/// `<Stream>`: the media socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// `wss://`, absolute, without query.
    pub url: String,
    /// Absolute address told about start, stop and errors of the stream.
    pub status_callback: String,
    /// Arrive in `start.customParameters`.
    pub parameters: Vec<Parameter>,
}

/// A name and value handed to the media socket. Visible in Twilio's console: nothing that outlives the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    name: String,
    value: String,
}

/// A limit of Twilio's that a document would break.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Invalid {
    /// Twilio would cut or refuse the parameter.
    #[error("the parameter `{name}` has {characters} characters with its value, fewer than {PARAMETER_CHARACTERS} are allowed")]
    ParameterTooLong {
        /// Its name.
        name: String,
        /// Name and value together.
        characters: usize,
    },
    /// Relative addresses depend on where the document came from.
    #[error("`{url}` is not an absolute {expected} address")]
    NotAbsolute {
        /// As given.
        url: String,
        /// `https` or `wss` (or their plain forms on loopback).
        expected: &'static str,
    },
    /// Twilio would not dial it; the number itself is personal and not shown.
    #[error("a number to dial is not in E.164: expected + and 4 to 15 digits")]
    Number,
    /// Twilio strips it before connecting.
    #[error("the stream address `{url}` has a query, which Twilio strips: use a <Parameter>")]
    StreamQuery {
        /// As given.
        url: String,
    },
}

impl Parameter {
    /// # Errors
    /// [`Invalid::ParameterTooLong`]
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Result<Self, Invalid> {
        let (name, value) = (name.into(), value.into());
        let characters = name.chars().count() + value.chars().count();
        if characters >= PARAMETER_CHARACTERS {
            return Err(Invalid::ParameterTooLong { name, characters });
        }
        Ok(Self { name, value })
    }
}

impl Response {
    /// A document without verbs.
    pub fn new() -> Self {
        Self::default()
    }

    /// The verbs in order.
    pub fn verbs(&self) -> &[Verb] {
        &self.verbs
    }

    /// Adds a spoken text, cut to what Twilio speaks.
    pub fn say(mut self, text: &str, language: &str) -> Self {
        let text = text.chars().take(SAY_CHARACTERS_MAX).collect();
        self.verbs.push(Verb::Say { text, language: language.to_owned() });
        self
    }

    /// Adds a wait of at least a second.
    pub fn pause(mut self, seconds: u32) -> Self {
        self.verbs.push(Verb::Pause { seconds: seconds.max(1) });
        self
    }

    /// Adds the end of the call.
    pub fn hangup(mut self) -> Self {
        self.verbs.push(Verb::Hangup);
        self
    }

    /// A document that does not answer the call.
    pub fn reject(busy: bool) -> Self {
        Self { verbs: vec![Verb::Reject { busy }] }
    }

    /// Adds a jump to another document.
    ///
    /// # Errors
    /// [`Invalid::NotAbsolute`]
    pub fn redirect(mut self, url: &str) -> Result<Self, Invalid> {
        self.verbs.push(Verb::Redirect { url: absolute(url, "https")? });
        Ok(self)
    }

    /// Adds a second leg: the caller is connected with a number, and keeps hearing it ring until somebody answers.
    ///
    /// # Errors
    /// [`Invalid::NotAbsolute`], [`Invalid::Number`]
    pub fn dial(mut self, number: &str, action: &str, timeout_seconds: u32) -> Result<Self, Invalid> {
        let digits = number.strip_prefix('+').unwrap_or_default();
        if !(4..=15).contains(&digits.len()) || !digits.bytes().all(|it| it.is_ascii_digit()) {
            return Err(Invalid::Number);
        }
        let action = absolute(action, "https")?;
        self.verbs.push(Verb::Dial { number: number.to_owned(), action, timeout_seconds: timeout_seconds.clamp(5, 600) });
        Ok(self)
    }

    /// Adds a media stream and what is asked when it is over.
    ///
    /// # Errors
    /// [`Invalid::NotAbsolute`], [`Invalid::StreamQuery`]
    pub fn connect(mut self, action: &str, stream: Stream) -> Result<Self, Invalid> {
        absolute(&stream.url, "wss")?;
        absolute(&stream.status_callback, "https")?;
        if stream.url.contains(['?', '#']) {
            return Err(Invalid::StreamQuery { url: stream.url });
        }
        self.verbs.push(Verb::Connect { action: absolute(action, "https")?, stream });
        Ok(self)
    }

    /// The document as XML.
    pub fn render(&self) -> String {
        let mut writer = Writer::new(Vec::with_capacity(512));
        // Writing to memory cannot fail.
        let written = writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None))).and_then(|()| {
            writer
                .create_element("Response")
                .write_inner_content(|writer| self.verbs.iter().try_for_each(|it| it.write(writer)))
                .map(drop)
        });
        debug_assert!(written.is_ok());
        String::from_utf8(writer.into_inner()).expect("only strings were written")
    }
}

impl Verb {
    fn write(&self, writer: &mut Writer<Vec<u8>>) -> std::io::Result<()> {
        match self {
            Self::Say { text, language } => writer
                .create_element("Say")
                .with_attribute(("language", &*allowed(language)))
                .write_text_content(BytesText::new(&allowed(text)))?,
            Self::Pause { seconds } => {
                writer.create_element("Pause").with_attribute(("length", &*seconds.to_string())).write_empty()?
            }
            Self::Hangup => writer.create_element("Hangup").write_empty()?,
            Self::Reject { busy } => writer
                .create_element("Reject")
                .with_attribute(("reason", if *busy { "busy" } else { "rejected" }))
                .write_empty()?,
            Self::Redirect { url } => writer
                .create_element("Redirect")
                .with_attribute(("method", "POST"))
                .write_text_content(BytesText::new(&allowed(url)))?,
            Self::Dial { number, action, timeout_seconds } => writer
                .create_element("Dial")
                .with_attributes([
                    ("action", &*allowed(action)),
                    ("method", "POST"),
                    ("timeout", &*timeout_seconds.to_string()),
                    ("answerOnBridge", "true"),
                ])
                .write_inner_content(|writer| {
                    writer.create_element("Number").write_text_content(BytesText::new(&allowed(number))).map(drop)
                })?,
            Self::Connect { action, stream } => writer
                .create_element("Connect")
                .with_attributes([("action", &*allowed(action)), ("method", "POST")])
                .write_inner_content(|writer| {
                    writer
                        .create_element("Stream")
                        .with_attributes([
                            ("url", &*allowed(&stream.url)),
                            ("statusCallback", &*allowed(&stream.status_callback)),
                        ])
                        .write_inner_content(|writer| {
                            stream.parameters.iter().try_for_each(|it| {
                                let attributes = [("name", &*allowed(&it.name)), ("value", &*allowed(&it.value))];
                                writer.create_element("Parameter").with_attributes(attributes).write_empty().map(drop)
                            })
                        })
                        .map(drop)
                })?,
        };
        Ok(())
    }
}

fn absolute(url: &str, expected: &'static str) -> Result<String, Invalid> {
    let plain = if expected == "wss" { "ws://" } else { "http://" };
    let scheme_fits = url.strip_prefix(expected).is_some_and(|it| it.starts_with("://")) || url.starts_with(plain);
    if scheme_fits && url::Url::parse(url).is_ok() {
        Ok(url.to_owned())
    } else {
        Err(Invalid::NotAbsolute { url: url.to_owned(), expected })
    }
}

/// The text without characters for which XML 1.0 has no spelling.
fn allowed(text: &str) -> Cow<'_, str> {
    let forbidden = |it: char| matches!(it, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}');
    if text.contains(forbidden) { Cow::Owned(text.replace(forbidden, "")) } else { Cow::Borrowed(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use quick_xml::Reader;

    fn stream(value: &str) -> Stream {
        Stream {
            url: "wss://offhook.example.com/twilio-stream".into(),
            status_callback: "https://offhook.example.com/s".into(),
            parameters: vec![Parameter::new("token", value).unwrap()],
        }
    }

    #[test]
    fn an_answered_call() {
        let document = Response::new()
            .connect("https://offhook.example.com/twilio/next/C1/0#rc=4&rp=all", stream("k3y"))
            .unwrap()
            .redirect("https://offhook.example.com/twilio/next/C1/0")
            .unwrap();
        assert_eq!(
            document.render(),
            concat!(
                r#"<?xml version="1.0" encoding="UTF-8"?><Response>"#,
                r#"<Connect action="https://offhook.example.com/twilio/next/C1/0#rc=4&amp;rp=all" method="POST">"#,
                r#"<Stream url="wss://offhook.example.com/twilio-stream" statusCallback="https://offhook.example.com/s">"#,
                r#"<Parameter name="token" value="k3y"/></Stream></Connect>"#,
                r#"<Redirect method="POST">https://offhook.example.com/twilio/next/C1/0</Redirect></Response>"#
            )
        );
    }

    #[test]
    fn limits_are_checked_at_construction() {
        assert!(Parameter::new("name", "v".repeat(496)).is_err());
        assert!(Parameter::new("name", "v".repeat(495)).is_ok());
        assert!(matches!(Response::new().redirect("/next"), Err(Invalid::NotAbsolute { .. })));
        let with_query = Stream { url: "wss://h/p?token=1".into(), ..stream("") };
        assert!(matches!(Response::new().connect("https://h/n", with_query), Err(Invalid::StreamQuery { .. })));
        let long = Response::new().say(&"x".repeat(5000), "en-US");
        let Verb::Say { text, .. } = &long.verbs()[0] else { panic!() };
        assert_eq!(text.len(), SAY_CHARACTERS_MAX);
    }

    /// Elements, attributes and texts in order, as a reader sees them.
    fn tree(xml: &str) -> Vec<String> {
        let (mut reader, mut found) = (Reader::from_str(xml), Vec::new());
        let mut text = String::new();
        loop {
            let event = reader.read_event().unwrap();
            if !matches!(event, Event::Text(_) | Event::GeneralRef(_)) && !text.is_empty() {
                found.push(std::mem::take(&mut text));
            }
            match event {
                Event::Start(it) | Event::Empty(it) => {
                    found.push(it.name().as_ref().to_owned());
                    for attribute in it.attributes() {
                        let attribute = attribute.unwrap();
                        let value = quick_xml::escape::unescape(&attribute.value).unwrap().into_owned();
                        found.push(format!("{}={value}", attribute.key.as_ref()));
                    }
                }
                Event::Text(it) => text.push_str(&it),
                Event::GeneralRef(it) => {
                    let entity = format!("&{};", &*it);
                    text.push_str(&quick_xml::escape::unescape(&entity).unwrap());
                }
                Event::Eof => return found,
                _ => (),
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_reads_back_as_the_same_tree(text in "\\PC{1,60}", value in any::<String>()) {
            prop_assume!(value.chars().count() < 400);
            let xml = Response::new().say(&text, "en-US").connect("https://h/n", stream(&value)).unwrap().render();
            let expected = [
                "Response", "Say", "language=en-US", &*allowed(&text), "Connect", "action=https://h/n", "method=POST", "Stream",
                "url=wss://offhook.example.com/twilio-stream", "statusCallback=https://offhook.example.com/s",
                "Parameter", "name=token", &format!("value={}", allowed(&value)),
            ];
            prop_assert_eq!(tree(&xml), expected);
        }
    }
}
