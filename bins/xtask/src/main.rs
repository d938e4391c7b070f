//! Automation of the repository: what people and CI run is the same.

mod api;
mod bench;
mod ci;
mod client;
mod fixtures;
mod fuzz;
mod quality;
#[cfg(test)]
mod tidy;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Automation of the repository")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything that must hold: formats, lints, builds, tests, the demo, the repository's own rules
    Ci,
    /// Every operation of the API with generated inputs (needs python3 and a registry of its packages)
    Api,
    /// The TypeScript client: generated from the API's document, built, tried (needs Node and a registry of its packages)
    Client,
    /// Make the speech fixtures (needs espeak-ng and sox) and all checksums anew
    Fixtures,
    /// Every fuzz target for some seconds (needs cargo-fuzz and g++)
    Fuzz {
        /// Seconds for each target
        #[arg(default_value_t = 10)]
        seconds: u32,
        /// Only this target
        #[arg(long)]
        target: Option<String>,
    },
    /// Calls a core, lateness and cost, beside a bare relay; a quarter of an hour, into docs/benchmarks (wants two processors)
    Bench {
        #[command(subcommand)]
        what: Option<Bench>,
    },
}

#[derive(Subcommand)]
enum Bench {
    /// Instructions of a frame on its way through the process: the same on every machine (needs valgrind)
    Counts,
    /// All goals of rate conversion; speech quality goes into docs/sound-quality.md (needs python3, espeak-ng; some minutes)
    Quality,
}

fn code(held: bool) -> ExitCode {
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn main() -> Result<ExitCode> {
    let root = root();
    match Arguments::parse().command {
        Task::Ci => ci::run(root),
        Task::Api => api::run(root).map(code),
        Task::Client => client::run(root).map(code),
        Task::Fuzz { seconds, target } => fuzz::run(root, seconds, target.as_deref()),
        Task::Bench { what: None } => bench::load(root).map(code),
        Task::Bench { what: Some(Bench::Counts) } => bench::counts(root).map(|()| ExitCode::SUCCESS),
        Task::Bench { what: Some(Bench::Quality) } => quality::run(root),
        Task::Fixtures => fixtures::make(root).map(|()| ExitCode::SUCCESS),
    }
}

/// The repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("xtask lives in bins/xtask")
}
