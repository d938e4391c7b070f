//! Tools that are HTTP services of the operator's.

use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use bridge::{ToolAnswer, ToolDefinition, ToolRequest};
use futures::future::BoxFuture;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, redirect};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};
use url::Url;

use super::arguments::{Schema, UnusableSchema};
use super::{Tool, shortened};

/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// How a service is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    /// Reads `GET`, `post`, …
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_uppercase().as_str() {
            "GET" => Self::Get,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "PATCH" => Self::Patch,
            "DELETE" => Self::Delete,
            _ => return None,
        })
    }

    /// Whether doing it twice does no more than once (RFC 9110, section 9.2.2).
    fn is_idempotent(self) -> bool {
        matches!(self, Self::Get | Self::Put | Self::Delete)
    }

    fn as_http(self) -> reqwest::Method {
        match self {
            Self::Get => reqwest::Method::GET,
            Self::Post => reqwest::Method::POST,
            Self::Put => reqwest::Method::PUT,
            Self::Patch => reqwest::Method::PATCH,
            Self::Delete => reqwest::Method::DELETE,
        }
    }
}

/// A tool that asks an HTTP service.
#[derive(Debug)]
pub struct HttpTool {
    /// Letters, digits, `_` and `-`, at most 64.
    pub name: String,
    /// When the model should call it.
    pub description: String,
    /// Only for this tenant's calls; `None` for all.
    pub tenant: Option<String>,
    pub method: Method,
    /// May hold arguments in braces: `https://shop.example.com/orders/{number}`.
    pub url: String,
    /// Names with values that may be secret.
    pub headers: Vec<(String, SecretString)>,
    pub schema: Schema,
    /// For one attempt.
    pub timeout: Duration,
    /// Further attempts when the service does not answer or says 429 or 5xx; only for methods that may be repeated.
    pub retries: usize,
}

/// A tool that could never work.
#[derive(Debug, thiserror::Error)]
pub enum UnusableTool {
    #[error("the name `{0}` is not usable: expected 1 to 64 letters, digits, _ and -")]
    Name(String),
    #[error("the address `{0}` is not usable: expected http:// or https://, with arguments in braces only behind the host")]
    Address(String),
    #[error("the header `{0}` is not usable")]
    Header(String),
    #[error(transparent)]
    Schema(#[from] UnusableSchema),
}

impl HttpTool {
    /// # Errors
    /// [`UnusableTool`] says what would never work.
    pub fn check(&self) -> Result<(), UnusableTool> {
        check_name(&self.name)?;
        let host =
            Url::parse(&self.url).ok().filter(|it| matches!(it.scheme(), "http" | "https")).map(|it| it.authority().to_owned());
        if host.is_none_or(|it| it.is_empty() || it.contains(['{', '}', '%'])) {
            return Err(UnusableTool::Address(self.url.clone()));
        }
        self.header_map().map(drop)
    }

    fn header_map(&self) -> Result<HeaderMap, UnusableTool> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let unusable = || UnusableTool::Header(name.clone());
            let mut value = HeaderValue::try_from(value.expose_secret()).map_err(|_| unusable())?;
            value.set_sensitive(true);
            headers.insert(HeaderName::try_from(name).map_err(|_| unusable())?, value);
        }
        Ok(headers)
    }

    /// The address with its arguments filled in; they are then no longer among the others.
    fn address(&self, arguments: &mut Map<String, Value>) -> Result<Url, String> {
        let (mut address, mut rest) = (String::new(), self.url.as_str());
        while let Some((before, after)) = rest.split_once('{') {
            let (name, behind) = after.split_once('}').ok_or("the tool's address is broken: a brace is not closed")?;
            let value = arguments.remove(name).ok_or_else(|| format!("the argument `{name}` is missing"))?;
            address.push_str(before);
            address.extend(percent_encoding::utf8_percent_encode(&plain(&value), percent_encoding::NON_ALPHANUMERIC));
            rest = behind;
        }
        address.push_str(rest);
        Url::parse(&address).map_err(|_| "the tool's address is broken".to_owned())
    }

    async fn ask(self: Arc<Self>, mut arguments: Map<String, Value>, key: String) -> Result<ToolAnswer, String> {
        let mut url = self.address(&mut arguments)?;
        let headers = self.header_map().map_err(|error| error.to_string())?;
        let with_body = !matches!(self.method, Method::Get | Method::Delete);
        if !with_body && !arguments.is_empty() {
            url.query_pairs_mut().extend_pairs(arguments.iter().map(|(name, value)| (name, plain(value))));
        }
        // A redirect could lead the operator's secrets elsewhere.
        let client = Client::builder().redirect(redirect::Policy::none()).timeout(self.timeout).build();
        let client = client.map_err(|error| error.without_url().to_string())?;
        let attempt = || async {
            let mut request =
                client.request(self.method.as_http(), url.clone()).headers(headers.clone()).header("Idempotency-Key", &key);
            if with_body {
                request = request.json(&arguments);
            }
            answer(request).await
        };
        let retries = if self.method.is_idempotent() { self.retries } else { 0 };
        let pauses =
            ExponentialBuilder::default().with_min_delay(Duration::from_millis(200)).with_max_times(retries).with_jitter();
        let answered = attempt.retry(pauses).when(|(_, again)| *again).await;
        answered.map(|it| shortened(&it).into()).map_err(|(problem, _)| problem)
    }
}

/// The answer's text; or what went wrong, and whether trying again could help.
async fn answer(request: reqwest::RequestBuilder) -> Result<String, (String, bool)> {
    let failed = |error: reqwest::Error| {
        let what = if error.is_timeout() { "it did not answer in time" } else { "it cannot be reached" };
        tracing::warn!(error = %error.without_url(), "a tool's service failed");
        (format!("the service failed: {what}"), true)
    };
    let mut response = request.send().await.map_err(failed)?;
    let status = response.status();
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(failed)? {
        body.extend_from_slice(&piece);
        if body.len() > ANSWER_BYTES_MAX {
            body.truncate(ANSWER_BYTES_MAX);
            break;
        }
    }
    let text = String::from_utf8_lossy(&body).trim().to_owned();
    if status.is_success() {
        return Ok(if text.is_empty() { "done".into() } else { text });
    }
    let again = status.is_server_error() || status.as_u16() == 429;
    Err((format!("the service answered {}: {}", status.as_u16(), shortened(&text)), again))
}

/// A value as it stands in an address.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

pub(super) fn check_name(name: &str) -> Result<(), UnusableTool> {
    let usable = (1..=64).contains(&name.len()) && name.bytes().all(|it| it.is_ascii_alphanumeric() || matches!(it, b'_' | b'-'));
    if usable { Ok(()) } else { Err(UnusableTool::Name(name.to_owned())) }
}

impl Tool for HttpTool {
    fn definitions(&self, tenant: &str) -> Vec<ToolDefinition> {
        if self.tenant.as_deref().is_some_and(|it| it != tenant) {
            return Vec::new();
        }
        vec![ToolDefinition {
            name: self.name.clone(),
            description: self.description.clone(),
            parameters: self.schema.text().to_owned(),
        }]
    }

    fn run(self: Arc<Self>, request: &ToolRequest) -> Option<BoxFuture<'static, Result<ToolAnswer, String>>> {
        if request.name != self.name || self.tenant.as_deref().is_some_and(|it| it != &*request.tenant) {
            return None;
        }
        // A service that keeps keys does nothing twice, whoever repeats the request.
        let key = format!("{}-{}", request.call, request.id);
        let arguments = self.schema.read(&request.arguments);
        Some(Box::pin(async move { self.ask(arguments?, key).await }))
    }
}
