//! `cargo xtask bench quality`: what the converters do to speech, judged by PESQ and STOI.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};

/// Packages of the judge, with versions: other versions give other numbers.
const PACKAGES: [&str; 5] = ["numpy==2.4.6", "scipy==1.17.1", "pesq==0.0.4", "pystoi==0.4.1", "soxr==1.1.0"];

/// Prints every figure of the converters and the goals they are held against; builds `offhook`, sets up the judge in `target/quality`, and writes `docs/sound-quality.md` and `docs/sound-quality.svg`.
///
/// # Errors
/// Says what is missing, or that a goal was not reached.
pub(crate) fn run(root: &Path) -> Result<ExitCode> {
    let work = root.join("target/quality");
    let python = work.join("venv/bin/python");
    if !python.exists() {
        println!("setting up the judge in {} …", work.display());
        std::fs::create_dir_all(&work)?;
        step(Command::new("python3").args(["-m", "venv"]).arg(work.join("venv")), "apt-get install python3-venv gcc")?;
    }
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    step(Command::new(&python).args(pip).args(PACKAGES), "pip needs a package registry and a C compiler")?;
    step(Command::new("cargo").args(["build", "--release", "--locked", "-p", "offhook"]).current_dir(root), "it must build")?;
    step(
        Command::new("cargo").args(["bench", "--quiet", "--locked", "-p", "benches", "--bench", "converters"]).current_dir(root),
        "it must build",
    )?;
    let judge = root.join("bins/xtask/quality.py");
    step(
        Command::new(&python).arg(judge).arg(root.join("target/release/offhook")).arg(&work).arg(root.join("docs")),
        "the corpus needs espeak-ng: apt-get install espeak-ng",
    )?;
    Ok(ExitCode::SUCCESS)
}

fn step(command: &mut Command, fix: &str) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("{program} cannot be run: {fix}"))?;
    ensure!(status.success(), "{program}: {status} ({fix})");
    Ok(())
}
