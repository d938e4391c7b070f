//! Which calls are expected, which are live, how streams ended; admission and drain.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use call::Control;
use call::EndReason;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use uuid::Uuid;

use crate::limits;
use crate::plan::{CallId, CallPlan};
use crate::ringing::Ringing;

/// Lets one socket claim one call, once. 244 random bits in letters and digits.
#[derive(Clone)]
pub struct StreamToken(String);

impl StreamToken {
    fn new() -> Self {
        Self(format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()))
    }

    /// The token's text, for a `<Parameter>` and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for StreamToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamToken(…)")
    }
}

/// Why no further call is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("all {calls_max} places are taken")]
    Full { calls_max: usize },
    #[error("this server is shutting down")]
    Draining,
    #[error("this server's processors do not keep up with the calls it has")]
    Late,
    #[error("the disk is full: what happens on calls could not be written down")]
    DiskFull,
}

/// Time for a driver to notice by itself that its stream is over, once Twilio says so.
const NOTICE: Duration = Duration::from_millis(300);

/// Longest wait for a live call to perform an order: it answers between two frames.
const ORDER_TIMEOUT: Duration = Duration::from_secs(2);
/// Orders under way to one call.
const COMMANDS_MAX: usize = 16;

/// What people and programs may do to a live call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LiveControl {
    /// See [`Control`] for these.
    Say(String),
    Inform(String),
    MuteCaller(bool),
    MuteAssistant(bool),
    Hold(bool),
    Digits(String),
    Transfer(String),
    HangUp,
    /// Goes on with the recording, or leaves silence in it until told otherwise.
    Record(bool),
}

impl LiveControl {
    pub(crate) fn as_control(&self) -> Option<Control<'_>> {
        Some(match self {
            Self::Say(text) => Control::Say(text),
            Self::Inform(text) => Control::Inform(text),
            Self::MuteCaller(on) => Control::MuteCaller(*on),
            Self::MuteAssistant(on) => Control::MuteAssistant(*on),
            Self::Hold(on) => Control::Hold(*on),
            Self::Digits(keys) => Control::Digits(keys),
            Self::Transfer(to) => Control::Transfer(to),
            Self::HangUp => Control::HangUp,
            Self::Record(_) => return None,
        })
    }
}

impl FromStr for LiveControl {
    type Err = String;

    /// Reads `say WORDS`, `inform WORDS`, `mute-caller on`, `mute-assistant off`, `hold on`, `record off`, `digits 12#`,
    /// `transfer NAME`, `hang-up`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
        let switch = || match rest {
            "on" => Ok(true),
            "off" => Ok(false),
            other => Err(format!("`{verb} {other}`: expected on or off")),
        };
        let words = || if rest.is_empty() { Err(format!("`{verb}` wants something behind it")) } else { Ok(rest.to_owned()) };
        Ok(match verb {
            "say" => Self::Say(words()?),
            "inform" => Self::Inform(words()?),
            "mute-caller" => Self::MuteCaller(switch()?),
            "mute-assistant" => Self::MuteAssistant(switch()?),
            "hold" => Self::Hold(switch()?),
            "record" => Self::Record(switch()?),
            "digits" => Self::Digits(words()?),
            "transfer" => Self::Transfer(words()?),
            "hang-up" => Self::HangUp,
            other => {
                return Err(format!(
                    "`{other}` is no order: expected say, inform, mute-caller, mute-assistant, hold, record, digits, transfer or hang-up"
                ));
            }
        })
    }
}

/// An order was performed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Performed {
    Now,
    /// An order with this id was performed already; nothing was done this time.
    Before,
}

/// Why an order was not performed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPerformed {
    #[error("no such call is live on this server")]
    NotLive,
    #[error("the call does not answer: too many orders are under way; try again")]
    Busy,
}

/// An order on its way.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) id: String,
    pub(crate) control: LiveControl,
    pub(crate) done: oneshot::Sender<Performed>,
}

/// Orders to a live call.
#[derive(Debug)]
pub(crate) enum Command {
    /// From outside; boxed, because there is room for many and seldom one.
    Order(Box<Order>),
    /// Leave at the end of the utterance; somebody else goes on.
    Drain,
    /// Leave at once: a newer stream of this call exists, or Twilio has already left.
    Supersede,
}

struct Expected {
    plan: Box<CallPlan>,
    ringing: Option<Ringing>,
    token: StreamToken,
    until: Instant,
}

struct Live {
    epoch: u32,
    commands: mpsc::Sender<Command>,
    ended: watch::Receiver<bool>,
}

struct Ended {
    epoch: u32,
    reason: EndReason,
    at: Instant,
}

#[derive(Default)]
struct State {
    draining: bool,
    expected: HashMap<CallId, Expected>,
    live: HashMap<CallId, Live>,
    ended: HashMap<CallId, Ended>,
}

/// All calls of this process.
pub struct Directory {
    calls_max: usize,
    /// The process does not keep time.
    late: AtomicBool,
    state: Mutex<State>,
}

/// A claimed call: what its driver needs, and its place in the directory until it is dropped.
pub(crate) struct Claim {
    pub(crate) plan: CallPlan,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) seat: Seat,
    /// The session that is being opened for it.
    pub(crate) ringing: Option<Ringing>,
}

/// The place of a live call; dropping it frees the place.
pub(crate) struct Seat {
    directory: std::sync::Arc<Directory>,
    call: CallId,
    epoch: u32,
    ended: watch::Sender<bool>,
}

impl Directory {
    /// Admits at most `calls_max` calls at a time, expected ones included.
    pub fn new(calls_max: usize) -> Self {
        Self { calls_max, late: AtomicBool::new(false), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change below is a single insert or remove: a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a call whose media socket will come soon. A call that is expected already gets a new token. `prepare` begins
    /// what can be done meanwhile.
    ///
    /// # Errors
    /// [`Refusal`]: answer politely and let the caller go. A resumption is never refused for load.
    pub(crate) fn expect(
        &self,
        plan: CallPlan,
        prepare: impl FnOnce(&CallPlan) -> Option<Ringing>,
    ) -> Result<StreamToken, Refusal> {
        let now = Instant::now();
        let mut state = self.state();
        state.expected.retain(|_, it| it.until > now);
        state.ended.retain(|_, it| now.duration_since(it.at) < limits::END_LIFE);
        if state.draining {
            return Err(Refusal::Draining);
        }
        let known = state.expected.contains_key(&plan.call) || plan.epoch > 0;
        if !known && state.expected.len() + state.live.len() >= self.calls_max {
            return Err(Refusal::Full { calls_max: self.calls_max });
        }
        if !known && self.is_late() {
            return Err(Refusal::Late);
        }
        let token = StreamToken::new();
        let (call, ringing) = (plan.call.clone(), prepare(&plan));
        let expected = Expected { plan: Box::new(plan), ringing, token: token.clone(), until: now + limits::TOKEN_LIFE };
        state.expected.insert(call, expected);
        Ok(token)
    }

    /// Gives a socket its call if the token, the call SID and the account SID are the expected ones. The token is then
    /// used up. Nothing tells a stranger which of them was wrong.
    pub(crate) fn claim(
        self: &std::sync::Arc<Self>,
        call: &str,
        token: &str,
        call_sid: &str,
        account_sid: &str,
    ) -> Option<Claim> {
        let call = CallId(call.into());
        let mut state = self.state();
        let Entry::Occupied(entry) = state.expected.entry(call.clone()) else { return None };
        let expected = entry.get();
        let same = |a: &str, b: &str| bool::from(a.as_bytes().ct_eq(b.as_bytes()));
        let fits = same(token, expected.token.expose())
            & same(call_sid, &expected.plan.call_sid)
            & same(account_sid, &expected.plan.account_sid)
            & (expected.until > Instant::now());
        if !fits {
            return None;
        }
        let Expected { plan, ringing, .. } = entry.remove();
        let plan = *plan;
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        let (ended_tx, ended) = watch::channel(false);
        if let Some(older) = state.live.insert(call.clone(), Live { epoch: plan.epoch, commands: sender, ended }) {
            // One live stream per call: the newer one wins.
            let _ = older.commands.try_send(Command::Supersede);
        }
        state.ended.remove(&call);
        let seat = Seat { directory: self.clone(), call, epoch: plan.epoch, ended: ended_tx };
        Some(Claim { plan, commands, seat, ringing })
    }

    /// How the call's stream of `epoch` ended, if it ran here. A stream that is still live is ended first: Twilio asks
    /// `next` only when the stream is over for Twilio.
    pub async fn end_of(&self, call: &CallId, epoch: u32) -> Option<EndReason> {
        let waiting = {
            let state = self.state();
            state.live.get(call).filter(|it| it.epoch == epoch).map(|it| (it.commands.clone(), it.ended.clone()))
        };
        if let Some((commands, mut ended)) = waiting {
            // The driver may be a message behind; it gets a moment to find out by itself.
            let still_live = tokio::time::timeout(NOTICE, ended.wait_for(|it| *it)).await.is_err();
            if still_live {
                let _ = commands.try_send(Command::Supersede);
                let _ = tokio::time::timeout(limits::CLOSE_TIMEOUT, ended.wait_for(|it| *it)).await;
            }
        }
        self.state().ended.get(call).filter(|it| it.epoch == epoch).map(|it| it.reason)
    }

    /// Does something to a live call. Orders have ids: one that is repeated, because its answer got lost, is performed once.
    ///
    /// # Errors
    /// [`NotPerformed`]
    pub async fn control(&self, call: &CallId, id: &str, control: LiveControl) -> Result<Performed, NotPerformed> {
        let commands = self.state().live.get(call).map(|it| it.commands.clone()).ok_or(NotPerformed::NotLive)?;
        let (done, performed) = oneshot::channel();
        let order = Box::new(Order { id: id.to_owned(), control, done });
        commands.try_send(Command::Order(order)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => NotPerformed::Busy,
            mpsc::error::TrySendError::Closed(_) => NotPerformed::NotLive,
        })?;
        match tokio::time::timeout(ORDER_TIMEOUT, performed).await {
            Ok(Ok(performed)) => Ok(performed),
            Ok(Err(_)) => Err(NotPerformed::NotLive),
            Err(_) => Err(NotPerformed::Busy),
        }
    }

    /// Calls with a live stream.
    pub fn live_calls(&self) -> Vec<CallId> {
        self.state().live.keys().cloned().collect()
    }

    /// Whether a stream of the call is live or about to come.
    pub fn knows(&self, call: &CallId) -> bool {
        let state = self.state();
        state.live.contains_key(call) || state.expected.get(call).is_some_and(|it| it.until > Instant::now())
    }

    /// Live calls.
    pub fn live(&self) -> usize {
        self.state().live.len()
    }

    /// Whether a further call would be admitted.
    pub fn is_open(&self) -> bool {
        let state = self.state();
        !state.draining && state.expected.len() + state.live.len() < self.calls_max && !self.is_late()
    }

    /// Whether the process does not keep time; only where that is watched.
    pub fn is_late(&self) -> bool {
        self.late.load(Ordering::Relaxed)
    }

    /// Whether the process is shutting down.
    pub fn is_draining(&self) -> bool {
        self.state().draining
    }

    /// Whether a further call would make all of them late.
    pub(crate) fn set_late(&self, late: bool) {
        if self.late.swap(late, Ordering::Relaxed) != late {
            tracing::warn!(
                late,
                live = self.live(),
                "whether this server keeps time has changed; while it is late no further call is taken"
            );
        }
    }

    /// Admits nobody from now on.
    pub(crate) fn close(&self) {
        self.state().draining = true;
    }

    /// Tells every live call to leave.
    pub(crate) fn drain(&self) {
        for live in self.state().live.values() {
            let _ = live.commands.try_send(Command::Drain);
        }
    }
}

impl Seat {
    /// Notes how the stream ended, before the caller's socket closes: `next` comes right after.
    pub(crate) fn end(&self, reason: EndReason) {
        let mut state = self.directory.state();
        // A newer stream of the call decides what comes next.
        if state.live.get(&self.call).is_some_and(|it| it.epoch == self.epoch) {
            state.ended.insert(self.call.clone(), Ended { epoch: self.epoch, reason, at: Instant::now() });
        }
        drop(state);
        self.ended.send_replace(true);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if !*self.ended.borrow() {
            // The driver panicked.
            self.end(EndReason::InternalError);
        }
        let mut state = self.directory.state();
        if state.live.get(&self.call).is_some_and(|it| it.epoch == self.epoch) {
            state.live.remove(&self.call);
        }
    }
}
