//! What all providers have in common: a mapper between their messages and the call's vocabulary, and the uplink.

use std::fmt;
use std::sync::Arc;

use call::{Action, EndReason, Input};
use media::enhance::Chain;
use media::{Encoding, Format, Frame, Rate, Sniffer, Transcoder};
use tokio_tungstenite::WebSocketStream;

use crate::elevenlabs::ElevenLabs;
use crate::net::{BoxIo, Connect, DialError};
use crate::openai::OpenAi;
use crate::plan::{AssistantPlan, HistoryItem, ToolDefinition};
use crate::writer::{Outbox, Printer, Stalled};
use crate::{Metrics, limits};

/// The conversation of one provider session: its ids, its state, its rules.
pub(crate) trait Mapper: Send {
    /// The socket is open.
    fn opened(&mut self, outbox: &Uplink) -> Result<(), Fault>;
    /// A text message; inputs go to `call` in order.
    fn receive(&mut self, text: &str, call: &mut dyn FnMut(Input<'_>), outbox: &Uplink) -> Result<(), Fault>;
    /// Performs what the call wants of the provider; audio does not come this way.
    fn perform(&mut self, action: &Action, outbox: &Uplink) -> Result<(), Stalled>;
    /// What a close of the socket means.
    fn closed(&self, code: Option<u16>) -> EndReason;
    /// For logs and metrics.
    fn peer(&self) -> &'static str;
}

/// Whose doing a broken session is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// One broken message: counted, and too many end the session.
    #[error("{0}")]
    Malformed(String),
    /// The provider will not serve this session.
    #[error("the provider refused: {0}")]
    Refused(String),
    /// The provider cannot go on.
    #[error("the provider gave up: {0}")]
    Lost(String),
    #[error("the provider reads nothing")]
    Stalled,
}

impl From<Stalled> for Fault {
    fn from(_: Stalled) -> Self {
        Self::Stalled
    }
}

impl From<wire::Malformed> for Fault {
    fn from(error: wire::Malformed) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// The queue towards a provider.
pub(crate) type Uplink = Outbox<UplinkPrinter>;

/// Overtakes audio.
pub(crate) enum UplinkControl {
    /// A message as it is.
    Text(String),
    /// Audio is sent in this format from now on.
    Format(Format),
}

/// Enhances caller frames where that is wanted, converts them to the provider's format and prints them.
pub(crate) struct UplinkPrinter {
    chain: Chain,
    pcm: Vec<u8>,
    transcoder: Transcoder,
    converted: Vec<u8>,
    print: fn(&mut String, &[u8]),
}

impl UplinkPrinter {
    pub(crate) fn new(plan: &AssistantPlan, chain: Chain) -> Self {
        let print = match plan {
            AssistantPlan::OpenAi(_) => wire::openai::print_append,
            AssistantPlan::ElevenLabs(_) => wire::elevenlabs::print_user_audio,
        };
        let transcoder = uplink_transcoder(&chain, Format::Ulaw8k);
        Self { chain, pcm: Vec::new(), transcoder, converted: Vec::with_capacity(960), print }
    }
}

impl Printer for UplinkPrinter {
    type Media = Frame;
    type Control = UplinkControl;

    fn media(&mut self, frame: Frame, out: &mut String) -> bool {
        if self.transcoder.is_passthrough() {
            (self.print)(out, frame.ulaw());
            return true;
        }
        self.converted.clear();
        if self.chain.is_empty() {
            self.transcoder.push(frame.ulaw(), &mut self.converted);
        } else {
            self.pcm.clear();
            self.pcm.extend(self.chain.process(&frame).iter().flat_map(|it| it.to_le_bytes()));
            self.transcoder.push(&self.pcm, &mut self.converted);
        }
        (self.print)(out, &self.converted);
        true
    }

    fn control(&mut self, control: UplinkControl, out: &mut String) -> bool {
        match control {
            UplinkControl::Text(text) => {
                *out = text;
                true
            }
            UplinkControl::Format(format) => {
                self.transcoder = uplink_transcoder(&self.chain, format);
                let arrow = if self.chain.is_empty() { "" } else { " → " };
                tracing::debug!(path = %format_args!("{}{arrow}{}", self.chain, self.transcoder), "caller to assistant");
                false
            }
        }
    }
}

/// From what leaves the chain to what the provider takes. An empty chain leaves μ-law as it is.
fn uplink_transcoder(chain: &Chain, to: Format) -> Transcoder {
    let from = if chain.is_empty() { Format::Ulaw8k } else { Format::Pcm16(Rate::Hz8000) };
    Transcoder::new(from, to).expect("one side is at 8 kHz")
}

fn passthrough() -> Transcoder {
    Transcoder::new(Format::Ulaw8k, Format::Ulaw8k).expect("μ-law passes through")
}

/// The provider's speech on its way to the call: decoded, checked, converted to μ-law.
pub(crate) struct Downlink {
    transcoder: Transcoder,
    sniffer: Sniffer,
    encoded: Vec<u8>,
    /// The first bytes of a session, until it is sure that they are not static: 800 bytes, usually less than one piece.
    held: Vec<u8>,
    /// What the last step made, valid until the next one.
    pub(crate) ulaw: Vec<u8>,
    metrics: Metrics,
    peer: &'static str,
}

impl Downlink {
    pub(crate) fn new(metrics: Metrics, peer: &'static str) -> Self {
        Self {
            transcoder: passthrough(),
            sniffer: Sniffer::new(Encoding::Ulaw),
            encoded: Vec::with_capacity(4096),
            held: Vec::new(),
            ulaw: Vec::with_capacity(4096),
            metrics,
            peer,
        }
    }

    /// The announced format.
    pub(crate) fn set_format(&mut self, format: Format) {
        self.transcoder = Transcoder::new(format, Format::Ulaw8k).expect("one side is μ-law");
        self.sniffer = Sniffer::new(if format == Format::Ulaw8k { Encoding::Ulaw } else { Encoding::Pcm16 });
    }

    /// Converts a piece; `self.ulaw` holds the result.
    pub(crate) fn push(&mut self, base64: &str) -> Result<(), Fault> {
        self.ulaw.clear();
        wire::audio::decode(base64, &mut self.encoded).map_err(|error| Fault::Malformed(error.to_string()))?;
        if let Some(real) = self.sniffer.push(&self.encoded) {
            // Announced one format, sent the other: the caller would hear static. Trust the bytes.
            let format = match real {
                Encoding::Ulaw => Format::Ulaw8k,
                Encoding::Pcm16 => Format::Pcm16(Rate::Hz24000),
            };
            tracing::warn!(peer = self.peer, announced = %self.transcoder, "the audio is really {format}, converting from that");
            self.metrics.format_mismatches.inc();
            self.set_format(format);
        }
        if !self.sniffer.has_judged() {
            self.held.extend_from_slice(&self.encoded);
            return Ok(());
        }
        self.release();
        self.transcoder.push(&self.encoded, &mut self.ulaw);
        Ok(())
    }

    fn release(&mut self) {
        if !self.held.is_empty() {
            self.transcoder.push(&self.held, &mut self.ulaw);
            self.held = Vec::new();
        }
    }

    /// Ends an utterance; `self.ulaw` holds its tail.
    pub(crate) fn flush(&mut self) {
        self.ulaw.clear();
        self.release();
        if !self.transcoder.is_passthrough() {
            self.transcoder.flush(&mut self.ulaw);
        }
    }

    /// An utterance was cut, or another one begins.
    pub(crate) fn reset(&mut self) {
        self.held.clear();
        self.transcoder.reset();
    }
}

impl fmt::Display for Downlink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.transcoder.fmt(f)
    }
}

/// A fresh mapper for the plan's provider.
pub(crate) fn mapper(
    plan: &AssistantPlan,
    history: Vec<HistoryItem>,
    tools: Vec<ToolDefinition>,
    metrics: Metrics,
) -> Box<dyn Mapper> {
    let history = history.into_iter().rev().take(limits::HISTORY_MAX).rev().collect();
    match plan {
        AssistantPlan::OpenAi(plan) => Box::new(OpenAi::new(plan.clone(), history, tools, metrics)),
        AssistantPlan::ElevenLabs(plan) => Box::new(ElevenLabs::new(plan.clone(), history, metrics)),
    }
}

/// Opens the provider's socket.
pub(crate) async fn dial(plan: AssistantPlan, net: Arc<dyn Connect>) -> Result<WebSocketStream<BoxIo>, DialError> {
    match plan {
        AssistantPlan::OpenAi(plan) => crate::openai::dial(&plan, net.as_ref()).await,
        AssistantPlan::ElevenLabs(plan) => crate::elevenlabs::dial(&plan, net.as_ref()).await,
    }
}
