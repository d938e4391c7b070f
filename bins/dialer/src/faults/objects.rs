//! The place where recordings are kept is away under live calls (F15).

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use sim::Moment;
use testbed::S3;
use tokio::time::{sleep, timeout};

use super::{APART, outcomes, progress, until};
use crate::{Cluster, Goal, Report};

const STORY: &str = "hear greeting\nsay book\nhear booked\npress 9\nhear farewell";
/// Jobs that failed wait at most this long before they are tried again.
const RETRY_MAX: Duration = Duration::from_secs(600);

/// `calls` ring while the bucket of their recordings refuses connections, for `away` at least. Measures: calls that did not go as
/// their callers wanted, recordings on disk meanwhile, recordings in the bucket after its return, and how soon.
///
/// # Errors
/// When something could not be started or a call does not end; goals that are missed are in the report.
pub async fn objects(offhook: &Path, calls: usize, away: Duration) -> Result<Report> {
    let bar = progress();
    bar.set_message("starting a bucket and a server");
    let mut s3 = S3::start("recordings").await;
    let mut cluster = Cluster::new(offhook, 1, None).await?;
    cluster.objects = "s3://recordings/calls".into();
    cluster.environment = s3.options();
    let server = cluster.start(0).await?;
    let gone = Instant::now();
    s3.stop();
    bar.set_message(format!("the bucket is away; {calls} calls ring"));
    let mut ringing = Vec::new();
    for _ in 0..calls {
        ringing.push(cluster.ring(STORY)?);
        sleep(APART).await;
    }
    let outcomes = outcomes(ringing, Duration::from_secs(60)).await?;
    let store = cluster.open().await?;
    let locations = async || {
        let mut locations = Vec::new();
        for call in store.tenant("default").calls(u32::MAX).await? {
            locations.extend(store.tenant("default").recordings(&call.id).await?.into_iter().map(|it| it.location));
        }
        Ok::<_, anyhow::Error>(locations)
    };
    until("every call's end is on record", async || {
        Ok(store.tenant("default").calls(u32::MAX).await?.iter().filter(|it| it.status == "completed").count() == calls)
    })
    .await?;
    sleep(away.saturating_sub(gone.elapsed())).await;
    let on_disk = locations().await?.iter().filter(|it| Path::new(it).exists()).count();
    s3.go_on().await;
    let returned = Instant::now();
    bar.set_message(format!("the bucket is back after {:.0?}", gone.elapsed()));
    let kept = timeout(RETRY_MAX, async {
        loop {
            let kept = locations().await?.iter().filter(|it| it.starts_with("object:")).count();
            if kept == calls {
                return Ok::<_, anyhow::Error>(kept);
            }
            sleep(Duration::from_millis(100)).await;
        }
    });
    let kept = match kept.await {
        Ok(it) => it?,
        Err(_) => locations().await?.iter().filter(|it| it.starts_with("object:")).count(),
    };
    let caught_up = returned.elapsed();
    let left = std::fs::read_dir(cluster.data(0).join("recordings/default")).map_or(0, Iterator::count);
    cluster.end(server).await?;
    store.close().await;
    let torn = outcomes.iter().filter(|it| !super::is_whole(it) || it.streams != 1).count();
    let opened = cluster.timeline.count(|it| matches!(it, Moment::StreamOpened { .. }));
    let mut report = Report::new(format!("bucket away for {:.0} s: {calls} calls", away.as_secs_f64()));
    report.count("streams opened", opened, None);
    report.count("calls that did not go as callers wanted", torn, Some(Goal::AtMost(0.0)));
    report.count("recordings on disk meanwhile", on_disk, Some(Goal::AtLeast(calls as f64)));
    report.count("recordings in the bucket in the end", kept, Some(Goal::AtLeast(calls as f64)));
    report.count("files left on the disk of calls", left, Some(Goal::AtMost(0.0)));
    report.time("from its return to the last recording", caught_up, None);
    report.time("callers late by at most", cluster.lateness(), None);
    if !report.holds() {
        report.note(cluster.said(0));
    }
    bar.finish_and_clear();
    Ok(report)
}
