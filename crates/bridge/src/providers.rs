//! Each provider: how it is reached, what it says, what it wants to hear.

pub(crate) mod elevenlabs;
pub(crate) mod live;
pub(crate) mod openai;

use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::plan::ToolDefinition;

/// The tool that every assistant has; the call itself performs it.
fn end_call() -> ToolDefinition {
    ToolDefinition {
        name: "end_call".into(),
        description: "Ends the call. Call it when the caller has said goodbye or has nothing further to ask.".into(),
        parameters: r#"{"type":"object","properties":{}}"#.into(),
    }
}

/// Host and a fingerprint of the key: tells accounts apart and shows nothing.
fn account(url: &Url, key: Option<&SecretString>) -> String {
    let key = key.map(|it| Sha256::digest(it.expose_secret().as_bytes()));
    let fingerprint: String = key.iter().flat_map(|it| it[..4].iter().map(|byte| format!("{byte:02x}"))).collect();
    let port = url.port().map(|it| format!(":{it}")).unwrap_or_default();
    format!("{}{port} {fingerprint}", url.host_str().unwrap_or_default())
}
