//! Tool servers that speak the Model Context Protocol over streamable HTTP.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bridge::{ToolAnswer, ToolDefinition, ToolRequest};
use futures::future::BoxFuture;
use reqwest::header::{HeaderName, HeaderValue};
use rmcp::model::{CallToolRequestParams, CallToolResult};
use rmcp::service::{Peer, RoleClient, RunningService, ServiceError};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{ErrorData, ServiceExt as _};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::http::check_name;
use super::{Tool, UnusableTool, shortened};

/// Longest time to connect and to list the tools.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Pauses between attempts to reach a server: doubled from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Tools are listed anew after this long.
const REFRESH: Duration = Duration::from_secs(300);
/// Tools taken from one server: models do worse with more.
const TOOLS_MAX: usize = 64;

/// A tool server. Its tools are offered as `server_tool`.
#[derive(Clone, Debug)]
pub struct McpServer {
    /// Letters, digits, `_` and `-`.
    pub name: String,
    /// Only for this tenant's calls; `None` for all.
    pub tenant: Option<String>,
    /// `https://tools.example.com/mcp`.
    pub url: String,
    pub headers: Vec<(String, SecretString)>,
    /// Longest wait for one tool.
    pub timeout: Duration,
}

impl McpServer {
    /// # Errors
    /// [`UnusableTool`] says what would never work.
    pub fn check(&self) -> Result<(), UnusableTool> {
        check_name(&self.name)?;
        let usable = url::Url::parse(&self.url).is_ok_and(|it| matches!(it.scheme(), "http" | "https") && it.has_host());
        if !usable {
            return Err(UnusableTool::Address(self.url.clone()));
        }
        self.header_map().map(drop)
    }

    fn header_map(&self) -> Result<HashMap<HeaderName, HeaderValue>, UnusableTool> {
        let header = |(name, value): &(String, SecretString)| {
            let unusable = || UnusableTool::Header(name.clone());
            let mut value = HeaderValue::try_from(value.expose_secret()).map_err(|_| unusable())?;
            value.set_sensitive(true);
            Ok((HeaderName::try_from(name).map_err(|_| unusable())?, value))
        };
        self.headers.iter().map(header).collect()
    }

    pub(super) fn connected(self) -> Arc<Connected> {
        let shared = Arc::new(Shared::default());
        let keeping = tokio::spawn(keep(self.clone(), shared.clone()));
        Arc::new(Connected { server: self, shared, _keeping: AbortOnDropHandle::new(keeping) })
    }
}

/// What is known of a server at the moment.
#[derive(Default)]
struct Shared {
    state: RwLock<(Vec<ToolDefinition>, Option<Peer<RoleClient>>)>,
    /// A call has found the connection broken.
    broken: Notify,
}

pub(super) struct Connected {
    server: McpServer,
    shared: Arc<Shared>,
    _keeping: AbortOnDropHandle<()>,
}

/// Keeps a connection for as long as the server runs.
async fn keep(server: McpServer, shared: Arc<Shared>) {
    let mut pause = PAUSES.0;
    loop {
        match timeout(CONNECT_TIMEOUT, connect(&server)).await {
            Ok(Ok((service, tools))) => {
                tracing::info!(server = server.name, tools = tools.len(), "a tool server is connected");
                pause = PAUSES.0;
                set(&shared, tools, Some(service.peer().clone()));
                tokio::select! {
                    () = shared.broken.notified() => tracing::warn!(server = server.name, "a tool server was lost"),
                    () = sleep(REFRESH) => (),
                }
                let _ = service.cancel().await;
                continue;
            }
            Ok(Err(problem)) => tracing::warn!(server = server.name, problem, "a tool server cannot be used"),
            Err(_) => tracing::warn!(server = server.name, "a tool server does not answer"),
        }
        // What is not there is not offered.
        set(&shared, Vec::new(), None);
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

fn set(shared: &Shared, tools: Vec<ToolDefinition>, peer: Option<Peer<RoleClient>>) {
    *shared.state.write().unwrap_or_else(PoisonError::into_inner) = (tools, peer);
}

async fn connect(server: &McpServer) -> Result<(RunningService<RoleClient, ()>, Vec<ToolDefinition>), String> {
    let headers = server.header_map().map_err(|error| error.to_string())?;
    let config = StreamableHttpClientTransportConfig::with_uri(server.url.as_str()).custom_headers(headers);
    let transport = StreamableHttpClientTransport::from_config(config);
    let service = ().serve(transport).await.map_err(|error| error.to_string())?;
    let tools = service.list_all_tools().await.map_err(|error| error.to_string())?;
    let define = |it: rmcp::model::Tool| ToolDefinition {
        name: format!("{}_{}", server.name, it.name),
        description: it.description.map(|it| it.to_string()).unwrap_or_default(),
        parameters: Value::Object((*it.input_schema).clone()).to_string(),
    };
    let tools = tools.into_iter().take(TOOLS_MAX).map(define).filter(|it| check_name(&it.name).is_ok()).collect();
    Ok((service, tools))
}

impl Tool for Connected {
    fn definitions(&self, tenant: &str) -> Vec<ToolDefinition> {
        if self.server.tenant.as_deref().is_some_and(|it| it != tenant) {
            return Vec::new();
        }
        self.shared.state.read().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    fn run(self: Arc<Self>, request: &ToolRequest) -> Option<BoxFuture<'static, Result<ToolAnswer, String>>> {
        if self.server.tenant.as_deref().is_some_and(|it| it != &*request.tenant) {
            return None;
        }
        let name = request.name.strip_prefix(&self.server.name)?.strip_prefix('_')?.to_owned();
        let peer = self.shared.state.read().unwrap_or_else(PoisonError::into_inner).1.clone();
        let arguments = request.arguments.clone();
        Some(Box::pin(async move {
            let peer = peer.ok_or("the tool server is not reachable at the moment")?;
            // The server checks them against its own schema.
            let arguments: Map<String, Value> = match arguments.trim() {
                "" => Map::new(),
                text => serde_json::from_str(text).map_err(|_| "the arguments are no JSON object".to_owned())?,
            };
            let call = CallToolRequestParams::new(name).with_arguments(arguments);
            match timeout(self.server.timeout, peer.call_tool(call)).await {
                Ok(Ok(result)) => told(result),
                Ok(Err(ServiceError::McpError(ErrorData { message, .. }))) => Err(shortened(&message)),
                Ok(Err(error)) => {
                    tracing::warn!(server = self.server.name, %error, "a tool server failed");
                    self.shared.broken.notify_one();
                    Err("the tool server failed".into())
                }
                Err(_) => Err("the tool server did not answer in time".into()),
            }
        }))
    }
}

fn told(result: CallToolResult) -> Result<ToolAnswer, String> {
    let texts: Vec<&str> = result.content.iter().filter_map(|it| it.as_text()).map(|it| it.text.as_str()).collect();
    let text = match (&result.structured_content, texts.is_empty()) {
        (Some(value), true) => value.to_string(),
        (None, true) => "done".to_owned(),
        _ => texts.join("\n"),
    };
    if result.is_error == Some(true) { Err(shortened(&text)) } else { Ok(shortened(&text).into()) }
}
