//! Work that must be done, whoever dies: a queue in the database.
//!
//! A job is claimed with a lease that its worker keeps extending; a worker that dies loses it, and the job is done again.
//! What a job does to the outside world is guarded by intents ([`Work::intend`]), what it has reached by steps
//! ([`Work::step`]). Times are the database's, so that nodes need not agree on theirs.

mod schedule;
mod workers;

use serde_json::{Map, Value as Json};

use crate::db::{Engine, Row, StoreError, Tx, Wall, values};
use crate::{Scope, Store, Topic};

pub use schedule::{BadSchedule, Schedule};
pub use workers::{Failure, Handler, Intent, Work, Workers};

/// Workers that died while doing one job; then it is taken for the cause.
const CRASHES_MAX: u32 = 3;
/// First and longest pause before a job is tried again.
const BACKOFF_MS: (i64, i64) = (2_000, 3_600_000);
/// How long a worker has a job without saying that it lives.
pub(crate) const LEASE_MS: i64 = 60_000;

/// A job to be done.
#[derive(Clone, Debug)]
pub struct NewJob<'a> {
    pub kind: &'a str,
    /// What is to be done; JSON.
    pub body: &'a str,
    /// The same work is there only once while it is not over.
    pub once: Option<&'a str>,
    /// Unix milliseconds; `None` at once.
    pub at_ms: Option<i64>,
    /// Higher first.
    pub priority: i64,
    pub attempts_max: u32,
}

impl<'a> NewJob<'a> {
    /// At once, with eight attempts.
    pub fn new(kind: &'a str, body: &'a str) -> Self {
        Self { kind, body, once: None, at_ms: None, priority: 0, attempts_max: 8 }
    }
}

/// A job as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRow {
    pub id: String,
    pub tenant: String,
    pub kind: String,
    pub body: String,
    /// `ready`, `running`, `done`, `dead`, `cancelled`.
    pub state: String,
    pub priority: i64,
    pub run_at_ms: i64,
    pub attempts: u32,
    pub attempts_max: u32,
    pub crashes: u32,
    pub worker: Option<String>,
    pub problem: Option<String>,
    pub created_at_ms: i64,
    pub finished_at_ms: Option<i64>,
    pub(crate) steps: Map<String, Json>,
}

fn job_row(row: &Row) -> Result<JobRow, StoreError> {
    let steps: String = row.get("steps")?;
    Ok(JobRow {
        id: row.get("id")?,
        tenant: row.get("tenant")?,
        kind: row.get("kind")?,
        body: row.get("body")?,
        state: row.get("state")?,
        priority: row.get("priority")?,
        run_at_ms: row.get("run_at_ms")?,
        attempts: row.get("attempts")?,
        attempts_max: row.get("attempts_max")?,
        crashes: row.get("crashes")?,
        worker: row.get("worker")?,
        problem: row.get("problem")?,
        created_at_ms: row.get("created_at_ms")?,
        finished_at_ms: row.get("finished_at_ms")?,
        steps: serde_json::from_str(&steps).map_err(|error| StoreError::Row(format!("steps of a job: {error}")))?,
    })
}

/// Puts a job into the queue within a transaction; `None` if the same work is there already.
pub(crate) async fn enqueue(tx: &mut Tx, tenant: &str, job: &NewJob<'_>) -> Result<Option<String>, StoreError> {
    let now = tx.now_ms().await?;
    let id = uuid::Uuid::now_v7().to_string();
    let sql = "INSERT INTO jobs (id, tenant, kind, body, once, state, priority, run_at_ms, attempts_max, created_at_ms)
        VALUES ($1, $2, $3, $4, $5, 'ready', $6, $7, $8, $9) ON CONFLICT DO NOTHING";
    let at = job.at_ms.unwrap_or(now);
    let fresh = tx
        .execute(sql, values![&id, tenant, job.kind, job.body, job.once, job.priority, at, job.attempts_max.max(1), now])
        .await?;
    Ok((fresh == 1).then_some(id))
}

/// How long a job rests after so many attempts: doubled each time, a quarter more or less, so that what failed together is
/// not tried together.
fn backoff_ms(attempts: u32) -> i64 {
    let pause = BACKOFF_MS.0.saturating_mul(1_i64 << attempts.saturating_sub(1).min(20)).min(BACKOFF_MS.1);
    pause * 3 / 4 + fastrand::i64(0..=pause / 2)
}

impl Scope<'_> {
    /// Puts a job into the queue; returns its id, or `None` if the same work is there already.
    pub async fn enqueue(&self, job: &NewJob<'_>) -> Result<Option<String>, StoreError> {
        let mut tx = self.write().await?;
        let id = enqueue(&mut tx, self.tenant, job).await?;
        tx.commit().await?;
        self.store.hint(Topic::Jobs);
        Ok(id)
    }

    /// The newest jobs, of one state if that is given.
    pub async fn jobs(&self, state: Option<&str>, limit: u32) -> Result<Vec<JobRow>, StoreError> {
        let sql = "SELECT * FROM jobs WHERE tenant = $1 AND (CAST($2 AS TEXT) IS NULL OR state = $2)
            ORDER BY created_at_ms DESC, id DESC LIMIT $3";
        self.ask().await?.rows(sql, values![self.tenant, state, limit]).await?.iter().map(job_row).collect()
    }

    /// A job by its id.
    pub async fn job(&self, id: &str) -> Result<Option<JobRow>, StoreError> {
        let sql = "SELECT * FROM jobs WHERE tenant = $1 AND id = $2";
        self.ask().await?.row(sql, values![self.tenant, id]).await?.map(|it| job_row(&it)).transpose()
    }

    /// Has a job tried again that is dead or cancelled, with as many attempts as at first; one that waits is due at once.
    /// `false` for one that runs, is done or is unknown, and where the same work is there already.
    pub async fn retry_job(&self, id: &str) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let now = tx.now_ms().await?;
        let sql =
            "UPDATE jobs SET state = 'ready', run_at_ms = $1, attempts = CASE WHEN state = 'ready' THEN attempts ELSE 0 END,
                crashes = 0, finished_at_ms = NULL
            WHERE tenant = $2 AND id = $3 AND state IN ('ready', 'dead', 'cancelled') AND NOT EXISTS (
                SELECT 1 FROM jobs other WHERE other.tenant = jobs.tenant AND other.kind = jobs.kind AND other.once = jobs.once
                    AND other.id <> jobs.id AND other.state IN ('ready', 'running'))";
        let done = tx.execute(sql, values![now, self.tenant, id]).await? == 1;
        tx.commit().await?;
        Ok(done)
    }

    /// Takes a job out of the queue; one that runs finds out when it next says that it lives. `false` for one that is over.
    pub async fn cancel_job(&self, id: &str) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let now = tx.now_ms().await?;
        let sql = "UPDATE jobs SET state = 'cancelled', worker = NULL, lease_until_ms = NULL, finished_at_ms = $1
            WHERE tenant = $2 AND id = $3 AND state IN ('ready', 'running')";
        let done = tx.execute(sql, values![now, self.tenant, id]).await? == 1;
        tx.commit().await?;
        Ok(done)
    }
}

impl Store {
    /// Jobs of all tenants, newest first: for whoever runs the server.
    pub async fn all_jobs(&self, state: Option<&str>, limit: u32) -> Result<Vec<JobRow>, StoreError> {
        let sql =
            "SELECT * FROM jobs WHERE (CAST($1 AS TEXT) IS NULL OR state = $1) ORDER BY created_at_ms DESC, id DESC LIMIT $2";
        self.ask(Wall::None).await?.rows(sql, values![state, limit]).await?.iter().map(job_row).collect()
    }

    /// A job of whatever tenant: for whoever runs the server.
    pub async fn find_job(&self, id: &str) -> Result<Option<JobRow>, StoreError> {
        let row = self.ask(Wall::None).await?.row("SELECT * FROM jobs WHERE id = $1", values![id]).await?;
        row.map(|it| job_row(&it)).transpose()
    }

    /// Whether there may be something to do: a job of any kind that is due or whose worker died, or a schedule. Asked every
    /// second by servers that mostly have nothing to do, and in one question instead of one change for each.
    pub(crate) async fn has_due_jobs(&self) -> Result<bool, StoreError> {
        let mut ask = self.ask(Wall::None).await?;
        let now = ask.now_ms().await?;
        let sql = "SELECT 1 AS due WHERE EXISTS (SELECT 1 FROM jobs WHERE state = 'ready' AND run_at_ms <= $1)
            OR EXISTS (SELECT 1 FROM jobs WHERE state = 'running' AND lease_until_ms < $1)
            OR EXISTS (SELECT 1 FROM schedules WHERE next_at_ms <= $1)";
        Ok(ask.row(sql, values![now]).await?.is_some())
    }

    /// Takes up to `most` due jobs of a kind for a worker.
    pub(crate) async fn claim_jobs(
        &self,
        worker: &str,
        kind: &str,
        most: usize,
        lease_ms: i64,
    ) -> Result<Vec<JobRow>, StoreError> {
        let mut tx = self.write(Wall::None).await?;
        let now = tx.now_ms().await?;
        let sql = match tx.engine() {
            Engine::Lite => {
                "UPDATE jobs SET state = 'running', attempts = attempts + 1, worker = $1, lease_until_ms = $2 WHERE id IN (
                    SELECT id FROM jobs WHERE state = 'ready' AND kind = $3 AND run_at_ms <= $4
                        ORDER BY priority DESC, run_at_ms, id LIMIT $5) RETURNING *"
            }
            Engine::Pg => {
                "UPDATE jobs SET state = 'running', attempts = attempts + 1, worker = $1, lease_until_ms = $2 WHERE id IN (
                    SELECT id FROM jobs WHERE state = 'ready' AND kind = $3 AND run_at_ms <= $4
                        ORDER BY priority DESC, run_at_ms, id LIMIT $5 FOR UPDATE SKIP LOCKED) RETURNING *"
            }
        };
        let rows = tx.rows(sql, values![worker, now + lease_ms, kind, now, most]).await?;
        tx.commit().await?;
        let mut jobs = rows.iter().map(job_row).collect::<Result<Vec<_>, _>>()?;
        jobs.sort_by(|a, b| (-a.priority, a.run_at_ms, &a.id).cmp(&(-b.priority, b.run_at_ms, &b.id)));
        Ok(jobs)
    }

    /// The worker lives: its job stays its own. `false` when it is no more.
    pub(crate) async fn extend_job(&self, job: &JobRow, lease_ms: i64) -> Result<bool, StoreError> {
        let mut tx = self.write(Wall::None).await?;
        let now = tx.now_ms().await?;
        let sql = "UPDATE jobs SET lease_until_ms = $1 WHERE id = $2 AND worker = $3 AND attempts = $4 AND state = 'running'";
        let ours = tx.execute(sql, values![now + lease_ms, &job.id, &job.worker, job.attempts]).await? == 1;
        tx.commit().await?;
        Ok(ours)
    }

    /// Notes what a job has reached. `false` when it is no more its worker's.
    pub(crate) async fn note_steps(&self, job: &JobRow, steps: &str) -> Result<bool, StoreError> {
        let mut tx = self.write(Wall::None).await?;
        let sql = "UPDATE jobs SET steps = $1 WHERE id = $2 AND worker = $3 AND attempts = $4 AND state = 'running'";
        let ours = tx.execute(sql, values![steps, &job.id, &job.worker, job.attempts]).await? == 1;
        tx.commit().await?;
        Ok(ours)
    }

    /// Ends a job, or puts it back. `false` when it is no more its worker's: then nothing happens.
    pub(crate) async fn finish_job(&self, job: &JobRow, outcome: Result<(), &Failure>) -> Result<bool, StoreError> {
        let mut tx = self.write(Wall::None).await?;
        let now = tx.now_ms().await?;
        let (state, problem, run_at) = match outcome {
            Ok(()) => ("done", None, job.run_at_ms),
            Err(Failure::Later(problem)) if job.attempts < job.attempts_max => {
                ("ready", Some(problem.as_str()), now + backoff_ms(job.attempts))
            }
            Err(Failure::Later(problem) | Failure::Never(problem)) => ("dead", Some(problem.as_str()), job.run_at_ms),
        };
        let finished = (state != "ready").then_some(now);
        let sql =
            "UPDATE jobs SET state = $1, problem = $2, run_at_ms = $3, finished_at_ms = $4, worker = NULL, lease_until_ms = NULL
            WHERE id = $5 AND worker = $6 AND attempts = $7 AND state = 'running'";
        let ours = tx.execute(sql, values![state, problem, run_at, finished, &job.id, &job.worker, job.attempts]).await? == 1;
        tx.commit().await?;
        Ok(ours)
    }

    /// Jobs whose workers died are put back; those that kill their workers are set aside. Returns how many.
    pub(crate) async fn reap_jobs(&self) -> Result<u64, StoreError> {
        let mut tx = self.write(Wall::None).await?;
        let now = tx.now_ms().await?;
        let sql = "UPDATE jobs SET crashes = crashes + 1, worker = NULL, lease_until_ms = NULL,
                state = CASE WHEN crashes + 1 >= $1 OR attempts >= attempts_max THEN 'dead' ELSE 'ready' END,
                finished_at_ms = CASE WHEN crashes + 1 >= $1 OR attempts >= attempts_max THEN $2 ELSE NULL END,
                problem = CASE WHEN crashes + 1 >= $1 THEN 'its worker died, several times: it may be what kills them'
                    ELSE 'its worker died' END
            WHERE state = 'running' AND lease_until_ms < $2";
        let reaped = tx.execute(sql, values![CRASHES_MAX, now]).await?;
        tx.commit().await?;
        Ok(reaped)
    }

    /// Deletes jobs that ended before a moment.
    pub async fn forget_jobs(&self, before_ms: i64) -> Result<u64, StoreError> {
        let mut tx = self.write(Wall::None).await?;
        let sql = "DELETE FROM jobs WHERE state IN ('done', 'cancelled') AND finished_at_ms < $1";
        let gone = tx.execute(sql, values![before_ms]).await?;
        tx.commit().await?;
        Ok(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_urgent_comes_first_then_what_waits_longest_and_nothing_before_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("sqlite:{}", folder.path().join("o.db").display())).await.unwrap();
        let scope = store.tenant("t");
        for (body, priority, at_ms) in [("c", 0, Some(20)), ("b", 0, Some(10)), ("a", 5, Some(30)), ("later", 9, Some(i64::MAX))]
        {
            scope.enqueue(&NewJob { priority, at_ms, ..NewJob::new("k", body) }).await.unwrap();
        }
        let claimed = store.claim_jobs("w", "k", 2, LEASE_MS).await.unwrap();
        assert_eq!(claimed.iter().map(|it| it.body.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let claimed = store.claim_jobs("w", "k", 2, LEASE_MS).await.unwrap();
        assert_eq!(claimed.iter().map(|it| it.body.as_str()).collect::<Vec<_>>(), ["c"]);
        assert!(store.claim_jobs("w", "another", 2, LEASE_MS).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn there_is_something_to_do_when_a_job_or_a_schedule_is_due_or_a_worker_died() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("sqlite:{}", folder.path().join("o.db").display())).await.unwrap();
        let scope = store.tenant("t");
        scope.enqueue(&NewJob { at_ms: Some(i64::MAX), ..NewJob::new("k", "later") }).await.unwrap();
        assert!(!store.has_due_jobs().await.unwrap());
        scope.enqueue(&NewJob { at_ms: Some(10), ..NewJob::new("k", "due") }).await.unwrap();
        assert!(store.has_due_jobs().await.unwrap());
        store.claim_jobs("w", "k", 1, LEASE_MS).await.unwrap();
        assert!(!store.has_due_jobs().await.unwrap(), "it is being done");
        scope.enqueue(&NewJob { at_ms: Some(10), ..NewJob::new("k", "lost") }).await.unwrap();
        store.claim_jobs("w", "k", 1, -LEASE_MS).await.unwrap();
        assert!(store.has_due_jobs().await.unwrap(), "its lease is over");
        assert_eq!(store.reap_jobs().await.unwrap(), 1);
        store.claim_jobs("w", "k", 1, LEASE_MS).await.unwrap();
        assert!(!store.has_due_jobs().await.unwrap());
        let mut tx = store.write(Wall::None).await.unwrap();
        let sql =
            "INSERT INTO schedules (tenant, name, kind, body, cron, time_zone, next_at_ms) VALUES ('t', 'n', 'k', '', '', '', 1)";
        tx.execute(sql, &[]).await.unwrap();
        tx.commit().await.unwrap();
        assert!(store.has_due_jobs().await.unwrap(), "a schedule is due");
    }

    #[test]
    fn pauses_double_differ_and_end() {
        for (attempts, middle) in [(1, 2_000), (2, 4_000), (5, 32_000), (12, 3_600_000), (u32::MAX, 3_600_000)] {
            for _ in 0..100 {
                let pause = backoff_ms(attempts);
                assert!((middle * 3 / 4..=middle * 5 / 4).contains(&pause), "{attempts}: {pause}");
            }
        }
    }
}
