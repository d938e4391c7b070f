//! TwiML: what Twilio does next with a call, or answers to a message.
//!
//! Source: Twilio, "TwiML for Programmable Voice" and "TwiML for Programmable Messaging". Only documents built here leave a server,
//! so that nothing a caller or a model said can become a verb.
//!
//! A document is made verb by verb; each is a struct of its attributes, checked when it is added:
//!
//! ```
//! use twilio::twiml::{Gather, Hangup, Response, Say};
//!
//! let menu = Gather {
//!     action: Some("https://phone.example.com/menu".into()),
//!     num_digits: Some(1),
//!     prompts: vec![Say::new("For opening hours, press 1.").into()],
//!     ..Gather::default()
//! };
//! let document = Response::new().with(menu)?.with(Say::new("Goodbye."))?.with(Hangup)?;
//! assert!(document.render().contains(r#"<Gather action="https://phone.example.com/menu" method="POST" numDigits="1">"#));
//! # Ok::<(), twilio::twiml::Invalid>(())
//! ```

mod attributes;
mod element;
mod verbs;

pub use attributes::{Method, RecordingCallback, StatusCallback};
pub use element::Element;
pub use verbs::{
    Client, Conference, Connect, Dial, Dialled, Enqueue, Gather, Hangup, Leave, Message, Number, Parameter, Pause, Play, Prompt,
    Queue, Record, Redirect, Refer, Reject, Say, Sip, Start, Stop, Stream, Verb,
};

/// Longest text of one `<Say>`, in characters.
pub const SAY_CHARACTERS_MAX: usize = 4000;
/// Name and value of a `<Parameter>` together stay below this many characters.
pub const PARAMETER_CHARACTERS: usize = 500;
/// Largest document that Twilio reads, in bytes (error 11750).
pub const DOCUMENT_BYTES_MAX: usize = 64 * 1024;
/// Largest document in the `Twiml` parameter of a REST request, in characters.
pub const REST_DOCUMENT_CHARACTERS_MAX: usize = 4000;

/// A document; verbs run in order. An empty one hangs up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    verbs: Vec<Element>,
}

/// A rule of Twilio's that a document would break.
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
    /// An attribute outside of what Twilio takes.
    #[error("<{verb} {attribute}>: expected {expected}")]
    Attribute {
        /// The element.
        verb: &'static str,
        /// The attribute, or what stands inside the element.
        attribute: &'static str,
        /// What Twilio takes.
        expected: &'static str,
    },
    /// A verb that Twilio allows only elsewhere, or that can never run where it stands.
    #[error("{0}")]
    Order(&'static str),
    /// Error 11750.
    #[error("the document has {0} bytes: Twilio reads {DOCUMENT_BYTES_MAX} at most")]
    TooLarge(usize),
}

impl Response {
    /// A document without verbs.
    pub fn new() -> Self {
        Self::default()
    }

    /// The verbs in order.
    pub fn verbs(&self) -> &[Element] {
        &self.verbs
    }

    /// Adds a verb.
    ///
    /// # Errors
    /// [`Invalid`] names the rule of Twilio's that the document would break.
    pub fn with(mut self, verb: impl Into<Verb>) -> Result<Self, Invalid> {
        let verb = verb.into();
        if let (Verb::Reject(_), Some(_)) = (&verb, self.verbs.first()) {
            return Err(Invalid::Order("<Reject> must be the first verb: after any other the call is answered already"));
        }
        if self.verbs.last().is_some_and(|it| ["Hangup", "Redirect", "Reject", "Record"].contains(&it.name())) {
            return Err(Invalid::Order("nothing after <Hangup>, <Redirect>, <Reject> and <Record> is ever reached"));
        }
        self.verbs.push(verb.element()?);
        let bytes = self.render().len();
        if bytes > DOCUMENT_BYTES_MAX { Err(Invalid::TooLarge(bytes)) } else { Ok(self) }
    }

    /// Adds a spoken text, cut to what Twilio speaks: for texts whose length nobody controls.
    pub fn say(mut self, text: &str, language: &str) -> Self {
        let say =
            Say { language: Some(language.to_owned()), ..Say::new(text.chars().take(SAY_CHARACTERS_MAX).collect::<String>()) };
        // What is cut fits; an empty text would be refused, and says nothing.
        self.verbs.extend(Verb::from(say).element());
        self
    }

    /// Adds the end of the call.
    pub fn hangup(mut self) -> Self {
        self.verbs.push(Element::new("Hangup"));
        self
    }

    /// The document as XML.
    pub fn render(&self) -> String {
        element::document(&self.verbs)
    }
}

#[cfg(test)]
mod tests;
