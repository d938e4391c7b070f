//! `dialer`: see the README beside it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use dialer::load::hostile;
use dialer::load::provider::{self, Character};
use dialer::load::table::{self, Benchmark};
use dialer::load::{self, Audio, Behaviour, Kind, Service, Setup};
use dialer::{Report, faults};
use indicatif::{ProgressBar, ProgressStyle};

#[derive(Parser)]
#[command(about = "Callers by the dozen, and what they notice of faults")]
struct Arguments {
    /// The server under test; default: `offhook` beside this program
    #[arg(long, global = true)]
    offhook: Option<PathBuf>,
    /// Writes the report for programs, too
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(subcommand)]
    run: Run,
}

#[derive(Subcommand)]
enum Run {
    /// So many calls at a time: what a frame is late by, what a call costs
    Load {
        #[command(flatten)]
        setup: SetupArguments,
        #[arg(long, default_value_t = 100)]
        calls: usize,
        /// What is measured, after all have rung
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// More and more calls, until frames are late or lost
    Capacity {
        #[command(flatten)]
        setup: SetupArguments,
        #[arg(long, default_value_t = 100)]
        from: usize,
        /// Percent more, from step to step
        #[arg(long, default_value_t = 10)]
        by: usize,
        /// Before a step has failed
        #[arg(long, default_value_t = 3)]
        attempts: usize,
        /// For each step
        #[arg(long, default_value_t = 5)]
        seconds: u64,
    },
    /// One call that misbehaves beside others that do not
    Hostile {
        #[command(flatten)]
        setup: SetupArguments,
        #[arg(long, default_value_t = 50)]
        calls: usize,
        /// How often each kind is measured at most
        #[arg(long, default_value_t = 6)]
        rounds: usize,
        /// For each, without and with it
        #[arg(long, default_value_t = 2)]
        seconds: u64,
    },
    /// Everything that is told of speed, with its goals; some minutes
    Table {
        /// Figures, page and picture go there
        #[arg(long, default_value = "docs/benchmarks")]
        out: PathBuf,
        /// Measures nothing: page and picture anew from these figures
        #[arg(long)]
        from: Option<PathBuf>,
    },
    /// Two tables beside each other
    Compare { a: PathBuf, b: PathBuf },
    /// The providers of a load run, started by it
    #[command(hide = true)]
    Provider {
        #[arg(long, value_enum)]
        service: Service,
        #[arg(long, value_enum)]
        audio: Audio,
        #[arg(long, value_enum)]
        behaviour: Behaviour,
        #[arg(long)]
        certificate: Option<PathBuf>,
    },
    /// The bare relay, started by a load run
    #[command(hide = true)]
    Relay { port: u16, provider: std::net::SocketAddr },
    /// One of two servers is killed with its live calls
    Kill9 {
        /// Calls on both servers
        #[arg(long, default_value_t = 40)]
        calls: usize,
    },
    /// The database goes away under live calls
    Database {
        #[arg(long, default_value_t = 50)]
        calls: usize,
        /// For how long
        #[arg(long, default_value_t = 120)]
        seconds: u64,
        #[arg(long, value_enum, default_value = "kill")]
        how: faults::How,
    },
    /// The bucket of recordings goes away under live calls
    Objects {
        #[arg(long, default_value_t = 10)]
        calls: usize,
        /// For how long at least
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
}

#[derive(Clone, Copy, clap::Args)]
struct SetupArguments {
    #[arg(long, value_enum, default_value = "offhook")]
    target: Kind,
    #[arg(long, value_enum, default_value = "openai")]
    service: Service,
    #[arg(long, value_enum, default_value = "ulaw")]
    audio: Audio,
    #[arg(long, value_enum, default_value = "echo")]
    behaviour: Behaviour,
    /// Encrypt the connection to the provider
    #[arg(long)]
    tls: bool,
    /// Record the calls
    #[arg(long)]
    recording: bool,
}

impl From<SetupArguments> for Setup {
    fn from(it: SetupArguments) -> Self {
        let SetupArguments { target, service, audio, behaviour, tls, recording } = it;
        Self { target, service, audio, behaviour, tls, recording }
    }
}

fn main() -> Result<ExitCode> {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let arguments = Arguments::parse();
    match arguments.run {
        Run::Provider { service, audio, behaviour, certificate } => {
            provider::serve(Character { service, audio, behaviour, certificate })?;
            return Ok(ExitCode::SUCCESS);
        }
        Run::Relay { port, provider } => {
            load::relay::serve(port, provider)?;
            return Ok(ExitCode::SUCCESS);
        }
        Run::Compare { a, b } => {
            print!("{}", table::compare(&Benchmark::read(&a)?, &Benchmark::read(&b)?));
            return Ok(ExitCode::SUCCESS);
        }
        _ => (),
    }
    let offhook = match arguments.offhook {
        Some(it) => it,
        None => std::env::current_exe()?.with_file_name("offhook"),
    };
    anyhow::ensure!(
        offhook.exists(),
        "{} is not there: build it with `cargo build --release --bin offhook`, or name it with --offhook",
        offhook.display()
    );
    if matches!(arguments.run, Run::Load { .. } | Run::Capacity { .. } | Run::Hostile { .. } | Run::Table { .. }) {
        return measure(&offhook, arguments.run, arguments.json.as_deref());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report: Report = runtime.block_on(async {
        match arguments.run {
            Run::Kill9 { calls } => faults::kill9(&offhook, calls).await,
            Run::Database { calls, seconds, how } => faults::database(&offhook, calls, Duration::from_secs(seconds), how).await,
            Run::Objects { calls, seconds } => faults::objects(&offhook, calls, Duration::from_secs(seconds)).await,
            _ => unreachable!("it was seen to above"),
        }
    })?;
    print!("{report}");
    if let Some(file) = arguments.json {
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(&file, json).with_context(|| format!("{} cannot be written", file.display()))?;
    }
    Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs that measure; they have a processor to themselves, and so a runtime of one thread.
fn measure(offhook: &Path, run: Run, json: Option<&Path>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let bar = ProgressBar::new_spinner().with_style(ProgressStyle::with_template("{spinner} {elapsed} {msg}")?);
    bar.enable_steady_tick(Duration::from_millis(500));
    let progress = &mut |told: &str| {
        if bar.is_hidden() {
            eprintln!("{told}");
        } else {
            bar.println(told);
            bar.set_message(told.to_owned());
        }
    };
    let seconds = Duration::from_secs;
    let (value, holds) = match run {
        Run::Load { setup, calls, seconds: time } => {
            let run = runtime.block_on(load::steady(offhook, setup.into(), calls, (1, seconds(time)), progress))?;
            run.steps.iter().for_each(|it| println!("{}", load::line(it)));
            let holds = run.steps.iter().all(load::Step::holds);
            (serde_json::to_value(run)?, holds)
        }
        Run::Capacity { setup, from, by, attempts, seconds: time } => {
            let (steps, time) = (load::rising(from, by), seconds(time));
            let run = runtime.block_on(load::capacity(offhook, setup.into(), steps, attempts, time, progress))?;
            println!("{}: {} calls on one core", load::title(run.setup), run.capacity.unwrap_or_default());
            (serde_json::to_value(run)?, true)
        }
        Run::Hostile { setup, calls, rounds, seconds: time } => {
            let found = runtime.block_on(hostile::run(offhook, setup.into(), calls, rounds, seconds(time), progress))?;
            let effects = hostile::Effect::of_all(&found);
            for it in &effects {
                let verdict = if it.holds() { "holds" } else { "DOES NOT HOLD" };
                let harm = if it.harmless { "" } else { ", not ended in time, or frames lost" };
                println!("{:?}: p99 of the others {:.2} → {:.2} ms{harm}: {verdict}", it.hostility, it.before, it.with);
            }
            let holds = effects.into_iter().all(hostile::Effect::holds);
            (serde_json::to_value(found)?, holds)
        }
        Run::Table { out, from } => {
            let found = match from {
                Some(file) => Benchmark::read(&file)?,
                None => runtime.block_on(table::run(offhook, progress))?,
            };
            found.write(&out)?;
            for it in found.rows() {
                let mark = if it.holds { "✓" } else { "✗" };
                let ratio = it.relay.map_or_else(String::new, |relay| format!("  {:.2} × relay", it.found / relay));
                println!("{mark} {:<52} {:>9.2} {:<5} {:<22}{ratio}", it.what, it.found, it.unit, it.goal);
            }
            println!("{} calls a core with everything; written to {}", found.rows()[2].found, out.display());
            (serde_json::to_value(&found)?, found.rows().iter().all(|it| it.holds))
        }
        _ => unreachable!("the others measure nothing"),
    };
    bar.finish_and_clear();
    if let Some(file) = json {
        let text = serde_json::to_string_pretty(&value)?;
        std::fs::write(file, text).with_context(|| format!("{} cannot be written", file.display()))?;
    }
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
