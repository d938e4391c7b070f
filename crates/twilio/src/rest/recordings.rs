//! Recordings that Twilio makes: begun, paused, fetched, deleted.

use bytes::Bytes;
use serde::Deserialize;

use super::client::{Again, Listed, Page, Rest, is_sid};
use super::errors::RestError;
use super::form::Fields;

/// A recording to be begun on a live call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewRecording {
    /// Each side in a channel of its own.
    pub dual: bool,
    /// Absolute address told when the file is there.
    pub status_callback: Option<String>,
}

/// A change to a recording that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordingChange {
    /// Stops for a while; what is left out is silence, so that times stay right.
    Pause,
    /// Goes on.
    Resume,
    /// Ends.
    Stop,
}

/// A recording as Twilio knows it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Recording {
    /// `RE…`
    pub sid: String,
    /// Of the leg that was recorded.
    #[serde(default)]
    pub call_sid: Option<String>,
    /// `in-progress`, `paused`, `stopped`, `processing`, `completed`, `absent`.
    pub status: String,
    /// Seconds; `None` until it is done.
    #[serde(default, deserialize_with = "super::number")]
    pub duration: Option<u64>,
    /// 1 or 2.
    #[serde(default, deserialize_with = "super::number")]
    pub channels: Option<u16>,
    /// Why there is none.
    #[serde(default, deserialize_with = "super::number")]
    pub error_code: Option<u32>,
}

impl Listed for Recording {
    const NAME: &'static str = "recordings";
}

/// As what a recording is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoundFormat {
    /// 8 kHz, 16 bit.
    Wav,
    /// MP3.
    Mp3,
}

/// A recording's sound on its way.
#[derive(Debug)]
pub struct Sound {
    response: reqwest::Response,
    left: u64,
}

impl Sound {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// [`RestError`] when the way breaks, or more comes than was allowed.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, RestError> {
        let piece = self.response.chunk().await.map_err(|error| RestError::Unclear(error.without_url().to_string()))?;
        let length = piece.as_ref().map_or(0, |it| it.len() as u64);
        self.left =
            self.left.checked_sub(length).ok_or_else(|| RestError::Answer("the recording is larger than allowed".into()))?;
        Ok(piece)
    }
}

fn path(sid: &str, extension: &str) -> Result<String, RestError> {
    if is_sid(sid, "RE") {
        Ok(format!("/Recordings/{sid}.{extension}"))
    } else {
        Err(RestError::Request { field: "recording SID", expected: "RE and 32 hexadecimal digits" })
    }
}

fn of_call(call: &str) -> Result<&str, RestError> {
    if is_sid(call, "CA") {
        Ok(call)
    } else {
        Err(RestError::Request { field: "call SID", expected: "CA and 32 hexadecimal digits" })
    }
}

impl Rest {
    /// Begins to record a live call.
    ///
    /// # Errors
    /// [`RestError`]
    pub async fn start_recording(&self, call: &str, it: &NewRecording) -> Result<Recording, RestError> {
        let fields = Fields::new()
            .with("RecordingChannels", Some(if it.dual { "dual" } else { "mono" }))
            .with("RecordingStatusCallback", it.status_callback.as_ref())
            .all("RecordingStatusCallbackEvent", it.status_callback.iter().flat_map(|_| ["completed", "absent"]));
        self.post(&format!("/Calls/{}/Recordings.json", of_call(call)?), &fields, Again::Never).await
    }

    /// Pauses, resumes or ends the recording that runs on a call.
    ///
    /// # Errors
    /// [`RestError`]
    pub async fn change_recording(&self, call: &str, change: RecordingChange) -> Result<Recording, RestError> {
        let fields = match change {
            RecordingChange::Pause => Fields::new().with("Status", Some("paused")).with("PauseBehavior", Some("silence")),
            RecordingChange::Resume => Fields::new().with("Status", Some("in-progress")),
            RecordingChange::Stop => Fields::new().with("Status", Some("stopped")),
        };
        self.post(&format!("/Calls/{}/Recordings/Twilio.CURRENT.json", of_call(call)?), &fields, Again::Safe).await
    }

    /// A recording.
    ///
    /// # Errors
    /// [`RestError`]
    pub async fn recording(&self, sid: &str) -> Result<Recording, RestError> {
        self.get(&path(sid, "json")?, &Fields::new()).await
    }

    /// Recordings of a call.
    ///
    /// # Errors
    /// [`RestError`]
    pub async fn recordings(&self, call: &str) -> Result<Page<Recording>, RestError> {
        self.page("/Recordings.json", &Fields::new().with("CallSid", Some(of_call(call)?))).await
    }

    /// The sound of a recording, of at most so many bytes. A fresh one may be 404 until its `completed` is told.
    ///
    /// # Errors
    /// [`RestError`]
    pub async fn sound(&self, sid: &str, format: SoundFormat, bytes_max: u64) -> Result<Sound, RestError> {
        let extension = if format == SoundFormat::Wav { "wav" } else { "mp3" };
        Ok(Sound { response: self.fetch(&path(sid, extension)?).await?, left: bytes_max })
    }

    /// Deletes a recording.
    ///
    /// # Errors
    /// [`RestError`]
    pub async fn delete_recording(&self, sid: &str) -> Result<(), RestError> {
        self.delete(&path(sid, "json")?).await
    }
}
