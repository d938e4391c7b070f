//! The providers of a load run: OpenAI Realtime and an ElevenLabs agent, as far as carrying sound goes, in a process of their
//! own. They cost as little as sockets can; the strict ones are `sim`'s.
//!
//! A process is steered by lines on its standard input, see `Order`, and ends with it. It prints its address first, then
//! `ok` behind every order.

use std::collections::{HashMap, VecDeque};
use std::io::{self, BufRead as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token, Waker};
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wire::websocket::{Message, Role};

use super::burst::{BLOCK, Ear, Heard, Symbol};
use super::machine::now;
use super::peer::{Came, Out, Peer};
use super::spread::Spread;

/// Whose protocol is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    Openai,
    Elevenlabs,
}

/// What audio the service takes and gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Audio {
    /// `audio/pcmu` or `ulaw_8000`: passed through
    Ulaw,
    /// `audio/pcm` at 24 kHz or `pcm_16000`: converted
    Pcm,
}

/// What the assistant does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Behaviour {
    /// Says every frame that it hears, at once, in one endless answer, until it is interrupted and begins another
    Echo,
    /// Greets, can be interrupted, answers
    Converse,
}

/// What a provider is like.
#[derive(Clone, Debug)]
pub struct Character {
    pub service: Service,
    pub audio: Audio,
    pub behaviour: Behaviour,
    /// Where the certificate that it shows is written to; without, it is not encrypted.
    pub certificate: Option<PathBuf>,
}

/// What the generator says to a provider, a line each.
#[derive(Debug, PartialEq)]
pub(super) enum Order {
    /// From now on everything is noted.
    Note,
    /// Nothing more is noted; what was goes to a file.
    Tell(PathBuf),
    /// Every echo is interrupted once, within 1.3 s.
    Interrupt,
}

/// What a provider noted.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Notes {
    /// Call, frame, nanosecond of its arrival; the answer left in the same moment.
    pub(super) arrivals: Vec<(u32, u32, u64)>,
    /// Call and nanosecond of a sentence "the caller speaks".
    pub(super) interruptions: Vec<(u32, u64)>,
    /// Call and nanosecond of the first sound of an answer to a turn.
    pub(super) answers: Vec<(u32, u64)>,
    /// Keys that it was told of.
    pub(super) keys: u64,
    /// Blocks that did not come whole.
    pub(super) broken: u64,
    /// How long a step of the provider's loop took, in microseconds: it answers so late at most.
    pub(super) lateness: Spread,
}

/// Silence that an echo begins with: what comes a little late is then not heard as a gap.
const CUSHION: usize = 5;
/// Echoes are interrupted behind one in so many blocks: not all in the same moment.
const INTERRUPTED_BLOCKS: u32 = 4;
/// A pause that ends a turn, and the time that an answer takes.
const TURN_PAUSE: u32 = 15;
const THINKING: Duration = Duration::from_millis(300);
/// An answer is so long, and is sent in pieces of half a second, all at once.
const ANSWER_PIECES: usize = 8;
const PIECE_FRAMES: usize = 25;

const LISTENER: Token = Token(0);
const ORDERS: Token = Token(1);

struct Conversation {
    peer: Peer,
    session: Session,
}

#[derive(Default)]
struct Session {
    answering: bool,
    answers: u64,
    /// Interruptions of the echo so far.
    interrupted: u32,
    ear: Ear,
    /// When the frames of the current block came.
    arrived: VecDeque<u64>,
    /// Who speaks here, once that was heard.
    call: Option<u32>,
    /// The caller has the floor.
    speaking: bool,
    quiet: u32,
    audio: Vec<u8>,
    text: String,
}

/// Sounds of the service's format, as base64.
struct Sounds {
    silence: String,
    piece: String,
}

struct Provider {
    character: Character,
    sounds: Sounds,
    notes: Option<Notes>,
    /// How often every echo was to be interrupted so far.
    interruptions: u32,
    /// Answers that are being thought about.
    thoughts: VecDeque<(u64, Token)>,
    address: SocketAddr,
}

/// Runs a provider until its standard input ends.
///
/// # Errors
/// When there is no port.
pub fn serve(character: Character) -> Result<()> {
    let tls = character.certificate.as_deref().map(tls).transpose()?;
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let address = listener.local_addr()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let waker = Waker::new(poll.registry(), ORDERS)?;
    let (sender, orders) = mpsc::channel();
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            let order = match line.split_once(' ') {
                Some(("tell", file)) => Order::Tell(file.into()),
                _ if line == "interrupt" => Order::Interrupt,
                _ => Order::Note,
            };
            if sender.send(Some(order)).is_err() || waker.wake().is_err() {
                return;
            }
        }
        let _ = sender.send(None);
        let _ = waker.wake();
    });
    say(&address.to_string())?;
    let (sounds, thoughts) = (Sounds::of(&character), VecDeque::new());
    let mut provider = Provider { sounds, character, notes: None, interruptions: 0, thoughts, address };
    let mut conversations: HashMap<Token, Conversation> = HashMap::new();
    let (mut events, mut next) = (Events::with_capacity(1024), ORDERS.0 + 1);
    loop {
        let due = provider.thoughts.front().map(|it| Duration::from_nanos(it.0.saturating_sub(now())));
        match poll.poll(&mut events, due) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            it => it?,
        }
        let woken = now();
        for event in &events {
            match event.token() {
                LISTENER => {
                    while let Ok((socket, _)) = listener.accept() {
                        let token = Token(next);
                        next += 1;
                        let tls = tls.clone().map(rustls::ServerConnection::new).transpose()?;
                        let mut peer = Peer::new(socket, Role::Server, true, tls);
                        poll.registry().register(peer.socket(), token, Interest::READABLE | Interest::WRITABLE)?;
                        conversations.insert(token, Conversation { peer, session: Session::default() });
                    }
                }
                ORDERS => {
                    while let Ok(order) = orders.try_recv() {
                        match order {
                            Some(Order::Note) => provider.notes = Some(Notes::default()),
                            Some(Order::Interrupt) => provider.interruptions += 1,
                            Some(Order::Tell(file)) => {
                                let notes = provider.notes.take().unwrap_or_default();
                                serde_json::to_writer(io::BufWriter::new(std::fs::File::create(file)?), &notes)?;
                            }
                            None => return Ok(()),
                        }
                        say("ok")?;
                    }
                }
                token => {
                    let Some(it) = conversations.get_mut(&token) else { continue };
                    if it.serve(token, &mut provider).is_err() {
                        let _ = poll.registry().deregister(it.peer.socket());
                        conversations.remove(&token);
                    }
                }
            }
        }
        while let Some((_, token)) = provider.thoughts.pop_front_if(|it| it.0 <= now()) {
            if let Some(it) = conversations.get_mut(&token) {
                it.session.answer(&mut it.peer.out, &mut provider);
                let _ = it.peer.flush();
            }
        }
        if let Some(notes) = &mut provider.notes {
            notes.lateness.add((now() - woken) / 1000);
        }
    }
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// A certificate for `localhost`, made now and written down for whoever is to trust it.
fn tls(certificate: &std::path::Path) -> Result<Arc<rustls::ServerConfig>> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()])?;
    std::fs::write(certificate, made.cert.pem()).with_context(|| format!("{} cannot be written", certificate.display()))?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    Ok(Arc::new(config.with_single_cert(vec![made.cert.der().clone()], key.into())?))
}

impl Sounds {
    fn of(character: &Character) -> Self {
        let rate = match (character.audio, character.service) {
            (Audio::Ulaw, _) => None,
            (Audio::Pcm, Service::Openai) => Some(24_000),
            (Audio::Pcm, Service::Elevenlabs) => Some(16_000),
        };
        let sound = |frames: usize, amplitude: f64| {
            let mut text = String::new();
            let samples = |rate: usize| {
                (0..frames * rate / 50)
                    .map(move |n| (amplitude * (440.0 * std::f64::consts::TAU * n as f64 / rate as f64).sin()) as i16)
            };
            let bytes: Vec<u8> = match rate {
                None => samples(8000).map(sim::ulaw).collect(),
                Some(rate) => samples(rate).flat_map(i16::to_le_bytes).collect(),
            };
            wire::audio::encode(&bytes, &mut text);
            text
        };
        Self { silence: sound(CUSHION, 0.0), piece: sound(PIECE_FRAMES, 6000.0) }
    }
}

impl Conversation {
    fn serve(&mut self, token: Token, provider: &mut Provider) -> io::Result<()> {
        let Self { peer, session } = self;
        let mut over = false;
        peer.read(|came, out| match came {
            Came::Head(head) => over |= !session.opened(head, out, provider),
            Came::Message(Message::Text(text)) => session.told(token, text, out, provider),
            Came::Message(Message::Close(..)) => {
                out.close(1000);
                over = true;
            }
            Came::Message(_) => (),
        })?;
        peer.flush()?;
        if over { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

fn send(out: &mut Out, event: &Value) {
    out.text(&event.to_string());
}

impl Session {
    /// Answers a request; `false` when it was for no session.
    fn opened(&mut self, head: &str, out: &mut Out, provider: &Provider) -> bool {
        if head.starts_with("GET /v1/convai/conversation/get-signed-url") {
            let scheme = if provider.character.certificate.is_some() { "wss" } else { "ws" };
            let port = provider.address.port();
            let url = format!("{scheme}://localhost:{port}/v1/convai/conversation?agent_id=load&conversation_signature=s");
            let body = json!({"signed_url": url}).to_string();
            out.raw(
                format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                )
                .as_bytes(),
            );
            return false;
        }
        out.accept(head);
        if provider.character.service == Service::Openai {
            let session = provider.session_object();
            send(out, &json!({"type": "session.created", "event_id": "event_0", "session": session}));
        }
        true
    }

    fn told(&mut self, token: Token, text: &str, out: &mut Out, provider: &mut Provider) {
        const APPEND: &str = r#"{"type":"input_audio_buffer.append","audio":""#;
        const CHUNK: &str = r#"{"user_audio_chunk":""#;
        if let Some(audio) = text.strip_prefix(APPEND).or_else(|| text.strip_prefix(CHUNK)) {
            let audio = audio.strip_suffix(r#""}"#).unwrap_or_default();
            return self.hear(token, audio, out, provider);
        }
        let Ok(event) = serde_json::from_str::<Value>(text) else { return };
        if let Some(notes) = &mut provider.notes
            && text.contains("pressed the key")
        {
            notes.keys += 1;
        }
        match event["type"].as_str().unwrap_or_default() {
            "session.update" => {
                let session = provider.session_object();
                send(out, &json!({"type": "session.updated", "event_id": "event_1", "session": session}));
            }
            "conversation_initiation_client_data" => {
                let format = if provider.character.audio == Audio::Ulaw { "ulaw_8000" } else { "pcm_16000" };
                let formats = json!({"conversation_id": "conv_load", "agent_output_audio_format": format, "user_input_audio_format": format});
                send(
                    out,
                    &json!({"type": "conversation_initiation_metadata", "conversation_initiation_metadata_event": formats}),
                );
                self.asked(out, provider);
            }
            "response.create" | "user_message" => self.asked(out, provider),
            _ => (),
        }
    }

    /// An answer is wanted.
    fn asked(&mut self, out: &mut Out, provider: &mut Provider) {
        match provider.character.behaviour {
            Behaviour::Echo if self.answering => (),
            Behaviour::Echo => {
                self.begin(out, provider);
                self.say(&provider.sounds.silence, out, provider);
            }
            Behaviour::Converse => self.answer(out, provider),
        }
    }

    /// Hears 20 ms.
    fn hear(&mut self, token: Token, audio: &str, out: &mut Out, provider: &mut Provider) {
        let came = now();
        if provider.character.behaviour == Behaviour::Echo && self.answering {
            self.say(audio, out, provider);
        }
        if wire::audio::decode(audio, &mut self.audio).is_err() {
            return;
        }
        let symbol = match provider.character.audio {
            Audio::Ulaw => Symbol::of_ulaw(&self.audio),
            Audio::Pcm => Symbol::of_pcm(&self.audio),
        };
        if self.arrived.len() == BLOCK as usize {
            self.arrived.pop_front();
        }
        self.arrived.push_back(came);
        let heard = self.ear.hear(symbol);
        if let Heard::Block(block) = heard {
            self.call = Some(block.call);
            let turn = (block.first / BLOCK + block.call).is_multiple_of(INTERRUPTED_BLOCKS);
            if turn && self.answering && self.interrupted != provider.interruptions {
                self.interrupted = provider.interruptions;
                self.begin_again(out, provider);
            }
        }
        if let Some(notes) = &mut provider.notes {
            match heard {
                Heard::Block(block) => {
                    notes.arrivals.extend(self.arrived.iter().zip(block.first..).map(|(at, frame)| (block.call, frame, *at)));
                }
                Heard::Broken => notes.broken += 1,
                Heard::Nothing => (),
            }
        }
        if provider.character.behaviour == Behaviour::Converse {
            self.follow(token, symbol, matches!(heard, Heard::Block(_)), out, provider);
        }
    }

    /// The echo is interrupted, and goes on as another answer.
    fn begin_again(&mut self, out: &mut Out, provider: &Provider) {
        self.interruption(out, provider);
        if provider.character.service == Service::Openai {
            let id = format!("resp_{}", self.answers);
            let response = json!({"object": "realtime.response", "id": id, "status": "cancelled", "output": []});
            send(out, &json!({"type": "response.done", "event_id": "e", "response": response}));
        }
        self.turn_over(out, provider);
        self.begin(out, provider);
        self.say(&provider.sounds.silence, out, provider);
    }

    /// Follows who has the floor: a whole block is speech, a pause ends a turn.
    fn follow(&mut self, token: Token, symbol: Symbol, block: bool, out: &mut Out, provider: &mut Provider) {
        self.quiet = if symbol == Symbol::Silence { self.quiet + 1 } else { 0 };
        let openai = provider.character.service == Service::Openai;
        if block && !self.speaking {
            self.speaking = true;
            if let (Some(notes), Some(call)) = (&mut provider.notes, self.call) {
                notes.interruptions.push((call, now()));
            }
            self.interruption(out, provider);
        } else if self.speaking && self.quiet == TURN_PAUSE {
            self.speaking = false;
            self.turn_over(out, provider);
            if openai {
                let item = format!("item_u{}", self.answers);
                send(
                    out,
                    &json!({"type": "conversation.item.input_audio_transcription.completed", "event_id": "e", "item_id": item, "content_index": 0, "transcript": "Do you have a table for four?"}),
                );
            } else {
                let words = json!({"user_transcript": "Do you have a table for four?", "event_id": self.answers});
                send(out, &json!({"type": "user_transcript", "user_transcription_event": words}));
            }
            provider.thoughts.push_back((now() + THINKING.as_nanos() as u64, token));
        }
    }

    /// The caller speaks.
    fn interruption(&self, out: &mut Out, provider: &Provider) {
        let event = match provider.character.service {
            Service::Openai => {
                json!({"type": "input_audio_buffer.speech_started", "event_id": "e", "audio_start_ms": 0, "item_id": format!("item_u{}", self.answers)})
            }
            Service::Elevenlabs => json!({"type": "interruption", "interruption_event": {"event_id": self.answers}}),
        };
        send(out, &event);
    }

    /// The caller has spoken.
    fn turn_over(&self, out: &mut Out, provider: &Provider) {
        if provider.character.service == Service::Openai {
            let item = format!("item_u{}", self.answers);
            send(out, &json!({"type": "input_audio_buffer.speech_stopped", "event_id": "e", "audio_end_ms": 0, "item_id": item}));
            send(
                out,
                &json!({"type": "input_audio_buffer.committed", "event_id": "e", "previous_item_id": null, "item_id": item}),
            );
        }
    }

    /// A whole answer, as fast as it is made: much faster than it is spoken.
    fn answer(&mut self, out: &mut Out, provider: &mut Provider) {
        self.begin(out, provider);
        if let (Some(notes), Some(call)) = (&mut provider.notes, self.call) {
            notes.answers.push((call, now()));
        }
        for _ in 0..ANSWER_PIECES {
            self.say(&provider.sounds.piece, out, provider);
        }
        if provider.character.service == Service::Openai {
            let (response, item) = (format!("resp_{}", self.answers), format!("item_a{}", self.answers));
            let words = "Certainly, for when would you like it to be?";
            send(
                out,
                &json!({"type": "response.output_audio_transcript.done", "event_id": "e", "response_id": response, "item_id": item, "output_index": 0, "content_index": 0, "transcript": words}),
            );
            send(
                out,
                &json!({"type": "response.output_audio.done", "event_id": "e", "response_id": response, "item_id": item, "output_index": 0, "content_index": 0}),
            );
            let usage = json!({"total_tokens": 200, "input_tokens": 150, "output_tokens": 50});
            send(
                out,
                &json!({"type": "response.done", "event_id": "e", "response": {"object": "realtime.response", "id": response, "status": "completed", "output": [], "usage": usage}}),
            );
        }
        self.answering = false;
    }

    fn begin(&mut self, out: &mut Out, provider: &Provider) {
        self.answers += 1;
        self.answering = true;
        let words = "Certainly, for when would you like it to be?";
        if provider.character.service == Service::Openai {
            let response = json!({"object": "realtime.response", "id": format!("resp_{}", self.answers), "status": "in_progress", "output": []});
            send(out, &json!({"type": "response.created", "event_id": "e", "response": response}));
        } else {
            let words = json!({"agent_response": words, "event_id": self.answers});
            send(out, &json!({"type": "agent_response", "agent_response_event": words}));
        }
    }

    /// A piece of sound, base64 in the service's format.
    fn say(&mut self, audio: &str, out: &mut Out, provider: &Provider) {
        use std::fmt::Write as _;
        self.text.clear();
        let (text, number) = (&mut self.text, self.answers);
        // Written by hand: it is what the provider does most.
        let _ = match provider.character.service {
            Service::Openai => write!(
                text,
                r#"{{"type":"response.output_audio.delta","event_id":"event_0123456789abcdef01234","response_id":"resp_{number}","item_id":"item_a{number}","output_index":0,"content_index":0,"delta":"{audio}"}}"#
            ),
            Service::Elevenlabs => {
                write!(text, r#"{{"type":"audio","audio_event":{{"audio_base_64":"{audio}","event_id":{number}}}}}"#)
            }
        };
        out.text(text);
    }
}

impl Provider {
    fn session_object(&self) -> Value {
        let format = match self.character.audio {
            Audio::Ulaw => json!({"type": "audio/pcmu"}),
            Audio::Pcm => json!({"type": "audio/pcm", "rate": 24000}),
        };
        json!({
            "type": "realtime", "object": "realtime.session", "id": "sess_load", "model": "gpt-realtime-2.1", "output_modalities": ["audio"],
            "audio": {"input": {"format": format}, "output": {"format": format, "voice": "marin"}},
        })
    }
}
