//! What is measured: a real offhook process, or the bare relay, alone on one processor, with a provider process and signed
//! webhooks around it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use sim::Network;
use sim::twiml::{self, Verb};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use wire::websocket::print_text;

use super::callers::Opened;
use super::machine::{Pinned, now};
use super::provider::{Audio, Behaviour, Notes, Service};

pub(super) const ACCOUNT: &str = "AC00000000000000000000000000000001";
const TOKEN: &str = "dialer-auth-token";
const KEY: &str = "dialer-provider-key";
const CALLED: &str = "+15550100002";
/// Where the server is, and where everybody else is.
const SERVER_CORE: usize = 1;
const OUR_CORE: usize = 0;
const PATIENCE: Duration = Duration::from_secs(30);
/// For a server to end by itself.
const FAREWELL: Duration = Duration::from_secs(3);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A whole server: webhooks, tokens, journal, metrics
    Offhook,
    /// The least that can move frames between two sockets
    Relay,
}

/// What is measured, and under what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    pub target: Kind,
    pub service: Service,
    pub audio: Audio,
    pub behaviour: Behaviour,
    /// The connection to the provider is encrypted.
    pub tls: bool,
    pub recording: bool,
}

/// A process of ours that is asked by lines.
struct Asked {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Asked {
    fn ask(&mut self, order: &str) -> Result<()> {
        writeln!(self.orders, "{order}")?;
        self.orders.flush()?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        ensure!(answer.trim() == "ok", "the provider process has ended");
        Ok(())
    }
}

/// The processes of a run; dropped, they end.
pub(super) struct Target {
    pub(super) setup: Setup,
    server: Child,
    provider: Asked,
    address: SocketAddr,
    folder: tempfile::TempDir,
    rung: AtomicU32,
    _pinned: Pinned,
}

impl Drop for Target {
    fn drop(&mut self) {
        // Asked first: a server that ends by itself writes down what it knows.
        let _ = kill_process(Pid::from_child(&self.server), Signal::TERM);
        let asked = Instant::now();
        while asked.elapsed() < FAREWELL && matches!(self.server.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        for child in [&mut self.server, &mut self.provider.child] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A call that rings: what is needed to hang up as Twilio does.
pub(super) struct Rung {
    call_sid: String,
    from: String,
    action: Option<String>,
}

/// How long the steps of a call's beginning took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Beginning {
    /// The voice webhook, connection included.
    pub(super) webhook: Duration,
    /// From the first byte of the webhook until `start` may be sent.
    pub(super) set_up: Duration,
}

impl Target {
    /// Starts provider and server, and keeps this thread off the server's processor.
    ///
    /// # Errors
    /// When one of them does not start.
    pub(super) async fn start(offhook: &Path, setup: Setup) -> Result<Self> {
        ensure!(
            setup.target == Kind::Offhook || (setup.service == Service::Openai && !setup.tls),
            "the bare relay speaks plain OpenAI Realtime only"
        );
        ensure!(super::machine::cores() > 1, "a load run wants two processors: one for the server, one for everybody else");
        let folder = tempfile::tempdir()?;
        let ours = std::env::current_exe()?;
        let pinned = Pinned::to(OUR_CORE)?;
        let certificate = setup.tls.then(|| folder.path().join("provider.pem"));
        let provider = provider(&ours, setup, certificate.as_deref())?;
        let (provider, provider_address) = provider;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut command = match setup.target {
            Kind::Offhook => serve(offhook, setup, address, provider_address, folder.path(), certificate.as_deref()),
            Kind::Relay => {
                let mut command = Command::new(&ours);
                command.args(["relay", &address.port().to_string(), &provider_address.to_string()]);
                command
            }
        };
        let log = std::fs::File::create(folder.path().join("server.log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let server = {
            let _there = Pinned::to(SERVER_CORE)?;
            command.spawn().context("the server cannot be started")?
        };
        let target = Self { setup, server, provider, address, folder, rung: AtomicU32::new(0), _pinned: pinned };
        target.ready().await?;
        Ok(target)
    }

    async fn ready(&self) -> Result<()> {
        let began = Instant::now();
        loop {
            let there = match self.setup.target {
                Kind::Offhook => self.get("/readyz").await.is_ok_and(|it| it.0 == 200),
                Kind::Relay => std::net::TcpStream::connect(self.address).is_ok(),
            };
            if there {
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                bail!("the server is not ready:\n{}", self.said());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What the server said, last lines.
    pub(super) fn said(&self) -> String {
        let all = std::fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default();
        let lines: Vec<&str> = all.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// The server's process.
    pub(super) fn pid(&self) -> u32 {
        self.server.id()
    }

    /// The provider notes from now on.
    pub(super) fn note(&mut self) -> Result<()> {
        self.provider.ask("note")
    }

    /// Every echo is interrupted within 1.3 s, and begins again.
    pub(super) fn interrupt(&mut self) -> Result<()> {
        self.provider.ask("interrupt")
    }

    /// What the provider noted.
    pub(super) fn tell(&mut self) -> Result<Notes> {
        let file = self.folder.path().join("notes.json");
        self.provider.ask(&format!("tell {}", file.display()))?;
        Ok(serde_json::from_reader(std::io::BufReader::new(std::fs::File::open(file)?))?)
    }

    /// Asks the server something.
    pub(super) async fn get(&self, path: &str) -> Result<(u16, String)> {
        let request = Request::get(path).header("host", "load").body(Full::new(Bytes::new()))?;
        let answer = sim::web::send(&Network::Loopback, "127.0.0.1", self.address.port(), request).await?;
        Ok((answer.status().as_u16(), String::from_utf8_lossy(answer.body()).into_owned()))
    }

    /// Rings and waits until the stream has begun: webhook, TwiML, upgrade, `connected`, `start`. `connecting` passes between
    /// the document and the upgrade, as it does at Twilio.
    pub(super) async fn ring(&self, connecting: Duration) -> Result<(Opened, Rung, Beginning)> {
        let number = self.rung.fetch_add(1, Ordering::Relaxed);
        let call_sid = format!("CA{:032x}", u128::from(number) + 1);
        let mut rung = Rung { call_sid, from: format!("+1555{:07}", 1_000_000 + number), action: None };
        let (mut beginning, began) = (Beginning::default(), Instant::now());
        let (path, parameters) = match self.setup.target {
            Kind::Relay => ("/".to_owned(), Vec::new()),
            Kind::Offhook => {
                let document = self.post(&format!("http://{}/twilio/voice", self.address), &rung, "ringing").await?;
                beginning.webhook = began.elapsed();
                let verbs = twiml::read(&document).map_err(|(code, problem)| anyhow::anyhow!("{code}: {problem}"))?;
                let Some(Verb::Connect { action, stream }) = verbs.into_iter().next() else {
                    bail!("the call is not connected with a stream: {document}")
                };
                rung.action = action;
                let (_, path) = stream.url.split_once(&self.address.to_string()).context("the stream is elsewhere")?;
                (path.to_owned(), stream.parameters)
            }
        };
        tokio::time::sleep(connecting).await;
        let upgrading = Instant::now();
        let mut socket = tokio::net::TcpStream::connect(self.address).await?;
        socket.set_nodelay(true)?;
        let url = format!("ws://{}{path}", self.address);
        let signature = twilio::sign(twilio::Algorithm::HmacSha1, TOKEN, &url, twilio::Body::None);
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {}\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nuser-agent: Twilio.TmeWs/1.0\r\nx-twilio-signature: {signature}\r\n\r\n",
            self.address
        );
        socket.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            ensure!(socket.read_buf(&mut head).await? > 0, "the media socket was closed: {}", String::from_utf8_lossy(&head));
        }
        ensure!(head.starts_with(b"HTTP/1.1 101"), "the media socket was refused: {}", String::from_utf8_lossy(&head));
        beginning.set_up = beginning.webhook + upgrading.elapsed();
        let stream_sid = format!("MZ{:032x}", u128::from(number) + 1);
        let custom: serde_json::Map<String, serde_json::Value> = parameters.into_iter().map(|it| (it.0, it.1.into())).collect();
        let start = serde_json::json!({
            "event": "start", "sequenceNumber": "1", "streamSid": stream_sid,
            "start": {
                "accountSid": ACCOUNT, "streamSid": stream_sid, "callSid": rung.call_sid, "tracks": ["inbound"],
                "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}, "customParameters": custom,
            },
        });
        let mut messages = Vec::new();
        print_text(
            &mut messages,
            r#"{"event":"connected","protocol":"Call","version":"1.0.0"}"#,
            Some(fastrand::u32(..).to_ne_bytes()),
        );
        print_text(&mut messages, &start.to_string(), Some(fastrand::u32(..).to_ne_bytes()));
        socket.write_all(&messages).await?;
        Ok((Opened { socket: socket.into_std()?, stream_sid, started: now() }, rung, beginning))
    }

    /// What Twilio asks and tells once the caller has hung up.
    pub(super) async fn over(&self, rung: &Rung) -> Result<()> {
        if let Some(action) = &rung.action {
            let action = action.split('#').next().unwrap_or_default();
            self.post(action, rung, "completed").await?;
            self.post(&format!("http://{}/twilio/status", self.address), rung, "completed").await?;
        }
        Ok(())
    }

    /// A signed webhook on a connection of its own.
    async fn post(&self, url: &str, rung: &Rung, status: &str) -> Result<String> {
        let parameters = [
            ("CallSid", rung.call_sid.as_str()),
            ("AccountSid", ACCOUNT),
            ("From", &rung.from),
            ("To", CALLED),
            ("CallStatus", status),
            ("Direction", "inbound"),
            ("ApiVersion", "2010-04-01"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let signature = twilio::sign(twilio::Algorithm::HmacSha1, TOKEN, url, twilio::Body::Form(&parameters));
        let body: Vec<_> = parameters.iter().map(|(name, value)| format!("{name}={}", value.replace('+', "%2B"))).collect();
        let path = url.split_once("://").and_then(|it| it.1.find('/').map(|at| &it.1[at..])).unwrap_or("/");
        let request = Request::post(path)
            .header("host", self.address.to_string())
            .header("content-type", "application/x-www-form-urlencoded")
            .header("x-twilio-signature", signature)
            .body(Full::new(Bytes::from(body.join("&"))))?;
        let answer = sim::web::send(&Network::Loopback, "127.0.0.1", self.address.port(), request).await?;
        let text = String::from_utf8_lossy(answer.body()).into_owned();
        ensure!(answer.status().is_success(), "{path} is answered with {}: {text}", answer.status());
        Ok(text)
    }
}

/// Starts the provider's process.
fn provider(ours: &Path, setup: Setup, certificate: Option<&Path>) -> Result<(Asked, SocketAddr)> {
    let mut command = Command::new(ours);
    command
        .args(["provider", "--service", &word(setup.service), "--audio", &word(setup.audio)])
        .args(["--behaviour", &word(setup.behaviour)]);
    if let Some(file) = certificate {
        command.arg("--certificate").arg(file);
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("the provider cannot be started")?;
    let orders = child.stdin.take().context("it has an input")?;
    let mut answers = BufReader::new(child.stdout.take().context("it has an output")?);
    let mut line = String::new();
    answers.read_line(&mut line)?;
    let address = line.trim().parse().context("the provider did not start")?;
    Ok((Asked { child, orders, answers }, address))
}

/// As an operator would start it.
fn serve(
    offhook: &Path,
    setup: Setup,
    address: SocketAddr,
    provider: SocketAddr,
    folder: &Path,
    certificate: Option<&Path>,
) -> Command {
    let mut command = Command::new(offhook);
    let (ws, http) = if setup.tls { ("wss", "https") } else { ("ws", "http") };
    let port = provider.port();
    command
        .args(["serve", "--config", "/nonexistent/offhook.toml"])
        .env_clear()
        .env("OFFHOOK_LISTEN", address.to_string())
        .env("PUBLIC_URL", format!("http://{address}"))
        .env("OFFHOOK_DATA_DIR", folder.join("data"))
        .env("OFFHOOK_OBJECTS", "none")
        .env("OFFHOOK_RECORDING", setup.recording.to_string())
        .env("OFFHOOK_MAX_CALLS", "4000")
        .env("MAX_CALL_DURATION", "14400")
        .env("TWILIO_AUTH_TOKEN", TOKEN);
    if let Some(file) = certificate {
        command.env("OFFHOOK_TRUSTED_AUTHORITIES", file);
    }
    match setup.service {
        Service::Openai => {
            command.env("OPENAI_API_KEY", KEY).env("OPENAI_REALTIME_URL", format!("{ws}://localhost:{port}/v1/realtime"))
        }
        Service::Elevenlabs => command
            .env("OFFHOOK_PROVIDER", "elevenlabs")
            .env("ELEVENLABS_API_KEY", KEY)
            .env("ELEVENLABS_AGENT_ID", "load")
            .env("ELEVENLABS_BASE_URL", format!("{http}://localhost:{port}")),
    };
    command
}

/// A choice as it is written on the command line.
pub(super) fn word(choice: impl clap::ValueEnum) -> String {
    choice.to_possible_value().map(|it| it.get_name().to_owned()).unwrap_or_default()
}
