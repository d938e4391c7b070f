//! The two decisions about a call: how to answer it, and what comes after a stream.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bridge::{Bridge, CallId, CallPlan, HistoryItem, Refusal};
use call::{CallConfig, Confirm, EndReason, Interruption, Next, Prompt};
use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use store::{CallRow, Fact, Speaker, Store};
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout};
use twilio::twiml::{Connect, Dial, Number, Parameter, Redirect, Reject, Response, Stream};
use twilio::{CallStatus, StreamStatus, VoiceRequest};
use uuid::Uuid;

use crate::background::DEAD_AFTER;
use crate::configuration::{Configuration, Document};
use crate::disk::Disk;
use crate::ladder::{Ladder, Step, Who};
use crate::ledger::Ledger;
use crate::phrases::Language;
use crate::routes::{Route, Settings};

/// Longest wait for the end of a stream that another process had, and the pause between two looks.
const END_WAIT: Duration = Duration::from_millis(400);
const END_LOOK: Duration = Duration::from_millis(25);
/// A webhook waits at most this long for disk or database, then answers without.
const STORE_WAIT: Duration = Duration::from_millis(800);
/// A voice webhook waits at most this long to learn how many calls its tenant has.
const ADMISSION_WAIT: Duration = Duration::from_millis(300);
/// The cap on a tenant's calls, by its name in the store.
const CALLS_CAP: &str = "calls";
/// More resumptions in [`RESUME_WINDOW`] than this, and something is wrong that resuming does not heal.
const RESUMES_MAX: usize = 3;
const RESUME_WINDOW: Duration = Duration::from_secs(60);
/// On calls that we make: whoever answers says who they are; after so much silence the assistant opens.
const CALLEE_FIRST: Duration = Duration::from_millis(1500);
/// How long somebody rings whom a caller is transferred to.
const RING_SECONDS: u32 = 25;
/// Answers are remembered for repeated webhooks.
const ANSWER_LIFE: Duration = Duration::from_secs(600);

/// What Prometheus sees of the desk.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    answers: Family<AnswerLabels, Counter>,
    unknown_numbers: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabels {
    webhook: &'static str,
    answer: &'static str,
}

impl Metrics {
    /// Makes the metrics and registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("offhook");
        registry.register("webhook_answers", "Voice webhooks, by what they were answered", metrics.answers.clone());
        registry.register("unknown_numbers", "Calls to numbers that no route knows", metrics.unknown_numbers.clone());
        metrics
    }
}

/// This process must not begin a stream any more; another one will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TryElsewhere;

/// What a provider says of a conversation that is over.
#[derive(Clone, PartialEq, Eq)]
pub struct Review {
    /// Its id there.
    pub conversation: String,
    /// `success`, `failure`, `unknown`.
    pub successful: Option<String>,
    pub summary: Option<String>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reviewed {
    Noted,
    /// It was told before.
    Before,
    /// It is about no call of ours.
    Unknown,
    /// The database or the disk does not take it now.
    Later,
}

/// Decides about calls.
pub struct Desk {
    settings: Settings,
    configuration: Arc<Configuration>,
    bridge: Arc<Bridge>,
    ledger: Arc<Ledger>,
    store: Store,
    metrics: Metrics,
    disk: Arc<Disk>,
    answers: Mutex<Answers>,
}

/// Made by the first request that needs it; others wait for it.
type Answer = Arc<OnceCell<Response>>;

#[derive(Default)]
struct Answers {
    /// By (account SID, call SID): one call of ours per call of Twilio's.
    calls: HashMap<(String, String), Answered>,
    /// What a webhook was answered for an epoch: a repeated request waits for it and gets the same.
    next: HashMap<(CallId, u32, &'static str), (Answer, Instant)>,
    resumes: HashMap<CallId, Vec<Instant>>,
}

struct Answered {
    call: CallId,
    tenant: Arc<str>,
    /// An earlier process answered it.
    known_before: bool,
    /// What the voice webhook was answered: a repeated one waits for it and gets the same, single-use token included.
    response: Answer,
    /// Who speaks, where it is not the called number that says so: on calls that we make.
    route: Option<Route>,
    at: Instant,
}

/// A call as `next` needs it, from memory or from the store.
struct Known {
    tenant: Arc<str>,
    call_sid: String,
    account_sid: String,
    route: Route,
    /// The newest epoch begun.
    epoch: u32,
    history: Vec<HistoryItem>,
}

impl Desk {
    pub fn new(
        settings: Settings,
        configuration: Arc<Configuration>,
        bridge: Arc<Bridge>,
        ledger: Arc<Ledger>,
        store: Store,
        metrics: Metrics,
        disk: Arc<Disk>,
    ) -> Self {
        Self { settings, configuration, bridge, ledger, store, metrics, disk, answers: Mutex::default() }
    }

    /// The room that is left for what calls leave behind.
    pub fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// The address under which we are known.
    pub fn public_url(&self) -> &crate::PublicUrl {
        &self.settings.public_url
    }

    /// The address of this very process, for its media sockets.
    pub fn node_url(&self) -> &crate::PublicUrl {
        &self.settings.node_url
    }

    /// Where streams go.
    pub fn bridge(&self) -> &Arc<Bridge> {
        &self.bridge
    }

    /// Everything that is wrong with a tenant's document, as this server is set up.
    ///
    /// # Errors
    /// Problems with their places.
    pub fn check(&self, tenant: &str, document: &Document) -> Result<(), Vec<String>> {
        self.configuration.check(tenant, document)
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn configuration(&self) -> &Arc<Configuration> {
        &self.configuration
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Where facts go.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// It rings: what the called number's ladder begins with, or a sentence that says why not.
    pub async fn answer(&self, request: &VoiceRequest) -> Response {
        let numbers = self.configuration.numbers();
        let to = request.to.as_deref();
        let from = request.from.as_deref();
        let Some(ladder) = numbers.ladder(to, from) else {
            if numbers.is_off(to) {
                tracing::warn!(call_sid = request.call_sid, "a call to a number that its tenant has switched off");
                return self.count("voice", "inactive_number", sentence(Language::default(), Language::not_in_service));
            }
            tracing::error!(call_sid = request.call_sid, "a call to a number that no route knows: add it under [numbers]");
            self.metrics.unknown_numbers.inc();
            return self.count("voice", "unknown_number", sentence(Language::default(), Language::not_in_service));
        };
        if numbers.turns_away(&ladder.tenant, from) {
            tracing::info!(call_sid = request.call_sid, tenant = &*ladder.tenant, "a caller whom the tenant does not want");
            return self.count("voice", "turned_away", Response::new().with(Reject::default()).expect("it is the first verb"));
        }
        let now = Timestamp::now();
        // A call that an earlier process answered: Twilio asks again because the answer got lost, or it is a replay.
        self.find(&request.account_sid, &request.call_sid).await;
        let (call, known_before, response) = self.call_of(request, &ladder.tenant);
        let repeated = response.initialized();
        let answer = response.get_or_try_init(|| async {
            if known_before {
                Ok(self.answer_again(&call, ladder, now, request).await)
            } else {
                self.answer_first(&call, ladder, now, request).await
            }
        });
        match answer.await {
            Ok(response) => self.count("voice", if repeated { "repeated" } else { "answered" }, response.clone()),
            Err(refusal) => {
                self.forget(request);
                self.refuse("voice", ladder.language(now), refusal)
            }
        }
    }

    /// The voice webhook of a call failed: whoever is rung when nobody can answer, or an apology. From memory alone.
    pub fn fallback(&self, to: Option<&str>) -> Response {
        let numbers = self.configuration.numbers();
        let language = numbers.ladder(to, None).map_or(Language::default(), |it| it.language(Timestamp::now()));
        let last_resort = self.settings.last_resort.as_ref().and_then(|it| self.settings.destinations.get(it));
        let Some(number) = last_resort else {
            return self.count("fallback", "apology", sentence(language, Language::apology));
        };
        let dial = Dial { timeout: Some(RING_SECONDS), answer_on_bridge: Some(true), ..Dial::to(Number::new(number)) };
        let document = Response::new().with(dial).expect("destinations were checked at start");
        self.count("fallback", "last_resort", document.hangup())
    }

    async fn answer_first(
        &self,
        call: &CallId,
        ladder: &Ladder,
        now: Timestamp,
        request: &VoiceRequest,
    ) -> Result<Response, Option<Refusal>> {
        if !self.disk.has_room_for_calls() {
            return Err(Some(Refusal::DiskFull));
        }
        if let Some(most) = self.configuration.numbers().calls_max(&ladder.tenant)
            && !self.admit(call, &ladder.tenant).await
        {
            return Err(Some(Refusal::Full { calls_max: most as usize }));
        }
        self.ledger.begin(call, 0, Vec::new());
        let (name, language, response) = match self.climb(call, ladder, 0, Who::Everybody, now, request) {
            Ok(found) => found,
            Err(refusal) => {
                self.leave(call, &ladder.tenant).await;
                return Err(refusal);
            }
        };
        self.note_answered(call, &ladder.tenant, &name, language, request).await;
        Ok(response)
    }

    async fn note_answered(&self, call: &CallId, tenant: &str, name: &str, language: Language, request: &VoiceRequest) {
        let fact = Fact::Ringing {
            call_sid: request.call_sid.clone(),
            account_sid: request.account_sid.clone(),
            from: request.from.clone(),
            to: request.to.clone(),
            direction: request.direction.clone().unwrap_or_else(|| "inbound".into()),
            api_version: request.api_version.clone(),
            forwarded_from: request.forwarded_from.clone(),
            caller_name: request.caller_name.clone(),
            assistant: name.into(),
            language: language.code().into(),
            node: self.settings.node.clone(),
        };
        if !self.ledger.commit(call, tenant, fact, STORE_WAIT).await {
            tracing::error!(%call, "the call is answered although the journal has not confirmed it");
        }
        tracing::info!(%call, call_sid = request.call_sid, route = name, "answered");
    }

    /// Somebody whom we have called has answered: an assistant speaks with them, once they have said who they are.
    pub(crate) async fn greet(&self, route: &Route, request: &VoiceRequest) -> (CallId, Response) {
        self.find(&request.account_sid, &request.call_sid).await;
        let (call, known_before, answer) = self.call_of(request, &route.tenant);
        if let Some(it) = self.answers().calls.get_mut(&key(request)) {
            it.route = Some(route.clone());
        }
        let answered = answer.get_or_try_init(|| async {
            if known_before {
                return Ok(self.greet_again(&call, request).await);
            }
            if !self.disk.has_room_for_calls() {
                return Err(Refusal::DiskFull);
            }
            self.ledger.begin(&call, 0, Vec::new());
            let mut plan = self.plan(&call, route, &request.call_sid, &request.account_sid, 0, None);
            Arc::make_mut(&mut plan.config).callee_first = Some(CALLEE_FIRST);
            let response = self.connect(plan)?;
            self.note_answered(&call, &route.tenant, &route.name, route.language, request).await;
            Ok(response)
        });
        match answered.await.cloned() {
            Ok(response) => (call, self.count("connect", "answered", response)),
            Err(refusal) => {
                self.forget(request);
                (call, self.refuse("connect", route.language, refusal))
            }
        }
    }

    async fn greet_again(&self, call: &CallId, request: &VoiceRequest) -> Response {
        if self.ledger.is_finished(call) || self.is_live(call).await {
            tracing::warn!(%call, call_sid = request.call_sid, "asked again about a call that was answered long ago");
            return Response::new().hangup();
        }
        match self.known(call, 0, request).await {
            Some(known) => self.resume(call, known, Language::cut_off).await,
            None => sentence(Language::default(), Language::apology),
        }
    }

    /// Tries what a ladder holds from a place on; returns the name and language of what answers, and the document.
    ///
    /// # Errors
    /// Why the last assistant could not answer; `None` where nothing was left to be tried.
    fn climb(
        &self,
        call: &CallId,
        ladder: &Ladder,
        from: usize,
        who: Who,
        now: Timestamp,
        request: &VoiceRequest,
    ) -> Result<(Arc<str>, Language, Response), Option<Refusal>> {
        let mut refused = None;
        for place in from.. {
            let Some(step) = ladder.step(place, now) else { break };
            let name = step.name().clone();
            match step {
                Step::Assistant(_) if who == Who::People => (),
                Step::Assistant(route) => {
                    match self.connect(self.plan(call, route, &request.call_sid, &request.account_sid, 0, None)) {
                        Ok(response) => return Ok((name, route.language, response)),
                        Err(refusal) => refused = Some(refusal),
                    }
                }
                Step::Dial(person) => {
                    let dial = Dial {
                        action: Some(self.settings.public_url.rung(call, place, who)),
                        timeout: Some(person.seconds),
                        answer_on_bridge: Some(true),
                        ..Dial::to(Number::new(&person.number))
                    };
                    let document = Response::new().with(dial).expect("routes and PUBLIC_URL were checked");
                    return Ok((name, ladder.language(now), document));
                }
                Step::Message(it) => {
                    return Ok((name, it.language, Response::new().say(&it.text, it.language.say()).hangup()));
                }
            }
        }
        Err(refused)
    }

    /// Somebody of the number's ladder was rung: if nobody answered there, what is behind is tried.
    pub async fn rung(
        &self,
        call: &CallId,
        place: u32,
        next: Who,
        outcome: Option<&CallStatus>,
        request: &VoiceRequest,
    ) -> Response {
        let answer = self.answer_of(call, place, if next == Who::Everybody { "rung" } else { "people" });
        let decided = answer.get_or_init(|| self.decide_after_ringing(call, place as usize, next, outcome, request));
        decided.await.clone()
    }

    async fn decide_after_ringing(
        &self,
        call: &CallId,
        place: usize,
        next: Who,
        outcome: Option<&CallStatus>,
        request: &VoiceRequest,
    ) -> Response {
        let (numbers, now) = (self.configuration.numbers(), Timestamp::now());
        let ladder = numbers.ladder(request.to.as_deref(), request.from.as_deref());
        let tenant = match self.find(&request.account_sid, &request.call_sid).await {
            Some((found, tenant)) if found == *call => Some(tenant),
            Some(_) => {
                tracing::error!(%call, call_sid = request.call_sid, "asked about a call that belongs to another call SID");
                return self.count("rung", "foreign_call", Response::new().hangup());
            }
            // Another server's, while the database is away: the number still says who is next.
            None => ladder.map(|it| it.tenant.clone()),
        };
        let Some(tenant) = tenant else {
            tracing::error!(%call, "asked about somebody who was rung for a call that nobody knows");
            return self.count("rung", "unknown_call", sentence(Language::default(), Language::apology));
        };
        let ladder = ladder.filter(|it| it.tenant == tenant);
        let name = ladder.and_then(|it| it.step(place, now)).map_or_else(String::new, |it| it.name().to_string());
        let status = outcome.map_or("unknown", CallStatus::name).to_owned();
        tracing::info!(%call, place, to = name, status, "somebody was rung");
        self.ledger.append(call, &tenant, Fact::Transferred { to: name, status });
        let over = request.call_status.is_terminal() || self.ledger.is_finished(call);
        if over || outcome.is_some_and(|it| matches!(it, CallStatus::Completed | CallStatus::InProgress)) {
            return self.count("rung", "hangup", Response::new().hangup());
        }
        let Some(ladder) = ladder else {
            return self.count("rung", "apology", sentence(Language::default(), Language::apology));
        };
        match self.climb(call, ladder, place + 1, next, now, request) {
            Ok((_, _, document)) => self.count("rung", "next", document),
            Err(refusal) => self.refuse("rung", ladder.language(now), refusal),
        }
    }

    /// Takes one of the places that a tenant has. A database that is away or slow refuses nobody: what this server takes is
    /// bounded anyway.
    async fn admit(&self, call: &CallId, tenant: &str) -> bool {
        let scope = self.store.tenant(tenant);
        let taking = timeout(ADMISSION_WAIT, scope.take(CALLS_CAP, &call.0, &self.settings.node, 1));
        match taking.await {
            Ok(Ok(taken)) => taken,
            Ok(Err(error)) => {
                tracing::warn!(%call, %error, "a call is admitted without asking how many its tenant has");
                true
            }
            Err(_) => {
                tracing::warn!(%call, "a call is admitted without asking how many its tenant has: the database is slow");
                true
            }
        }
    }

    /// Gives its place back.
    async fn leave(&self, call: &CallId, tenant: &str) {
        if self.configuration.numbers().calls_max(tenant).is_some() {
            // Where this fails it is given back when the end of the call is on record.
            let _ = timeout(ADMISSION_WAIT, self.store.tenant(tenant).release(CALLS_CAP, &call.0)).await;
        }
    }

    async fn answer_again(&self, call: &CallId, ladder: &Ladder, now: Timestamp, request: &VoiceRequest) -> Response {
        if self.ledger.is_finished(call) || self.is_live(call).await {
            tracing::warn!(%call, call_sid = request.call_sid, "a voice webhook of a call that was answered long ago");
            return Response::new().hangup();
        }
        if !matches!(ladder.step(0, now), Some(Step::Assistant(_))) {
            // There was no stream that could be resumed.
            let climbed = self.climb(call, ladder, 0, Who::Everybody, now, request);
            return climbed.map_or_else(|refusal| self.refuse("voice", ladder.language(now), refusal), |it| it.2);
        }
        let Some(known) = self.known(call, 0, request).await else {
            return sentence(Language::default(), Language::apology);
        };
        self.resume(call, known, Language::cut_off).await
    }

    /// A stream is over, or could not be opened: the only way on.
    ///
    /// # Errors
    /// [`TryElsewhere`] when the call should go on and this process is shutting down.
    pub async fn next(&self, call: &CallId, epoch: u32, request: &VoiceRequest) -> Result<Response, TryElsewhere> {
        let answer = self.answer_of(call, epoch, "next");
        if let Some(answer) = answer.get() {
            return Ok(self.count("next", "repeated", answer.clone()));
        }
        // Two requests at a time: one decides, the other one waits for it.
        answer.get_or_try_init(|| self.decide(call, epoch, request)).await.cloned()
    }

    async fn decide(&self, call: &CallId, epoch: u32, request: &VoiceRequest) -> Result<Response, TryElsewhere> {
        let language = |known: Option<&Known>| known.map_or(Language::default(), |it| it.route.language);
        let reason = self.bridge.directory().end_of(call, epoch).await;
        let known = self.known(call, epoch, request).await;
        let Some(mut known) = known else {
            tracing::error!(%call, call_sid = request.call_sid, "asked about a call that nobody knows");
            return Ok(self.count("next", "unknown_call", sentence(language(None), Language::apology)));
        };
        if known.call_sid != request.call_sid || known.account_sid != request.account_sid {
            tracing::error!(%call, call_sid = request.call_sid, "asked about a call that belongs to another call SID");
            return Ok(self.count("next", "foreign_call", Response::new().hangup()));
        }
        if request.call_status.is_terminal() || self.ledger.is_finished(call) {
            // The caller is gone; nobody hears the answer.
            return Ok(self.decided(call, &known, "gone", Response::new()));
        }
        if known.epoch > epoch && self.is_live(call).await {
            // Twilio asks about the stream it has just ended. This one was answered for long ago: a replay, which must not
            // disturb the stream that followed.
            tracing::warn!(%call, epoch, newest = known.epoch, "asked about a stream that another one followed");
            return Ok(self.count("next", "stale", Response::new().hangup()));
        }
        let reason = match reason {
            Some(reason) => reason,
            // It ended in another process, or that process died in the middle.
            None => {
                let recorded = self.recorded_end(call, epoch, &known).await;
                // What was said there up to the end may have been recorded meanwhile.
                known = self.known(call, epoch, request).await.unwrap_or(known);
                recorded.unwrap_or(EndReason::CallerLost)
            }
        };
        tracing::info!(%call, epoch, %reason, "what comes next");
        Ok(match reason.next() {
            Next::HangUp => self.decided(call, &known, "hangup", Response::new().hangup()),
            Next::Transfer => self.hand_over(call, &known, epoch, "dial", self.ledger.transfer(call)),
            Next::GaveUp => match self.behind_the_assistant(call, &known, request) {
                Some(document) => self.decided(call, &known, "next_rung", document),
                None => {
                    // Whoever was called did not want to speak with anybody of ours.
                    let last_resort = self.settings.last_resort.clone().filter(|_| !request.is_outbound());
                    self.hand_over(call, &known, epoch, "last_resort", last_resort)
                }
            },
            // Twilio asks again (`rc=4`, `rp=all`), and then finds the next process.
            Next::Resume if self.bridge.directory().is_draining() => return Err(TryElsewhere),
            Next::Resume => self.resume(call, known, Language::cut_off).await,
        })
    }

    /// What the number's ladder holds behind the assistant that gave up: people and sentences.
    fn behind_the_assistant(&self, call: &CallId, known: &Known, request: &VoiceRequest) -> Option<Response> {
        if request.is_outbound() {
            return None;
        }
        let (numbers, now) = (self.configuration.numbers(), Timestamp::now());
        let ladder = numbers.ladder(request.to.as_deref(), request.from.as_deref()).filter(|it| it.tenant == known.tenant)?;
        let (assistant, _) = ladder.assistant(now)?;
        self.climb(call, ladder, assistant + 1, Who::People, now, request).ok().map(|it| it.2)
    }

    /// Connects the caller with a destination, or apologises where there is none.
    fn hand_over(&self, call: &CallId, known: &Known, epoch: u32, decision: &'static str, to: Option<String>) -> Response {
        let Some(number) = to.and_then(|it| self.settings.destinations.get(&it)) else {
            return self.decided(call, known, "apology", sentence(known.route.language, Language::apology));
        };
        let action = self.settings.public_url.dialled(call, epoch);
        let dial = Dial {
            action: Some(action),
            timeout: Some(RING_SECONDS),
            answer_on_bridge: Some(true),
            ..Dial::to(Number::new(number))
        };
        let document = Response::new().with(dial);
        self.decided(call, known, decision, document.expect("destinations and PUBLIC_URL were checked at start"))
    }

    /// The other leg of a transfer is over: when the caller has talked to somebody, so is the call; otherwise the assistant
    /// goes on and knows why.
    ///
    /// # Errors
    /// [`TryElsewhere`] when the call should go on and this process is shutting down.
    pub async fn dialled(
        &self,
        call: &CallId,
        epoch: u32,
        outcome: Option<&CallStatus>,
        request: &VoiceRequest,
    ) -> Result<Response, TryElsewhere> {
        let answer = self.answer_of(call, epoch, "dialled");
        if let Some(answer) = answer.get() {
            return Ok(self.count("dialled", "repeated", answer.clone()));
        }
        answer.get_or_try_init(|| self.decide_after_dialling(call, epoch, outcome, request)).await.cloned()
    }

    async fn decide_after_dialling(
        &self,
        call: &CallId,
        epoch: u32,
        outcome: Option<&CallStatus>,
        request: &VoiceRequest,
    ) -> Result<Response, TryElsewhere> {
        let Some(known) = self.known(call, epoch, request).await.filter(|it| it.call_sid == request.call_sid) else {
            tracing::error!(%call, "asked about a transfer of a call that nobody knows");
            return Ok(self.count("dialled", "unknown_call", Response::new().hangup()));
        };
        let over = request.call_status.is_terminal() || self.ledger.is_finished(call);
        let to = self.ledger.transfer(call).or_else(|| self.settings.last_resort.clone()).unwrap_or_default();
        let status = outcome.map_or("unknown", CallStatus::name).to_owned();
        tracing::info!(%call, epoch, to, status, "a transfer is over");
        self.ledger.append(call, &known.tenant, Fact::Transferred { to, status });
        if over || outcome.is_some_and(|it| matches!(it, CallStatus::Completed | CallStatus::InProgress)) {
            return Ok(self.decided(call, &known, "hangup", Response::new().hangup()));
        }
        if self.ledger.transfer(call).is_none() {
            // Nobody could answer in the first place.
            return Ok(self.decided(call, &known, "apology", sentence(known.route.language, Language::apology)));
        }
        if self.bridge.directory().is_draining() {
            return Err(TryElsewhere);
        }
        let history = self.ledger.history(call).unwrap_or_default();
        Ok(self.resume(call, Known { history, ..known }, Language::nothing).await)
    }

    /// A status callback of the number or the call: in any order, any number of times.
    pub async fn status(&self, request: &VoiceRequest) {
        let Some((call, tenant)) = self.find(&request.account_sid, &request.call_sid).await else {
            tracing::info!(call_sid = request.call_sid, "a status of a call that we did not answer");
            return;
        };
        let status = &request.call_status;
        let fact = Fact::Status {
            status: status.name().into(),
            rank: status.rank(),
            terminal: status.is_terminal(),
            duration_s: request.call_duration,
        };
        self.ledger.commit(&call, &tenant, fact, STORE_WAIT).await;
        if status.is_terminal() {
            self.leave(&call, &tenant).await;
        }
    }

    /// What became of a stream, by Twilio's account.
    pub async fn stream_status(&self, call: &CallId, status: &StreamStatus) {
        if let Some(error) = &status.error {
            tracing::warn!(%call, error, "Twilio reports trouble with the stream");
        }
        let Some(tenant) = self.tenant_of(call).await else { return };
        if !self.ledger.knows(call) {
            self.adopt(call, &tenant).await;
        }
        self.ledger.append(call, &tenant, Fact::StreamStatus { event: status.event.clone(), error: status.error.clone() });
    }

    /// What the provider says of a conversation that is over: noted once.
    pub async fn reviewed(&self, call: &CallId, review: Review) -> Reviewed {
        let find = async {
            let Some(tenant) = self.store.owner_of(&call.0).await? else { return Ok(None) };
            let row = self.store.tenant(&tenant).call(&call.0).await?;
            Ok::<_, store::StoreError>(row.map(|it| (Arc::<str>::from(tenant), it)))
        };
        let (tenant, row) = match timeout(STORE_WAIT, find).await {
            Ok(Ok(Some(found))) => found,
            Ok(Ok(None)) => return Reviewed::Unknown,
            Ok(Err(error)) => {
                tracing::error!(%call, %error, "what a provider says of a call cannot be noted");
                return Reviewed::Later;
            }
            Err(_) => return Reviewed::Later,
        };
        if row.provider_conversation.as_deref() == Some(&review.conversation) {
            return Reviewed::Before;
        }
        if !self.ledger.knows(call) {
            self.adopt(call, &tenant).await;
        }
        let Review { conversation, successful, summary } = review;
        let fact = Fact::Reviewed { conversation, successful, summary };
        if self.ledger.commit(call, &tenant, fact, STORE_WAIT).await { Reviewed::Noted } else { Reviewed::Later }
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Our call for Twilio's, whether an earlier process answered it, and the place of its answer.
    fn call_of(&self, request: &VoiceRequest, tenant: &Arc<str>) -> (CallId, bool, Answer) {
        let now = Instant::now();
        let mut answers = self.answers();
        answers.calls.retain(|_, it| now.duration_since(it.at) < ANSWER_LIFE || self.ledger.knows(&it.call));
        let fresh = || Answered {
            call: CallId(Uuid::now_v7().to_string().into()),
            tenant: tenant.clone(),
            known_before: false,
            response: Arc::default(),
            route: None,
            at: now,
        };
        let answered = answers.calls.entry(key(request)).or_insert_with(fresh);
        (answered.call.clone(), answered.known_before, answered.response.clone())
    }

    fn forget(&self, request: &VoiceRequest) {
        self.answers().calls.remove(&key(request));
    }

    async fn find(&self, account_sid: &str, call_sid: &str) -> Option<(CallId, Arc<str>)> {
        let key = (account_sid.to_owned(), call_sid.to_owned());
        let remembered = self.answers().calls.get(&key).map(|it| (it.call.clone(), it.tenant.clone()));
        if remembered.is_some() {
            return remembered;
        }
        let (tenant, call) = timeout(STORE_WAIT, self.store.call_of_sid(account_sid, call_sid)).await.ok()?.ok()??;
        let (call, tenant): (CallId, Arc<str>) = (CallId(call.into()), tenant.into());
        self.adopt(&call, &tenant).await?;
        Some((call, tenant))
    }

    async fn tenant_of(&self, call: &CallId) -> Option<Arc<str>> {
        let remembered = self.answers().calls.values().find(|it| it.call == *call).map(|it| it.tenant.clone());
        if remembered.is_some() {
            return remembered;
        }
        let tenant: Arc<str> = timeout(STORE_WAIT, self.store.owner_of(&call.0)).await.ok()?.ok()??.into();
        self.adopt(call, &tenant).await?;
        Some(tenant)
    }

    /// Reads a call that an earlier process answered, so that its facts are numbered on.
    async fn adopt(&self, call: &CallId, tenant: &Arc<str>) -> Option<CallRow> {
        let scope = self.store.tenant(tenant);
        let row = timeout(STORE_WAIT, scope.call(&call.0)).await.ok()?.ok()??;
        let newer = self.ledger.epoch(call).is_none_or(|it| it < row.epoch);
        if newer || !self.ledger.owns(call) {
            let lines = timeout(STORE_WAIT, scope.transcript(&call.0)).await.ok()?.ok()?;
            let said = lines.into_iter().map(|it| match it.speaker {
                Speaker::Caller => HistoryItem::Caller(it.text),
                Speaker::Assistant => HistoryItem::Assistant(it.text),
            });
            let tools = timeout(STORE_WAIT, scope.tool_calls(&call.0)).await.ok()?.ok()?;
            let done = tools.into_iter().map(|it| HistoryItem::Tool {
                id: it.id,
                name: it.name,
                arguments: it.arguments,
                // Ambiguous: it may have happened. It is not run again; the assistant is told so.
                output: it
                    .output
                    .or_else(|| Some("unknown: the line dropped before the answer came; check before you promise".into())),
            });
            // What this process has noted meanwhile about another one's call goes on being numbered.
            let seq = row.last_seq.map_or(0, |it| it + 1).max(self.ledger.next_seq(call, row.epoch));
            self.ledger.learn(call, row.epoch, seq, said.chain(done).collect(), row.transfer_to.clone());
            if row.ended_at_ms.is_some() {
                self.ledger.finish(call);
            }
            let mut answers = self.answers();
            let key = (row.account_sid.clone(), row.call_sid.clone());
            answers.calls.insert(
                key,
                Answered {
                    call: call.clone(),
                    tenant: tenant.clone(),
                    known_before: true,
                    response: Arc::default(),
                    route: None,
                    at: Instant::now(),
                },
            );
        }
        Some(row)
    }

    /// Whether the call has a stream, or is about to have one here; elsewhere, as the servers last said.
    async fn is_live(&self, call: &CallId) -> bool {
        if self.bridge.directory().knows(call) {
            return true;
        }
        let nodes = timeout(STORE_WAIT, self.store.nodes()).await;
        let elsewhere = |it: &store::NodeRow| it.id != self.settings.node && it.has(&call.0, DEAD_AFTER);
        matches!(nodes, Ok(Ok(nodes)) if nodes.iter().any(elsewhere))
    }

    /// What is known of a call that is asked about with an epoch.
    async fn known(&self, call: &CallId, epoch: u32, request: &VoiceRequest) -> Option<Known> {
        // A call whose newest stream was ours needs no database.
        if self.ledger.owns(call)
            && self.ledger.epoch(call) >= Some(epoch)
            && let Some(tenant) = self.tenant_of(call).await
            && let Some((found, _)) = self.find(&request.account_sid, &request.call_sid).await
            && found == *call
            && let Some(route) = self.route_of(request).filter(|it| it.tenant == tenant)
        {
            return Some(Known {
                tenant,
                call_sid: request.call_sid.clone(),
                account_sid: request.account_sid.clone(),
                route,
                epoch: self.ledger.epoch(call)?,
                history: self.ledger.history(call)?,
            });
        }
        let tenant = self.tenant_of(call).await?;
        let row = self.adopt(call, &tenant).await?;
        let (numbers, now) = (self.configuration.numbers(), Timestamp::now());
        let route = numbers.route_of(&tenant, &row.assistant, row.to_number.as_deref(), now)?.clone();
        let history = self.ledger.history(call).unwrap_or_default();
        Some(Known { tenant, call_sid: row.call_sid, account_sid: row.account_sid, route, epoch: row.epoch, history })
    }

    /// Who speaks on a call, as far as memory and the called number tell.
    fn route_of(&self, request: &VoiceRequest) -> Option<Route> {
        if request.is_outbound() {
            return self.answers().calls.get(&key(request))?.route.clone();
        }
        self.configuration.numbers().route(request.to.as_deref(), request.from.as_deref(), Timestamp::now()).cloned()
    }

    /// Why a stream ended that was another process's. What that one has noted at the end is on its way to the database, if
    /// it lives; one that was killed has noted nothing.
    async fn recorded_end(&self, call: &CallId, epoch: u32, known: &Known) -> Option<EndReason> {
        let until = Instant::now() + END_WAIT;
        loop {
            let row = timeout(STORE_WAIT, self.store.tenant(&known.tenant).call(&call.0)).await.ok()?.ok()??;
            let reason = row.end_reason.filter(|_| row.epoch == epoch).as_deref().and_then(EndReason::from_name);
            if reason.is_some() || row.owner_node == self.settings.node || Instant::now() >= until {
                return reason;
            }
            tokio::time::sleep(END_LOOK).await;
        }
    }

    /// Another stream for the same call, in a new epoch, with everything said so far.
    /// The caller hears `phrase` first.
    async fn resume(&self, call: &CallId, known: Known, phrase: fn(Language) -> Option<Arc<[u8]>>) -> Response {
        let language = known.route.language;
        if !self.may_resume(call) {
            tracing::error!(%call, "resumed {RESUMES_MAX} times within {RESUME_WINDOW:?}: giving up");
            return self.decided(call, &known, "gave_up", sentence(language, Language::apology));
        }
        let claimed = known.epoch + 1;
        if self.configuration.numbers().calls_max(&known.tenant).is_some() {
            // Its place was another server's. A call that is under way is not refused.
            self.admit(call, &known.tenant).await;
        }
        // One owner per epoch. A database that is away does not keep a single node from going on.
        let claim = timeout(STORE_WAIT, self.store.tenant(&known.tenant).claim(&call.0, known.epoch, &self.settings.node)).await;
        if let Ok(Ok(false)) = claim {
            // The row may lag behind the journal of this very process; the stream being free was checked by `end_of`.
            tracing::warn!(%call, epoch = claimed, "the database knows another epoch of this call");
        }
        let history = known.history.clone();
        self.ledger.begin(call, claimed, history.clone());
        self.ledger.commit(call, &known.tenant, Fact::Claimed { node: self.settings.node.clone() }, STORE_WAIT).await;
        let mut plan = self.plan(call, &known.route, &known.call_sid, &known.account_sid, claimed, Some(history));
        Arc::make_mut(&mut plan.config).phrase = phrase(language);
        match self.connect(plan) {
            Ok(answer) => self.decided(call, &known, "resume", answer),
            Err(refusal) => self.refuse("next", language, refusal),
        }
    }

    fn may_resume(&self, call: &CallId) -> bool {
        let now = Instant::now();
        let mut answers = self.answers();
        answers.resumes.retain(|_, it| it.last().is_some_and(|at| now.duration_since(*at) < ANSWER_LIFE));
        let resumes = answers.resumes.entry(call.clone()).or_default();
        resumes.retain(|at| now.duration_since(*at) < RESUME_WINDOW);
        let may = resumes.len() < RESUMES_MAX;
        if may {
            resumes.push(now);
        }
        may
    }

    /// The place of the answer for an epoch.
    fn answer_of(&self, call: &CallId, epoch: u32, webhook: &'static str) -> Answer {
        let now = Instant::now();
        let mut answers = self.answers();
        answers.next.retain(|_, it| now.duration_since(it.1) < ANSWER_LIFE);
        answers.next.entry((call.clone(), epoch, webhook)).or_insert_with(|| (Arc::default(), now)).0.clone()
    }

    fn decided(&self, call: &CallId, known: &Known, answer: &'static str, response: Response) -> Response {
        self.ledger.append(call, &known.tenant, Fact::Next { answer: answer.into() });
        self.count("next", answer, response)
    }

    fn refuse(&self, webhook: &'static str, language: Language, refusal: impl Into<Option<Refusal>>) -> Response {
        let Some(refusal) = refusal.into() else {
            tracing::warn!("nobody is left to answer a call");
            return self.count(webhook, "nobody_left", sentence(language, Language::apology));
        };
        tracing::warn!(%refusal, "a call is turned away");
        let (answer, words): (_, fn(Language) -> &'static str) = match refusal {
            Refusal::Full { .. } => ("full", Language::busy),
            Refusal::Late => ("late", Language::busy),
            Refusal::Draining => ("draining", Language::apology),
            Refusal::DiskFull => ("disk_full", Language::busy),
        };
        self.count(webhook, answer, sentence(language, words))
    }

    fn count(&self, webhook: &'static str, answer: &'static str, response: Response) -> Response {
        self.metrics.answers.get_or_create(&AnswerLabels { webhook, answer }).inc();
        response
    }

    fn connect(&self, plan: CallPlan) -> Result<Response, Refusal> {
        let (call, epoch) = (plan.call.clone(), plan.epoch);
        let token = self.bridge.expect(plan)?;
        let url = &self.settings.public_url;
        let (action, redirect) = url.next(&call, epoch);
        let parameter = |name, value: &str| Parameter::new(name, value).expect("ids and tokens are short");
        let stream = Stream {
            url: self.settings.node_url.websocket("/twilio-stream"),
            status_callback: url.http(&format!("/twilio/stream-status/{call}")),
            parameters: vec![parameter(bridge::CALL_PARAMETER, &call.0), parameter(bridge::TOKEN_PARAMETER, token.expose())],
            ..Stream::default()
        };
        // The redirect is reached only if Twilio should ever ignore `action`.
        let document = Response::new().with(Connect { action, stream }).and_then(|it| it.with(Redirect::to(redirect)));
        Ok(document.expect("PUBLIC_URL was checked at start, and paths are ours"))
    }

    fn plan(
        &self,
        call: &CallId,
        route: &Route,
        call_sid: &str,
        account_sid: &str,
        epoch: u32,
        resumed: Option<Vec<HistoryItem>>,
    ) -> CallPlan {
        let common = &self.settings.conversation;
        let language = route.language;
        let confirm = common.interruption.confirm.clone();
        let config = CallConfig {
            assistants: route.assistants.iter().map(bridge::AssistantPlan::manner).collect(),
            interruption: Interruption {
                confirm: confirm.map(|it| Confirm { back_channel: language.back_channel(&self.settings.back_channel), ..it }),
                ..common.interruption.clone()
            },
            fill_silence: self.settings.sound.ambience.is_some(),
            filler: Some(language.one_moment()),
            tool_fillers: language.fillers(),
            // What must be heard once was heard in the first stream.
            notice: common.notice.clone().filter(|_| resumed.is_none()),
            callee_first: common.callee_first.filter(|_| resumed.is_none()),
            opening: if resumed.is_some() { Prompt::Continuation } else { Prompt::Greeting },
            ..common.clone()
        };
        CallPlan {
            call: call.clone(),
            tenant: route.tenant.clone(),
            call_sid: call_sid.to_owned(),
            account_sid: account_sid.to_owned(),
            epoch,
            assistants: route.assistants.clone(),
            config: config.into(),
            prepare: self.settings.prepare,
            history: resumed.unwrap_or_default(),
            sound: self.settings.sound.clone(),
            recording: self
                .settings
                .recordings
                .as_ref()
                .filter(|_| self.disk.has_room_for_recordings())
                .map(|it| it.join(&*route.tenant).join(format!("{call}-{epoch}.{}", self.settings.recording_format))),
        }
    }
}

fn key(request: &VoiceRequest) -> (String, String) {
    (request.account_sid.clone(), request.call_sid.clone())
}

fn sentence(language: Language, words: fn(Language) -> &'static str) -> Response {
    Response::new().say(words(language), language.say()).hangup()
}
