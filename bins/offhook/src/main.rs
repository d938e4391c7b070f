//! Arguments, environment, signals, logging. Everything else is in the library.

mod admin;
mod allocator;
mod data;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use admin::Admin;
use anyhow::{Context as _, Result};
use axum::serve::ListenerExt as _;
use bridge::net::Internet;
use clap::{Parser, Subcommand};
use offhook::config::{self, Config};
use offhook::convert::Convert;
use offhook::demo::{self, Report};
use offhook::doctor::{self, Verdict};
use offhook::scenario;
use offhook::server::{Parts, Server};
use offhook::stage::{Format, Options, Provider, Stage};
use offhook::verify;
use secrecy::ExposeSecret as _;
use sim::Lateness;
use store::Store;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt};

#[derive(Parser)]
#[command(version, about = "The real-time bridge between telephone calls and AI voices")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// A file of NAME=VALUE lines; the environment wins over it, a later file over an earlier one
    #[arg(long, global = true)]
    env_file: Vec<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Answer the telephone
    Serve {
        /// Settings file; the environment wins over it
        #[arg(long, default_value = "offhook.toml")]
        config: PathBuf,
    },
    /// Show a whole call against simulated peers, and check every step of it
    Demo {
        #[arg(long, value_enum, default_value = "openai")]
        assistant: Provider,
        #[arg(long, value_enum, default_value = "ulaw")]
        format: Format,
        /// en or ro
        #[arg(long, default_value = "en")]
        language: String,
        /// Calls at a time
        #[arg(long, default_value_t = 1)]
        calls: usize,
        /// Stay up afterwards, to look around
        #[arg(long)]
        keep: bool,
    },
    /// Play a scenario of the simulated network
    Sim {
        #[command(subcommand)]
        command: Sim,
    },
    /// Convert audio: files of any kind, or samples from stdin to stdout as a call converts them
    Convert(Convert),
    /// Look at everything that a first call needs, and tell what to do about what is wrong
    Doctor {
        /// For programs
        #[arg(long)]
        json: bool,
        /// Settings file
        #[arg(long, default_value = "offhook.toml")]
        config: PathBuf,
    },
    /// Ask Twilio itself what its documents do not say: calls somebody who keeps the line, twice, for about ten minutes. Stop the server
    /// first: this listens where it does
    VerifyTwilio {
        /// Who is called, E.164
        to: String,
        /// Longest wait for Twilio to notice a server that says nothing
        #[arg(long, default_value_t = 240)]
        silence_seconds: u64,
        /// For programs
        #[arg(long)]
        json: bool,
        /// Settings file
        #[arg(long, default_value = "offhook.toml")]
        config: PathBuf,
    },
    /// Bring the database's schema up to date, or to a version
    Migrate {
        /// The version to go to, up or down; 0 takes everything away
        #[arg(long)]
        to: Option<i64>,
        /// Settings file; only where the data is matters
        #[arg(long, default_value = "offhook.toml")]
        config: PathBuf,
    },
    /// List the servers that share the database
    Nodes {
        /// Settings file; only where the data is matters
        #[arg(long, default_value = "offhook.toml")]
        config: PathBuf,
    },
    /// Addresses under which the recordings of a call can be downloaded for a while
    Recordings {
        /// Our id of the call
        call: String,
        #[arg(long, default_value = "default")]
        tenant: String,
        /// How long they work, in minutes
        #[arg(long, default_value_t = 60)]
        minutes: u64,
        /// Settings file; only where the data is, and the public address, matter
        #[arg(long, default_value = "offhook.toml")]
        config: PathBuf,
    },
    /// Do something to a live call, whichever server has it
    Order {
        /// Our id of the call
        call: String,
        /// `say WORDS`, `inform WORDS`, `hold on`, `mute-caller on`, `mute-assistant off`, `record off`, `digits 12#`,
        /// `transfer NAME`, `hang-up`
        #[arg(required = true, num_args = 1..)]
        what: Vec<String>,
        #[arg(long, default_value = "default")]
        tenant: String,
        /// Settings file; only where the data is matters
        #[arg(long, default_value = "offhook.toml")]
        config: PathBuf,
    },
    /// Where a tenant's events go
    Endpoints {
        #[command(subcommand)]
        command: EndpointsCommand,
        #[arg(long, default_value = "default", global = true)]
        tenant: String,
        /// Settings file; only where the data is matters
        #[arg(long, default_value = "offhook.toml", global = true)]
        config: PathBuf,
    },
    /// Erase a person: their voice, words and number, in every record of a tenant
    Erase {
        /// E.164, such as +40312345678
        number: String,
        #[arg(long, default_value = "default")]
        tenant: String,
        /// Settings file; only where the data is matters
        #[arg(long, default_value = "offhook.toml")]
        config: PathBuf,
    },
    /// What a tenant has configured: its assistants and numbers, in versions
    Configuration {
        #[command(subcommand)]
        command: ConfigurationCommand,
        #[arg(long, default_value = "default", global = true)]
        tenant: String,
        /// Settings file
        #[arg(long, default_value = "offhook.toml", global = true)]
        config: PathBuf,
    },
    /// Tenants, their people and keys, prices
    Admin {
        #[command(subcommand)]
        command: Admin,
        /// Settings file; only where the data is matters
        #[arg(long, default_value = "offhook.toml", global = true)]
        config: PathBuf,
    },
    /// Print the document that describes the API (OpenAPI)
    Openapi,
    /// Look at the queue of jobs, and steer it
    Jobs {
        #[command(subcommand)]
        command: JobsCommand,
        /// Settings file; only where the data is matters
        #[arg(long, default_value = "offhook.toml", global = true)]
        config: PathBuf,
    },
    /// Look at the journal
    Journal {
        #[command(subcommand)]
        command: JournalCommand,
    },
    /// List every setting
    Settings {
        /// As an environment file
        #[arg(long)]
        env: bool,
    },
}

#[derive(Subcommand)]
enum EndpointsCommand {
    /// Endpoints, their events and whether they are paused
    List,
    /// Add one; its secret is printed this once
    Add {
        url: String,
        /// Kinds of events, such as call.ended; without any: all
        #[arg(long)]
        event: Vec<String>,
    },
    /// Remove one, with what waits for it
    Remove { id: String },
    /// End the pause of one
    Resume { id: String },
    /// Send events again
    Replay {
        id: String,
        /// From this moment on, such as 2026-11-21T00:00:00Z
        #[arg(long)]
        from: jiff::Timestamp,
    },
}

#[derive(Subcommand)]
enum ConfigurationCommand {
    /// Print it as JSON
    Show {
        /// A version; default: the newest
        #[arg(long)]
        version: Option<u64>,
    },
    /// List its versions
    History,
    /// Check a file, TOML or JSON, and publish it: the servers follow within seconds
    Publish {
        file: PathBuf,
        /// The version that was changed: refused if there is a newer one
        #[arg(long)]
        follows: Option<u64>,
        /// Only check
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Subcommand)]
enum JobsCommand {
    /// The newest jobs of all tenants
    List {
        /// ready, running, done, dead or cancelled
        #[arg(long)]
        state: Option<String>,
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Have a dead or cancelled job tried again, or a waiting one at once
    Retry { id: String },
    /// Take a job out of the queue
    Cancel { id: String },
}

#[derive(Subcommand)]
enum JournalCommand {
    /// Print every fact in it as a line of JSON; words and numbers of callers among them
    Cat {
        /// The journal's folder; default: that of the settings
        #[arg(long)]
        folder: Option<PathBuf>,
        /// Only facts of this call
        #[arg(long)]
        call: Option<String>,
        /// Settings file; only where the data is matters
        #[arg(long, default_value = "offhook.toml")]
        config: PathBuf,
    },
}

#[derive(Subcommand)]
enum Sim {
    /// List the scenarios and what each one shows
    List,
    /// Play one in real time and print its timeline
    Run {
        scenario: String,
        /// With this provider; default: the first that can do it
        #[arg(long, value_enum)]
        assistant: Option<Provider>,
    },
}

fn main() -> ExitCode {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let arguments = Arguments::parse();
    if let Err(error) = data::read_env_files(&arguments.env_file) {
        eprintln!("offhook: {}", told(&error));
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("the runtime cannot be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match arguments.command {
            Command::Serve { config } => serve(config).await,
            Command::Demo { assistant, format, language, calls, keep } => {
                show(assistant, format, language, calls.max(1), keep).await
            }
            Command::Sim { command: Sim::List } => {
                print!("{}", scenario::table());
                Ok(ExitCode::SUCCESS)
            }
            Command::Sim { command: Sim::Run { scenario, assistant } } => play(&scenario, assistant).await,
            Command::Convert(convert) => convert.run().map(|()| ExitCode::SUCCESS),
            Command::Doctor { json, config } => examine(&config, json).await,
            Command::VerifyTwilio { to, silence_seconds, json, config } => {
                verify(&config, &to, Duration::from_secs(silence_seconds), json).await
            }
            Command::Migrate { to, config } => data::migrate(&config, to).await.map(|()| ExitCode::SUCCESS),
            Command::Nodes { config } => data::list_nodes(&config).await.map(|()| ExitCode::SUCCESS),
            Command::Recordings { call, tenant, minutes, config } => {
                data::list_recordings(&config, &tenant, &call, minutes).await.map(|()| ExitCode::SUCCESS)
            }
            Command::Order { call, what, tenant, config } => {
                data::order(&config, &tenant, &call, &what.join(" ")).await.map(|()| ExitCode::SUCCESS)
            }
            Command::Erase { number, tenant, config } => data::erase(&config, &tenant, &number).await.map(|()| ExitCode::SUCCESS),
            Command::Endpoints { command, tenant, config } => {
                let done = match command {
                    EndpointsCommand::List => data::list_endpoints(&config, &tenant).await,
                    EndpointsCommand::Add { url, event } => data::add_endpoint(&config, &tenant, &url, &event).await,
                    EndpointsCommand::Remove { id } => data::remove_endpoint(&config, &tenant, &id).await,
                    EndpointsCommand::Resume { id } => data::resume_endpoint(&config, &tenant, &id).await,
                    EndpointsCommand::Replay { id, from } => data::replay(&config, &tenant, &id, from).await,
                };
                done.map(|()| ExitCode::SUCCESS)
            }
            Command::Configuration { command, tenant, config } => {
                let done = match command {
                    ConfigurationCommand::Show { version } => data::show_configuration(&config, &tenant, version).await,
                    ConfigurationCommand::History => data::list_configurations(&config, &tenant).await,
                    ConfigurationCommand::Publish { file, follows, dry_run } => {
                        data::publish(&config, &tenant, &file, follows, dry_run).await
                    }
                };
                done.map(|()| ExitCode::SUCCESS)
            }
            Command::Admin { command, config } => command.run(&config).await.map(|()| ExitCode::SUCCESS),
            Command::Openapi => {
                println!("{}", control::document().to_pretty_json()?);
                Ok(ExitCode::SUCCESS)
            }
            Command::Jobs { command, config } => {
                let done = match command {
                    JobsCommand::List { state, limit } => data::list_jobs(&config, state.as_deref(), limit).await,
                    JobsCommand::Retry { id } => data::steer_job(&config, &id, data::Steering::Retry).await,
                    JobsCommand::Cancel { id } => data::steer_job(&config, &id, data::Steering::Cancel).await,
                };
                done.map(|()| ExitCode::SUCCESS)
            }
            Command::Journal { command: JournalCommand::Cat { folder, call, config } } => {
                data::cat(&config, folder, call.as_deref()).map(|()| ExitCode::SUCCESS)
            }
            Command::Settings { env } => {
                print!("{}", if env { config::env_example() } else { config::table() });
                Ok(ExitCode::SUCCESS)
            }
        }
    });
    result.unwrap_or_else(|error| {
        eprintln!("offhook: {}", told(&error));
        ExitCode::FAILURE
    })
}

/// An error with its causes, those left out that it has told already.
fn told(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told.as_str() {
        "" => cause,
        _ if told.contains(&cause) => told,
        _ => format!("{told}: {cause}"),
    })
}

fn log(filter: &str) {
    let (json, filter) = filter.strip_prefix("json,").map_or((false, filter), |it| (true, it));
    let lines = || fmt::layer().with_writer(std::io::stderr);
    let lines = if json { lines().json().boxed() } else { lines().boxed() };
    let logger = tracing_subscriber::registry().with(lines);
    // The other one also knows spans, such as `[call]=debug`, and therefore takes part whenever a call has its turn: a hundred
    // times a second.
    match filter.parse::<Targets>() {
        Ok(targets) if !filter.contains('[') => logger.with(targets).init(),
        _ => logger.with(EnvFilter::new(filter)).init(),
    }
}

/// Exit code 1: calls will fail.
async fn examine(file: &Path, json: bool) -> Result<ExitCode> {
    let env = data::environment();
    let (text, name) = (data::settings_file(file)?, file.display().to_string());
    let config = config::load(text.as_deref().map(|it| (name.as_str(), it)), &env)?;
    let findings = doctor::examine(&config).await;
    if json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        print!("{}", doctor::table(&findings));
    }
    let failed = findings.iter().any(|it| it.verdict == Verdict::Failed);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn verify(file: &Path, to: &str, silence: Duration, json: bool) -> Result<ExitCode> {
    let env = data::environment();
    let (text, name) = (data::settings_file(file)?, file.display().to_string());
    let config = config::load(text.as_deref().map(|it| (name.as_str(), it)), &env)?;
    let answers = verify::run(config, to, silence, |line| eprintln!("{line}")).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&answers)?);
    } else {
        print!("{}", verify::table(&answers));
    }
    Ok(ExitCode::SUCCESS)
}

async fn serve(file: PathBuf) -> Result<ExitCode> {
    let env = data::environment();
    let text = data::settings_file(&file)?;
    let name = file.display().to_string();
    let config: Config = config::load(text.as_deref().map(|it| (name.as_str(), it)), &env)?;
    log(env.get("RUST_LOG").unwrap_or(&config.log));
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if config.skip_signatures {
        tracing::warn!(
            "SKIP_WEBHOOK_SIGNATURE_VALIDATION is set: every request is believed. Never do this where others can reach this port"
        );
    }
    let data_dir = config.places.data_dir.clone();
    std::fs::create_dir_all(&data_dir).with_context(|| format!("the data folder {} cannot be made", data_dir.display()))?;
    let store = Store::open(config.places.database_url.expose_secret()).await?;
    let beside = data::beside(&config.places, &store, config.recording_days, config.rest, config.calls_apart, &env)?;
    let listener = TcpListener::bind(config.listen).await.with_context(|| {
        format!("{} is not free: is another server running there? Choose another with OFFHOOK_LISTEN", config.listen)
    })?;
    let listener = listener.tap_io(|socket| {
        let _ = socket.set_nodelay(true);
    });
    let public_url = config.settings.public_url.clone();
    let parts = Parts {
        settings: config.settings,
        calls_max: config.calls_max,
        http_tools: config.http_tools,
        mcp_servers: config.mcp_servers,
        auth_tokens: (!config.skip_signatures).then_some(config.auth_tokens),
        api: config.api,
        net: Arc::new(Internet::trusting(&config.authorities)),
        listener,
        store,
        beside: Some(beside),
    };
    let server = Server::start(parts, &data_dir).await?;
    tracing::info!(listen = %config.listen, voice_url = public_url.http("/twilio/voice"), voice_fallback = public_url.http(control::FALLBACK_PATH), status_callback = public_url.http("/twilio/status"), "ready: set these addresses at your Twilio number");
    terminated().await?;
    tracing::info!(calls = server.bridge.directory().live(), soft = ?config.drain, "shutting down: live calls may finish");
    let left = tokio::select! {
        left = server.shut_down(config.drain) => left,
        it = terminated() => {
            it?;
            tracing::warn!("asked a second time: leaving at once; callers go on with the next process");
            return Ok(ExitCode::FAILURE);
        }
    };
    tracing::info!(left, "good night");
    Ok(if left == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// SIGTERM or Ctrl-C.
async fn terminated() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
    }
}

async fn show(provider: Provider, format: Format, language: String, calls: usize, keep: bool) -> Result<ExitCode> {
    if let Ok(filter) = std::env::var("RUST_LOG") {
        log(&filter);
    }
    println!("A call in real time: {provider:?}, {format:?}, {} call{}.\n", calls, if calls == 1 { "" } else { "s" });
    let lateness = Lateness::watch();
    let (mut folder, mut report, mut stage) = perform(provider, format, &language, calls).await?;
    if !report.failures().is_empty() && lateness.is_disturbed() {
        println!("\nThis machine stood still for {:.1?}: once more.\n", lateness.longest());
        stage.strike().await;
        (folder, report, stage) = perform(provider, format, &language, calls).await?;
    }
    print!("{}", report.text);
    println!("\nSteps");
    for check in &report.checks {
        match &check.found {
            Ok(()) => println!("  ✓ {}", check.step),
            Err(found) => println!("  ✗ {}: {found}", check.step),
        }
    }
    let failures = report.failures().len();
    println!("\n{} of {} steps happened as they should.", report.checks.len() - failures, report.checks.len());
    if keep {
        println!("\nStill up; Ctrl-C ends it. Look around:");
        println!("  curl http://{}/health", stage.address);
        println!("  curl http://{}/metrics", stage.address);
        println!("  sqlite3 {} 'SELECT speaker, text FROM transcript'", folder.join("offhook.db").display());
        terminated().await?;
    }
    stage.strike().await;
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Plays the demo's story in a folder of its own.
async fn perform(provider: Provider, format: Format, language: &str, calls: usize) -> Result<(PathBuf, Report, Stage)> {
    let folder = tempfile::Builder::new().prefix("offhook-demo-").tempdir()?.keep();
    let options = Options {
        language: language.to_owned(),
        calls,
        calls_max: calls + 10,
        network: sim::Network::Loopback,
        virtual_time: false,
        print: true,
        ..Options::simulated(provider, format, &folder)
    };
    let (report, stage) = demo::run(&options).await?;
    Ok((folder, report, stage))
}

async fn play(name: &str, assistant: Option<Provider>) -> Result<ExitCode> {
    if let Ok(filter) = std::env::var("RUST_LOG") {
        log(&filter);
    }
    let scenario = scenario::find(name)?;
    let provider = assistant.unwrap_or(scenario.assistants[0]);
    println!("{}\nIn real time, with {provider:?}.\n", scenario.about);
    let folder = tempfile::Builder::new().prefix("offhook-sim-").tempdir()?;
    let story = scenario.play(provider, &folder.path().join("data"), false).await?;
    println!("\nTranscript\n{}", story.transcript);
    println!(
        "{}",
        if story.steps.0 == story.steps.1 {
            "Every step of the caller's script happened."
        } else {
            "Not every step of the caller's script happened."
        }
    );
    Ok(if story.steps.0 == story.steps.1 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
