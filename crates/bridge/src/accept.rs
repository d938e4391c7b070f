//! From a media socket to a running call: the token first, everything else after.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use call::{Counters, EndReason, Event};
use media::detect::LineQuality;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;
use wire::twilio::{FromTwilio, Start, is_plain};
use wire::websocket::{Message, POLICY_VIOLATION, Role};

use crate::breaker::Breakers;
use crate::directory::{Claim, Directory, Refusal, StreamToken};
use crate::driver::Driver;
use crate::exchange::{Broken, Exchanges};
use crate::limits;
use crate::metrics::Metrics;
use crate::net::{BoxIo, Connect};
use crate::outbox::Outbox;
use crate::pace;
use crate::plan::{CallFact, CallPlan, Fact, Journal, Tools};
use crate::ringing::Ringing;
use crate::socket::Socket;
use crate::twilio::{CALL_PARAMETER, TOKEN_PARAMETER, TwilioPrinter};

/// Runs calls: one per process, shared by reference.
pub struct Bridge {
    pub(crate) net: Arc<dyn Connect>,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) tools: Arc<dyn Tools>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) breakers: Breakers,
    directory: Arc<Directory>,
    exchanges: Exchanges,
    tracker: TaskTracker,
}

impl Bridge {
    /// With room for `calls_max` calls.
    ///
    /// # Panics
    /// Outside of a runtime, which is to run the calls.
    pub fn new(
        net: Arc<dyn Connect>,
        journal: Arc<dyn Journal>,
        tools: Arc<dyn Tools>,
        metrics: Metrics,
        calls_max: usize,
    ) -> Self {
        Self {
            net,
            journal,
            tools,
            metrics: Arc::new(metrics),
            breakers: Breakers::default(),
            directory: Arc::new(Directory::new(calls_max)),
            exchanges: Exchanges::open(),
            tracker: TaskTracker::new(),
        }
    }

    /// Takes no further call while this process does not keep time, whatever the number of places.
    pub fn watch_pace(&self) {
        tokio::spawn(pace::watch(Arc::downgrade(&self.directory)));
    }

    /// Which calls are expected, live and over.
    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// Admits a call; its media socket must show the token. If the plan says so, the session with
    /// the first assistant is opened meanwhile, and released after [`limits::PREPARED_LIFE`] if nobody comes.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn expect(self: &Arc<Self>, plan: CallPlan) -> Result<StreamToken, Refusal> {
        self.directory.expect(plan, |plan| plan.prepare.then(|| Ringing::begin(self.clone(), plan)))
    }

    /// Runs what an upgraded connection brings, to its end. `io` resolves once the upgrade is done, with what was read behind
    /// the request.
    pub fn accept(self: &Arc<Self>, io: impl Future<Output = Option<(BoxIo, Bytes)>> + Send + 'static) {
        let bridge = self.clone();
        self.tracker.spawn(async move {
            if let Some((io, early)) = io.await {
                let socket = Socket::new(io, Role::Server, limits::CALLER_MESSAGE_BYTES, &early);
                bridge.serve(socket).await;
            }
        });
    }

    async fn serve(self: Arc<Self>, mut socket: Socket) {
        let start = match timeout(limits::START_TIMEOUT, start(&mut socket)).await {
            Ok(Ok(start)) => start,
            Ok(Err(problem)) => return self.refuse(socket, problem).await,
            Err(_) => return self.refuse(socket, "no start message in time").await,
        };
        let parameter = |name: &str| start.custom_parameters.get(name).map(String::as_str).unwrap_or_default();
        let claim =
            self.directory.claim(parameter(CALL_PARAMETER), parameter(TOKEN_PARAMETER), &start.call_sid, &start.account_sid);
        let Some(Claim { plan, commands, seat, ringing }) = claim else {
            return self.refuse(socket, "no call is expected with this token").await;
        };
        let (call, tenant, epoch) = (plan.call.clone(), plan.tenant.clone(), plan.epoch);
        // Of the highest level: whatever is logged at all tells whose call it is.
        let span = tracing::error_span!("call", %call, epoch);
        let fact = |fact| CallFact { call: call.clone(), tenant: tenant.clone(), epoch, fact };
        self.journal.record(fact(Fact::StreamStarted { stream_sid: start.stream_sid.clone() }));
        self.metrics.calls_active.inc();
        let (bridge, inside) = (self.clone(), span.clone());
        let run = move |place| {
            let driver = Driver::new(bridge, plan, start.stream_sid, seat, place);
            driver.run(socket, commands, ringing).instrument(inside)
        };
        let ran = self.exchanges.run(run).await;
        self.metrics.calls_active.dec();
        if let Err(Broken) = ran {
            // The panic's own message is in the log; the caller goes on in a new stream.
            span.in_scope(|| tracing::error!("a bug of ours ended this call"));
            let ended = Event::Ended {
                reason: EndReason::InternalError,
                duration: Duration::ZERO,
                counters: Counters::default(),
                line: LineQuality::default(),
            };
            self.metrics.end(EndReason::InternalError);
            self.journal.record(fact(Fact::Call(ended)));
        }
    }

    async fn refuse(&self, mut socket: Socket, problem: &'static str) {
        tracing::warn!(problem, "a media socket is closed");
        self.metrics.sockets_refused.inc();
        // 1008: policy.
        let mut outbox = Outbox::new(TwilioPrinter::new(String::new()), Role::Server, 0);
        let _ = timeout(limits::CLOSE_TIMEOUT, socket.close(&mut outbox, POLICY_VIOLATION, "unauthorized")).await;
    }

    /// Admits nobody from now on; live calls go on.
    pub fn close(&self) {
        self.directory.close();
    }

    /// Waits up to `soft` for live calls to end by themselves, then asks them to leave and waits up to `hard` for that.
    /// Returns how many were still there at the end.
    pub async fn drain(&self, soft: Duration, hard: Duration) -> usize {
        self.close();
        self.tracker.close();
        if timeout(soft, self.tracker.wait()).await.is_err() {
            tracing::info!(calls = self.directory.live(), "asking live calls to leave");
            self.directory.drain();
            let _ = timeout(hard, self.tracker.wait()).await;
        }
        self.directory.live()
    }

    /// Waits until no socket and no call is left.
    pub async fn idle(&self) {
        self.tracker.close();
        self.tracker.wait().await;
        self.tracker.reopen();
    }
}

/// Messages in which `start` must be: `connected` before it, and room for unknown events.
const START_AMONG: usize = 4;

/// Reads up to the `start` message.
async fn start(socket: &mut Socket) -> Result<Start, &'static str> {
    let mut messages = 0;
    while messages < START_AMONG {
        let message = match socket.message() {
            Ok(Some(message)) => message,
            Ok(None) => {
                socket.receive().await.map_err(|_| "the socket closed before start")?;
                continue;
            }
            Err(_) => return Err("a broken WebSocket where start was due"),
        };
        messages += 1;
        let text = match message {
            Message::Text(text) => text,
            Message::Ping(_) | Message::Pong => continue,
            Message::Binary(_) => return Err("a binary message where start was due"),
            Message::Close(..) => return Err("the socket closed before start"),
        };
        match FromTwilio::parse(text) {
            Ok(FromTwilio::Start(start)) => {
                if start.encoding != "audio/x-mulaw" || start.sample_rate != 8000 {
                    return Err("start announces another format than audio/x-mulaw at 8000 Hz");
                }
                if !is_plain(&start.stream_sid) {
                    return Err("start has a stream SID that is none");
                }
                return Ok(start);
            }
            Ok(FromTwilio::Connected | FromTwilio::Other(_)) => (),
            Ok(_) => return Err("audio before start"),
            Err(_) => return Err("a broken message where start was due"),
        }
    }
    Err("no start among the first messages")
}
