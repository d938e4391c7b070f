//! One of two servers on one PostgreSQL dies with its live calls.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use sim::Moment;
use store::{Line, Store};
use testbed::Postgres;
use tokio::time::sleep;

use super::{APART, outcomes, progress, until};
use crate::report::percentile;
use crate::{Cluster, Goal, Report};

/// A caller who loses the line in the middle of an answer and goes on.
pub const LOST_AND_RESUMED: &str = "
    hear greeting
    say ask-hours
    hear resumed
    say book
    hear booked
    press 9
    hear farewell
";
/// Longest silence, at the 95th percentile.
const GAP: Duration = Duration::from_secs(3);

/// `calls` ring two servers in turn; when all are being answered one server is killed (SIGKILL). Measures: of the killed
/// server's calls how many went on with the other one, how long callers heard nothing, acknowledged transcript lines that are
/// gone, tools that ran twice.
///
/// # Errors
/// When something could not be started or a call does not end; goals that are missed are in the report.
pub async fn kill9(offhook: &Path, calls: usize) -> Result<Report> {
    let bar = progress();
    bar.set_message("starting PostgreSQL and two servers");
    let postgres = tokio::task::spawn_blocking(Postgres::start).await?;
    let database = postgres.url(&postgres.database());
    Store::migrate(&database, None).await?;
    let cluster = Cluster::new(offhook, 2, Some(database)).await?;
    let mut servers = vec![cluster.start(0).await?, cluster.start(1).await?];
    let mut ringing = Vec::new();
    for _ in 0..calls {
        ringing.push(cluster.ring(LOST_AND_RESUMED)?);
        sleep(APART).await;
    }
    let store = cluster.open().await?;
    let mut before = Vec::new();
    bar.set_message(format!("{calls} calls ring"));
    until("every call is answered, on record, and spoken to", async || {
        let speaking = cluster.timeline.count(|it| matches!(it, Moment::SpeaksTo { utterance: "hours" }));
        before = lines(&store).await?;
        Ok(speaking == calls && before.len() == calls && before.iter().all(|it| it.1.len() >= 2))
    })
    .await?;
    let owners: Vec<String> = store.tenant("default").calls(u32::MAX).await?.into_iter().map(|it| it.owner_node).collect();
    let of = |node: usize| owners.iter().filter(|it| **it == format!("node-{node}")).count();
    // The one with more: the balancer may have given all calls to either.
    let node = usize::from(of(1) > of(0));
    let of_killed = of(node);
    let mut killed = servers.remove(node);
    let survivor = servers.remove(0);
    bar.set_message(format!("a server with {of_killed} live calls is killed"));
    // tokio's kill is SIGKILL.
    killed.kill().await?;
    let outcomes = outcomes(ringing, Duration::from_secs(60)).await?;
    cluster.end(survivor).await?;
    let after = lines(&store).await?;
    let is_there = |(call, line): (&String, &Line)| after.iter().any(|it| it.0 == *call && it.1.contains(line));
    let lost = before.iter().flat_map(|it| it.1.iter().map(|line| (&it.0, line))).filter(|it| !is_there(*it)).count();
    let mut repeated = 0;
    for (call, _) in &before {
        repeated += store.tenant("default").tool_calls(call).await?.len().saturating_sub(1);
    }
    store.close().await;
    let went_on: Vec<_> = outcomes.iter().filter(|it| it.streams == 2 && super::is_whole(it)).collect();
    let gaps: Vec<Duration> = went_on.iter().flat_map(|it| it.gaps.iter().copied()).collect();
    let mut report = Report::new(format!("SIGKILL of one of two servers, {calls} calls on both"));
    report.count("live calls on the killed server", of_killed, Some(Goal::AtLeast(1.0)));
    report.count("of them went on with the other server", went_on.len(), Some(Goal::AtLeast((of_killed as f64 * 0.99).ceil())));
    report.time("silence, p50", percentile(&gaps, 0.5), None);
    report.time("silence, p95", percentile(&gaps, 0.95), Some(GAP));
    report.time("silence, longest", percentile(&gaps, 1.0), None);
    report.count("acknowledged lines lost", lost, Some(Goal::AtMost(0.0)));
    report.count("tools run twice", repeated, Some(Goal::AtMost(0.0)));
    report.time("callers late by at most", cluster.lateness(), None);
    if !report.holds() {
        report.note(cluster.said(1 - node));
    }
    bar.finish_and_clear();
    Ok(report)
}

async fn lines(store: &Store) -> Result<Vec<(String, Vec<Line>)>> {
    let mut lines = Vec::new();
    for call in store.tenant("default").calls(u32::MAX).await? {
        let said = store.tenant("default").transcript(&call.id).await?;
        lines.push((call.id, said));
    }
    Ok(lines)
}
