//! What an assistant may do during a call, besides talking and ending it: built-in tools, the operator's HTTP services,
//! and tool servers. All of them go through [`Tool`].

mod arguments;
mod builtin;
mod http;
mod mcp;

use std::sync::Arc;

use bridge::{ToolAnswer, ToolDefinition, ToolRequest, Tools};
use futures::future::BoxFuture;

pub use arguments::{Schema, UnusableSchema};
pub use builtin::{BuiltIns, Message};
pub use http::{HttpTool, Method, UnusableTool};
pub use mcp::McpServer;

/// Longest answer that a model is told; the rest of a longer one is left out, and the model is told so.
const ANSWER_CHARACTERS_MAX: usize = 8000;

/// Something that has tools to offer.
pub(crate) trait Tool: Send + Sync {
    /// The tools for calls of a tenant, at this moment.
    fn definitions(&self, tenant: &str) -> Vec<ToolDefinition>;
    /// Runs one of them; `None` when it is none of ours.
    fn run(self: Arc<Self>, request: &ToolRequest) -> Option<BoxFuture<'static, Result<ToolAnswer, String>>>;
}

/// All tools of this server.
#[derive(Default)]
pub struct Toolbox(Vec<Arc<dyn Tool>>);

impl Toolbox {
    /// Nothing but the built-in tools.
    pub fn new(builtins: BuiltIns) -> Self {
        Self(vec![Arc::new(builtins)])
    }

    /// Adds an HTTP service.
    #[must_use]
    pub fn with_http(mut self, tool: HttpTool) -> Self {
        self.0.push(Arc::new(tool));
        self
    }

    /// Adds a tool server; it is connected to in the background, now and whenever it was lost.
    #[must_use]
    pub fn with_mcp(mut self, server: McpServer) -> Self {
        self.0.push(server.connected());
        self
    }
}

impl Tools for Toolbox {
    fn definitions(&self, tenant: &str) -> Vec<ToolDefinition> {
        let mut all: Vec<ToolDefinition> = Vec::new();
        for it in self.0.iter().flat_map(|it| it.definitions(tenant)) {
            // The first of a name counts; a model that is offered a name twice refuses the session.
            if all.iter().all(|known| known.name != it.name) {
                all.push(it);
            }
        }
        all
    }

    fn run(&self, request: ToolRequest) -> BoxFuture<'static, Result<ToolAnswer, String>> {
        let answer = self.0.iter().find_map(|it| it.clone().run(&request));
        answer.unwrap_or_else(|| {
            let name: String = request.name.chars().take(64).collect();
            Box::pin(async move { Err(format!("there is no tool `{name}`")) })
        })
    }
}

/// What a model is told of a long answer.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(ANSWER_CHARACTERS_MAX) {
        Some((end, _)) => format!("{} … (the rest of the answer is left out)", &text[..end]),
        None => text.to_owned(),
    }
}
