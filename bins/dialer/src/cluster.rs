//! Real offhook processes with a simulated telephone network and a simulated provider around them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response};
use serde_json::Value;
use sim::{
    AssistantScript, Balancer, Behaviour, CallOutcome, Callee, CallerScript, Lateness, Network, OpenAi, OutputFormat, RestApi,
    Speech, TelephoneNetwork, Timeline,
};
use store::Store;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

const ACCOUNT: &str = "AC00000000000000000000000000000001";
const TOKEN: &str = "dialer-auth-token";
const KEY: &str = "dialer-provider-key";
const ENCRYPTION_KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
/// Who rings, and who answers.
const CALLER: &str = "+15550100001";
const CALLED: &str = "+15550100002";
/// A server is ready, or ends by itself, within this time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Servers that are started, killed and asked as an operator would, and who talks to them.
pub struct Cluster {
    offhook: PathBuf,
    pub folder: tempfile::TempDir,
    /// Servers that may run.
    pub nodes: Vec<SocketAddr>,
    /// Where Twilio calls: the only server, or the balancer in front of them.
    pub address: SocketAddr,
    pub database: String,
    /// Where recordings are kept: a setting of the servers.
    pub objects: String,
    /// Further variables of the servers' environment.
    pub environment: Vec<(String, String)>,
    provider: SocketAddr,
    pub timeline: Timeline,
    /// How late the callers' own process was.
    lateness: Lateness,
    stop: CancellationToken,
}

impl Cluster {
    /// Prepares `nodes` servers of the program `offhook` on a database; without one the first has its own. With several
    /// servers a balancer is in front of them. Nothing is started yet.
    ///
    /// # Errors
    /// When there is no port or no temporary folder.
    pub async fn new(offhook: &Path, nodes: usize, database: Option<String>) -> Result<Self> {
        let timeline = Timeline::new(None);
        let script: AssistantScript = include_str!("../../offhook/scenarios/demo.assistant").parse()?;
        let speech = Speech::of("en").context("there is recorded English")?;
        let behaviour = Arc::new(Behaviour::new(script, speech, OutputFormat::Ulaw, KEY));
        let (listener, provider) = Network::Loopback.listen().await?;
        let stop = CancellationToken::new();
        tokio::spawn(OpenAi { behaviour, timeline: timeline.clone() }.serve(listener, stop.clone()));
        // Ports that are free now; the servers take them next.
        let free = (0..nodes).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<Vec<_>, _>>()?;
        let nodes: Vec<SocketAddr> = free.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
        drop(free);
        let mut address = *nodes.first().context("a cluster has servers")?;
        if nodes.len() > 1 {
            let front = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            address = front.local_addr()?;
            tokio::spawn(Balancer { servers: nodes.clone() }.serve(front, stop.clone()));
        }
        let folder = tempfile::tempdir()?;
        let database = database.unwrap_or_else(|| format!("sqlite:{}", folder.path().join("offhook.db").display()));
        Ok(Self {
            offhook: offhook.to_owned(),
            folder,
            nodes,
            address,
            database,
            objects: "none".into(),
            environment: Vec::new(),
            provider,
            timeline,
            lateness: Lateness::watch(),
            stop,
        })
    }

    /// Where a server keeps its data.
    pub fn data(&self, node: usize) -> PathBuf {
        self.folder.path().join(format!("node-{node}"))
    }

    /// What every command of the program finds in its environment.
    fn program(&self, node: usize) -> Command {
        let mut command = Command::new(&self.offhook);
        command
            .env_clear()
            .env("PUBLIC_URL", format!("http://{}", self.address))
            .env("OFFHOOK_DATA_DIR", self.data(node))
            .env("DATABASE_URL", &self.database)
            .env("OFFHOOK_OBJECTS", &self.objects)
            .env("OFFHOOK_ENCRYPTION_KEYS", ENCRYPTION_KEY)
            .env("TWILIO_AUTH_TOKEN", TOKEN)
            .env("OPENAI_API_KEY", KEY)
            .env("OPENAI_REALTIME_URL", format!("ws://{}/v1/realtime", self.provider))
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null());
        command
    }

    /// Starts a server as an operator would and waits until it is ready. Dropped, it is killed. What it says goes to a file,
    /// see [`said`](Self::said).
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start(&self, node: usize) -> Result<Child> {
        let log = std::fs::File::options().create(true).append(true).open(self.log(node))?;
        let mut child = self
            .program(node)
            .args(["serve", "--config", "/nonexistent/offhook.toml"])
            .env("OFFHOOK_LISTEN", self.nodes[node].to_string())
            .env("OFFHOOK_NODE_URL", format!("http://{}", self.nodes[node]))
            .env("OFFHOOK_NODE", format!("node-{node}"))
            .env("OFFHOOK_DRAIN_SECONDS", "0")
            .env("OFFHOOK_LOG", "warn")
            .env("OFFHOOK_RECORDING", "true")
            .env("OFFHOOK_MAX_CALLS", "1000")
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} cannot be started", self.offhook.display()))?;
        let ready = async {
            while self.ask(self.nodes[node], "/readyz").await != Some(200) {
                if let Some(status) = child.try_wait()? {
                    bail!("the server ended at once ({status}):\n{}", self.said(node));
                }
                sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        };
        timeout(PATIENCE, ready).await.with_context(|| format!("the server is not ready:\n{}", self.said(node)))??;
        Ok(child)
    }

    fn log(&self, node: usize) -> PathBuf {
        self.folder.path().join(format!("node-{node}.log"))
    }

    /// What a server said, last lines.
    pub fn said(&self, node: usize) -> String {
        let all = std::fs::read_to_string(self.log(node)).unwrap_or_default();
        let lines: Vec<&str> = all.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// The servers' database.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn open(&self) -> Result<Store> {
        Ok(Store::open(&self.database).await?)
    }

    /// Runs a command as an operator would, beside the servers.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn output(&self, arguments: &[&str]) -> Result<std::process::Output> {
        Ok(self.program(0).args(arguments).current_dir(self.folder.path()).output().await?)
    }

    /// Same; returns what it prints.
    ///
    /// # Errors
    /// What it says when it fails.
    pub async fn command(&self, arguments: &[&str]) -> Result<String> {
        let output = self.output(arguments).await?;
        ensure!(output.status.success(), "offhook {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The status that a server answers a question with; `None` when it does not answer.
    pub async fn ask(&self, server: SocketAddr, path: &str) -> Option<u16> {
        let request = Request::get(path).header("host", "test").body(Full::new(Bytes::new())).ok()?;
        sim::web::send(&Network::Loopback, "127.0.0.1", server.port(), request).await.ok().map(|it| it.status().as_u16())
    }

    /// Sends whatever to whoever listens at the public address.
    ///
    /// # Errors
    /// When nobody does.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>> {
        Ok(sim::web::send(&Network::Loopback, "127.0.0.1", self.address.port(), request).await?)
    }

    /// Sends a call's first webhook once more, signed as Twilio would; returns the document it is answered with.
    ///
    /// # Errors
    /// When it is not answered with a document.
    pub async fn replay_voice_webhook(&self, call_sid: &str) -> Result<String> {
        let parameters = [("CallSid", call_sid), ("AccountSid", ACCOUNT), ("To", CALLED), ("CallStatus", "ringing")];
        let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let url = format!("http://{}/twilio/voice", self.address);
        let signature = twilio::sign(twilio::Algorithm::HmacSha1, TOKEN, &url, twilio::Body::Form(&parameters));
        let body: Vec<_> = parameters.iter().map(|(name, value)| format!("{name}={}", value.replace('+', "%2B"))).collect();
        let request = Request::post("/twilio/voice")
            .header("host", "test")
            .header("content-type", "application/x-www-form-urlencoded")
            .header("x-twilio-signature", signature)
            .body(Full::new(Bytes::from(body.join("&"))))?;
        let response = self.send(request).await?;
        ensure!(response.status() == 200, "the voice webhook is answered with {}", response.status());
        Ok(String::from_utf8_lossy(response.body()).into_owned())
    }

    /// Lets a caller ring who follows a script.
    ///
    /// # Errors
    /// When the script is not understood.
    pub fn ring(&self, script: &str) -> Result<JoinHandle<CallOutcome>> {
        let (script, telephone): (CallerScript, _) = (script.parse()?, self.telephone()?);
        Ok(tokio::spawn(async move { telephone.ring(CALLER, CALLED, script).await }))
    }

    /// Gives the servers an account at a simulated Twilio that makes calls, from `phone_number`: known to servers that are started
    /// from now on.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn account(&mut self, phone_number: &str, callees: BTreeMap<String, Callee>) -> Result<Arc<RestApi>> {
        let api = RestApi::new(self.telephone()?, callees);
        let (listener, address) = Network::Loopback.listen().await?;
        tokio::spawn(api.clone().serve(listener, self.stop.clone()));
        let settings = [
            ("TWILIO_ACCOUNT_SID", ACCOUNT.to_owned()),
            ("TWILIO_API_BASE_URL", format!("http://{address}")),
            ("TWILIO_PHONE_NUMBER", phone_number.to_owned()),
            ("TWILIO_CALLS_PER_SECOND", "20".to_owned()),
        ];
        self.environment.extend(settings.map(|(name, value)| (name.to_owned(), value)));
        Ok(api)
    }

    /// Asks the API as a program would; returns status and JSON. A refusal for asking too often is waited out.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn api(&self, method: &str, path: &str, key: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        loop {
            let mut request = Request::builder().method(method).uri(path).header("host", "test");
            if !key.is_empty() {
                request = request.header("authorization", format!("Bearer {key}"));
            }
            let text = body.map_or_else(String::new, Value::to_string);
            if body.is_some() {
                request = request.header("content-type", "application/json");
            }
            let response = self.send(request.body(Full::new(Bytes::from(text)))?).await?;
            let answer: Value = serde_json::from_slice(response.body()).unwrap_or(Value::Null);
            // What is not allowed now has a code of its own.
            if response.status() == 429 && answer.get("code").is_none() {
                sleep(Duration::from_millis(300)).await;
                continue;
            }
            return Ok((response.status().as_u16(), answer));
        }
    }

    fn telephone(&self) -> Result<TelephoneNetwork> {
        Ok(TelephoneNetwork {
            net: Network::Loopback,
            timeline: self.timeline.clone(),
            account_sid: ACCOUNT.into(),
            auth_token: TOKEN.into(),
            voice_url: format!("http://{}/twilio/voice", self.address),
            status_url: format!("http://{}/twilio/status", self.address),
            speech: Speech::of("en").context("there is recorded English")?,
            repeat_first_webhook: false,
            connecting: Duration::ZERO,
            people: Default::default(),
        })
    }

    /// Ends a server as a supervisor would: SIGTERM, and an exit code that says that nothing is left.
    ///
    /// # Errors
    /// When it does not end by itself, or not well.
    pub async fn end(&self, mut server: Child) -> Result<()> {
        let pid = server.id().context("the server runs")?.to_string();
        ensure!(Command::new("kill").args(["-TERM", &pid]).status().await?.success(), "kill failed");
        let status = timeout(PATIENCE, server.wait()).await.context("the server does not end by itself")??;
        ensure!(status.success(), "the server ended with {status}");
        Ok(())
    }

    /// How late the callers themselves were at worst: above the 200 ms that telephone networks hold, what callers heard says
    /// more about this machine than about the server.
    pub fn lateness(&self) -> Duration {
        self.lateness.longest()
    }

    /// Everything that happened, for whoever looks into a failure.
    pub fn story(&self) -> String {
        let moments = self.timeline.moments();
        moments.iter().map(|it| format!("{:.3} {:?} {}\n", it.0.as_secs_f64(), it.1, it.2)).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
