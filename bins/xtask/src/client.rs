//! `cargo xtask client`: the TypeScript client, generated from the API's own document, built and tried.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

/// Returns whether it could be built; says so and returns `true` where there is no Node.
pub(crate) fn run(root: &Path) -> Result<bool> {
    if !Command::new("npm").arg("--version").output().is_ok_and(|it| it.status.success()) {
        println!("no Node: the TypeScript client is not built");
        return Ok(true);
    }
    let printed = Command::new("cargo")
        .args(["run", "--quiet", "--locked", "--package", "offhook", "--", "openapi"])
        .current_dir(root)
        .output()?;
    ensure!(printed.status.success(), "offhook openapi: {}", String::from_utf8_lossy(&printed.stderr));
    std::fs::create_dir_all(root.join("target"))?;
    std::fs::write(root.join("target/openapi.json"), printed.stdout)?;
    let client = root.join("crates/panel/client");
    for step in [
        &["ci", "--no-audit", "--no-fund"][..],
        &["run", "--silent", "generate"],
        &["run", "--silent", "build"],
        &["test", "--silent"],
    ] {
        if !Command::new("npm").args(step).current_dir(&client).status()?.success() {
            println!("npm {} failed in {}", step.join(" "), client.display());
            return Ok(false);
        }
    }
    Ok(true)
}
