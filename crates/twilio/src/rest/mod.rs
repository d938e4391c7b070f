//! Twilio's REST API, version 2010-04-01: calls, numbers, messages, recordings, the account.
//!
//! ```no_run
//! # async fn example() -> Result<(), twilio::rest::RestError> {
//! use twilio::rest::{Account, Document, Key, NewCall, Rest};
//!
//! let account = Account { sid: "AC…".into(), key: Key::AuthToken(String::from("…").into()) };
//! let twilio = Rest::new(account, "https://api.twilio.com")?;
//! let document = Document::Url("https://phone.example.com/answered".into());
//! let call = twilio.create_call(&NewCall::new("+40711111111", "+40312345678", document)).await?;
//! twilio.hang_up(&call.sid).await?;
//! # Ok(())
//! # }
//! ```
//!
//! What is safe to repeat is repeated by itself, with growing pauses; what is not (a call, a message, a number that is bought)
//! only if it certainly was not carried out. [`RestError::Unclear`] says that nobody knows.

mod account;
mod calls;
mod client;
mod errors;
mod form;
mod messages;
mod numbers;
mod recordings;

pub use account::{AccountInfo, Balance};
pub use calls::{Amd, Call, CallFilter, CallUpdate, Document, NewCall};
pub use client::{Account, Key, Page, Rest};
pub use errors::{Refusal, RestError};
pub use messages::{Message, NewMessage};
pub use numbers::{AvailableNumber, Capabilities, Number, NumberKind, NumberSearch, NumberSettings, NumberToBuy};
pub use recordings::{NewRecording, Recording, RecordingChange, Sound, SoundFormat};

use serde::{Deserialize, Deserializer};

/// Twilio writes numbers as texts, sometimes as numbers, sometimes as nothing.
fn number<'de, D: Deserializer<'de>, T: std::str::FromStr>(deserializer: D) -> Result<Option<T>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(match value {
        serde_json::Value::Number(it) => it.to_string().parse().ok(),
        serde_json::Value::String(it) => it.parse().ok(),
        _ => None,
    })
}

/// An empty text is none.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|it| !it.is_empty()))
}
