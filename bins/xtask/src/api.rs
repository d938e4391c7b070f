//! `cargo xtask api`: asks a real server for everything that its OpenAPI document promises, with inputs that a generator makes of the
//! document (Schemathesis): no server errors, no answers that are not documented.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// Inputs for each operation, beside those that try the limits of each parameter.
const EXAMPLES: &str = "20";
/// What is looked at in each answer.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,\
                      response_headers_conformance,ignored_auth,unsupported_method,missing_required_header";
/// The server is ready within this time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Killed when it is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns whether everything held; says so and returns `true` where there is no Python to try it with.
pub(crate) fn run(root: &Path) -> Result<bool> {
    let venv = root.join("target/schemathesis");
    let program = venv.join("bin/schemathesis");
    if !Command::new("python3").args(["-m", "venv", "--help"]).output().is_ok_and(|it| it.status.success()) {
        println!("no Python with venv: the API is not tried with generated inputs");
        return Ok(true);
    }
    if !program.exists() {
        ensure!(Command::new("python3").args(["-m", "venv"]).arg(&venv).status()?.success(), "python3 -m venv failed");
        let pip = Command::new(venv.join("bin/pip"))
            .args(["install", "--quiet", "--disable-pip-version-check", "--requirement"])
            .arg(root.join("bins/xtask/schemathesis.txt"))
            .status()?;
        ensure!(pip.success(), "pip cannot install Schemathesis: is a package registry reachable?");
    }
    let built =
        Command::new("cargo").args(["build", "--quiet", "--locked", "--package", "offhook"]).current_dir(root).status()?;
    ensure!(built.success(), "offhook cannot be built");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    let offhook = target.join("debug/offhook");
    let folder = root.join("target/api");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder)?;
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let command = |arguments: &[&str]| {
        let mut command = Command::new(&offhook);
        command
            .args(arguments)
            .args(["--config", "/nonexistent/offhook.toml"])
            .env_clear()
            .env("PUBLIC_URL", format!("http://{address}"))
            .env("OFFHOOK_LISTEN", address.to_string())
            .env("OFFHOOK_DATA_DIR", &folder)
            .env("OFFHOOK_LOG", "warn")
            .env("OFFHOOK_API_PER_SECOND", "10000")
            .env("TWILIO_AUTH_TOKEN", "a token that signs nothing")
            .env("OPENAI_API_KEY", "a key that opens nothing")
            .stdin(Stdio::null());
        command
    };
    let log = std::fs::File::create(folder.join("server.log"))?;
    let _server = Server(command(&["serve"]).stdout(log.try_clone()?).stderr(log).spawn()?);
    let until = Instant::now() + PATIENCE;
    while std::net::TcpStream::connect(address).is_err() {
        ensure!(Instant::now() < until, "the server is not ready; see {}", folder.join("server.log").display());
        std::thread::sleep(Duration::from_millis(50));
    }
    let made = command(&["admin", "add-tenant", "default"]).stdout(Stdio::null()).status()?;
    ensure!(made.success(), "there is no tenant");
    let key = command(&["admin", "add-key", "schemathesis", "--role", "owner"]).output()?;
    let key = String::from_utf8(key.stdout)?;
    let status = Command::new(&program)
        .args(["run", &format!("http://{address}/openapi.json"), "--checks", CHECKS, "--max-examples", EXAMPLES])
        .args(["--phases", "examples,coverage,fuzzing", "--continue-on-failure", "--suppress-health-check", "all"])
        .args(["--header", &format!("Authorization: Bearer {}", key.trim())])
        // It would take its own key away; who may do that is tried elsewhere.
        .args(["--exclude-path", "/api/keys/{id}", "--warnings", "off", "--workers", "2"])
        .current_dir(&folder)
        .status()
        .context("Schemathesis cannot be started")?;
    if std::fs::read_to_string(folder.join("server.log"))?.contains("panicked") {
        bail!("the server panicked: see {}", folder.join("server.log").display());
    }
    Ok(status.success())
}
