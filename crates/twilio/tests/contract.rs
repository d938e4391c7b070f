//! Every request that the client can make, judged by Twilio's published OpenAPI document: unknown fields, missing fields and wrong
//! types are refused, and answers are the document's own examples. Then what Twilio does on bad days.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use twilio::rest::{
    Account, Amd, CallFilter, CallUpdate, Document, Key, NewCall, NewMessage, NewRecording, NumberKind, NumberSearch,
    NumberSettings, NumberToBuy, RecordingChange, Rest, RestError, SoundFormat,
};
use twilio::twiml::{self, Hangup, Say};

const ACCOUNT: &str = "ACaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const API_KEY: &str = "SKbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const CALL: &str = "CAcccccccccccccccccccccccccccccccc";
const NUMBER: &str = "PNdddddddddddddddddddddddddddddddd";
const MESSAGE: &str = "SMeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee";
const RECORDING: &str = "REffffffffffffffffffffffffffffffff";

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/twilio/twilio_api_v2010.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
});

/// Whether a path has the shape of a template; the number of its literal segments, so that the closest one can be chosen.
fn fits(template: &str, path: &str) -> Option<usize> {
    let (template, path): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
    if template.len() != path.len() {
        return None;
    }
    let mut literal = 0;
    for (expected, found) in template.iter().zip(path) {
        match expected.split_once('}') {
            Some((_, rest)) if expected.starts_with('{') && found.ends_with(rest) && found.len() > rest.len() => (),
            _ if *expected == found => literal += 1,
            _ => return None,
        }
    }
    Some(literal)
}

/// A schema with what it refers to.
fn whole(schema: &Value) -> Value {
    match schema["$ref"].as_str() {
        Some(name) => whole(&DOCUMENT["components"]["schemas"][name.rsplit('/').next().unwrap()]),
        None => schema.clone(),
    }
}

/// Says what is wrong with a parameter.
fn wrong(name: &str, values: &[String], schema: &Value) -> Option<String> {
    let schema = whole(schema);
    let typed = |text: &String, schema: &Value| match schema["type"].as_str() {
        Some("integer") => text.parse::<i64>().map_or(json!(text), Value::from),
        Some("number") => text.parse::<f64>().map_or(json!(text), Value::from),
        Some("boolean") => text.parse::<bool>().map_or(json!(text), Value::from),
        _ => json!(text),
    };
    let value = match schema["type"].as_str() {
        Some("array") => {
            let items = whole(&schema["items"]);
            values.iter().map(|it| typed(it, &items)).collect()
        }
        _ if values.len() > 1 => return Some(format!("{name} is given {} times", values.len())),
        _ => typed(&values[0], &schema),
    };
    let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
    validator.validate(&value).err().map(|error| format!("{name}: {error}"))
}

/// What Twilio would do, by its document: an answer, or what is wrong with the request.
fn judge(method: &str, path: &str, query: &str, body: &[u8], used: &Mutex<BTreeSet<String>>) -> Result<(u16, String), String> {
    let paths = DOCUMENT["paths"].as_object().unwrap();
    let fitting = paths.iter().filter_map(|it| Some((fits(it.0, path)?, it)));
    let (template, operations) = fitting.max_by_key(|it| it.0).map(|it| it.1).ok_or_else(|| format!("there is no {path}"))?;
    let operation = operations.get(method).ok_or_else(|| format!("{template} has no {method}"))?;
    used.lock().unwrap().insert(format!("{method} {template}"));
    let mut schemas: BTreeMap<&str, &Value> = BTreeMap::new();
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let name = parameter["name"].as_str().unwrap();
        if parameter["in"] == "query" {
            schemas.insert(name, &parameter["schema"]);
            continue;
        }
        // What stands in the path is checked too.
        let place = template.split('/').position(|it| it.starts_with(&format!("{{{name}}}")));
        let found = place.and_then(|it| path.split('/').nth(it)).unwrap_or_default().trim_end_matches(".json");
        if let Some(problem) = wrong(name, &[found.to_owned()], &parameter["schema"]) {
            return Err(problem);
        }
    }
    let form = &operation["requestBody"]["content"]["application/x-www-form-urlencoded"]["schema"];
    for (name, schema) in form["properties"].as_object().into_iter().flatten() {
        schemas.insert(name, schema);
    }
    let mut given: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let parameters = if method == "post" { body } else { query.as_bytes() };
    for (name, value) in form_urlencoded::parse(parameters) {
        given.entry(name.into_owned()).or_default().push(value.into_owned());
    }
    for (name, values) in &given {
        let schema = schemas.get(name.as_str()).ok_or_else(|| format!("{method} {template} has no field {name}"))?;
        if let Some(problem) = wrong(name, values, schema) {
            return Err(problem);
        }
    }
    let mut required = form["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    if let Some(missing) = required.find(|it| !given.contains_key(*it)) {
        return Err(format!("{missing} is missing"));
    }
    let (code, answer) = operation["responses"].as_object().unwrap().iter().find(|it| it.0.starts_with('2')).unwrap();
    let examples = answer["content"]["application/json"]["examples"].as_object();
    let example = examples.and_then(|it| it.values().next()).map_or(String::new(), |it| it["value"].to_string());
    Ok((code.parse().unwrap(), example))
}

fn refusal(status: u16, code: u32, message: &str) -> Response {
    let body = json!({"code": code, "message": message, "more_info": "", "status": status}).to_string();
    let headers = [("twilio-request-id", "RQ1"), ("content-type", "application/json")];
    (StatusCode::from_u16(status).unwrap(), headers, body).into_response()
}

async fn serve(router: Router) -> String {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

/// A server that is what the document says; remembers which operations were used.
async fn by_the_document() -> (String, Arc<Mutex<BTreeSet<String>>>) {
    let used = Arc::<Mutex<BTreeSet<String>>>::default();
    let seen = used.clone();
    let router = Router::new().fallback(move |request: Request| {
        let seen = seen.clone();
        async move {
            let authorization = request.headers().get("authorization").and_then(|it| it.to_str().ok()).unwrap_or_default();
            let known = [format!("{ACCOUNT}:token"), format!("{API_KEY}:secret")];
            if !known.iter().any(|it| format!("Basic {}", STANDARD.encode(it)) == authorization) {
                return refusal(401, 20_003, "Authenticate");
            }
            let (parts, body) = request.into_parts();
            let path = parts.uri.path().to_owned();
            if path.ends_with(".wav") {
                return "RIFF....WAVE".into_response();
            }
            let body = to_bytes(body, 1 << 20).await.unwrap();
            let method = parts.method.as_str().to_ascii_lowercase();
            match judge(&method, &path, parts.uri.query().unwrap_or_default(), &body, &seen) {
                Ok((code, answer)) => (StatusCode::from_u16(code).unwrap(), answer).into_response(),
                Err(problem) => refusal(400, 20_001, &problem),
            }
        }
    });
    (serve(router).await, used)
}

fn client(base: &str) -> Rest {
    Rest::new(Account { sid: ACCOUNT.into(), key: Key::AuthToken(String::from("token").into()) }, base).unwrap()
}

fn url(path: &str) -> Option<String> {
    Some(format!("https://phone.example.com{path}"))
}

fn settings() -> NumberSettings {
    NumberSettings {
        friendly_name: Some("Front desk".into()),
        voice_url: url("/twilio/voice"),
        voice_fallback_url: url("/fallback.xml"),
        status_callback: url("/twilio/status"),
        sms_url: url("/sms"),
    }
}

#[tokio::test]
async fn every_request_is_as_twilios_own_document_wants_it() {
    let (base, used) = by_the_document().await;
    let it = client(&base);
    assert_eq!(it.account().await.unwrap().status, "active");
    assert!(!it.balance().await.unwrap().currency.is_empty());
    let document = twiml::Response::new().with(Say::new("Hello & goodbye")).unwrap().with(Hangup).unwrap();
    for document in [Document::Twiml(document), Document::Url(url("/answered").unwrap())] {
        let call = NewCall {
            fallback_url: url("/fallback.xml"),
            status_callback: url("/twilio/status"),
            timeout: Some(20),
            time_limit: Some(600),
            send_digits: Some("ww1".into()),
            amd: Some(Amd { message_end: true, callback: url("/amd"), timeout: Some(30) }),
            recording_callback: url("/recording"),
            call_token: Some("token".into()),
            ..NewCall::new("+40711111111", "+40312345678", document.clone())
        };
        let made = it.create_call(&call).await.unwrap();
        assert!(made.sid.starts_with("CA") && made.duration == Some(15) && made.price.as_deref() == Some("-0.03000"));
        it.update_call(CALL, &CallUpdate::Continue(document)).await.unwrap();
    }
    it.update_call(CALL, &CallUpdate::Cancel).await.unwrap();
    it.hang_up(CALL).await.unwrap();
    assert_eq!(it.call(CALL).await.unwrap().status, "completed");
    let filter = CallFilter {
        to: Some("+40711111111".into()),
        from: Some("+40312345678".into()),
        status: Some("in-progress".into()),
        since: Some("2026-11-20T00:00:00Z".into()),
        until: Some("2026-11-21T00:00:00Z".into()),
        parent: Some(CALL.into()),
        page_size: Some(1000),
    };
    it.calls(&filter).await.unwrap();
    it.delete_call(CALL).await.unwrap();
    let search = NumberSearch {
        area_code: Some(510),
        contains: Some("51*".into()),
        locality: Some("Bucharest".into()),
        region: Some("B".into()),
        sms: Some(true),
        without_address: Some(true),
        page_size: Some(20),
    };
    use NumberKind::{Local, MachineToMachine, Mobile, National, SharedCost, TollFree, Voip};
    for kind in [Local, TollFree, Mobile, National, Voip, SharedCost, MachineToMachine] {
        let found = it.available_numbers("US", kind, &search).await.unwrap();
        assert!(found.iter().all(|it| it.phone_number.starts_with('+')), "{kind:?}");
    }
    let buy = NumberToBuy {
        phone_number: "+40312345678".into(),
        settings: settings(),
        address_sid: Some(format!("AD{}", "a".repeat(32))),
        bundle_sid: Some(format!("BU{}", "a".repeat(32))),
    };
    let number = it.buy_number(&buy).await.unwrap();
    assert!(number.sid.starts_with("PN") && number.phone_number.starts_with('+'));
    it.update_number(NUMBER, &settings()).await.unwrap();
    it.number(NUMBER).await.unwrap();
    it.numbers(Some("+4031*")).await.unwrap();
    it.release_number(NUMBER).await.unwrap();
    for from in ["+40312345678".to_owned(), format!("MG{}", "a".repeat(32))] {
        let message = NewMessage {
            to: "+40711111111".into(),
            from,
            body: "Your table is booked.".into(),
            status_callback: url("/sms"),
            validity: Some(3600),
        };
        assert_eq!(it.send_message(&message).await.unwrap().num_segments, Some(1));
    }
    it.message(MESSAGE).await.unwrap();
    it.start_recording(CALL, &NewRecording { dual: true, status_callback: url("/recording") }).await.unwrap();
    for change in [RecordingChange::Pause, RecordingChange::Resume, RecordingChange::Stop] {
        it.change_recording(CALL, change).await.unwrap();
    }
    assert!(it.recording(RECORDING).await.unwrap().sid.starts_with("RE"));
    it.recordings(CALL).await.unwrap();
    it.delete_recording(RECORDING).await.unwrap();
    let mut sound = it.sound(RECORDING, SoundFormat::Wav, 12).await.unwrap();
    assert_eq!(sound.piece().await.unwrap().as_deref(), Some(b"RIFF....WAVE".as_slice()));
    assert_eq!(sound.piece().await.unwrap(), None);
    let mut sound = it.sound(RECORDING, SoundFormat::Wav, 11).await.unwrap();
    assert!(sound.piece().await.is_err(), "more than was allowed");
    // Two of the account, five of calls, seven searches, five of numbers, two of messages, five of recordings.
    assert_eq!(used.lock().unwrap().len(), 26, "{:#?}", used.lock().unwrap());
    // An API key instead of the token, and neither.
    let key = Key::ApiKey { sid: API_KEY.into(), secret: String::from("secret").into() };
    assert!(Rest::new(Account { sid: ACCOUNT.into(), key }, &base).unwrap().balance().await.is_ok());
    let key = Key::ApiKey { sid: API_KEY.into(), secret: String::from("token").into() };
    let error = Rest::new(Account { sid: ACCOUNT.into(), key }, &base).unwrap().balance().await.unwrap_err();
    assert!(error.code() == Some(20_003) && error.to_string().contains("do not belong together"), "{error}");
}

#[test]
fn the_server_of_this_test_refuses_what_is_wrong() {
    let used = Mutex::default();
    let calls = format!("/2010-04-01/Accounts/{ACCOUNT}/Calls.json");
    let said = |method: &str, path: &str, body: &str| judge(method, path, body, body.as_bytes(), &used).unwrap_err();
    for (body, expected) in [
        ("To=%2B1&From=%2B1&Colour=red", "no field Colour"),
        ("To=%2B1", "From is missing"),
        ("To=%2B1&From=%2B1&Timeout=soon", "Timeout"),
        ("To=%2B1&From=%2B1&Record=yes", "Record"),
        ("To=%2B1&From=%2B1&StatusCallbackMethod=PUT", "StatusCallbackMethod"),
        ("To=%2B1&To=%2B2&From=%2B1", "To is given 2 times"),
        ("To=%2B1&From=%2B1&Url=not%20an%20address", "Url"),
    ] {
        let problem = said("post", &calls, body);
        assert!(problem.contains(expected), "{problem}");
    }
    assert!(said("put", &calls, "").contains("has no put"));
    assert!(said("get", "/2010-04-01/Accounts/AC1/Calls.json", "").contains("AccountSid"));
    assert!(said("post", &format!("/2010-04-01/Accounts/{ACCOUNT}/Calls/{CALL}.json"), "Status=over").contains("Status"));
    assert!(said("get", "/2010-04-01/Nothing.json", "").contains("there is no"));
}

/// Answers in turn, the last one for ever; counts.
async fn in_turn(answers: Vec<fn() -> Response>) -> (String, Arc<AtomicUsize>) {
    let asked = Arc::<AtomicUsize>::default();
    let counter = asked.clone();
    let router = Router::new().fallback(move |_: Bytes| {
        let turn = counter.fetch_add(1, Ordering::Relaxed);
        let answer = answers[turn.min(answers.len() - 1)];
        async move { answer() }
    });
    (serve(router).await, asked)
}

fn balance() -> Response {
    r#"{"balance": "1.0", "currency": "USD"}"#.into_response()
}

fn busy() -> Response {
    refusal(429, 20_429, "Too many concurrent requests")
}

fn broken() -> Response {
    (StatusCode::BAD_GATEWAY, "<html>oops</html>").into_response()
}

#[tokio::test]
async fn what_is_safe_is_tried_again_and_what_is_not_is_not() {
    let message = NewMessage {
        to: "+40711111111".into(),
        from: "+40312345678".into(),
        body: "x".into(),
        status_callback: None,
        validity: None,
    };
    let (base, asked) = in_turn(vec![broken, busy, balance]).await;
    assert_eq!(client(&base).balance().await.unwrap().balance, "1.0");
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    // A gateway that broke may have passed the message on.
    let (base, asked) = in_turn(vec![broken]).await;
    let error = client(&base).send_message(&message).await.unwrap_err();
    assert_eq!((asked.load(Ordering::Relaxed), error.code()), (1, None), "{error}");
    // Too many at a time: certainly not sent.
    let sent = || {
        let body = format!(r#"{{"sid": "{MESSAGE}", "status": "queued", "num_segments": "1"}}"#);
        (StatusCode::CREATED, body).into_response()
    };
    let (base, asked) = in_turn(vec![busy, sent]).await;
    assert_eq!(client(&base).send_message(&message).await.unwrap().status, "queued");
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    // It ends at some time.
    let (base, asked) = in_turn(vec![busy]).await;
    assert!(client(&base).balance().await.unwrap_err().is_passing());
    assert_eq!(asked.load(Ordering::Relaxed), 4);
    // Whoever wanted a call to end has what they want.
    for over in [|| refusal(404, 20_404, "not found"), || refusal(400, 21_220, "Call is not in-progress")] {
        let (base, _) = in_turn(vec![over]).await;
        client(&base).hang_up(CALL).await.unwrap();
        assert!(client(&base).call(CALL).await.is_err());
    }
    // Nobody there: certainly nothing was done, and the address is not told.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = client(&format!("http://{nobody}")).send_message(&message).await.unwrap_err();
    assert!(matches!(error, RestError::Unreachable(_)) && !error.to_string().contains(ACCOUNT), "{error}");
    // What is no JSON.
    let (base, _) = in_turn(vec![|| "surprise".into_response()]).await;
    assert!(matches!(client(&base).balance().await, Err(RestError::Answer(_))));
}

#[tokio::test]
async fn the_secondary_token_is_promoted_once() {
    // S3-16.
    let asked = Arc::<AtomicUsize>::default();
    let counter = asked.clone();
    let promote = move || {
        let attempt = counter.fetch_add(1, Ordering::Relaxed);
        async move { if attempt == 0 { (StatusCode::OK, r#"{"auth_token": "x"}"#).into_response() } else { broken() } }
    };
    let base = serve(Router::new().route("/v1/AuthTokens/Promote", axum::routing::post(promote))).await;
    client(&base).promote_secondary_token().await.unwrap();
    assert!(client(&base).promote_secondary_token().await.is_err());
    assert_eq!(asked.load(Ordering::Relaxed), 2, "an unclear answer is not asked for again");
}

#[tokio::test]
async fn a_request_without_answer_may_have_been_carried_out() {
    use tokio::io::AsyncReadExt as _;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let it = client(&format!("http://{}", listener.local_addr().unwrap()));
    let asked = Arc::<AtomicUsize>::default();
    let counter = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.read(&mut [0; 4096]).await;
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    let document = Document::Url("https://phone.example.com/x".into());
    let error = it.create_call(&NewCall::new("+40711111111", "+40312345678", document)).await.unwrap_err();
    assert!(matches!(error, RestError::Unclear(_)) && !error.is_passing(), "{error}");
    assert_eq!(asked.load(Ordering::Relaxed), 1, "nobody is called twice");
    assert!(matches!(it.balance().await, Err(RestError::Unclear(_))));
    assert_eq!(asked.load(Ordering::Relaxed), 1 + 4, "a question may be asked again");
}

#[tokio::test]
async fn pages_are_followed_within_the_account_only() {
    static PAGE: AtomicUsize = AtomicUsize::new(0);
    let page = || {
        let next = match PAGE.fetch_add(1, Ordering::Relaxed) {
            0 => json!(format!("/2010-04-01/Accounts/{ACCOUNT}/Calls.json?Page=1&PageToken=PAx")),
            1 => json!("/2010-04-01/Accounts/ACbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb/Calls.json"),
            _ => Value::Null,
        };
        json!({"calls": [{"sid": CALL, "status": "completed"}], "next_page_uri": next}).to_string().into_response()
    };
    let (base, asked) = in_turn(vec![page]).await;
    let it = client(&base);
    let first = it.calls(&CallFilter::default()).await.unwrap();
    let second = it.next_calls(&first).await.unwrap().unwrap();
    assert_eq!((first.items.len(), second.items.len()), (1, 1));
    assert!(it.next_calls(&second).await.is_err(), "somebody else's");
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    let last = it.calls(&CallFilter::default()).await.unwrap();
    assert!(it.next_calls(&last).await.unwrap().is_none());
}

#[tokio::test]
async fn what_cannot_be_right_is_told_before_anybody_is_asked() {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let it = client("https://api.twilio.com");
    let refused = |error: RestError| matches!(error, RestError::Request { .. });
    let document = || Document::Url("https://phone.example.com/x".into());
    let call = |document| NewCall::new("+40711111111", "+40312345678", document);
    for wrong in [
        call(Document::Url("/relative".into())),
        call(Document::Twiml(twiml::Response::new().with(Say::new("x".repeat(4000))).unwrap())),
        NewCall { timeout: Some(601), ..call(document()) },
        NewCall { send_digits: Some("1".repeat(33)), ..call(document()) },
        NewCall { amd: Some(Amd { message_end: false, callback: None, timeout: Some(2) }), ..call(document()) },
    ] {
        assert!(refused(it.create_call(&wrong).await.unwrap_err()));
    }
    assert!(refused(it.call("../Balance").await.unwrap_err()) && refused(it.number(CALL).await.unwrap_err()));
    assert!(refused(it.message(CALL).await.unwrap_err()) && refused(it.recording("RE1").await.unwrap_err()));
    assert!(refused(it.available_numbers("../", NumberKind::Local, &NumberSearch::default()).await.unwrap_err()));
    let account = |sid: &str| Account { sid: sid.into(), key: Key::AuthToken(String::from("t").into()) };
    assert!(Rest::new(account("SKaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"), "https://api.twilio.com").is_err());
    assert!(Rest::new(account(ACCOUNT), "api.twilio.com").is_err());
}
