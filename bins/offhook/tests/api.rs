//! The API, and calls that are made by it, against a real process: who may what, what is told when they may not, and what becomes of
//! an order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dialer::Cluster;
use http_body_util::Full;
use hyper::Request;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use sim::{Callee, Moment, RestApi};
use store::Store;
use tokio::process::Child;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(60);
const SECRET: &str = "3f7c1d9a52be8460b7e1f2039ac5d846";
const OWN: &str = "+40312345678";
/// Who is called.
const PERSON: &str = "+40712345671";
const MACHINE: &str = "+40712345672";
const BUSY: &str = "+40712345673";
const NOBODY: &str = "+40712345674";
const NOT_PERMITTED: &str = "+40712345675";

/// A server with its own database, an account at the simulated Twilio, and tenants with a key for each role.
struct Scene {
    cluster: Cluster,
    server: Child,
    twilio: Arc<RestApi>,
    store: Store,
    /// By tenant and role.
    keys: BTreeMap<(&'static str, &'static str), String>,
}

const TENANTS: [&str; 3] = ["clinic", "rival", "stranger"];
const ROLES: [&str; 4] = ["viewer", "operator", "admin", "owner"];

impl Scene {
    async fn new() -> Self {
        Self::with(|_| ()).await
    }

    async fn with(change: impl FnOnce(&mut Cluster)) -> Self {
        let offhook = Path::new(env!("CARGO_BIN_EXE_offhook"));
        let mut cluster = Cluster::new(offhook, 1, None).await.unwrap();
        let talks = |script: &str, answered_by| Callee::Answers { script: script.parse().unwrap(), answered_by };
        let callees = [
            (PERSON, talks("hear greeting\nsay book\nhear booked\npress 9\nhear farewell", "human")),
            (MACHINE, talks("wait 60000ms", "machine_end_beep")),
            (BUSY, Callee::Does("busy")),
            (NOBODY, Callee::Does("no-answer")),
        ];
        let callees = callees.map(|(number, callee)| (number.to_owned(), callee)).into();
        let twilio = cluster.account(OWN, callees).await.unwrap();
        cluster.environment.push(("OFFHOOK_JWT_SECRET".into(), SECRET.into()));
        cluster.environment.push(("CORS_ORIGINS".into(), "https://panel.example.com".into()));
        change(&mut cluster);
        let server = cluster.start(0).await.unwrap();
        let mut keys = BTreeMap::new();
        for tenant in TENANTS {
            cluster.command(&["admin", "add-tenant", tenant]).await.unwrap();
            for role in ROLES {
                let key = cluster.command(&["admin", "add-key", role, "--tenant", tenant, "--role", role]).await.unwrap();
                keys.insert((tenant, role), key.trim().to_owned());
            }
        }
        let store = cluster.open().await.unwrap();
        Self { cluster, server, twilio, store, keys }
    }

    fn key(&self, role: &'static str) -> &str {
        &self.keys[&("clinic", role)]
    }

    async fn ask(&self, method: &str, path: &str, role: &'static str, body: Option<Value>) -> (u16, Value) {
        self.cluster.api(method, path, self.key(role), body.as_ref()).await.unwrap()
    }

    /// Publishes what the clinic has, calls at any hour among it.
    async fn publish(&self, outbound: Value) {
        let mut outbound = outbound;
        outbound["quiet_hours"] = json!(["00:00", "00:00"]);
        let document = json!({
            "assistants": {"sales": {}, "reminder": {"instructions": "Remind."}},
            "routes": {"closed": {"kind": "message", "text": "We are closed."}},
            "numbers": {"+40312345679": {"route": "sales", "fallback": ["closed"]}},
            "outbound": outbound,
        });
        let (status, answer) = self.ask("PUT", "/api/configuration", "admin", Some(document)).await;
        assert_eq!(status, 200, "{answer}");
        let version = answer["version"].as_u64().unwrap();
        let snapshot = self.cluster.data(0).join("configuration.json");
        timeout(PATIENCE, async {
            while !std::fs::read_to_string(&snapshot).is_ok_and(|it| it.contains(&format!("\"version\":{version},"))) {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .expect("the server takes what is published");
    }

    async fn initiate(&self, phone: &str) -> (u16, Value) {
        self.ask("POST", "/api/calls/initiate", "operator", Some(json!({"phone": phone, "agent_type": "sales"}))).await
    }

    /// Waits until a session is over.
    async fn over(&self, session: &str) -> Value {
        timeout(PATIENCE, async {
            loop {
                let (status, row) = self.ask("GET", &format!("/api/sessions/{session}"), "viewer", None).await;
                assert_eq!(status, 200, "{row}");
                if !row["ended_at"].is_null() {
                    return row;
                }
                sleep(Duration::from_millis(50)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("it does not end\n{}\n{}", self.cluster.story(), self.cluster.said(0)))
    }

    /// How the first call that was made went; the simulated network knows a moment after everybody was told.
    async fn outcome(&self) -> sim::CallOutcome {
        timeout(PATIENCE, async {
            loop {
                if let Some(it) = self.twilio.outcomes().into_iter().next() {
                    return it;
                }
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("no call has ended\n{}", self.cluster.story()))
    }

    async fn end(self) {
        self.store.close().await;
        self.cluster.end(self.server).await.unwrap();
    }
}

fn id(answer: &(u16, Value)) -> String {
    answer.1["session_id"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_customer_is_called_and_the_assistant_speaks_when_they_have() {
    // S1-01, S1-02, S1-06, S1-10, S1-11, S4-22, B71.
    let scene = Scene::new().await;
    scene.publish(json!({})).await;
    // As a person writes it.
    let answer = scene.initiate("0712 345 671").await;
    assert_eq!(answer.0, 200, "{answer:?}");
    let session = id(&answer);
    assert!(session.starts_with("vs_") && answer.1["call_sid"].as_str().unwrap().starts_with("CA"), "{answer:?}");
    assert_eq!((answer.1["status"].as_str(), answer.1["twilio_configured"].as_bool()), (Some("queued"), Some(true)));
    let keys: BTreeSet<&str> = answer.1.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, BTreeSet::from(["session_id", "call_sid", "status", "message", "twilio_configured"]));
    let row = scene.over(&session).await;
    let outcome = scene.outcome().await;
    assert_eq!((outcome.steps, outcome.streams), ((5, 5), 1), "{}", scene.cluster.story());
    assert_eq!((row["status"].as_str(), row["phone"].as_str()), (Some("completed"), Some(PERSON)), "{row}");
    assert_eq!((row["from_number"].as_str(), row["problem"].as_str()), (Some("+40312345679"), None), "{row}");
    // The four events that Twilio told, and the row of the call that was answered.
    let statuses = scene
        .cluster
        .timeline
        .count(|it| matches!(it, Moment::Webhook { path, status: 204, .. } if path.contains("/api/twilio/status/")));
    assert_eq!(statuses, 4, "initiated, ringing, answered, completed\n{}", scene.cluster.story());
    let call = timeout(PATIENCE, async {
        loop {
            let path = format!("/api/calls/{}", row["call_id"].as_str().unwrap());
            let (status, call) = scene.ask("GET", &path, "viewer", None).await;
            if status == 200 && call["status"] == "completed" && call["end_reason"].is_string() {
                return call;
            }
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!((call["direction"].as_str(), call["assistant"].as_str()), (Some("outbound-api"), Some("sales")), "{call}");
    assert_eq!((call["to_number"].as_str(), call["end_reason"].as_str()), (Some(PERSON), Some("assistant_hung_up")), "{call}");
    assert_eq!(call["transcript"].as_array().unwrap().len(), 4, "{call}");
    let customer = scene.store.tenant("clinic").customer(PERSON).await.unwrap().unwrap();
    assert_eq!(row["customer_id"].as_str(), Some(customer.id.as_str()));
    // By the customer instead of the number.
    let order = json!({"customer_id": customer.id, "agent_type": "reminder", "consent": true});
    let again = scene.ask("POST", "/api/calls/initiate", "operator", Some(order)).await;
    assert_eq!(again.0, 200, "{again:?}");
    let given_up = scene.ask("DELETE", &format!("/api/sessions/{}", id(&again)), "operator", None).await;
    assert_eq!(given_up.0, 200, "{given_up:?}");
    let row = scene.over(&id(&again)).await;
    assert!(["canceled", "completed"].contains(&row["status"].as_str().unwrap()), "{row}");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_became_of_a_call_is_told_in_plain_words() {
    // S1-02, S1-11, S1-12, B72.
    let scene = Scene::new().await;
    scene.publish(json!({"machines": "message", "message": "Please call us back."})).await;
    for (number, status, problem) in [(BUSY, "busy", "busy"), (NOBODY, "no-answer", "nobody answered")] {
        let answer = scene.initiate(number).await;
        let row = scene.over(&id(&answer)).await;
        assert_eq!(row["status"].as_str(), Some(status), "{row}");
        assert!(row["problem"].as_str().unwrap().contains(problem), "{row}");
    }
    // Twilio refuses: the session is there, and says why.
    let answer = scene.initiate(NOT_PERMITTED).await;
    assert_eq!((answer.0, answer.1["code"].as_str()), (502, Some("not_dialled")), "{answer:?}");
    assert!(answer.1["detail"].as_str().unwrap().contains("Geo permissions"), "{answer:?}");
    let row = scene.over(&id(&answer)).await;
    assert!(row["status"] == "failed" && row["problem"].as_str().unwrap().contains("21215"), "{row}");
    // C-32: nobody waits for the verdict. A machine hears the message, and the assistant is silent.
    let answer = scene.initiate(MACHINE).await;
    let row = scene.over(&id(&answer)).await;
    assert_eq!((row["answered_by"].as_str(), row["status"].as_str()), (Some("machine_end_beep"), Some("completed")), "{row}");
    assert_eq!(scene.cluster.timeline.count(|it| *it == Moment::Updated), 1, "{}", scene.cluster.story());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_dialled_once_whatever_breaks() {
    // B96, S1-22: an answer that got lost, a Twilio that is busy, a process that dies in the middle.
    let mut scene = Scene::new().await;
    scene.publish(json!({})).await;
    scene.twilio.lose_answers(1);
    let lost = scene.initiate(NOBODY).await;
    let row = scene.over(&id(&lost)).await;
    assert!(row["call_sid"].as_str().unwrap().starts_with("CA") && row["status"] == "no-answer", "{row}");
    assert_eq!(scene.twilio.made(), 1, "it is looked for, and not dialled again");
    scene.twilio.be_busy(2);
    let busy = scene.initiate(NOBODY).await;
    scene.over(&id(&busy)).await;
    assert_eq!(scene.twilio.made(), 2);
    // The same order by its name, at the same time: one call.
    let order = json!({"phone": BUSY, "agent_type": "sales"}).to_string();
    let ordering = (0..8).map(|_| {
        let request = Request::post("/api/calls/initiate")
            .header("host", "test")
            .header("authorization", format!("Bearer {}", scene.key("operator")))
            .header("content-type", "application/json")
            .header("idempotency-key", "order-17")
            .body(Full::new(Bytes::from(order.clone())))
            .unwrap();
        scene.cluster.send(request)
    });
    let answers = futures::future::join_all(ordering).await;
    let sessions: BTreeSet<String> = answers
        .into_iter()
        .map(|it| {
            let it = it.unwrap();
            let body: Value = serde_json::from_slice(it.body()).unwrap();
            assert_eq!(it.status(), 200, "{body}");
            body["session_id"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!((sessions.len(), scene.twilio.made()), (1, 3));
    // Killed while the answer is on its way: the next process looks for the call.
    scene.twilio.lose_answers(1);
    let order = json!({"phone": NOBODY, "agent_type": "sales"});
    let asked = scene.cluster.api("POST", "/api/calls/initiate", scene.key("operator"), Some(&order));
    let killed = async {
        while scene.twilio.made() < 4 {
            sleep(Duration::from_millis(1)).await;
        }
        sleep(Duration::from_millis(100)).await;
    };
    tokio::select! {
        _ = asked => (),
        () = killed => (),
    }
    scene.server.kill().await.unwrap();
    scene.server = scene.cluster.start(0).await.unwrap();
    let sessions = scene.store.tenant("clinic").sessions(None, 10).await.unwrap();
    let row = scene.over(&sessions[0].id).await;
    assert!(row["call_sid"].is_string(), "{row}");
    assert_eq!(scene.twilio.made(), 4, "a restart never dials again");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_called_who_must_not_be() {
    // S1-10, B75: with reason and code, and without a call.
    let scene = Scene::new().await;
    scene.publish(json!({"require_consent": true, "calls_a_day_max": 1, "spend_a_day_max": 5})).await;
    let order = |phone: &str, consent: bool| json!({"phone": phone, "agent_type": "sales", "consent": consent});
    let refused = async |order: Value, status: u16, code: &str| {
        let answer = scene.ask("POST", "/api/calls/initiate", "operator", Some(order)).await;
        assert_eq!((answer.0, answer.1["code"].as_str()), (status, Some(code)), "{answer:?}");
    };
    refused(order("112", true), 422, "invalid_number").await;
    refused(order("+12025550143", true), 422, "country_not_allowed").await;
    refused(order("0900 123 456", true), 422, "premium_number").await;
    refused(order(PERSON, false), 422, "no_consent").await;
    refused(json!({"agent_type": "sales"}), 422, "no_phone").await;
    refused(json!({"agent_type": "sales", "customer_id": "x"}), 422, "unknown_customer").await;
    refused(json!({"phone": PERSON, "agent_type": "boss"}), 422, "unknown_assistant").await;
    let path = format!("/api/do-not-call/{PERSON}");
    assert_eq!(scene.ask("PUT", &path, "operator", Some(json!({"reason": "asked us"}))).await.0, 204);
    refused(order(PERSON, true), 422, "do_not_call").await;
    let listed = scene.ask("GET", "/api/do-not-call", "viewer", None).await.1;
    assert_eq!(listed["numbers"][0]["number"].as_str(), Some(PERSON), "{listed}");
    assert_eq!(scene.ask("DELETE", &path, "operator", None).await.0, 204);
    assert_eq!(scene.ask("DELETE", &path, "operator", None).await.0, 404);
    refused(order(BUSY, true), 422, "no_price").await;
    scene.cluster.command(&["admin", "price", "twilio.outbound_minute", "0.40"]).await.unwrap();
    // Ten minutes at most, by the default limit: 4 of 5.
    let answer = scene.ask("POST", "/api/calls/initiate", "operator", Some(order(BUSY, true))).await;
    scene.over(&id(&answer)).await;
    refused(order(BUSY, true), 429, "calls_a_day_max").await;
    scene.publish(json!({"spend_a_day_max": 5, "quiet_hours": null})).await;
    let answer = scene.initiate(NOBODY).await;
    assert_eq!(answer.0, 200, "what a call that nobody answered has cost is nothing: {answer:?}");
    scene.over(&id(&answer)).await;
    assert_eq!(scene.twilio.made(), 2);
    // All day long.
    let quiet = json!({"quiet_hours": ["00:00", "23:59"], "time_zone": "UTC"});
    let mut document = scene.ask("GET", "/api/configuration", "viewer", None).await.1["document"].take();
    document["outbound"] = quiet;
    assert_eq!(scene.ask("PUT", "/api/configuration", "admin", Some(document)).await.0, 200);
    timeout(PATIENCE, async {
        while scene.initiate(NOBODY).await.1["code"] != "quiet_hours" {
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("the server takes what is published");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_account_calls_are_simulated() {
    // S1-04, S1-05, S1-07.
    let scene = Scene::with(|it| it.environment.retain(|it| it.0 != "TWILIO_ACCOUNT_SID")).await;
    scene.publish(json!({})).await;
    let answer = scene.initiate(PERSON).await;
    assert_eq!(answer.0, 200, "{answer:?}");
    assert_eq!(
        (answer.1["call_sid"].is_null(), answer.1["status"].as_str(), answer.1["twilio_configured"].as_bool()),
        (true, Some("simulation"), Some(false))
    );
    assert!(answer.1["message"].is_string() && scene.twilio.made() == 0);
    let row = scene.ask("GET", &format!("/api/sessions/{}", id(&answer)), "viewer", None).await.1;
    assert_eq!(row["status"].as_str(), Some("simulation"), "it is stored: {row}");
    let health = scene.cluster.api("GET", "/api/twilio/health", "", None).await.unwrap();
    assert_eq!(health.0, 200);
    assert_eq!((health.1["status"].as_str(), health.1["elevenlabs_number_configured"].as_bool()), (Some("ok"), Some(false)));
    let request = Request::post("/api/twilio/test")
        .header("host", "t")
        .header("authorization", format!("Bearer {}", scene.key("operator")));
    let answer = scene.cluster.send(request.body(Full::new(Bytes::new())).unwrap()).await.unwrap();
    assert!(String::from_utf8_lossy(answer.body()).contains("<Connect"), "{answer:?}");
    assert_eq!(scene.cluster.api("POST", "/api/twilio/test", "", None).await.unwrap().0, 401);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_can_be_connected_with_the_providers_own_number() {
    // S1-01 legacy, S1-03.
    let scene = Scene::with(|it| it.environment.push(("ELEVENLABS_PHONE_NUMBER".into(), "+40312345670".into()))).await;
    scene.publish(json!({"mode": "dial"})).await;
    let answer = scene.initiate(PERSON).await;
    scene.over(&id(&answer)).await;
    let row = scene.store.tenant("clinic").session(&id(&answer)).await.unwrap().unwrap();
    // Nobody is at the provider's number in the simulation: the callee hears a polite sentence.
    assert_eq!((row.dial_status.as_deref(), row.status.as_str()), (Some("failed"), "completed"), "{row:?}");
    assert_eq!(scene.cluster.timeline.count(|it| matches!(it, Moment::Dialled { status: "failed" })), 1);
    let polite = |it: &Moment| matches!(it, Moment::Webhook { path, answer, .. } if path.contains("/dial_status/") && answer == "<Say> <Hangup/>");
    assert_eq!(scene.cluster.timeline.count(polite), 1, "{}", scene.cluster.story());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_twilios_documents_do_not_say_is_asked_of_twilio() {
    // U1 to U9: here the simulated network answers, as it was made to.
    let mut cluster = Cluster::new(Path::new(env!("CARGO_BIN_EXE_offhook")), 1, None).await.unwrap();
    let callee = Callee::Answers { script: "wait 120000ms".parse().unwrap(), answered_by: "human" };
    let twilio = cluster.account(OWN, [(PERSON.to_owned(), callee)].into()).await.unwrap();
    cluster.environment.push(("OFFHOOK_LISTEN".into(), cluster.address.to_string()));
    let said = cluster.command(&["verify-twilio", PERSON, "--silence-seconds", "3", "--json"]).await.unwrap();
    let answers: Vec<Value> = serde_json::from_str(&said).unwrap();
    let told = |id: &str| {
        let found = answers.iter().find(|it| it["id"] == id).unwrap();
        found["answer"].as_str().unwrap_or_else(|| panic!("{id}: {said}\n{}", cluster.story())).to_owned()
    };
    assert!(told("U1").starts_with("yes, after"), "{said}");
    assert_eq!(told("U2"), "longer than 3 s");
    assert!(told("U3").contains("AccountSid") && told("U3").contains("CallStatus"), "{said}");
    assert_eq!(told("U4"), "no: the call ends");
    assert!(told("U5").starts_with("yes, after") && told("U5").ends_with("signed without the fragment"), "{said}");
    assert!(told("U6").starts_with("yes: `action` after"), "{said}");
    assert!(told("U7").starts_with("at least 3 s"), "{said}");
    assert_eq!(told("U8"), "wss");
    assert!(told("U9").starts_with("no: the first is closed"), "{said}");
    assert_eq!(twilio.made(), 2);
    // S3-16: only where both tokens are accepted.
    let refused = cluster.command(&["admin", "promote-token"]).await.unwrap_err().to_string();
    assert!(refused.contains("TWILIO_AUTH_TOKEN_SECONDARY is not set here"), "{refused}");
    cluster.environment.push(("TWILIO_AUTH_TOKEN_SECONDARY".into(), "the-next-token".into()));
    assert!(cluster.command(&["admin", "promote-token"]).await.unwrap().starts_with("promoted"));
    let refused = cluster.command(&["verify-twilio", "0712"]).await.unwrap_err().to_string();
    assert!(refused.contains("is not E.164"), "{refused}");
}

/// Every operation of the document, with the role that it needs.
fn operations(document: &Value) -> Vec<(String, String, Option<String>)> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let role = operation["security"][0]["bearer"][0].as_str().map(str::to_owned);
            found.push((method.to_uppercase(), path.clone(), role));
        }
    }
    found
}

fn body_for(method: &str, path: &str) -> Option<Value> {
    let body = match (method, path) {
        ("POST", "/api/calls/initiate") => json!({"phone": BUSY, "agent_type": "sales"}),
        ("POST", "/api/calls/{id}/orders") => json!({"order": "hang_up"}),
        ("POST", "/api/keys") => json!({"name": "x", "role": "viewer"}),
        ("POST", "/api/members") => {
            json!({"email": "x@example.com", "name": "X", "role": "viewer", "password": "correct horse battery"})
        }
        ("PUT", "/api/members/{user_id}") => json!({"role": "viewer"}),
        ("PUT", "/api/me/password") => json!({"current": "x", "new": "correct horse battery"}),
        ("PUT", "/api/configuration") | ("POST", "/api/configuration/check") => json!({"assistants": {}, "numbers": {}}),
        ("PUT", "/api/assistants/{name}") => json!({}),
        ("PUT", "/api/routes/{name}") => json!({"kind": "message", "text": "x"}),
        ("PUT", "/api/numbers/{number}") => json!({"route": "sales"}),
        ("PUT", "/api/do-not-call/{number}") => json!({"reason": "x"}),
        _ => return None,
    };
    Some(body)
}

fn token(secret: &str, expires_in: i64, subject: &str) -> String {
    let now = jiff::Timestamp::now().as_second();
    let claims = json!({"iss": "offhook", "aud": "offhook", "sub": subject, "iat": now, "exp": now + expires_in});
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_is_refused_to_whoever_may_not() {
    // The authorization matrix, made of the document: S1-13, S4-13, B84, B85.
    let scene = Scene::new().await;
    scene.publish(json!({})).await;
    let document = scene.cluster.api("GET", "/openapi.json", "", None).await.unwrap().1;
    let operations = operations(&document);
    assert!(operations.len() >= 45, "{}", operations.len());
    let open: BTreeSet<&str> = operations.iter().filter(|it| it.2.is_none()).map(|it| it.1.as_str()).collect();
    let meant = ["/api/auth/login", "/api/auth/refresh", "/api/events", "/api/events/ws", "/api/twilio/health"];
    assert_eq!(open, BTreeSet::from(meant), "open to everybody");
    // Things of the clinic's that a rival may have heard of.
    let session = id(&scene.initiate(BUSY).await);
    scene.over(&session).await;
    scene.cluster.ring("hear greeting\npress 9\nhear farewell").unwrap();
    let user = scene.cluster.command(&["admin", "add-user", "ana@example.com", "--tenant", "clinic"]).await.unwrap();
    assert!(user.contains("is owner of clinic"), "{user}");
    let user = scene.store.tenant("clinic").members().await.unwrap().remove(0).user.id;
    let key = scene.store.tenant("clinic").keys(10).await.unwrap().remove(0).id;
    let call = scene.store.tenant("clinic").session(&session).await.unwrap().unwrap().call_sid.unwrap();
    assert_eq!(scene.ask("PUT", &format!("/api/do-not-call/{BUSY}"), "operator", Some(json!({"reason": "x"}))).await.0, 204);
    let real = |path: &str| {
        path.replace("{user_id}", &user)
            .replace("/keys/{id}", &format!("/keys/{key}"))
            .replace("/sessions/{id}", &format!("/sessions/{session}"))
            .replace("{id}", &call)
            .replace("{version}", "1")
            .replace("/assistants/{name}", "/assistants/sales")
            .replace("{name}", "closed")
            .replace("/do-not-call/{number}", &format!("/do-not-call/{BUSY}"))
            .replace("{number}", "+40312345679")
    };
    let nothing = |path: &str| {
        path.replace("{version}", "999").replace("{number}", "+40399999999").split('{').fold(String::new(), |made, part| {
            match part.split_once('}') {
                Some((_, rest)) => format!("{made}nothing{rest}"),
                None => made + part,
            }
        })
    };
    let api = async |method: &str, path: &str, key: &str, body: Option<&Value>| {
        scene.cluster.api(method, path, key, body).await.unwrap()
    };
    let strangers = [
        String::new(),
        "nonsense".to_owned(),
        "ohk_nonsense".to_owned(),
        token(SECRET, -1, "x"),
        token(SECRET, 600, "nobody"),
        token("another secret of thirty-two characters", 600, "x"),
        "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4IiwiZXhwIjo5OTk5OTk5OTk5fQ.".to_owned(),
    ];
    let (mut asked, mut compared) = (0, 0);
    for (method, path, role) in operations.iter().filter(|it| it.2.is_some()) {
        let (body, role) = (body_for(method, path), role.as_deref().unwrap());
        for stranger in &strangers {
            let (status, answer) = api(method, &real(path), stranger, body.as_ref()).await;
            assert_eq!(status, 401, "{method} {path} {stranger}: {answer}");
            asked += 1;
        }
        let place = ROLES.iter().position(|it| *it == role).unwrap();
        for lower in &ROLES[..place] {
            let (status, answer) = api(method, &real(path), scene.key(lower), body.as_ref()).await;
            assert_eq!(status, 403, "{method} {path} as {lower}: {answer}");
            asked += 1;
        }
        // Whoever may, may: here of another tenant, about what is not there.
        let own = ROLES.iter().find(|it| **it == role).unwrap();
        let (status, answer) = api(method, &nothing(path), &scene.keys[&("rival", *own)], body.as_ref()).await;
        assert!(![401, 403].contains(&status), "{method} {path} as {role}: {answer}");
        // A stranger's owner: what is the clinic's is answered as what is not there.
        if path.contains('{') && method != "PUT" {
            let rival = &scene.keys[&("stranger", "owner")];
            let (status, theirs) = api(method, &real(path), rival, body.as_ref()).await;
            let (expected, absent) = api(method, &nothing(path), rival, body.as_ref()).await;
            assert_eq!((status, &theirs), (404, &absent), "{method} {path}");
            assert_eq!(expected, 404, "{method} {path}");
            compared += 1;
        }
    }
    assert!(asked > 300 && compared >= 12, "{asked} {compared}");
    // What a rival sets under the clinic's names is the rival's own, or refused.
    let rival = &scene.keys[&("rival", "owner")];
    let stolen = json!({"assistants": {"sales": {}}, "numbers": {"+40312345679": {"route": "sales"}}});
    assert_eq!(api("PUT", "/api/configuration", rival, Some(&stolen)).await.0, 409);
    assert_eq!(api("PUT", &format!("/api/members/{user}"), rival, Some(&json!({"role": "viewer"}))).await.0, 404);
    let listed = api("GET", "/api/configuration", scene.key("viewer"), None).await.1;
    assert_eq!(listed["version"].as_u64(), Some(1), "the clinic's is as it was");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_sign_in_and_a_copied_token_ends_it_for_everybody() {
    let scene = Scene::new().await;
    let said =
        scene.cluster.command(&["admin", "add-user", "Ana@Example.com", "--tenant", "clinic", "--role", "owner"]).await.unwrap();
    let password = said.lines().find_map(|it| it.strip_prefix("password: ")).unwrap().to_owned();
    let api = async |method: &str, path: &str, key: &str, body: Value| {
        let body = (!body.is_null()).then_some(body);
        scene.cluster.api(method, path, key, body.as_ref()).await.unwrap()
    };
    let login = json!({"email": "ana@example.com", "password": password});
    let (status, pair) = api("POST", "/api/auth/login", "", login.clone()).await;
    assert_eq!((status, pair["tenant"].as_str(), pair["token_type"].as_str()), (200, Some("clinic"), Some("Bearer")), "{pair}");
    let (access, refresh) =
        (pair["access_token"].as_str().unwrap().to_owned(), pair["refresh_token"].as_str().unwrap().to_owned());
    let me = api("GET", "/api/me", &access, Value::Null).await;
    assert_eq!((me.0, me.1["role"].as_str(), me.1["email"].as_str()), (200, Some("owner"), Some("ana@example.com")));
    // Wrong passwords and unknown addresses are told apart by nobody; after five it takes a while.
    let wrong = api("POST", "/api/auth/login", "", json!({"email": "ana@example.com", "password": "x"})).await;
    let nobody = api("POST", "/api/auth/login", "", json!({"email": "eve@example.com", "password": "x"})).await;
    assert_eq!((wrong.0, &wrong), (401, &nobody));
    // Used twice: over, for whoever has it.
    let (status, next) = api("POST", "/api/auth/refresh", "", json!({"refresh_token": refresh})).await;
    assert_eq!(status, 200, "{next}");
    assert_eq!(api("GET", "/api/me", next["access_token"].as_str().unwrap(), Value::Null).await.0, 200);
    assert_eq!(api("POST", "/api/auth/refresh", "", json!({"refresh_token": refresh})).await.0, 401);
    assert_eq!(api("GET", "/api/me", next["access_token"].as_str().unwrap(), Value::Null).await.0, 401);
    assert_eq!(api("POST", "/api/auth/refresh", "", json!({"refresh_token": next["refresh_token"]})).await.0, 401);
    // 2,000 mutants of what is good.
    let (_, pair) = api("POST", "/api/auth/login", "", login.clone()).await;
    let (access, refresh) =
        (pair["access_token"].as_str().unwrap().to_owned(), pair["refresh_token"].as_str().unwrap().to_owned());
    let key = scene.key("owner").to_owned();
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut tried, mut accepted) = (0, 0);
    while tried < 2000 {
        let good = if tried % 2 == 0 { &access } else { &key };
        let mut bytes = good.clone().into_bytes();
        match random.u8(..4) {
            0 => drop(bytes.remove(random.usize(..bytes.len()))),
            1 => bytes.insert(random.usize(..bytes.len()), random.alphanumeric() as u8),
            2 => bytes.truncate(random.usize(..bytes.len())),
            _ => {
                let at = random.usize(..bytes.len());
                bytes[at] = random.alphanumeric() as u8;
            }
        }
        let mutant = String::from_utf8(bytes).unwrap();
        // The last character of base64 has bits that mean nothing; decoders that are strict refuse them too.
        if mutant == *good {
            continue;
        }
        tried += 1;
        let request = Request::get("/api/me").header("host", "t").header("authorization", format!("Bearer {mutant}"));
        let answer = scene.cluster.send(request.body(Full::new(Bytes::new())).unwrap()).await.unwrap();
        assert!([401, 429].contains(&answer.status().as_u16()), "seed {seed}: {mutant}: {}", answer.status());
        accepted += usize::from(answer.status() == 200);
    }
    assert_eq!((tried, accepted), (2000, 0));
    assert_eq!(api("GET", "/api/me", &access, Value::Null).await.0, 200, "the good one still is");
    assert_eq!(api("POST", "/api/auth/logout", &access, Value::Null).await.0, 204);
    assert_eq!(api("GET", "/api/me", &access, Value::Null).await.0, 401);
    assert_eq!(api("POST", "/api/auth/refresh", "", json!({"refresh_token": refresh})).await.0, 401);
    // Nobody gives more than they have, and the last owner stays.
    let admin = scene.key("admin").to_owned();
    let member =
        |role: &str| json!({"email": "ion@example.com", "name": "Ion", "role": role, "password": "correct horse battery"});
    assert_eq!(api("POST", "/api/members", &admin, member("owner")).await.0, 403);
    let nobody = json!({"email": "ion", "name": "Ion", "role": "viewer", "password": "correct horse battery"});
    assert_eq!(api("POST", "/api/members", &admin, nobody).await.0, 422);
    // Somebody who works elsewhere is added like anybody: nothing tells that they were known.
    scene.cluster.command(&["admin", "add-user", "eva@example.com", "--tenant", "rival", "--name", "Secret"]).await.unwrap();
    let eva = json!({"email": "eva@example.com", "name": "Eva", "role": "viewer", "password": "correct horse battery"});
    let (status, eva) = api("POST", "/api/members", &admin, eva).await;
    assert_eq!((status, eva["name"].as_str()), (201, Some("Eva")), "{eva}");
    let (status, ion) = api("POST", "/api/members", &admin, member("viewer")).await;
    assert_eq!((status, ion["role"].as_str()), (201, Some("viewer")), "{ion}");
    assert_eq!(api("POST", "/api/members", &admin, member("viewer")).await.0, 409);
    let ana = scene.store.tenant("clinic").members().await.unwrap().into_iter().find(|it| it.role == "owner").unwrap().user.id;
    assert_eq!(api("DELETE", &format!("/api/members/{ana}"), &admin, Value::Null).await.0, 403);
    assert_eq!(api("DELETE", &format!("/api/members/{ana}"), &key, Value::Null).await.0, 409);
    assert_eq!(api("POST", "/api/keys", &admin, json!({"name": "x", "role": "owner"})).await.0, 403);
    let (status, made) = api("POST", "/api/keys", &admin, json!({"name": "crm", "role": "viewer"})).await;
    assert_eq!(status, 201, "{made}");
    let fresh = made["key"].as_str().unwrap().to_owned();
    assert_eq!(api("GET", "/api/calls", &fresh, Value::Null).await.0, 200);
    assert_eq!(api("DELETE", &format!("/api/keys/{}", made["id"].as_str().unwrap()), &admin, Value::Null).await.0, 204);
    assert_eq!(api("GET", "/api/calls", &fresh, Value::Null).await.0, 401);
    let audit = api("GET", "/api/audit", &admin, Value::Null).await.1;
    let actions: Vec<&str> = audit.as_array().unwrap().iter().filter_map(|it| it["action"].as_str()).collect();
    assert_eq!(&actions[..3], ["key.revoke", "key.add", "member.add"], "{audit}");
    // Secrets are nowhere in what the server said or keeps.
    let log = std::fs::read_to_string(scene.cluster.folder.path().join("node-0.log")).unwrap();
    let database = std::fs::read(scene.cluster.folder.path().join("offhook.db")).unwrap();
    for secret in [&password, &key, &refresh, &access] {
        assert!(!log.contains(secret.as_str()), "{log}");
        assert!(!database.windows(secret.len()).any(|it| it == secret.as_bytes()));
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_is_changed_part_by_part_and_nobody_overwrites_anybody() {
    let scene = Scene::new().await;
    scene.publish(json!({})).await;
    let put = async |path: &str, body: Value| scene.ask("PUT", path, "admin", Some(body)).await;
    assert_eq!(put("/api/assistants/night", json!({"language": "ro"})).await, (200, json!({"version": 2})));
    assert_eq!(put("/api/numbers/+40312345677", json!({"route": "night"})).await, (200, json!({"version": 3})));
    let (status, wrong) = put("/api/numbers/0712", json!({"route": "nobody"})).await;
    assert_eq!(status, 422);
    let problems = wrong["problems"].to_string();
    assert!(problems.contains("numbers.0712") && problems.contains("there is no assistant and no route `nobody`"), "{wrong}");
    let (status, needed) = scene.ask("DELETE", "/api/assistants/night", "admin", None).await;
    assert_eq!((status, needed["problems"].as_array().map(Vec::len)), (422, Some(1)), "a number names it: {needed}");
    assert_eq!(scene.ask("DELETE", "/api/numbers/+40312345677", "admin", None).await.0, 200);
    assert_eq!(scene.ask("DELETE", "/api/assistants/night", "admin", None).await.0, 200);
    assert_eq!(scene.ask("GET", "/api/assistants/night", "viewer", None).await.0, 404);
    assert_eq!(scene.ask("GET", "/api/assistants/sales", "viewer", None).await, (200, json!({})));
    let versions = scene.ask("GET", "/api/configuration/versions", "viewer", None).await.1;
    assert_eq!(versions.as_array().unwrap().len(), 5, "{versions}");
    let second = scene.ask("GET", "/api/configuration/versions/2", "viewer", None).await.1;
    assert_eq!(second["document"]["assistants"]["night"]["language"].as_str(), Some("ro"), "{second}");
    // Two who looked at the same version: the second one is told.
    let request = |tag: &str| {
        Request::put("/api/routes/closed")
            .header("host", "t")
            .header("authorization", format!("Bearer {}", scene.key("admin")))
            .header("content-type", "application/json")
            .header("if-match", tag)
            .body(Full::new(Bytes::from(r#"{"kind": "message", "text": "Call later."}"#)))
            .unwrap()
    };
    assert_eq!(scene.cluster.send(request("\"5\"")).await.unwrap().status(), 200);
    assert_eq!(scene.cluster.send(request("\"5\"")).await.unwrap().status(), 412);
    assert_eq!(scene.cluster.send(request("five")).await.unwrap().status(), 400);
    let (status, unknown) = put("/api/configuration", json!({"assistant": {}})).await;
    assert!(status == 422 && unknown["detail"].as_str().unwrap().contains("unknown field `assistant`"), "{unknown}");
    let (status, _) = scene.ask("POST", "/api/configuration/check", "viewer", Some(json!({"calls_max": 0}))).await;
    assert_eq!(status, 422);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_listed_page_by_page_ordered_about_and_told_as_they_happen() {
    // S4-06, B42, A.7; the panel's feed.
    use futures::StreamExt as _;
    use tokio_tungstenite::tungstenite::Message;
    let scene = Scene::with(|it| {
        it.environment.retain(|it| it.0 != "TWILIO_PHONE_NUMBER");
        it.environment.push(("ELEVENLABS_WEBHOOK_SECRET".into(), "wsec_new, wsec_old".into()));
    })
    .await;
    let key = scene.cluster.command(&["admin", "add-user", "o@example.com"]).await;
    assert!(key.unwrap().contains("is owner of default"));
    let key = scene.cluster.command(&["admin", "add-key", "panel", "--role", "operator"]).await.unwrap().trim().to_owned();
    let api = async |method: &str, path: &str, body: Value| {
        let body = (!body.is_null()).then_some(body);
        scene.cluster.api(method, path, &key, body.as_ref()).await.unwrap()
    };
    let ticket = async || api("POST", "/api/events/ticket", Value::Null).await.1["ticket"].as_str().unwrap().to_owned();
    // A page of another origin may not listen, a ticket opens one connection.
    let first = ticket().await;
    let listen = |ticket: &str, origin: Option<&str>| {
        let mut request = Request::get(format!("/api/events?ticket={ticket}")).header("host", "t");
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        request.body(Full::new(Bytes::new())).unwrap()
    };
    assert_eq!(scene.cluster.send(listen(&first, Some("https://evil.example"))).await.unwrap().status(), 403);
    let url = format!("ws://{}/api/events/ws?ticket={first}", scene.cluster.address);
    let (mut socket, _) =
        tokio_tungstenite::client_async(url.as_str(), tokio::net::TcpStream::connect(scene.cluster.address).await.unwrap())
            .await
            .unwrap();
    assert_eq!(scene.cluster.send(listen(&first, None)).await.unwrap().status(), 401, "used");
    // Somebody of another tenant hears nothing of it.
    let rival = scene.cluster.api("POST", "/api/events/ticket", &scene.keys[&("rival", "viewer")], None).await.unwrap().1;
    let url = format!("ws://{}/api/events/ws?ticket={}", scene.cluster.address, rival["ticket"].as_str().unwrap());
    let stream = tokio::net::TcpStream::connect(scene.cluster.address).await.unwrap();
    let (mut stranger, _) = tokio_tungstenite::client_async(url.as_str(), stream).await.unwrap();
    let call = scene.cluster.ring("hear greeting\nwait 60000ms").unwrap();
    let id = timeout(PATIENCE, async {
        loop {
            let Some(Ok(Message::Text(text))) = socket.next().await else { continue };
            let event: Value = serde_json::from_str(&text).unwrap();
            if event["fact"].to_string().contains("said") {
                return event["call"].as_str().unwrap().to_owned();
            }
        }
    })
    .await
    .expect("what is said is told as it happens");
    let order = async |body: Value| api("POST", &format!("/api/calls/{id}/orders"), body).await;
    assert_eq!(order(json!({"order": "whisper", "text": "The caller is a friend."})).await.0, 200);
    assert_eq!(order(json!({"order": "hold", "on": true})).await.0, 200);
    assert_eq!(order(json!({"order": "hold", "on": false})).await.0, 200);
    assert_eq!(order(json!({"order": "mute_caller", "on": true})).await.0, 200);
    assert_eq!(order(json!({"order": "say", "text": " "})).await.0, 422);
    assert_eq!(order(json!({"order": "sing"})).await.0, 422);
    assert_eq!(order(json!({"order": "hang_up"})).await, (200, json!({"outcome": "done"})));
    timeout(PATIENCE, call).await.unwrap().unwrap();
    timeout(PATIENCE, async {
        while order(json!({"order": "hang_up"})).await.0 != 409 {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("a call that is over takes no orders");
    let heard = timeout(Duration::from_millis(200), stranger.next()).await;
    assert!(heard.is_err(), "{heard:?}");
    // Two more calls, and pages of one.
    for _ in 0..2 {
        let call = scene.cluster.ring("hear greeting for 200ms\nhang up").unwrap();
        timeout(PATIENCE, call).await.unwrap().unwrap();
    }
    timeout(PATIENCE, async {
        while api("GET", "/api/calls?status=completed", Value::Null).await.1["calls"].as_array().map_or(0, Vec::len) < 3 {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .unwrap();
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api("GET", &format!("/api/aloha/calls?limit=1{cursor}"), Value::Null).await.1;
        assert_eq!(page["calls"].as_array().map(Vec::len), Some(1), "{page}");
        seen.push(page["calls"][0]["id"].as_str().unwrap().to_owned());
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!((seen.len(), seen.iter().collect::<BTreeSet<_>>().len()), (3, 3), "each once, the newest first");
    assert_eq!(seen[2], id);
    let detail = api("GET", &format!("/api/aloha/calls/{id}"), Value::Null).await.1;
    assert_eq!(detail["end_reason"].as_str(), Some("hung_up_from_outside"), "{detail}");
    assert!(!detail["transcript"].as_array().unwrap().is_empty() && detail["quality"]["first_audio_ms"].is_u64(), "{detail}");
    // S0-03: what the provider says of the conversation, signed, once.
    let told = json!({"type": "post_call_transcription", "event_timestamp": 1, "data": {"agent_id": "a", "conversation_id": "conv_1",
        "user_id": id, "analysis": {"call_successful": "success", "transcript_summary": "They greeted each other."}}});
    let tell = async |body: String, secret: &str| {
        let now = jiff::Timestamp::now().as_second();
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.as_bytes());
        let tag = aws_lc_rs::hmac::sign(&key, format!("{now}.{body}").as_bytes());
        let hex: String = tag.as_ref().iter().map(|it| format!("{it:02x}")).collect();
        let request =
            Request::post("/api/voice/post_call").header("host", "t").header("elevenlabs-signature", format!("t={now},v0={hex}"));
        scene.cluster.send(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap().status().as_u16()
    };
    assert_eq!(tell(told.to_string(), "another").await, 403);
    assert_eq!(tell(told.to_string(), "wsec_old").await, 200);
    let detail = timeout(PATIENCE, async {
        loop {
            let detail = api("GET", &format!("/api/calls/{id}"), Value::Null).await.1;
            if !detail["review"].is_null() {
                return detail;
            }
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("it is on record");
    let review = json!({"conversation_id": "conv_1", "successful": "success", "summary": "They greeted each other."});
    assert_eq!(detail["review"], review);
    assert_eq!(tell(told.to_string(), "wsec_new").await, 200, "told again, it is taken again and changes nothing");
    assert_eq!(tell(told.to_string().replace(&id, "nobody"), "wsec_new").await, 200);
    assert_eq!(tell(r#"{"type": "voice_removed"}"#.into(), "wsec_new").await, 200);
    assert_eq!(tell("{".into(), "wsec_new").await, 400);
    let reviewed = scene.store.tenant("default").call(&id).await.unwrap().unwrap();
    assert_eq!(reviewed.provider_conversation.as_deref(), Some("conv_1"));
    let count =
        async |query: &str| api("GET", &format!("/api/calls?{query}"), Value::Null).await.1["calls"].as_array().map(Vec::len);
    assert_eq!(count("direction=inbound").await, Some(3));
    assert_eq!(count("direction=outbound").await, Some(0));
    assert_eq!(count("number=%2B15550100001").await, Some(3));
    assert_eq!(count("live=true").await, Some(0));
    assert_eq!(count("from=2020-01-01T00:00:00Z&to=2020-01-02T00:00:00Z").await, Some(0));
    for wrong in ["limit=0", "limit=101", "cursor=x", "direction=up", "from=yesterday", "limit=x", "unknown=1"] {
        assert_eq!(api("GET", &format!("/api/calls?{wrong}"), Value::Null).await.0, 400, "{wrong}");
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_other_origins_ask_only_if_they_are_named() {
    // S0-05, S0-06, S0-29, B88.
    let scene = Scene::new().await;
    let preflight = async |origin: &str| {
        let request = Request::builder()
            .method("OPTIONS")
            .uri("/api/calls")
            .header("host", "t")
            .header("origin", origin)
            .header("access-control-request-method", "GET")
            .header("access-control-request-headers", "authorization");
        scene.cluster.send(request.body(Full::new(Bytes::new())).unwrap()).await.unwrap()
    };
    let allowed = preflight("https://panel.example.com").await;
    let header =
        |answer: &hyper::Response<Bytes>, name: &str| answer.headers().get(name).map(|it| it.to_str().unwrap().to_owned());
    assert_eq!(header(&allowed, "access-control-allow-origin").as_deref(), Some("https://panel.example.com"));
    assert_eq!(header(&allowed, "access-control-allow-credentials").as_deref(), Some("true"));
    assert_eq!(header(&preflight("https://evil.example").await, "access-control-allow-origin"), None);
    // What anybody may look at.
    let get = async |path: &str| {
        let request = Request::get(path).header("host", "t").body(Full::new(Bytes::new())).unwrap();
        scene.cluster.send(request).await.unwrap()
    };
    let index: Value = serde_json::from_slice(get("/").await.body()).unwrap();
    assert_eq!((index["docs"].as_str(), index["health"].as_str()), (Some("/docs"), Some("/health")));
    let document: Value = serde_json::from_slice(get("/openapi.json").await.body()).unwrap();
    assert_eq!(document["info"]["title"].as_str(), Some("offhook"));
    let page = get("/docs/").await;
    assert!(page.status() == 200 && String::from_utf8_lossy(page.body()).contains("swagger-ui"));
    assert_eq!(get("/docs/swagger-initializer.js").await.status(), 200);
    // Bodies are bounded, and what is no JSON is told.
    let post = async |body: String, kind: &str| {
        let request = Request::post("/api/configuration/check")
            .header("host", "t")
            .header("authorization", format!("Bearer {}", scene.key("viewer")))
            .header("content-type", kind);
        scene.cluster.send(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap()
    };
    assert_eq!(post("{".into(), "application/json").await.status(), 400);
    assert_eq!(post("{}".into(), "text/plain").await.status(), 415);
    let large = format!("{{\"assistants\": {{\"a\": {{\"instructions\": \"{}\"}}}}}}", "x".repeat(300_000));
    assert_eq!(post(large, "application/json").await.status(), 413);
    let refused = get("/api/calls").await;
    assert_eq!((refused.status().as_u16(), header(&refused, "www-authenticate").as_deref()), (401, Some("Bearer")));
    assert_eq!(header(&refused, "content-type").as_deref(), Some("application/problem+json"));
    // A hundred at once, and no more than twenty a second.
    let mut limited = None;
    for _ in 0..400 {
        let request =
            Request::get("/api/me").header("host", "t").header("authorization", format!("Bearer {}", scene.key("owner")));
        let answer = scene.cluster.send(request.body(Full::new(Bytes::new())).unwrap()).await.unwrap();
        if answer.status() == 429 {
            limited = header(&answer, "retry-after");
            break;
        }
    }
    assert!(limited.is_some(), "nobody may ask without end");
    assert_eq!(scene.ask("GET", "/api/me", "viewer", None).await.0, 200, "others are not hurt by it");
    scene.end().await;
}
