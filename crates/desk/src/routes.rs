//! Which number is answered how, and every address we hand out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bridge::{AssistantPlan, CallId, SoundPlan};
use call::CallConfig;
use url::Url;

use crate::configuration::Templates;
use crate::ladder::Who;
use crate::phrases::Language;

/// Orders for Twilio's own retries, in the fragment of an address: four of them on any failure, 1.5 s to connect, 4 s to
/// answer, 14 s in all. Fragments are neither sent nor signed.
const RETRIES: &str = "rc=4&rp=all&ct=1500&rt=4000&tt=14000";

/// The address under which Twilio reaches us: `https://host[:port][/prefix]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl(String);

impl PublicUrl {
    /// # Errors
    /// Says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text.trim())
            .map_err(|error| format!("expected an address such as https://phone.example.com ({error})"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err("expected an address that begins with https://".into());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("expected an address without ? and #".into());
        }
        Ok(Self(text.trim().trim_end_matches('/').to_owned()))
    }

    /// Whether the address is encrypted, as every address on the internet must be.
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https://")
    }

    /// Whether it is an unencrypted address on this very machine: a simulator's, never Twilio's.
    pub fn is_local(&self) -> bool {
        let host = Url::parse(&self.0).ok().and_then(|it| it.host().map(|it| it.to_owned()));
        !self.is_https()
            && match host {
                Some(url::Host::Ipv4(it)) => it.is_loopback(),
                Some(url::Host::Ipv6(it)) => it.is_loopback(),
                Some(url::Host::Domain(name)) => name == "localhost",
                None => false,
            }
    }

    /// The prefix of all our paths: empty, or `/voiceclone`.
    pub fn path_prefix(&self) -> &str {
        let after_scheme = self.0.find("://").map_or(0, |it| it + 3);
        self.0[after_scheme..].find('/').map_or("", |it| &self.0[after_scheme + it..])
    }

    /// The absolute address of one of our paths, for HTTP.
    pub fn http(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }

    /// Same for a WebSocket.
    pub fn websocket(&self, path: &str) -> String {
        format!("ws{}{path}", self.0.strip_prefix("http").unwrap_or(&self.0))
    }

    /// What Twilio asks when a stream of that epoch is over, with and without orders for its retries.
    pub(crate) fn next(&self, call: &CallId, epoch: u32) -> (String, String) {
        let plain = self.http(&format!("/twilio/next/{call}/{epoch}"));
        (format!("{plain}#{RETRIES}"), plain)
    }

    /// What Twilio asks when somebody of a number's ladder was rung; who may be tried next is part of it.
    pub(crate) fn rung(&self, call: &CallId, place: usize, next: Who) -> String {
        let who = if next == Who::Everybody { "rung" } else { "people" };
        format!("{}#{RETRIES}", self.http(&format!("/twilio/{who}/{call}/{place}")))
    }

    /// What Twilio asks when the other leg of a transfer is over.
    pub(crate) fn dialled(&self, call: &CallId, epoch: u32) -> String {
        format!("{}#{RETRIES}", self.http(&format!("/twilio/dialled/{call}/{epoch}")))
    }
}

/// How calls to one number are answered.
#[derive(Clone, Debug)]
pub struct Route {
    pub tenant: Arc<str>,
    /// Name of the assistant, for the record.
    pub name: Arc<str>,
    /// Who may answer, in the order in which they are tried.
    pub assistants: Vec<AssistantPlan>,
    pub language: Language,
}

/// What the operator decided.
#[derive(Clone, Debug)]
pub struct Settings {
    pub public_url: PublicUrl,
    /// The address of this very process: its media sockets must come to it and to no other. Its paths are as those of
    /// `public_url`, which it is where there is only one process.
    pub node_url: PublicUrl,
    /// This process, in records.
    pub node: String,
    /// By called number, E.164.
    pub routes: BTreeMap<String, Route>,
    /// For numbers not named.
    pub fallback: Option<Route>,
    /// From what the assistants of tenants are made.
    pub templates: Templates,
    /// What all calls have in common; who answers, phrases and what follows from the language are added per call.
    pub conversation: CallConfig,
    /// Words that callers say without wanting the floor, beside those of the language.
    pub back_channel: Vec<String>,
    /// The first session is opened while it rings.
    pub prepare: bool,
    /// Whom callers may be connected with: E.164 by name.
    pub destinations: BTreeMap<String, String>,
    /// The destination of callers whom no assistant can answer.
    pub last_resort: Option<String>,
    /// What is done to the audio of every call.
    pub sound: SoundPlan,
    /// Folder for recordings; `None` records nothing.
    pub recordings: Option<PathBuf>,
    /// `wav` or `opus`.
    pub recording_format: String,
    pub time_zone: jiff::tz::TimeZone,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_absolute_and_keep_the_prefix() {
        let url = PublicUrl::parse("https://phone.example.com/voiceclone/").unwrap();
        assert_eq!(url.http("/twilio/voice"), "https://phone.example.com/voiceclone/twilio/voice");
        assert_eq!(url.websocket("/twilio-stream"), "wss://phone.example.com/voiceclone/twilio-stream");
        assert_eq!(url.path_prefix(), "/voiceclone");
        let local = PublicUrl::parse("http://127.0.0.1:8000").unwrap();
        assert_eq!((local.websocket("/x").as_str(), local.path_prefix(), local.is_https()), ("ws://127.0.0.1:8000/x", "", false));
        for wrong in ["phone.example.com", "ftp://x", "https://h/?a=1", ""] {
            assert!(PublicUrl::parse(wrong).is_err(), "{wrong}");
        }
    }
}
