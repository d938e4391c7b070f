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
    /// Why it failed, in SIP's numbers; only on status callbacks.
    pub sip_response_code: Option<u16>,
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
            sip_response_code: form.get("SipResponseCode").and_then(|it| it.parse().ok()),
        })
    }

    /// Whether it is a call that was made by REST (`outbound-api`), or a leg that `<Dial>` made (`outbound-dial`).
    pub fn is_outbound(&self) -> bool {
        self.direction.as_deref().is_some_and(|it| it.starts_with("outbound"))
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

/// How a required, optional, numeric or yes-or-no parameter is read.
macro_rules! read {
    (required, $form:ident, $name:literal) => {
        $form.required($name)?
    };
    (optional, $form:ident, $name:literal) => {
        $form.optional($name)
    };
    (number, $form:ident, $name:literal) => {
        $form.get($name).and_then(|it| it.parse().ok())
    };
    (flag, $form:ident, $name:literal) => {
        $form.get($name).map(|it| it.eq_ignore_ascii_case("true"))
    };
    (status, $form:ident, $name:literal) => {
        $form.get($name).map(CallStatus::parse)
    };
}

macro_rules! kind {
    (required) => { String };
    (optional) => { Option<String> };
    (number) => { Option<u64> };
    (flag) => { Option<bool> };
    (status) => { Option<CallStatus> };
}

/// A webhook's parameters: a field, how it is read, Twilio's name of it. `Debug` shows the first field, an id, and nothing else:
/// the others hold numbers and words of people.
macro_rules! webhooks {
    ($($(#[$doc:meta])* $type:ident { $first:ident: required = $first_name:literal,
        $($(#[$field_doc:meta])* $field:ident: $kind:ident = $name:literal),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq)]
        #[allow(missing_docs)] // Twilio's own names.
        pub struct $type {
            pub $first: String,
            $($(#[$field_doc])* pub $field: kind!($kind)),*
        }

        impl $type {
            /// # Errors
            /// [`MissingParameter`] without a parameter that is no `Option` here; everything else may be missing or empty.
            pub fn from_form(form: &Form) -> Result<Self, MissingParameter> {
                Ok(Self { $first: form.required($first_name)?, $($field: read!($kind, form, $name)),* })
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($type), self.$first)
            }
        }
    )*};
}

webhooks! {
    /// `action` of `<Gather>`.
    Gathered {
        call_sid: required = "CallSid",
        /// Without the key that ended it.
        digits: optional = "Digits",
        speech: optional = "SpeechResult",
        /// 0.0 to 1.0, as written.
        confidence: optional = "Confidence",
        language: optional = "Language",
    }

    /// `action` of `<Dial>`. When the caller hung up meanwhile, the answer has no effect.
    DialEnded {
        call_sid: required = "CallSid",
        /// `answered` for a conference.
        status: status = "DialCallStatus",
        leg: optional = "DialCallSid",
        /// Seconds.
        duration: number = "DialCallDuration",
        /// The legs were joined.
        bridged: flag = "DialBridged",
        recording_url: optional = "RecordingUrl",
    }

    /// `action` of `<Record>`; the file may not be there yet.
    Recorded {
        call_sid: required = "CallSid",
        recording_url: optional = "RecordingUrl",
        recording_sid: optional = "RecordingSid",
        /// Seconds.
        duration: number = "RecordingDuration",
        /// The key that ended it, or `hangup`.
        digits: optional = "Digits",
    }

    /// Recording status callback: only its `completed` says that the file is there.
    RecordingStatus {
        recording_sid: required = "RecordingSid",
        call_sid: required = "CallSid",
        /// `in-progress`, `completed`, `absent`, `failed`.
        status: required = "RecordingStatus",
        url: optional = "RecordingUrl",
        /// Seconds.
        duration: number = "RecordingDuration",
        channels: number = "RecordingChannels",
        source: optional = "RecordingSource",
        track: optional = "RecordingTrack",
        /// 16101: too short, 16102: silent.
        error_code: number = "ErrorCode",
    }

    /// `transcribeCallback` of `<Record>`.
    Transcribed {
        recording_sid: required = "RecordingSid",
        call_sid: required = "CallSid",
        /// `completed`, `failed`.
        status: required = "TranscriptionStatus",
        text: optional = "TranscriptionText",
        url: optional = "TranscriptionUrl",
    }

    /// Asynchronous answering machine detection.
    MachineDetected {
        call_sid: required = "CallSid",
        /// `human`, `fax`, `unknown`, `machine_start`, `machine_end_beep`, `machine_end_silence`, `machine_end_other`.
        answered_by: required = "AnsweredBy",
        /// Milliseconds.
        duration: number = "MachineDetectionDuration",
    }

    /// A message that came in; its SID is what makes it one message, however often it is told.
    MessageReceived {
        message_sid: required = "MessageSid",
        account_sid: required = "AccountSid",
        from: required = "From",
        to: required = "To",
        /// At most 1600 characters; `None` for pictures alone.
        body: optional = "Body",
        media: number = "NumMedia",
        segments: number = "NumSegments",
        /// `STOP`, `START`, `HELP`: Twilio has acted on it already.
        opt_out: optional = "OptOutType",
    }

    /// What became of a message that we sent.
    MessageStatus {
        message_sid: required = "MessageSid",
        /// `queued`, `sending`, `sent`, `delivered`, `undelivered`, `failed`, …
        status: required = "MessageStatus",
        to: optional = "To",
        /// Such as 30034: the sender is not registered.
        error_code: number = "ErrorCode",
    }

    /// Conference status callback.
    ConferenceStatus {
        conference_sid: required = "ConferenceSid",
        /// `conference-start`, `participant-join`, …
        event: required = "StatusCallbackEvent",
        sequence_number: number = "SequenceNumber",
        name: optional = "FriendlyName",
        call_sid: optional = "CallSid",
        label: optional = "ParticipantLabel",
        muted: flag = "Muted",
        hold: flag = "Hold",
        reason: optional = "ReasonParticipantLeft",
    }

    /// `action` and `waitUrl` of `<Enqueue>`.
    Queued {
        call_sid: required = "CallSid",
        queue_sid: optional = "QueueSid",
        /// At the end: `bridged`, `hangup`, `leave`, `queue-full`, …
        result: optional = "QueueResult",
        /// Seconds.
        waited: number = "QueueTime",
        position: number = "QueuePosition",
        average: number = "AvgQueueTime",
        length: number = "CurrentQueueSize",
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

    #[test]
    fn every_webhook_is_read_and_shows_nothing_private() {
        let form = Form::parse(
            b"CallSid=CA1&AccountSid=AC1&RecordingSid=RE1&MessageSid=SM1&ConferenceSid=CF1&From=%2B15550100001&To=%2B15550100002\
            &Digits=12&SpeechResult=hello+there&Confidence=0.93&DialCallStatus=no-answer&DialCallSid=CA2&DialCallDuration=7\
            &DialBridged=true&RecordingUrl=https%3A%2F%2Fx%2FRE1&RecordingDuration=9&RecordingStatus=completed&RecordingChannels=2\
            &TranscriptionStatus=completed&TranscriptionText=hello+there&AnsweredBy=machine_end_beep&MachineDetectionDuration=4100\
            &Body=hello+there&NumMedia=0&NumSegments=1&MessageStatus=undelivered&ErrorCode=30034\
            &StatusCallbackEvent=participant-join&SequenceNumber=3&Muted=false&QueueResult=queue-full&QueueTime=61",
        );
        let gathered = Gathered::from_form(&form).unwrap();
        assert_eq!((gathered.digits.as_deref(), gathered.confidence.as_deref()), (Some("12"), Some("0.93")));
        let dialled = DialEnded::from_form(&form).unwrap();
        assert_eq!(
            (dialled.status.clone(), dialled.duration, dialled.bridged),
            (Some(CallStatus::NoAnswer), Some(7), Some(true))
        );
        let recording = RecordingStatus::from_form(&form).unwrap();
        assert_eq!((recording.status.as_str(), recording.channels), ("completed", Some(2)));
        let message = MessageReceived::from_form(&form).unwrap();
        assert_eq!((message.body.as_deref(), message.media), (Some("hello there"), Some(0)));
        let conference = ConferenceStatus::from_form(&form).unwrap();
        assert_eq!((conference.muted, conference.sequence_number), (Some(false), Some(3)));
        let detected = MachineDetected::from_form(&form).unwrap();
        assert_eq!((detected.answered_by.as_str(), detected.duration), ("machine_end_beep", Some(4100)));
        let (recorded, transcribed) = (Recorded::from_form(&form).unwrap(), Transcribed::from_form(&form).unwrap());
        let (status, queued) = (MessageStatus::from_form(&form).unwrap(), Queued::from_form(&form).unwrap());
        assert_eq!((recorded.duration, status.error_code, queued.waited), (Some(9), Some(30034), Some(61)));
        let shown = format!(
            "{gathered:?} {dialled:?} {recording:?} {message:?} {conference:?} {detected:?} {recorded:?} {transcribed:?} {status:?} {queued:?}"
        );
        assert!(!shown.contains("1555") && !shown.contains("hello") && !shown.contains("12"), "{shown}");
        let nothing = Form::parse(b"");
        assert_eq!(Gathered::from_form(&nothing), Err(MissingParameter("CallSid")));
        assert_eq!(MessageReceived::from_form(&nothing), Err(MissingParameter("MessageSid")));
        let least =
            MachineDetected::from_form(&Form::parse(b"CallSid=CA1&AnsweredBy=human&MachineDetectionDuration=soon")).unwrap();
        assert_eq!(least.duration, None);
    }
}
