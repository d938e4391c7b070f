//! Messages: sent, looked up.

use std::fmt;

use serde::Deserialize;

use super::client::{Again, Rest, is_sid};
use super::errors::RestError;
use super::form::Fields;

/// A message to be sent.
#[derive(Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// E.164.
    pub to: String,
    /// A number of the account that can send messages, or a messaging service, `MG…`.
    pub from: String,
    /// 1 to 1600 characters; what does not fit into 160 (70 with letters beyond GSM's) costs more.
    pub body: String,
    /// Absolute address told whether it arrived.
    pub status_callback: Option<String>,
    /// Not delivered later than this many seconds, 1 to 36000.
    pub validity: Option<u32>,
}

impl fmt::Debug for NewMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewMessage({} characters)", self.body.chars().count())
    }
}

/// A message as Twilio knows it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct Message {
    /// `SM…` or `MM…`
    pub sid: String,
    /// `queued`, `sent`, `delivered`, `undelivered`, `failed`, …
    pub status: String,
    /// Messages that it was split into.
    #[serde(default, deserialize_with = "super::number")]
    pub num_segments: Option<u32>,
    /// Why it did not arrive.
    #[serde(default, deserialize_with = "super::number")]
    pub error_code: Option<u32>,
    /// A decimal number, negative; there a while later.
    #[serde(default)]
    pub price: Option<String>,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({} {})", self.sid, self.status)
    }
}

impl Rest {
    /// Sends a message.
    ///
    /// # Errors
    /// [`RestError`]; after [`RestError::Unclear`] it may have been sent.
    pub async fn send_message(&self, it: &NewMessage) -> Result<Message, RestError> {
        if !(1..=1600).contains(&it.body.chars().count()) {
            return Err(RestError::Request { field: "Body", expected: "1 to 1600 characters" });
        }
        if it.validity.is_some_and(|it| !(1..=36_000).contains(&it)) {
            return Err(RestError::Request { field: "ValidityPeriod", expected: "1 to 36000 seconds" });
        }
        let sender = if it.from.starts_with("MG") { "MessagingServiceSid" } else { "From" };
        let fields = Fields::new()
            .with("To", Some(&it.to))
            .with(sender, Some(&it.from))
            .with("Body", Some(&it.body))
            .with("StatusCallback", it.status_callback.as_ref())
            .with("ValidityPeriod", it.validity);
        self.post("/Messages.json", &fields, Again::Never).await
    }

    /// A message.
    ///
    /// # Errors
    /// [`RestError`]
    pub async fn message(&self, sid: &str) -> Result<Message, RestError> {
        if !is_sid(sid, "SM") && !is_sid(sid, "MM") {
            return Err(RestError::Request { field: "message SID", expected: "SM or MM and 32 hexadecimal digits" });
        }
        self.get(&format!("/Messages/{sid}.json"), &Fields::new()).await
    }
}
