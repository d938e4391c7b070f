//! The upgrade of the media socket. The signature is checked here, the token by the bridge.

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use twilio::Body;

use crate::App;
use crate::problem::{Problem, problem};
use crate::signed::{original_uri, public_address};

pub(crate) async fn upgrade(State(app): State<App>, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    let key = match upgrade_key(&parts.headers) {
        Ok(key) => key,
        Err(refused) => return refused.into_response(),
    };
    let uri = original_uri(&mut parts, &app).await;
    if let Err(refused) = app.signatures.check(&public_address(&app, &uri, true), Body::None, &parts.headers) {
        return refused.into_response();
    }
    let Some(upgraded) = parts.extensions.remove::<OnUpgrade>() else {
        return problem(StatusCode::UPGRADE_REQUIRED, "this connection cannot be upgraded");
    };
    app.desk.bridge().accept(async move { upgraded.await.ok().map(bridge::net::unwrap) });
    // No subprotocol: Twilio offers none, and an answer with one would break RFC 6455.
    let headers = [(header::CONNECTION, "upgrade".to_owned()), (header::UPGRADE, "websocket".to_owned())];
    let accept = [(header::SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()))];
    (StatusCode::SWITCHING_PROTOCOLS, headers, accept).into_response()
}

/// The key of a request that wants to become a WebSocket.
pub(crate) fn upgrade_key(headers: &HeaderMap) -> Result<HeaderValue, Problem> {
    let says = |name, value: &str| has_token(headers, name, value);
    if !says(header::UPGRADE, "websocket") || !says(header::CONNECTION, "upgrade") || !says(header::SEC_WEBSOCKET_VERSION, "13") {
        return Err(Problem::new(StatusCode::UPGRADE_REQUIRED, "this address takes WebSocket connections (version 13)"));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).cloned();
    key.ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing"))
}

fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|it| it.to_str().ok());
    values.flat_map(|it| it.split(',')).any(|it| it.trim().eq_ignore_ascii_case(token))
}
