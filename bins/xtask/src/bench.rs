//! `cargo xtask bench`: what is measured under load, and what is counted.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Builds server and `dialer` as they are shipped and runs the whole table; returns whether every goal was reached.
///
/// # Errors
/// When something cannot be built or run.
pub(crate) fn load(root: &Path) -> Result<bool> {
    let build = ["build", "--release", "--locked", "--bin", "offhook", "--bin", "dialer"];
    let built = Command::new("cargo").args(build).current_dir(root).status().context("cargo cannot be run")?;
    ensure!(built.success(), "it must build");
    let dialer = root.join("target/release/dialer");
    Ok(Command::new(dialer).args(["table", "--out", "docs/benchmarks"]).current_dir(root).status()?.success())
}

/// Frames of the two runs whose difference is counted: what comes before the first frame falls out.
const FRAMES: (u64, u64) = (2000, 4000);

/// Prints the instructions of one frame, each way and format.
///
/// # Errors
/// When valgrind is missing or something does not build.
pub(crate) fn counts(root: &Path) -> Result<()> {
    let build = ["build", "--release", "--locked", "-p", "benches", "--example", "frames"];
    let built = Command::new("cargo").args(build).current_dir(root).status().context("cargo cannot be run")?;
    ensure!(built.success(), "it must build");
    println!("instructions for 20 ms, one way:");
    for format in ["passthrough", "16k", "24k"] {
        for way in ["up", "down"] {
            let (few, many) = (instructions(root, way, format, FRAMES.0)?, instructions(root, way, format, FRAMES.1)?);
            println!("  {way:<5} {format:<12} {:>7}", (many - few) / (FRAMES.1 - FRAMES.0));
        }
    }
    Ok(())
}

fn instructions(root: &Path, way: &str, format: &str, frames: u64) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(root.join("target/release/examples/frames"))
        .args([way, format, &frames.to_string()])
        .output()
        .context("valgrind cannot be run: apt-get install valgrind")?;
    let told = String::from_utf8_lossy(&output.stderr);
    let collected = told.lines().find_map(|it| it.split_once("Collected : ")?.1.trim().parse().ok());
    collected.with_context(|| format!("valgrind counted nothing:\n{told}"))
}
