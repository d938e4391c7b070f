//! Wires the crates together: store, journal, ledger, bridge, desk, control.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::serve::Listener;
use bridge::{Bridge, Connect};
use control::{ApiSettings, App, Signatures};
use desk::{Background, BuiltIns, Caller, Configuration, Desk, Disk, Files, HttpTool, Ledger, McpServer, Settings, Toolbox};
use prometheus_client::registry::Registry;
use secrecy::SecretString;
use store::{Journal, JournalTasks, Objects, Sealer, Store};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use twilio::Validator;
use twilio::rest::Rest;

use crate::capacity;

/// Longest wait at the end for the journal to reach the database; what is on disk is delivered by the next process.
const LAST_DELIVERY_MAX: Duration = Duration::from_secs(5);
/// Longest wait for jobs under way.
const LAST_JOBS_MAX: Duration = Duration::from_secs(5);
/// Longest wait for calls that were asked to leave.
const LEAVE_MAX: Duration = Duration::from_secs(30);

/// A running server.
pub struct Server {
    pub bridge: Arc<Bridge>,
    pub ledger: Arc<Ledger>,
    pub store: Store,
    desk: Arc<Desk>,
    journal: JournalTasks,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    background: Option<JoinHandle<()>>,
}

/// What a server is started with.
pub struct Parts<L> {
    pub settings: Settings,
    /// `None`: as many as this machine carries, and none while it does not keep up.
    pub calls_max: Option<usize>,
    pub http_tools: Vec<HttpTool>,
    pub mcp_servers: Vec<McpServer>,
    /// Tokens that sign; `None` lets everything in.
    pub auth_tokens: Option<Vec<SecretString>>,
    pub api: ApiSettings,
    pub net: Arc<dyn Connect>,
    pub listener: L,
    pub store: Store,
    /// What is done beside calls; `None` in simulations.
    pub beside: Option<Beside>,
}

/// What a server does beside its calls.
#[derive(Debug)]
pub struct Beside {
    pub objects: Option<Objects>,
    /// Days after which recordings are deleted.
    pub recording_days: Option<u32>,
    pub sealer: Arc<Sealer>,
    /// Twilio's REST API, if there is an account.
    pub rest: Option<Rest>,
    /// The pause between two calls that are made.
    pub calls_apart: Duration,
}

impl Server {
    /// Opens the journal, delivers what an earlier process left, starts to serve.
    ///
    /// # Errors
    /// When the data folder cannot be used.
    pub async fn start<L: Listener>(parts: Parts<L>, data_dir: &Path) -> Result<Self> {
        let mut registry = Registry::default();
        let (journal, tasks) = Journal::open(data_dir.join("journal"), parts.store.clone())
            .await
            .with_context(|| format!("the journal in {} cannot be opened: is the folder writable?", data_dir.display()))?;
        let ledger = Ledger::new(journal);
        let keeper = ledger.clone();
        let builtins = BuiltIns::new(parts.settings.time_zone.clone(), &parts.settings.destinations, move |message| {
            let ledger = keeper.clone();
            Box::pin(async move { ledger.keep(message).await })
        });
        let tools = parts.http_tools.into_iter().fold(Toolbox::new(builtins), Toolbox::with_http);
        let tools = Arc::new(parts.mcp_servers.into_iter().fold(tools, Toolbox::with_mcp));
        let metrics = bridge::Metrics::new(&mut registry);
        let calls_max = parts.calls_max.unwrap_or_else(|| capacity::calls_max(capacity::cores()));
        let bridge = Arc::new(Bridge::new(parts.net, ledger.clone(), tools, metrics, calls_max));
        if parts.calls_max.is_none() {
            bridge.watch_pace();
        }
        let metrics = desk::Metrics::new(&mut registry);
        let disk = Arc::new(Disk::new(data_dir.to_owned()));
        let (node, address) = (parts.settings.node.clone(), parts.settings.node_url.http(""));
        let configuration = Arc::new(Configuration::new(&parts.settings, data_dir.join("configuration.json")));
        if parts.beside.is_some() {
            configuration.load(&parts.store).await;
        }
        let desk = Arc::new(Desk::new(
            parts.settings,
            configuration.clone(),
            bridge.clone(),
            ledger.clone(),
            parts.store.clone(),
            metrics,
            disk.clone(),
        ));
        let signatures = match parts.auth_tokens {
            Some(tokens) => Signatures::checked_by(Validator::new(tokens)),
            None => Signatures::skipped(),
        };
        let (rest, calls_apart) = parts.beside.as_ref().map_or((None, Duration::ZERO), |it| (it.rest.clone(), it.calls_apart));
        let caller = Caller::new(desk.clone(), rest);
        let files = Files::new(parts.beside.as_ref().and_then(|it| it.objects.clone()));
        let secret = parts.beside.as_ref().map(|it| it.sealer.secret_for("tokens"));
        let app = App {
            desk: desk.clone(),
            signatures: Arc::new(signatures),
            registry: Arc::new(registry),
            files,
            store: parts.store.clone(),
            access: parts.api.access(secret),
            caller: caller.clone(),
            events: Arc::default(),
            cors_origins: parts.api.cors_origins.into(),
            post_call_secrets: parts.api.post_call_secrets.into(),
        };
        let stop = CancellationToken::new();
        let background = parts.beside.map(|it| {
            let background = Background {
                store: parts.store.clone(),
                bridge: bridge.clone(),
                node,
                address,
                ledger: ledger.clone(),
                objects: it.objects,
                recording_days: it.recording_days,
                sealer: it.sealer,
                disk,
                configuration,
                rest: it.rest,
                caller: caller.clone(),
                calls_apart,
            };
            tokio::spawn(background.run(stop.clone()))
        });
        let serving = tokio::spawn(control::serve(parts.listener, control::router(app), stop.clone()));
        Ok(Self { bridge, ledger, store: parts.store, desk, journal: tasks, stop, serving, background })
    }

    /// What decides about calls.
    pub fn desk(&self) -> &Desk {
        &self.desk
    }

    /// Turns new calls away, lets live ones finish for `soft`, hands the rest over, writes everything down.
    /// Returns how many calls were still there.
    pub async fn shut_down(self, soft: Duration) -> usize {
        // The listener stays open meanwhile: streams that end ask `next` here.
        let left = self.bridge.drain(soft, LEAVE_MAX).await;
        self.stop.cancel();
        let served = timeout(LAST_DELIVERY_MAX, self.serving).await.is_ok();
        tracing::debug!(served, "no more requests");
        let flushed = timeout(LAST_DELIVERY_MAX, self.ledger.journal().flush()).await.is_ok();
        tracing::debug!(flushed, "the journal was delivered");
        if let Some(background) = self.background {
            // Jobs that are not done by then are done by whoever comes next.
            let _ = timeout(LAST_JOBS_MAX, background).await;
        }
        drop((self.desk, self.bridge, self.ledger));
        let _ = timeout(LAST_DELIVERY_MAX, self.journal.finished()).await;
        self.store.close().await;
        left
    }
}

/// The way to everybody on a simulated network.
pub struct Simulated(pub sim::Network);

impl Connect for Simulated {
    fn connect(&self, host: &str, port: u16, tls: bool) -> futures::future::BoxFuture<'static, io::Result<bridge::net::BoxIo>> {
        let (net, host) = (self.0.clone(), host.to_owned());
        Box::pin(async move {
            if tls {
                return Err(io::Error::new(io::ErrorKind::Unsupported, "the simulated network has no TLS"));
            }
            Ok(Box::new(net.connect(&host, port).await?) as bridge::net::BoxIo)
        })
    }
}
