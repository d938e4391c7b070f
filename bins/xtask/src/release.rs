//! `cargo xtask release`: the server laid out by what it does most.
//!
//! What a frame costs is mostly waiting for code and data that are cold again since the last one. A compiler that knows which
//! way calls go puts that way together. So the server is built twice: once to count while `dialer` rings, once by what was
//! counted.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// What the server is watched at: both services, with and without conversion, recording and encryption.
const LESSONS: [&str; 4] = [
    "load --calls 60 --seconds 4",
    "load --calls 40 --seconds 4 --audio pcm --recording --tls",
    "load --calls 40 --seconds 10 --behaviour converse",
    "load --calls 30 --seconds 8 --behaviour converse --service elevenlabs --audio pcm",
];

/// Builds it; returns where it is.
///
/// # Errors
/// When something cannot be built or run.
pub(crate) fn build(root: &Path) -> Result<PathBuf> {
    let host = said(root, "rustc", &["-vV"])?;
    let host = host.lines().find_map(|it| it.strip_prefix("host: ")).context("rustc names no host")?.to_owned();
    let target = root.join("target/release-trained");
    let counted = target.join("counted");
    let _ = std::fs::remove_dir_all(&counted);
    println!("the callers");
    run(Command::new("cargo").args(["build", "--release", "--locked", "--bin", "dialer"]).current_dir(root))?;
    // With a target named, what runs while it is built is not counted.
    let cargo = |flag: &str| {
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--release", "--locked", "--bin", "offhook", "--target", &host]).current_dir(root);
        cargo.env("CARGO_TARGET_DIR", &target).env("RUSTFLAGS", flag);
        cargo
    };
    println!("the server, to be counted");
    // Linked plainly: counting needs no more, and linking as a whole is half of the time.
    run(cargo(&format!("-Cprofile-generate={}", counted.display())).env("CARGO_PROFILE_RELEASE_LTO", "off"))?;
    let server = target.join(&host).join("release/offhook");
    for lesson in LESSONS {
        println!("dialer {lesson}");
        let mut dialer = Command::new(root.join("target/release/dialer"));
        run(dialer.arg("--offhook").arg(&server).args(lesson.split(' ')).current_dir(root))?;
    }
    let profile = target.join("calls.profdata");
    run(Command::new(merger(root, &host)?).args(["merge", "-o"]).arg(&profile).arg(&counted))?;
    println!("the server");
    run(&mut cargo(&format!("-Cprofile-use={}", profile.display())))?;
    Ok(server)
}

/// The compiler's own tool; another version does not read its files.
fn merger(root: &Path, host: &str) -> Result<PathBuf> {
    let sysroot = said(root, "rustc", &["--print", "sysroot"])?;
    let tool = Path::new(sysroot.trim()).join("lib/rustlib").join(host).join("bin/llvm-profdata");
    ensure!(tool.exists(), "llvm-profdata is missing: rustup component add llvm-tools");
    Ok(tool)
}

fn said(root: &Path, program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).current_dir(root).output();
    Ok(String::from_utf8(output.with_context(|| format!("{program} cannot be run"))?.stdout)?)
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?} cannot be run"))?;
    ensure!(status.success(), "{command:?} has failed");
    Ok(())
}
