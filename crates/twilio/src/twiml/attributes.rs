//! Attributes that several verbs have.

use std::fmt;

use super::Invalid;
use super::element::Element;

/// How Twilio asks an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// With the parameters in the body.
    #[default]
    Post,
    /// With the parameters in the query.
    Get,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Post { "POST" } else { "GET" })
    }
}

/// Who is told how a leg fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusCallback {
    /// Absolute address.
    pub url: String,
    /// How it is asked.
    pub method: Method,
    /// Of a leg: `initiated`, `ringing`, `answered`, `completed`; of a conference: `start`, `end`, `join`, `leave`, `mute`, `hold`,
    /// `modify`, `speaker`, `announcement`.
    pub events: Vec<&'static str>,
}

/// Who is told how a recording fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordingCallback {
    /// Absolute address.
    pub url: String,
    /// How it is asked.
    pub method: Method,
    /// `in-progress`, `completed` (what Twilio tells if nothing is named), `absent`.
    pub events: Vec<&'static str>,
}

const LEG_EVENTS: [&str; 4] = ["initiated", "ringing", "answered", "completed"];
const CONFERENCE_EVENTS: [&str; 9] = ["start", "end", "join", "leave", "mute", "hold", "modify", "speaker", "announcement"];
const RECORDING_EVENTS: [&str; 3] = ["in-progress", "completed", "absent"];

impl Element {
    /// `action` with its method.
    pub(super) fn action(self, url: Option<&String>, method: Method) -> Result<Self, Invalid> {
        let there = url.is_some();
        Ok(self.url("action", url)?.set("method", there.then_some(method)))
    }

    pub(super) fn status_callback(self, it: Option<&StatusCallback>) -> Result<Self, Invalid> {
        let Some(it) = it else { return Ok(self) };
        let known: &[&str] = if self.name() == "Conference" { &CONFERENCE_EVENTS } else { &LEG_EVENTS };
        let events = events(&it.events, known).ok_or_else(|| {
            self.refuse("statusCallbackEvent", "names of events that this element has, such as initiated or start")
        })?;
        let element = self.url("statusCallback", Some(&it.url))?.set("statusCallbackMethod", Some(it.method));
        Ok(element.set("statusCallbackEvent", events))
    }

    pub(super) fn recording_callback(self, it: Option<&RecordingCallback>) -> Result<Self, Invalid> {
        let Some(it) = it else { return Ok(self) };
        let events = events(&it.events, &RECORDING_EVENTS)
            .ok_or_else(|| self.refuse("recordingStatusCallbackEvent", "in-progress, completed, absent"))?;
        let element = self.url("recordingStatusCallback", Some(&it.url))?;
        Ok(element.set("recordingStatusCallbackMethod", Some(it.method)).set("recordingStatusCallbackEvent", events))
    }
}

/// Names with spaces between, `None` inside when there are none; `None` when one is unknown.
fn events(names: &[&'static str], known: &[&str]) -> Option<Option<String>> {
    let all_known = names.iter().all(|it| known.contains(it));
    all_known.then(|| Some(names.join(" ")).filter(|it| !it.is_empty()))
}
