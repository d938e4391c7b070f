//! The simulators are as strict as the real ones: what a careless bridge would do is refused with the real codes.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, post};
use futures::{SinkExt as _, StreamExt as _};
use http::{StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sim::{Behaviour, BoxIo, CallOutcome, ElevenLabs, Moment, Network, OpenAi, OutputFormat, Speech, TelephoneNetwork, Timeline};
use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

const STREAM_SID: &str = "STREAM_SID";

fn virtual_time<F: Future>(story: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::pause();
        story.await
    })
}

/// What a careless server does on the media socket.
#[derive(Clone)]
enum Careless {
    Refuse,
    /// Sends these, with the stream's SID put in, then closes with the code after a second.
    Send(Vec<Message>, u16),
    Raw(Vec<u8>),
    Vanish,
    NeverRead,
}

/// A server that answers every webhook with a stream and is careless on it.
async fn careless(net: &Network, what: Careless) -> String {
    let (listener, address) = net.listen().await.unwrap();
    let document = format!(r#"<Response><Connect><Stream url="ws://{address}/media"/></Connect></Response>"#);
    let answer = move || async move { ([(header::CONTENT_TYPE, "text/xml")], document) };
    let router = Router::new()
        .route("/voice", post(answer))
        .route("/status", post(|| async { StatusCode::NO_CONTENT }))
        .route("/media", any(move |request: Request| async move { media(request, what) }));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    format!("http://{address}")
}

fn media(mut request: Request, what: Careless) -> Response {
    if matches!(what, Careless::Refuse) {
        return StatusCode::NOT_FOUND.into_response();
    }
    let key = request.headers()[header::SEC_WEBSOCKET_KEY].clone();
    let upgraded = request.extensions_mut().remove::<OnUpgrade>().unwrap();
    tokio::spawn(async move {
        let mut io = TokioIo::new(upgraded.await.unwrap());
        match what {
            Careless::Raw(bytes) => {
                io.write_all(&bytes).await.unwrap();
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            Careless::NeverRead => tokio::time::sleep(Duration::from_secs(600)).await,
            Careless::Vanish | Careless::Refuse => (),
            Careless::Send(messages, code) => {
                let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
                let mut sid = String::new();
                while sid.is_empty() {
                    let text = socket.next().await.unwrap().unwrap().into_text().unwrap();
                    let message: Value = serde_json::from_str(&text).unwrap();
                    sid = message["streamSid"].as_str().unwrap_or_default().to_owned();
                }
                for message in messages {
                    let message = match message {
                        Message::Text(text) => Message::text(text.replace(STREAM_SID, &sid)),
                        other => other,
                    };
                    socket.send(message).await.unwrap();
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
                let _ = socket.close(Some(CloseFrame { code: code.into(), reason: "".into() })).await;
                while let Some(Ok(_)) = socket.next().await {}
            }
        }
    });
    let headers = [(header::CONNECTION, "upgrade".to_owned()), (header::UPGRADE, "websocket".to_owned())];
    (StatusCode::SWITCHING_PROTOCOLS, headers, [(header::SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()))])
        .into_response()
}

/// Twilio's codes after a call to a careless server.
fn codes(what: Careless) -> Vec<u32> {
    virtual_time(async {
        let (net, timeline) = (Network::memory(), Timeline::new(None));
        let base = careless(&net, what).await;
        let telephone = TelephoneNetwork {
            net,
            timeline: timeline.clone(),
            account_sid: "AC1".into(),
            auth_token: "token".into(),
            voice_url: format!("{base}/voice"),
            status_url: format!("{base}/status"),
            speech: Speech::of("en").unwrap(),
            repeat_first_webhook: false,
            connecting: Duration::ZERO,
            people: Default::default(),
        };
        let outcome: CallOutcome = telephone.ring("+15550100001", "+15550100002", "".parse().unwrap()).await;
        assert_eq!(outcome.status, "completed");
        timeline
            .moments()
            .iter()
            .filter_map(|it| if let Moment::Warning { code, .. } = it.2 { Some(code) } else { None })
            .collect()
    })
}

fn say(message: Value) -> Message {
    Message::text(message.to_string())
}

#[test]
fn twilio_has_a_code_for_every_carelessness() {
    // C-18.
    let media = |payload: &str| json!({"event": "media", "streamSid": STREAM_SID, "media": {"payload": payload}});
    assert_eq!(codes(Careless::Refuse), [31_920], "an upgrade that is refused");
    assert_eq!(codes(Careless::Vanish), [31_903], "a server that vanishes");
    assert_eq!(codes(Careless::Raw(vec![0x8F, 0])), [31_924, 31_903], "bytes that are no frame");
    assert_eq!(codes(Careless::NeverRead), [31_930, 31_903], "a server that does not read");
    assert_eq!(codes(Careless::Send(vec![], 1011)), [31_921], "a close that is not normal");
    assert_eq!(codes(Careless::Send(vec![], 1000)), [0_u32; 0], "a normal close");
    assert_eq!(codes(Careless::Send(vec![Message::binary(vec![1])], 1000)), [31_950], "a binary message");
    for (what, message) in [
        ("a field too many", json!({"event": "clear", "streamSid": STREAM_SID, "track": "inbound"})),
        ("an unknown event", json!({"event": "keepalive", "streamSid": STREAM_SID})),
        ("another stream", json!({"event": "clear", "streamSid": "MZ0"})),
        ("a mark without name", json!({"event": "mark", "streamSid": STREAM_SID, "mark": {}})),
        ("audio that is no base64", media("***")),
    ] {
        let twice = vec![say(message.clone()), say(message)];
        assert_eq!(codes(Careless::Send(twice, 1000)), [31_951], "{what}, told once per stream");
    }
    // A minute of audio eleven times: the buffer holds ten.
    let minute = media(&"/".repeat(60 * 8000 / 3 * 4));
    assert_eq!(codes(Careless::Send(vec![say(minute); 11], 1000)), [31_931]);
}

fn behaviour(script: &str) -> Behaviour {
    Behaviour::new(script.parse().unwrap(), Speech::of("en").unwrap(), OutputFormat::Ulaw, "key")
}

struct Client {
    socket: WebSocketStream<BoxIo>,
}

impl Client {
    async fn connect(net: &Network, url: &str, headers: &[(&'static str, &str)]) -> Result<Self, u16> {
        let mut request = url.into_client_request().unwrap();
        let port = request.uri().port_u16().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let io = net.connect("127.0.0.1", port).await.unwrap();
        match tokio_tungstenite::client_async(request, io).await {
            Ok((socket, _)) => Ok(Self { socket }),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    async fn send(&mut self, message: Value) {
        self.socket.send(say(message)).await.unwrap();
    }

    /// Reads to the first message that fits; `Err` is the code of a close that came before.
    async fn until(&mut self, fits: impl Fn(&Value) -> bool) -> Result<Value, u16> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    let message: Value = serde_json::from_str(&text).unwrap();
                    if fits(&message) {
                        return Ok(message);
                    }
                }
                Some(Ok(Message::Close(Some(frame)))) => return Err(frame.code.into()),
                Some(Ok(_)) => (),
                other => panic!("{other:?}"),
            }
        }
    }

    async fn of_type(&mut self, kind: &str) -> Value {
        self.until(|it| it["type"] == kind).await.unwrap()
    }

    async fn error_after(&mut self, message: Value) -> String {
        self.send(message).await;
        self.of_type("error").await["error"]["code"].as_str().unwrap().to_owned()
    }
}

async fn openai(net: &Network, behaviour: Behaviour) -> String {
    let (listener, address) = net.listen().await.unwrap();
    let service = OpenAi { behaviour: Arc::new(behaviour), timeline: Timeline::new(None) };
    tokio::spawn(service.serve(listener, CancellationToken::new()));
    format!("ws://{address}/v1/realtime?model=m")
}

#[test]
fn openai_lets_in_who_has_the_key_and_speaks_ga() {
    virtual_time(async {
        let net = Network::memory();
        let url = openai(&net, behaviour("")).await;
        assert_eq!(Client::connect(&net, &url, &[]).await.err(), Some(401));
        assert_eq!(Client::connect(&net, &url, &[("authorization", "Bearer other")]).await.err(), Some(401));
        assert_eq!(
            Client::connect(&net, &url.replace("?model=m", ""), &[("authorization", "Bearer key")]).await.err(),
            Some(400)
        );
        let beta = [("authorization", "Bearer key"), ("openai-beta", "realtime=v1")];
        let mut client = Client::connect(&net, &url, &beta).await.unwrap();
        assert_eq!(client.until(|it| it["type"] == "session.created").await, Err(4000));
    });
}

#[test]
fn openai_refuses_what_the_service_refuses() {
    virtual_time(async {
        let net = Network::memory();
        let url = openai(&net, behaviour("start: say greeting")).await;
        let mut client = Client::connect(&net, &url, &[("authorization", "Bearer key")]).await.unwrap();
        let created = client.of_type("session.created").await;
        assert_eq!(
            created["session"]["audio"]["output"]["format"]["type"], "audio/pcm",
            "the default is not what a telephone speaks"
        );
        assert_eq!(
            client.error_after(json!({"type": "session.update", "session": {"instructions": "x"}})).await,
            "missing_required_parameter"
        );
        let beta = json!({"type": "session.update", "session": {"type": "realtime", "voice": "alloy"}});
        assert_eq!(client.error_after(beta).await, "unknown_parameter");
        assert_eq!(client.error_after(json!({"type": "dance"})).await, "invalid_value");
        assert_eq!(client.error_after(json!({"type": "response.cancel"})).await, "response_cancel_not_active");
        let format = json!({"format": {"type": "audio/pcmu"}});
        client
            .send(
                json!({"type": "session.update", "session": {"type": "realtime", "audio": {"input": format, "output": format}}}),
            )
            .await;
        assert_eq!(client.of_type("session.updated").await["session"]["audio"]["output"]["format"]["type"], "audio/pcmu");
        let truncate = |item: &str, ms: u64| json!({"type": "conversation.item.truncate", "item_id": item, "content_index": 0, "audio_end_ms": ms});
        assert_eq!(client.error_after(truncate("item_x", 5)).await, "item_truncate_invalid_item_id");
        client.send(json!({"type": "response.create", "response": {"instructions": "greet"}})).await;
        client.of_type("response.created").await;
        assert_eq!(client.error_after(json!({"type": "response.create"})).await, "conversation_already_has_active_response");
        let item = client.of_type("response.output_audio.delta").await["item_id"].as_str().unwrap().to_owned();
        assert_eq!(client.error_after(truncate(&item, 60_000)).await, "invalid_value", "more than was generated");
        assert_eq!(client.error_after(truncate(&item, 0)).await, "invalid_value", "nothing is not a truncation");
        client.send(truncate(&item, 20)).await;
        assert_eq!(client.of_type("conversation.item.truncated").await["audio_end_ms"], 20);
        let voice = json!({"type": "session.update", "session": {"type": "realtime", "audio": {"output": {"voice": "cedar"}}}});
        assert_eq!(client.error_after(voice).await, "cannot_update_voice");
        let audio = json!({"type": "conversation.item.create", "item": {"type": "message", "role": "assistant", "content": [{"type": "output_audio"}]}});
        assert_eq!(client.error_after(audio).await, "missing_required_parameter", "assistant audio cannot be created");
    });
}

#[test]
fn openai_ends_a_session_after_an_hour_without_a_warning() {
    virtual_time(async {
        let net = Network::memory();
        let url = openai(&net, behaviour("")).await;
        let mut client = Client::connect(&net, &url, &[("authorization", "Bearer key")]).await.unwrap();
        let begun = tokio::time::Instant::now();
        assert_eq!(client.of_type("error").await["error"]["code"], "session_expired");
        assert_eq!(client.until(|_| false).await, Err(1001));
        assert_eq!(begun.elapsed().as_secs(), 3600);
    });
}

async fn elevenlabs(net: &Network) -> (String, String) {
    let (listener, address) = net.listen().await.unwrap();
    let service = ElevenLabs::new(Arc::new(behaviour("start: say greeting")), Timeline::new(None), "agent", &address.to_string());
    tokio::spawn(service.serve(listener, CancellationToken::new()));
    (address.to_string(), format!("ws://{address}/v1/convai/conversation?agent_id=agent"))
}

async fn signed(net: &Network, address: &str, key: &str) -> Result<String, u16> {
    let (host, port) = address.split_once(':').unwrap();
    let request = hyper::Request::get("/v1/convai/conversation/get-signed-url?agent_id=agent").header("xi-api-key", key);
    let request = request.header("host", address).body(http_body_util::Full::default()).unwrap();
    let response = sim::web::send(net, host, port.parse().unwrap(), request).await.unwrap();
    match response.status().as_u16() {
        200 => Ok(serde_json::from_slice::<Value>(response.body()).unwrap()["signed_url"].as_str().unwrap().to_owned()),
        status => Err(status),
    }
}

#[test]
fn elevenlabs_refuses_what_the_service_refuses() {
    virtual_time(async {
        let net = Network::memory();
        let (address, plain) = elevenlabs(&net).await;
        assert_eq!(Client::connect(&net, &plain, &[]).await.err(), Some(403), "the agent is private");
        assert_eq!(signed(&net, &address, "other").await, Err(401));
        let initiation = json!({"type": "conversation_initiation_client_data"});
        for (what, messages, code) in [
            ("audio before the initiation", vec![json!({"user_audio_chunk": "/w=="})], 1008),
            (
                "an override",
                vec![
                    json!({"type": "conversation_initiation_client_data", "conversation_config_override": {"agent": {"language": "ro"}}}),
                ],
                1008,
            ),
            ("an unknown message", vec![initiation.clone(), json!({"type": "dance"})], 1008),
            (
                "an empty tool result",
                vec![
                    initiation.clone(),
                    json!({"type": "client_tool_result", "tool_call_id": "x", "result": "", "is_error": false}),
                ],
                1008,
            ),
            ("pings without pongs", vec![initiation.clone()], 1002),
        ] {
            let url = signed(&net, &address, "key").await.unwrap();
            let mut client = Client::connect(&net, &url, &[]).await.unwrap();
            for message in messages {
                client.send(message).await;
            }
            assert_eq!(client.until(|_| false).await, Err(code), "{what}");
            assert_eq!(Client::connect(&net, &url, &[]).await.err(), Some(403), "a signed address works once");
        }
    });
}

#[test]
fn elevenlabs_ends_a_conversation_without_input_for_a_minute() {
    virtual_time(async {
        let net = Network::memory();
        let (address, _) = elevenlabs(&net).await;
        let url = signed(&net, &address, "key").await.unwrap();
        let mut client = Client::connect(&net, &url, &[]).await.unwrap();
        client.send(json!({"type": "conversation_initiation_client_data"})).await;
        // Pongs are no input of the caller's.
        let code = loop {
            match client.until(|it| it["type"] == "ping" || it["type"] == "error").await {
                Ok(message) if message["type"] == "ping" => {
                    client.send(json!({"type": "pong", "event_id": message["ping_event"]["event_id"]})).await;
                }
                Ok(message) => break message["error_event"]["error_type"].as_str().unwrap().to_owned(),
                Err(code) => panic!("{code}"),
            }
        };
        assert_eq!(code, "transport_receive_timeout");
    });
}
