//! Work that comes again and again, at times of a calendar.

use std::str::FromStr as _;

use croner::Cron;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::{NewJob, enqueue};
use crate::db::{StoreError, Wall, values};
use crate::{Scope, Store};

/// A schedule that can never work.
#[derive(Debug, thiserror::Error)]
pub enum BadSchedule {
    #[error("`{cron}` is no cron pattern: {problem}; expected five fields such as `0 3 * * 1-5`")]
    Pattern { cron: String, problem: String },
    #[error("`{0}` is no time zone: expected a name such as Europe/Bucharest")]
    Zone(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// When a job comes again.
#[derive(Clone, Debug)]
pub struct Schedule<'a> {
    /// One of its name in a tenant.
    pub name: &'a str,
    pub kind: &'a str,
    pub body: &'a str,
    /// Minute, hour, day of the month, month, day of the week.
    pub cron: &'a str,
    /// By whose clock.
    pub time_zone: &'a str,
}

/// The first moment after `after_ms` that a pattern names. Times that a change of clocks leaves out come right after it; those
/// that it brings twice come once.
fn next_ms(cron: &str, time_zone: &str, after_ms: i64) -> Result<i64, BadSchedule> {
    let bad = |problem: String| BadSchedule::Pattern { cron: cron.to_owned(), problem };
    let pattern = Cron::from_str(cron).map_err(|error| bad(error.to_string()))?;
    let zone = TimeZone::get(time_zone).map_err(|_| BadSchedule::Zone(time_zone.to_owned()))?;
    let after = Timestamp::from_millisecond(after_ms).map_err(|error| bad(error.to_string()))?.to_zoned(zone);
    let next = pattern.find_next_occurrence(&after, false).map_err(|error| bad(error.to_string()))?;
    Ok(next.timestamp().as_millisecond())
}

impl Scope<'_> {
    /// Sets up a schedule, or changes it.
    ///
    /// # Errors
    /// [`BadSchedule`]
    pub async fn schedule(&self, it: &Schedule<'_>) -> Result<(), BadSchedule> {
        let mut tx = self.write().await?;
        let next = next_ms(it.cron, it.time_zone, tx.now_ms().await?)?;
        let sql =
            "INSERT INTO schedules (tenant, name, kind, body, cron, time_zone, next_at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7)
            ON CONFLICT (tenant, name) DO UPDATE SET kind = excluded.kind, body = excluded.body, cron = excluded.cron,
                time_zone = excluded.time_zone, next_at_ms = excluded.next_at_ms";
        tx.execute(sql, values![self.tenant, it.name, it.kind, it.body, it.cron, it.time_zone, next]).await?;
        Ok(tx.commit().await?)
    }

    /// Ends a schedule; `false` when there is none of that name.
    pub async fn unschedule(&self, name: &str) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let gone = tx.execute("DELETE FROM schedules WHERE tenant = $1 AND name = $2", values![self.tenant, name]).await? == 1;
        tx.commit().await?;
        Ok(gone)
    }
}

impl Store {
    /// Puts the jobs of due schedules into the queue, each once, however many nodes ask; times that were slept through count
    /// as one. Returns how many.
    pub(crate) async fn run_schedules(&self, most: u32) -> Result<u64, StoreError> {
        let mut tx = self.write(Wall::None).await?;
        let now = tx.now_ms().await?;
        let sql = "SELECT * FROM schedules WHERE next_at_ms <= $1 ORDER BY next_at_ms LIMIT $2";
        let due = tx.rows(sql, values![now, most]).await?;
        let mut begun = 0;
        for row in due {
            let (tenant, name): (String, String) = (row.get("tenant")?, row.get("name")?);
            let (cron, zone): (String, String) = (row.get("cron")?, row.get("time_zone")?);
            let at: i64 = row.get("next_at_ms")?;
            let next = match next_ms(&cron, &zone, now) {
                Ok(next) => next,
                Err(error) => {
                    tracing::error!(tenant, name, %error, "a schedule cannot be followed any more: it rests for a day");
                    now + 86_400_000
                }
            };
            let moved = "UPDATE schedules SET next_at_ms = $1 WHERE tenant = $2 AND name = $3 AND next_at_ms = $4";
            // Whoever moves it on has it.
            if tx.execute(moved, values![next, &tenant, &name, at]).await? == 1 {
                let (kind, body): (String, String) = (row.get("kind")?, row.get("body")?);
                let once = format!("schedule:{name}");
                let job = NewJob { once: Some(&once), ..NewJob::new(&kind, &body) };
                begun += u64::from(enqueue(&mut tx, &tenant, &job).await?.is_some());
            }
        }
        tx.commit().await?;
        Ok(begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    #[test]
    fn the_next_time_is_that_of_the_business_also_when_clocks_change() {
        for (cron, zone, after, next) in [
            ("0 3 * * *", "Europe/Bucharest", "2026-11-21T12:00:00Z", "2026-11-22T01:00:00Z"),
            ("30 9 * * 1-5", "Europe/Bucharest", "2026-11-20T08:00:00Z", "2026-11-23T07:30:00Z"),
            // 29 March 2026, 03:00 becomes 04:00: half past three is not there.
            ("30 3 * * *", "Europe/Bucharest", "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z"),
            ("*/15 * * * *", "UTC", "2026-11-21T12:15:00Z", "2026-11-21T12:30:00Z"),
        ] {
            assert_eq!(next_ms(cron, zone, ms(after)).unwrap(), ms(next), "{cron} {zone} after {after}");
        }
    }

    #[test]
    fn what_can_never_work_is_told_with_what_was_expected() {
        assert!(next_ms("at noon", "UTC", 0).unwrap_err().to_string().contains("five fields"));
        assert!(next_ms("0 3 * * *", "Mars/Olympus", 0).unwrap_err().to_string().contains("Europe/Bucharest"));
    }

    #[tokio::test]
    async fn a_due_schedule_begins_its_job_once_however_many_ask() {
        let folder = tempfile::tempdir().unwrap();
        let server = testbed::Postgres::start();
        for url in [format!("sqlite:{}", folder.path().join("o.db").display()), server.url(&server.database())] {
            Store::migrate(&url, None).await.unwrap();
            let store = Store::open(&url).await.unwrap();
            let scope = store.tenant("t");
            let nightly = Schedule { name: "nightly", kind: "k", body: "{}", cron: "0 3 * * *", time_zone: "Europe/Bucharest" };
            scope.schedule(&nightly).await.unwrap();
            assert!(scope.schedule(&Schedule { cron: "nonsense", ..nightly.clone() }).await.is_err());
            assert_eq!(store.run_schedules(10).await.unwrap(), 0, "it is not three o'clock");
            let mut tx = scope.write().await.unwrap();
            tx.execute("UPDATE schedules SET next_at_ms = 1", &[]).await.unwrap();
            tx.commit().await.unwrap();
            let asked = futures::future::join_all((0..8).map(|_| store.run_schedules(10))).await;
            assert_eq!(asked.into_iter().map(Result::unwrap).sum::<u64>(), 1);
            assert_eq!(scope.jobs(Some("ready"), 10).await.unwrap().len(), 1);
            assert!(scope.unschedule("nightly").await.unwrap() && !scope.unschedule("nightly").await.unwrap());
        }
    }
}
