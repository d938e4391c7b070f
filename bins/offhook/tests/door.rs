//! What strangers try at the door: nothing is let in, and no provider session is ever opened for them.

use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http_body_util::Full;
use hyper::Request;
use offhook::stage::{ACCOUNT, AUTH_TOKEN, CALLED, Format, Options, Provider, Stage, TENANT};
use serde_json::{Value, json};
use sim::{Moment, Network};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use twilio::{Algorithm, Body, sign};

const CALL_SID: &str = "CA00000000000000000000000000000009";

struct Door {
    stage: Stage,
    net: Network,
    base: String,
}

fn at_the_door<F: Future<Output = Door>>(story: impl FnOnce(Door) -> F) {
    at_the_door_under("", story);
}

fn at_the_door_under<F: Future<Output = Door>>(prefix: &str, story: impl FnOnce(Door) -> F) {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::pause();
        let net = Network::memory();
        let simulated = Options::simulated(Provider::Openai, Format::Ulaw, folder.path());
        // What strangers can make us pay for must not hide behind what was opened for the call.
        let options = Options { prefix: prefix.into(), network: net.clone(), prepare: false, ..simulated };
        let stage = Stage::set(&options).await.unwrap();
        let base = format!("http://{}{prefix}", stage.address);
        let door = story(Door { stage, net, base }).await;
        assert_eq!(door.stage.server.bridge.directory().live(), 0);
        door.stage.strike().await;
    });
}

type Socket = WebSocketStream<sim::BoxIo>;

impl Door {
    fn parameters(&self) -> Vec<(String, String)> {
        [("CallSid", CALL_SID), ("AccountSid", ACCOUNT), ("From", "+15550100001"), ("To", CALLED), ("CallStatus", "ringing")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    async fn send(&self, method: &str, path: &str, parameters: &[(String, String)], signature: Option<&str>) -> (u16, String) {
        let body =
            parameters.iter().map(|(name, value)| format!("{name}={}", value.replace('+', "%2B"))).collect::<Vec<_>>().join("&");
        let mut request = Request::builder().method(method).uri(path).header("host", "test");
        if let Some(signature) = signature {
            request = request.header("x-twilio-signature", signature);
        }
        let request =
            request.header("content-type", "application/x-www-form-urlencoded").body(Full::new(Bytes::from(body))).unwrap();
        let response = sim::web::send(&self.net, "127.0.0.1", self.stage.address.port(), request).await.unwrap();
        (response.status().as_u16(), String::from_utf8_lossy(response.body()).into_owned())
    }

    fn signature(&self, path: &str, parameters: &[(String, String)]) -> String {
        sign(Algorithm::HmacSha1, AUTH_TOKEN, &format!("{}{path}", self.base), Body::Form(parameters))
    }

    /// A voice webhook as Twilio sends it; returns what the stream is to be told.
    async fn expected_call(&self) -> Vec<(String, String)> {
        let parameters = self.parameters();
        let signature = self.signature("/twilio/voice", &parameters);
        let (status, document) = self.send("POST", "/twilio/voice", &parameters, Some(&signature)).await;
        assert_eq!(status, 200, "{document}");
        let parts = document.split("<Parameter name=\"").skip(1);
        let parameters: Vec<(String, String)> = parts
            .map(|it| {
                let (name, rest) = it.split_once("\" value=\"").unwrap();
                (name.to_owned(), rest.split('"').next().unwrap().to_owned())
            })
            .collect();
        assert_eq!(parameters.len(), 2);
        parameters
    }

    async fn socket(&self, signed: bool) -> Result<Socket, u16> {
        let url = format!("ws://{}/twilio-stream", self.stage.address);
        let mut request = url.as_str().into_client_request().unwrap();
        if signed {
            let signature = sign(Algorithm::HmacSha1, AUTH_TOKEN, &url, Body::None);
            request.headers_mut().insert("x-twilio-signature", signature.parse().unwrap());
        }
        let io = self.net.connect("127.0.0.1", self.stage.address.port()).await.unwrap();
        match tokio_tungstenite::client_async(request, io).await {
            Ok((socket, _)) => Ok(socket),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    async fn start(&self, socket: &mut Socket, call_sid: &str, parameters: &[(String, String)]) {
        let custom: Value = parameters.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
        let start = json!({
            "event": "start", "sequenceNumber": "1", "streamSid": "MZ1",
            "start": {"accountSid": ACCOUNT, "streamSid": "MZ1", "callSid": call_sid, "tracks": ["inbound"],
                "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}, "customParameters": custom},
        });
        let connected = json!({"event": "connected", "protocol": "Call", "version": "1.0.0"});
        socket.send(Message::text(connected.to_string())).await.unwrap();
        socket.send(Message::text(start.to_string())).await.unwrap();
    }

    fn sessions(&self) -> usize {
        self.stage.timeline.count(|it| *it == Moment::SessionOpened)
    }
}

/// How the server closed the socket; `None` when it did not within ten seconds.
async fn close_code(socket: &mut Socket) -> Option<u16> {
    let closing = async {
        while let Some(message) = socket.next().await {
            if let Ok(Message::Close(Some(frame))) = message {
                return Some(u16::from(frame.code));
            }
        }
        None
    };
    tokio::time::timeout(Duration::from_secs(10), closing).await.ok().flatten()
}

#[test]
fn no_webhook_is_believed_without_its_signature() {
    at_the_door(|door| async {
        let parameters = door.parameters();
        let mut tampered = parameters.clone();
        tampered[3].1 = "+15559999999".into();
        for path in ["/twilio/voice", "/twilio/status", "/twilio/next/x/0", "/twilio/stream-status/x"] {
            let good = door.signature(path, &parameters);
            let elsewhere = door.signature("/twilio/elsewhere", &parameters);
            for (what, sent, signature) in [
                ("none", &parameters, None),
                ("empty", &parameters, Some("")),
                ("nonsense", &parameters, Some("nonsense")),
                ("another address", &parameters, Some(elsewhere.as_str())),
                ("changed parameters", &tampered, Some(good.as_str())),
            ] {
                let (status, body) = door.send("POST", path, sent, signature).await;
                assert_eq!(status, 403, "{path} with {what}: {body}");
                assert!(!body.contains("<Response"), "{body}");
            }
            assert_eq!(door.send("GET", path, &[], None).await.0, 405, "{path}");
        }
        door.stage.server.ledger.journal().flush().await;
        assert_eq!(door.stage.server.store.tenant(TENANT).calls(10).await.unwrap().len(), 0, "no row was written");
        door
    });
}

#[test]
fn fifty_thousand_mutations_of_a_signed_webhook_are_refused_and_leave_nothing() {
    at_the_door(|door| async {
        let parameters = door.parameters();
        let signature = door.signature("/twilio/voice", &parameters);
        // A generator of our own: a failure prints the round.
        let mut state = 0x9E37_79B9_u32;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as usize % below
        };
        for round in 0..50_000 {
            let mut changed = parameters.clone();
            let mut with = signature.clone();
            match random(5) {
                0 => drop(changed.remove(random(5))),
                1 => changed.push((format!("Extra{round}"), "1".into())),
                2 => {
                    let at = random(5);
                    let value = &mut changed[at].1;
                    let at = random(value.len());
                    let old = value.as_bytes()[at];
                    value.replace_range(at..=at, if old == b'7' { "8" } else { "7" });
                }
                3 => {
                    let at = random(5);
                    changed[at].0.push('x');
                }
                _ => {
                    let at = random(27);
                    let old = with.as_bytes()[at];
                    with.replace_range(at..=at, if old == b'A' { "B" } else { "A" });
                }
            }
            let (status, _) = door.send("POST", "/twilio/voice", &changed, Some(&with)).await;
            assert_eq!(status, 403, "round {round}: {changed:?} {with}");
        }
        door.stage.server.ledger.journal().flush().await;
        assert!(door.stage.server.store.tenant(TENANT).calls(1).await.unwrap().is_empty(), "no row");
        door
    });
}

#[test]
fn the_media_socket_takes_a_signature_and_a_token() {
    at_the_door(|door| async {
        assert_eq!(door.socket(false).await.err(), Some(403), "an upgrade without signature");
        let known = door.expected_call().await;
        let wrong_token = vec![known[0].clone(), ("token".into(), "0".repeat(64))];
        let wrong_call = vec![("call".into(), "01234567-0000-7000-8000-000000000000".into()), known[1].clone()];
        for (what, call_sid, parameters) in [
            ("no token", CALL_SID, Vec::new()),
            ("only the call", CALL_SID, vec![known[0].clone()]),
            ("a wrong token", CALL_SID, wrong_token),
            ("a token for another call", CALL_SID, wrong_call),
            ("another call SID", "CA00000000000000000000000000000666", known.clone()),
        ] {
            let mut socket = door.socket(true).await.unwrap();
            door.start(&mut socket, call_sid, &parameters).await;
            assert_eq!(close_code(&mut socket).await, Some(1008), "{what}");
        }
        assert_eq!(door.sessions(), 0, "nobody paid for that");
        // The token was not used up by failures; it works once, and only once.
        let mut socket = door.socket(true).await.unwrap();
        door.start(&mut socket, CALL_SID, &known).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(door.sessions(), 1);
        let mut replay = door.socket(true).await.unwrap();
        door.start(&mut replay, CALL_SID, &known).await;
        assert_eq!(close_code(&mut replay).await, Some(1008), "a used token");
        assert_eq!(door.stage.server.bridge.directory().live(), 1, "the first stream lives");
        socket.close(None).await.unwrap();
        door.stage.server.bridge.idle().await;
        assert_eq!(door.sessions(), 1);
        door
    });
}

#[test]
fn two_sockets_that_race_for_one_token_make_one_call() {
    // C-56.
    at_the_door(|door| async {
        let known = door.expected_call().await;
        let mut sockets = Vec::new();
        for _ in 0..20 {
            sockets.push(door.socket(true).await.unwrap());
        }
        for socket in &mut sockets {
            door.start(socket, CALL_SID, &known).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!((door.sessions(), door.stage.server.bridge.directory().live()), (1, 1));
        drop(sockets);
        door.stage.server.bridge.idle().await;
        door
    });
}

#[test]
fn a_socket_that_says_nothing_or_nonsense_is_closed() {
    // C-19.
    at_the_door(|door| async {
        let mut silent = door.socket(true).await.unwrap();
        assert_eq!(close_code(&mut silent).await, Some(1008), "silence");
        let known = door.expected_call().await;
        for nonsense in ["{", "{}", r#"{"event":"media","media":{"payload":"/w=="}}"#] {
            let mut socket = door.socket(true).await.unwrap();
            socket.send(Message::text(nonsense)).await.unwrap();
            assert_eq!(close_code(&mut socket).await, Some(1008), "{nonsense}");
        }
        let mut socket = door.socket(true).await.unwrap();
        let start = json!({"event": "start", "start": {"accountSid": ACCOUNT, "streamSid": "MZ1", "callSid": CALL_SID,
            "mediaFormat": {"encoding": "audio/x-l16", "sampleRate": 16000, "channels": 1}, "customParameters": {"call": known[0].1, "token": known[1].1}}});
        socket.send(Message::text(start.to_string())).await.unwrap();
        assert_eq!(close_code(&mut socket).await, Some(1008), "another format");
        assert_eq!(door.sessions(), 0);
        door
    });
}

#[test]
fn a_token_is_void_after_a_minute() {
    at_the_door(|door| async {
        let known = door.expected_call().await;
        tokio::time::sleep(Duration::from_secs(61)).await;
        let mut socket = door.socket(true).await.unwrap();
        door.start(&mut socket, CALL_SID, &known).await;
        assert_eq!(close_code(&mut socket).await, Some(1008));
        assert_eq!(door.sessions(), 0);
        door
    });
}

#[test]
fn a_flood_ends_its_own_call_and_no_other() {
    at_the_door(|door| async {
        let known = door.expected_call().await;
        let mut flood = door.socket(true).await.unwrap();
        door.start(&mut flood, CALL_SID, &known).await;
        let frame = json!({"event": "media", "streamSid": "MZ1", "media": {"track": "inbound", "payload": "/w=="}}).to_string();
        let mut sent = 0;
        while sent < 5000 && flood.feed(Message::text(frame.clone())).await.is_ok() {
            sent += 1;
        }
        let _ = flood.flush().await;
        assert_eq!(close_code(&mut flood).await, Some(1008));
        door.stage.server.bridge.idle().await;
        door.stage.server.ledger.journal().flush().await;
        let rows = door.stage.server.store.tenant(TENANT).calls(10).await.unwrap();
        assert_eq!(rows[0].end_reason.as_deref(), Some("caller_misbehaved"));
        let outcome =
            door.stage.telephone.ring("+15550100001", CALLED, "hear greeting\npress 9\nhear farewell".parse().unwrap()).await;
        assert_eq!(outcome.steps, (3, 3));
        door.stage.server.bridge.idle().await;
        door
    });
}

#[test]
fn who_breaks_the_protocol_is_told_so_by_the_close() {
    for (message, times, code) in [("{\"event\": garbage".to_owned(), 10, 1008), ("x".repeat(65 * 1024), 1, 1009)] {
        at_the_door(|door| async {
            let known = door.expected_call().await;
            let mut socket = door.socket(true).await.unwrap();
            door.start(&mut socket, CALL_SID, &known).await;
            for _ in 0..times {
                // Nobody reads the rest of what is too long.
                let _ = socket.send(Message::text(message.clone())).await;
            }
            assert_eq!(close_code(&mut socket).await, Some(code));
            door.stage.server.bridge.idle().await;
            door
        });
    }
}

#[test]
fn health_says_what_the_sources_say_and_large_bodies_are_refused() {
    at_the_door(|door| async {
        let json = |body: String| serde_json::from_str::<Value>(&body).unwrap();
        let (status, body) = door.send("GET", "/health", &[], None).await;
        assert_eq!(
            (status, json(body.clone())["status"].clone(), json(body)["integration"].clone()),
            (200, json!("healthy"), json!("twilio"))
        );
        let index = json(door.send("GET", "/", &[], None).await.1);
        assert!(index["message"].is_string() && index["docs"] == "/docs" && index["health"] == "/health");
        for path in ["/livez", "/readyz", "/docs/", "/openapi.json"] {
            assert_eq!(door.send("GET", path, &[], None).await.0, 200, "{path}");
        }
        let (_, metrics) = door.send("GET", "/metrics", &[], None).await;
        assert!(metrics.contains("offhook_calls_active 0") && metrics.ends_with("# EOF\n"), "{metrics}");
        assert_eq!(door.send("GET", "/nonsense", &[], None).await.0, 404);
        let large = vec![("Body".to_owned(), "x".repeat(70_000))];
        assert_eq!(door.send("POST", "/twilio/voice", &large, Some("x")).await.0, 413);
        door.stage.server.bridge.close();
        let (status, body) = door.send("GET", "/readyz", &[], None).await;
        assert_eq!((status, json(body)["reasons"][0].clone()), (503, json!("shutting down")));
        door
    });
}

#[test]
fn a_proxy_may_take_the_prefix_away() {
    at_the_door_under("/voiceclone", |door| async {
        let parameters = door.parameters();
        // Twilio signs the public address, whatever the proxy makes of it.
        let signature = door.signature("/twilio/voice", &parameters);
        for path in ["/voiceclone/twilio/voice", "/twilio/voice"] {
            let (status, document) = door.send("POST", path, &parameters, Some(&signature)).await;
            assert_eq!(status, 200, "{path}");
            assert!(
                document.contains("/voiceclone/twilio-stream") && document.contains("/voiceclone/twilio/next/"),
                "{document}"
            );
        }
        door
    });
}

#[test]
fn webhooks_that_come_at_the_same_time_get_one_answer() {
    // C-55: who answers a webhook decides alone.
    at_the_door(|door| async {
        let parameters = door.parameters();
        let signature = door.signature("/twilio/voice", &parameters);
        let ask = || door.send("POST", "/twilio/voice", &parameters, Some(&signature));
        let (a, b, c) = tokio::join!(ask(), ask(), ask());
        assert_eq!((&a, &b), (&b, &c), "one call, one token");
        let known = door.expected_call().await;
        let mut socket = door.socket(true).await.unwrap();
        door.start(&mut socket, CALL_SID, &known).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(door.sessions(), 1);
        drop(socket);
        door.stage.server.bridge.idle().await;
        door
    });
}

#[test]
fn query_and_repeated_keys_are_part_of_what_is_signed() {
    at_the_door(|door| async {
        let mut parameters = door.parameters();
        parameters.extend(
            [("Tag", "b"), ("Tag", "a"), ("Tag", "a"), ("Empty", "")].map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        let signature = door.signature("/twilio/status?agent=front%20desk&n=1", &parameters);
        for (path, status) in [
            ("/twilio/status?agent=front%20desk&n=1", 204),
            ("/twilio/status?agent=front%20desk&n=2", 403),
            ("/twilio/status?agent=front+desk&n=1", 403),
            ("/twilio/status?n=1&agent=front%20desk", 403),
            ("/twilio/status", 403),
        ] {
            assert_eq!(door.send("POST", path, &parameters, Some(&signature)).await.0, status, "{path}");
        }
        let at = parameters.iter().position(|it| it.1 == "b").unwrap();
        parameters[at].1 = "c".into();
        assert_eq!(door.send("POST", "/twilio/status?agent=front%20desk&n=1", &parameters, Some(&signature)).await.0, 403);
        door
    });
}

#[test]
fn older_addresses_are_answered_and_a_failed_one_has_a_fallback() {
    // S0-01, S2-01, S2-03, S3-01, S4-01, S4-02.
    at_the_door(async |door| {
        for (index, path) in control::VOICE_PATHS.iter().enumerate() {
            let mut parameters = door.parameters();
            parameters[0].1 = format!("CA{index:032}");
            let signature = door.signature(path, &parameters);
            let (status, document) = door.send("POST", path, &parameters, Some(&signature)).await;
            assert!(status == 200 && document.contains("<Connect"), "{path}: {status} {document}");
            parameters[4].1 = "completed".into();
            for path in control::STATUS_PATHS {
                let signature = door.signature(path, &parameters);
                assert_eq!(door.send("POST", path, &parameters, Some(&signature)).await.0, 204, "{path}");
                assert_eq!(door.send("POST", path, &parameters, None).await.0, 403, "{path}");
            }
        }
        // Nobody but Twilio is answered there either.
        let path = control::FALLBACK_PATH;
        let parameters = door.parameters();
        assert_eq!(door.send("POST", path, &parameters, None).await.0, 403);
        door.stage.server.store.close().await;
        let signature = door.signature(path, &parameters);
        let (status, document) = door.send("POST", path, &parameters, Some(&signature)).await;
        assert!(status == 200 && document.contains("We are sorry") && document.contains("<Hangup/>"), "{status} {document}");
        // Streams that nobody opens are given up.
        tokio::time::sleep(Duration::from_secs(40)).await;
        door
    });
}
