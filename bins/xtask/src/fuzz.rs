//! `cargo xtask fuzz`: every fuzz target for some seconds, from the fixtures on.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};

use crate::fixtures::walk;

/// Targets with the fixtures they start from, and the longest input worth trying.
const TARGETS: [(&str, &[&str], usize); 7] = [
    ("transcoder", &["fixtures/speech"], 4096),
    ("resampler", &["fixtures/speech"], 16_384),
    ("file", &["fixtures/files"], 100_000),
    ("detectors", &["fixtures/speech"], 16_384),
    ("enhancement", &["fixtures/speech"], 4096),
    ("websocket", &["fixtures/twilio"], 16_384),
    ("messages", &["fixtures/twilio", "fixtures/openai", "fixtures/elevenlabs"], 16_384),
];
/// Memory that one input may cost, in megabytes, and time in seconds.
const MEMORY_MAX_MB: u32 = 512;
const TIME_MAX_S: u32 = 10;

/// Runs every target, or the one that is named.
///
/// # Errors
/// Names the first target that fails; its input is under `fuzz/artifacts/`.
pub(crate) fn run(root: &Path, seconds: u32, only: Option<&str>) -> Result<ExitCode> {
    let there = Command::new("cargo").args(["fuzz", "--version"]).output().is_ok_and(|it| it.status.success());
    ensure!(there, "cargo-fuzz is missing: `cargo install cargo-fuzz`, and `apt-get install g++`");
    if let Some(name) = only
        && !TARGETS.iter().any(|it| it.0 == name)
    {
        let names: Vec<&str> = TARGETS.iter().map(|it| it.0).collect();
        bail!("there is no target `{name}`: expected one of {}", names.join(", "));
    }
    for (target, seeds, length) in TARGETS.iter().filter(|it| only.is_none_or(|name| name == it.0)) {
        println!("\n── {target}");
        let corpus = root.join("fuzz/corpus").join(target);
        fs::create_dir_all(&corpus)?;
        for (index, seed) in seeds.iter().enumerate() {
            let mut files = Vec::new();
            walk(&root.join(seed), &mut files)?;
            for (number, file) in files.iter().enumerate() {
                let mut bytes = fs::read(file).with_context(|| file.display().to_string())?;
                bytes.truncate(*length);
                fs::write(corpus.join(format!("fixture-{index}-{number}")), bytes)?;
            }
        }
        let status = Command::new("cargo")
            .args(["fuzz", "run", "--sanitizer", "none", target, "--"])
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-rss_limit_mb={MEMORY_MAX_MB}"))
            .arg(format!("-timeout={TIME_MAX_S}"))
            .arg(format!("-max_len={length}"))
            .args(["-print_final_stats=1", "-verbosity=0"])
            .current_dir(root)
            .status()?;
        ensure!(status.success(), "{target} broke: its input is under fuzz/artifacts/{target}");
    }
    Ok(ExitCode::SUCCESS)
}
