//! Twilio's REST API, as far as calls are made by it: strict about who asks and what for, and hostile where it is told to be.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

use crate::net::Listener;
use crate::telephone::{CallOutcome, Callee, Ordered, TelephoneNetwork, Update};

/// Parameters of a new call that are understood; others are refused as Twilio refuses nonsense.
const KNOWN: [&str; 13] = [
    "To",
    "From",
    "Url",
    "Method",
    "FallbackUrl",
    "StatusCallback",
    "StatusCallbackMethod",
    "StatusCallbackEvent",
    "Timeout",
    "TimeLimit",
    "MachineDetection",
    "MachineDetectionTimeout",
    "AsyncAmd",
];

/// An account that can make calls.
pub struct RestApi {
    /// Who rings whom, with what key.
    pub telephone: TelephoneNetwork,
    /// What becomes of calls, by called number; others do not exist.
    pub callees: BTreeMap<String, Callee>,
    calls: Mutex<BTreeMap<String, Known>>,
    outcomes: Mutex<Vec<CallOutcome>>,
    /// So many orders are carried out and not answered.
    unanswered: AtomicUsize,
    /// So many orders are refused because there are too many.
    busy: AtomicUsize,
}

struct Known {
    to: String,
    from: String,
    status: &'static str,
    updates: mpsc::Sender<Update>,
}

impl RestApi {
    pub fn new(telephone: TelephoneNetwork, callees: BTreeMap<String, Callee>) -> Arc<Self> {
        Arc::new(Self {
            telephone,
            callees,
            calls: Mutex::default(),
            outcomes: Mutex::default(),
            unanswered: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
        })
    }

    /// The next so many orders are carried out, and the connection breaks before the answer.
    pub fn lose_answers(&self, orders: usize) {
        self.unanswered.store(orders, Ordering::Relaxed);
    }

    /// The next so many orders come too fast.
    pub fn be_busy(&self, orders: usize) {
        self.busy.store(orders, Ordering::Relaxed);
    }

    /// How calls went that are over.
    pub fn outcomes(&self) -> Vec<CallOutcome> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Calls that were made, over or not.
    pub fn made(&self) -> usize {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Serves until `stop`.
    pub async fn serve(self: Arc<Self>, listener: Listener, stop: CancellationToken) {
        let router = Router::new()
            .route("/2010-04-01/Accounts/{account}/Calls.json", post(create).get(list))
            .route("/2010-04-01/Accounts/{account}/Calls/{call}", get(show).post(update))
            .route("/v1/AuthTokens/Promote", post(promote))
            .with_state(self);
        let _ = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
    }

    fn refuses(&self, account: &str, headers: &HeaderMap) -> Option<Response> {
        let expected = STANDARD.encode(format!("{}:{}", self.telephone.account_sid, self.telephone.auth_token));
        let given = headers.get(header::AUTHORIZATION).and_then(|it| it.to_str().ok()).unwrap_or_default();
        let right = given.strip_prefix("Basic ") == Some(&expected) && account == self.telephone.account_sid;
        (!right).then(|| problem(StatusCode::UNAUTHORIZED, 20_003, "Authenticate"))
    }

    fn tell(&self, call_sid: &str, status: &'static str) {
        if let Some(it) = self.calls.lock().unwrap_or_else(PoisonError::into_inner).get_mut(call_sid) {
            it.status = status;
        }
    }
}

fn problem(status: StatusCode, code: u32, message: &str) -> Response {
    (status, axum::Json(json!({"code": code, "message": message, "status": status.as_u16()}))).into_response()
}

fn described(sid: &str, it: &Known) -> Value {
    json!({"sid": sid, "to": it.to, "from": it.from, "status": it.status, "direction": "outbound-api", "start_time": null})
}

/// The secondary auth token takes the place of the primary one.
async fn promote(State(api): State<Arc<RestApi>>, headers: HeaderMap) -> Response {
    let account = api.telephone.account_sid.clone();
    api.refuses(&account, &headers).unwrap_or_else(|| axum::Json(json!({"account_sid": account})).into_response())
}

async fn create(State(api): State<Arc<RestApi>>, Path(account): Path<String>, headers: HeaderMap, body: Bytes) -> Response {
    if let Some(refused) = api.refuses(&account, &headers) {
        return refused;
    }
    let count_down = |it: &AtomicUsize| it.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |it| it.checked_sub(1)).is_ok();
    if count_down(&api.busy) {
        return problem(StatusCode::TOO_MANY_REQUESTS, 20_429, "Too Many Requests");
    }
    let form: Vec<(String, String)> = form_urlencoded::parse(&body).into_owned().collect();
    let known = |it: &str| KNOWN.contains(&it) || it == "AsyncAmdStatusCallback";
    if let Some((name, _)) = form.iter().find(|it| !known(&it.0)) {
        return problem(StatusCode::BAD_REQUEST, 20_001, &format!("unknown parameter {name}"));
    }
    let value = |name: &str| form.iter().find(|it| it.0 == name).map(|it| it.1.clone());
    let (Some(to), Some(from)) = (value("To"), value("From")) else {
        return problem(StatusCode::BAD_REQUEST, 21_201, "No 'To' number specified");
    };
    if !twilio::is_e164(&to) {
        return problem(StatusCode::BAD_REQUEST, 21_211, "Invalid 'To' Phone Number");
    }
    let Some(callee) = api.callees.get(&to).cloned() else {
        return problem(StatusCode::BAD_REQUEST, 21_215, "Geo permissions: not enabled for this number");
    };
    let url = match value("Url") {
        Some(url) if Url::parse(&url).is_ok() => url,
        _ => return problem(StatusCode::BAD_REQUEST, 21_205, "Url is not a valid URL"),
    };
    let call_sid = format!("CA{}", Uuid::new_v4().simple());
    let ordered = Ordered {
        call_sid: call_sid.clone(),
        from: from.clone(),
        to: to.clone(),
        url,
        status_callback: value("StatusCallback"),
        amd_callback: value("AsyncAmdStatusCallback").filter(|_| value("AsyncAmd").as_deref() == Some("true")),
    };
    let (updates, received) = mpsc::channel(4);
    let known = Known { to, from, status: "queued", updates };
    let answer = described(&call_sid, &known);
    api.calls.lock().unwrap_or_else(PoisonError::into_inner).insert(call_sid.clone(), known);
    let placing = api.clone();
    tokio::spawn(async move {
        let telephone = placing.telephone.clone();
        let outcome = telephone.place(ordered, callee, received, |status| placing.tell(&call_sid, status)).await;
        placing.outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
    });
    if count_down(&api.unanswered) {
        let broken = futures::stream::once(async { Err::<Bytes, _>(std::io::Error::other("the line broke")) });
        return (StatusCode::CREATED, axum::body::Body::from_stream(broken)).into_response();
    }
    (StatusCode::CREATED, axum::Json(answer)).into_response()
}

async fn list(
    State(api): State<Arc<RestApi>>,
    Path(account): Path<String>,
    headers: HeaderMap,
    Query(filter): Query<BTreeMap<String, String>>,
) -> Response {
    if let Some(refused) = api.refuses(&account, &headers) {
        return refused;
    }
    let calls = api.calls.lock().unwrap_or_else(PoisonError::into_inner);
    let wanted = |name: &str, is: &str| filter.get(name).is_none_or(|it| it == is);
    let found: Vec<Value> = calls
        .iter()
        .filter(|it| wanted("To", &it.1.to) && wanted("From", &it.1.from))
        .map(|(sid, it)| described(sid, it))
        .collect();
    axum::Json(json!({"calls": found, "next_page_uri": null})).into_response()
}

async fn show(State(api): State<Arc<RestApi>>, Path((account, call)): Path<(String, String)>, headers: HeaderMap) -> Response {
    if let Some(refused) = api.refuses(&account, &headers) {
        return refused;
    }
    let sid = call.trim_end_matches(".json");
    match api.calls.lock().unwrap_or_else(PoisonError::into_inner).get(sid) {
        Some(it) => axum::Json(described(sid, it)).into_response(),
        None => problem(StatusCode::NOT_FOUND, 20_404, "The requested resource was not found"),
    }
}

async fn update(
    State(api): State<Arc<RestApi>>,
    Path((account, call)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Some(refused) = api.refuses(&account, &headers) {
        return refused;
    }
    let sid = call.trim_end_matches(".json").to_owned();
    let form: BTreeMap<String, String> = form_urlencoded::parse(&body).into_owned().collect();
    let update = match (form.get("Status").map(String::as_str), form.get("Url"), form.get("Twiml")) {
        (Some("completed" | "canceled"), ..) => Update::HangUp,
        (None, Some(url), None) => Update::Url(url.clone()),
        (None, None, Some(document)) => Update::Document(document.clone()),
        _ => return problem(StatusCode::BAD_REQUEST, 20_001, "expected Status, Url or Twiml"),
    };
    let (answer, updates) = match api.calls.lock().unwrap_or_else(PoisonError::into_inner).get(&sid) {
        Some(it) => (described(&sid, it), it.updates.clone()),
        None => return problem(StatusCode::NOT_FOUND, 20_404, "The requested resource was not found"),
    };
    if updates.send(update).await.is_err() {
        return problem(StatusCode::BAD_REQUEST, 21_220, "Call is not in-progress. Cannot redirect.");
    }
    axum::Json(answer).into_response()
}
