//! Automation of the repository: what people and CI run is the same.

mod ci;
mod fixtures;
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
    /// Make the speech fixtures (needs espeak-ng and sox) and all checksums anew
    Fixtures,
}

fn main() -> Result<ExitCode> {
    let root = root();
    match Arguments::parse().command {
        Task::Ci => ci::run(root),
        Task::Fixtures => fixtures::make(root).map(|()| ExitCode::SUCCESS),
    }
}

/// The repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("xtask lives in bins/xtask")
}
