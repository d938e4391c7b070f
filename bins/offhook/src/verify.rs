//! `offhook verify-twilio`: asks Twilio itself what its documents do not say. Calls somebody who keeps the line, breaks streams in several
//! ways and writes down what happens. offhook survives every answer; whoever runs it knows then which ones hold.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, post};
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::sync::CancellationToken;
use twilio::rest::{CallUpdate, Document, NewCall, Rest};
use twilio::twiml::{self, Connect, Stream};
use twilio::{Algorithm, Body, CallStatus, Form, sign};

use crate::config::Config;

/// How long a stream lives before something is done to it.
const LIFE: Duration = Duration::from_secs(1);
/// What Twilio has to play when the stream is closed.
const QUEUED: Duration = Duration::from_secs(5);
/// Longest wait for anything but the detection of silence.
const STEP: Duration = Duration::from_secs(45);
/// Retries that the address of the first `action` orders.
const ORDERS: &str = "rc=2&rp=all";
/// One frame of silence: 20 ms of μ-law.
const SILENCE: [u8; 160] = [0xff; 160];

/// What is asked for, and what Twilio did.
#[derive(Clone, Debug, Serialize)]
pub struct Answer {
    /// As in the documents: `U1` to `U9`.
    pub id: &'static str,
    pub question: &'static str,
    /// `None`: it did not come to that.
    pub answer: Option<String>,
    /// What offhook assumes, or does not care about.
    pub assumed: &'static str,
}

const QUESTIONS: [(&str, &str, &str); 9] = [
    ("U1", "Is `action` asked for when the server's connection is reset?", "yes, within a second"),
    ("U2", "How long until Twilio notices a server that is silent?", "longer than we wait"),
    ("U3", "Which parameters has the request of `action` after a stream?", "those of every voice webhook"),
    ("U4", "Is the fallback of a call made by REST asked for in mid-call?", "either"),
    ("U5", "Are retries ordered in an address's fragment carried out on `action`?", "either; the fragment is not signed"),
    ("U6", "Is audio that is queued dropped when the stream is closed?", "yes"),
    ("U7", "How long may a stream last?", "as long as the call"),
    ("U8", "Which address does the signature of the media socket cover?", "wss"),
    ("U9", "May two streams of a call live at a time?", "no"),
];

#[derive(Default)]
struct Seen {
    /// Requests for documents by number: when, and what was special.
    asked: HashMap<u32, Vec<Asked>>,
    /// Streams by number.
    opened: HashMap<u32, Instant>,
    /// When we did to a stream what was to be done.
    done: HashMap<u32, Instant>,
    /// When a stream was over for us.
    closed: HashMap<u32, Instant>,
    fallback: Option<Instant>,
    /// The call is over, as Twilio tells.
    over: bool,
    handshake: Option<&'static str>,
}

#[derive(Clone)]
struct Asked {
    at: Instant,
    parameters: Vec<String>,
    signed: Option<&'static str>,
}

struct Verifier {
    url: desk::PublicUrl,
    tokens: Vec<SecretString>,
    rest: Rest,
    seen: Mutex<Seen>,
    changed: Notify,
}

impl Verifier {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, note: impl FnOnce(&mut Seen)) {
        note(&mut self.seen());
        self.changed.notify_waiters();
    }

    /// Waits until something was seen.
    async fn wait<T>(&self, longest: Duration, look: impl Fn(&Seen) -> Option<T>) -> Option<T> {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                if let Some(found) = look(&self.seen()) {
                    return found;
                }
                changed.await;
            }
        };
        timeout(longest, waiting).await.ok()
    }

    /// Which of several addresses a request was signed for.
    fn signed(&self, candidates: &[(&'static str, String)], body: Body<'_>, headers: &HeaderMap) -> Option<&'static str> {
        let given = headers.get("x-twilio-signature")?.to_str().ok()?;
        let right = |url: &str| self.tokens.iter().any(|it| sign(Algorithm::HmacSha1, it.expose_secret(), url, body) == given);
        candidates.iter().find(|it| right(&it.1)).map(|it| it.0)
    }

    fn document(&self, number: u32) -> String {
        self.url.http(&format!("/verify/document/{number}"))
    }

    /// A document that opens a stream; what comes after it is document `next`.
    fn stream(&self, number: u32, next: u32, orders: &str) -> Response {
        let stream = Stream {
            url: self.url.websocket(&format!("/verify/stream/{number}")),
            status_callback: self.url.http("/verify/stream-status"),
            ..Stream::default()
        };
        let action = format!("{}{orders}", self.document(next));
        render(&twiml::Response::new().with(Connect { action, stream }).expect("PUBLIC_URL was checked"))
    }
}

fn render(document: &twiml::Response) -> Response {
    ([(header::CONTENT_TYPE, "text/xml; charset=utf-8")], document.render()).into_response()
}

/// Calls `to` and finds out what can be found out in about ten minutes, `silence` of them for a server that says nothing.
///
/// # Errors
/// When there is no account, no number to call from, the address is taken, or Twilio refuses the call.
pub async fn run(config: Config, to: &str, silence: Duration, tell: impl Fn(&str)) -> Result<Vec<Answer>> {
    ensure!(twilio::is_e164(to), "`{to}` is not E.164: expected a number such as +40312345678");
    let rest = config.rest.context("there is no account: set TWILIO_ACCOUNT_SID")?;
    let from =
        config.settings.templates.outbound.phone_number.clone().context("set TWILIO_PHONE_NUMBER: a number to call from")?;
    ensure!(!config.auth_tokens.is_empty(), "signatures are not checked: unset SKIP_WEBHOOK_SIGNATURE_VALIDATION");
    let listener = listen(config.listen).await?;
    let url = config.settings.public_url.clone();
    let it = Arc::new(Verifier { url, tokens: config.auth_tokens, rest, seen: Mutex::default(), changed: Notify::new() });
    let routes = Router::new()
        .route("/verify/document/{number}", post(document))
        .route("/verify/stream/{number}", any(stream))
        .route("/verify/stream-status", post(|| async { StatusCode::NO_CONTENT }))
        .route("/verify/fallback", post(fallback))
        .route("/verify/status", post(status));
    let prefix = it.url.path_prefix().to_owned();
    let routes = if prefix.is_empty() { routes } else { Router::new().nest(&prefix, routes.clone()).merge(routes) };
    let stop = CancellationToken::new();
    let serving = tokio::spawn(control::serve(listener, routes.with_state(it.clone()), stop.clone()));
    let answers = ask(&it, to, &from, silence, tell).await;
    stop.cancel();
    let _ = timeout(Duration::from_secs(2), serving).await;
    answers
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("{address} is not free: this listens where the server does; stop `offhook serve` for the time being")
    })
}

async fn call(it: &Verifier, to: &str, from: &str, first: u32) -> Result<String> {
    it.note(|seen| seen.over = false);
    let new = NewCall {
        fallback_url: Some(it.url.http("/verify/fallback")),
        status_callback: Some(it.url.http("/verify/status")),
        timeout: Some(40),
        ..NewCall::new(to, from, Document::Url(it.document(first)))
    };
    Ok(it.rest.create_call(&new).await?.sid)
}

async fn ask(it: &Verifier, to: &str, from: &str, silence: Duration, tell: impl Fn(&str)) -> Result<Vec<Answer>> {
    let mut answers: Vec<Answer> = QUESTIONS.map(|(id, question, assumed)| Answer { id, question, answer: None, assumed }).into();
    let mut answer = |id: &str, found: Option<String>| {
        tell(&format!("{id}: {}", found.as_deref().unwrap_or("no answer")));
        if let Some(it) = answers.iter_mut().find(|it| it.id == id) {
            it.answer = found;
        }
    };
    let asked = |number: u32, attempt: usize| move |seen: &Seen| seen.asked.get(&number)?.get(attempt).cloned();
    let ms = |from: Instant, to: Instant| format!("{} ms", to.saturating_duration_since(from).as_millis());

    tell("calling: answer, and keep the line");
    let sid = call(it, to, from, 1).await?;
    let opened = it.wait(STEP + STEP, |seen| seen.opened.get(&1).copied()).await;
    ensure!(opened.is_some(), "nobody answered, or no stream was opened: try `offhook doctor` first");
    answer("U8", it.seen().handshake.map(str::to_owned).or(Some("none of those tried".into())));
    let first = it.wait(STEP, asked(2, 0)).await;
    answer("U3", first.as_ref().map(|it| it.parameters.join(" ")));
    // It was answered 503 once.
    let retried = it.wait(STEP, asked(2, 1)).await;
    let base = first.as_ref().and_then(|it| it.signed).unwrap_or("neither");
    let fragment = match (&first, &retried) {
        (Some(first), Some(again)) => format!("yes, after {}; signed {base}", ms(first.at, again.at)),
        (Some(_), None) => format!("no; signed {base}"),
        (None, _) => "`action` was not asked for".into(),
    };
    answer("U5", Some(fragment));
    let reset = it.wait(STEP, asked(3, 0)).await;
    let since = it.seen().done.get(&2).copied();
    answer("U1", Some(reset.zip(since).map_or("no".into(), |(asked, reset)| format!("yes, after {}", ms(reset, asked.at)))));
    let closed = it.wait(STEP, asked(4, 0)).await.zip(it.seen().done.get(&3).copied());
    let queued = closed.map(|(asked, closed)| {
        let waited = asked.at.saturating_duration_since(closed);
        let verdict = if waited * 2 < QUEUED { "yes" } else { "no, it is played" };
        format!("{verdict}: `action` after {} ms, of {} s queued", waited.as_millis(), QUEUED.as_secs())
    });
    answer("U6", queued);
    if it.wait(STEP, |seen| seen.opened.get(&4).copied()).await.is_some() {
        sleep(LIFE).await;
        let updated = Instant::now();
        it.rest.update_call(&sid, &CallUpdate::Continue(Document::Url(it.document(45)))).await?;
        let second = it.wait(STEP, |seen| seen.opened.get(&5).copied()).await;
        let first = it.wait(STEP, |seen| seen.closed.get(&4).copied()).await;
        answer(
            "U9",
            second.zip(first).map(|(second, first)| {
                let both = second.saturating_duration_since(updated);
                match second < first {
                    true => format!("yes, for {}", ms(second, first)),
                    false => format!(
                        "no: the first is closed {} before the second opens, {} ms after the order",
                        ms(first, second),
                        both.as_millis()
                    ),
                }
            }),
        );
    }
    let failed = it.wait(STEP, asked(6, 0)).await;
    let fallback = it.wait(STEP, |seen| seen.fallback.or(seen.over.then(Instant::now))).await;
    let fell_back = it.seen().fallback.is_some();
    answer("U4", failed.and(fallback).map(|_| if fell_back { "yes".into() } else { "no: the call ends".into() }));
    it.rest.hang_up(&sid).await?;

    tell("calling once more: answer, and keep the line until it is ended");
    it.wait(STEP, |seen| seen.over.then_some(())).await;
    let sid = call(it, to, from, 7).await?;
    if it.wait(STEP + STEP, |seen| seen.opened.get(&7).copied()).await.is_some() {
        let noticed = it.wait(silence, asked(8, 0)).await.zip(it.seen().opened.get(&7).copied());
        let longest = format!("longer than {} s", silence.as_secs());
        answer("U2", Some(noticed.map_or(longest, |(asked, opened)| ms(opened, asked.at))));
        let lasted = it.seen().opened.get(&7).map(|it| it.elapsed().as_secs());
        answer("U7", lasted.map(|it| format!("at least {it} s; the longest call of yours tells more")));
    }
    it.rest.hang_up(&sid).await?;
    Ok(answers)
}

async fn document(State(it): State<Arc<Verifier>>, Path(number): Path<u32>, headers: HeaderMap, body: Bytes) -> Response {
    let form = Form::parse(&body);
    let url = it.document(number);
    let candidates = [("without the fragment", url.clone()), ("with the fragment", format!("{url}#{ORDERS}"))];
    let signed = it.signed(&candidates, Body::Form(form.parameters()), &headers);
    if signed.is_none() {
        return StatusCode::FORBIDDEN.into_response();
    }
    let mut parameters: Vec<String> = form.parameters().iter().map(|it| it.0.clone()).collect();
    parameters.sort();
    let asked = Asked { at: Instant::now(), parameters, signed };
    let mut attempt = 0;
    it.note(|seen| {
        let before = seen.asked.entry(number).or_default();
        attempt = before.len();
        before.push(asked);
    });
    match number {
        1 => it.stream(1, 2, &format!("#{ORDERS}")),
        2 if attempt == 0 => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        2 => it.stream(2, 3, ""),
        3 => it.stream(3, 4, ""),
        4 => it.stream(4, 5, ""),
        45 => it.stream(5, 6, ""),
        6 => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        7 => it.stream(7, 8, ""),
        _ => render(&twiml::Response::new().hangup()),
    }
}

async fn fallback(State(it): State<Arc<Verifier>>) -> Response {
    it.note(|seen| seen.fallback = Some(Instant::now()));
    render(&twiml::Response::new().hangup())
}

async fn status(State(it): State<Arc<Verifier>>, body: Bytes) -> StatusCode {
    let form = Form::parse(&body);
    if CallStatus::parse(form.get("CallStatus").unwrap_or_default()).is_terminal() {
        it.note(|seen| seen.over = true);
    }
    StatusCode::NO_CONTENT
}

async fn stream(State(it): State<Arc<Verifier>>, Path(number): Path<u32>, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    let path = format!("/verify/stream/{number}");
    let (socket, http) = (it.url.websocket(&path), it.url.http(&path));
    let host = |url: &str| url::Url::parse(url).ok().and_then(|it| it.host_str().map(str::to_owned)).unwrap_or_default();
    let with_port = socket.replacen(&host(&socket), &format!("{}:443", host(&socket)), 1);
    let candidates = [("wss", socket), ("https", http), ("wss with its port", with_port)];
    let signed = it.signed(&candidates, Body::None, &parts.headers);
    let (Some(key), Some(upgraded)) =
        (parts.headers.get(header::SEC_WEBSOCKET_KEY).cloned(), parts.extensions.remove::<OnUpgrade>())
    else {
        return StatusCode::UPGRADE_REQUIRED.into_response();
    };
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        it.note(|seen| {
            seen.opened.insert(number, Instant::now());
            seen.handshake = seen.handshake.or(signed);
        });
        // The connection itself, so that it can be reset.
        let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else { return };
        let socket = WebSocketStream::from_partially_read(parts.io.into_inner(), parts.read_buf.into(), Role::Server, None).await;
        converse(&it, number, socket).await;
        it.note(|seen| {
            seen.closed.insert(number, Instant::now());
        });
    });
    let headers = [(header::CONNECTION, "upgrade".to_owned()), (header::UPGRADE, "websocket".to_owned())];
    (StatusCode::SWITCHING_PROTOCOLS, headers, [(header::SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()))])
        .into_response()
}

async fn converse(it: &Verifier, number: u32, mut socket: WebSocketStream<TcpStream>) {
    let until = Instant::now() + LIFE;
    let mut sid = None;
    // Twilio says what stream it is, and goes on with frames.
    while let Ok(Some(Ok(message))) = tokio::time::timeout_at(until, socket.next()).await {
        if let Message::Text(text) = message {
            let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            sid = value["streamSid"].as_str().map(str::to_owned).or(sid);
        }
    }
    let done = || {
        it.note(|seen| {
            seen.done.insert(number, Instant::now());
        });
    };
    match number {
        2 => {
            let socket = socket.into_inner();
            let _ = socket.set_zero_linger();
            done();
        }
        3 => {
            let payload = base64(&SILENCE);
            let frame = serde_json::json!({"event": "media", "streamSid": sid, "media": {"payload": payload}}).to_string();
            for _ in 0..QUEUED.as_millis() / 20 {
                if socket.feed(Message::text(frame.clone())).await.is_err() {
                    return;
                }
            }
            let _ = socket.flush().await;
            done();
            let _ = timeout(LIFE, socket.close(None)).await;
        }
        // Kept, until Twilio closes it.
        4 => while let Some(Ok(_)) = socket.next().await {},
        // Kept, and nothing is read or said.
        7 => {
            it.wait(Duration::from_secs(3600), |seen| (seen.over || seen.asked.contains_key(&8)).then_some(())).await;
        }
        _ => {
            done();
            let _ = timeout(LIFE, socket.close(None)).await;
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// For people.
pub fn table(answers: &[Answer]) -> String {
    let line = |it: &Answer| {
        let answer = it.answer.as_deref().unwrap_or("it did not come to that");
        format!("{}  {}\n    {answer}\n    assumed: {}\n", it.id, it.question, it.assumed)
    };
    answers.iter().map(line).collect()
}
