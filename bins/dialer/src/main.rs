//! `dialer`: see the README beside it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use dialer::{Report, faults};

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

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let offhook = match arguments.offhook {
        Some(it) => it,
        None => std::env::current_exe()?.with_file_name("offhook"),
    };
    anyhow::ensure!(
        offhook.exists(),
        "{} is not there: build it with `cargo build --release --bin offhook`, or name it with --offhook",
        offhook.display()
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report: Report = runtime.block_on(async {
        match arguments.run {
            Run::Kill9 { calls } => faults::kill9(&offhook, calls).await,
            Run::Database { calls, seconds, how } => faults::database(&offhook, calls, Duration::from_secs(seconds), how).await,
            Run::Objects { calls, seconds } => faults::objects(&offhook, calls, Duration::from_secs(seconds)).await,
        }
    })?;
    print!("{report}");
    if let Some(file) = arguments.json {
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(&file, json).with_context(|| format!("{} cannot be written", file.display()))?;
    }
    Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
