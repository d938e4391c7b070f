//! Automation of the repository: what people and CI run is the same.

mod fixtures;

use std::path::Path;

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
    /// Make the speech fixtures (needs espeak-ng and sox) and all checksums anew
    Fixtures,
}

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("xtask lives in bins/xtask");
    match Arguments::parse().command {
        Task::Fixtures => fixtures::make(root),
    }
}
