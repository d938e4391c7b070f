//! The bare relay: what every figure of a load run is held against. It moves frames between a media stream and an OpenAI
//! session with as little as can be done: one thread, epoll, payloads found by their position in the text, no JSON, no state
//! but the stream's id, no queue, no interruption, no record.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use wire::websocket::{Message, Role};

use super::peer::{Came, Out, Peer};

const LISTENER: Token = Token(0);
const APPEND: &str = r#"{"type":"input_audio_buffer.append","audio":""#;

/// One call: even tokens are the caller's side, odd ones the provider's.
struct Side {
    peer: Peer,
    stream_sid: String,
}

/// Relays between `listen` and the provider at `provider` until it is killed.
///
/// # Errors
/// When the port is not free.
pub fn serve(port: u16, provider: SocketAddr) -> Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let (mut events, mut sides, mut next) = (Events::with_capacity(1024), HashMap::<usize, Side>::new(), 2);
    let mut moved = String::new();
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            it => it?,
        }
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((socket, _)) = listener.accept() {
                    for (token, peer) in [
                        (next, Peer::new(socket, Role::Server, true, None)),
                        (next + 1, Peer::new(TcpStream::connect(provider)?, Role::Client, true, None)),
                    ] {
                        let mut side = Side { peer, stream_sid: String::new() };
                        poll.registry().register(side.peer.socket(), Token(token), Interest::READABLE | Interest::WRITABLE)?;
                        sides.insert(token, side);
                    }
                    next += 2;
                    let asked = "GET /v1/realtime?model=bare HTTP/1.1\r\nhost: provider\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
                    if let Some(side) = sides.get_mut(&(next - 1)) {
                        side.peer.out.raw(asked.as_bytes());
                    }
                }
                continue;
            }
            let (token, other) = (event.token().0, event.token().0 ^ 1);
            let [Some(side), Some(far)] = sides.get_disjoint_mut([&token, &other]) else { continue };
            let from_caller = token % 2 == 0;
            if relay(side, far, from_caller, &mut moved).is_err() {
                for token in [token, other] {
                    if let Some(mut side) = sides.remove(&token) {
                        let _ = poll.registry().deregister(side.peer.socket());
                    }
                }
            }
        }
    }
}

fn relay(side: &mut Side, far: &mut Side, from_caller: bool, moved: &mut String) -> io::Result<()> {
    let Side { peer, stream_sid } = side;
    let mut over = false;
    peer.read(|came, out: &mut Out| match came {
        Came::Head(head) if from_caller => out.accept(head),
        Came::Head(_) => {
            out.text(r#"{"type":"session.update","session":{"type":"realtime"}}"#);
            out.text(r#"{"type":"response.create"}"#);
        }
        Came::Message(Message::Text(text)) => {
            let (before, end) = if from_caller { (r#""payload":""#, '"') } else { (r#""delta":""#, '"') };
            let Some((head, rest)) = text.split_once(before) else {
                if from_caller && let Some((_, sid)) = text.split_once(r#""streamSid":""#) {
                    *stream_sid = sid.split('"').next().unwrap_or_default().to_owned();
                    far.stream_sid.clone_from(stream_sid);
                }
                return;
            };
            let payload = rest.split(end).next().unwrap_or_default();
            moved.clear();
            if from_caller {
                moved.push_str(APPEND);
                moved.push_str(payload);
                moved.push_str(r#""}"#);
            } else if head.starts_with(r#"{"type":"response.output_audio.delta""#) && !stream_sid.is_empty() {
                moved.push_str(r#"{"event":"media","streamSid":""#);
                moved.push_str(stream_sid);
                moved.push_str(r#"","media":{"payload":""#);
                moved.push_str(payload);
                moved.push_str(r#""}}"#);
            } else {
                return;
            }
            far.peer.out.text(moved);
        }
        Came::Message(Message::Close(..)) => {
            out.close(1000);
            over = true;
        }
        Came::Message(_) => (),
    })?;
    peer.flush()?;
    far.peer.flush()?;
    if over { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}
