//! Every verb and noun, with its attributes. What is `None` or empty is left out of the document, and Twilio's default holds,
//! which the fields name.

use super::attributes::{Method, RecordingCallback, StatusCallback};
use super::element::{Element, absolute, allowed};
use super::{Invalid, PARAMETER_CHARACTERS, SAY_CHARACTERS_MAX};
use crate::is_e164;

/// Most repetitions of a `loop`.
const LOOP_MAX: u32 = 1000;
/// Most people that one `<Dial>` rings at once.
const DIALLED_MAX: usize = 10;

macro_rules! verbs {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// One instruction.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Verb {
            $($(#[$doc])* $name($name)),*
        }
        impl Verb {
            /// As an element of a document.
            ///
            /// # Errors
            /// [`Invalid`]
            pub fn element(&self) -> Result<Element, Invalid> {
                match self { $(Self::$name(it) => it.element()),* }
            }
        }
        $(impl From<$name> for Verb {
            fn from(it: $name) -> Self { Self::$name(it) }
        })*
    };
}

verbs! {
    /// Speaks.
    Say,
    /// Plays a sound, or tones.
    Play,
    /// Waits.
    Pause,
    /// Collects keys or speech.
    Gather,
    /// Records the caller.
    Record,
    /// Rings somebody else.
    Dial,
    /// Opens a media stream.
    Connect,
    /// Forks a media stream.
    Start,
    /// Ends a forked media stream.
    Stop,
    /// Puts the caller into a queue.
    Enqueue,
    /// Takes the caller out of the queue.
    Leave,
    /// Hands a SIP call over.
    Refer,
    /// Continues with another document.
    Redirect,
    /// Ends the call.
    Hangup,
    /// Does not answer.
    Reject,
    /// Answers a message.
    Message,
}

/// `<Say>`: speaks a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Say {
    /// At most [`SAY_CHARACTERS_MAX`] characters.
    pub text: String,
    /// Such as `Polly.Joanna-Neural`; default: the account's.
    pub voice: Option<String>,
    /// BCP 47, such as `en-US`; must suit the voice.
    pub language: Option<String>,
    /// 0: until somebody hangs up; default 1.
    pub repeat: Option<u32>,
}

impl Say {
    /// A text in the account's voice.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    fn element(&self) -> Result<Element, Invalid> {
        let element = Element::new("Say")
            .set("voice", self.voice.as_ref())
            .checked("language", self.language.as_ref(), "BCP 47, such as en-US", |it| is_language(it))?
            .checked("loop", self.repeat, "at most 1000", |it| *it <= LOOP_MAX)?;
        // What XML has no spelling for is not spoken either.
        let text = allowed(&self.text);
        if text.trim().is_empty() || text.chars().count() > SAY_CHARACTERS_MAX {
            return Err(element.refuse("text", "1 to 4000 characters to speak"));
        }
        Ok(element.containing(&text))
    }
}

/// `<Play>`: a sound from an address, or tones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Play {
    /// MP3, WAV, AIFF, GSM or μ-law.
    Url {
        /// Absolute address; asked by GET, without parameters.
        url: String,
        /// 0: up to 1000 times; default 1.
        repeat: Option<u32>,
    },
    /// Keys as tones.
    Digits(
        /// `0-9`, `A-D`, `*`, `#`, `w` for half a second, `W` for a second.
        String,
    ),
}

impl Play {
    fn element(&self) -> Result<Element, Invalid> {
        let element = Element::new("Play");
        match self {
            Self::Url { url, repeat } => {
                let element = element.checked("loop", *repeat, "at most 1000", |it| *it <= LOOP_MAX)?;
                Ok(element.containing(&absolute(url, "https")?))
            }
            Self::Digits(digits) => element.checked("digits", Some(digits), "1 to 32 of 0-9 A-D * # w W", |it| is_digits(it)),
        }
    }
}

/// `<Pause>`: waits. As first verb it delays answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// At least 1.
    pub seconds: u32,
}

impl Pause {
    fn element(&self) -> Result<Element, Invalid> {
        Element::new("Pause").checked("length", Some(self.seconds), "at least 1 second", |it| *it >= 1)
    }
}

/// What may stand inside a `<Gather>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Speaks.
    Say(Say),
    /// Plays.
    Play(Play),
    /// Waits.
    Pause(Pause),
}

impl From<Say> for Prompt {
    fn from(it: Say) -> Self {
        Self::Say(it)
    }
}
impl From<Play> for Prompt {
    fn from(it: Play) -> Self {
        Self::Play(it)
    }
}
impl From<Pause> for Prompt {
    fn from(it: Pause) -> Self {
        Self::Pause(it)
    }
}

/// `<Gather>`: collects keys or speech. Without `action` the same document is asked for again: a loop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gather {
    /// Absolute address; required here.
    pub action: Option<String>,
    /// How it is asked.
    pub method: Method,
    /// `dtmf` (default), `speech`, `dtmf speech`.
    pub input: Option<&'static str>,
    /// Seconds of silence that end it, default 5.
    pub timeout: Option<u32>,
    /// Keys that end it, at least 1; default: any number.
    pub num_digits: Option<u32>,
    /// One of `0-9*#`, or empty for none; default `#`.
    pub finish_on_key: Option<String>,
    /// `action` is asked although nothing was said or pressed; default: the next verb runs.
    pub action_on_empty_result: Option<bool>,
    /// Seconds of silence after speech, or `auto`; `auto` needs a `speech_model` (13335).
    pub speech_timeout: Option<String>,
    /// BCP 47, default `en-US`.
    pub language: Option<String>,
    /// At most 500 of at most 100 characters, without commas.
    pub hints: Vec<String>,
    /// Such as `phone_call`; default `default`.
    pub speech_model: Option<String>,
    /// Only with `phone_call`.
    pub enhanced: Option<bool>,
    /// Default true.
    pub profanity_filter: Option<bool>,
    /// Speech or keys stop what is played; default true.
    pub barge_in: Option<bool>,
    /// Absolute address that is told while somebody speaks.
    pub partial_result_callback: Option<String>,
    /// What is played meanwhile.
    pub prompts: Vec<Prompt>,
}

impl Gather {
    fn element(&self) -> Result<Element, Invalid> {
        let element = Element::new("Gather");
        if self.action.is_none() {
            return Err(element.refuse("action", "an address: without one the same document is asked for again, for ever"));
        }
        if self.speech_timeout.as_deref() == Some("auto") && self.speech_model.as_deref().unwrap_or("default") == "default" {
            return Err(element.refuse("speechTimeout", "a number with the default speechModel: auto needs another one (13335)"));
        }
        if self.enhanced == Some(true) && self.speech_model.as_deref() != Some("phone_call") {
            return Err(element.refuse("enhanced", "true only with the speechModel phone_call"));
        }
        let hint_fits = |it: &String| (1..=100).contains(&it.chars().count()) && !it.contains(',');
        if self.hints.len() > 500 || !self.hints.iter().all(hint_fits) {
            return Err(element.refuse("hints", "at most 500 of 1 to 100 characters, without commas"));
        }
        let hints = Some(self.hints.join(",")).filter(|it| !it.is_empty());
        let partial = self.partial_result_callback.as_ref();
        let mut element = element
            .action(self.action.as_ref(), self.method)?
            .checked("input", self.input, "dtmf, speech, dtmf speech", |it| ["dtmf", "speech", "dtmf speech"].contains(it))?
            .checked("timeout", self.timeout, "at least 1 second", |it| *it >= 1)?
            .checked("numDigits", self.num_digits, "at least 1", |it| *it >= 1)?
            .checked("finishOnKey", self.finish_on_key.as_ref(), "one of 0-9 * #, or nothing", |it| {
                it.is_empty() || (it.len() == 1 && is_keys(it))
            })?
            .set("actionOnEmptyResult", self.action_on_empty_result)
            .checked("speechTimeout", self.speech_timeout.as_ref(), "seconds, or auto", |it| {
                *it == "auto" || it.parse::<u32>().is_ok_and(|it| it >= 1)
            })?
            .checked("language", self.language.as_ref(), "BCP 47, such as en-US", |it| is_language(it))?
            .set("hints", hints)
            .set("speechModel", self.speech_model.as_ref())
            .set("enhanced", self.enhanced)
            .set("profanityFilter", self.profanity_filter)
            .set("bargeIn", self.barge_in)
            .url("partialResultCallback", partial)?
            .set("partialResultCallbackMethod", partial.map(|_| Method::Post));
        for prompt in &self.prompts {
            element = element.child(match prompt {
                Prompt::Say(it) => it.element()?,
                Prompt::Play(it) => it.element()?,
                Prompt::Pause(it) => it.element()?,
            });
        }
        Ok(element)
    }
}

/// `<Record>`: records the caller, until silence, a key or the end. Nothing after it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Absolute address; required here, because without one the same document is asked for again.
    pub action: Option<String>,
    /// How it is asked.
    pub method: Method,
    /// Seconds of silence that end it, default 5; 0: none do.
    pub timeout: Option<u32>,
    /// Keys that end it; default: any.
    pub finish_on_key: Option<String>,
    /// Seconds, 2 to 86400; default 3600.
    pub max_length: Option<u32>,
    /// Default true.
    pub play_beep: Option<bool>,
    /// Silence at both ends is cut off; default true.
    pub trim: Option<bool>,
    /// Who is told when the file is there.
    pub recording_callback: Option<RecordingCallback>,
    /// Absolute address that is told the words (US English, 2 to 120 s, paid).
    pub transcribe_callback: Option<String>,
}

impl Record {
    fn element(&self) -> Result<Element, Invalid> {
        let element = Element::new("Record");
        if self.action.is_none() {
            return Err(element.refuse("action", "an address: without one the same document is asked for again, for ever"));
        }
        if self.transcribe_callback.is_some() && self.max_length.is_some_and(|it| it > 120) {
            return Err(element.refuse("maxLength", "at most 120 seconds where it is transcribed"));
        }
        element
            .action(self.action.as_ref(), self.method)?
            .set("timeout", self.timeout)
            .checked("finishOnKey", self.finish_on_key.as_ref(), "keys of 0-9 * #", |it| is_keys(it))?
            .checked("maxLength", self.max_length, "2 to 86400 seconds", |it| (2..=86_400).contains(it))?
            .set("playBeep", self.play_beep)
            .set("trim", self.trim.map(|it| if it { "trim-silence" } else { "do-not-trim" }))
            .recording_callback(self.recording_callback.as_ref())?
            .set("transcribe", self.transcribe_callback.as_ref().map(|_| true))
            .url("transcribeCallback", self.transcribe_callback.as_ref())
    }
}

/// `<Dial>`: rings somebody else and connects the caller with them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dial {
    /// Who is rung: up to ten numbers, clients and SIP addresses, or one conference, or one queue.
    pub whom: Vec<Dialled>,
    /// Absolute address asked with `DialCallStatus` when that is over; with it following verbs are not reached.
    pub action: Option<String>,
    /// How it is asked.
    pub method: Method,
    /// Longest ringing in seconds, 5 to 600; default 30.
    pub timeout: Option<u32>,
    /// Longest call in seconds; default 14400.
    pub time_limit: Option<u32>,
    /// Whom the other side sees, in E.164; default: the caller.
    pub caller_id: Option<String>,
    /// The caller hears it ring until somebody answers; default false: silence, and an answered leg.
    pub answer_on_bridge: Option<bool>,
    /// The caller may hang up on the other side with `*`.
    pub hangup_on_star: Option<bool>,
    /// ISO country code of the ringing tone.
    pub ring_tone: Option<String>,
    /// `do-not-record` (default), `record-from-answer`, `record-from-ringing`, the last two also with `-dual`.
    pub record: Option<&'static str>,
    /// `inbound`, `outbound`, `both` (default).
    pub recording_track: Option<&'static str>,
    /// Who is told when the recording is there.
    pub recording_callback: Option<RecordingCallback>,
    /// One after the other instead of all at once.
    pub sequential: Option<bool>,
    /// Shown to who is called, at most 50 characters.
    pub call_reason: Option<String>,
}

/// Who is rung.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dialled {
    /// A telephone number.
    Number(Number),
    /// A browser or app.
    Client(Client),
    /// A SIP address.
    Sip(Sip),
    /// A conference.
    Conference(Box<Conference>),
    /// A queue.
    Queue(Queue),
}

macro_rules! dialled {
    ($($name:ident),*) => {$(
        impl From<$name> for Dialled {
            fn from(it: $name) -> Self { Self::$name(it) }
        }
    )*};
}
dialled!(Number, Client, Sip, Queue);

impl From<Conference> for Dialled {
    fn from(it: Conference) -> Self {
        Self::Conference(Box::new(it))
    }
}

impl Dial {
    /// Rings one.
    pub fn to(whom: impl Into<Dialled>) -> Self {
        Self { whom: vec![whom.into()], ..Self::default() }
    }

    fn element(&self) -> Result<Element, Invalid> {
        let element = Element::new("Dial");
        let alone = self.whom.iter().filter(|it| matches!(it, Dialled::Conference(_) | Dialled::Queue(_))).count();
        if self.whom.is_empty() || self.whom.len() > DIALLED_MAX || (alone > 0 && self.whom.len() > 1) {
            return Err(element.refuse("whom", "1 to 10 numbers, clients and SIP addresses, or one conference, or one queue"));
        }
        const RECORD: [&str; 5] =
            ["do-not-record", "record-from-answer", "record-from-ringing", "record-from-answer-dual", "record-from-ringing-dual"];
        let mut element = element
            .action(self.action.as_ref(), self.method)?
            .checked("timeout", self.timeout, "5 to 600 seconds", |it| (5..=600).contains(it))?
            .checked("timeLimit", self.time_limit, "1 to 86400 seconds", |it| (1..=86_400).contains(it))?
            .checked("callerId", self.caller_id.as_ref(), "a number in E.164, or client:name", |it| {
                is_e164(it) || it.starts_with("client:")
            })?
            .set("answerOnBridge", self.answer_on_bridge)
            .set("hangupOnStar", self.hangup_on_star)
            .checked("ringTone", self.ring_tone.as_ref(), "a country code such as ro", |it| {
                it.len() == 2 && it.bytes().all(|it| it.is_ascii_lowercase())
            })?
            .checked("record", self.record, "do-not-record, record-from-answer[-dual], record-from-ringing[-dual]", |it| {
                RECORD.contains(it)
            })?
            .checked("recordingTrack", self.recording_track, "inbound, outbound, both", |it| {
                ["inbound", "outbound", "both"].contains(it)
            })?
            .recording_callback(self.recording_callback.as_ref())?
            .set("sequential", self.sequential)
            .checked("callReason", self.call_reason.as_ref(), "at most 50 characters", |it| it.chars().count() <= 50)?;
        for whom in &self.whom {
            element = element.child(match whom {
                Dialled::Number(it) => it.element()?,
                Dialled::Client(it) => it.element()?,
                Dialled::Sip(it) => it.element()?,
                Dialled::Conference(it) => it.element()?,
                Dialled::Queue(it) => it.element()?,
            });
        }
        Ok(element)
    }
}

/// `<Number>`: a telephone number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Number {
    /// E.164.
    pub number: String,
    /// Tones after the answer, such as an extension.
    pub send_digits: Option<String>,
    /// Absolute address of a document that runs on the called side before the legs are joined: a whisper, a question.
    /// It must not dial; `<Hangup/>` declines.
    pub url: Option<String>,
    /// Who is told how the leg fares.
    pub status_callback: Option<StatusCallback>,
    /// `Enable` or `DetectMessageEnd`.
    pub machine_detection: Option<&'static str>,
}

impl Number {
    /// A number in E.164.
    pub fn new(number: impl Into<String>) -> Self {
        Self { number: number.into(), ..Self::default() }
    }

    fn element(&self) -> Result<Element, Invalid> {
        if !is_e164(&self.number) {
            return Err(Invalid::Number);
        }
        let element = Element::new("Number")
            .checked("sendDigits", self.send_digits.as_ref(), "1 to 32 of 0-9 A-D * # w W", |it| is_digits(it))?
            .url("url", self.url.as_ref())?
            .set("method", self.url.as_ref().map(|_| Method::Post))
            .status_callback(self.status_callback.as_ref())?
            .checked("machineDetection", self.machine_detection, "Enable, DetectMessageEnd", |it| {
                ["Enable", "DetectMessageEnd"].contains(it)
            })?;
        Ok(element.containing(&self.number))
    }
}

/// `<Client>`: a browser or app that has registered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// Its identity.
    pub identity: String,
    /// As [`Number::url`].
    pub url: Option<String>,
    /// Who is told how the leg fares.
    pub status_callback: Option<StatusCallback>,
    /// Handed to the app.
    pub parameters: Vec<Parameter>,
}

impl Client {
    fn element(&self) -> Result<Element, Invalid> {
        let element = Element::new("Client")
            .url("url", self.url.as_ref())?
            .set("method", self.url.as_ref().map(|_| Method::Post))
            .status_callback(self.status_callback.as_ref())?;
        if self.identity.is_empty() {
            return Err(element.refuse("identity", "a name"));
        }
        let element = element.child(Element::new("Identity").containing(&self.identity));
        Ok(self.parameters.iter().fold(element, |element, it| element.child(it.element())))
    }
}

/// `<Sip>`: a SIP address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sip {
    /// `sip:…`, at most 255 characters.
    pub uri: String,
    /// Who we are there.
    pub username: Option<String>,
    /// Visible to who sees the document.
    pub password: Option<String>,
    /// As [`Number::url`].
    pub url: Option<String>,
    /// Who is told how the leg fares.
    pub status_callback: Option<StatusCallback>,
}

impl Sip {
    fn element(&self) -> Result<Element, Invalid> {
        let element = Element::new("Sip")
            .set("username", self.username.as_ref())
            .set("password", self.password.as_ref())
            .url("url", self.url.as_ref())?
            .set("method", self.url.as_ref().map(|_| Method::Post))
            .status_callback(self.status_callback.as_ref())?;
        if !is_sip(&self.uri) {
            return Err(element.refuse("uri", "sip:… or sips:…, at most 255 characters"));
        }
        Ok(element.containing(&self.uri))
    }
}

/// `<Conference>`: a room of that name. A leg in a media stream cannot be in one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conference {
    /// Its name.
    pub name: String,
    /// Default false.
    pub muted: Option<bool>,
    /// `true` (default), `false`, `onEnter`, `onExit`.
    pub beep: Option<&'static str>,
    /// Default true.
    pub start_on_enter: Option<bool>,
    /// Default false.
    pub end_on_exit: Option<bool>,
    /// Absolute address of what those hear who wait, or empty for silence; default: music. Only Say, Play, Pause, Redirect (13238).
    pub wait_url: Option<String>,
    /// 2 to 250, default 250.
    pub max_participants: Option<u32>,
    /// From the start.
    pub record: Option<bool>,
    /// The call that is whispered to: its SID.
    pub coach: Option<String>,
    /// Known to the REST API by it.
    pub participant_label: Option<String>,
    /// Who is told what happens in it.
    pub status_callback: Option<StatusCallback>,
    /// Who is told when the recording is there.
    pub recording_callback: Option<RecordingCallback>,
}

impl Conference {
    fn element(&self) -> Result<Element, Invalid> {
        let wait_url = self.wait_url.as_ref();
        let wait_method = wait_url.filter(|it| !it.is_empty()).map(|_| Method::Post);
        let mut element = Element::new("Conference")
            .set("muted", self.muted)
            .checked("beep", self.beep, "true, false, onEnter, onExit", |it| ["true", "false", "onEnter", "onExit"].contains(it))?
            .set("startConferenceOnEnter", self.start_on_enter)
            .set("endConferenceOnExit", self.end_on_exit);
        element = match wait_url {
            Some(it) if it.is_empty() => element.set("waitUrl", Some("")),
            it => element.url("waitUrl", it)?,
        };
        let element = element
            .set("waitMethod", wait_method)
            .checked("maxParticipants", self.max_participants, "2 to 250", |it| (2..=250).contains(it))?
            .set("record", self.record.map(|it| if it { "record-from-start" } else { "do-not-record" }))
            .set("coach", self.coach.as_ref())
            .set("participantLabel", self.participant_label.as_ref())
            .status_callback(self.status_callback.as_ref())?
            .recording_callback(self.recording_callback.as_ref())?;
        if self.name.trim().is_empty() || self.name.chars().count() > 128 {
            return Err(element.refuse("name", "1 to 128 characters"));
        }
        Ok(element.containing(&self.name))
    }
}

/// `<Queue>`: whoever waits longest in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Absolute address of a document for who waited, before the legs are joined.
    pub url: Option<String>,
}

impl Queue {
    fn element(&self) -> Result<Element, Invalid> {
        let element = Element::new("Queue").url("url", self.url.as_ref())?.set("method", self.url.as_ref().map(|_| Method::Post));
        if self.name.trim().is_empty() {
            return Err(element.refuse("name", "a name"));
        }
        Ok(element.containing(&self.name))
    }
}

/// `<Connect>`: opens a media stream in both directions; what follows runs only if `action` is never asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// Absolute address, asked by POST when the stream is over.
    pub action: String,
    /// The stream.
    pub stream: Stream,
}

impl Connect {
    fn element(&self) -> Result<Element, Invalid> {
        Ok(Element::new("Connect").action(Some(&self.action), Method::Post)?.child(self.stream.element()?))
    }
}

/// `<Stream>`: the media socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// `wss://`, absolute, without query.
    pub url: String,
    /// Absolute address told about start, stop and errors of the stream.
    pub status_callback: String,
    /// Arrive in `start.customParameters`.
    pub parameters: Vec<Parameter>,
    /// Of the call; by it a forked stream is stopped.
    pub name: Option<String>,
    /// Of a forked stream: `inbound_track` (default), `outbound_track`, `both_tracks`.
    pub track: Option<&'static str>,
}

impl Stream {
    fn element(&self) -> Result<Element, Invalid> {
        let url = absolute(&self.url, "wss")?;
        if url.contains(['?', '#']) {
            return Err(Invalid::StreamQuery { url });
        }
        let element = Element::new("Stream")
            .set("url", Some(url))
            .url("statusCallback", Some(&self.status_callback))?
            .set("name", self.name.as_ref())
            .checked("track", self.track, "inbound_track, outbound_track, both_tracks", |it| {
                ["inbound_track", "outbound_track", "both_tracks"].contains(it)
            })?;
        Ok(self.parameters.iter().fold(element, |element, it| element.child(it.element())))
    }
}

/// A name and value handed to the media socket. Visible in Twilio's console: nothing that outlives the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    name: String,
    value: String,
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

    fn element(&self) -> Element {
        Element::new("Parameter").set("name", Some(&self.name)).set("value", Some(&self.value))
    }
}

/// `<Start>`: forks a media stream in one direction; the next verb runs at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The stream.
    pub stream: Stream,
}

impl Start {
    fn element(&self) -> Result<Element, Invalid> {
        Ok(Element::new("Start").child(self.stream.element()?))
    }
}

/// `<Stop>`: ends a forked media stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// The name it was started with.
    pub stream: String,
}

impl Stop {
    fn element(&self) -> Result<Element, Invalid> {
        let stream = Element::new("Stream").checked("name", Some(&self.stream), "a name", |it| !it.is_empty())?;
        Ok(Element::new("Stop").child(stream))
    }
}

/// `<Enqueue>`: puts the caller into a queue, which is made if there is none of that name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enqueue {
    /// Its name.
    pub name: String,
    /// Absolute address asked with `QueueResult` when the caller leaves it.
    pub action: Option<String>,
    /// How it is asked.
    pub method: Method,
    /// Absolute address of what the caller hears meanwhile.
    pub wait_url: Option<String>,
    /// Callers in it at most, 1 to 5000.
    pub max_queue_size: Option<u32>,
}

impl Enqueue {
    fn element(&self) -> Result<Element, Invalid> {
        let element = Element::new("Enqueue")
            .action(self.action.as_ref(), self.method)?
            .checked("maxQueueSize", self.max_queue_size, "1 to 5000", |it| (1..=5000).contains(it))?
            .url("waitUrl", self.wait_url.as_ref())?
            .set("waitUrlMethod", self.wait_url.as_ref().map(|_| Method::Post));
        if self.name.trim().is_empty() {
            return Err(element.refuse("name", "a name"));
        }
        Ok(element.containing(&self.name))
    }
}

/// `<Leave>`: takes the caller out of the queue; only in the document of its `wait_url`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leave;

impl Leave {
    fn element(self) -> Result<Element, Invalid> {
        Ok(Element::new("Leave"))
    }
}

/// `<Refer>`: hands a SIP call over and leaves its path; on any other call error 13801.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refer {
    /// `sip:…`
    pub uri: String,
    /// Absolute address asked when that is over.
    pub action: Option<String>,
    /// How it is asked.
    pub method: Method,
}

impl Refer {
    fn element(&self) -> Result<Element, Invalid> {
        let element = Element::new("Refer").action(self.action.as_ref(), self.method)?;
        if !is_sip(&self.uri) {
            return Err(element.refuse("uri", "sip:… or sips:…, at most 255 characters"));
        }
        Ok(element.child(Element::new("Sip").containing(&self.uri)))
    }
}

/// `<Redirect>`: continues with another document; nothing after it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redirect {
    /// Absolute address.
    pub url: String,
    /// How it is asked.
    pub method: Method,
}

impl Redirect {
    /// By POST.
    pub fn to(url: impl Into<String>) -> Self {
        Self { url: url.into(), method: Method::Post }
    }

    fn element(&self) -> Result<Element, Invalid> {
        let url = absolute(&self.url, "https")?;
        Ok(Element::new("Redirect").set("method", Some(self.method)).containing(&url))
    }
}

/// `<Hangup>`: ends the call. As first verb the call is answered, and billed, nevertheless: see [`Reject`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hangup;

impl Hangup {
    fn element(self) -> Result<Element, Invalid> {
        Ok(Element::new("Hangup"))
    }
}

/// `<Reject>`: does not answer the call, which is not billed; only as first verb.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reject {
    /// The caller hears a busy tone instead of "not in service".
    pub busy: bool,
}

impl Reject {
    fn element(self) -> Result<Element, Invalid> {
        Ok(Element::new("Reject").set("reason", Some(if self.busy { "busy" } else { "rejected" })))
    }
}

/// `<Message>`: answers a message; only in the document of a messaging webhook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// At most 1600 characters.
    pub body: String,
    /// Absolute addresses of pictures and the like, at most 10.
    pub media: Vec<String>,
    /// Default: whoever wrote.
    pub to: Option<String>,
    /// Absolute address told whether it arrived.
    pub status_callback: Option<String>,
}

impl Message {
    fn element(&self) -> Result<Element, Invalid> {
        let mut element = Element::new("Message")
            .checked("to", self.to.as_ref(), "a number in E.164", |it| is_e164(it))?
            .url("statusCallback", self.status_callback.as_ref())?;
        if self.body.chars().count() > 1600 || self.media.len() > 10 || (self.body.is_empty() && self.media.is_empty()) {
            return Err(element.refuse("body", "1 to 1600 characters, or 1 to 10 media addresses"));
        }
        if !self.body.is_empty() {
            element = element.child(Element::new("Body").containing(&self.body));
        }
        for it in &self.media {
            element = element.child(Element::new("Media").containing(&absolute(it, "https")?));
        }
        Ok(element)
    }
}

/// Tones: keys and pauses.
fn is_digits(it: &str) -> bool {
    (1..=32).contains(&it.len()) && it.bytes().all(|it| it.is_ascii_digit() || b"ABCDabcd*#wW".contains(&it))
}

fn is_keys(it: &str) -> bool {
    !it.is_empty() && it.bytes().all(|it| it.is_ascii_digit() || b"*#".contains(&it))
}

fn is_language(it: &str) -> bool {
    it.split('-').all(|it| (1..=8).contains(&it.len()) && it.bytes().all(|it| it.is_ascii_alphanumeric()))
}

fn is_sip(it: &str) -> bool {
    (it.starts_with("sip:") || it.starts_with("sips:")) && it.len() <= 255 && it.contains('@')
}
