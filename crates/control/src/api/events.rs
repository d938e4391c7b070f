//! What happens on the tenant's calls, as it happens: as server-sent events or over a WebSocket, by ticket, because browsers send no
//! headers with either.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::{SinkExt as _, StreamExt as _, stream};
use http::{HeaderMap, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use store::Entry;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role as Side, WebSocketConfig};
use utoipa::{IntoParams, ToSchema};

use super::given::{Asked, moment};
use crate::App;
use crate::access::Viewer;
use crate::media::upgrade_key;
use crate::problem::Problem;

/// A ticket opens one connection, within this time.
const TICKET_LIFE: Duration = Duration::from_secs(30);
/// Tickets that nobody has used yet; beyond, the oldest is void.
const TICKETS_MAX: usize = 10_000;
/// Listeners of a tenant, on one server.
const LISTENERS_MAX: usize = 50;
/// After so much silence the line says that it is there.
const SILENCE: Duration = Duration::from_secs(15);
/// A listener that takes nothing for so long is let go.
const PATIENCE: Duration = Duration::from_secs(20);
/// A connection lives no longer than this: whoever was sent away meanwhile does not come back.
const LIFE: Duration = Duration::from_secs(3600);

/// Tickets and listeners of this server.
#[derive(Default)]
pub struct Events {
    tickets: Mutex<VecDeque<(String, Arc<str>, Instant)>>,
    listeners: Mutex<HashMap<Arc<str>, usize>>,
}

/// Somebody who listens; counted until dropped.
struct Listener {
    events: Arc<Events>,
    tenant: Arc<str>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut listeners = self.events.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = listeners.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                listeners.remove(&self.tenant);
            }
        }
    }
}

impl Events {
    fn issue(&self, tenant: &str) -> String {
        let mut secret = [0_u8; 24];
        aws_lc_rs::rand::fill(&mut secret).expect("the system has random numbers");
        let ticket = URL_SAFE_NO_PAD.encode(secret);
        let mut tickets = self.tickets.lock().unwrap_or_else(PoisonError::into_inner);
        tickets.retain(|it| it.2.elapsed() < TICKET_LIFE);
        if tickets.len() >= TICKETS_MAX {
            tickets.pop_front();
        }
        tickets.push_back((ticket.clone(), tenant.into(), Instant::now()));
        ticket
    }

    /// The tenant of a ticket, once.
    fn redeem(self: &Arc<Self>, ticket: &str) -> Result<Listener, Problem> {
        let mut tickets = self.tickets.lock().unwrap_or_else(PoisonError::into_inner);
        let place = tickets.iter().position(|it| it.0 == ticket && it.2.elapsed() < TICKET_LIFE);
        let found = place.and_then(|it| tickets.remove(it));
        drop(tickets);
        let Some((_, tenant, _)) = found else {
            let detail = "the ticket is unknown here, used, or over: ask POST /api/events/ticket for another one";
            return Err(Problem::new(StatusCode::UNAUTHORIZED, detail));
        };
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let count = listeners.entry(tenant.clone()).or_default();
        if *count >= LISTENERS_MAX {
            let detail = format!("{LISTENERS_MAX} are listening to this tenant already");
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(30));
        }
        *count += 1;
        Ok(Listener { events: self.clone(), tenant })
    }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Ticket {
    /// For `?ticket=`; opens one connection to the server that gave it.
    ticket: String,
    /// Seconds.
    expires_in: u64,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct EventsQuery {
    ticket: String,
}

/// Something that happened on a call.
#[derive(Serialize, ToSchema)]
pub(crate) struct Event<'a> {
    call: &'a str,
    /// Counts the streams of the call, and what happened in each: together they are an event's name.
    epoch: u32,
    seq: u64,
    #[schema(format = DateTime)]
    at: String,
    /// What: an object with its `kind` and what belongs to it.
    #[schema(value_type = Object)]
    fact: &'a store::Fact,
}

/// What a listener is sent.
enum News {
    Happened(String),
    /// So many were left out: look at the list again.
    Missed(u64),
    Nothing,
}

/// What is new for a tenant; `None`: it is over.
async fn next(feed: &mut broadcast::Receiver<Entry>, tenant: &str) -> Option<News> {
    let until = Instant::now() + SILENCE;
    loop {
        match tokio::time::timeout_at(until, feed.recv()).await {
            Err(_) => return Some(News::Nothing),
            Ok(Err(RecvError::Closed)) => return None,
            Ok(Err(RecvError::Lagged(missed))) => return Some(News::Missed(missed)),
            Ok(Ok(it)) if it.tenant != tenant => (),
            Ok(Ok(it)) => {
                let event = Event { call: &it.call, epoch: it.epoch, seq: it.seq, at: moment(it.at_ms), fact: &it.fact };
                return serde_json::to_string(&event).ok().map(News::Happened);
            }
        }
    }
}

/// Pages of other origins may not listen unless the operator has named them; programs send no origin.
fn check_origin(app: &App, headers: &HeaderMap) -> Result<(), Problem> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    let own = url::Url::parse(&app.desk.public_url().http("/")).map(|it| it.origin().ascii_serialization());
    if own.is_ok_and(|it| it == origin) || app.cors_origins.iter().any(|it| it == origin) {
        return Ok(());
    }
    Err(Problem::new(StatusCode::FORBIDDEN, "pages of that origin may not listen: name it in CORS_ORIGINS"))
}

/// A ticket to listen with.
#[utoipa::path(post, path = "/api/events/ticket", tag = "events", security(("bearer" = ["viewer"])),
    responses((status = 200, body = Ticket)))]
pub(crate) async fn ticket(State(app): State<App>, who: Viewer) -> Json<Ticket> {
    Json(Ticket { ticket: app.events.issue(&who.tenant), expires_in: TICKET_LIFE.as_secs() })
}

/// What happens on the tenant's calls, as server-sent events.
///
/// Each `data` is an Event. `event: missed` says how many were left out because the listener was too slow.
#[utoipa::path(get, path = "/api/events", tag = "events", params(EventsQuery),
    responses((status = 200, description = "Events, without end", content_type = "text/event-stream", body = String),
    (status = 401, body = inline(super::ProblemDocument)), (status = 403, body = inline(super::ProblemDocument)),
    (status = 429, body = inline(super::ProblemDocument))))]
pub(crate) async fn listen(
    State(app): State<App>,
    headers: HeaderMap,
    Asked(it): Asked<EventsQuery>,
) -> Result<Response, Problem> {
    check_origin(&app, &headers)?;
    let listener = app.events.redeem(&it.ticket)?;
    let state = (app.desk.ledger().subscribe(), listener, Instant::now() + LIFE);
    let hello = stream::once(async { Ok::<_, Infallible>(Bytes::from_static(b"retry: 2000\n: listening\n\n")) });
    let events = stream::unfold(state, |(mut feed, listener, until)| async move {
        if Instant::now() > until {
            return None;
        }
        let text = match next(&mut feed, &listener.tenant).await? {
            News::Happened(event) => format!("data: {event}\n\n"),
            News::Missed(missed) => format!("event: missed\ndata: {missed}\n\n"),
            News::Nothing => ": still here\n\n".to_owned(),
        };
        Some((Ok(Bytes::from(text)), (feed, listener, until)))
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(hello.chain(events))).into_response())
}

/// The same over a WebSocket: each text message is an Event, or `{"missed": n}`.
#[utoipa::path(get, path = "/api/events/ws", tag = "events", params(EventsQuery),
    responses((status = 101, description = "A WebSocket"), (status = 401, body = inline(super::ProblemDocument)),
    (status = 403, body = inline(super::ProblemDocument)), (status = 426, body = inline(super::ProblemDocument)),
    (status = 429, body = inline(super::ProblemDocument))))]
pub(crate) async fn listen_ws(
    State(app): State<App>,
    Asked(it): Asked<EventsQuery>,
    request: Request,
) -> Result<Response, Problem> {
    let (mut parts, _) = request.into_parts();
    let key = upgrade_key(&parts.headers)?;
    check_origin(&app, &parts.headers)?;
    let listener = app.events.redeem(&it.ticket)?;
    let upgraded = parts.extensions.remove::<OnUpgrade>();
    let upgraded = upgraded.ok_or_else(|| Problem::new(StatusCode::UPGRADE_REQUIRED, "this connection cannot be upgraded"))?;
    let mut feed = app.desk.ledger().subscribe();
    tokio::spawn(async move {
        let Ok(io) = upgraded.await else { return };
        let limits = WebSocketConfig::default().max_message_size(Some(4096)).max_frame_size(Some(4096));
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(io), Side::Server, Some(limits)).await;
        let until = Instant::now() + LIFE;
        while Instant::now() < until {
            let message = tokio::select! {
                news = next(&mut feed, &listener.tenant) => match news {
                    Some(News::Happened(event)) => Message::text(event),
                    Some(News::Missed(missed)) => Message::text(format!("{{\"missed\":{missed}}}")),
                    Some(News::Nothing) => Message::Ping(Bytes::new()),
                    None => break,
                },
                heard = socket.next() => match heard {
                    Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                    // Nothing that a listener says matters.
                    Some(Ok(_)) => continue,
                },
            };
            if !matches!(timeout(PATIENCE, socket.send(message)).await, Ok(Ok(()))) {
                return;
            }
        }
        let _ = timeout(PATIENCE, socket.close(None)).await;
    });
    let headers = [(header::CONNECTION, "upgrade".to_owned()), (header::UPGRADE, "websocket".to_owned())];
    let accept = [(header::SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()))];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers, accept).into_response())
}
