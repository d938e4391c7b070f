//! Twilio's end of a media stream, with the caller on the line.

use std::collections::VecDeque;
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use media::{FRAME_BYTES, SILENCE};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::{Error, Message};
use twilio::{Algorithm, Body, sign};
use url::Url;

use crate::ear::Ear;
use crate::net::BoxIo;
use crate::script::{CallerScript, Step};
use crate::speech::{Speech, Utterance};
use crate::telephone::TelephoneNetwork;
use crate::timeline::{Moment, Party};
use crate::twiml::{Fault, Stream};

/// Unplayed audio that Twilio holds: ten minutes.
const BUFFER_BYTES_MAX: usize = 10 * 60 * 8000;
/// Longest wait for what a step of the script expects.
const STEP_TIMEOUT: Duration = Duration::from_secs(25);
/// When this process was late by more than this the whole machine stood still, and the server with it: the telephone network
/// is taken to have stood still too. Otherwise callers would hear silence that no server could have filled.
const STANDSTILL: Duration = Duration::from_millis(60);
/// People do not answer at once.
const REACTION: Duration = Duration::from_millis(250);

pub(crate) struct Ids {
    pub(crate) account_sid: String,
    pub(crate) call_sid: String,
    pub(crate) stream_sid: String,
}

pub(crate) enum StreamEnd {
    Refused,
    /// The server closed the socket or vanished.
    Server,
    /// The caller's side lost its socket; the call goes on.
    Lost,
    CallerHungUp,
}

/// The person on the line, for the whole call.
pub(crate) struct Caller {
    script: Vec<Step>,
    step: usize,
    step_since: Option<Instant>,
    not_before: Option<Instant>,
    speech: Speech,
    ear: Ear,
    /// Utterances heard to their end since the step began.
    heard: Vec<&'static str>,
    saying: Option<(&'static Utterance, usize, Instant)>,
    said_at: Option<Instant>,
    pub(crate) frames_sent: u64,
    pub(crate) frames_played: u64,
    /// When the last stream was lost, until something is heard again.
    lost_at: Option<Instant>,
    /// How long there was silence, each time.
    pub(crate) gaps: Vec<Duration>,
}

enum Deed {
    None,
    Press(char),
    HangUp,
    LoseSocket,
    Garbage,
}

impl Caller {
    pub(crate) fn new(script: CallerScript, speech: Speech) -> Self {
        Self {
            script: script.0,
            step: 0,
            step_since: None,
            not_before: None,
            speech,
            ear: Ear::new(speech.assistant),
            heard: Vec::new(),
            saying: None,
            said_at: None,
            frames_sent: 0,
            frames_played: 0,
            lost_at: None,
            gaps: Vec::new(),
        }
    }

    pub(crate) fn progress(&self) -> (usize, usize) {
        (self.step, self.script.len())
    }

    fn next_step(&mut self, pause: Duration) {
        self.step += 1;
        self.step_since = None;
        self.heard.clear();
        self.not_before = Some(Instant::now() + pause);
    }

    /// Hears 20 ms.
    fn hear(&mut self, ulaw: &[u8], network: &TelephoneNetwork) {
        let sounds = ulaw.iter().any(|it| !matches!(it, 0xFF | 0x7F));
        if let Some(lost) = self.lost_at.take_if(|_| sounds) {
            self.gaps.push(lost.elapsed());
        }
        if let Some(heard) = self.ear.listen(ulaw) {
            self.heard_something(heard, network);
        }
    }

    fn heard_something(&mut self, heard: crate::Heard, network: &TelephoneNetwork) {
        let moment = Moment::CallerHeard { utterance: heard.name, ms: heard.ms, complete: heard.complete };
        network.timeline.note(Party::Telephone, moment);
        if heard.complete {
            self.heard.extend(heard.name);
        }
    }

    /// The stream is over: what was being heard has ended, whatever follows.
    fn stop_hearing(&mut self, network: &TelephoneNetwork) {
        if let Some(heard) = self.ear.end() {
            self.heard_something(heard, network);
        }
        if matches!(self.script.get(self.step), Some(Step::Hear { .. })) {
            self.act(network);
        }
    }

    /// What to do now, after the script.
    fn act(&mut self, network: &TelephoneNetwork) -> Deed {
        let now = Instant::now();
        if self.saying.is_some() || self.not_before.is_some_and(|it| now < it) {
            return Deed::None;
        }
        let Some(step) = self.script.get(self.step).cloned() else { return Deed::None };
        let since = *self.step_since.get_or_insert(now);
        match &step {
            Step::Hear { utterance, at_least } => {
                let heard = match at_least {
                    None => self.heard.iter().any(|it| it == utterance),
                    Some(time) => {
                        self.ear.hearing().is_some_and(|it| it.name == Some(utterance) && it.ms >= time.as_millis() as usize)
                    }
                };
                if heard {
                    self.next_step(if at_least.is_some() { Duration::ZERO } else { REACTION });
                } else if now - since > STEP_TIMEOUT {
                    network.timeline.note(Party::Telephone, Moment::StepFailed { step: step.to_string() });
                    return Deed::HangUp;
                }
            }
            Step::Say(name) => match self.speech.caller.iter().find(|it| it.name == name) {
                Some(utterance) => {
                    network.timeline.note(Party::Telephone, Moment::CallerSays { utterance: utterance.name });
                    self.saying = Some((utterance, 0, now));
                }
                None => {
                    network
                        .timeline
                        .note(Party::Telephone, Moment::StepFailed { step: format!("{step}: there is no such recording") });
                    return Deed::HangUp;
                }
            },
            Step::Wait(time) => {
                if now - since >= *time {
                    self.next_step(Duration::ZERO);
                }
            }
            Step::Press(key) => {
                network.timeline.note(Party::Telephone, Moment::KeyPressed { key: *key });
                self.next_step(Duration::ZERO);
                return Deed::Press(*key);
            }
            Step::HangUp => {
                self.next_step(Duration::ZERO);
                return Deed::HangUp;
            }
            Step::LoseSocket => {
                self.next_step(Duration::ZERO);
                return Deed::LoseSocket;
            }
            Step::Garbage => {
                self.next_step(Duration::ZERO);
                return Deed::Garbage;
            }
        }
        Deed::None
    }

    /// The next 20 ms of the caller's voice.
    fn speak(&mut self, network: &TelephoneNetwork) -> [u8; FRAME_BYTES] {
        let mut frame = [SILENCE; FRAME_BYTES];
        if let Some((utterance, at, began)) = self.saying {
            let rest = &utterance.ulaw[at..];
            let len = rest.len().min(FRAME_BYTES);
            frame[..len].copy_from_slice(&rest[..len]);
            if len < rest.len() {
                self.saying = Some((utterance, at + len, began));
            } else {
                self.saying = None;
                self.said_at = None;
                network.timeline.note(Party::Telephone, Moment::CallerSaid { utterance: utterance.name });
                self.next_step(Duration::ZERO);
            }
        }
        frame
    }
}

/// Opens the socket as Twilio does.
pub(crate) async fn open(network: &TelephoneNetwork, stream: &Stream, ids: &Ids) -> Result<WebSocketStream<BoxIo>, Fault> {
    let url = Url::parse(&stream.url).map_err(|error| (31_923, error.to_string()))?;
    // Plain sockets only because everything is on loopback; Twilio insists on wss.
    if !matches!(url.scheme(), "wss" | "ws") {
        return Err((31_922, format!("the scheme of {} is not wss", stream.url)));
    }
    if url.query().is_some() {
        return Err((31_920, "the address has a query string".into()));
    }
    let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(80));
    let io = network.net.connect(host, port).await.map_err(|error| (31_902, error.to_string()))?;
    let mut request = stream.url.as_str().into_client_request().map_err(|error| (31_923, error.to_string()))?;
    let signature = sign(Algorithm::HmacSha1, &network.auth_token, &stream.url, Body::None);
    let headers = request.headers_mut();
    headers.insert("user-agent", http_value("Twilio.TmeWs/1.0"));
    headers.insert("x-twilio-signature", http_value(&signature));
    let connecting = tokio_tungstenite::client_async(request, io);
    match timeout(Duration::from_secs(10), connecting).await {
        Ok(Ok((socket, _))) => {
            network.timeline.note(Party::Telephone, Moment::StreamOpened { stream_sid: ids.stream_sid.clone() });
            Ok(socket)
        }
        Ok(Err(Error::Http(response))) => {
            let status = response.status().as_u16();
            network.timeline.note(Party::Telephone, Moment::StreamRefused { status });
            Err((31_920, format!("the handshake was answered {status}")))
        }
        Ok(Err(error)) => Err((31_920, error.to_string())),
        Err(_) => Err((31_901, "the handshake was not answered".into())),
    }
}

fn http_value(text: &str) -> http::HeaderValue {
    http::HeaderValue::try_from(text).expect("signatures and names are ASCII")
}

/// What a server may send; anything else is warning 31951.
enum FromServer {
    Media(Vec<u8>),
    Mark(String),
    Clear,
}

fn strict(text: &str, stream_sid: &str) -> Result<FromServer, String> {
    let message: Value = serde_json::from_str(text).map_err(|_| "not JSON".to_owned())?;
    let keys = |value: &Value, allowed: &[&str]| -> Result<(), String> {
        let object = value.as_object().ok_or("not an object")?;
        match object.keys().find(|it| !allowed.contains(&it.as_str())) {
            Some(extra) => Err(format!("the field `{extra}` is one too many")),
            None => allowed
                .iter()
                .find(|it| !object.contains_key(**it))
                .map_or(Ok(()), |missing| Err(format!("`{missing}` is missing"))),
        }
    };
    let event = message["event"].as_str().ok_or("`event` is missing")?.to_owned();
    match event.as_str() {
        "media" => {
            keys(&message, &["event", "streamSid", "media"])?;
            keys(&message["media"], &["payload"])?;
        }
        "mark" => {
            keys(&message, &["event", "streamSid", "mark"])?;
            keys(&message["mark"], &["name"])?;
        }
        "clear" => keys(&message, &["event", "streamSid"])?,
        other => return Err(format!("the event `{other}` is unknown")),
    }
    if message["streamSid"] != stream_sid {
        return Err("the streamSid is another stream's".into());
    }
    match event.as_str() {
        "media" => {
            let mut audio = Vec::new();
            let payload = message["media"]["payload"].as_str().ok_or("the payload is no string")?;
            wire::audio::decode(payload, &mut audio).map_err(|error| error.to_string())?;
            Ok(FromServer::Media(audio))
        }
        "mark" => {
            let name = message["mark"]["name"].as_str().ok_or("the name is no string")?;
            if name.is_empty() || name.len() > 64 {
                Err("the mark's name is empty or too long".into())
            } else {
                Ok(FromServer::Mark(name.into()))
            }
        }
        _ => Ok(FromServer::Clear),
    }
}

struct Session<'a> {
    network: &'a TelephoneNetwork,
    socket: WebSocketStream<BoxIo>,
    ids: Ids,
    sequence: u64,
    chunk: u64,
    /// Handed over by the server, not yet played.
    buffer: VecDeque<u8>,
    /// Bytes played or thrown away, and marks at the position that must be reached.
    passed: u64,
    marks: VecDeque<(u64, String)>,
    warned: Vec<u32>,
}

impl Session<'_> {
    /// Once per stream and code, as Twilio does.
    fn warn(&mut self, code: u32, text: &str) {
        if !self.warned.contains(&code) {
            self.warned.push(code);
            self.network.timeline.note(Party::Telephone, Moment::Warning { code, text: text.into() });
        }
    }

    async fn send(&mut self, mut message: Value) -> Result<(), ()> {
        if message["event"] != "connected" {
            self.sequence += 1;
            message["sequenceNumber"] = self.sequence.to_string().into();
            message["streamSid"] = self.ids.stream_sid.clone().into();
        }
        // A server that does not read: Twilio's buffer overflows and audio is lost.
        match timeout(Duration::from_secs(2), self.socket.send(Message::text(message.to_string()))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(()),
            Err(_) => {
                self.warn(31_930, "the server does not read; audio is lost");
                Err(())
            }
        }
    }

    async fn echo_marks(&mut self) -> Result<(), ()> {
        while self.marks.front().is_some_and(|it| it.0 <= self.passed) {
            if let Some((_, name)) = self.marks.pop_front() {
                self.send(json!({"event": "mark", "mark": {"name": name}})).await?;
            }
        }
        Ok(())
    }

    async fn receive(&mut self, text: &str, caller: &mut Caller) -> Result<(), ()> {
        match strict(text, &self.ids.stream_sid) {
            Ok(FromServer::Media(audio)) => {
                let room = BUFFER_BYTES_MAX.saturating_sub(self.buffer.len());
                if audio.len() > room {
                    self.warn(31_931, "more than ten minutes of audio are waiting; the rest is thrown away");
                }
                self.buffer.extend(audio.iter().take(room));
            }
            Ok(FromServer::Mark(name)) => {
                self.marks.push_back((self.passed + self.buffer.len() as u64, name));
                self.echo_marks().await?;
            }
            Ok(FromServer::Clear) => {
                let discarded = self.buffer.len();
                self.passed += discarded as u64;
                self.buffer.clear();
                let after_speech_ms = caller.saying.map(|(_, _, began)| began.elapsed().as_millis() as usize);
                let moment = Moment::Cleared { discarded_ms: discarded / media::BYTES_PER_MS, after_speech_ms };
                self.network.timeline.note(Party::Telephone, moment);
                if let Some(heard) = caller.ear.end() {
                    caller.heard_something(heard, self.network);
                }
                self.echo_marks().await?;
            }
            Err(problem) => self.warn(31_951, &problem),
        }
        Ok(())
    }

    /// 20 ms pass: one frame each way.
    async fn tick(&mut self, caller: &mut Caller) -> Result<(), ()> {
        let voice = caller.speak(self.network);
        let mut payload = String::with_capacity(220);
        wire::audio::encode(&voice, &mut payload);
        self.chunk += 1;
        let (chunk, at) = (self.chunk.to_string(), ((self.chunk - 1) * 20).to_string());
        let media = json!({"track": "inbound", "chunk": chunk, "timestamp": at, "payload": payload});
        self.send(json!({"event": "media", "media": media})).await?;
        caller.frames_sent += 1;
        let len = self.buffer.len().min(FRAME_BYTES);
        let mut heard: Vec<u8> = self.buffer.drain(..len).collect();
        caller.frames_played += u64::from(len > 0);
        heard.resize(FRAME_BYTES, SILENCE);
        self.passed += len as u64;
        caller.hear(&heard, self.network);
        self.echo_marks().await
    }
}

/// Runs the stream until somebody ends it.
pub(crate) async fn run(
    network: &TelephoneNetwork,
    socket: WebSocketStream<BoxIo>,
    stream: &Stream,
    ids: Ids,
    caller: &mut Caller,
) -> StreamEnd {
    let end = converse(network, socket, stream, ids, caller).await;
    caller.stop_hearing(network);
    if matches!(end, StreamEnd::Server | StreamEnd::Lost) {
        caller.lost_at.get_or_insert_with(Instant::now);
    }
    end
}

async fn converse(
    network: &TelephoneNetwork,
    socket: WebSocketStream<BoxIo>,
    stream: &Stream,
    ids: Ids,
    caller: &mut Caller,
) -> StreamEnd {
    let mut session = Session {
        network,
        socket,
        ids,
        sequence: 0,
        chunk: 0,
        buffer: VecDeque::new(),
        passed: 0,
        marks: VecDeque::new(),
        warned: Vec::new(),
    };
    let parameters: Value = stream.parameters.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
    let start = json!({
        "accountSid": session.ids.account_sid, "streamSid": session.ids.stream_sid, "callSid": session.ids.call_sid,
        "tracks": ["inbound"], "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        "customParameters": parameters,
    });
    let greeted = session.send(json!({"event": "connected", "protocol": "Call", "version": "1.0.0"})).await;
    if greeted.is_err() || session.send(json!({"event": "start", "start": start})).await.is_err() {
        return lost(network);
    }
    let mut clock = interval(Duration::from_millis(20));
    clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        let sent = tokio::select! {
            biased;
            message = session.socket.next() => match message {
                Some(Ok(Message::Text(text))) => session.receive(&text, caller).await,
                Some(Ok(Message::Binary(_))) => {
                    session.warn(31_950, "a binary message");
                    Ok(())
                }
                Some(Ok(Message::Close(frame))) => {
                    let code = frame.map(|it| u16::from(it.code));
                    // Whether Twilio logs a normal close too is not known.
                    if code != Some(1000) {
                        session.warn(31_921, "the server closed the socket");
                    }
                    network.timeline.note(Party::Telephone, Moment::StreamClosed { code });
                    // Finish the handshake.
                    let _ = timeout(Duration::from_secs(1), session.socket.next()).await;
                    return StreamEnd::Server;
                }
                Some(Ok(_)) => Ok(()),
                Some(Err(Error::Protocol(problem))) if problem != ProtocolError::ResetWithoutClosingHandshake => {
                    session.warn(31_924, &problem.to_string());
                    Err(())
                }
                Some(Err(_)) | None => Err(()),
            },
            due = clock.tick() => {
                if due.elapsed() > STANDSTILL {
                    clock.reset();
                }
                session.tick(caller).await
            }
        };
        if sent.is_err() {
            return lost(network);
        }
        let deed = caller.act(network);
        let done = match deed {
            Deed::None => Ok(()),
            Deed::Press(key) => {
                session.send(json!({"event": "dtmf", "dtmf": {"track": "inbound_track", "digit": key.to_string()}})).await
            }
            Deed::Garbage => session.socket.send(Message::text("{\"event\":")).await.map_err(drop),
            Deed::HangUp => {
                let stop = json!({"accountSid": session.ids.account_sid, "callSid": session.ids.call_sid});
                let _ = session.send(json!({"event": "stop", "stop": stop})).await;
                let _ = timeout(Duration::from_secs(1), session.socket.close(None)).await;
                let _ = timeout(Duration::from_secs(3), async { while let Some(Ok(_)) = session.socket.next().await {} }).await;
                network.timeline.note(Party::Telephone, Moment::StreamClosed { code: None });
                return StreamEnd::CallerHungUp;
            }
            Deed::LoseSocket => {
                drop(session);
                network.timeline.note(Party::Telephone, Moment::StreamLost);
                return StreamEnd::Lost;
            }
        };
        if done.is_err() {
            return lost(network);
        }
    }
}

fn lost(network: &TelephoneNetwork) -> StreamEnd {
    network.timeline.note(Party::Telephone, Moment::Warning { code: 31_903, text: "the server is gone without a close".into() });
    StreamEnd::Server
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_field_too_many_is_refused() {
        let refused = |text: &str| strict(text, "MZ1").err().unwrap();
        assert!(strict(r#"{"event":"clear","streamSid":"MZ1"}"#, "MZ1").is_ok());
        assert!(refused(r#"{"event":"clear","streamSid":"MZ2"}"#).contains("another stream"));
        assert!(
            refused(r#"{"event":"media","streamSid":"MZ1","media":{"payload":"/w==","track":"inbound"}}"#).contains("`track`")
        );
        assert!(refused(r#"{"event":"mark","streamSid":"MZ1","mark":{}}"#).contains("`name`"));
        assert!(refused(r#"{"event":"keepalive","streamSid":"MZ1"}"#).contains("unknown"));
        assert!(refused("{").contains("JSON"));
    }
}
