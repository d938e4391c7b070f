//! Commands about the data of a server: its schema, its journal.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use offhook::config::{self, Places};
use secrecy::ExposeSecret as _;
use store::Store;

/// The text of a settings file, if there is one.
pub(crate) fn settings_file(file: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{} cannot be read", file.display())),
    }
}

fn places(file: &Path) -> Result<Places> {
    let env: BTreeMap<String, String> = std::env::vars().collect();
    let text = settings_file(file)?;
    let name = file.display().to_string();
    Ok(config::places(text.as_deref().map(|it| (name.as_str(), it)), &env)?)
}

pub(crate) async fn migrate(file: &Path, to: Option<i64>) -> Result<()> {
    let Places { data_dir, database_url } = places(file)?;
    if let Some(to) = to {
        anyhow::ensure!((0..=store::NEWEST).contains(&to), "there is no version {to}: expected 0 to {}", store::NEWEST);
    }
    std::fs::create_dir_all(&data_dir).with_context(|| format!("the data folder {} cannot be made", data_dir.display()))?;
    let (before, after) = Store::migrate(database_url.expose_secret(), to).await?;
    println!("schema: version {before} → {after} (this offhook needs {})", store::NEWEST);
    Ok(())
}

async fn open(file: &Path) -> Result<Store> {
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
