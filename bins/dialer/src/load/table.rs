//! The table of figures: every run that it needs, what came of them beside the bare relay, and the page that shows it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::hostile::{self, Effect, Hostile, Hostility};
use super::{Audio, Behaviour, Kind, Progress, Run, Service, Setup, Step, capacity, chart, machine, rising, steady};

/// Calls of the runs that are not about many.
const FEW: usize = 10;
const MANY: usize = 200;
/// Percent from one step to the next: on the way to where it ends, and there; and attempts at a step.
const COARSE: (usize, usize) = (33, 1);
const FINE: (usize, usize) = (8, 3);

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

/// Whose capacity is looked for, and from how many calls on: fewer than any machine so far carried.
const SEARCHES: [(&str, Setup, usize); 4] = [
    ("capacity-relay", RELAY, 600),
    ("capacity-passthrough", PASSTHROUGH, 400),
    ("capacity-24k", CONVERTED, 300),
    ("capacity-24k-recorded-tls", FULL, 200),
];
/// Percent of its capacity at which a server is loaded, and not full.
const LOADED: usize = 70;
/// How often relay and server are then held against each other, and how often each is measured then: ringing takes longer than
/// measuring, and what a frame costs in three seconds differs by a twentieth from what it costs in the next three.
const PAIRS: usize = 5;
const WINDOWS: usize = 3;
/// The runs of it, and whose capacity it is a share of.
const LOADED_RUNS: [(&str, &str); 2] = [("loaded-relay", "capacity-relay"), ("loaded-passthrough", "capacity-passthrough")];
/// How often each hostility is measured at most.
const HOSTILE_ROUNDS: usize = 6;

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
    let mut carried = Vec::new();
    for (name, setup, from) in SEARCHES {
        let (percent, attempts) = COARSE;
        let (mut from, mut run) = (from, None);
        // A machine may carry less, or stand still just then: from nothing on, it would take all day.
        while run.as_ref().is_none_or(|it: &Run| it.capacity == Some(0)) && from >= FEW {
            run = Some(capacity(offhook, setup, rising(from, percent), attempts, seconds(3), progress).await?);
            from /= 2;
        }
        carried.extend(run.map(|it| (name, it)));
    }
    // In turn, and then the other way round: a machine that others share changes from one minute to the next, and what is held
    // against the relay must not be of another hour than the relay.
    for _ in 0..2 {
        for (_, run) in &mut carried {
            let (percent, attempts) = FINE;
            let steps = rising(run.capacity.unwrap_or_default().max(FEW), percent);
            let again = capacity(offhook, run.setup, steps, attempts, seconds(3), progress).await?;
            run.join(again);
        }
        carried.reverse();
    }
    runs.extend(carried.into_iter().map(|(name, run)| (name.to_owned(), run)));
    // One right after the other, and often: what a frame costs changes by a fifth from one half minute to the next.
    for (name, of) in [LOADED_RUNS; PAIRS].concat() {
        let (setup, most) = runs.get(of).map_or((RELAY, 0), |it: &Run| (it.setup, it.capacity.unwrap_or_default()));
        let calls = (most * LOADED / 100).next_multiple_of(10).max(FEW);
        let run = steady(offhook, setup, calls, (WINDOWS, seconds(3)), progress).await?;
        add(&mut runs, name, run);
    }
    let tls = Setup { tls: true, ..PASSTHROUGH };
    let converse = Setup { behaviour: Behaviour::Converse, ..PASSTHROUGH };
    let elevenlabs = Setup { service: Service::Elevenlabs, ..PASSTHROUGH };
    for (name, setup, calls, time) in [
        ("few-relay", RELAY, FEW, 4),
        ("few-passthrough", PASSTHROUGH, FEW, 4),
        ("few-24k", CONVERTED, FEW, 4),
        ("few-relay", RELAY, FEW, 4),
        ("few-passthrough", PASSTHROUGH, FEW, 4),
        ("few-24k", CONVERTED, FEW, 4),
        ("tls", tls, MANY, 4),
        ("converse", converse, MANY, 25),
        ("elevenlabs-ulaw", elevenlabs, MANY, 4),
        ("elevenlabs-16k", Setup { audio: Audio::Pcm, ..elevenlabs }, MANY, 4),
    ] {
        let run = steady(offhook, setup, calls, (1, seconds(time)), progress).await?;
        let was_disturbed = run.steps.iter().any(Step::was_disturbed);
        add(&mut runs, name, run);
        if was_disturbed {
            add(&mut runs, name, steady(offhook, setup, calls, (1, seconds(time)), progress).await?);
        }
    }
    let hostile = hostile::run(offhook, PASSTHROUGH, 50, HOSTILE_ROUNDS, seconds(2), progress).await?;
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

/// Adds a run to those of its name.
fn add(runs: &mut BTreeMap<String, Run>, name: &str, run: Run) {
    match runs.entry(name.to_owned()) {
        Entry::Vacant(it) => _ = it.insert(run),
        Entry::Occupied(mut it) => it.get_mut().join(run),
    }
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

    /// The steps of a run that count: with as many calls as it carried at most, or nearly so, if that was looked for, and else all.
    fn steps(&self, run: &str) -> Vec<&Step> {
        let Some(run) = self.runs.get(run) else { return Vec::new() };
        let most = run.capacity.unwrap_or_default();
        let nearest = run.steps.iter().map(|it| it.calls).min_by_key(|it| it.abs_diff(most));
        run.steps.iter().filter(|it| Some(it.calls) == nearest).collect()
    }

    /// The least of what was found: more is what the machine did beside it.
    fn least(&self, run: &str, pick: fn(&Step) -> f64) -> Option<f64> {
        self.steps(run).into_iter().map(pick).min_by(f64::total_cmp)
    }

    /// The middle of what was found, for what luck makes less as well as more; of steps during which processors were taken away
    /// only where there is no other.
    fn middle(&self, run: &str, pick: fn(&Step) -> f64) -> Option<f64> {
        let mut steps = self.steps(run);
        if steps.iter().any(|it| !it.was_disturbed()) {
            steps.retain(|it| !it.was_disturbed());
        }
        let mut found: Vec<f64> = steps.into_iter().map(pick).collect();
        found.sort_by(f64::total_cmp);
        let (lower, upper) = (found.get(found.len().saturating_sub(1) / 2)?, found.get(found.len() / 2)?);
        Some((lower + upper) / 2.0)
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
        for (what, what_converted, pick) in [
            ("round trip p50, 10 calls", "round trip p50, 10 calls, 8 ⇄ 24 kHz", p50),
            ("round trip p99, 10 calls", "round trip p99, 10 calls, 8 ⇄ 24 kHz", p99),
        ] {
            let found = |run| self.least(run, pick);
            if let (Some(bare), Some(plain), Some(converted)) = (found("few-relay"), found("few-passthrough"), found("few-24k")) {
                at_most(what, plain, "ms", Some(bare), 1.5 * bare, "≤ 1.5 × relay".into());
                at_most(what_converted, converted, "ms", Some(bare), 1.5 * bare + 0.8, "≤ 1.5 × relay + 0.8".into());
            }
        }
        let [relay, passthrough] = LOADED_RUNS.map(|it| it.0);
        let beside = |pick: fn(&Step) -> f64| self.least(relay, pick).zip(self.least(passthrough, pick));
        if let Some((relay, found)) = beside(p99) {
            at_most("round trip p99, 70 % of capacity", found, "ms", Some(relay), 5.0, "≤ 5".into());
        }
        // With the same number of calls the relay is idle half of the time; each at its own capacity is full. What a frame costs
        // the server depends on who is awake: a peer that still has something to do need not be woken, at the server's expense.
        for (what, relay, passthrough) in [
            ("processor time, frame each way, 70 %", relay, passthrough),
            ("processor time, frame each way, full", "capacity-relay", "capacity-passthrough"),
        ] {
            let middle = |run| self.middle(run, |it| it.cpu_us_per_pair);
            if let Some((relay, found)) = middle(relay).zip(middle(passthrough)) {
                at_most(what, found, "µs", Some(relay), 1.35 * relay, "≤ 1.35 × relay".into());
            }
        }
        // What the server had before the first call differs as well, so that less is no truer than more.
        let memory = |run| self.middle(run, |it| it.resident_kb_per_call);
        if let Some((relay, found)) = memory(relay).zip(memory(passthrough)) {
            at_most("memory of a call", found, "kB", Some(relay), 40.0, "≤ 40".into());
        }
        let tls = memory("tls").unwrap_or_default();
        at_most("memory of a call, TLS to the provider", tls, "kB", None, 90.0, "≤ 90".into());
        let least = |run, pick: fn(&Step) -> f64| self.least(run, pick).unwrap_or_default();
        let to_clear = least("converse", |it| it.to_clear.p99_ms);
        at_most("“the caller speaks” → clear, p99, 200 calls", to_clear, "ms", None, 2.0, "≤ 2".into());
        let answer = least("converse", |it| it.answer.p99_ms);
        at_most("answer: provider → caller, p99, 200 calls", answer, "ms", None, LATEST_ANSWER, "≤ 20".into());
        let first_audio = least("converse", |it| it.first_audio.p99_ms);
        at_most("start → first sound, session ready, p99", first_audio, "ms", None, 50.0, "≤ 50".into());
        let webhook = least("converse", |it| it.webhook.p99_ms);
        at_most("voice webhook p99, 50 calls a second", webhook, "ms", None, 20.0, "≤ 20".into());
        if let Some(it) = self.step("converse") {
            // Each is told 1.2 s after it was pressed: those of the last moment are not yet.
            let (told, pressed) = (it.keys_told as f64, it.keys_pressed as f64);
            let goal = format!("≤ {pressed} pressed, and ≥ {}", pressed - it.calls as f64);
            let holds = told <= pressed && told >= pressed - it.calls as f64;
            rows.push(Row { what: "keys that the provider was told of", found: told, unit: "keys", relay: None, goal, holds });
        }
        for it in Effect::of_all(&self.hostile) {
            let what = match it.hostility {
                Hostility::Flood => "others' p99 while one call floods",
                Hostility::Garbage => "others' p99 while one call sends garbage",
                Hostility::Huge => "others' p99 while one call sends huge messages",
                Hostility::Deaf => "others' p99 while one call reads nothing",
                Hostility::Slow => "others' p99 while one call sends a byte a second",
            };
            let goal = format!("≤ 2 × {:.2}, or + 1; nothing lost", it.before);
            rows.push(Row { what, found: it.with, unit: "ms", relay: None, goal, holds: it.holds() });
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
        let runs: Vec<Run> = SEARCHES.iter().filter_map(|it| self.runs.get(it.0).cloned()).collect();
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
        let beyond = |it: &Run| it.steps.iter().filter(|step| Some(step.calls) > it.capacity).all(|step| !step.is_valid());
        if self.runs.get("capacity-relay").is_some_and(beyond) {
            page.push_str(
                "\nThe relay's last step ended where the generator did, on its own core: the relay might have carried more.\n",
            );
        }
        let _ = writeln!(
            page,
            "\nA round trip goes from the caller's socket through server, provider and server back to the caller's socket; the\n\
             provider gives every frame back at once. Capacity is the most calls with p99 ≤ 20 ms and no frame lost, repeated or\n\
             another call's; a step of a generator that was late itself does not count. Each is looked for three times, all in turn,\n\
             the last time the other way round, and the best counts: what else the machine does only makes a figure worse. For the\n\
             same reason a step has failed after three attempts, of which the last is shown; other runs are made again if the\n\
             machine's owner took more than a hundredth of a processor away; and of {} to {HOSTILE_ROUNDS} rounds of a hostile\n\
             call the others' least p99 counts, with it as without. Relay and server at {LOADED} % are rung up {PAIRS} times right after each\n\
             other, and measured {WINDOWS} times each. Of processor times the middle one counts: part of a frame's is the kernel waking its receiver, and whether that\n\
             one sleeps is luck; those during which the machine's owner took processors away only where there is no other. Memory of a\n\
             call is what the server has for itself beyond what it had before the first, by the number of calls; its code is no call's,\n\
             and the middle counts here too.",
            hostile::ROUNDS_MIN
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Of steps with so many calls, a cost, and milliseconds that were taken away, in a run that carried so many.
    fn benchmark(capacity: Option<usize>, measured: &[(usize, f64, u64)]) -> Benchmark {
        let step = |it: &(usize, f64, u64)| Step {
            calls: it.0,
            cpu_us_per_pair: it.1,
            stolen_ms: it.2,
            seconds: 3.0,
            ..Step::default()
        };
        let run = Run { setup: RELAY, steps: measured.iter().map(step).collect(), capacity };
        Benchmark {
            machine: String::new(),
            kernel: String::new(),
            commit: String::new(),
            command: String::new(),
            minutes: 0.0,
            runs: BTreeMap::from([("run".to_owned(), run)]),
            hostile: Vec::new(),
        }
    }

    #[test]
    fn of_what_was_measured_at_the_capacity_the_least_and_the_middle_are_told() {
        let figures = |capacity: Option<usize>, measured: &[(usize, f64, u64)]| {
            let cost: fn(&Step) -> f64 = |it| it.cpu_us_per_pair;
            let benchmark = benchmark(capacity, measured);
            assert_eq!(benchmark.middle("another", cost), None);
            benchmark.least("run", cost).zip(benchmark.middle("run", cost))
        };
        assert_eq!(figures(Some(100), &[]), None);
        assert_eq!(figures(Some(100), &[(72, 1.0, 0), (92, 5.0, 0)]), Some((5.0, 5.0)), "the nearest is taken");
        assert_eq!(figures(Some(100), &[(70, 1.0, 0), (100, 9.0, 0), (100, 2.0, 0), (100, 3.0, 0)]), Some((2.0, 3.0)));
        assert_eq!(figures(None, &[(70, 9.0, 0), (70, 2.0, 0), (70, 3.0, 0), (70, 4.0, 0)]), Some((2.0, 3.5)));
        assert_eq!(figures(None, &[(70, 9.0, 40), (70, 2.0, 0), (70, 3.0, 20)]), Some((2.0, 2.5)), "taken away is not counted");
        assert_eq!(figures(None, &[(70, 9.0, 40), (70, 2.0, 50)]), Some((2.0, 5.5)), "if there is anything else");
    }

    #[test]
    fn relay_and_server_are_held_against_each_other_by_what_both_took_when_loaded() {
        let mut benchmark = benchmark(None, &[(70, 2.0, 0)]);
        let run = benchmark.runs.remove("run").unwrap();
        add(&mut benchmark.runs, LOADED_RUNS[0].0, run.clone());
        assert!(benchmark.rows().iter().all(|it| !it.what.starts_with("processor time")));
        add(&mut benchmark.runs, LOADED_RUNS[1].0, run.clone());
        let row = |benchmark: &Benchmark| {
            let row = benchmark.rows().into_iter().find(|it| it.what == "processor time, frame each way, 70 %").unwrap();
            (row.relay, row.found, row.holds)
        };
        assert_eq!(row(&benchmark), (Some(2.0), 2.0, true));
        let mut dearer = run;
        dearer.steps[0].cpu_us_per_pair = 4.0;
        add(&mut benchmark.runs, LOADED_RUNS[1].0, dearer);
        assert_eq!(row(&benchmark), (Some(2.0), 3.0, false), "of both");
    }
}
