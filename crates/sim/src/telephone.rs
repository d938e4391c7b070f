//! The telephone network: rings a number, runs the TwiML it gets, reports the call's progress.

use std::time::Duration;

use bytes::Bytes;
use http::header;
use http_body_util::Full;
use hyper::Request;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use twilio::{Algorithm, Body, sign};
use url::Url;
use uuid::Uuid;

use crate::net::Network;
use crate::script::CallerScript;
use crate::speech::Speech;
use crate::stream::{self, Caller, StreamEnd};
use crate::timeline::{Moment, Party, Timeline};
use crate::twiml::{self, Verb};
use crate::web;

/// Documents run in one call before it counts as a loop.
const DOCUMENTS_MAX: usize = 50;
/// Pauses before the further attempts of one webhook.
const RETRY_PAUSES: [Duration; 5] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];
/// How fast a synthetic voice speaks.
const MS_PER_CHARACTER: u64 = 60;

/// An account at the simulated network, with one number wired to webhooks.
#[derive(Clone)]
pub struct TelephoneNetwork {
    pub net: Network,
    pub timeline: Timeline,
    pub account_sid: String,
    /// Signs every request.
    pub auth_token: String,
    /// The number's Voice URL.
    pub voice_url: String,
    /// The number's Status Callback.
    pub status_url: String,
    pub speech: Speech,
    /// The first webhook is sent twice, as Twilio does when an answer got lost.
    pub repeat_first_webhook: bool,
    /// From the answer of the voice webhook to the media stream.
    pub connecting: Duration,
    /// What becomes of calls to other people, by number: `completed`, `busy`, `no-answer`, `failed`; a number that is not
    /// named is not in service.
    pub people: std::collections::BTreeMap<String, &'static str>,
}

/// How long somebody rings before they answer, and how long they talk.
const RINGING: Duration = Duration::from_secs(3);
const TALKING: Duration = Duration::from_secs(5);

/// How a call went.
#[derive(Clone, Debug)]
pub struct CallOutcome {
    pub call_sid: String,
    /// Twilio's final status.
    pub status: &'static str,
    pub duration: Duration,
    /// Steps of the caller's script that were done, of all.
    pub steps: (usize, usize),
    /// Streams that were opened.
    pub streams: usize,
    /// Frames that the caller sent, and frames of the assistant that were played.
    pub frames_sent: u64,
    pub frames_played: u64,
    /// From each loss of a stream to the next sound.
    pub gaps: Vec<Duration>,
}

/// What becomes of a call that somebody ordered.
#[derive(Clone, Debug)]
pub enum Callee {
    /// Answers after a moment of ringing and does what the script says; whether a person or a machine, in Twilio's words.
    Answers { script: CallerScript, answered_by: &'static str },
    /// `busy`, `no-answer`, `failed`.
    Does(&'static str),
}

/// A call that somebody ordered.
#[derive(Clone, Debug)]
pub(crate) struct Ordered {
    pub(crate) call_sid: String,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) url: String,
    pub(crate) status_callback: Option<String>,
    /// Who is told who answered.
    pub(crate) amd_callback: Option<String>,
}

/// What is ordered of a call that lives.
#[derive(Clone, Debug)]
pub(crate) enum Update {
    HangUp,
    Url(String),
    Document(String),
}

/// How long machine detection takes.
const DETECTION: Duration = Duration::from_millis(2500);

struct Call<'a> {
    network: &'a TelephoneNetwork,
    call_sid: String,
    from: String,
    to: String,
    direction: &'static str,
    /// Who is told how the call fares.
    status_url: Option<String>,
    status: &'static str,
    callbacks: u32,
    base: String,
    /// How the last `<Dial>` ended.
    dialled: Option<&'static str>,
}

impl TelephoneNetwork {
    /// Rings `to`; the caller follows the script. Returns when the call is over and its callbacks are delivered.
    pub async fn ring(&self, from: &str, to: &str, script: CallerScript) -> CallOutcome {
        let mut call = Call {
            network: self,
            call_sid: format!("CA{}", Uuid::new_v4().simple()),
            from: from.into(),
            to: to.into(),
            direction: "inbound",
            status_url: Some(self.status_url.clone()),
            status: "ringing",
            callbacks: 0,
            base: self.voice_url.clone(),
            dialled: None,
        };
        let started = Instant::now();
        let mut caller = Caller::new(script, self.speech);
        let mut streams = 0;
        if self.repeat_first_webhook {
            let _ = call.post(&self.voice_url.clone(), &[]).await;
        }
        call.run(self.voice_url.clone(), &mut caller, &mut streams).await;
        call.over(started, caller, streams).await
    }

    /// Calls somebody as ordered; what is ordered meanwhile comes by `updates`. `told` learns every status.
    pub(crate) async fn place(
        &self,
        it: Ordered,
        callee: Callee,
        mut updates: mpsc::Receiver<Update>,
        told: impl Fn(&'static str),
    ) -> CallOutcome {
        let mut call = Call {
            network: self,
            call_sid: it.call_sid.clone(),
            from: it.from.clone(),
            to: it.to.clone(),
            direction: "outbound-api",
            status_url: it.status_callback,
            status: "initiated",
            callbacks: 0,
            base: it.url.clone(),
            dialled: None,
        };
        call.status_callback(None).await;
        call.status = "ringing";
        told(call.status);
        call.status_callback(None).await;
        let ringing = tokio::select! {
            () = sleep(RINGING / 4) => true,
            _ = updates.recv() => false,
        };
        let started = Instant::now();
        let (script, answered_by) = match &callee {
            Callee::Answers { script, answered_by } => (script.clone(), *answered_by),
            Callee::Does(_) => (CallerScript::default(), ""),
        };
        let (mut caller, mut streams) = (Caller::new(script, self.speech), 0);
        if !ringing {
            call.status = "canceled";
        } else if let Callee::Does(status) = callee {
            call.status = status;
        } else {
            call.status = "in-progress";
            told(call.status);
            call.status_callback(None).await;
            let detecting = async {
                if let Some(url) = it.amd_callback {
                    sleep(DETECTION).await;
                    let fields = [("AnsweredBy", answered_by), ("MachineDetectionDuration", "2500")];
                    let parameters = [("CallSid", it.call_sid.as_str()), ("AccountSid", self.account_sid.as_str())];
                    let all = parameters.into_iter().chain(fields).map(|(name, value)| (name.to_owned(), value.to_owned()));
                    let _ = exchange(self, &url, &all.collect::<Vec<_>>()).await;
                }
            };
            let talking = async {
                let mut next = Update::Url(it.url);
                loop {
                    let running = async {
                        match next {
                            Update::HangUp => (),
                            Update::Url(url) => call.run(url, &mut caller, &mut streams).await,
                            Update::Document(document) => call.run_document(&document, &mut caller, &mut streams).await,
                        }
                    };
                    next = tokio::select! {
                        () = running => break,
                        Some(update) = updates.recv() => {
                            self.timeline.note(Party::Telephone, Moment::Updated);
                            update
                        }
                    };
                }
            };
            tokio::select! {
                () = talking => (),
                () = async { detecting.await; std::future::pending().await } => (),
            }
        }
        let outcome = call.over(started, caller, streams).await;
        told(outcome.status);
        outcome
    }
}

impl Call<'_> {
    /// Tells everybody that the call is over.
    async fn over(mut self, started: Instant, caller: Caller, streams: usize) -> CallOutcome {
        let duration = started.elapsed();
        if !matches!(self.status, "busy" | "no-answer" | "failed" | "canceled") {
            self.status = "completed";
        }
        let seconds = duration.as_secs();
        self.note(Moment::CallEnded { status: self.status, seconds });
        self.status_callback(Some(seconds)).await;
        CallOutcome {
            call_sid: self.call_sid,
            status: self.status,
            duration,
            steps: caller.progress(),
            streams,
            frames_sent: caller.frames_sent,
            frames_played: caller.frames_played,
            gaps: caller.gaps,
        }
    }

    fn note(&self, moment: Moment) {
        self.network.timeline.note(Party::Telephone, moment);
    }

    fn warn(&self, code: u32, text: impl Into<String>) {
        self.note(Moment::Warning { code, text: text.into() });
    }

    /// Runs documents until one ends the call.
    async fn run(&mut self, mut url: String, caller: &mut Caller, streams: &mut usize) {
        for _ in 0..DOCUMENTS_MAX {
            let dialled = self.dialled.take().map(|it| ("DialCallStatus".to_owned(), it.to_owned()));
            let Some(document) = self.post(&url, dialled.as_slice()).await else { return self.status = "failed" };
            self.base = url;
            let verbs = match twiml::read(&document) {
                Ok(verbs) => verbs,
                Err((code, problem)) => {
                    self.warn(code, problem);
                    return self.status = "failed";
                }
            };
            match self.perform(verbs, caller, streams).await {
                Some(next) => url = next,
                None => return,
            }
        }
        self.warn(12_100, "the documents run in a circle");
        self.status = "failed";
    }

    /// Runs a document that was sent instead of an address.
    async fn run_document(&mut self, document: &str, caller: &mut Caller, streams: &mut usize) {
        let next = match twiml::read(document) {
            Ok(verbs) => self.perform(verbs, caller, streams).await,
            Err((code, problem)) => return self.warn(code, problem),
        };
        if let Some(url) = next {
            Box::pin(self.run(url, caller, streams)).await;
        }
    }

    /// Runs verbs in order; returns the address of the next document.
    async fn perform(&mut self, verbs: Vec<Verb>, caller: &mut Caller, streams: &mut usize) -> Option<String> {
        for (index, verb) in verbs.into_iter().enumerate() {
            if !matches!(verb, Verb::Reject) {
                self.status = "in-progress";
            }
            match verb {
                Verb::Say { characters } => sleep(Duration::from_millis(characters as u64 * MS_PER_CHARACTER)).await,
                Verb::Pause { seconds } => sleep(Duration::from_secs(seconds)).await,
                Verb::Hangup => return None,
                Verb::Reject if index == 0 => {
                    self.status = "busy";
                    return None;
                }
                Verb::Reject => return None,
                Verb::Redirect { url } => return Some(self.absolute(&url)),
                Verb::Dial { action, number } => {
                    sleep(RINGING).await;
                    let status = self.network.people.get(&number).copied().unwrap_or("failed");
                    if status == "completed" {
                        sleep(TALKING).await;
                    }
                    self.note(Moment::Dialled { status });
                    if let Some(url) = action.map(|it| self.absolute(&it)) {
                        self.dialled = Some(status);
                        return Some(url);
                    }
                }
                Verb::Connect { action, stream } => {
                    *streams += 1;
                    let ids = stream::Ids {
                        account_sid: self.network.account_sid.clone(),
                        call_sid: self.call_sid.clone(),
                        stream_sid: format!("MZ{}", Uuid::new_v4().simple()),
                    };
                    let (sid, callback) = (ids.stream_sid.clone(), stream.status_callback.clone());
                    let fields =
                        |event: &str| [("StreamSid".to_owned(), sid.clone()), ("StreamEvent".to_owned(), event.to_owned())];
                    sleep(self.network.connecting).await;
                    let opened = stream::open(self.network, &stream, &ids).await;
                    let end = match opened {
                        Ok(socket) => {
                            self.stream_callback(callback.as_deref(), &fields("stream-started")).await;
                            stream::run(self.network, socket, &stream, ids, caller).await
                        }
                        Err((code, problem)) => {
                            self.warn(code, problem.clone());
                            let mut failed = fields("stream-error").to_vec();
                            failed.push(("StreamError".into(), problem));
                            self.stream_callback(callback.as_deref(), &failed).await;
                            StreamEnd::Refused
                        }
                    };
                    if !matches!(end, StreamEnd::Refused) {
                        self.stream_callback(callback.as_deref(), &fields("stream-stopped")).await;
                    }
                    let gone = matches!(end, StreamEnd::CallerHungUp);
                    if gone {
                        self.status = "completed";
                    }
                    let next = action.map(|it| self.absolute(&it));
                    if gone {
                        // Whether Twilio still asks is not documented: asking is the harder case for a server.
                        if let Some(url) = next {
                            let _ = self.post(&url, &[]).await;
                        }
                        return None;
                    }
                    if next.is_some() {
                        return next;
                    }
                }
            }
        }
        None
    }

    fn absolute(&self, url: &str) -> String {
        Url::parse(&self.base).and_then(|it| it.join(url)).map_or_else(|_| url.to_owned(), String::from)
    }

    fn parameters(&self) -> Vec<(String, String)> {
        [
            ("CallSid", self.call_sid.as_str()),
            ("AccountSid", &self.network.account_sid),
            ("From", &self.from),
            ("To", &self.to),
            ("Caller", &self.from),
            ("Called", &self.to),
            ("CallStatus", self.status),
            ("Direction", self.direction),
            ("ApiVersion", "2010-04-01"),
            ("FromCity", ""),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    async fn status_callback(&mut self, seconds: Option<u64>) {
        let sequence = self.callbacks.to_string();
        self.callbacks += 1;
        let mut fields =
            vec![("CallbackSource".to_owned(), "call-progress-events".to_owned()), ("SequenceNumber".to_owned(), sequence)];
        if let Some(seconds) = seconds {
            fields.push(("CallDuration".to_owned(), seconds.to_string()));
            fields.push(("Duration".to_owned(), seconds.div_ceil(60).to_string()));
        }
        if let Some(url) = self.status_url.clone() {
            let _ = self.post(&url, &fields).await;
        }
    }

    async fn stream_callback(&self, url: Option<&str>, fields: &[(String, String)]) {
        if let Some(url) = url {
            let _ = self.post(url, fields).await;
        }
    }

    /// Posts a signed webhook with the retries that its address orders; returns the body of a good answer.
    async fn post(&self, url: &str, fields: &[(String, String)]) -> Option<String> {
        let (url, fragment) = url.split_once('#').unwrap_or((url, ""));
        let orders: Vec<(&str, &str)> = fragment.split('&').filter_map(|it| it.split_once('=')).collect();
        let order = |name: &str| orders.iter().find(|it| it.0 == name).map(|it| it.1);
        let milliseconds =
            |name: &str, default: u64| Duration::from_millis(order(name).and_then(|it| it.parse().ok()).unwrap_or(default));
        let retries = order("rc").and_then(|it| it.parse().ok()).unwrap_or(1_usize).min(5);
        let retry_all = order("rp") == Some("all");
        let mut parameters = self.parameters();
        parameters.extend_from_slice(fields);
        let path = Url::parse(url).map_or_else(|_| url.to_owned(), |it| it.path().to_owned());
        let attempts = async {
            for pause in std::iter::once(Duration::ZERO).chain(RETRY_PAUSES).take(retries + 1) {
                sleep(pause).await;
                match timeout(milliseconds("rt", 15_000), exchange(self.network, url, &parameters)).await {
                    Ok(Ok((status, content_type, body))) => {
                        let answer = summary(&content_type, &body);
                        self.note(Moment::Webhook { path: path.clone(), status, answer });
                        if status == 204 || (200..300).contains(&status) && (content_type.contains("xml") || body.is_empty()) {
                            return Some(body);
                        }
                        self.warn(
                            if status >= 400 { 11_200 } else { 12_300 },
                            format!("{path} answered {status} {content_type}"),
                        );
                        if !retry_all {
                            return None;
                        }
                    }
                    Ok(Err(error)) => self.warn(11_205, format!("{path}: {error}")),
                    Err(_) => {
                        self.warn(11_205, format!("{path}: no answer in time"));
                        if !retry_all {
                            return None;
                        }
                    }
                }
            }
            None
        };
        timeout(milliseconds("tt", 15_000), attempts).await.ok().flatten()
    }
}

/// Posts one signed webhook.
async fn exchange(
    network: &TelephoneNetwork,
    url: &str,
    parameters: &[(String, String)],
) -> std::io::Result<(u16, String, String)> {
    let parsed = Url::parse(url).map_err(std::io::Error::other)?;
    let (host, port) = (parsed.host_str().unwrap_or_default().to_owned(), parsed.port_or_known_default().unwrap_or(80));
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
    let signature = sign(Algorithm::HmacSha1, &network.auth_token, url, Body::Form(parameters));
    let path = parsed.query().map_or_else(|| parsed.path().to_owned(), |query| format!("{}?{query}", parsed.path()));
    let request = Request::post(path)
        .header(header::HOST, format!("{host}:{port}"))
        .header(header::USER_AGENT, "TwilioProxy/1.1")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded; charset=UTF-8")
        .header("X-Twilio-Signature", signature)
        .header("I-Twilio-Idempotency-Token", Uuid::new_v4().to_string())
        .body(Full::new(Bytes::from(body)))
        .map_err(std::io::Error::other)?;
    let response = web::send(&network.net, &host, port, request).await?;
    let content_type =
        response.headers().get(header::CONTENT_TYPE).and_then(|it| it.to_str().ok()).unwrap_or_default().to_owned();
    Ok((response.status().as_u16(), content_type, String::from_utf8_lossy(response.body()).into_owned()))
}

/// The verbs of a document, for reading; never its parameters.
fn summary(content_type: &str, body: &str) -> String {
    if !content_type.contains("xml") {
        return String::new();
    }
    match twiml::read(body) {
        Ok(verbs) if verbs.is_empty() => "<Response/>".into(),
        Ok(verbs) => verbs
            .iter()
            .map(|it| match it {
                Verb::Say { .. } => "<Say>",
                Verb::Pause { .. } => "<Pause>",
                Verb::Redirect { .. } => "<Redirect>",
                Verb::Hangup => "<Hangup/>",
                Verb::Reject => "<Reject>",
                Verb::Connect { .. } => "<Connect><Stream>",
                Verb::Dial { .. } => "<Dial>",
            })
            .collect::<Vec<_>>()
            .join(" "),
        Err((code, problem)) => format!("({code}: {problem})"),
    }
}
