//! Requests and answers.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use reqwest::{Method, StatusCode, Url, redirect};
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;

use super::errors::{Refusal, RestError};
use super::form::Fields;

const API: &str = "/2010-04-01";
/// Largest answer that is read; a page of a thousand calls has about 2 MB.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(15);
/// Attempts after the first one, where another one is safe.
const RETRIES: usize = 3;
/// Longest wait that Twilio can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);

/// Who asks.
#[derive(Clone)]
pub struct Account {
    /// `AC…`: whose calls and numbers they are.
    pub sid: String,
    /// The account itself, or a key of it.
    pub key: Key,
}

/// What proves it.
#[derive(Clone)]
pub enum Key {
    /// The account's auth token.
    AuthToken(SecretString),
    /// An API key.
    ApiKey {
        /// `SK…`
        sid: String,
        /// Its secret, not the auth token.
        secret: SecretString,
    },
}

/// Twilio's REST API for one account. Cheap to clone; bounded in time; nothing is repeated that might be carried out twice.
#[derive(Clone)]
pub struct Rest {
    http: reqwest::Client,
    media: reqwest::Client,
    base: Url,
    account: Account,
}

impl std::fmt::Debug for Rest {
    /// Without what proves who asks.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rest({} at {})", self.account.sid, self.base)
    }
}

/// Items of a list, and where the next ones are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// In the API's order, usually the newest first.
    pub items: Vec<T>,
    /// For [`Rest::next_calls`] and [`Rest::next_numbers`]; `None` at the end.
    pub next: Option<String>,
}

/// A list in an answer: its items lie under a name of their own.
pub(super) trait Listed: DeserializeOwned {
    const NAME: &'static str;
}

/// Whether a request may be made again when its fate is unknown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// It reads, deletes, or sets what is set already.
    Safe,
    /// It makes something: only if it certainly was not carried out.
    Never,
}

impl Rest {
    /// The API at `base`, which is `https://api.twilio.com` unless calls are kept in a region, or a simulator is asked.
    ///
    /// # Errors
    /// [`RestError::Request`] for an account SID that is none, and a base that is no address.
    pub fn new(account: Account, base: &str) -> Result<Self, RestError> {
        if !is_sid(&account.sid, "AC") {
            return Err(RestError::Request { field: "account SID", expected: "AC and 32 hexadecimal digits" });
        }
        if let Key::ApiKey { sid, .. } = &account.key
            && !is_sid(sid, "SK")
        {
            return Err(RestError::Request { field: "API key", expected: "SK and 32 hexadecimal digits" });
        }
        let base = Url::parse(base.trim_end_matches('/')).ok().filter(|it| it.has_host() && it.query().is_none());
        let base =
            base.ok_or(RestError::Request { field: "base address", expected: "https://api.twilio.com, or another host" })?;
        let client = |redirects| {
            let agent = concat!("offhook/", env!("CARGO_PKG_VERSION"));
            let builder = reqwest::Client::builder().user_agent(agent).connect_timeout(CONNECT_TIMEOUT).redirect(redirects);
            builder.build().map_err(|error| RestError::Unreachable(error.to_string()))
        };
        // Recordings lie at another host, to which no credentials go.
        Ok(Self { http: client(redirect::Policy::none())?, media: client(redirect::Policy::limited(3))?, base, account })
    }

    /// Whose API it is.
    pub fn account_sid(&self) -> &str {
        &self.account.sid
    }

    /// The address of something of the account, such as `Calls.json`.
    fn url(&self, path: &str) -> String {
        format!("{}{API}/Accounts/{}{path}", self.base.as_str().trim_end_matches('/'), self.account.sid)
    }

    /// Makes the secondary auth token the primary one: Twilio signs with it from then on, and the one before is void. Servers must
    /// accept both before ([`crate::Validator`] takes several).
    ///
    /// Source: Twilio, "Auth Token API", `POST https://accounts.twilio.com/v1/AuthTokens/Promote`.
    ///
    /// # Errors
    /// [`RestError`]; an unclear one may have been carried out.
    pub async fn promote_secondary_token(&self) -> Result<(), RestError> {
        let base = self.base.as_str().trim_end_matches('/');
        let base = if self.base.host_str() == Some("api.twilio.com") { "https://accounts.twilio.com" } else { base };
        // The answer holds the token itself: it is not looked at.
        self.ask(Method::POST, &format!("{base}/v1/AuthTokens/Promote"), None, Again::Never).await.map(drop)
    }

    fn authorised(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.account.key {
            Key::AuthToken(token) => request.basic_auth(&self.account.sid, Some(token.expose_secret())),
            Key::ApiKey { sid, secret } => request.basic_auth(sid, Some(secret.expose_secret())),
        }
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str, query: &Fields) -> Result<T, RestError> {
        let url = format!("{}{}", self.url(path), query.as_query());
        read(&self.ask(Method::GET, &url, None, Again::Safe).await?)
    }

    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, form: &Fields, again: Again) -> Result<T, RestError> {
        read(&self.ask(Method::POST, &self.url(path), Some(form), again).await?)
    }

    pub(super) async fn delete(&self, path: &str) -> Result<(), RestError> {
        self.ask(Method::DELETE, &self.url(path), None, Again::Safe).await.map(drop)
    }

    pub(super) async fn page<T: Listed>(&self, path: &str, query: &Fields) -> Result<Page<T>, RestError> {
        page(self.get(path, query).await?)
    }

    /// The items behind a page. Its address came from Twilio: it is followed only to the same account's lists.
    pub(super) async fn page_at<T: Listed>(&self, next: &str) -> Result<Page<T>, RestError> {
        if !next.starts_with(&format!("{API}/Accounts/{}/", self.account.sid)) || next.contains("..") {
            return Err(RestError::Answer("the next page is not this account's".into()));
        }
        let url = format!("{}{next}", self.base.as_str().trim_end_matches('/'));
        page(read(&self.ask(Method::GET, &url, None, Again::Safe).await?)?)
    }

    /// Asks, again where that is safe, with growing pauses.
    async fn ask(&self, method: Method, url: &str, form: Option<&Fields>, again: Again) -> Result<Vec<u8>, RestError> {
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(250))
            .with_jitter()
            .with_max_times(RETRIES)
            .build();
        loop {
            let mut request = self.authorised(self.http.request(method.clone(), url)).timeout(TIMEOUT);
            if let Some(form) = form {
                request = request.header("content-type", "application/x-www-form-urlencoded").body(form.encoded());
            }
            let error = match answer(request).await {
                Ok(body) => return Ok(body),
                Err(error) => error,
            };
            let fault = matches!(&error, RestError::Refused(it) if it.status >= 500);
            let unclear = matches!(error, RestError::Unclear(_));
            let may = error.is_passing() || (again == Again::Safe && (fault || unclear));
            let Some(pause) = pauses.next().filter(|_| may) else { return Err(error) };
            let asked = match &error {
                RestError::Refused(it) => it.retry_after.map(Duration::from_secs),
                _ => None,
            };
            tokio::time::sleep(asked.unwrap_or(pause).min(RETRY_AFTER_MAX)).await;
        }
    }

    /// A recording's sound, piece by piece: the caller bounds how much it takes.
    pub(super) async fn fetch(&self, path: &str) -> Result<reqwest::Response, RestError> {
        let request = self.authorised(self.media.get(self.url(path))).timeout(Duration::from_secs(600));
        let response = request.send().await.map_err(failed)?;
        if response.status().is_success() { Ok(response) } else { Err(refused(response).await.into()) }
    }
}

fn failed(error: reqwest::Error) -> RestError {
    let connecting = error.is_connect();
    let text = error.without_url().to_string();
    if connecting { RestError::Unreachable(text) } else { RestError::Unclear(text) }
}

async fn answer(request: reqwest::RequestBuilder) -> Result<Vec<u8>, RestError> {
    let response = request.send().await.map_err(failed)?;
    if !response.status().is_success() {
        return Err(refused(response).await.into());
    }
    body(response).await
}

async fn body(mut response: reqwest::Response) -> Result<Vec<u8>, RestError> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(failed)? {
        if body.len() + piece.len() > ANSWER_BYTES_MAX {
            return Err(RestError::Answer(format!("it has more than {ANSWER_BYTES_MAX} bytes")));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

async fn refused(response: reqwest::Response) -> Refusal {
    #[derive(serde::Deserialize)]
    struct Body {
        code: Option<u32>,
        message: Option<String>,
    }
    let status: StatusCode = response.status();
    let header = |name: &str| response.headers().get(name).and_then(|it| it.to_str().ok()).map(str::to_owned);
    let (request, retry_after) = (header("twilio-request-id"), header("retry-after").and_then(|it| it.parse().ok()));
    let body = body(response).await.ok().and_then(|it| serde_json::from_slice::<Body>(&it).ok());
    let (code, message) = body.map_or((None, None), |it| (it.code, it.message));
    // A gateway's error page is HTML.
    let message = message.unwrap_or_else(|| status.canonical_reason().unwrap_or("no reason given").to_owned());
    Refusal { status: status.as_u16(), code, message, request, retry_after }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, RestError> {
    serde_json::from_slice(body).map_err(|error| RestError::Answer(error.to_string()))
}

fn page<T: Listed>(mut body: serde_json::Value) -> Result<Page<T>, RestError> {
    let next = body["next_page_uri"].as_str().filter(|it| !it.is_empty()).map(str::to_owned);
    let items = serde_json::from_value(body[T::NAME].take());
    Ok(Page { items: items.map_err(|error| RestError::Answer(format!("{}: {error}", T::NAME)))?, next })
}

/// Whether a text is an id of Twilio's of some kind: two letters and 32 hexadecimal digits.
pub(super) fn is_sid(text: &str, kind: &str) -> bool {
    text.strip_prefix(kind).is_some_and(|it| it.len() == 32 && it.bytes().all(|it| it.is_ascii_hexdigit()))
}
