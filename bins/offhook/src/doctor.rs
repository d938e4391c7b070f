//! `offhook doctor`: everything that a first call needs, looked at before the call, with what to do about what is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use bridge::AssistantPlan;
use desk::{Answered, Document};
use reqwest::{Client, StatusCode, redirect};
use secrecy::ExposeSecret as _;
use serde::Serialize;
use serde_json::Value;
use store::Store;
use twilio::rest::{Number, Rest, RestError};
use twilio::{Algorithm, Body, sign};

use crate::capacity;
use crate::config::Config;

const TIMEOUT: Duration = Duration::from_secs(10);
/// Twilio's signatures and tokens bear a few minutes; a clock that is further off is worth mending before.
const SKEW_MAX_S: i64 = 30;
/// Numbers that are listed one by one.
const NUMBERS_MAX: usize = 200;
/// Models and agents that are asked about.
const PROVIDERS_MAX: usize = 50;

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// It works, and somebody should look.
    Warning,
    /// Calls will fail.
    Failed,
    /// Not looked at, for the reason that is told.
    Skipped,
}

/// What a check found.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub verdict: Verdict,
    pub found: String,
    /// What to do.
    pub fix: Option<String>,
}

fn finding(check: &'static str, verdict: Verdict, found: impl Into<String>, fix: Option<&str>) -> Finding {
    Finding { check, verdict, found: found.into(), fix: fix.map(str::to_owned) }
}

fn ok(check: &'static str, found: impl Into<String>) -> Finding {
    finding(check, Verdict::Ok, found, None)
}

fn failed(check: &'static str, found: impl Into<String>, fix: &str) -> Finding {
    finding(check, Verdict::Failed, found, Some(fix))
}

fn skipped(check: &'static str, found: impl Into<String>) -> Finding {
    finding(check, Verdict::Skipped, found, None)
}

/// Looks at everything; nothing is changed anywhere.
pub async fn examine(config: &Config) -> Vec<Finding> {
    let mut found = Vec::new();
    for warning in &config.warnings {
        found.push(finding("settings", Verdict::Warning, warning, None));
    }
    if config.warnings.is_empty() {
        found.push(ok("settings", "nothing is wrong with them, no model is about to end"));
    }
    let http = Client::builder().timeout(TIMEOUT).redirect(redirect::Policy::none()).build();
    let Ok(http) = http else {
        found.push(failed("network", "no requests can be made", "look at the system's certificates"));
        return found;
    };
    found.push(capacity(config));
    found.push(disk(&config.places.data_dir));
    let (database, published) = database(config).await;
    found.extend(database);
    found.extend(public_address(config, &http).await);
    found.extend(providers(config, &published, &http).await);
    found.extend(account(config, &published.into_keys().collect()).await);
    found
}

/// How many calls this machine carries, and how many it is told to.
fn capacity(config: &Config) -> Finding {
    let (cores, measured, share) = (capacity::cores(), capacity::CALLS_PER_CORE, capacity::SHARE_PERCENT);
    let carries = capacity::calls_max(cores);
    let facts = format!(
        "{cores} core(s): {carries} calls at a time, {share} % of the {measured} a core that a fast machine was measured to carry with everything on"
    );
    match config.calls_max {
        None => ok("capacity", facts),
        Some(told) if told <= cores * measured => ok("capacity", format!("{facts}; told to take {told}")),
        Some(told) => {
            let fix = "set OFFHOOK_MAX_CALLS to auto, or measure this machine: cargo xtask bench";
            finding("capacity", Verdict::Warning, format!("{facts}; told to take {told}"), Some(fix))
        }
    }
}

fn disk(folder: &Path) -> Finding {
    let disk = desk::Disk::new(folder.to_owned());
    if let Err(error) = disk.look() {
        let fix = "make the folder, and let this user write into it, or set OFFHOOK_DATA_DIR";
        return failed("disk", format!("{}: {error}", folder.display()), fix);
    }
    let free = format!("{} GiB free in {}", disk.free() >> 30, folder.display());
    let fix = "make room: OFFHOOK_RECORDING_DAYS deletes old recordings, OFFHOOK_OBJECTS moves them to a bucket";
    if !disk.has_room_for_calls() {
        return failed("disk", free, fix);
    }
    let verdict = if disk.free() < 1 << 30 { Verdict::Warning } else { Verdict::Ok };
    finding("disk", verdict, free, (verdict == Verdict::Warning).then_some(fix))
}

/// The database, what tenants have published in it, and their numbers.
async fn database(config: &Config) -> (Vec<Finding>, BTreeMap<String, Answered>) {
    let fix = "give the right DATABASE_URL, start the database, or run `offhook migrate`: the error says which";
    let none = BTreeMap::new();
    let store = match Store::open(config.places.database_url.expose_secret()).await {
        Ok(store) => store,
        Err(error) => return (vec![failed("database", error.to_string(), fix)], none),
    };
    // A server that is away is no error for calls: here it is one.
    let asked = async { Ok::<_, store::StoreError>((store.nodes().await?, store.configurations().await?)) }.await;
    store.close().await;
    let (nodes, published) = match asked {
        Ok(it) => it,
        Err(error) => return (vec![failed("database", error.to_string(), fix)], none),
    };
    let others = nodes.iter().filter(|it| it.silent_ms < 10_000).count();
    let mut found = vec![ok("database", format!("it answers, its schema is right; {others} servers are running on it"))];
    let mut numbers = BTreeMap::new();
    for it in published {
        let read = Document::read(&it.body).map_err(|error| vec![error]);
        match read.and_then(|document| document.compile(&it.tenant, &config.settings.templates)) {
            Ok(published) => numbers.extend(published.numbers),
            Err(problems) => {
                let told = format!("version {} of {} cannot be used: {}", it.version, it.tenant, problems.join("; "));
                found.push(failed("tenants", told, "publish one that can be, or give this server the providers that it names"));
            }
        }
    }
    (found, numbers)
}

/// The way that Twilio comes: address, encryption, upgrade, signatures.
async fn public_address(config: &Config, http: &Client) -> Vec<Finding> {
    let url = &config.settings.public_url;
    let start = "start `offhook serve`, or the tunnel or proxy in front of it; PUBLIC_URL must be its address";
    let address = url.http("/livez");
    let answer = match http.get(&address).send().await {
        Ok(answer) => answer,
        Err(error) => {
            let tls =
                if url.is_https() { "; a certificate that this machine does not believe is refused by Twilio too" } else { "" };
            let found = format!("{address} does not answer: {}{tls}", error.without_url());
            return vec![
                failed("public address", found, start),
                skipped("signatures", "the public address does not answer"),
                skipped("media socket", "the public address does not answer"),
            ];
        }
    };
    let mut found = Vec::new();
    if answer.status() != StatusCode::OK {
        let told = format!("{address} answers {}", answer.status());
        found.push(failed(
            "public address",
            told,
            "something else answers there: let it pass everything below the address on to offhook",
        ));
    } else if url.is_https() {
        found.push(ok("public address", format!("{address} answers, its certificate is believed")));
    } else {
        let fix = "Twilio needs https, unless this is a simulator";
        found.push(finding("public address", Verdict::Warning, format!("{address} answers, unencrypted"), Some(fix)));
    }
    match config.auth_tokens.first() {
        Some(token) => {
            found.push(signatures(url, token.expose_secret(), http).await);
            found.push(media_socket(&config.settings.node_url, token.expose_secret(), http).await);
        }
        None => {
            found.push(finding(
                "signatures",
                Verdict::Warning,
                "they are not checked: everybody is believed",
                Some("unset SKIP_WEBHOOK_SIGNATURE_VALIDATION"),
            ));
            found.push(skipped("media socket", "signatures are not checked"));
        }
    }
    found
}

/// What time it is where a provider is.
fn note_date(answer: &reqwest::Response, date: &mut Option<String>) {
    if let Some(told) = answer.headers().get("date").and_then(|it| it.to_str().ok()) {
        *date = Some(told.to_owned());
    }
}

fn clock(date: Option<&str>) -> Finding {
    let told = date.and_then(|it| jiff::fmt::rfc2822::parse(it).ok());
    let Some(told) = told else { return skipped("clock", "no provider has told the time") };
    let skew = jiff::Timestamp::now().as_second() - told.timestamp().as_second();
    if skew.abs() > SKEW_MAX_S {
        return failed(
            "clock",
            format!("this machine is {skew} s off the provider's"),
            "let the system set its clock by the network (NTP)",
        );
    }
    ok("clock", format!("within {} s of the provider's", skew.abs().max(1)))
}

/// A callback about a call that does not exist, signed and not: the first must be believed, the second must not.
async fn signatures(url: &desk::PublicUrl, token: &str, http: &Client) -> Finding {
    let address = url.http("/twilio/status");
    let form: [(String, String); 3] = [("CallSid", "CAdoctor"), ("AccountSid", "ACdoctor"), ("CallStatus", "ringing")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let body = form.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
    let post = |signature: String| {
        let request = http.post(&address).header("content-type", "application/x-www-form-urlencoded");
        request.header("x-twilio-signature", signature).body(body.clone()).send()
    };
    let good = post(sign(Algorithm::HmacSha1, token, &address, Body::Form(&form))).await;
    let bad = post("bm90IGEgc2lnbmF0dXJl".into()).await;
    let proxy = "the proxy changes scheme, host, path or query: PUBLIC_URL must be the very address that is called, prefix included; \
                 the server's log names the one it checked";
    match (good.map(|it| it.status()), bad.map(|it| it.status())) {
        (Ok(good), Ok(bad)) if good.is_success() && bad == StatusCode::FORBIDDEN => {
            ok("signatures", "a signed request is believed, a forged one is not")
        }
        (Ok(good), Ok(_)) if good == StatusCode::FORBIDDEN => {
            failed("signatures", "a rightly signed request is refused: another auth token there, or another address", proxy)
        }
        (Ok(_), Ok(bad)) if bad.is_success() => {
            failed("signatures", "a forged request is believed", "unset SKIP_WEBHOOK_SIGNATURE_VALIDATION on the server")
        }
        (good, bad) => {
            let told =
                |it: Result<StatusCode, reqwest::Error>| it.map_or_else(|it| it.without_url().to_string(), |it| it.to_string());
            failed("signatures", format!("signed: {}; forged: {}", told(good), told(bad)), proxy)
        }
    }
}

/// A media socket as Twilio opens it; it is closed again at once.
async fn media_socket(url: &desk::PublicUrl, token: &str, http: &Client) -> Finding {
    let address = url.websocket("/twilio-stream");
    let request = http
        .get(url.http("/twilio-stream"))
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "b2ZmaG9vayBkb2N0b3IuLg==")
        .header("x-twilio-signature", sign(Algorithm::HmacSha1, token, &address, Body::None));
    let fix =
        "let the proxy pass WebSocket upgrades on: nginx needs `proxy_http_version 1.1` and the Upgrade and Connection headers";
    match request.send().await.map(|it| it.status()) {
        Ok(StatusCode::SWITCHING_PROTOCOLS) => ok("media socket", format!("{address} opens")),
        Ok(status) => failed("media socket", format!("{address} is answered {status} instead of 101"), fix),
        Err(error) => failed("media socket", format!("{address}: {}", error.without_url()), fix),
    }
}

/// Keys, models and agents of everybody who may answer a call; and the clock, by what the answers say.
async fn providers(config: &Config, published: &BTreeMap<String, Answered>, http: &Client) -> Vec<Finding> {
    let (mut found, mut date) = (Vec::new(), None);
    let settings = &config.settings;
    let answering = settings.routes.values().chain(&settings.fallback);
    let answering = answering.chain(published.values().flat_map(|it| it.ladder.assistants()));
    // By what is asked of the provider: assistants with words of their own have the model in common.
    let mut used = BTreeMap::new();
    for plan in answering.flat_map(|it| &it.assistants) {
        let asked = match plan {
            AssistantPlan::OpenAi(it) => (0, it.model.clone()),
            AssistantPlan::Live(it) => (1, it.model.clone()),
            AssistantPlan::ElevenLabs(it) => (2, it.agent_id.clone()),
        };
        used.insert(asked, plan);
    }
    for plan in used.values().take(PROVIDERS_MAX) {
        found.push(match plan {
            AssistantPlan::OpenAi(it) => model(http, "OpenAI", &it.url, &it.model, it.api_key.expose_secret(), &mut date).await,
            AssistantPlan::Live(it) => {
                model(http, "OpenAI Live", &it.url, &it.model, it.api_key.expose_secret(), &mut date).await
            }
            AssistantPlan::ElevenLabs(it) => agent(http, it, &mut date).await,
        });
    }
    found.push(clock(date.as_deref()));
    found
}

/// Whether the key may use the model.
async fn model(
    http: &Client,
    check: &'static str,
    socket: &url::Url,
    model: &str,
    key: &str,
    date: &mut Option<String>,
) -> Finding {
    let Some(base) = socket.as_str().split("/v1/").next().filter(|_| socket.path().starts_with("/v1/")) else {
        return skipped(
            check,
            format!("{} is not OpenAI's own address: it cannot be asked about models", socket.host_str().unwrap_or_default()),
        );
    };
    let address = format!("{}/v1/models/{model}", base.replacen("ws", "http", 1));
    let answer = http.get(&address).bearer_auth(key).send().await;
    if let Ok(answer) = &answer {
        note_date(answer, date);
    }
    match answer.map(|it| it.status()) {
        Ok(StatusCode::OK) => ok(check, format!("the key may use {model}")),
        Ok(StatusCode::UNAUTHORIZED) => {
            failed(check, "the key is refused", "set OPENAI_API_KEY to a key of the project that pays")
        }
        Ok(StatusCode::NOT_FOUND) => failed(
            check,
            format!("the key's project has no model {model}"),
            "choose another one, or have the project allowed to use it",
        ),
        Ok(status) => {
            finding(check, Verdict::Warning, format!("{address} answers {status}"), Some("look at the provider's status page"))
        }
        Err(error) => failed(
            check,
            format!("{address} does not answer: {}", error.without_url()),
            "let this machine reach the provider over https",
        ),
    }
}

/// Whether the agent is there, and speaks as telephones do.
async fn agent(http: &Client, plan: &bridge::ElevenLabsPlan, date: &mut Option<String>) -> Finding {
    const CHECK: &str = "ElevenLabs";
    let Some(key) = &plan.api_key else { return skipped(CHECK, "without a key a public agent cannot be looked at") };
    let address = format!("{}/v1/convai/agents/{}", plan.base_url.as_str().trim_end_matches('/'), plan.agent_id);
    let answer = match http.get(&address).header("xi-api-key", key.expose_secret()).send().await {
        Ok(answer) => {
            note_date(&answer, date);
            answer
        }
        Err(error) => {
            let found = format!("{address} does not answer: {}", error.without_url());
            return failed(CHECK, found, "let this machine reach the provider over https");
        }
    };
    match answer.status() {
        StatusCode::OK => (),
        StatusCode::UNAUTHORIZED => {
            return failed(CHECK, "the key is refused", "set ELEVENLABS_API_KEY to a key that may use agents");
        }
        StatusCode::NOT_FOUND => return failed(CHECK, format!("there is no agent {}", plan.agent_id), "set ELEVENLABS_AGENT_ID"),
        status => {
            return finding(
                CHECK,
                Verdict::Warning,
                format!("{address} answers {status}"),
                Some("look at the provider's status page"),
            );
        }
    }
    let agent: Value = match answer.text().await.ok().and_then(|it| serde_json::from_str(&it).ok()) {
        Some(agent) => agent,
        None => return finding(CHECK, Verdict::Warning, "the agent's description is not understood", None),
    };
    let formats = (
        agent.pointer("/conversation_config/tts/agent_output_audio_format").and_then(Value::as_str),
        agent.pointer("/conversation_config/asr/user_input_audio_format").and_then(Value::as_str),
    );
    match formats {
        (Some("ulaw_8000"), Some("ulaw_8000")) => ok(CHECK, "the agent is there, and speaks μ-law both ways"),
        (output, input) => {
            let told = format!("the agent speaks {} and hears {}: it is converted", output.unwrap_or("?"), input.unwrap_or("?"));
            finding(
                CHECK,
                Verdict::Warning,
                told,
                Some("set both of the agent's audio formats to ulaw_8000: nothing is converted then"),
            )
        }
    }
}

/// The Twilio account, and how its numbers are wired.
async fn account(config: &Config, published: &BTreeSet<String>) -> Vec<Finding> {
    let Some(rest) = &config.rest else {
        return vec![skipped("Twilio account", "TWILIO_ACCOUNT_SID is not set: the account and its numbers cannot be looked at")];
    };
    let mut found = match rest.account().await {
        Ok(it) if it.status != "active" => {
            vec![failed("Twilio account", format!("it is {}", it.status), "look at the account in the console")]
        }
        Ok(it) if it.kind == "Trial" => {
            let told = "it is a trial account: media streams are blocked there";
            vec![failed("Twilio account", told, "upgrade the account: a first call cannot work before")]
        }
        Ok(_) => vec![ok("Twilio account", "it is active, and the key is its own")],
        Err(error) => {
            return vec![failed("Twilio account", error.to_string(), "set TWILIO_ACCOUNT_SID with its auth token or API key")];
        }
    };
    match numbers(config, published, rest).await {
        Ok(numbers) => found.extend(numbers),
        Err(error) => found.push(failed("numbers", error.to_string(), "try again, or look at the numbers in the console")),
    }
    found
}

async fn numbers(config: &Config, published: &BTreeSet<String>, rest: &Rest) -> Result<Vec<Finding>, RestError> {
    let ours: BTreeSet<&String> = config.settings.routes.keys().chain(published).collect();
    let mut page = rest.numbers(None).await?;
    let mut all = Vec::new();
    loop {
        all.append(&mut page.items);
        match rest.next_numbers(&page).await? {
            Some(next) if all.len() < NUMBERS_MAX => page = next,
            _ => break,
        }
    }
    let mut found: Vec<Finding> = all
        .iter()
        .filter(|it| config.settings.fallback.is_some() || ours.contains(&it.phone_number))
        .map(|it| wiring(it, &config.settings.public_url))
        .collect();
    for number in ours.iter().filter(|number| !all.iter().any(|it| it.phone_number == ***number)) {
        let told = format!("{number} is answered here, and is none of the account's");
        found.push(finding("numbers", Verdict::Warning, told, Some("take it out of the settings, or buy it")));
    }
    if found.is_empty() {
        found.push(finding("numbers", Verdict::Warning, "the account has no number", Some("buy one in the console")));
    }
    Ok(found)
}

/// Whether Twilio asks us about a number.
fn wiring(number: &Number, url: &desk::PublicUrl) -> Finding {
    let name = &number.phone_number;
    let over = number.trunk_sid.as_ref().or(number.voice_application_sid.as_ref());
    if let Some(over) = over {
        let fix = "take the trunk or application away from the number: it overrides its addresses";
        return failed("numbers", format!("{name} is answered by {over}, not by its Voice URL"), fix);
    }
    let one_of = |paths: &[&str], address: &str| paths.iter().any(|it| url.http(it) == address);
    let [voice, status, fallback] =
        [control::VOICE_PATHS[0], control::STATUS_PATHS[0], control::FALLBACK_PATH].map(|it| url.http(it));
    let without_fragment =
        |it: &Option<String>| it.as_deref().and_then(|it| it.split('#').next()).unwrap_or("nothing").to_owned();
    let (is, tells) = (without_fragment(&number.voice_url), without_fragment(&number.status_callback));
    if !one_of(&control::VOICE_PATHS, &is) {
        let fix = format!("set its Voice URL to {voice} (POST)");
        return failed("numbers", format!("{name} asks {is} when it rings"), &fix);
    }
    if number.voice_method.as_deref().is_some_and(|it| it != "POST") {
        return failed("numbers", format!("{name} asks by GET when it rings"), "set the method of its Voice URL to POST");
    }
    if !one_of(&control::STATUS_PATHS, &tells) {
        let fix = format!("set its Status Callback to {status}: the end of calls is told there");
        return finding("numbers", Verdict::Warning, format!("{name} tells {tells} when a call is over"), Some(&fix));
    }
    if number.voice_fallback_url.is_none() {
        let fix = format!("set the fallback of its Voice URL to {fallback}, better that of another server or of a static file");
        return finding("numbers", Verdict::Warning, format!("{name} has nobody to ask when the Voice URL fails"), Some(&fix));
    }
    ok("numbers", format!("{name} is wired"))
}

/// For people.
pub fn table(findings: &[Finding]) -> String {
    let width = findings.iter().map(|it| it.check.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for it in findings {
        let mark = match it.verdict {
            Verdict::Ok => "✓",
            Verdict::Warning => "!",
            Verdict::Failed => "✗",
            Verdict::Skipped => "–",
        };
        text.push_str(&format!("{mark} {:<width$}  {}\n", it.check, it.found));
        if let Some(fix) = &it.fix {
            text.push_str(&format!("  {:<width$}  → {fix}\n", ""));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_wired_or_told_how() {
        let url = desk::PublicUrl::parse("https://phone.example.com").unwrap();
        let number = |json: &str| -> Number {
            let json = format!(r#"{{"sid": "PN1", "phone_number": "+40312345678", {json}}}"#);
            serde_json::from_str(&json).unwrap()
        };
        let wired = r#""voice_url": "https://phone.example.com/twilio/voice#rc=2", "status_callback": "https://phone.example.com/twilio/status", "voice_fallback_url": "https://static.example.com/sorry.xml""#;
        for (json, verdict, told) in [
            (wired.to_owned(), Verdict::Ok, "is wired"),
            (format!(r#"{wired}, "trunk_sid": "TK1""#), Verdict::Failed, "TK1"),
            (format!(r#"{wired}, "voice_method": "GET""#), Verdict::Failed, "GET"),
            (r#""voice_url": "https://old.example.com/voice""#.to_owned(), Verdict::Failed, "asks https://old.example.com/voice"),
            (wired.replace("/twilio/voice", "/webhooks/inbound"), Verdict::Ok, "is wired"),
            (wired.replace("https://static.example.com/sorry.xml", ""), Verdict::Warning, "nobody to ask"),
            (r#""voice_url": """#.to_owned(), Verdict::Failed, "asks nothing"),
            (r#""voice_url": "https://phone.example.com/twilio/voice""#.to_owned(), Verdict::Warning, "tells nothing"),
        ] {
            let found = wiring(&number(&json), &url);
            assert_eq!(found.verdict, verdict, "{found:?}");
            assert!(found.found.contains(told) && (verdict == Verdict::Ok || found.fix.is_some()), "{found:?}");
        }
    }

    #[test]
    fn a_clock_that_is_off_is_told() {
        assert_eq!(clock(Some("Fri, 20 Nov 2020 09:15:02 GMT")).verdict, Verdict::Failed);
        assert_eq!(clock(None).verdict, Verdict::Skipped);
        let now = jiff::fmt::rfc2822::to_string(&jiff::Zoned::now()).unwrap();
        assert_eq!(clock(Some(&now)).verdict, Verdict::Ok);
    }
}
