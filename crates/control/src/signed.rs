//! The door: a request is Twilio's, or it is refused.

use axum::body::Bytes;
use axum::extract::{FromRequest, OriginalUri, Request};
use http::request::Parts;
use http::{HeaderMap, StatusCode, Uri};
use twilio::{Body, Form, Validator};

use crate::App;
use crate::problem::Problem;

/// How requests are checked.
pub struct Signatures {
    validator: Validator,
    /// `SKIP_WEBHOOK_SIGNATURE_VALIDATION`: everything is let in, and said so each time.
    skip: bool,
}

impl Signatures {
    /// Checks against the validator's tokens.
    pub fn checked_by(validator: Validator) -> Self {
        Self { validator, skip: false }
    }

    /// Lets everything in. Only for a listener on loopback without public address; configuration refuses all else.
    pub fn skipped() -> Self {
        Self { validator: Validator::new(Vec::new()), skip: true }
    }

    /// Checks a request whose public address is `url`.
    pub(crate) fn check(&self, url: &str, body: Body<'_>, headers: &HeaderMap) -> Result<(), Problem> {
        if self.skip {
            tracing::warn!("SKIP_WEBHOOK_SIGNATURE_VALIDATION is set: a request is let in unchecked");
            return Ok(());
        }
        let header = |name: &str| headers.get(name).and_then(|it| it.to_str().ok());
        self.validator.check(url, body, header("x-twilio-signature"), header("x-twilio-webhooks-signature-settings")).map_err(
            |refused| {
                tracing::warn!(%refused, "a request without valid signature");
                Problem::new(StatusCode::FORBIDDEN, "the request is not signed by the expected Twilio account")
            },
        )
    }
}

/// The public address of a request: the configured base, path and query exactly as they came.
pub(crate) fn public_address(app: &App, uri: &Uri, websocket: bool) -> String {
    let url = if websocket { app.desk.node_url() } else { app.desk.public_url() };
    let path = uri.path_and_query().map_or("/", |it| it.as_str());
    let path = path.strip_prefix(url.path_prefix()).filter(|it| it.starts_with(['/', '?'])).unwrap_or(path);
    if websocket { url.websocket(path) } else { url.http(path) }
}

/// The form of a webhook whose signature is right. Extracting anything else from a webhook would be a mistake.
pub(crate) struct Signed(pub(crate) Form);

impl FromRequest<App> for Signed {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (mut parts, body) = request.into_parts();
        let uri = original_uri(&mut parts, app).await;
        let headers = parts.headers.clone();
        let body = Bytes::from_request(Request::from_parts(parts, body), app).await.map_err(|_| {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than any webhook of Twilio's, or broke off")
        })?;
        let form = Form::parse(&body);
        app.signatures.check(&public_address(app, &uri, false), Body::Form(form.parameters()), &headers)?;
        Ok(Self(form))
    }
}

/// The address before the router took a prefix away.
pub(crate) async fn original_uri(parts: &mut Parts, app: &App) -> Uri {
    use axum::extract::FromRequestParts as _;
    let Ok(OriginalUri(uri)) = OriginalUri::from_request_parts(parts, app).await;
    uri
}
