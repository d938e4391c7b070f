//! Tools that are services of the operator's, against real servers on loopback.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, post};
use bridge::{CallId, ToolRequest, Tools};
use desk::{BuiltIns, HttpTool, McpServer, Method, Schema, Toolbox, UnusableTool};
use serde_json::{Value, json};
use tokio::net::TcpListener;

async fn serve(router: Router) -> String {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

fn request(tenant: &str, name: &str, arguments: &str) -> ToolRequest {
    ToolRequest {
        call: CallId("c1".into()),
        tenant: tenant.into(),
        id: "t1".into(),
        name: name.into(),
        arguments: arguments.into(),
    }
}

fn builtins() -> BuiltIns {
    BuiltIns::new(jiff::tz::TimeZone::UTC, &Default::default(), |_| Box::pin(async { true }))
}

fn tool(name: &str, method: Method, url: String) -> HttpTool {
    let schema = r#"{"type":"object","properties":{"number":{"type":"string"},"note":{"type":"string"}},"required":["number"]}"#;
    HttpTool {
        name: name.into(),
        description: "Finds an order".into(),
        tenant: None,
        method,
        url,
        headers: vec![("Authorization".into(), "Bearer canary".to_owned().into())],
        schema: Schema::new(schema).unwrap(),
        timeout: Duration::from_millis(500),
        retries: 2,
    }
}

async fn ask(toolbox: &Toolbox, name: &str, arguments: &str) -> Result<String, String> {
    toolbox.run(request("t", name, arguments)).await.map(|it| it.output)
}

/// What the service was asked.
type Asked = Arc<Mutex<Vec<String>>>;

#[tokio::test]
async fn a_service_is_asked_with_checked_arguments_and_its_answer_is_data() {
    let asked = Asked::default();
    let note = |State(asked): State<Asked>, uri: Uri, headers: HeaderMap, body: Bytes| async move {
        let header = |name: &str| headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default().to_owned();
        let line = format!("{uri} {} {} {}", header("authorization"), header("idempotency-key"), String::from_utf8_lossy(&body));
        asked.lock().unwrap().push(line);
        r#"{"state":"on its way"}"#
    };
    let base = serve(Router::new().fallback(any(note)).with_state(asked.clone())).await;
    let toolbox = Toolbox::new(builtins())
        .with_http(tool("find", Method::Get, format!("{base}/orders/{{number}}")))
        .with_http(tool("note", Method::Post, format!("{base}/orders/{{number}}/notes")));
    let found = ask(&toolbox, "find", r#"{"number":"a/1 ?","note":"x y"}"#).await;
    assert_eq!(found.as_deref(), Ok(r#"{"state":"on its way"}"#));
    ask(&toolbox, "note", r#"{"number":"7","note":"ring twice"}"#).await.unwrap();
    assert!(ask(&toolbox, "find", "{}").await.unwrap_err().contains("number"), "arguments are checked");
    assert!(ask(&toolbox, "nothing", "{}").await.unwrap_err().contains("no tool"));
    let asked = asked.lock().unwrap();
    assert_eq!(
        asked[..],
        [
            "/orders/a%2F1%20%3F?note=x+y Bearer canary c1-t1 ".to_owned(),
            r#"/orders/7/notes Bearer canary c1-t1 {"note":"ring twice"}"#.to_owned(),
        ]
    );
}

#[tokio::test]
async fn only_what_may_be_repeated_is_repeated_and_failures_are_plain_words() {
    let count = Arc::new(AtomicUsize::new(0));
    let flaky = |State(count): State<Arc<AtomicUsize>>, Path(kind): Path<String>| async move {
        let before = count.fetch_add(1, Ordering::SeqCst);
        match kind.as_str() {
            "slow" => {
                tokio::time::sleep(Duration::from_secs(2)).await;
                "late".into_response()
            }
            "absent" => (StatusCode::NOT_FOUND, "no such order").into_response(),
            "elsewhere" => (StatusCode::FOUND, [("location", "https://attacker.example.com/")]).into_response(),
            "long" => "x".repeat(400_000).into_response(),
            _ if before == 0 => StatusCode::SERVICE_UNAVAILABLE.into_response(),
            _ => "second time".into_response(),
        }
    };
    let base = serve(Router::new().route("/{kind}", any(flaky)).with_state(count.clone())).await;
    let run = |method: Method, kind: &'static str| {
        let toolbox = Toolbox::new(builtins()).with_http(tool("it", method, format!("{base}/{kind}")));
        count.store(0, Ordering::SeqCst);
        let count = count.clone();
        async move { (ask(&toolbox, "it", r#"{"number":"1"}"#).await, count.load(Ordering::SeqCst)) }
    };
    assert_eq!(run(Method::Get, "flaky").await, (Ok("second time".into()), 2));
    let (answer, times) = run(Method::Post, "flaky").await;
    assert!(answer.unwrap_err().starts_with("the service answered 503") && times == 1, "a POST happens once");
    let (answer, times) = run(Method::Get, "absent").await;
    assert!(answer.unwrap_err().contains("no such order") && times == 1, "404 is an answer");
    let (answer, times) = run(Method::Post, "slow").await;
    assert!(answer.unwrap_err().contains("in time") && times == 1);
    assert!(run(Method::Get, "elsewhere").await.0.unwrap_err().contains("302"), "redirects are not followed");
    let long = run(Method::Get, "long").await.0.unwrap();
    assert!(long.len() < 10_000 && long.ends_with("(the rest of the answer is left out)"));
    let nobody = Toolbox::new(builtins()).with_http(tool("it", Method::Get, "http://127.0.0.1:1/".into()));
    let problem = ask(&nobody, "it", r#"{"number":"1"}"#).await.unwrap_err();
    assert!(problem.contains("cannot be reached") && !problem.contains("127.0.0.1"), "{problem}");
}

#[test]
fn tools_that_could_never_work_are_refused_at_start() {
    let with = |change: fn(&mut HttpTool)| {
        let mut it = tool("find", Method::Get, "https://shop.example.com/{number}".into());
        change(&mut it);
        it.check()
    };
    assert!(with(|_| ()).is_ok());
    assert!(matches!(with(|it| it.name = "a b".into()), Err(UnusableTool::Name(_))));
    assert!(matches!(with(|it| it.url = "https://{number}.example.com/".into()), Err(UnusableTool::Address(_))));
    assert!(matches!(with(|it| it.url = "file:///etc/passwd".into()), Err(UnusableTool::Address(_))));
    assert!(matches!(with(|it| it.headers[0].1 = "a\nb".to_owned().into()), Err(UnusableTool::Header(_))));
}

#[test]
fn tools_of_one_tenant_are_no_others() {
    let theirs = HttpTool { tenant: Some("dental".into()), ..tool("find", Method::Get, "https://h.example.com/".into()) };
    let toolbox = Toolbox::new(builtins()).with_http(theirs);
    let offered = |tenant: &str| toolbox.definitions(tenant).iter().any(|it| it.name == "find");
    assert!(offered("dental") && !offered("garage"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(toolbox.run(request("garage", "find", r#"{"number":"1"}"#)));
    assert!(answer.unwrap_err().contains("no tool"));
}

/// The least that a tool server must do (Model Context Protocol, streamable HTTP with plain JSON answers).
async fn mcp(headers: HeaderMap, Json(message): Json<Value>) -> Response {
    if headers.get("x-key").is_none_or(|it| it != "canary") {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let result = match message["method"].as_str().unwrap_or_default() {
        "initialize" => json!({
            "protocolVersion": message["params"]["protocolVersion"], "capabilities": {"tools": {}},
            "serverInfo": {"name": "crm", "version": "1"},
        }),
        "tools/list" => json!({"tools": [{
            "name": "find", "description": "Finds a customer",
            "inputSchema": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
        }]}),
        "tools/call" if message["params"]["arguments"]["name"] == "Ana" => {
            json!({"content": [{"type": "text", "text": "Ana, regular guest"}], "isError": false})
        }
        "tools/call" => json!({"content": [{"type": "text", "text": "nobody of that name"}], "isError": true}),
        _ => return StatusCode::ACCEPTED.into_response(),
    };
    Json(json!({"jsonrpc": "2.0", "id": message["id"], "result": result})).into_response()
}

#[tokio::test]
async fn a_tool_server_offers_its_tools_under_its_own_name() {
    let base = serve(Router::new().route("/mcp", post(mcp))).await;
    let server = McpServer {
        name: "crm".into(),
        tenant: Some("t".into()),
        url: format!("{base}/mcp"),
        headers: vec![("x-key".into(), "canary".to_owned().into())],
        timeout: Duration::from_secs(5),
    };
    server.check().unwrap();
    let toolbox = Toolbox::new(builtins()).with_mcp(server);
    let offered = |tenant: &str| toolbox.definitions(tenant).into_iter().find(|it| it.name == "crm_find");
    let connecting = async {
        while offered("t").is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), connecting).await.expect("the server is connected to in the background");
    assert!(offered("t").unwrap().parameters.contains(r#""required":["name"]"#) && offered("other").is_none());
    assert_eq!(ask(&toolbox, "crm_find", r#"{"name":"Ana"}"#).await.as_deref(), Ok("Ana, regular guest"));
    assert_eq!(ask(&toolbox, "crm_find", r#"{"name":"Bob"}"#).await.unwrap_err(), "nobody of that name");
    assert!(ask(&toolbox, "crm_find", "nonsense").await.unwrap_err().contains("no JSON object"));
}
