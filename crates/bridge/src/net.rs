//! Connections outward, behind a trait so that tests and the demo can run on a network in memory.

use std::any::Any;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use call::EndReason;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use url::Url;
use wire::websocket::Role;

use crate::breaker::Rest;
use crate::limits;
use crate::socket::Socket;
use crate::tcp::Tcp;

/// A connected byte stream.
pub trait Io: AsyncRead + AsyncWrite + Any + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Any + Send + Unpin> Io for T {}

/// Any byte stream.
pub type BoxIo = Box<dyn Io>;

/// Opens connections.
pub trait Connect: Send + Sync + 'static {
    /// Connects to `host:port`, encrypted and verified when `tls`.
    fn connect(&self, host: &str, port: u16, tls: bool) -> BoxFuture<'static, io::Result<BoxIo>>;
}

/// TCP with TLS by rustls against the WebPKI roots.
pub struct Internet {
    tls: TlsConnector,
}

impl Default for Internet {
    fn default() -> Self {
        Self::trusting(&[])
    }
}

impl Internet {
    /// Also trusts these authorities, as a company's own.
    pub fn trusting(authorities: &[CertificateDer<'static>]) -> Self {
        let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        roots.add_parsable_certificates(authorities.iter().cloned());
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Self { tls: TlsConnector::from(Arc::new(config)) }
    }
}

impl Connect for Internet {
    fn connect(&self, host: &str, port: u16, tls: bool) -> BoxFuture<'static, io::Result<BoxIo>> {
        let (host, connector) = (host.to_owned(), self.tls.clone());
        Box::pin(async move {
            let socket = TcpStream::connect((host.as_str(), port)).await?;
            socket.set_nodelay(true)?;
            let socket = Tcp::new(socket);
            if !tls {
                return Ok(Box::new(socket) as BoxIo);
            }
            let name = ServerName::try_from(host).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
            Ok(Box::new(connector.connect(name, socket).await?) as BoxIo)
        })
    }
}

/// Why a provider could not be reached. Carries no key and no query.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("{host} cannot be reached: {problem}")]
    Unreachable { host: String, problem: String },
    #[error("{host} answered {status} instead of a session")]
    Refused { host: String, status: StatusCode },
    #[error("the answer of {host} is not understood: {problem}")]
    Answer { host: String, problem: String },
    #[error("the address of {host} is not usable: {problem}")]
    Address { host: String, problem: String },
    #[error("{host} {}, and is left alone for half a minute", match rest { Rest::Failing => "has failed several times", Rest::Refused => "has refused this account" })]
    Resting { host: String, rest: Rest },
}

impl DialError {
    /// What it means for a call. A refusal stands, and no second attempt is made; but 429 and 5xx may be over soon.
    pub(crate) fn reason(&self) -> EndReason {
        match self {
            Self::Unreachable { .. } => EndReason::AssistantLost,
            Self::Refused { status, .. } if status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS => {
                EndReason::AssistantLost
            }
            Self::Refused { .. } | Self::Answer { .. } | Self::Address { .. } => EndReason::AssistantRefused,
            Self::Resting { rest: Rest::Refused, .. } => EndReason::AssistantRefused,
            Self::Resting { rest: Rest::Failing, .. } => EndReason::AssistantResting,
        }
    }
}

fn target(url: &Url) -> Result<(String, u16, bool), DialError> {
    let host = url.host_str().unwrap_or_default().to_owned();
    let problem = |problem: &str| DialError::Address { host: host.clone(), problem: problem.to_owned() };
    let tls = match url.scheme() {
        "https" | "wss" => true,
        "http" | "ws" => false,
        _ => return Err(problem("expected http, https, ws or wss")),
    };
    let port = url.port().unwrap_or(if tls { 443 } else { 80 });
    if host.is_empty() {
        return Err(problem("it names no host"));
    }
    Ok((host, port, tls))
}

/// A request under way on a connection of its own.
struct Exchange {
    host: String,
    response: Response<Incoming>,
    connection: AbortHandle,
}

impl Exchange {
    /// Sends a `GET` with these headers.
    async fn get(net: &dyn Connect, url: &Url, mut headers: HeaderMap) -> Result<Self, DialError> {
        let (host, port, tls) = target(url)?;
        let unreachable = |problem: String| DialError::Unreachable { host: host.clone(), problem };
        let io = net.connect(&host, port, tls).await.map_err(|error| unreachable(error.to_string()))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(|error| unreachable(error.to_string()))?;
        let connection = tokio::spawn(connection.with_upgrades()).abort_handle();
        let authority = url.port().map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
        let authority = authority
            .parse()
            .map_err(|_| DialError::Address { host: host.clone(), problem: "its name is no host name".into() })?;
        headers.insert(header::HOST, authority);
        let path = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        let mut request = Request::get(path)
            .body(Empty::<Bytes>::new())
            .map_err(|error| DialError::Address { host: host.clone(), problem: error.to_string() })?;
        *request.headers_mut() = headers;
        match sender.send_request(request).await {
            Ok(response) => Ok(Self { host, response, connection }),
            Err(error) => {
                connection.abort();
                Err(unreachable(error.to_string()))
            }
        }
    }
}

/// Opens a WebSocket. `headers` are added to the upgrade.
pub(crate) async fn websocket(net: &dyn Connect, url: &Url, mut headers: HeaderMap) -> Result<Socket, DialError> {
    let key = generate_key();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::try_from(&key).expect("it is base64"));
    let Exchange { host, response, connection } = Exchange::get(net, url, headers).await?;
    let problem = |problem: &str| DialError::Unreachable { host: host.clone(), problem: problem.to_owned() };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        connection.abort();
        return Err(DialError::Refused { host, status: response.status() });
    }
    let accept = response.headers().get(header::SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes);
    if accept != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
        connection.abort();
        return Err(problem("it answered the upgrade of somebody else"));
    }
    if response.headers().contains_key(header::SEC_WEBSOCKET_EXTENSIONS) {
        connection.abort();
        return Err(problem("it insists on an extension that was not offered"));
    }
    let upgraded = hyper::upgrade::on(response).await.map_err(|error| problem(&error.to_string()))?;
    let (io, early) = unwrap(upgraded);
    Ok(Socket::new(io, Role::Client, limits::ASSISTANT_MESSAGE_BYTES, &early))
}

/// The connection itself and what was read ahead, instead of the wrappers that hyper has around both: every byte of a call
/// would go through them.
pub fn unwrap(upgraded: Upgraded) -> (BoxIo, Bytes) {
    let upgraded = match upgraded.downcast::<TokioIo<TcpStream>>() {
        Ok(parts) => return (Box::new(Tcp::new(parts.io.into_inner())), parts.read_buf),
        Err(upgraded) => upgraded,
    };
    match upgraded.downcast::<TokioIo<BoxIo>>() {
        Ok(parts) => (parts.io.into_inner(), parts.read_buf),
        Err(upgraded) => (Box::new(TokioIo::new(upgraded)), Bytes::new()),
    }
}

/// `GET`, with a small answer.
pub(crate) async fn get(net: &dyn Connect, url: &Url, headers: HeaderMap) -> Result<Bytes, DialError> {
    let Exchange { host, response, connection } = Exchange::get(net, url, headers).await?;
    let result = if response.status() == StatusCode::OK {
        let body = Limited::new(response.into_body(), limits::REST_ANSWER_BYTES).collect().await;
        body.map(|it| it.to_bytes()).map_err(|error| DialError::Answer { host, problem: error.to_string() })
    } else {
        Err(DialError::Refused { host, status: response.status() })
    };
    connection.abort();
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::Exchanges;
    use crate::outbox::Outbox;
    use crate::uplink::{UplinkControl, UplinkPrinter};
    use crate::wake::Sources;
    use futures::{SinkExt as _, StreamExt as _};
    use media::enhance::Chain;
    use rustls::pki_types::PrivatePkcs8KeyDer;
    use std::future::poll_fn;
    use std::pin::Pin;
    use std::task::Poll;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::sync::oneshot;
    use tokio::task::yield_now;
    use wire::websocket::NORMAL_CLOSURE;

    /// A TLS server for `localhost` with a certificate of its own; runs `session` on the first connection.
    async fn server<F>(
        session: impl FnOnce(tokio_rustls::server::TlsStream<tokio::net::TcpStream>) -> F + Send + 'static,
    ) -> (u16, CertificateDer<'static>)
    where
        F: Future<Output = ()> + Send,
    {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let (certificate, key) = (made.cert.der().clone(), PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key.into())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            if let Ok(stream) = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(socket).await {
                session(stream).await;
            }
        });
        (port, certificate)
    }

    fn url(scheme: &str, port: u16) -> Url {
        Url::parse(&format!("{scheme}://localhost:{port}/v1/realtime?model=m")).unwrap()
    }

    #[tokio::test]
    async fn a_websocket_over_tls() {
        let (port, certificate) = server(|stream| async move {
            let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
            while let Some(Ok(message)) = socket.next().await {
                if message.is_text() {
                    socket.send(message).await.unwrap();
                }
            }
        })
        .await;
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, "Bearer x".parse().unwrap());
        let mut socket = websocket(&Internet::trusting(&[certificate]), &url("wss", port), headers).await.unwrap();
        let mut outbox = Outbox::new(UplinkPrinter::new(wire::openai::print_append, Chain::default()), Role::Client, 1);
        outbox.control(UplinkControl::Text("hello".into())).unwrap();
        let echoed = poll_fn(|cx| {
            socket.poll_send(&mut outbox, cx).unwrap();
            socket.poll_receive(cx)
        });
        echoed.await.unwrap();
        assert_eq!(socket.message(), Ok(Some(wire::websocket::Message::Text("hello"))));
        socket.close(&mut outbox, NORMAL_CLOSURE, "").await;
    }

    /// Encrypted, in an exchange, to a peer that reads nothing for a while: whatever holds something back passes it on later.
    #[tokio::test]
    async fn over_tls_too_a_peer_gets_later_what_it_does_not_take_at_once() {
        // More than the kernel holds for it.
        const SENT: usize = 12_000_000;
        let (goes_on, go_on) = (Arc::new(tokio::sync::Notify::new()), oneshot::channel());
        let wait = goes_on.clone();
        let (port, certificate) = server(|mut stream| async move {
            wait.notified().await;
            let mut read = Vec::new();
            // The call lets go of the connection when all of it was sent.
            let _ = stream.read_to_end(&mut read).await;
            go_on.0.send(read).unwrap();
        })
        .await;
        let mut io = Internet::trusting(&[certificate]).connect("localhost", port, true).await.unwrap();
        let exchanges = Exchanges::open();
        let call = exchanges.run(|place| async move {
            place.watch(&mut io, Sources::ASSISTANT);
            let sent: Vec<u8> = (0..SENT).map(|it| (it % 251) as u8).collect();
            io.write_all(&sent).await.unwrap();
            // As the turn of others, in which nothing is taken of it.
            yield_now().await;
            let waits = poll_fn(|cx| Poll::Ready(Pin::new(&mut io).poll_flush(cx).is_pending())).await;
            goes_on.notify_one();
            io.flush().await.unwrap();
            assert!(waits, "a peer that reads nothing has taken all");
            io.shutdown().await.unwrap();
        });
        call.await.unwrap();
        let read = go_on.1.await.unwrap();
        assert_eq!(read.len(), SENT);
        assert!(read.iter().enumerate().all(|(n, it)| *it == (n % 251) as u8));
    }

    #[tokio::test]
    async fn a_get_over_tls() {
        let (port, certificate) = server(|mut stream| async move {
            let mut request = vec![0; 2048];
            let read = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..read]).to_ascii_lowercase();
            assert!(
                request.starts_with("get /v1/realtime?model=m http/1.1") && request.contains("host: localhost:"),
                "{request}"
            );
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
            let _ = stream.shutdown().await;
        })
        .await;
        assert_eq!(&get(&Internet::trusting(&[certificate]), &url("https", port), HeaderMap::new()).await.unwrap()[..], b"{}");
    }

    #[tokio::test]
    async fn a_stranger_is_not_trusted() {
        let (port, _) = server(|_| async {}).await;
        let error = websocket(&Internet::default(), &url("wss", port), HeaderMap::new()).await.err().unwrap();
        assert!(matches!(&error, DialError::Unreachable { problem, .. } if problem.contains("certificate")), "{error}");
        assert_eq!(error.reason(), EndReason::AssistantLost);
    }
}
