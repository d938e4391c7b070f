//! Calls that we make: noted before they are dialled, admitted within what a tenant may spend, dialled once.

use std::time::Duration;

use crate::db::{Engine, Row, StoreError, Wall, values};
use crate::{Scope, Store};

/// A call that we make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoiceSessionRow {
    /// `vs_…`
    pub id: String,
    pub customer: Option<String>,
    /// E.164; empty once its person was erased.
    pub phone: String,
    /// Shown to whoever is called, E.164.
    pub from_number: Option<String>,
    pub agent_type: String,
    /// Twilio's and ours, once it was dialled.
    pub call_sid: Option<String>,
    pub call: Option<String>,
    /// `created`, `simulation`, or as Twilio tells it.
    pub status: String,
    /// Why it came to nothing.
    pub problem: Option<String>,
    pub consent: bool,
    /// `human`, `machine_end_beep`, … in Twilio's words.
    pub answered_by: Option<String>,
    pub duration_s: Option<u64>,
    /// Of the leg to a provider's number.
    pub dial_status: Option<String>,
    pub dial_duration_s: Option<u64>,
    pub recording_url: Option<String>,
    pub created_at_ms: i64,
    pub dialled_at_ms: Option<i64>,
    pub answered_at_ms: Option<i64>,
    pub ended_at_ms: Option<i64>,
    /// What was ordered under its key.
    pub fingerprint: Option<String>,
}

/// A call to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewSession<'a> {
    /// E.164.
    pub phone: &'a str,
    /// Id of the tenant's; without it whoever has that number, made if it is new.
    pub customer: Option<&'a str>,
    pub from_number: Option<&'a str>,
    pub agent_type: &'a str,
    pub status: &'a str,
    pub consent: bool,
    /// The same key again is the same call, if the fingerprint is the same.
    pub key: Option<(&'a str, &'a str)>,
}

/// A session that was noted now, or before under the same key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    Fresh(VoiceSessionRow),
    Before(VoiceSessionRow),
}

/// What is new about a session; what is `None` stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct VoiceSessionChange<'a> {
    pub call_sid: Option<&'a str>,
    pub call: Option<&'a str>,
    /// With its rank: one that is not further along changes nothing.
    pub status: Option<(&'a str, i64)>,
    pub problem: Option<&'a str>,
    pub answered_by: Option<&'a str>,
    pub duration_s: Option<u64>,
    pub dial_status: Option<&'a str>,
    pub dial_duration_s: Option<u64>,
    pub recording_url: Option<&'a str>,
    pub answered: bool,
    pub ended: bool,
}

/// What a tenant may do at most.
#[derive(Clone, Copy, Debug, Default)]
pub struct DialLimits {
    /// Calls that we make, at a time.
    pub live: Option<u32>,
    /// Begun within a day.
    pub in_a_day: Option<u32>,
    /// Millionths of a currency that calls begun within a day may cost at most.
    pub micros_in_a_day: Option<i64>,
    /// What this one may cost at most.
    pub reserve_micros: i64,
    /// A call that is older is over, even if nobody told.
    pub longest: Duration,
}

/// Whether a call may be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Admitted,
    /// As many as may be at a time.
    Full,
    /// As many as may be in a day.
    DayFull,
    /// What may be spent in a day is spent.
    Spent,
}

/// A number that is not to be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoNotCallRow {
    /// E.164.
    pub number: String,
    pub reason: String,
    pub author: String,
    pub created_at_ms: i64,
}

const DAY_MS: i64 = 86_400_000;

fn session(row: &Row) -> Result<VoiceSessionRow, StoreError> {
    Ok(VoiceSessionRow {
        id: row.get("id")?,
        customer: row.get("customer")?,
        phone: row.get("phone")?,
        from_number: row.get("from_number")?,
        agent_type: row.get("agent_type")?,
        call_sid: row.get("call_sid")?,
        call: row.get("call")?,
        status: row.get("status")?,
        problem: row.get("problem")?,
        consent: row.get("consent")?,
        answered_by: row.get("answered_by")?,
        duration_s: row.get("duration_s")?,
        dial_status: row.get("dial_status")?,
        dial_duration_s: row.get("dial_duration_s")?,
        recording_url: row.get("recording_url")?,
        created_at_ms: row.get("created_at_ms")?,
        dialled_at_ms: row.get("dialled_at_ms")?,
        answered_at_ms: row.get("answered_at_ms")?,
        ended_at_ms: row.get("ended_at_ms")?,
        fingerprint: row.get("fingerprint")?,
    })
}

impl Store {
    /// Whose a session is: asked without a tenant, because Twilio's requests name none.
    pub async fn owner_of_session(&self, id: &str) -> Result<Option<String>, StoreError> {
        let sql = "SELECT tenant FROM voice_sessions WHERE id = $1";
        let row = self.ask(Wall::None).await?.row(sql, values![id]).await?;
        row.map(|it| it.get("tenant")).transpose()
    }

    /// Sessions of all tenants that were to be dialled before a moment (Unix milliseconds) and whose end nobody has told, the
    /// oldest first, with their tenants.
    pub async fn open_sessions(&self, before_ms: i64, limit: u32) -> Result<Vec<(String, VoiceSessionRow)>, StoreError> {
        let sql = "SELECT * FROM voice_sessions WHERE ended_at_ms IS NULL AND dialled_at_ms < $1 ORDER BY dialled_at_ms LIMIT $2";
        let rows = self.ask(Wall::None).await?.rows(sql, values![before_ms, limit]).await?;
        rows.iter().map(|it| Ok((it.get("tenant")?, session(it)?))).collect()
    }

    /// Takes the next place of something that happens at a pace, once every `apart`, on all servers together; returns how long
    /// to wait for it.
    pub async fn pace(&self, name: &str, apart: Duration) -> Result<Duration, StoreError> {
        let mut tx = self.write(Wall::None).await?;
        let now = tx.now_ms().await?;
        let apart = i64::try_from(apart.as_millis()).unwrap_or(i64::MAX / 4);
        let sql = "INSERT INTO paces (name, next_ms) VALUES ($1, $2)
            ON CONFLICT (name) DO UPDATE SET next_ms = CASE WHEN paces.next_ms > $3 THEN paces.next_ms ELSE $3 END + $4
            RETURNING next_ms";
        let row = tx.row(sql, values![name, now + apart, now, apart]).await?;
        let next: i64 = row.map_or(Ok(now), |it| it.get("next_ms"))?;
        tx.commit().await?;
        Ok(Duration::from_millis(u64::try_from(next - apart - now).unwrap_or(0)))
    }
}

impl Scope<'_> {
    /// Notes that a call is to be made, before it is.
    pub async fn begin_session(&self, it: &NewSession<'_>) -> Result<Begun, StoreError> {
        let customer = match it.customer {
            Some(id) => id.to_owned(),
            None => self.save_customer(it.phone, None, None).await?.id,
        };
        let mut tx = self.write().await?;
        let (id, now) = (format!("vs_{}", uuid::Uuid::now_v7().simple()), tx.now_ms().await?);
        let (key, fingerprint) = it.key.unzip();
        let sql = "INSERT INTO voice_sessions (id, tenant, customer, phone, from_number, agent_type, status, consent, request_key, fingerprint,
                created_at_ms, updated_at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11) ON CONFLICT DO NOTHING";
        let values = values![
            &id,
            self.tenant,
            customer,
            it.phone,
            it.from_number,
            it.agent_type,
            it.status,
            it.consent,
            key,
            fingerprint,
            now
        ];
        let fresh = tx.execute(sql, values).await? == 1;
        let sql = "SELECT * FROM voice_sessions WHERE tenant = $1 AND (id = $2 OR request_key = $3)";
        let row = tx.row(sql, values![self.tenant, &id, key]).await?;
        let row = session(&row.ok_or_else(|| StoreError::Row("a session that is there and is not".into()))?)?;
        tx.commit().await?;
        Ok(if fresh { Begun::Fresh(row) } else { Begun::Before(row) })
    }

    /// Counts a session among the tenant's calls and its money, or says what is exhausted; of many at a time, as many as fit.
    /// A session that was admitted before is admitted.
    pub async fn admit_session(&self, id: &str, limits: &DialLimits) -> Result<Admission, StoreError> {
        let mut tx = self.write().await?;
        let now = tx.now_ms().await?;
        // The row is what everybody waits for: whoever has it counts alone.
        let sql = "INSERT INTO caps (tenant, kind, most) VALUES ($1, 'dialled', 0) ON CONFLICT DO NOTHING";
        tx.execute(sql, values![self.tenant]).await?;
        if tx.engine() == Engine::Pg {
            tx.row("SELECT most FROM caps WHERE tenant = $1 AND kind = 'dialled' FOR UPDATE", values![self.tenant]).await?;
        }
        let sql = "SELECT dialled_at_ms FROM voice_sessions WHERE tenant = $1 AND id = $2";
        let row = tx.row(sql, values![self.tenant, id]).await?;
        let row = row.ok_or_else(|| StoreError::Row("a session that is not there".into()))?;
        if row.get::<Option<i64>>("dialled_at_ms")?.is_some() {
            return Ok(Admission::Admitted);
        }
        let longest = i64::try_from(limits.longest.as_millis()).unwrap_or(DAY_MS);
        // What is over has cost what it lasted, not what it might have.
        let sql = "SELECT COUNT(*) AS calls,
                CAST(COALESCE(SUM(CASE WHEN ended_at_ms IS NULL AND dialled_at_ms > $2 THEN 1 ELSE 0 END), 0) AS BIGINT) AS live,
                CAST(COALESCE(SUM(reserved_micros), 0) AS BIGINT) AS micros
            FROM voice_sessions WHERE tenant = $1 AND dialled_at_ms > $3";
        let row = tx.row(sql, values![self.tenant, now - longest, now - DAY_MS]).await?;
        let row = row.ok_or_else(|| StoreError::Row("a sum that is not there".into()))?;
        let (calls, live, micros): (i64, i64, i64) = (row.get("calls")?, row.get("live")?, row.get("micros")?);
        if limits.live.is_some_and(|it| live >= i64::from(it)) {
            return Ok(Admission::Full);
        }
        if limits.in_a_day.is_some_and(|it| calls >= i64::from(it)) {
            return Ok(Admission::DayFull);
        }
        if limits.micros_in_a_day.is_some_and(|it| micros.saturating_add(limits.reserve_micros) > it) {
            return Ok(Admission::Spent);
        }
        let sql = "UPDATE voice_sessions SET dialled_at_ms = $1, reserved_micros = $2, updated_at_ms = $1 WHERE tenant = $3 AND id = $4";
        tx.execute(sql, values![now, limits.reserve_micros, self.tenant, id]).await?;
        tx.commit().await?;
        Ok(Admission::Admitted)
    }

    /// Sets what a session that is over has cost, instead of what it might have.
    pub async fn settle_session(&self, id: &str, micros: i64) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let sql = "UPDATE voice_sessions SET reserved_micros = $1 WHERE tenant = $2 AND id = $3";
        let there = tx.execute(sql, values![micros, self.tenant, id]).await? == 1;
        tx.commit().await?;
        Ok(there)
    }

    /// Notes what became of it; `false` when there is no such session.
    pub async fn change_session(&self, id: &str, it: &VoiceSessionChange<'_>) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let now = tx.now_ms().await?;
        let (status, rank) = it.status.unzip();
        let sql = "UPDATE voice_sessions SET call_sid = COALESCE(call_sid, $1), call = COALESCE(call, $2),
                status = CASE WHEN $4 > status_rank THEN $3 ELSE status END,
                status_rank = CASE WHEN $4 > status_rank THEN $4 ELSE status_rank END,
                problem = COALESCE($5, problem), answered_by = COALESCE(answered_by, $6), duration_s = COALESCE($7, duration_s),
                dial_status = COALESCE($8, dial_status), dial_duration_s = COALESCE($9, dial_duration_s),
                recording_url = COALESCE($10, recording_url),
                answered_at_ms = CASE WHEN $11 THEN COALESCE(answered_at_ms, $13) ELSE answered_at_ms END,
                ended_at_ms = CASE WHEN $12 THEN COALESCE(ended_at_ms, $13) ELSE ended_at_ms END, updated_at_ms = $13
            WHERE tenant = $14 AND id = $15";
        let values = values![
            it.call_sid,
            it.call,
            status,
            rank.unwrap_or(-1),
            it.problem,
            it.answered_by,
            it.duration_s,
            it.dial_status,
            it.dial_duration_s,
            it.recording_url,
            it.answered,
            it.ended,
            now,
            self.tenant,
            id
        ];
        let there = tx.execute(sql, values).await? == 1;
        tx.commit().await?;
        Ok(there)
    }

    /// A session by its id.
    pub async fn session(&self, id: &str) -> Result<Option<VoiceSessionRow>, StoreError> {
        let sql = "SELECT * FROM voice_sessions WHERE tenant = $1 AND id = $2";
        let row = self.ask().await?.row(sql, values![self.tenant, id]).await?;
        row.map(|it| session(&it)).transpose()
    }

    /// Whether a call of Twilio's is known to be a session's.
    pub async fn is_call_of_a_session(&self, call_sid: &str) -> Result<bool, StoreError> {
        let sql = "SELECT id FROM voice_sessions WHERE tenant = $1 AND call_sid = $2";
        Ok(self.ask().await?.row(sql, values![self.tenant, call_sid]).await?.is_some())
    }

    /// The newest sessions first; from behind a session on.
    pub async fn sessions(&self, behind: Option<&str>, limit: u32) -> Result<Vec<VoiceSessionRow>, StoreError> {
        let sql =
            "SELECT * FROM voice_sessions WHERE tenant = $1 AND (CAST($2 AS TEXT) IS NULL OR id < $2) ORDER BY id DESC LIMIT $3";
        self.ask().await?.rows(sql, values![self.tenant, behind, limit]).await?.iter().map(session).collect()
    }

    /// A number is not to be called from now on; `false` when it was not before.
    pub async fn do_not_call(&self, number: &str, reason: &str, author: &str) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let now = tx.now_ms().await?;
        let sql = "INSERT INTO do_not_call (tenant, number, reason, author, created_at_ms) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
        let fresh = tx.execute(sql, values![self.tenant, number, reason, author, now]).await? == 1;
        tx.commit().await?;
        Ok(fresh)
    }

    /// A number may be called again; `false` when it might be before.
    pub async fn may_call(&self, number: &str) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let sql = "DELETE FROM do_not_call WHERE tenant = $1 AND number = $2";
        let there = tx.execute(sql, values![self.tenant, number]).await? == 1;
        tx.commit().await?;
        Ok(there)
    }

    /// Whether a number is not to be called.
    pub async fn is_not_to_be_called(&self, number: &str) -> Result<bool, StoreError> {
        let sql = "SELECT number FROM do_not_call WHERE tenant = $1 AND number = $2";
        Ok(self.ask().await?.row(sql, values![self.tenant, number]).await?.is_some())
    }

    /// Numbers that are not to be called, in order, from behind one on.
    pub async fn not_to_be_called(&self, behind: Option<&str>, limit: u32) -> Result<Vec<DoNotCallRow>, StoreError> {
        let sql =
            "SELECT * FROM do_not_call WHERE tenant = $1 AND (CAST($2 AS TEXT) IS NULL OR number > $2) ORDER BY number LIMIT $3";
        let entry = |row: &Row| {
            Ok(DoNotCallRow {
                number: row.get("number")?,
                reason: row.get("reason")?,
                author: row.get("author")?,
                created_at_ms: row.get("created_at_ms")?,
            })
        };
        self.ask().await?.rows(sql, values![self.tenant, behind, limit]).await?.iter().map(entry).collect()
    }
}
