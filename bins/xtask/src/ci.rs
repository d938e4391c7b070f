//! `cargo xtask ci`: every step in order, the first failure ends it, times at the end.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::{api, client};

/// What a machine must have, and how to get it.
const TOOLS: [(&str, &[&str], &str); 5] = [
    ("cargo", &["--version"], "install Rust with rustup"),
    (
        "sh",
        &["-c", "command -v initdb || ls /usr/lib/postgresql/*/bin/initdb"],
        "install PostgreSQL, whose programs the tests start: apt-get install postgresql",
    ),
    ("cc", &["--version"], "install a C compiler: apt-get install gcc"),
    ("cargo", &["fmt", "--version"], "rustup component add rustfmt"),
    ("cargo", &["clippy", "--version"], "rustup component add clippy"),
];

/// The steps. Tests include the demo of every provider, format and language in virtual time, the import walls, links and
/// checksums.
const STEPS: [(&str, &[&str]); 6] = [
    ("format", &["fmt", "--all", "--check"]),
    ("lint", &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]),
    ("build", &["build", "--workspace", "--all-targets", "--locked"]),
    ("test", &["test", "--workspace", "--locked", "--no-fail-fast"]),
    ("document", &["doc", "--workspace", "--no-deps", "--locked"]),
    ("demo in real time", &["run", "--quiet", "--locked", "--package", "offhook", "--", "demo"]),
];

/// Returns whether everything held.
type Own = fn(&Path) -> Result<bool>;

/// What needs more than Rust, and is left out where that is not there.
const OWN: [(&str, Own); 2] = [("api", api::run), ("client", client::run)];

/// Fuzz targets must not rot; they are only built where a C++ compiler is.
const FUZZ: (&str, &[&str]) = ("fuzz targets", &["check", "--manifest-path", "fuzz/Cargo.toml", "--locked"]);

pub(crate) fn run(root: &Path) -> Result<ExitCode> {
    for (tool, arguments, fix) in TOOLS {
        let found = Command::new(tool).args(arguments).output().is_ok_and(|it| it.status.success());
        if !found {
            bail!("`{tool} {}` does not work here: {fix}", arguments.join(" "));
        }
    }
    let mut times: Vec<(&str, Duration)> = Vec::new();
    let cxx = Command::new("c++").arg("--version").output().is_ok_and(|it| it.status.success());
    if !cxx {
        println!("no C++ compiler: the fuzz targets are not checked");
    }
    for (name, arguments) in STEPS.into_iter().chain(cxx.then_some(FUZZ)) {
        println!("\n── {name}: cargo {}", arguments.join(" "));
        let begun = Instant::now();
        let mut command = Command::new("cargo");
        command.args(arguments).current_dir(root).env("RUSTDOCFLAGS", "-D warnings");
        // What only a second build would use is as large as the programs.
        command.env("CARGO_INCREMENTAL", "0");
        let status = command.status()?;
        times.push((name, begun.elapsed()));
        if !status.success() {
            println!(
                "\n✗ {name} failed after {:.0} s; run it alone with: cargo {}",
                begun.elapsed().as_secs_f64(),
                arguments.join(" ")
            );
            return Ok(ExitCode::FAILURE);
        }
    }
    for (name, run) in OWN {
        println!("\n── {name}: cargo xtask {name}");
        let begun = Instant::now();
        let held = run(root)?;
        times.push((name, begun.elapsed()));
        if !held {
            println!("\n✗ {name} failed after {:.0} s; run it alone with: cargo xtask {name}", begun.elapsed().as_secs_f64());
            return Ok(ExitCode::FAILURE);
        }
    }
    println!();
    for (name, time) in &times {
        println!("{:>7.1} s  {name}", time.as_secs_f64());
    }
    let total: Duration = times.iter().map(|it| it.1).sum();
    println!("{:>7.1} s  in all: green", total.as_secs_f64());
    Ok(ExitCode::SUCCESS)
}
