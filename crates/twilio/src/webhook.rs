//! What Twilio posts. Every value is a string; parameters appear without notice.

use std::fmt;

/// The parameters of one webhook, decoded, in the order they came; repeated names are kept.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Form(Vec<(String, String)>);

impl Form {
    /// Decodes `application/x-www-form-urlencoded`; this cannot fail, broken escapes stay as they are.
    pub fn parse(body: &[u8]) -> Self {
        Self(form_urlencoded::parse(body).into_owned().collect())
    }

    /// All parameters, as the signature covers them.
    pub fn parameters(&self) -> &[(String, String)] {
        &self.0
    }

    /// The first value of that name, if it is not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str()).filter(|it| !it.is_empty())
    }

    fn required(&self, name: &'static str) -> Result<String, MissingParameter> {
        self.get(name).map(str::to_owned).ok_or(MissingParameter(name))
    }

    fn optional(&self, name: &str) -> Option<String> {
        self.get(name).map(str::to_owned)
    }
}

impl fmt::Debug for Form {
    /// Names only: values hold telephone numbers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// A webhook without a parameter that every such webhook has.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the webhook has no `{0}`: is this address wired to the right Twilio event?")]
pub struct MissingParameter(pub &'static str);

/// Where a call stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallStatus {
    /// Accepted by Twilio, not dialled yet.
    Queued,
    /// Being dialled.
    Initiated,
    /// It rings.
    Ringing,
    /// Answered.
    InProgress,
    /// Over; says nothing about who answered.
    Completed,
    /// Over: busy.
    Busy,
    /// Over: nobody answered.
    NoAnswer,
    /// Over: could not be connected.
    Failed,
    /// Over: cancelled before it was answered.
    Canceled,
    /// A status of a later version.
    Other(String),
}

impl CallStatus {
    /// Reads Twilio's spelling.
    pub fn parse(text: &str) -> Self {
        match text {
            "queued" => Self::Queued,
            "initiated" => Self::Initiated,
            "ringing" => Self::Ringing,
            "in-progress" | "answered" => Self::InProgress,
            "completed" => Self::Completed,
            "busy" => Self::Busy,
            "no-answer" => Self::NoAnswer,
            "failed" => Self::Failed,
            "canceled" => Self::Canceled,
            other => Self::Other(other.chars().take(32).collect()),
        }
    }

    /// Twilio's spelling.
    pub fn name(&self) -> &str {
        match self {
            Self::Queued => "queued",
            Self::Initiated => "initiated",
            Self::Ringing => "ringing",
            Self::InProgress => "in-progress",
            Self::Completed => "completed",
            Self::Busy => "busy",
            Self::NoAnswer => "no-answer",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::Other(name) => name,
        }
    }

    /// How far along a call is. Callbacks arrive in any order and more than once: a status only ever replaces one of
    /// lower rank. An unknown status has rank 0 and replaces nothing.
    pub fn rank(&self) -> i64 {
        match self {
            Self::Other(_) => 0,
            Self::Queued => 1,
            Self::Initiated => 2,
            Self::Ringing => 3,
            Self::InProgress => 4,
            Self::Completed | Self::Busy | Self::NoAnswer | Self::Failed | Self::Canceled => 5,
        }
    }

    /// Whether the call is over.
    pub fn is_terminal(&self) -> bool {
        self.rank() == 5
    }
}

/// The standard parameters of a voice webhook: inbound call, `action`, status callback.
#[derive(Clone, PartialEq, Eq)]
#[allow(missing_docs)] // Twilio's own names.
pub struct VoiceRequest {
    pub call_sid: String,
    pub account_sid: String,
    /// E.164, `client:…`, or a word such as `anonymous`.
    pub from: Option<String>,
    pub to: Option<String>,
    pub call_status: CallStatus,
    pub direction: Option<String>,
    pub api_version: Option<String>,
    pub forwarded_from: Option<String>,
    pub caller_name: Option<String>,
    /// Seconds; only on terminal status callbacks.
    pub call_duration: Option<u64>,
    /// Order in which status callbacks were fired.
    pub sequence_number: Option<u64>,
}

impl VoiceRequest {
    /// # Errors
    /// [`MissingParameter`] without `CallSid` or `AccountSid`; everything else may be missing.
    pub fn from_form(form: &Form) -> Result<Self, MissingParameter> {
        Ok(Self {
            call_sid: form.required("CallSid")?,
            account_sid: form.required("AccountSid")?,
            from: form.optional("From"),
            to: form.optional("To"),
            call_status: CallStatus::parse(form.get("CallStatus").unwrap_or_default()),
            direction: form.optional("Direction"),
            api_version: form.optional("ApiVersion"),
            forwarded_from: form.optional("ForwardedFrom"),
            caller_name: form.optional("CallerName"),
            call_duration: form.get("CallDuration").and_then(|it| it.parse().ok()),
            sequence_number: form.get("SequenceNumber").and_then(|it| it.parse().ok()),
        })
    }
}

impl fmt::Debug for VoiceRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VoiceRequest({} {})", self.call_sid, self.call_status.name())
    }
}

/// What became of a media stream: the only place where a failed handshake is told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Twilio's own names.
pub struct StreamStatus {
    pub call_sid: String,
    pub stream_sid: Option<String>,
    /// `stream-started`, `stream-stopped`, `stream-error`.
    pub event: String,
    pub error: Option<String>,
}

impl StreamStatus {
    /// # Errors
    /// [`MissingParameter`] without `CallSid` or `StreamEvent`.
    pub fn from_form(form: &Form) -> Result<Self, MissingParameter> {
        Ok(Self {
            call_sid: form.required("CallSid")?,
            stream_sid: form.optional("StreamSid"),
            event: form.required("StreamEvent")?,
            error: form.optional("StreamError"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_with_everything_and_one_with_the_least() {
        let form = Form::parse(b"CallSid=CA1&AccountSid=AC1&From=%2B15550100001&To=%2B15550100002&CallStatus=ringing&Direction=inbound&ApiVersion=2010-04-01&ForwardedFrom=&CallerName=Ana+Pop");
        let call = VoiceRequest::from_form(&form).unwrap();
        assert_eq!(
            (call.from.as_deref(), call.caller_name.as_deref(), call.forwarded_from),
            (Some("+15550100001"), Some("Ana Pop"), None)
        );
        assert_eq!(call.call_status, CallStatus::Ringing);
        assert!(VoiceRequest::from_form(&Form::parse(b"CallSid=CA1&AccountSid=AC1")).is_ok());
        assert_eq!(VoiceRequest::from_form(&Form::parse(b"CallSid=CA1")), Err(MissingParameter("AccountSid")));
    }

    #[test]
    fn debug_hides_numbers() {
        let form = Form::parse(b"CallSid=CA1&AccountSid=AC1&From=%2B15550100001");
        let shown = format!("{form:?} {:?}", VoiceRequest::from_form(&form).unwrap());
        assert!(!shown.contains("1555"), "{shown}");
    }

    #[test]
    fn a_late_status_never_reopens_a_call() {
        let order = ["queued", "initiated", "ringing", "in-progress", "completed"].map(|it| CallStatus::parse(it).rank());
        assert!(order.is_sorted_by(|a, b| a < b));
        assert_eq!(CallStatus::parse("nonsense").rank(), 0);
        for name in ["queued", "busy", "no-answer", "failed", "canceled", "in-progress"] {
            assert_eq!(CallStatus::parse(name).name(), name);
        }
    }
}
