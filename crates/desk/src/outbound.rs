//! Calls that we make: ordered by people and programs, noted before they are dialled, dialled once, spoken on by an assistant.

mod dial;
mod policy;

use std::sync::Arc;
use std::time::Duration;

use bridge::CallId;
use jiff::Timestamp;
use store::{Admission, Begun, DialLimits, NewSession, PriceRow, Store, StoreError, Topic, VoiceSessionChange, VoiceSessionRow};
use tokio::time::{Instant, timeout};
use twilio::rest::{CallUpdate, Document, Rest, RestError};
use twilio::twiml::{Connect, Dial as DialVerb, Number, Parameter, Response, Say, Stream};
use twilio::{CallStatus, DialEnded, MachineDetected, VoiceRequest};

use crate::configuration::{Configuration, Numbers};
use crate::next::Desk;
use crate::phrases::Language;

pub(crate) use dial::Dial;
pub use policy::{Machines, NotCalled, Outbound, OutboundDefaults, Policy};

/// The price of a minute of a call that we make, by its name in the store.
pub const MINUTE_PRICE: &str = "twilio.outbound_minute";
/// Whoever orders a call waits so long for Twilio's answer; then the call is queued, and says later how it fares.
const DIAL_WAIT: Duration = Duration::from_secs(8);
const DIAL_LOOK: Duration = Duration::from_millis(50);
/// A webhook waits at most this long for the database.
const STORE_WAIT: Duration = Duration::from_secs(5);
/// A session whose end nobody told is asked about when it is so old.
const QUIET_MS: i64 = 300_000;
/// One that was never dialled is given up: its job has been, too.
const UNDIALLED_MS: i64 = 1_800_000;
/// Sessions asked about at a time.
const ASKED_MAX: u32 = 50;

/// An order.
#[derive(Clone, Debug)]
pub struct Order {
    /// As a person writes it; without it the customer's.
    pub phone: Option<String>,
    /// Id of a customer of the tenant's.
    pub customer: Option<String>,
    /// The name of an assistant.
    pub agent_type: String,
    /// Whoever is called has agreed to be.
    pub consent: bool,
    /// The same key again is the same order.
    pub key: Option<String>,
}

/// Why an order was not taken.
#[derive(Debug, thiserror::Error)]
pub enum OrderRefused {
    #[error(transparent)]
    NotCalled(#[from] NotCalled),
    #[error("there is no such customer")]
    UnknownCustomer,
    #[error("expected phone, or the customer_id of somebody whose number is known")]
    NoPhone,
    #[error("another call was ordered under this key: use a new one for a new call")]
    KeyTaken,
    #[error("this tenant has published nothing, and is not the operator's: publish a configuration with an assistant")]
    NothingConfigured,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes calls.
pub struct Caller {
    desk: Arc<Desk>,
    store: Store,
    configuration: Arc<Configuration>,
    /// Twilio's REST API; without it calls are simulated.
    rest: Option<Rest>,
    provider_number: bool,
    duration_max: Duration,
}

impl Caller {
    pub fn new(desk: Arc<Desk>, rest: Option<Rest>) -> Arc<Self> {
        let (store, configuration) = (desk.store().clone(), desk.configuration().clone());
        let provider_number = desk.settings().templates.outbound.provider_number.is_some();
        let duration_max = desk.settings().conversation.duration_max;
        Arc::new(Self { desk, store, configuration, rest, provider_number, duration_max })
    }

    /// Whether Twilio can be asked to call anybody.
    pub fn is_configured(&self) -> bool {
        self.rest.is_some()
    }

    /// Whether the operator has set a number of the provider's own.
    pub fn has_provider_number(&self) -> bool {
        self.provider_number
    }

    /// Takes an order: notes it, and has it dialled once. What comes back is the session as it is after Twilio's answer, or
    /// as it stands after a while.
    ///
    /// # Errors
    /// [`OrderRefused`]; nobody is called then.
    pub async fn order(&self, tenant: &str, order: &Order) -> Result<VoiceSessionRow, OrderRefused> {
        let numbers = self.configuration.numbers();
        let policy = numbers.outbound(tenant).ok_or(OrderRefused::NothingConfigured)?;
        let scope = self.store.tenant(tenant);
        policy.assistant(&order.agent_type)?;
        let customer = match &order.customer {
            Some(id) => Some(scope.customer_of_id(id).await?.ok_or(OrderRefused::UnknownCustomer)?),
            None => None,
        };
        let phone = order.phone.as_deref().or(customer.as_ref().map(|it| it.phone.as_str())).ok_or(OrderRefused::NoPhone)?;
        let phone = policy.check(phone, order.consent, Timestamp::now())?;
        if scope.is_not_to_be_called(&phone).await? {
            return Err(NotCalled::DoNotCall.into());
        }
        let limits = self.limits(policy).await?;
        let fingerprint = format!("{phone} {} {}", order.agent_type, order.consent);
        let new = NewSession {
            phone: &phone,
            customer: customer.as_ref().map(|it| it.id.as_str()),
            from_number: policy.from.as_deref(),
            agent_type: &order.agent_type,
            status: if self.rest.is_some() { "created" } else { "simulation" },
            consent: order.consent,
            key: order.key.as_deref().map(|it| (it, fingerprint.as_str())),
        };
        let session = match scope.begin_session(&new).await? {
            Begun::Fresh(session) => session,
            Begun::Before(session) if session.fingerprint.as_deref() != Some(&fingerprint) => return Err(OrderRefused::KeyTaken),
            Begun::Before(session) if session.status != "created" => return Ok(session),
            // Whoever took it died before it was queued: it is the same order, and the same job.
            Begun::Before(session) => session,
        };
        if self.rest.is_none() {
            return Ok(session);
        }
        let refused = match scope.admit_session(&session.id, &limits).await? {
            Admission::Admitted => None,
            Admission::Full => Some(NotCalled::Full),
            Admission::DayFull => Some(NotCalled::DayFull),
            Admission::Spent => Some(NotCalled::Spent),
        };
        if let Some(refused) = refused {
            let problem = refused.to_string();
            let change = VoiceSessionChange {
                status: Some(("failed", CallStatus::Failed.rank())),
                problem: Some(&problem),
                ended: true,
                ..Default::default()
            };
            scope.change_session(&session.id, &change).await?;
            return Err(refused.into());
        }
        dial::enqueue(&scope, &session.id).await?;
        let until = Instant::now() + DIAL_WAIT;
        let mut hints = self.store.hints(Topic::Jobs);
        loop {
            let row = scope.session(&session.id).await?.unwrap_or_else(|| session.clone());
            if row.call_sid.is_some() || row.ended_at_ms.is_some() || Instant::now() >= until {
                return Ok(row);
            }
            hints.wait(DIAL_LOOK).await;
        }
    }

    async fn limits(&self, policy: &Policy) -> Result<DialLimits, OrderRefused> {
        let longest = policy.ring + self.duration_max;
        let price = self.minute_price().await?;
        if policy.spend_a_day_max.is_some() && price.is_none() {
            return Err(NotCalled::NoPrice(MINUTE_PRICE).into());
        }
        Ok(DialLimits {
            live: policy.calls_max,
            in_a_day: policy.calls_a_day_max,
            micros_in_a_day: policy.spend_a_day_max.map(|it| i64::from(it) * 1_000_000),
            reserve_micros: price.map_or(0, |it| cost(&it, self.duration_max)),
            longest: longest + Duration::from_secs(600),
        })
    }

    async fn minute_price(&self) -> Result<Option<PriceRow>, StoreError> {
        self.store.price(MINUTE_PRICE, Timestamp::now().as_millisecond()).await
    }

    /// Gives an order up: it is not dialled any more, or the call ends. `None`: there is no such session.
    ///
    /// # Errors
    /// When the database or Twilio cannot be asked.
    pub async fn cancel(&self, tenant: &str, session: &str) -> Result<Option<VoiceSessionRow>, CancelError> {
        let scope = self.store.tenant(tenant);
        let Some(row) = scope.session(session).await? else { return Ok(None) };
        if row.ended_at_ms.is_none() {
            if let (Some(rest), Some(call_sid)) = (&self.rest, &row.call_sid) {
                rest.hang_up(call_sid).await?;
            }
            let status = ("canceled", CallStatus::Canceled.rank());
            // A call that was answered ends as it tells; one that was not is given up at once.
            let change = VoiceSessionChange { status: Some(status), ended: true, ..Default::default() };
            if row.answered_at_ms.is_none() {
                scope.change_session(session, &change).await?;
            }
        }
        Ok(scope.session(session).await?)
    }

    /// Whoever was called has answered: what happens now.
    pub async fn connect(&self, session: &str, request: &VoiceRequest) -> Response {
        let Some((tenant, row)) = self.find(session, &request.account_sid, &request.call_sid).await else {
            return apology(Language::default());
        };
        let numbers = self.configuration.numbers();
        let found = numbers.outbound(&tenant).and_then(|it| Some((it, it.assistant(&row.agent_type).ok()?)));
        let Some((policy, route)) = found else {
            tracing::error!(session, "the assistant of a call that we make is not there any more");
            return apology(language(&numbers, &tenant));
        };
        if row.ended_at_ms.is_some() && row.answered_at_ms.is_none() {
            // It was given up, and Twilio was faster.
            return Response::new().hangup();
        }
        let (call, document) = match &policy.dial {
            Some(number) => (None, dial_provider(&self.desk, number, session)),
            None => {
                let (call, document) = self.desk.greet(route, request).await;
                (Some(call), document)
            }
        };
        let change = VoiceSessionChange {
            call_sid: Some(&request.call_sid),
            call: call.as_ref().map(|it| &*it.0),
            status: Some((CallStatus::InProgress.name(), CallStatus::InProgress.rank())),
            answered: true,
            ..Default::default()
        };
        self.change(&tenant, session, &change).await;
        document
    }

    /// How a call that we make fares: in any order, any number of times.
    pub async fn status(&self, session: &str, request: &VoiceRequest) {
        let Some((tenant, row)) = self.find(session, &request.account_sid, &request.call_sid).await else { return };
        self.note(&tenant, &row, &request.call_status, request.call_duration, request.sip_response_code, &request.call_sid).await;
        self.desk.status(request).await;
    }

    async fn note(
        &self,
        tenant: &str,
        row: &VoiceSessionRow,
        status: &CallStatus,
        duration_s: Option<u64>,
        sip: Option<u16>,
        call_sid: &str,
    ) {
        let problem = match status {
            CallStatus::Busy => Some("the number is busy".to_owned()),
            CallStatus::NoAnswer => Some("nobody answered".to_owned()),
            CallStatus::Failed => Some(failure(sip)),
            _ => None,
        };
        let change = VoiceSessionChange {
            call_sid: Some(call_sid),
            status: Some((status.name(), status.rank())),
            problem: problem.as_deref(),
            duration_s: duration_s.filter(|_| status.is_terminal()),
            answered: *status == CallStatus::InProgress,
            ended: status.is_terminal(),
            ..Default::default()
        };
        self.change(tenant, &row.id, &change).await;
        if status.is_terminal() {
            let settle = async {
                if let Some(price) = self.minute_price().await? {
                    let lasted = Duration::from_secs(duration_s.unwrap_or(0));
                    self.store.tenant(tenant).settle_session(&row.id, cost(&price, lasted)).await?;
                }
                Ok::<_, StoreError>(())
            };
            if !matches!(timeout(STORE_WAIT, settle).await, Ok(Ok(()))) {
                tracing::warn!(session = row.id, "what a call has cost is not noted: what it might have cost counts");
            }
        }
    }

    /// The leg to the provider's number is over.
    pub async fn dial_ended(&self, session: &str, account_sid: &str, it: &DialEnded) -> Response {
        let Some((tenant, _)) = self.find(session, account_sid, &it.call_sid).await else {
            return Response::new().hangup();
        };
        let change = VoiceSessionChange {
            dial_status: it.status.as_ref().map(CallStatus::name),
            dial_duration_s: it.duration,
            recording_url: it.recording_url.as_deref(),
            ..Default::default()
        };
        self.change(&tenant, session, &change).await;
        match it.status {
            Some(CallStatus::Completed | CallStatus::InProgress) => Response::new().hangup(),
            _ => apology(language(&self.configuration.numbers(), &tenant)),
        }
    }

    /// A person or a machine has answered.
    pub async fn detected(&self, session: &str, account_sid: &str, it: &MachineDetected) {
        let Some((tenant, row)) = self.find(session, account_sid, &it.call_sid).await else { return };
        let before = row.answered_by.is_some();
        self.change(&tenant, session, &VoiceSessionChange { answered_by: Some(&it.answered_by), ..Default::default() }).await;
        let machine = it.answered_by.starts_with("machine") || it.answered_by == "fax";
        let (Some(rest), true, false) = (&self.rest, machine, before) else { return };
        let numbers = self.configuration.numbers();
        let Some(policy) = numbers.outbound(&tenant) else { return };
        let route = policy.assistant(&row.agent_type).ok();
        let language = route.map_or_else(Language::default, |it| it.language);
        let done = match &policy.machines {
            Machines::Ignore => return,
            Machines::Message(text) if it.answered_by.starts_with("machine_end") => {
                let say = Say { language: Some(language.say().into()), ..Say::new(text) };
                match Response::new().with(say) {
                    Ok(document) => {
                        let update = CallUpdate::Continue(Document::Twiml(document.hangup()));
                        rest.update_call(&it.call_sid, &update).await.map(drop)
                    }
                    Err(_) => rest.hang_up(&it.call_sid).await,
                }
            }
            Machines::Message(_) | Machines::HangUp => rest.hang_up(&it.call_sid).await,
        };
        match done {
            Ok(()) => tracing::info!(session, answered_by = it.answered_by, "a machine has answered"),
            Err(error) => tracing::warn!(session, %error, "a machine has answered, and the call goes on as it was"),
        }
    }

    /// Asks Twilio about sessions whose end nobody has told; returns how many are over.
    ///
    /// # Errors
    /// [`StoreError`]
    pub(crate) async fn reconcile(&self) -> Result<usize, StoreError> {
        let Some(rest) = &self.rest else { return Ok(0) };
        let now = Timestamp::now().as_millisecond();
        let mut over = 0;
        for (tenant, row) in self.store.open_sessions(now - QUIET_MS, ASKED_MAX).await? {
            let Some(call_sid) = &row.call_sid else {
                if row.dialled_at_ms.is_some_and(|it| it < now - UNDIALLED_MS) {
                    let problem = Some("it could not be dialled in time");
                    let status = Some((CallStatus::Failed.name(), CallStatus::Failed.rank()));
                    self.change(&tenant, &row.id, &VoiceSessionChange { status, problem, ended: true, ..Default::default() })
                        .await;
                }
                continue;
            };
            let (status, duration_s) = match rest.call(call_sid).await {
                Ok(found) => (CallStatus::parse(&found.status), found.duration),
                Err(error) if error.is_not_found() => (CallStatus::Completed, None),
                Err(error) => {
                    tracing::warn!(%error, "Twilio does not say what became of calls that we made");
                    break;
                }
            };
            if status.is_terminal() {
                self.note(&tenant, &row, &status, duration_s, None, call_sid).await;
                over += 1;
            }
        }
        Ok(over)
    }

    /// What Twilio is answered when somebody has picked up; nobody is called for it, and its token opens nothing.
    pub fn example(&self) -> Response {
        let parameter = |name, value| Parameter::new(name, value).expect("they are short");
        let stream = Stream {
            url: self.desk.node_url().websocket("/twilio-stream"),
            status_callback: self.desk.public_url().http("/twilio/stream-status/example"),
            parameters: vec![parameter(bridge::CALL_PARAMETER, "example"), parameter(bridge::TOKEN_PARAMETER, "example")],
            ..Stream::default()
        };
        let (action, _) = self.desk.public_url().next(&CallId("example".into()), 0);
        Response::new().with(Connect { action, stream }).expect("PUBLIC_URL was checked at start")
    }

    /// The tenant and the session that a webhook is about, if account and call are those of the session.
    async fn find(&self, session: &str, account_sid: &str, call_sid: &str) -> Option<(String, VoiceSessionRow)> {
        let find = async {
            let Some(tenant) = self.store.owner_of_session(session).await? else { return Ok(None) };
            let row = self.store.tenant(&tenant).session(session).await?;
            Ok::<_, StoreError>(row.map(|it| (tenant, it)))
        };
        let found = match timeout(STORE_WAIT, find).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::error!(session, %error, "a call that we made cannot be looked up");
                None
            }
            Err(_) => {
                tracing::error!(session, "a call that we made cannot be looked up: the database is slow");
                None
            }
        };
        let Some((tenant, row)) = found else {
            tracing::warn!(session, call_sid, "a webhook of a session that nobody knows");
            return None;
        };
        let ours = self.rest.as_ref().is_none_or(|it| it.account_sid() == account_sid);
        if !ours || row.call_sid.as_deref().is_some_and(|it| it != call_sid) {
            tracing::error!(session, call_sid, "a webhook of a session that belongs to another call");
            return None;
        }
        Some((tenant, row))
    }

    async fn change(&self, tenant: &str, session: &str, change: &VoiceSessionChange<'_>) {
        match timeout(STORE_WAIT, self.store.tenant(tenant).change_session(session, change)).await {
            Ok(Ok(_)) => (),
            Ok(Err(error)) => tracing::error!(session, %error, "what became of a call that we make is not noted"),
            Err(_) => tracing::error!(session, "what became of a call that we make is not noted: the database is slow"),
        }
    }
}

/// Why an order was not given up.
#[derive(Debug, thiserror::Error)]
pub enum CancelError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Twilio(#[from] RestError),
}

/// Begun minutes count whole.
fn cost(price: &PriceRow, lasted: Duration) -> i64 {
    let minutes = i64::try_from(lasted.as_secs().div_ceil(60)).unwrap_or(i64::MAX);
    price.micros.saturating_mul(minutes)
}

fn failure(sip: Option<u16>) -> String {
    match sip {
        Some(404 | 484 | 604) => "the number does not exist, or cannot be reached from here".into(),
        Some(403 | 603 | 607 | 608) => "the network of whoever was called refused the call".into(),
        Some(480 | 487) => "whoever was called cannot be reached now".into(),
        Some(code) => format!("the call could not be connected (SIP {code})"),
        None => "the call could not be connected".into(),
    }
}

fn language(numbers: &Numbers, tenant: &str) -> Language {
    let first = numbers.outbound(tenant).and_then(|it| it.assistants.values().next());
    first.map_or_else(Language::default, |it| it.language)
}

fn apology(language: Language) -> Response {
    Response::new().say(Language::apology(language), language.say()).hangup()
}

fn dial_provider(desk: &Desk, number: &str, session: &str) -> Response {
    let dial = DialVerb {
        action: Some(desk.public_url().http(&format!("/api/twilio/dial_status/{session}"))),
        answer_on_bridge: Some(true),
        ..DialVerb::to(Number::new(number))
    };
    Response::new().with(dial).expect("the number and PUBLIC_URL were checked at start")
}
