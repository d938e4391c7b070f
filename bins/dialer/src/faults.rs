//! Something breaks under live calls. Each run starts what it needs, rings, breaks, waits until all calls are over, and reads
//! back what is on record.

mod database;
mod kill9;
mod objects;

use std::time::Duration;

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressStyle};
use sim::CallOutcome;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

pub use database::{How, database};
pub use kill9::{LOST_AND_RESUMED, kill9};
pub use objects::objects;

/// Longest wait for anything to become true.
const PATIENCE: Duration = Duration::from_secs(60);
/// Callers ring so far apart.
const APART: Duration = Duration::from_millis(50);
/// Longest call beyond what its script says.
const CALL_MAX: Duration = Duration::from_secs(120);

/// What is done at the moment, on a terminal.
fn progress() -> ProgressBar {
    let style = ProgressStyle::with_template("{elapsed:>4} {spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    let bar = ProgressBar::new_spinner().with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Waits until something is true.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let waiting = async {
        while !holds().await? {
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    };
    timeout(PATIENCE, waiting).await.with_context(|| format!("within {} s not so: {what}", PATIENCE.as_secs()))?
}

/// Waits until calls are over.
async fn outcomes(calls: Vec<JoinHandle<CallOutcome>>, longest: Duration) -> Result<Vec<CallOutcome>> {
    let all = timeout(longest + CALL_MAX, futures::future::try_join_all(calls));
    Ok(all.await.context("a call does not end")??)
}

/// Whether a call went as its caller wanted.
fn is_whole(it: &CallOutcome) -> bool {
    it.status == "completed" && it.steps.0 == it.steps.1
}
