//! The database is away under live calls (F12, F13, F21).

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use sim::Moment;
use store::Store;
use testbed::Postgres;
use tokio::time::{sleep, timeout};

use super::{APART, outcomes, progress, until};
use crate::{Cluster, Goal, Report};

/// One round of question and answer takes this long at least.
const ROUND: Duration = Duration::from_secs(5);
/// Every row is there within this time of the database's return.
const RETURN: Duration = Duration::from_secs(15);

/// How the database goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum How {
    /// Its processes stop in the midst of everything, and go on later
    Freeze,
    /// Its processes are killed, and started again later
    Kill,
    /// Frozen first, killed after half the time
    FreezeAndKill,
}

/// `calls` are live when PostgreSQL goes away for `away`; half as many ring meanwhile. Measures: calls that did not go as their
/// callers wanted, rows and transcript lines that are missing, and how soon everything is on record after its return.
///
/// # Errors
/// When something could not be started or a call does not end; goals that are missed are in the report.
pub async fn database(offhook: &Path, calls: usize, away: Duration, how: How) -> Result<Report> {
    let bar = progress();
    bar.set_message("starting PostgreSQL and a server");
    let mut postgres = tokio::task::spawn_blocking(Postgres::start).await?;
    let database = postgres.url(&postgres.database());
    Store::migrate(&database, None).await?;
    let cluster = Cluster::new(offhook, 1, Some(database)).await?;
    let server = cluster.start(0).await?;
    let rounds = 1 + (away.as_secs_f64() / ROUND.as_secs_f64()).ceil() as usize;
    let story = |rounds: usize| {
        let round = "say ask-hours\nhear hours\n".repeat(rounds);
        format!("hear greeting\n{round}say book\nhear booked\npress 9\nhear farewell")
    };
    // Both sides of each round, the greeting, the booking and its answer, the farewell.
    let lines = |rounds: usize| 2 * rounds + 4;
    let mut ringing = Vec::new();
    for _ in 0..calls {
        ringing.push(cluster.ring(&story(rounds))?);
        sleep(APART).await;
    }
    let heard = |it: &Moment| matches!(it, Moment::CallerHeard { utterance: Some("greeting"), .. });
    until("every caller is greeted", async || Ok(cluster.timeline.count(heard) == calls)).await?;
    bar.set_message(format!("{calls} live calls; the database goes away"));
    match how {
        How::Freeze | How::FreezeAndKill => postgres.freeze(),
        How::Kill => postgres.kill(),
    }
    let gone = Instant::now();
    let late = calls / 2;
    for _ in 0..late {
        ringing.push(cluster.ring(&story(1))?);
        sleep((away / 2 / late as u32).min(Duration::from_secs(1))).await;
    }
    sleep((away / 2).saturating_sub(gone.elapsed())).await;
    if how == How::FreezeAndKill {
        postgres.kill();
    }
    sleep(away.saturating_sub(gone.elapsed())).await;
    let back = move |mut postgres: Postgres| {
        match how {
            How::Freeze => postgres.thaw(),
            How::Kill | How::FreezeAndKill => postgres.restart(),
        }
        postgres
    };
    let postgres = tokio::task::spawn_blocking(move || back(postgres)).await?;
    let returned = Instant::now();
    bar.set_message(format!("the database is back after {:.0?}", gone.elapsed()));
    // The pool's connections may have died with the server: asking is how it finds out.
    let store = cluster.open().await?;
    let answered = async || store.tenant("default").calls(u32::MAX).await.unwrap_or_default();
    let caught_up = timeout(RETURN * 4, async {
        while answered().await.len() < calls + late {
            sleep(Duration::from_millis(50)).await;
        }
        returned.elapsed()
    });
    let caught_up = caught_up.await.unwrap_or(RETURN * 4);
    bar.set_message("waiting for the calls to end");
    let outcomes = outcomes(ringing, 2 * away).await?;
    cluster.end(server).await?;
    let mut missing = (0, 0);
    for call in answered().await {
        missing.0 += usize::from(call.status != "completed" || call.end_reason.as_deref() != Some("assistant_hung_up"));
        let found = store.tenant("default").transcript(&call.id).await?.len();
        // Those that rang meanwhile had one round.
        let wanted = if found > lines(1) { lines(rounds) } else { lines(1) };
        missing.1 += wanted.saturating_sub(found);
    }
    let rows = answered().await.len();
    store.close().await;
    let torn = outcomes.iter().filter(|it| !super::is_whole(it) || it.streams != 1).count();
    let mut report =
        Report::new(format!("PostgreSQL away for {:.0} s ({how:?}): {calls} live calls, {late} more ring", away.as_secs_f64()));
    report.count("calls that did not go as callers wanted", torn, Some(Goal::AtMost(0.0)));
    report.count("calls on record", rows, Some(Goal::AtLeast((calls + late) as f64)));
    report.count("calls whose end is not on record", missing.0, Some(Goal::AtMost(0.0)));
    report.count("transcript lines missing", missing.1, Some(Goal::AtMost(0.0)));
    report.time("from its return to the last call's row", caught_up, Some(RETURN));
    report.time("callers late by at most", cluster.lateness(), None);
    if !report.holds() {
        report.note(cluster.said(0));
        report.notes.extend(outcomes.iter().filter(|it| !super::is_whole(it)).take(3).map(|it| format!("{it:?}")));
    }
    bar.finish_and_clear();
    drop(postgres);
    Ok(report)
}
