//! Calls: made, changed, looked up.

use std::fmt;

use serde::Deserialize;

use super::client::{Again, Listed, Page, Rest, is_sid};
use super::errors::RestError;
use super::form::Fields;
use crate::twiml::{REST_DOCUMENT_CHARACTERS_MAX, Response};

/// What a call does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// Absolute address, asked by POST.
    Url(String),
    /// At most 4000 characters; addresses in it are absolute.
    Twiml(Response),
}

impl Document {
    fn fields(&self, fields: Fields) -> Result<Fields, RestError> {
        match self {
            Self::Url(url) => {
                if !url.starts_with("https://") && !url.starts_with("http://") {
                    return Err(RestError::Request { field: "Url", expected: "an absolute address" });
                }
                Ok(fields.with("Url", Some(url)).with("Method", Some("POST")))
            }
            Self::Twiml(document) => {
                let text = document.render();
                if text.chars().count() > REST_DOCUMENT_CHARACTERS_MAX {
                    return Err(RestError::Request { field: "Twiml", expected: "at most 4000 characters" });
                }
                Ok(fields.with("Twiml", Some(text)))
            }
        }
    }
}

/// Answering machine detection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Amd {
    /// Waits for the end of a machine's greeting (`DetectMessageEnd`), to leave a message; otherwise for its beginning.
    pub message_end: bool,
    /// Absolute address that is told who answered; the call goes on meanwhile. Without it the document waits, 3 to 7 s.
    pub callback: Option<String>,
    /// Longest detection in seconds, 3 to 59; default 30.
    pub timeout: Option<u32>,
}

/// A call to be made.
#[derive(Clone, PartialEq, Eq)]
pub struct NewCall {
    /// E.164.
    pub to: String,
    /// One of the account's numbers.
    pub from: String,
    /// What happens when it is answered.
    pub document: Document,
    /// Absolute address of a static document for when `document` fails.
    pub fallback_url: Option<String>,
    /// Absolute address told how it fares: `initiated`, `ringing`, `answered`, `completed`, in any order.
    pub status_callback: Option<String>,
    /// Longest ringing in seconds, 1 to 600; default 60.
    pub timeout: Option<u32>,
    /// Longest call in seconds.
    pub time_limit: Option<u32>,
    /// Tones after the answer.
    pub send_digits: Option<String>,
    /// Who answered: a person or a machine.
    pub amd: Option<Amd>,
    /// Recorded by Twilio, in two channels; told to this absolute address.
    pub recording_callback: Option<String>,
    /// From the webhook of a call that is passed on: permits to show the original caller's number.
    pub call_token: Option<String>,
}

impl fmt::Debug for NewCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewCall")
    }
}

impl NewCall {
    /// A call without anything special.
    pub fn new(to: impl Into<String>, from: impl Into<String>, document: Document) -> Self {
        Self {
            to: to.into(),
            from: from.into(),
            document,
            fallback_url: None,
            status_callback: None,
            timeout: None,
            time_limit: None,
            send_digits: None,
            amd: None,
            recording_callback: None,
            call_token: None,
        }
    }

    fn fields(&self) -> Result<Fields, RestError> {
        if self.timeout.is_some_and(|it| !(1..=600).contains(&it)) {
            return Err(RestError::Request { field: "Timeout", expected: "1 to 600 seconds" });
        }
        if self.send_digits.as_ref().is_some_and(|it| it.is_empty() || it.len() > 32) {
            return Err(RestError::Request { field: "SendDigits", expected: "1 to 32 of 0-9 A-D * # w W" });
        }
        let fields = self.document.fields(Fields::new().with("To", Some(&self.to)).with("From", Some(&self.from)))?;
        let mut fields = fields
            .with("FallbackUrl", self.fallback_url.as_ref())
            .with("Timeout", self.timeout)
            .with("TimeLimit", self.time_limit)
            .with("SendDigits", self.send_digits.as_ref())
            .with("CallToken", self.call_token.as_ref());
        if let Some(url) = &self.status_callback {
            fields = fields
                .with("StatusCallback", Some(url))
                .with("StatusCallbackMethod", Some("POST"))
                .all("StatusCallbackEvent", ["initiated", "ringing", "answered", "completed"]);
        }
        if let Some(amd) = &self.amd {
            if amd.timeout.is_some_and(|it| !(3..=59).contains(&it)) {
                return Err(RestError::Request { field: "MachineDetectionTimeout", expected: "3 to 59 seconds" });
            }
            fields = fields
                .with("MachineDetection", Some(if amd.message_end { "DetectMessageEnd" } else { "Enable" }))
                .with("MachineDetectionTimeout", amd.timeout)
                .with("AsyncAmd", amd.callback.as_ref().map(|_| true))
                .with("AsyncAmdStatusCallback", amd.callback.as_ref());
        }
        if let Some(url) = &self.recording_callback {
            fields = fields
                .with("Record", Some(true))
                .with("RecordingChannels", Some("dual"))
                .with("RecordingStatusCallback", Some(url))
                .all("RecordingStatusCallbackEvent", ["completed", "absent"]);
        }
        Ok(fields)
    }
}

/// A change to a live call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallUpdate {
    /// It leaves what it is doing and runs another document. A leg in the middle of `<Dial>` loses the other one.
    Continue(Document),
    /// It ends, ringing or answered.
    HangUp,
    /// It ends if nobody has answered yet.
    Cancel,
}

/// A call as Twilio knows it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct Call {
    /// `CA…`
    pub sid: String,
    /// Of the leg that made this one.
    #[serde(default)]
    pub parent_call_sid: Option<String>,
    /// See [`crate::CallStatus`].
    pub status: String,
    /// E.164, `client:…` or `sip:…`.
    #[serde(default)]
    pub to: Option<String>,
    /// E.164, `client:…` or `sip:…`.
    #[serde(default)]
    pub from: Option<String>,
    /// `inbound`, `outbound-api`, `outbound-dial`.
    #[serde(default)]
    pub direction: Option<String>,
    /// Seconds; `None` while it lasts.
    #[serde(default, deserialize_with = "super::number")]
    pub duration: Option<u64>,
    /// RFC 2822.
    #[serde(default)]
    pub start_time: Option<String>,
    /// RFC 2822.
    #[serde(default)]
    pub end_time: Option<String>,
    /// A decimal number, negative; there some minutes after the end.
    #[serde(default)]
    pub price: Option<String>,
    /// ISO 4217.
    #[serde(default)]
    pub price_unit: Option<String>,
    /// See [`crate::MachineDetected`].
    #[serde(default)]
    pub answered_by: Option<String>,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Call({} {})", self.sid, self.status)
    }
}

impl Listed for Call {
    const NAME: &'static str = "calls";
}

/// Which calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallFilter {
    /// Called number.
    pub to: Option<String>,
    /// Calling number.
    pub from: Option<String>,
    /// Such as `in-progress`.
    pub status: Option<String>,
    /// Begun at or after this moment, RFC 3339 such as `2026-11-20T00:00:00Z`.
    pub since: Option<String>,
    /// Begun at or before this moment.
    pub until: Option<String>,
    /// Legs that this one made.
    pub parent: Option<String>,
    /// At most 1000 at a time; default 50.
    pub page_size: Option<u32>,
}

fn path(sid: &str) -> Result<String, RestError> {
    if is_sid(sid, "CA") {
        Ok(format!("/Calls/{sid}.json"))
    } else {
        Err(RestError::Request { field: "call SID", expected: "CA and 32 hexadecimal digits" })
    }
}

impl Rest {
    /// Makes a call. Accepted means `queued`, not that it rings.
    ///
    /// # Errors
    /// [`RestError`]; after [`RestError::Unclear`] look with [`calls`](Self::calls) before you try again.
    pub async fn create_call(&self, call: &NewCall) -> Result<Call, RestError> {
        self.post("/Calls.json", &call.fields()?, Again::Never).await
    }

    /// Changes a live call.
    ///
    /// # Errors
    /// [`RestError`]; see [`RestError::is_call_over`].
    pub async fn update_call(&self, sid: &str, update: &CallUpdate) -> Result<Call, RestError> {
        let (fields, again) = match update {
            // Redirected twice a caller would hear the beginning twice.
            CallUpdate::Continue(document) => (document.fields(Fields::new())?, Again::Never),
            CallUpdate::HangUp => (Fields::new().with("Status", Some("completed")), Again::Safe),
            CallUpdate::Cancel => (Fields::new().with("Status", Some("canceled")), Again::Safe),
        };
        self.post(&path(sid)?, &fields, again).await
    }

    /// Ends a call, if it has not ended by itself.
    ///
    /// # Errors
    /// [`RestError`]
    pub async fn hang_up(&self, sid: &str) -> Result<(), RestError> {
        match self.update_call(sid, &CallUpdate::HangUp).await {
            Err(error) if !error.is_call_over() => Err(error),
            _ => Ok(()),
        }
    }

    /// A call.
    ///
    /// # Errors
    /// [`RestError`]
    pub async fn call(&self, sid: &str) -> Result<Call, RestError> {
        self.get(&path(sid)?, &Fields::new()).await
    }

    /// Calls, the newest first.
    ///
    /// # Errors
    /// [`RestError`]
    pub async fn calls(&self, filter: &CallFilter) -> Result<Page<Call>, RestError> {
        let query = Fields::new()
            .with("To", filter.to.as_ref())
            .with("From", filter.from.as_ref())
            .with("Status", filter.status.as_ref())
            .with("ParentCallSid", filter.parent.as_ref())
            .with("StartTime>", filter.since.as_ref())
            .with("StartTime<", filter.until.as_ref())
            .with("PageSize", filter.page_size);
        self.page("/Calls.json", &query).await
    }

    /// The calls behind a page.
    ///
    /// # Errors
    /// [`RestError`]
    pub async fn next_calls(&self, page: &Page<Call>) -> Result<Option<Page<Call>>, RestError> {
        match &page.next {
            Some(next) => self.page_at(next).await.map(Some),
            None => Ok(None),
        }
    }

    /// Deletes the record of a call that is over.
    ///
    /// # Errors
    /// [`RestError`]
    pub async fn delete_call(&self, sid: &str) -> Result<(), RestError> {
        self.delete(&path(sid)?).await
    }
}
