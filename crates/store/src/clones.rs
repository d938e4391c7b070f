//! Calls whose voice is cloned before the caller is connected: the table of the product that came before, with its columns.

use crate::db::{Row, StoreError, Wall, values};
use crate::{Scope, Store};

/// How far a clone is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloneStatus {
    Processing,
    Completed,
    Failed,
}

impl CloneStatus {
    /// As it is stored.
    pub fn name(self) -> &'static str {
        match self {
            Self::Processing => "processing",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Processing, Self::Completed, Self::Failed].into_iter().find(|it| it.name() == name)
    }
}

/// A call with its clone.
#[derive(Clone, PartialEq, Eq)]
pub struct CloneRow {
    pub call_sid: String,
    pub caller_number: Option<String>,
    pub twilio_number: Option<String>,
    pub status: CloneStatus,
    pub voice_clone_id: Option<String>,
    pub sample_size_bytes: Option<u64>,
    pub error: Option<String>,
    pub retry_count: u32,
    /// JSON.
    pub clone_metadata: Option<String>,
    /// Unix milliseconds.
    pub created_at: i64,
    pub updated_at: i64,
}

/// What became of an attempt to clone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloneOutcome<'a> {
    /// The voice is there, under this id.
    Completed { voice: &'a str, metadata: Option<&'a str> },
    /// It failed for good.
    Failed { error: &'a str },
    /// It failed and is tried again.
    Retried { error: &'a str },
}

fn clone_row(row: &Row) -> Result<CloneRow, StoreError> {
    let status: String = row.get("status")?;
    Ok(CloneRow {
        call_sid: row.get("call_sid")?,
        caller_number: row.get("caller_number")?,
        twilio_number: row.get("twilio_number")?,
        status: CloneStatus::from_name(&status).ok_or_else(|| StoreError::Row(format!("status = {status}")))?,
        voice_clone_id: row.get("voice_clone_id")?,
        sample_size_bytes: row.get("sample_size_bytes")?,
        error: row.get("error")?,
        retry_count: row.get("retry_count")?,
        clone_metadata: row.get("clone_metadata")?,
        created_at: row.get("created_at")?,
        updated_at: row.get("updated_at")?,
    })
}

impl Scope<'_> {
    /// Notes a call whose voice is about to be cloned. Noting it again changes nothing. `false` when it was noted before.
    pub async fn save_clone_call(
        &self,
        call_sid: &str,
        caller_number: Option<&str>,
        twilio_number: Option<&str>,
        sample_size_bytes: Option<u64>,
    ) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let now = tx.now_ms().await?;
        let sql = "INSERT INTO voice_clone_calls (call_sid, tenant, caller_number, twilio_number, status, sample_size_bytes, retry_count,
                created_at, updated_at) VALUES ($1, $2, $3, $4, 'processing', $5, 0, $6, $6) ON CONFLICT DO NOTHING";
        let values = values![call_sid, self.tenant, caller_number, twilio_number, sample_size_bytes, now];
        let fresh = tx.execute(sql, values).await? == 1;
        tx.commit().await?;
        Ok(fresh)
    }

    /// Notes what became of it. `false` when there is no such call, or it is over already: the first end stands.
    pub async fn update_clone(&self, call_sid: &str, outcome: CloneOutcome<'_>) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let now = tx.now_ms().await?;
        let (status, voice, metadata, error, retried) = match outcome {
            CloneOutcome::Completed { voice, metadata } => (CloneStatus::Completed, Some(voice), metadata, None, 0),
            CloneOutcome::Failed { error } => (CloneStatus::Failed, None, None, Some(error), 0),
            CloneOutcome::Retried { error } => (CloneStatus::Processing, None, None, Some(error), 1),
        };
        let sql = "UPDATE voice_clone_calls SET status = $1, voice_clone_id = COALESCE($2, voice_clone_id),
                clone_metadata = COALESCE($3, clone_metadata), error = $4, retry_count = retry_count + $5, updated_at = $6
            WHERE tenant = $7 AND call_sid = $8 AND status = 'processing'";
        let values = values![status.name(), voice, metadata, error, retried, now, self.tenant, call_sid];
        let changed = tx.execute(sql, values).await? == 1;
        tx.commit().await?;
        Ok(changed)
    }

    /// How far the clone of a call is.
    pub async fn clone_call(&self, call_sid: &str) -> Result<Option<CloneRow>, StoreError> {
        // Rows of an adopted table may lack times.
        let sql = "SELECT call_sid, caller_number, twilio_number, status, voice_clone_id, sample_size_bytes, error, retry_count,
                clone_metadata, COALESCE(created_at, 0) AS created_at, COALESCE(updated_at, created_at, 0) AS updated_at
            FROM voice_clone_calls WHERE tenant = $1 AND call_sid = $2";
        self.ask().await?.row(sql, values![self.tenant, call_sid]).await?.map(|it| clone_row(&it)).transpose()
    }
}

impl Store {
    /// Clones that nobody has worked on for so long were under way when their process died: they have failed, and their
    /// callers must not wait for them. Returns how many.
    pub async fn fail_stale_clones(&self, silent_ms: i64) -> Result<u64, StoreError> {
        let mut tx = self.write(Wall::None).await?;
        let now = tx.now_ms().await?;
        let sql = "UPDATE voice_clone_calls SET status = 'failed', error = 'the process that cloned it died', updated_at = $1
            WHERE status = 'processing' AND COALESCE(updated_at, created_at, 0) < $2";
        let failed = tx.execute(sql, values![now, now - silent_ms]).await?;
        tx.commit().await?;
        Ok(failed)
    }
}
