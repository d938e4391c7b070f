//! The table of figures: every run that it needs, what came of them beside the bare relay, and the page that shows it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::hostile::{self, Hostile};
use super::{Audio, Behaviour, Kind, Progress, Run, Service, Setup, Step, capacity, chart, machine, rising, steady};

/// Calls of the runs that are not about many.
const FEW: usize = 10;
const MANY: usize = 200;
/// How often server and relay are measured in turn where one figure is held against the other: what a minute of the machine
/// does to one of them, the median leaves out.
const ROUNDS: usize = 3;

const RELAY: Setup = Setup {
    target: Kind::Relay,
    service: Service::Openai,
    audio: Audio::Ulaw,
    behaviour: Behaviour::Echo,
    tls: false,
    recording: false,
};
const PASSTHROUGH: Setup = Setup { target: Kind::Offhook, ..RELAY };
const CONVERTED: Setup = Setup { audio: Audio::Pcm, ..PASSTHROUGH };
/// Everything that a call may cost: what servers are dimensioned by.
const FULL: Setup = Setup { tls: true, recording: true, ..CONVERTED };

/// Where, of what and how it was measured, and everything that was.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Benchmark {
    pub machine: String,
    pub kernel: String,
    pub commit: String,
    pub command: String,
    pub minutes: f64,
    pub runs: BTreeMap<String, Run>,
    pub hostile: Vec<Hostile>,
}

/// A line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    pub what: &'static str,
    pub found: f64,
    pub unit: &'static str,
    /// The same of the bare relay, where there is such a thing.
    pub relay: Option<f64>,
    pub goal: String,
    pub holds: bool,
}

/// Runs everything.
///
/// # Errors
/// When a run cannot be made at all; what misses its goal is no error.
pub async fn run(offhook: &Path, progress: Progress<'_>) -> Result<Benchmark> {
    let began = Instant::now();
    let mut runs = BTreeMap::new();
    let seconds = Duration::from_secs;
    let relay = capacity(offhook, RELAY, (600, 50), seconds(4), progress).await?;
    let passthrough = capacity(offhook, PASSTHROUGH, (400, 50), seconds(4), progress).await?;
    let most = |it: &Run| it.capacity.unwrap_or_default().max(FEW);
    let (most_relayed, most) = (most(&relay), most(&passthrough));
    let loaded = most * 7 / 10;
    runs.insert("capacity-relay".to_owned(), relay);
    runs.insert("capacity-passthrough".to_owned(), passthrough);
    runs.insert("capacity-24k".to_owned(), capacity(offhook, CONVERTED, (300, 50), seconds(4), progress).await?);
    runs.insert("capacity-24k-recorded-tls".to_owned(), capacity(offhook, FULL, (200, 50), seconds(4), progress).await?);
    let tls = Setup { tls: true, ..PASSTHROUGH };
    let converse = Setup { behaviour: Behaviour::Converse, ..PASSTHROUGH };
    let elevenlabs = Setup { service: Service::Elevenlabs, ..PASSTHROUGH };
    for (name, setup, calls, time) in [
        ("few-relay", RELAY, FEW, 12),
        ("few-passthrough", PASSTHROUGH, FEW, 12),
        ("few-24k", CONVERTED, FEW, 12),
        ("tls", tls, MANY, 5),
        ("converse", converse, MANY, 25),
        ("elevenlabs-ulaw", elevenlabs, MANY, 5),
        ("elevenlabs-16k", Setup { audio: Audio::Pcm, ..elevenlabs }, MANY, 5),
    ] {
        runs.insert(name.to_owned(), steady(offhook, setup, calls, seconds(time), progress).await?);
    }
    for _ in 0..ROUNDS {
        for (kind, setup, most) in [("relay", RELAY, most_relayed), ("passthrough", PASSTHROUGH, most)] {
            let steps = rising(offhook, setup, &[loaded, most], seconds(4), progress).await?;
            for (load, step) in ["loaded", "full"].into_iter().zip(steps) {
                let new = || Run { setup, steps: Vec::new(), capacity: None };
                runs.entry(format!("{load}-{kind}")).or_insert_with(new).steps.push(step);
            }
        }
    }
    let hostile = hostile::run(offhook, PASSTHROUGH, 50, seconds(4), progress).await?;
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok();
        output.map_or_else(String::new, |it| String::from_utf8_lossy(&it.stdout).trim().to_owned())
    };
    Ok(Benchmark {
        machine: machine::name(),
        kernel: said("uname", &["-sr"]),
        commit: said("git", &["describe", "--always", "--dirty"]),
        command: "dialer table".into(),
        minutes: began.elapsed().as_secs_f64() / 60.0,
        runs,
        hostile,
    })
}

impl Benchmark {
    /// # Errors
    /// When the file cannot be read.
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no benchmark", file.display()))
    }

    fn capacity(&self, run: &str) -> f64 {
        self.runs.get(run).and_then(|it| it.capacity).unwrap_or_default() as f64
    }

    /// The middle one of what was found in turn.
    fn median(&self, run: &str, pick: impl Fn(&Step) -> f64) -> Option<f64> {
        let mut found: Vec<f64> = self.runs.get(run)?.steps.iter().map(pick).collect();
        found.sort_by(f64::total_cmp);
        found.get(found.len() / 2).copied()
    }

    fn step(&self, run: &str) -> Option<&Step> {
        self.runs.get(run)?.steps.last()
    }

    /// What was found beside what was to be reached.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        let relay = self.capacity("capacity-relay");
        for (what, run, share) in [
            ("capacity, passthrough", "capacity-passthrough", 0.8),
            ("capacity, 8 ⇄ 24 kHz", "capacity-24k", 0.6),
            ("capacity, 8 ⇄ 24 kHz, recorded, TLS to the provider", "capacity-24k-recorded-tls", 0.35),
        ] {
            let found = self.capacity(run);
            let goal = format!("≥ {share} × relay");
            // A relay that carried nothing is a machine that stood still.
            let holds = relay > 0.0 && found >= share * relay;
            rows.push(Row { what, found, unit: "calls", relay: Some(relay), goal, holds });
        }
        let mut at_most = |what, found: f64, unit, relay: Option<f64>, most: f64, goal: String| {
            // What did not happen in the run is no figure.
            if found > 0.0 {
                rows.push(Row { what, found, unit, relay, goal, holds: found <= most });
            }
        };
        let p50: fn(&Step) -> f64 = |it| it.round_trip.p50_ms;
        let p99: fn(&Step) -> f64 = |it| it.round_trip.p99_ms;
        if let (Some(relay), Some(plain), Some(converted)) =
            (self.step("few-relay"), self.step("few-passthrough"), self.step("few-24k"))
        {
            for (what, what_converted, pick) in [
                ("round trip p50, 10 calls", "round trip p50, 10 calls, 8 ⇄ 24 kHz", p50),
                ("round trip p99, 10 calls", "round trip p99, 10 calls, 8 ⇄ 24 kHz", p99),
            ] {
                let bare = pick(relay);
                at_most(what, pick(plain), "ms", Some(bare), 1.5 * bare, "≤ 1.5 × relay".into());
                at_most(what_converted, pick(converted), "ms", Some(bare), 1.5 * bare + 0.8, "≤ 1.5 × relay + 0.8".into());
            }
        }
        let beside = |figure: &str, pick: fn(&Step) -> f64| {
            self.median(&format!("{figure}-relay"), pick).zip(self.median(&format!("{figure}-passthrough"), pick))
        };
        if let Some((relay, found)) = beside("loaded", p99) {
            at_most("round trip p99, 70 % of capacity", found, "ms", Some(relay), 5.0, "≤ 5".into());
        }
        // With the same number of calls the relay is idle half of the time; each at its own capacity is full.
        for (what, figure) in
            [("processor time, frame each way, 70 %", "loaded"), ("processor time, frame each way, full", "full")]
        {
            if let Some((relay, found)) = beside(figure, |it| it.cpu_us_per_pair) {
                at_most(what, found, "µs", Some(relay), 1.35 * relay, "≤ 1.35 × relay".into());
            }
        }
        if let Some((relay, found)) = beside("loaded", |it| it.resident_kb_per_call) {
            at_most("memory of a call", found, "kB", Some(relay), 40.0, "≤ 40".into());
        }
        if let Some(it) = self.step("tls") {
            at_most("memory of a call, TLS to the provider", it.resident_kb_per_call, "kB", None, 90.0, "≤ 90".into());
        }
        if let Some(it) = self.step("converse") {
            at_most("“the caller speaks” → clear, p99, 200 calls", it.to_clear.p99_ms, "ms", None, 2.0, "≤ 2".into());
            at_most("answer: provider → caller, p99, 200 calls", it.answer.p99_ms, "ms", None, LATEST_ANSWER, "≤ 20".into());
            at_most("start → first sound, session ready, p99", it.first_audio.p99_ms, "ms", None, 50.0, "≤ 50".into());
            at_most("voice webhook p99, 50 calls a second", it.webhook.p99_ms, "ms", None, 20.0, "≤ 20".into());
            // Each is told 1.2 s after it was pressed: those of the last moment are not yet.
            let (told, pressed) = (it.keys_told as f64, it.keys_pressed as f64);
            let goal = format!("≤ {pressed} pressed, and ≥ {}", pressed - it.calls as f64);
            let holds = told <= pressed && told >= pressed - it.calls as f64;
            rows.push(Row { what: "keys that the provider was told of", found: told, unit: "keys", relay: None, goal, holds });
        }
        for it in &self.hostile {
            let what = match it.hostility {
                hostile::Hostility::Flood => "others' p99 while one call floods",
                hostile::Hostility::Garbage => "others' p99 while one call sends garbage",
                hostile::Hostility::Huge => "others' p99 while one call sends huge messages",
                hostile::Hostility::Deaf => "others' p99 while one call reads nothing",
                hostile::Hostility::Slow => "others' p99 while one call sends a byte a second",
            };
            let before = it.before.round_trip.p99_ms;
            let goal = format!("≤ 2 × {before:.2}, or + 1");
            rows.push(Row { what, found: it.with.round_trip.p99_ms, unit: "ms", relay: None, goal, holds: it.holds() });
        }
        rows
    }

    /// Writes the figures, the page and the picture into a folder.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        let file = |name: &str| folder.join(name);
        std::fs::write(file("load.json"), serde_json::to_string_pretty(self)? + "\n")?;
        std::fs::write(file("README.md"), self.page())?;
        let lines = ["capacity-relay", "capacity-passthrough", "capacity-24k", "capacity-24k-recorded-tls"];
        let runs: Vec<Run> = lines.iter().filter_map(|it| self.runs.get(*it).cloned()).collect();
        chart::draw(&runs, &file("load.svg"))
    }

    fn page(&self) -> String {
        let mut page = format!(
            "# What it carries\n\n\
             Made by `{}` in {:.0} minutes; the figures of every step are in [load.json](load.json). The server is alone on one\n\
             core, callers and providers share another. *Relay* is the bare relay of `dialer`, measured in the same run: epoll, no\n\
             JSON, no state, no record. Times differ between machines, ratios to the relay less; where others share the machine, both\n\
             differ from one run to the next.\n\n\
             {}, {}, commit {}.\n\n![Lateness over calls](load.svg)\n\n\
             | | found | relay | ratio | to reach | |\n|---|---|---|---|---|---|\n",
            self.command, self.minutes, self.machine, self.kernel, self.commit
        );
        for it in self.rows() {
            let (found, unit) = (number(it.found), it.unit);
            let relay = it.relay.map_or_else(String::new, |relay| format!("{} {unit}", number(relay)));
            let ratio = it.relay.map_or_else(String::new, |relay| format!("{:.2}", it.found / relay));
            let holds = if it.holds { "✓" } else { "✗" };
            let _ = writeln!(page, "| {} | {found} {unit} | {relay} | {ratio} | {} | {holds} |", it.what, it.goal);
        }
        if self.step("capacity-relay").is_some_and(|it| !it.is_valid()) {
            page.push_str(
                "\nThe relay's last step ended where the generator did, on its own core: the relay might have carried more.\n",
            );
        }
        page.push_str(
            "\nA round trip goes from the caller's socket through server, provider and server back to the caller's socket; the\n\
             provider gives every frame back at once. Capacity is the most calls with p99 ≤ 20 ms and no frame lost, repeated or\n\
             another call's; a step of a generator that was late itself does not count. Figures at 70 % and in full are medians of three,\n\
             server and relay in turn.\n",
        );
        page
    }
}

/// An answer's first sound is a frame like any other.
const LATEST_ANSWER: f64 = super::LATE;

fn number(it: f64) -> String {
    if it >= 100.0 {
        format!("{it:.0}")
    } else if it >= 10.0 {
        format!("{it:.1}")
    } else {
        format!("{it:.2}")
    }
}

/// Two benchmarks beside each other.
pub fn compare(a: &Benchmark, b: &Benchmark) -> String {
    let (rows, others) = (a.rows(), b.rows());
    let mut text = format!("{:<52} {:>10} {:>10} {:>7}\n", "", a.commit, b.commit, "b ÷ a");
    for row in rows {
        if let Some(other) = others.iter().find(|it| it.what == row.what) {
            let (first, second) = (number(row.found), number(other.found));
            let _ = writeln!(text, "{:<52} {first:>10} {second:>10} {:>7.2}  {}", row.what, other.found / row.found, row.unit);
        }
    }
    text
}
