//! A bug of ours ends one call, and only that one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bridge::net::BoxIo;
use bridge::{
    AssistantPlan, Bridge, CallFact, CallId, CallPlan, Connect, Fact, Journal, Metrics, OpenAiPlan, ToolAnswer, ToolDefinition,
    ToolRequest, Tools,
};
use bytes::Bytes;
use call::{CallConfig, EndReason, Event};
use futures::future::BoxFuture;
use futures::{SinkExt as _, StreamExt as _};
use prometheus_client::registry::Registry;
use tokio::io::{DuplexStream, duplex};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

/// Providers that never answer.
struct Silent;

impl Connect for Silent {
    fn connect(&self, _: &str, _: u16, _: bool) -> BoxFuture<'static, io::Result<BoxIo>> {
        Box::pin(std::future::pending())
    }
}

/// A journal with a bug: it dies of keys.
struct Buggy;

impl Journal for Buggy {
    fn record(&self, fact: CallFact) {
        assert!(!matches!(fact.fact, Fact::Call(Event::Key { .. })), "the bug of this test");
    }
}

struct None;

impl Tools for None {
    fn definitions(&self, _: &str) -> Vec<ToolDefinition> {
        Vec::new()
    }
    fn run(&self, _: ToolRequest) -> BoxFuture<'static, Result<ToolAnswer, String>> {
        Box::pin(async { Err("there are none".into()) })
    }
}

fn plan(call: &str) -> CallPlan {
    let (nobody, no_key) = ("ws://127.0.0.1:1/".parse().unwrap(), String::new().into());
    let assistant = AssistantPlan::OpenAi(Arc::new(OpenAiPlan::new(nobody, no_key, "")));
    let minute = Duration::from_secs(60);
    let config = CallConfig { answer_timeout: minute, media_timeout: minute, ..CallConfig::new(vec![assistant.manner()]) };
    CallPlan {
        call: CallId(call.into()),
        tenant: "t".into(),
        call_sid: format!("CA{call}"),
        account_sid: "AC1".into(),
        epoch: 0,
        assistants: vec![assistant],
        config: config.into(),
        prepare: false,
        history: Vec::new(),
        sound: bridge::SoundPlan::default(),
        recording: Option::None,
    }
}

async fn stream(bridge: &Arc<Bridge>, call: &str) -> WebSocketStream<DuplexStream> {
    let token = bridge.expect(plan(call)).unwrap();
    let (near, far) = duplex(65_536);
    bridge.accept(async move { Some((Box::new(far) as BoxIo, Bytes::new())) });
    let mut socket = WebSocketStream::from_raw_socket(near, Role::Client, Option::None).await;
    let start = format!(
        r#"{{"event":"start","start":{{"accountSid":"AC1","streamSid":"MZ1","callSid":"CA{call}","mediaFormat":{{"encoding":"audio/x-mulaw","sampleRate":8000}},"customParameters":{{"call":"{call}","token":"{}"}}}}}}"#,
        token.expose()
    );
    socket.send(Message::text(start)).await.unwrap();
    socket
}

#[tokio::test]
async fn a_panic_ends_its_own_call_as_internal_error() {
    let bridge =
        Arc::new(Bridge::new(Arc::new(Silent), Arc::new(Buggy), Arc::new(None), Metrics::new(&mut Registry::default()), 10));
    let mut first = stream(&bridge, "1").await;
    let mut second = stream(&bridge, "2").await;
    first.send(Message::text(r#"{"event":"dtmf","dtmf":{"digit":"5"}}"#)).await.unwrap();
    while let Some(Ok(_)) = first.next().await {}
    assert_eq!(bridge.directory().end_of(&CallId("1".into()), 0).await, Some(EndReason::InternalError));
    assert_eq!(bridge.directory().live(), 1, "the other call lives");
    second.send(Message::text(r#"{"event":"stop"}"#)).await.unwrap();
    while let Some(Ok(_)) = second.next().await {}
    assert_eq!(bridge.directory().end_of(&CallId("2".into()), 0).await, Some(EndReason::CallerHungUp));
    bridge.idle().await;
    assert_eq!(bridge.directory().live(), 0);
}
