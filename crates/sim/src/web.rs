//! A small HTTP client and server on the simulated network.

use std::io;

use axum::extract::Request as ServerRequest;
use axum::response::{IntoResponse as _, Response as ServerResponse};
use bytes::Bytes;
use http::{StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::net::Network;

/// Largest answer read; that a document has at most 64 kB is seen to where it is read.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Sends one request on a connection of its own.
///
/// # Errors
/// When the connection or the exchange fails.
pub async fn send(net: &Network, host: &str, port: u16, request: Request<Full<Bytes>>) -> io::Result<Response<Bytes>> {
    let io = net.connect(host, port).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(io::Error::other)?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(io::Error::other)?.to_bytes();
    connection.abort();
    Ok(Response::from_parts(head, body))
}

/// The server's end of an upgraded connection.
pub(crate) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Answers an upgrade and runs `session` on the socket; anything else is refused.
pub(crate) fn upgrade<F>(mut request: ServerRequest, session: impl FnOnce(Socket) -> F + Send + 'static) -> ServerResponse
where
    F: Future<Output = ()> + Send,
{
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).cloned();
    let (Some(key), Some(upgraded)) = (key, request.extensions_mut().remove::<OnUpgrade>()) else {
        return StatusCode::UPGRADE_REQUIRED.into_response();
    };
    tokio::spawn(async move {
        if let Ok(io) = upgraded.await {
            session(WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, None).await).await;
        }
    });
    let headers = [(header::CONNECTION, "upgrade".to_owned()), (header::UPGRADE, "websocket".to_owned())];
    (StatusCode::SWITCHING_PROTOCOLS, headers, [(header::SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()))])
        .into_response()
}
