//! Who does the jobs.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{JobRow, LEASE_MS};
use crate::db::{StoreError, values};
use crate::{Scope, Store, Topic};

/// Pause between two looks at the queue when nobody says that there is something.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Schedules begun at a time.
const SCHEDULES_MAX: u32 = 100;

/// Why a job was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It may work later.
    Later(String),
    /// It never will.
    Never(String),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Later(error.to_string())
    }
}

/// Does jobs of one kind.
pub trait Handler: Send + Sync {
    fn kind(&self) -> &str;
    /// Jobs of this kind at a time, in this process.
    fn at_a_time(&self) -> usize;
    /// Does a job. It may have been done in part before: see [`Work::step`] and [`Work::intend`].
    fn run(&self, work: Work) -> BoxFuture<'static, Result<(), Failure>>;
}

/// Whether something that cannot be undone was done before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Never: do it now.
    Fresh,
    /// Done, with this outcome.
    Done(String),
    /// It was about to be done when its worker died: ask the other side, and do not guess.
    Unclear,
}

/// A job in its worker's hands.
pub struct Work {
    job: JobRow,
    store: Store,
}

impl Work {
    pub fn job(&self) -> &JobRow {
        &self.job
    }

    /// The database, as the job's tenant sees it.
    pub fn scope(&self) -> Scope<'_> {
        self.store.tenant(&self.job.tenant)
    }

    /// What is to be done.
    ///
    /// # Errors
    /// [`Failure::Never`] for a body that is not understood.
    pub fn body<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_str(&self.job.body).map_err(|error| Failure::Never(format!("the job's body is not understood: {error}")))
    }

    /// Does a step, unless an earlier attempt has: then its result is that of then.
    ///
    /// # Errors
    /// Those of the step; [`Failure::Later`] when the job is no more this worker's.
    pub async fn step<T, F>(&mut self, name: &str, step: impl FnOnce() -> F) -> Result<T, Failure>
    where
        T: Serialize + DeserializeOwned,
        F: Future<Output = Result<T, Failure>>,
    {
        let known = self.job.steps.get(name).cloned();
        if let Some(result) = known.and_then(|it| serde_json::from_value(it).ok()) {
            return Ok(result);
        }
        let result = step().await?;
        let json = serde_json::to_value(&result).map_err(|error| Failure::Never(error.to_string()))?;
        self.job.steps.insert(name.to_owned(), json);
        let steps = serde_json::to_string(&self.job.steps).map_err(|error| Failure::Never(error.to_string()))?;
        if !self.store.note_steps(&self.job, &steps).await? {
            return Err(Failure::Later("the job was taken from its worker".into()));
        }
        Ok(result)
    }

    /// Notes that something is about to be done that must not be done twice. `key` names it among all that the tenant's jobs
    /// ever do.
    pub async fn intend(&self, key: &str) -> Result<Intent, Failure> {
        Ok(self.scope().intend(key).await?)
    }

    /// Notes that it was done.
    pub async fn intended(&self, key: &str, outcome: &str) -> Result<(), Failure> {
        Ok(self.scope().intended(key, outcome).await?)
    }

    /// Notes that it was certainly not done.
    pub async fn abandoned(&self, key: &str) -> Result<(), Failure> {
        Ok(self.scope().abandoned(key).await?)
    }
}

impl Scope<'_> {
    /// See [`Work::intend`].
    pub async fn intend(&self, key: &str) -> Result<Intent, StoreError> {
        let mut tx = self.write().await?;
        let now = tx.now_ms().await?;
        let sql = "INSERT INTO intents (tenant, key, at_ms) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
        if tx.execute(sql, values![self.tenant, key, now]).await? == 1 {
            tx.commit().await?;
            return Ok(Intent::Fresh);
        }
        let sql = "SELECT finished_at_ms, outcome FROM intents WHERE tenant = $1 AND key = $2";
        let row = tx.row(sql, values![self.tenant, key]).await?;
        let row = row.ok_or_else(|| StoreError::Row("an intent that is there and is not".into()))?;
        let outcome: Option<String> = row.get("outcome")?;
        Ok(match row.get::<Option<i64>>("finished_at_ms")? {
            Some(_) => Intent::Done(outcome.unwrap_or_default()),
            None => Intent::Unclear,
        })
    }

    /// See [`Work::intended`].
    pub async fn intended(&self, key: &str, outcome: &str) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let now = tx.now_ms().await?;
        let sql =
            "UPDATE intents SET finished_at_ms = $1, outcome = $2 WHERE tenant = $3 AND key = $4 AND finished_at_ms IS NULL";
        tx.execute(sql, values![now, outcome, self.tenant, key]).await?;
        tx.commit().await
    }

    /// See [`Work::abandoned`].
    pub async fn abandoned(&self, key: &str) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let sql = "DELETE FROM intents WHERE tenant = $1 AND key = $2 AND finished_at_ms IS NULL";
        tx.execute(sql, values![self.tenant, key]).await?;
        tx.commit().await
    }
}

/// The workers of a process.
pub struct Workers {
    store: Store,
    /// Of this process and no other.
    name: String,
    handlers: HashMap<String, Arc<dyn Handler>>,
    lease_ms: i64,
}

impl Workers {
    /// Workers of a node.
    pub fn new(store: Store, node: &str, handlers: Vec<Arc<dyn Handler>>) -> Self {
        let handlers = handlers.into_iter().map(|it| (it.kind().to_owned(), it)).collect();
        Self { store, name: format!("{node}/{}", uuid::Uuid::now_v7()), handlers, lease_ms: LEASE_MS }
    }

    /// Another lease than a minute: for tests that kill workers.
    #[must_use]
    pub fn with_lease(self, lease: Duration) -> Self {
        Self { lease_ms: lease.as_millis() as i64, ..self }
    }

    /// Does jobs until it is stopped, then finishes those that it has.
    pub async fn run(self, stop: CancellationToken) {
        let this = Arc::new(self);
        let mut running: JoinSet<String> = JoinSet::new();
        let mut busy: HashMap<String, usize> = HashMap::new();
        let mut hints = this.store.hints(Topic::Jobs);
        while !stop.is_cancelled() {
            match this.look(&busy).await {
                Ok(jobs) => {
                    for job in jobs {
                        *busy.entry(job.kind.clone()).or_default() += 1;
                        running.spawn(this.clone().work(job));
                    }
                }
                Err(error) => tracing::warn!(%error, "the queue of jobs cannot be looked at"),
            }
            tokio::select! {
                Some(done) = running.join_next() => Self::freed(done.ok(), &mut busy),
                () = hints.wait(LOOK_EVERY) => (),
                () = stop.cancelled() => (),
            }
            while let Some(done) = running.try_join_next() {
                Self::freed(done.ok(), &mut busy);
            }
        }
        while running.join_next().await.is_some() {}
    }

    fn freed(kind: Option<String>, busy: &mut HashMap<String, usize>) {
        if let Some(count) = kind.and_then(|it| busy.get_mut(&it)) {
            *count = count.saturating_sub(1);
        }
    }

    /// Puts back what dead workers left, begins what is scheduled, takes what is due.
    async fn look(&self, busy: &HashMap<String, usize>) -> Result<Vec<JobRow>, StoreError> {
        if !self.store.has_due_jobs().await? {
            return Ok(Vec::new());
        }
        let reaped = self.store.reap_jobs().await?;
        if reaped > 0 {
            tracing::warn!(reaped, "workers have died: their jobs are put back");
        }
        self.store.run_schedules(SCHEDULES_MAX).await?;
        let mut jobs = Vec::new();
        for (kind, handler) in &self.handlers {
            let free = handler.at_a_time().saturating_sub(busy.get(kind).copied().unwrap_or(0));
            if free > 0 {
                jobs.extend(self.store.claim_jobs(&self.name, kind, free, self.lease_ms).await?);
            }
        }
        Ok(jobs)
    }

    /// Does one job; returns its kind.
    async fn work(self: Arc<Self>, job: JobRow) -> String {
        let kind = job.kind.clone();
        let Some(handler) = self.handlers.get(&kind).cloned() else { return kind };
        let work = Work { job: job.clone(), store: self.store.clone() };
        // In a task of its own: a panic is a failure like others.
        let doing = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move { handler.run(work).await }));
        tokio::pin!(doing);
        let heartbeat = Duration::from_millis((self.lease_ms / 3).max(1) as u64);
        let outcome = loop {
            tokio::select! {
                done = &mut doing => {
                    break done.unwrap_or_else(|panicked| Err(Failure::Later(format!("it panicked: {panicked}"))));
                }
                () = tokio::time::sleep(heartbeat) => match self.store.extend_job(&job, self.lease_ms).await {
                    Ok(true) => (),
                    Ok(false) => {
                        tracing::warn!(job = job.id, kind, "a job was taken away or cancelled: it is let go");
                        return kind;
                    }
                    // The lease may run out meanwhile; whoever gets the job then finds its steps and intents.
                    Err(error) => tracing::warn!(%error, job = job.id, "a job's lease cannot be extended"),
                },
            }
        };
        match &outcome {
            Ok(()) => tracing::debug!(job = job.id, kind, "a job is done"),
            Err(problem) => tracing::warn!(job = job.id, kind, attempt = job.attempts, ?problem, "a job failed"),
        }
        let finish = || async { self.store.finish_job(&job, outcome.as_ref().copied()).await };
        // A database that is away for a moment is no reason to do the job again.
        for pause in [0, 250, 1000, 5000] {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            match finish().await {
                Ok(true) => break,
                Ok(false) => {
                    tracing::warn!(job = job.id, kind, "a job ended after it was taken away");
                    break;
                }
                Err(error) => tracing::warn!(%error, job = job.id, "the end of a job cannot be noted"),
            }
        }
        kind
    }
}
