//! What Prometheus sees of the bridge. Labels are bounded: never a call id or a number.

use std::sync::atomic::AtomicU64;

use call::{EndReason, Event};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets, linear_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Counters of all calls; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(crate) calls_active: Gauge,
    pub(crate) calls_ended: Family<EndLabels, Counter>,
    pub(crate) sockets_refused: Counter,
    pub(crate) caller_frames: Counter,
    pub(crate) played_frames: Counter,
    pub(crate) frames_dropped: Family<DropLabels, Counter>,
    pub(crate) unknown_events: Family<PeerLabels, Counter>,
    pub(crate) faults: Family<PeerLabels, Counter>,
    pub(crate) format_mismatches: Counter,
    pub(crate) interruptions: Counter,
    pub(crate) caller_to_assistant: Histogram,
    pub(crate) assistant_to_caller: Histogram,
    pub(crate) first_audio: Histogram,
    pub(crate) turn_latency: Family<PartLabels, Histogram>,
    pub(crate) tokens: Family<DirectionLabels, Counter<u64, AtomicU64>>,
    /// Caller's speech over the noise of the line.
    pub(crate) line_snr: Histogram,
    /// Sessions that became ready.
    pub(crate) sessions: Family<PeerLabels, Counter>,
    pub(crate) session_failures: Family<FailureLabels, Counter>,
    pub(crate) provider_ping: Histogram,
    pub(crate) quota_left: Family<QuotaLabels, Gauge<f64, AtomicU64>>,
    pub(crate) barge_in: Histogram,
    pub(crate) false_alarms: Counter,
    pub(crate) underruns: Counter,
    pub(crate) mos: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct EndLabels {
    pub(crate) reason: &'static str,
    pub(crate) blame: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DropLabels {
    pub(crate) towards: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct FailureLabels {
    pub(crate) peer: &'static str,
    pub(crate) reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct QuotaLabels {
    pub(crate) name: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PeerLabels {
    pub(crate) peer: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PartLabels {
    pub(crate) part: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DirectionLabels {
    pub(crate) direction: &'static str,
}

impl Metrics {
    /// Makes the metrics and registers them.
    pub fn new(registry: &mut Registry) -> Self {
        // 1 µs to 0.13 s: the path of a frame through this process.
        let path = || Histogram::new(exponential_buckets(1e-6, 2.0, 18));
        // 10 ms to 20 s: what people feel.
        let felt = || Histogram::new(exponential_buckets(0.01, 1.6, 17));
        let metrics = Self {
            calls_active: Gauge::default(),
            calls_ended: Family::default(),
            sockets_refused: Counter::default(),
            caller_frames: Counter::default(),
            played_frames: Counter::default(),
            frames_dropped: Family::default(),
            unknown_events: Family::default(),
            faults: Family::default(),
            format_mismatches: Counter::default(),
            interruptions: Counter::default(),
            caller_to_assistant: path(),
            assistant_to_caller: path(),
            first_audio: felt(),
            turn_latency: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.01, 1.6, 17))),
            tokens: Family::default(),
            line_snr: Histogram::new(linear_buckets(5.0, 5.0, 10)),
            sessions: Family::default(),
            session_failures: Family::default(),
            provider_ping: felt(),
            quota_left: Family::default(),
            barge_in: felt(),
            false_alarms: Counter::default(),
            underruns: Counter::default(),
            mos: Histogram::new(linear_buckets(1.0, 0.25, 16)),
        };
        let registry = registry.sub_registry_with_prefix("offhook");
        registry.register("calls_active", "Calls with a media stream", metrics.calls_active.clone());
        registry.register("calls_ended", "Streams that ended, by reason and blame", metrics.calls_ended.clone());
        registry.register("media_sockets_refused", "Media sockets closed without a valid token", metrics.sockets_refused.clone());
        registry.register("caller_frames", "Audio frames from callers", metrics.caller_frames.clone());
        registry.register("played_frames", "Audio frames handed to Twilio", metrics.played_frames.clone());
        registry.register("frames_dropped", "Audio frames dropped because a peer did not read", metrics.frames_dropped.clone());
        registry.register("unknown_events", "Events of unknown type", metrics.unknown_events.clone());
        registry.register("faults", "Messages that broke the peer's own protocol", metrics.faults.clone());
        registry.register(
            "format_mismatches",
            "Sessions whose audio was not in the announced format",
            metrics.format_mismatches.clone(),
        );
        registry.register("interruptions", "Times a caller interrupted the assistant", metrics.interruptions.clone());
        let seconds = Unit::Seconds;
        registry.register_with_unit(
            "caller_to_assistant",
            "Time of a caller frame in this process, socket read to writer's queue",
            seconds.clone(),
            metrics.caller_to_assistant.clone(),
        );
        registry.register_with_unit(
            "assistant_to_caller",
            "Time of an assistant message in this process, socket read to writer's queue",
            seconds.clone(),
            metrics.assistant_to_caller.clone(),
        );
        registry.register_with_unit(
            "first_audio",
            "Stream start to the first frame handed to Twilio",
            seconds.clone(),
            metrics.first_audio.clone(),
        );
        registry.register_with_unit(
            "provider_ping",
            "Way to the provider and back, by its own measurement",
            seconds.clone(),
            metrics.provider_ping.clone(),
        );
        registry.register_with_unit(
            "barge_in_reaction",
            "Caller's first sound, by our own detector, to the clear",
            seconds.clone(),
            metrics.barge_in.clone(),
        );
        registry.register_with_unit("turn_latency", "Latency of a turn, by part", seconds, metrics.turn_latency.clone());
        registry.register("line_snr_db", "Caller's speech over the noise of the line, by stream", metrics.line_snr.clone());
        registry.register("tokens", "Tokens billed by providers", metrics.tokens.clone());
        registry.register("sessions", "Sessions with providers that became ready", metrics.sessions.clone());
        registry.register(
            "session_failures",
            "Sessions that were not reached or broke, by provider and reason",
            metrics.session_failures.clone(),
        );
        registry.register("quota_left", "Share of the provider's quota that is left, by kind", metrics.quota_left.clone());
        registry.register("false_alarms", "Sounds of callers that were no interruption", metrics.false_alarms.clone());
        registry.register("underruns", "Times a caller heard a gap inside an answer", metrics.underruns.clone());
        registry.register("mos_estimate", "Estimated listening quality of streams, 1 to 4.5 (G.107)", metrics.mos.clone());
        metrics
    }

    pub(crate) fn end(&self, reason: EndReason) {
        self.calls_ended.get_or_create(&EndLabels { reason: reason.name(), blame: reason.blame().name() }).inc();
    }

    /// Counts what the call says of itself.
    pub(crate) fn event(&self, event: &Event) {
        match event {
            Event::Interrupted { reaction, .. } => {
                self.interruptions.inc();
                if let Some(reaction) = reaction {
                    self.barge_in.observe(reaction.as_secs_f64());
                }
            }
            Event::FalseAlarm { .. } => {
                self.false_alarms.inc();
            }
            Event::Turn(latency) => {
                let parts = [
                    ("endpointing", latency.endpointing),
                    ("thinking", latency.thinking),
                    ("bridging", latency.bridging),
                    ("playout", latency.playout),
                    ("total", latency.total()),
                ];
                for (part, duration) in parts {
                    self.turn_latency.get_or_create(&PartLabels { part }).observe(duration.as_secs_f64());
                }
            }
            Event::Ended { reason, counters, line, duration } => {
                self.end(*reason);
                self.underruns.inc_by(counters.underruns);
                if let Some(mos) = counters.estimated_mos(*duration) {
                    self.mos.observe(mos.into());
                }
                self.tokens.get_or_create(&DirectionLabels { direction: "input_cached" }).inc_by(counters.cached_tokens);
                if let Some(snr) = line.snr_db() {
                    self.line_snr.observe(snr.into());
                }
                self.tokens.get_or_create(&DirectionLabels { direction: "input" }).inc_by(counters.input_tokens);
                self.tokens.get_or_create(&DirectionLabels { direction: "output" }).inc_by(counters.output_tokens);
            }
            _ => (),
        }
    }
}
