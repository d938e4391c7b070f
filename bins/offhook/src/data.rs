//! Commands about the data of a server: its schema, its journal.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bridge::{CallId, LiveControl};
use desk::{Configuration, Document};
use offhook::config::{self, Places};
use offhook::server::Beside;
use secrecy::ExposeSecret as _;
use store::{NewConfiguration, Objects, Sealer, Store};
use twilio::rest::Rest;

/// The text of a settings file, if there is one.
pub(crate) fn settings_file(file: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{} cannot be read", file.display())),
    }
}

/// What environment files say.
static ENV_FILES: OnceLock<BTreeMap<String, String>> = OnceLock::new();

/// Reads environment files, once; a later file wins over an earlier one, and the environment over all.
///
/// # Errors
/// When one cannot be read or understood: which, and where.
pub(crate) fn read_env_files(files: &[PathBuf]) -> Result<()> {
    let mut found = BTreeMap::new();
    for file in files {
        let lines = dotenvy::from_path_iter(file).with_context(|| format!("{} cannot be read", file.display()))?;
        for line in lines {
            // Its error quotes the line, which may hold a secret.
            let (name, value) = line
                .map_err(|_| anyhow::anyhow!("{}: a line is not NAME=VALUE; values with spaces need quotes", file.display()))?;
            found.insert(name, value);
        }
    }
    ENV_FILES.get_or_init(|| found);
    Ok(())
}

/// The environment, with what environment files say where it is silent.
pub(crate) fn environment() -> BTreeMap<String, String> {
    let mut env = ENV_FILES.get().cloned().unwrap_or_default();
    env.extend(std::env::vars());
    env
}

fn places(file: &Path) -> Result<Places> {
    let env = environment();
    let text = settings_file(file)?;
    let name = file.display().to_string();
    Ok(config::places(text.as_deref().map(|it| (name.as_str(), it)), &env)?)
}

/// The keys to seal with.
fn sealer(places: &Places) -> Result<Arc<Sealer>> {
    let sealer = match &places.encryption_keys {
        Some(keys) => Sealer::new(keys.expose_secret().split(',').map(str::trim)).context("server.encryption_keys")?,
        None => Sealer::from_file(&places.data_dir.join("key"))?,
    };
    Ok(Arc::new(sealer))
}

fn objects(places: &Places, store: &Store, sealer: &Arc<Sealer>, env: &BTreeMap<String, String>) -> Result<Option<Objects>> {
    let Some(address) = &places.objects else { return Ok(None) };
    let aws = env.iter().filter(|it| it.0.starts_with("AWS_")).map(|(name, value)| (name.clone(), value.clone()));
    let objects = Objects::open(address, aws, store.clone(), sealer.clone());
    Ok(Some(objects.with_context(|| format!("server.objects: {address}"))?))
}

/// What the server does beside its calls.
pub(crate) fn beside(
    places: &Places,
    store: &Store,
    recording_days: Option<u32>,
    rest: Option<Rest>,
    calls_apart: Duration,
    env: &BTreeMap<String, String>,
) -> Result<Beside> {
    let sealer = sealer(places)?;
    Ok(Beside { objects: objects(places, store, &sealer, env)?, recording_days, sealer, rest, calls_apart })
}

pub(crate) async fn list_nodes(file: &Path) -> Result<()> {
    for it in open(file).await?.nodes().await? {
        let state = if it.draining { "shutting down" } else { "taking calls" };
        let address = it.address.unwrap_or_default();
        println!(
            "{}  {state}, {} calls, heard of {} ms ago, version {}, {address}",
            it.id,
            it.live.len(),
            it.silent_ms,
            it.version
        );
    }
    Ok(())
}

pub(crate) async fn list_recordings(file: &Path, tenant: &str, call: &str, minutes: u64) -> Result<()> {
    let places = places(file)?;
    let (store, sealer) = (Store::open(places.database_url.expose_secret()).await?, sealer(&places)?);
    let env = environment();
    let objects = objects(&places, &store, &sealer, &env)?;
    let now = jiff::Timestamp::now().as_second();
    for it in store.tenant(tenant).recordings(call).await? {
        match (it.location.strip_prefix("object:"), &objects) {
            (Some(id), Some(objects)) => {
                let object = objects.find(tenant, id).await?;
                let ticket = objects.ticket(&object, now, std::time::Duration::from_secs(60 * minutes));
                println!("stream {}  {:.1} s  {}/files/{ticket}", it.epoch, it.length_ms as f64 / 1000.0, places.public_url);
            }
            _ => println!("stream {}  {:.1} s  {}", it.epoch, it.length_ms as f64 / 1000.0, it.location),
        }
    }
    Ok(())
}

pub(crate) async fn order(file: &Path, tenant: &str, call: &str, what: &str) -> Result<()> {
    let control: LiveControl = what.parse().map_err(anyhow::Error::msg)?;
    let (store, id) = (open(file).await?, uuid::Uuid::now_v7().to_string());
    desk::order(&store, None, tenant, &CallId(call.into()), &id, control).await?;
    println!("done");
    Ok(())
}

pub(crate) async fn erase(file: &Path, tenant: &str, number: &str) -> Result<()> {
    anyhow::ensure!(number.starts_with('+'), "`{number}` is not E.164: expected a number such as +40312345678");
    let places = places(file)?;
    let (store, sealer) = (Store::open(places.database_url.expose_secret()).await?, sealer(&places)?);
    let env = environment();
    let objects = objects(&places, &store, &sealer, &env)?;
    let objects = objects.context("server.objects is none: recordings are plain files, which must be deleted by hand")?;
    let (calls, files) = objects.erase(tenant, number).await?;
    println!("erased from {calls} calls, {files} files deleted");
    Ok(())
}

pub(crate) async fn show_configuration(file: &Path, tenant: &str, version: Option<u64>) -> Result<()> {
    let found = open(file).await?.tenant(tenant).configuration(version).await?;
    let it = found.with_context(|| format!("the tenant {tenant} has published no such configuration"))?;
    let document: serde_json::Value = serde_json::from_str(&it.body)?;
    println!("{}", serde_json::to_string_pretty(&document)?);
    Ok(())
}

pub(crate) async fn list_configurations(file: &Path, tenant: &str) -> Result<()> {
    for it in open(file).await?.tenant(tenant).configurations(100).await? {
        println!("{:>5}  {}  {}", it.version, jiff::Timestamp::from_millisecond(it.at_ms)?, it.author);
    }
    Ok(())
}

/// Checks a tenant's document against everything that this server is set up with, and publishes it.
pub(crate) async fn publish(file: &Path, tenant: &str, document: &Path, follows: Option<u64>, dry_run: bool) -> Result<()> {
    let env = environment();
    let (text, name) = (settings_file(file)?, file.display().to_string());
    let config = config::load(text.as_deref().map(|it| (name.as_str(), it)), &env)?;
    let name = document.display().to_string();
    let text = std::fs::read_to_string(document).with_context(|| format!("{name} cannot be read"))?;
    let json = document.extension().is_some_and(|it| it == "json");
    let read = if json { Document::read(&text) } else { toml::from_str(&text).map_err(|error| error.to_string()) };
    let document = read.map_err(|problem| anyhow::anyhow!("{name}: {problem}"))?;
    let configuration = Configuration::new(&config.settings, config.places.data_dir.join("configuration.json"));
    if let Err(problems) = configuration.check(tenant, &document) {
        anyhow::bail!("{name} cannot be published:\n  {}", problems.join("\n  "));
    }
    let body = serde_json::to_string(&document)?;
    Document::read(&body).map_err(|problem| anyhow::anyhow!("{name} cannot be published: {problem}"))?;
    if dry_run {
        println!("{} numbers, {} assistants: nothing is wrong", document.numbers.len(), document.assistants.len());
        return Ok(());
    }
    let store = Store::open(config.places.database_url.expose_secret()).await?;
    let numbers: Vec<(&str, bool)> = document.numbers.iter().map(|(number, it)| (number.as_str(), it.active)).collect();
    let new = NewConfiguration { author: "operator", body: &body, numbers: &numbers, calls_max: document.calls_max, follows };
    let version = store.tenant(tenant).publish(&new).await?;
    println!("published as version {version}");
    Ok(())
}

pub(crate) async fn list_endpoints(file: &Path, tenant: &str) -> Result<()> {
    for it in open(file).await?.tenant(tenant).endpoints().await? {
        let events = if it.events.is_empty() { "all events".to_owned() } else { it.events.join(" ") };
        println!("{}  {}  {events}  {}", it.id, it.url, it.paused_reason.map_or_else(String::new, |it| format!("paused: {it}")));
    }
    Ok(())
}

pub(crate) async fn add_endpoint(file: &Path, tenant: &str, url: &str, events: &[String]) -> Result<()> {
    desk::check_endpoint(url).map_err(|expected| anyhow::anyhow!("`{url}` is not usable: {expected}"))?;
    let places = places(file)?;
    let store = Store::open(places.database_url.expose_secret()).await?;
    let events: Vec<&str> = events.iter().map(String::as_str).collect();
    let (id, secret) = store.tenant(tenant).add_endpoint(url, &events, sealer(&places)?.as_ref()).await?;
    println!("{id}\nsecret, shown this once: {secret}");
    Ok(())
}

pub(crate) async fn remove_endpoint(file: &Path, tenant: &str, id: &str) -> Result<()> {
    anyhow::ensure!(open(file).await?.tenant(tenant).remove_endpoint(id).await?, "the tenant has no endpoint {id}");
    println!("done");
    Ok(())
}

pub(crate) async fn resume_endpoint(file: &Path, tenant: &str, id: &str) -> Result<()> {
    anyhow::ensure!(open(file).await?.tenant(tenant).resume_endpoint(id).await?, "the tenant has no endpoint {id}");
    println!("done");
    Ok(())
}

pub(crate) async fn replay(file: &Path, tenant: &str, id: &str, from: jiff::Timestamp) -> Result<()> {
    let again = open(file).await?.tenant(tenant).replay(id, from.as_millisecond()).await?;
    println!("{again} events are sent again");
    Ok(())
}

pub(crate) async fn migrate(file: &Path, to: Option<i64>) -> Result<()> {
    let Places { data_dir, database_url, .. } = places(file)?;
    if let Some(to) = to {
        anyhow::ensure!((0..=store::NEWEST).contains(&to), "there is no version {to}: expected 0 to {}", store::NEWEST);
    }
    std::fs::create_dir_all(&data_dir).with_context(|| format!("the data folder {} cannot be made", data_dir.display()))?;
    let (before, after) = Store::migrate(database_url.expose_secret(), to).await?;
    println!("schema: version {before} → {after} (this offhook needs {})", store::NEWEST);
    Ok(())
}

pub(crate) async fn open(file: &Path) -> Result<Store> {
    Ok(Store::open(places(file)?.database_url.expose_secret()).await?)
}

pub(crate) async fn list_jobs(file: &Path, state: Option<&str>, limit: u32) -> Result<()> {
    let jobs = open(file).await?.all_jobs(state, limit).await?;
    if jobs.is_empty() {
        println!("no jobs");
    }
    for it in jobs {
        let at = jiff::Timestamp::from_millisecond(it.run_at_ms).map_or_else(|_| "never".into(), |it| format!("{it:.0}"));
        let problem = it.problem.map(|it| format!("  {it}")).unwrap_or_default();
        println!("{}  {:<9}  {at}  {} of {}  {}  {}{problem}", it.id, it.state, it.attempts, it.attempts_max, it.tenant, it.kind);
    }
    Ok(())
}

/// What can be done to a job.
#[derive(Clone, Copy)]
pub(crate) enum Steering {
    Retry,
    Cancel,
}

pub(crate) async fn steer_job(file: &Path, id: &str, how: Steering) -> Result<()> {
    let store = open(file).await?;
    let job = store.find_job(id).await?.with_context(|| format!("there is no job {id}: `offhook jobs list` shows them"))?;
    let scope = store.tenant(&job.tenant);
    let done = match how {
        Steering::Retry => scope.retry_job(id).await?,
        Steering::Cancel => scope.cancel_job(id).await?,
    };
    anyhow::ensure!(done, "that cannot be done to a job that is {}", job.state);
    println!("done");
    Ok(())
}

pub(crate) fn cat(file: &Path, folder: Option<PathBuf>, call: Option<&str>) -> Result<()> {
    let folder = match folder {
        Some(folder) => folder,
        None => places(file)?.data_dir.join("journal"),
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut at = store::Position::default();
    loop {
        let (entries, next) =
            store::read_journal(&folder, at).with_context(|| format!("the journal {} cannot be read", folder.display()))?;
        if next == at {
            break;
        }
        at = next;
        for entry in entries.iter().filter(|it| call.is_none_or(|call| it.call == call)) {
            let written = writeln!(out, "{}", serde_json::to_string(entry)?);
            // Whoever reads has seen enough.
            if written.is_err() {
                return Ok(());
            }
        }
    }
    match out.flush() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
