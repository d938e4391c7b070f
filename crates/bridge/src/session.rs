//! One open session with a provider: its socket, its queue, its mapper.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use call::{Action, EndReason, Input};
use futures::future::BoxFuture;
use media::Frame;
use tokio::time::{Instant, timeout};
use wire::websocket::{Message, NORMAL_CLOSURE, Role};

use crate::accept::Bridge;
use crate::assistant::{Beginning, Fault, Mapper};
use crate::limits;
use crate::metrics::{FailureLabels, PeerLabels};
use crate::net::DialError;
use crate::outbox::{Outbox, Stalled};
use crate::plan::{AssistantPlan, CallPlan, HistoryItem};
use crate::socket::{Lost, Socket};
use crate::uplink::{Uplink, UplinkPrinter};
use crate::working_set::WorkingSet;

pub(crate) struct Session {
    pub(crate) peer: &'static str,
    account: String,
    socket: Socket,
    outbox: Uplink,
    mapper: Box<dyn Mapper>,
    /// Broken messages so far.
    faults: u32,
    ready: bool,
    /// When anything last came.
    heard: Instant,
    /// A ping is on its way since.
    pinged: Option<Instant>,
    bridge: Arc<Bridge>,
}

/// What becomes of a session.
pub(crate) type Opening = BoxFuture<'static, Result<Box<Session>, DialError>>;

/// Opens a session with one assistant of the plan; `number` counts the sessions of the call.
pub(crate) fn open(bridge: Arc<Bridge>, plan: &CallPlan, candidate: usize, number: u64, history: Vec<HistoryItem>) -> Opening {
    let assistant: AssistantPlan = plan.assistants[candidate].clone();
    let chain = plan.sound.uplink();
    let tools = bridge.tools.definitions(&plan.tenant);
    let call = plan.call.clone();
    Box::pin(async move {
        let provider = assistant.provider();
        let (peer, account) = (provider.peer(), provider.account());
        let host = account.split(' ').next().unwrap_or_default().to_owned();
        bridge.breakers.admits(&account, Instant::now()).map_err(|rest| DialError::Resting { host: host.clone(), rest })?;
        let dialled = timeout(limits::DIAL_TIMEOUT, provider.clone().dial(bridge.net.clone())).await;
        let socket = match dialled {
            Ok(Ok(socket)) => socket,
            Ok(Err(error)) => {
                bridge.breakers.failed(&account, error.reason() == EndReason::AssistantRefused, Instant::now());
                bridge.metrics.session_failures.get_or_create(&FailureLabels { peer, reason: "dial" }).inc();
                return Err(error);
            }
            Err(_) => {
                bridge.breakers.failed(&account, false, Instant::now());
                bridge.metrics.session_failures.get_or_create(&FailureLabels { peer, reason: "dial_timeout" }).inc();
                return Err(DialError::Unreachable { host, problem: "it did not answer in time".into() });
            }
        };
        let outbox = Outbox::new(UplinkPrinter::new(provider.print_audio(), chain), Role::Client, limits::ASSISTANT_RING);
        let history = history.into_iter().rev().take(limits::HISTORY_MAX).rev().collect();
        // Numbers of two sessions never meet: a provider's own are far below this.
        let beginning = Beginning { call, history, tools, metrics: bridge.metrics.clone(), first_number: number << 40 };
        let session = Session {
            peer,
            account,
            socket,
            outbox,
            mapper: provider.mapper(beginning),
            faults: 0,
            ready: false,
            heard: Instant::now(),
            pinged: None,
            bridge,
        };
        Ok(Box::new(session))
    })
}

/// A session is over, and why.
#[derive(Debug)]
pub(crate) struct Over(pub(crate) EndReason);

impl Session {
    /// Says the first words.
    pub(crate) fn begin(&mut self) -> Result<(), Over> {
        let opened = self.mapper.opened(&mut self.outbox);
        opened.or_else(|fault| self.fault(fault))
    }

    /// Writes what waits, then reads what has come. Ready when there is something to [`take`](Self::take), or the socket is
    /// lost.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        self.poll_send(cx)?;
        self.poll_receive(cx)
    }

    /// Writes what waits, as far as the provider takes it.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<(), Lost> {
        self.socket.poll_send(&mut self.outbox, cx)
    }

    /// Reads what has come.
    pub(crate) fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        self.socket.poll_receive(cx)
    }

    /// What is looked at when something comes.
    pub(crate) fn looks_at(&mut self, set: &mut WorkingSet) {
        set.add(self);
        set.add(&*self.mapper);
        self.socket.looks_at(set);
    }

    /// Its socket.
    pub(crate) fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// Waits for what comes next. Safe to drop at any time: nothing is lost between two polls.
    pub(crate) async fn next(&mut self) -> Result<(), Lost> {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// The socket was lost.
    pub(crate) fn lost(&self, lost: &Lost) -> Over {
        if let Lost::Closed = lost {
            return self.over(self.mapper.closed(None, ""), "lost");
        }
        tracing::warn!(peer = self.peer, error = %lost, "the provider's socket was lost");
        self.over(EndReason::AssistantLost, if let Lost::Stalled = lost { "stalled" } else { "lost" })
    }

    /// Takes in the next message of what was read; inputs go to `call` in order. `false` when there is none.
    pub(crate) fn take(&mut self, now: Instant, call: &mut dyn FnMut(Input<'_>)) -> Result<bool, Over> {
        let message = match self.socket.message() {
            Ok(Some(message)) => message,
            Ok(None) => {
                self.socket.rest();
                return Ok(false);
            }
            Err(violation) => return Err(self.lost(&violation.into())),
        };
        self.heard = now;
        self.pinged = None;
        let result = match message {
            Message::Text(text) => {
                let mut became_ready = false;
                let mut input = |input: Input<'_>| {
                    became_ready |= matches!(input, Input::AssistantReady { .. });
                    call(input);
                };
                let result = self.mapper.receive(text, &mut input, &mut self.outbox);
                if became_ready {
                    self.ready = true;
                    self.bridge.breakers.succeeded(&self.account);
                    self.bridge.metrics.sessions.get_or_create(&PeerLabels { peer: self.peer }).inc();
                }
                result
            }
            Message::Ping(content) => {
                self.outbox.pong(content);
                Ok(())
            }
            Message::Pong => Ok(()),
            Message::Binary(_) => Err(Fault::Malformed("a binary message".into())),
            Message::Close(code, said) => {
                let reason = self.mapper.closed(code, said);
                tracing::info!(peer = self.peer, code, said, %reason, "the provider closed the session");
                return Err(self.over(reason, "closed"));
            }
        };
        result.or_else(|fault| self.fault(fault)).map(|()| true)
    }

    fn fault(&mut self, fault: Fault) -> Result<(), Over> {
        let peer = self.peer;
        self.bridge.metrics.faults.get_or_create(&PeerLabels { peer }).inc();
        let (reason, name) = match &fault {
            Fault::Malformed(_) => {
                self.faults += 1;
                ((self.faults >= limits::ASSISTANT_FAULTS_MAX).then_some(EndReason::AssistantLost), "malformed")
            }
            Fault::Refused(_) => (Some(EndReason::AssistantRefused), "refused"),
            Fault::Lost(_) => (Some(EndReason::AssistantLost), "gave_up"),
            Fault::Stalled => (Some(EndReason::AssistantLost), "stalled"),
        };
        tracing::warn!(peer, %fault, "trouble with the provider");
        match reason {
            Some(reason) => Err(self.over(reason, name)),
            None => Ok(()),
        }
    }

    fn over(&self, reason: EndReason, name: &'static str) -> Over {
        if reason != EndReason::AssistantHungUp {
            self.bridge.metrics.session_failures.get_or_create(&FailureLabels { peer: self.peer, reason: name }).inc();
            if !self.ready {
                self.bridge.breakers.failed(&self.account, reason == EndReason::AssistantRefused, Instant::now());
            }
        }
        Over(reason)
    }

    /// Caller audio; the oldest gives way when the provider does not keep up.
    pub(crate) fn hear(&mut self, frame: &Frame) {
        self.outbox.media(*frame);
    }

    /// Performs what the call wants of the provider.
    pub(crate) fn perform(&mut self, action: &Action) -> Result<(), Stalled> {
        self.mapper.perform(action, &mut self.outbox)
    }

    /// Whether the socket is dead: a ping stayed unanswered. One is sent when nothing has come for a while.
    pub(crate) fn is_dead(&mut self, now: Instant) -> bool {
        if self.pinged.is_some_and(|it| now.duration_since(it) >= limits::PONG_TIMEOUT) {
            tracing::warn!(peer = self.peer, "the provider's socket is half open: a ping was not answered");
            return true;
        }
        if self.pinged.is_none() && now.duration_since(self.heard) >= limits::PING_EVERY {
            self.outbox.ping();
            self.pinged = Some(now);
        }
        false
    }

    /// When [`is_dead`](Self::is_dead) should be asked, and the socket be polled, at the latest.
    pub(crate) fn next_check(&self) -> Instant {
        let check = self.pinged.map_or(self.heard + limits::PING_EVERY, |it| it + limits::PONG_TIMEOUT);
        self.outbox.patience().map_or(check, |it| it.min(check))
    }

    /// Frames that gave way so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.outbox.dropped()
    }

    /// Closes the socket: what is queued goes out, and the provider sees a close and not a reset; within a bound. It leaves the
    /// exchange at once, in the turn in which it is asked to.
    pub(crate) fn close(mut self: Box<Self>) -> impl Future<Output = ()> {
        self.socket.leave_exchange();
        async move { _ = timeout(limits::CLOSE_TIMEOUT, self.socket.close(&mut self.outbox, NORMAL_CLOSURE, "")).await }
    }
}

/// Longest time that a provider is given between two looks at its socket.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);
