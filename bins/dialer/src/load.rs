//! Load: how many calls a core carries, what a frame is late by, what a call costs.
//!
//! The server is alone on one processor; callers, providers and everything else share another. Every call says a code of its
//! own ([`burst`]) that the provider gives back at once, so that every frame's journey is measured each way, and a frame that is lost,
//! repeated or another call's is seen. The same is done to the bare relay ([`relay`]), because times mean something only
//! beside times of the same machine and hour.

pub mod burst;
mod callers;
pub mod chart;
pub mod hostile;
pub mod machine;
mod peer;
pub mod provider;
pub mod relay;
pub mod spread;
pub mod table;
mod target;

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use callers::Callers;
pub use provider::{Audio, Behaviour, Service};
use spread::{Spread, Summary};
use target::{Beginning, Rung, Target};
pub use target::{Kind, Setup};

/// A frame that comes back later than this would be heard as late.
pub const LATE: f64 = 20.0;
/// A generator that is later than this says more of itself than of the server.
const GENERATOR_LATE: f64 = 8.0;
/// Calls that ring in a second.
const RATE: u32 = 50;
/// Calls that ring in a second while nothing is noted, and while nobody is there either: a table rings up some 13,000.
const UNNOTED_RATE: u32 = 100;
const FIRST_RATE: u32 = 200;
/// Between TwiML and the stream, as at Twilio at best.
const CONNECTING: Duration = Duration::from_millis(300);
/// New calls settle so long before anything is noted.
const SETTLING: Duration = Duration::from_millis(500);
/// So do calls that are interrupted: the last one is so after 1.3 s, and has said a whole block 0.3 s later.
const INTERRUPTING: Duration = Duration::from_secs(2);

/// What was measured with some calls over some time.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Step {
    pub calls: usize,
    pub seconds: f64,
    /// Caller → server → provider → server → caller.
    pub round_trip: Summary,
    /// One way each; zero where the provider is not asked.
    pub up: Summary,
    pub down: Summary,
    /// Frames that did not come back, came twice, were another call's; blocks that the provider could not read.
    pub lost: u64,
    pub repeated: u64,
    pub foreign: u64,
    pub unread: u64,
    /// Streams that ended by themselves.
    pub streams_lost: usize,
    /// How late the generator spoke, and how long the provider took for what had come.
    pub generator: Summary,
    pub provider: Summary,
    /// Processor time of the server for 20 ms of one call, both directions, in microseconds.
    pub cpu_us_per_pair: f64,
    /// Share of its processor.
    pub busy: f64,
    /// Memory that the server has for itself, beyond what it had before the first call, for one call, in kB.
    pub resident_kb_per_call: f64,
    /// Processor time that the machine's owner took away, in milliseconds.
    pub stolen_ms: u64,
    /// The voice webhook, and all that is before `start`.
    pub webhook: Summary,
    pub set_up: Summary,
    /// From `start` to the first sound; "the caller speaks" to `clear`; first sound of an answer from provider to caller.
    pub first_audio: Summary,
    pub to_clear: Summary,
    pub answer: Summary,
    /// Keys that callers pressed, and keys that providers were told of, 1.2 s later.
    pub keys_pressed: u64,
    pub keys_told: u64,
}

impl Step {
    /// Whether the generator kept its own time: otherwise nothing is known of the server.
    pub fn is_valid(&self) -> bool {
        self.generator.p99_ms <= GENERATOR_LATE && self.provider.p99_ms <= GENERATOR_LATE
    }

    /// Whether the machine's owner took so much of the processors away that the figures are theirs.
    fn was_disturbed(&self) -> bool {
        self.stolen_ms as f64 > 10.0 * self.seconds
    }

    /// Whether every frame came, once, to the right call, and in time, by a generator that kept its own.
    pub fn holds(&self) -> bool {
        let whole = self.lost + self.repeated + self.foreign == 0 && self.streams_lost == 0;
        self.is_valid() && whole && self.round_trip.p99_ms <= LATE
    }
}

/// A run: what was measured, and what came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    pub setup: Setup,
    pub steps: Vec<Step>,
    /// Most calls that held, where that was looked for.
    pub capacity: Option<usize>,
}

impl Run {
    /// Takes in the same, measured again: what held once is carried, whatever else the machine did another time.
    fn join(&mut self, again: Self) {
        self.steps.extend(again.steps);
        self.capacity = self.capacity.max(again.capacity);
    }
}

/// Tells how far a run is.
pub type Progress<'a> = &'a mut dyn FnMut(&str);

/// A target with callers on it.
pub struct Load {
    target: Target,
    callers: Callers,
    rung: Vec<Rung>,
    idle: u64,
    webhooks: Spread,
    set_ups: Spread,
}

impl Load {
    /// Starts server and provider; nobody rings yet.
    ///
    /// # Errors
    /// When they do not start.
    pub async fn start(offhook: &Path, setup: Setup) -> Result<Self> {
        let target = Target::start(offhook, setup).await?;
        let callers = Callers::start(setup.behaviour)?;
        let idle = machine::resident(target.pid());
        Ok(Self { target, callers, rung: Vec::new(), idle, webhooks: Spread::default(), set_ups: Spread::default() })
    }

    /// Lets calls ring, so many a second, until there are so many.
    ///
    /// # Errors
    /// When one does not come through.
    pub async fn ring_up_to(&mut self, calls: usize, rate: u32) -> Result<()> {
        let more = calls.saturating_sub(self.rung.len());
        let (target, callers) = (&self.target, &self.callers);
        let began = tokio::time::Instant::now();
        let ringing = (0..more as u32).map(|index| async move {
            tokio::time::sleep_until(began + Duration::from_secs(1) * index / rate).await;
            let (opened, rung, beginning) = target.ring(CONNECTING).await?;
            callers.add(opened);
            anyhow::Ok((rung, beginning))
        });
        let mut ringing = futures::stream::iter(ringing).buffer_unordered(256);
        while let Some(rung) = ringing.next().await {
            let (rung, Beginning { webhook, set_up }) =
                rung.with_context(|| format!("a call failed; the server said:\n{}", target.said()))?;
            self.rung.push(rung);
            self.webhooks.add(webhook.as_micros() as u64);
            self.set_ups.add(set_up.as_micros() as u64);
        }
        Ok(())
    }

    /// From now on everything is noted, until [`measured`](Self::measured).
    async fn note(&mut self) -> Result<Noting> {
        self.target.note()?;
        self.callers.note();
        let pid = self.target.pid();
        Ok(Noting { began: Instant::now(), cpu: machine::cpu_time(pid), stolen: machine::stolen() })
    }

    async fn measured(&mut self, noting: Noting) -> Result<Step> {
        let seconds = noting.began.elapsed().as_secs_f64();
        let cpu = machine::cpu_time(self.target.pid()).saturating_sub(noting.cpu);
        let stolen = machine::stolen().saturating_sub(noting.stolen);
        let resident = machine::resident(self.target.pid());
        let near = self.callers.tell();
        let far = self.target.tell()?;
        let (calls, streams_lost) = self.callers.count();
        let sent: HashMap<(u32, u32), u64> = near.sent.iter().map(|it| ((it.0, it.1), it.2)).collect();
        let arrived: HashMap<(u32, u32), u64> = far.arrivals.iter().map(|it| ((it.0, it.1), it.2)).collect();
        let (mut up, mut down) = (Spread::default(), Spread::default());
        for (frame, at) in &arrived {
            if let Some(sent) = sent.get(frame) {
                up.add(at.saturating_sub(*sent) / 1000);
            }
        }
        for (call, frame, at) in &near.heard {
            if let Some(left) = arrived.get(&(*call, *frame)) {
                down.add(at.saturating_sub(*left) / 1000);
            }
        }
        let pairs = calls as f64 * seconds * 50.0;
        Ok(Step {
            calls,
            seconds,
            round_trip: near.round_trip.summary(),
            up: up.summary(),
            down: down.summary(),
            lost: near.lost,
            repeated: near.repeated,
            foreign: near.foreign,
            unread: far.broken,
            streams_lost,
            generator: near.lateness.summary(),
            provider: far.lateness.summary(),
            cpu_us_per_pair: cpu.as_secs_f64() * 1e6 / pairs.max(1.0),
            busy: cpu.as_secs_f64() / seconds,
            resident_kb_per_call: resident.saturating_sub(self.idle) as f64 / 1024.0 / calls.max(1) as f64,
            stolen_ms: stolen.as_millis() as u64,
            webhook: std::mem::take(&mut self.webhooks).summary(),
            set_up: std::mem::take(&mut self.set_ups).summary(),
            first_audio: near.first_audio.summary(),
            to_clear: follows(&far.interruptions, &near.clears).summary(),
            answer: follows(&far.answers, &near.sounds).summary(),
            keys_pressed: near.keys,
            keys_told: far.keys,
        })
    }

    /// Lets calls ring until there are so many, and measures them for a time once they have settled; once more if that does not
    /// suffice and the machine's owner took the processors away meanwhile.
    async fn settled(&mut self, calls: usize, time: Duration, suffices: fn(&Step) -> bool) -> Result<Step> {
        if calls > self.rung.len() {
            self.ring_up_to(calls, if self.rung.is_empty() { FIRST_RATE } else { UNNOTED_RATE }).await?;
            sleep(SETTLING).await;
        }
        let step = self.anew(time).await?;
        if step.was_disturbed() && !suffices(&step) { self.anew(time).await } else { Ok(step) }
    }

    /// Measures for a time what comes after an interruption. A pause of the machine makes an echo late for good that is longer
    /// than what the telephone network holds in advance: what the ear has yet to hear waits, and in an answer without an end
    /// nothing catches up with it. No conversation is like that.
    async fn anew(&mut self, time: Duration) -> Result<Step> {
        self.target.interrupt()?;
        sleep(INTERRUPTING).await;
        self.measure(time).await
    }

    /// Measures for a time.
    ///
    /// # Errors
    /// When provider or server are gone.
    pub async fn measure(&mut self, time: Duration) -> Result<Step> {
        let noting = self.note().await?;
        sleep(time).await;
        self.measured(noting).await
    }

    /// Hangs up on all calls; returns how many the server still holds a second later.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn hang_up(&mut self) -> Result<u64> {
        self.callers.hang_up();
        if self.target.setup.target == Kind::Relay {
            return Ok(0);
        }
        sleep(Duration::from_secs(1)).await;
        let target = &self.target;
        let over = std::mem::take(&mut self.rung);
        futures::stream::iter(&over).for_each_concurrent(32, |it| async move { _ = target.over(it).await }).await;
        let (_, metrics) = self.target.get("/metrics").await?;
        let live = metrics.lines().find_map(|it| it.strip_prefix("offhook_calls_active ")?.parse().ok());
        live.context("the server does not say how many calls are live")
    }
}

struct Noting {
    began: Instant,
    cpu: Duration,
    stolen: Duration,
}

/// Times from each cause of a call to the first effect behind it, within two seconds.
fn follows(causes: &[(u32, u64)], effects: &[(u32, u64)]) -> Spread {
    let mut by_call: HashMap<u32, Vec<u64>> = HashMap::new();
    for (call, at) in effects {
        by_call.entry(*call).or_default().push(*at);
    }
    let mut spread = Spread::default();
    for (call, at) in causes {
        let effect = by_call.get(call).and_then(|it| it.iter().find(|it| **it >= *at));
        if let Some(took) = effect.map(|it| it - at).filter(|it| *it < 2_000_000_000) {
            spread.add(took / 1000);
        }
    }
    spread
}

/// Measures `calls` calls for a time, after they have settled, so many times one right after the other.
///
/// # Errors
/// When something does not start, or calls are left behind.
pub async fn steady(
    offhook: &Path,
    setup: Setup,
    calls: usize,
    (times, time): (usize, Duration),
    progress: Progress<'_>,
) -> Result<Run> {
    ensure!(time >= callers::WINDOW_MIN, "a window of less than two seconds shows nothing");
    progress(&format!("{}: {calls} calls for {times} × {} s", title(setup), time.as_secs()));
    let mut load = Load::start(offhook, setup).await?;
    let step = if setup.behaviour == Behaviour::Converse {
        // Their beginning is part of what is measured.
        let noting = load.note().await?;
        load.ring_up_to(calls, RATE).await?;
        sleep(time).await;
        load.measured(noting).await?
    } else {
        load.settled(calls, time, |_| false).await?
    };
    let mut steps = vec![step];
    while steps.len() < times {
        steps.push(load.measure(time).await?);
    }
    let left = load.hang_up().await?;
    ensure!(left == 0, "{left} calls are left on the server after all have hung up");
    Ok(Run { setup, steps, capacity: None })
}

/// `from` calls and ever more, so many percent each time, rounded up to ten: no machine takes all day.
pub fn rising(from: usize, percent: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(from), move |calls| Some((calls + calls * percent / 100 + 1).next_multiple_of(10)))
}

/// Measures with as many calls as each step says until frames are late or lost in all `attempts` at a step: machines stand
/// still at times.
///
/// # Errors
/// When something does not start.
pub async fn capacity(
    offhook: &Path,
    setup: Setup,
    steps: impl IntoIterator<Item = usize>,
    attempts: usize,
    time: Duration,
    progress: Progress<'_>,
) -> Result<Run> {
    let mut load = Load::start(offhook, setup).await?;
    let mut run = Run { setup, steps: Vec::new(), capacity: Some(0) };
    for calls in steps.into_iter().take_while(|it| *it <= burst::CALLS_MAX as usize) {
        let mut step = load.settled(calls, time, Step::holds).await?;
        for _ in 1..attempts {
            if step.holds() {
                break;
            }
            progress(&format!("{}: once more: {}", title(setup), line(&step)));
            step = load.settled(calls, time, Step::holds).await?;
        }
        progress(&format!("{}: {}", title(setup), line(&step)));
        let holds = step.holds();
        run.steps.push(step);
        if !holds {
            break;
        }
        run.capacity = Some(calls);
    }
    Ok(run)
}

/// A setup in words.
pub fn title(setup: Setup) -> String {
    let audio = match (setup.audio, setup.service) {
        (Audio::Ulaw, _) => "μ-law",
        (Audio::Pcm, Service::Openai) => "24 kHz",
        (Audio::Pcm, Service::Elevenlabs) => "16 kHz",
    };
    let name = target::word(setup.target);
    let service = target::word(setup.service);
    let with = [(setup.recording, ", recorded"), (setup.tls, ", TLS")].map(|(on, word)| if on { word } else { "" }).concat();
    format!("{name}, {service}, {audio}{with}, {}", target::word(setup.behaviour))
}

/// A step in a line.
pub fn line(it: &Step) -> String {
    let (trip, late) = (it.round_trip, if it.is_valid() { "" } else { ", GENERATOR LATE: says nothing" });
    format!(
        "{} calls: round trip p50 {:.2} p99 {:.2} p99.9 {:.2} ms; lost {}, repeated {}, foreign {}; {:.1} µs a pair, {:.0} % busy, {:.0} kB a call; generator p99 {:.2}, provider {:.2} ms{late}",
        it.calls,
        trip.p50_ms,
        trip.p99_ms,
        trip.p999_ms,
        it.lost,
        it.repeated,
        it.foreign,
        it.cpu_us_per_pair,
        it.busy * 100.0,
        it.resident_kb_per_call,
        it.generator.p99_ms,
        it.provider.p99_ms,
    )
}
