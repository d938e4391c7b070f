//! SQLite: what was delivered, and the questions about it. Nothing else in the project knows SQL.

use std::borrow::Cow;
use std::str::FromStr as _;
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous};
use sqlx::{Row as _, SqlStr, SqlitePool, SqliteTransaction};

use crate::{Entry, Fact, Position, Speaker};

/// The database said no.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("DATABASE_URL `{url}` is not understood: expected sqlite:PATH (PostgreSQL is not supported yet)")]
    Url { url: String },
    #[error("the database at `{url}` cannot be opened: {problem}")]
    Open { url: String, problem: String },
    #[error("the database schema cannot be brought up to date: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error("the database failed: {0}")]
    Failed(#[from] sqlx::Error),
}

/// The database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    /// One connection: SQLite has one writer.
    writer: SqlitePool,
    readers: SqlitePool,
    hold_clock: bool,
}

/// Keeps simulated time from passing until it is dropped; see [`Store::open_for_simulation`].
struct Busy {
    _working: std::sync::mpsc::Sender<()>,
}

impl Busy {
    fn begin() -> Self {
        let (working, done) = std::sync::mpsc::channel();
        tokio::task::spawn_blocking(move || {
            let _ = done.recv();
        });
        Self { _working: working }
    }
}

/// A call as it stands.
#[derive(Clone, PartialEq, Eq)]
pub struct CallRow {
    pub id: String,
    pub tenant: String,
    pub call_sid: String,
    pub account_sid: String,
    pub from_number: Option<String>,
    pub to_number: Option<String>,
    pub assistant: String,
    pub language: String,
    pub status: String,
    pub epoch: u32,
    /// The highest sequence number delivered for that epoch.
    pub last_seq: Option<u64>,
    pub resumes: u32,
    pub started_at_ms: i64,
    pub ended_at_ms: Option<i64>,
    pub end_reason: Option<String>,
    pub duration_s: Option<u64>,
    pub frames_in: u64,
    pub frames_in_dropped: u64,
    pub frames_out: u64,
    pub assistant_ms_dropped: u64,
    /// Times that the assistant's speech ran dry in the middle of an utterance.
    pub underruns: u64,
    /// Of the worst stream: how unevenly caller frames arrived, and the longest gap.
    pub jitter_us: u64,
    pub longest_gap_ms: u64,
    /// Of the last stream in which anybody spoke: dB below full scale of the caller's speech and of what lies between it.
    pub speech_dbfs: Option<i16>,
    pub noise_dbfs: Option<i16>,
    /// Caller samples at the end of the scale.
    pub clipped_samples: u64,
    /// Of the first stream: its start to the first sound.
    pub first_audio_ms: Option<u64>,
    /// Sessions that broke in the middle, and sessions that were replaced before they could.
    pub sessions_lost: u64,
    pub sessions_rolled: u64,
    /// Sounds that were no interruption, and echoes of ourselves.
    pub false_alarms: u64,
    pub echoes: u64,
    pub cached_tokens: u64,
    /// Estimated listening quality (G.107) of the worst stream, hundredths.
    pub mos_hundredths: Option<u32>,
}

/// A line of the transcript.
#[derive(Clone, PartialEq, Eq)]
pub struct Line {
    pub epoch: u32,
    pub speaker: Speaker,
    pub text: String,
    pub start_ms: u64,
    pub end_ms: u64,
    pub cut: bool,
}

/// A turn's latency in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnRow {
    pub endpointing_us: u64,
    pub thinking_us: u64,
    pub bridging_us: u64,
    pub playout_us: u64,
}

/// A tool call.
#[derive(Clone, PartialEq, Eq)]
pub struct ToolCallRow {
    pub id: String,
    pub name: String,
    pub arguments: String,
    pub output: Option<String>,
    pub failed: Option<bool>,
}

/// What a caller left for the business.
#[derive(Clone, PartialEq, Eq)]
pub struct MessageRow {
    pub call: String,
    /// Unix time in milliseconds.
    pub at_ms: i64,
    pub name: Option<String>,
    pub number: Option<String>,
    pub text: String,
}

/// A recording of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordingRow {
    pub epoch: u32,
    pub location: String,
    pub channels: u16,
    /// 0 while it is being written, and for good if the process died meanwhile: the file then tells.
    pub length_ms: u64,
    /// Of the complete file, hexadecimal; `None` as long as it is not.
    pub sha256: Option<String>,
}

impl Store {
    /// Opens `sqlite:PATH` (created when missing) and brings the schema up to date.
    ///
    /// # Errors
    /// [`StoreError`] names the address and what is wrong with it.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        if !url.starts_with("sqlite:") {
            return Err(StoreError::Url { url: url.split("://").next().unwrap_or_default().to_owned() });
        }
        let open = |error: sqlx::Error| StoreError::Open { url: url.to_owned(), problem: error.to_string() };
        let options = SqliteConnectOptions::from_str(url)
            .map_err(open)?
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(Duration::from_secs(5))
            .foreign_keys(true);
        let writer = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await.map_err(open)?;
        migrator().run(&writer).await?;
        let readers = SqlitePoolOptions::new().max_connections(4).connect_with(options.read_only(true)).await.map_err(open)?;
        Ok(Self { writer, readers, hold_clock: false })
    }

    /// Same, for simulations with a paused clock: the database works in threads of its own, which the clock does not
    /// see, so that waiting for it would look idle and make timeouts fire at once. A blocking task that lasts as long as
    /// each query keeps the clock where it is.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_for_simulation(url: &str) -> Result<Self, StoreError> {
        let _busy = Busy::begin();
        Ok(Self { hold_clock: true, ..Self::open(url).await? })
    }

    fn busy(&self) -> Option<Busy> {
        self.hold_clock.then(Busy::begin)
    }

    /// How far the journal was delivered.
    pub async fn position(&self) -> Result<Position, StoreError> {
        let _busy = self.busy();
        let row = sqlx::query("SELECT segment, bytes FROM journal_position WHERE id = 1").fetch_one(&self.writer).await?;
        Ok(Position { segment: row.try_get::<i64, _>(0)? as u64, bytes: row.try_get::<i64, _>(1)? as u64 })
    }

    /// Delivers facts and the new position in one transaction. A fact delivered before changes nothing.
    pub async fn apply(&self, entries: &[Entry], to: Position) -> Result<(), StoreError> {
        let _busy = self.busy();
        let mut transaction = self.writer.begin().await?;
        for entry in entries {
            apply(&mut transaction, entry).await?;
        }
        sqlx::query("UPDATE journal_position SET segment = $1, bytes = $2 WHERE id = 1")
            .bind(to.segment as i64)
            .bind(to.bytes as i64)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Whose a call is: the only question asked without a tenant, because Twilio's requests name none.
    pub async fn owner_of(&self, call: &str) -> Result<Option<String>, StoreError> {
        let _busy = self.busy();
        let row = sqlx::query("SELECT tenant FROM calls WHERE id = $1").bind(call).fetch_optional(&self.readers).await?;
        Ok(row.map(|it| it.try_get(0)).transpose()?)
    }

    /// The call of a Twilio call SID, with its tenant: status callbacks name nothing else.
    pub async fn call_of_sid(&self, account_sid: &str, call_sid: &str) -> Result<Option<(String, String)>, StoreError> {
        let _busy = self.busy();
        let row = sqlx::query("SELECT tenant, id FROM calls WHERE account_sid = $1 AND call_sid = $2")
            .bind(account_sid)
            .bind(call_sid)
            .fetch_optional(&self.readers)
            .await?;
        Ok(row.map(|it| Ok::<_, sqlx::Error>((it.try_get(0)?, it.try_get(1)?))).transpose()?)
    }

    /// Everything else is asked here.
    pub fn tenant<'a>(&'a self, tenant: &'a str) -> Scope<'a> {
        Scope { store: self, tenant }
    }

    /// Closes all connections; what was committed stays.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Questions of one tenant; rows of others do not exist here.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    store: &'a Store,
    tenant: &'a str,
}

impl Scope<'_> {
    /// A call, by our id.
    pub async fn call(&self, id: &str) -> Result<Option<CallRow>, StoreError> {
        let _busy = self.store.busy();
        let row = sqlx::query(
            "SELECT c.*, (SELECT MAX(seq) FROM call_events e WHERE e.call = c.id AND e.epoch = c.epoch) AS last_seq
             FROM calls c WHERE c.tenant = $1 AND c.id = $2",
        )
        .bind(self.tenant)
        .bind(id)
        .fetch_optional(&self.store.readers)
        .await?;
        Ok(row.map(|it| call_row(&it)).transpose()?)
    }

    /// The newest calls first, at most `limit`.
    pub async fn calls(&self, limit: u32) -> Result<Vec<CallRow>, StoreError> {
        let _busy = self.store.busy();
        let rows = sqlx::query(
            "SELECT c.*, NULL AS last_seq FROM calls c WHERE c.tenant = $1 ORDER BY c.started_at_ms DESC, c.id DESC LIMIT $2",
        )
        .bind(self.tenant)
        .bind(i64::from(limit))
        .fetch_all(&self.store.readers)
        .await?;
        Ok(rows.iter().map(call_row).collect::<Result<_, _>>()?)
    }

    /// What was said, in order.
    pub async fn transcript(&self, call: &str) -> Result<Vec<Line>, StoreError> {
        let _busy = self.store.busy();
        let rows = sqlx::query(
            "SELECT epoch, speaker, text, start_ms, end_ms, cut FROM transcript WHERE tenant = $1 AND call = $2 ORDER BY epoch, start_ms, seq",
        )
        .bind(self.tenant)
        .bind(call)
        .fetch_all(&self.store.readers)
        .await?;
        let line = |row: &SqliteRow| -> Result<Line, sqlx::Error> {
            Ok(Line {
                epoch: row.try_get::<i64, _>(0)? as u32,
                speaker: if row.try_get::<&str, _>(1)? == "caller" { Speaker::Caller } else { Speaker::Assistant },
                text: row.try_get(2)?,
                start_ms: row.try_get::<i64, _>(3)? as u64,
                end_ms: row.try_get::<i64, _>(4)? as u64,
                cut: row.try_get(5)?,
            })
        };
        Ok(rows.iter().map(line).collect::<Result<_, _>>()?)
    }

    /// Latency of every turn, in order.
    pub async fn turns(&self, call: &str) -> Result<Vec<TurnRow>, StoreError> {
        let _busy = self.store.busy();
        let rows = sqlx::query(
            "SELECT endpointing_us, thinking_us, bridging_us, playout_us FROM turns WHERE tenant = $1 AND call = $2 ORDER BY epoch, seq",
        )
        .bind(self.tenant)
        .bind(call)
        .fetch_all(&self.store.readers)
        .await?;
        let turn = |row: &SqliteRow| -> Result<TurnRow, sqlx::Error> {
            let part = |index: usize| row.try_get::<i64, _>(index).map(|it| it as u64);
            Ok(TurnRow { endpointing_us: part(0)?, thinking_us: part(1)?, bridging_us: part(2)?, playout_us: part(3)? })
        };
        Ok(rows.iter().map(turn).collect::<Result<_, _>>()?)
    }

    /// The newest messages of callers.
    pub async fn messages(&self, limit: u32) -> Result<Vec<MessageRow>, StoreError> {
        let _busy = self.store.busy();
        let rows = sqlx::query(
            "SELECT call, at_ms, name, number, text FROM messages WHERE tenant = $1 ORDER BY at_ms DESC, seq DESC LIMIT $2",
        )
        .bind(self.tenant)
        .bind(i64::from(limit))
        .fetch_all(&self.store.readers)
        .await?;
        let message = |row: &SqliteRow| -> Result<MessageRow, sqlx::Error> {
            Ok(MessageRow {
                call: row.try_get(0)?,
                at_ms: row.try_get(1)?,
                name: row.try_get(2)?,
                number: row.try_get(3)?,
                text: row.try_get(4)?,
            })
        };
        Ok(rows.iter().map(message).collect::<Result<_, _>>()?)
    }

    /// Tool calls in the order they were made.
    pub async fn tool_calls(&self, call: &str) -> Result<Vec<ToolCallRow>, StoreError> {
        let _busy = self.store.busy();
        let rows = sqlx::query(
            "SELECT id, name, arguments, output, failed FROM tool_calls WHERE tenant = $1 AND call = $2 ORDER BY called_ms",
        )
        .bind(self.tenant)
        .bind(call)
        .fetch_all(&self.store.readers)
        .await?;
        let tool = |row: &SqliteRow| -> Result<ToolCallRow, sqlx::Error> {
            Ok(ToolCallRow {
                id: row.try_get(0)?,
                name: row.try_get(1)?,
                arguments: row.try_get(2)?,
                output: row.try_get(3)?,
                failed: row.try_get(4)?,
            })
        };
        Ok(rows.iter().map(tool).collect::<Result<_, _>>()?)
    }

    /// Recordings, one per stream of the call.
    pub async fn recordings(&self, call: &str) -> Result<Vec<RecordingRow>, StoreError> {
        let _busy = self.store.busy();
        let rows = sqlx::query(
            "SELECT epoch, location, channels, length_ms, sha256 FROM recordings WHERE tenant = $1 AND call = $2 ORDER BY epoch",
        )
        .bind(self.tenant)
        .bind(call)
        .fetch_all(&self.store.readers)
        .await?;
        let recording = |row: &SqliteRow| -> Result<RecordingRow, sqlx::Error> {
            Ok(RecordingRow {
                epoch: row.try_get::<i64, _>(0)? as u32,
                location: row.try_get(1)?,
                channels: row.try_get::<i64, _>(2)? as u16,
                length_ms: row.try_get::<i64, _>(3)? as u64,
                sha256: row.try_get(4)?,
            })
        };
        Ok(rows.iter().map(recording).collect::<Result<_, _>>()?)
    }

    /// Takes a call over: raises its epoch from `epoch` by one. `false` when somebody else was faster.
    pub async fn claim(&self, call: &str, epoch: u32, node: &str) -> Result<bool, StoreError> {
        let _busy = self.store.busy();
        let done = sqlx::query("UPDATE calls SET epoch = epoch + 1, owner_node = $1, resumes = resumes + 1 WHERE tenant = $2 AND id = $3 AND epoch = $4")
            .bind(node)
            .bind(self.tenant)
            .bind(call)
            .bind(i64::from(epoch))
            .execute(&self.store.writer)
            .await?;
        Ok(done.rows_affected() == 1)
    }
}

fn migrator() -> Migrator {
    let migration = |version, name: &'static str, sql: &'static str| {
        Migration::new(version, Cow::Borrowed(name), MigrationType::Simple, SqlStr::from_static(sql), false)
    };
    Migrator::with_migrations(vec![
        migration(1, "calls", include_str!("../migrations/0001_calls.sql")),
        migration(2, "sound", include_str!("../migrations/0002_sound.sql")),
        migration(3, "conversation", include_str!("../migrations/0003_conversation.sql")),
    ])
}

fn call_row(row: &SqliteRow) -> Result<CallRow, sqlx::Error> {
    let count = |name: &str| row.try_get::<i64, _>(name).map(|it| it as u64);
    Ok(CallRow {
        id: row.try_get("id")?,
        tenant: row.try_get("tenant")?,
        call_sid: row.try_get("call_sid")?,
        account_sid: row.try_get("account_sid")?,
        from_number: row.try_get("from_number")?,
        to_number: row.try_get("to_number")?,
        assistant: row.try_get("assistant")?,
        language: row.try_get("language")?,
        status: row.try_get("status")?,
        epoch: count("epoch")? as u32,
        last_seq: row.try_get::<Option<i64>, _>("last_seq")?.map(|it| it as u64),
        resumes: count("resumes")? as u32,
        started_at_ms: row.try_get("started_at_ms")?,
        ended_at_ms: row.try_get("ended_at_ms")?,
        end_reason: row.try_get("end_reason")?,
        duration_s: row.try_get::<Option<i64>, _>("duration_s")?.map(|it| it as u64),
        frames_in: count("frames_in")?,
        frames_in_dropped: count("frames_in_dropped")?,
        frames_out: count("frames_out")?,
        assistant_ms_dropped: count("assistant_ms_dropped")?,
        underruns: count("underruns")?,
        jitter_us: count("jitter_us")?,
        longest_gap_ms: count("longest_gap_ms")?,
        speech_dbfs: row.try_get::<Option<i64>, _>("speech_dbfs")?.map(|it| it as i16),
        noise_dbfs: row.try_get::<Option<i64>, _>("noise_dbfs")?.map(|it| it as i16),
        clipped_samples: count("clipped_samples")?,
        first_audio_ms: row.try_get::<Option<i64>, _>("first_audio_ms")?.map(|it| it as u64),
        sessions_lost: count("sessions_lost")?,
        sessions_rolled: count("sessions_rolled")?,
        false_alarms: count("false_alarms")?,
        echoes: count("echoes")?,
        cached_tokens: count("cached_tokens")?,
        mos_hundredths: row.try_get::<Option<i64>, _>("mos_hundredths")?.map(|it| it as u32),
    })
}

async fn apply(transaction: &mut SqliteTransaction<'_>, entry: &Entry) -> Result<(), sqlx::Error> {
    let body = serde_json::to_string(&entry.fact).expect("facts are strings, numbers and booleans");
    let (epoch, seq) = (i64::from(entry.epoch), entry.seq as i64);
    let fresh = sqlx::query(
        "INSERT INTO call_events (call, epoch, seq, tenant, at_ms, kind, body) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
    )
    .bind(&entry.call)
    .bind(epoch)
    .bind(seq)
    .bind(&entry.tenant)
    .bind(entry.at_ms)
    .bind(entry.fact.kind())
    .bind(body)
    .execute(&mut **transaction)
    .await?
    .rows_affected()
        == 1;
    if !fresh {
        return Ok(());
    }
    let query = match &entry.fact {
        Fact::Ringing {
            call_sid,
            account_sid,
            from,
            to,
            direction,
            api_version,
            forwarded_from,
            caller_name,
            assistant,
            language,
            node,
        } => sqlx::query(
            "INSERT INTO calls (id, tenant, call_sid, account_sid, from_number, to_number, direction, api_version, forwarded_from,
                caller_name, assistant, language, status, status_rank, epoch, owner_node, started_at_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 'ringing', 3, 0, $13, $14) ON CONFLICT DO NOTHING",
        )
        .bind(&entry.call)
        .bind(&entry.tenant)
        .bind(call_sid)
        .bind(account_sid)
        .bind(from)
        .bind(to)
        .bind(direction)
        .bind(api_version)
        .bind(forwarded_from)
        .bind(caller_name)
        .bind(assistant)
        .bind(language)
        .bind(node)
        .bind(entry.at_ms),
        Fact::Claimed { node } => sqlx::query(
            "UPDATE calls SET epoch = $1, owner_node = $2, resumes = $1, end_reason = NULL, end_blame = NULL WHERE id = $3 AND epoch <= $1",
        )
        .bind(epoch)
        .bind(node)
        .bind(&entry.call),
        Fact::StreamStarted { .. } => sqlx::query(
            "UPDATE calls SET stream_started_ms = COALESCE(stream_started_ms, $1),
                status = CASE WHEN status_rank < 4 THEN 'in-progress' ELSE status END, status_rank = MAX(status_rank, 4) WHERE id = $2",
        )
        .bind(entry.at_ms)
        .bind(&entry.call),
        Fact::Said { speaker, text, start_ms, end_ms, cut } => sqlx::query(
            "INSERT INTO transcript (call, epoch, seq, tenant, speaker, text, start_ms, end_ms, cut) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(&entry.call)
        .bind(epoch)
        .bind(seq)
        .bind(&entry.tenant)
        .bind(match speaker {
            Speaker::Caller => "caller",
            Speaker::Assistant => "assistant",
        })
        .bind(text)
        .bind(*start_ms as i64)
        .bind(*end_ms as i64)
        .bind(cut),
        Fact::ToolCalled { id, name, arguments } => sqlx::query(
            "INSERT INTO tool_calls (call, id, tenant, name, arguments, called_ms) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
        )
        .bind(&entry.call)
        .bind(id)
        .bind(&entry.tenant)
        .bind(name)
        .bind(arguments)
        .bind(entry.at_ms),
        Fact::ToolFinished { id, output, failed } => {
            sqlx::query("UPDATE tool_calls SET finished_ms = $1, output = $2, failed = $3 WHERE call = $4 AND id = $5 AND finished_ms IS NULL")
                .bind(entry.at_ms)
                .bind(output)
                .bind(failed)
                .bind(&entry.call)
                .bind(id)
        }
        Fact::Turn { endpointing_us, thinking_us, bridging_us, playout_us } => sqlx::query(
            "INSERT INTO turns (call, epoch, seq, tenant, endpointing_us, thinking_us, bridging_us, playout_us) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(&entry.call)
        .bind(epoch)
        .bind(seq)
        .bind(&entry.tenant)
        .bind(*endpointing_us as i64)
        .bind(*thinking_us as i64)
        .bind(*bridging_us as i64)
        .bind(*playout_us as i64),
        Fact::Ended {
            stream,
            reason,
            blame,
            duration_ms: _,
            frames_in,
            frames_in_dropped,
            frames_out,
            assistant_ms_dropped,
            underruns,
            jitter_us,
            longest_gap_ms,
            interruptions,
            input_tokens,
            cached_tokens,
            output_tokens,
            false_alarms,
            echoes,
            mos_hundredths,
            speech_dbfs,
            noise_dbfs,
            clipped_samples,
        } => sqlx::query(
            // A newer stream of the call is not ended by the late end of an older one.
            "UPDATE calls SET end_reason = CASE WHEN epoch <= $12 THEN $1 ELSE end_reason END,
                end_blame = CASE WHEN epoch <= $12 THEN $2 ELSE end_blame END, frames_in = frames_in + $3, frames_in_dropped = frames_in_dropped + $4,
                frames_out = frames_out + $5, assistant_ms_dropped = assistant_ms_dropped + $6, underruns = underruns + $7,
                interruptions = interruptions + $8, input_tokens = input_tokens + $9, output_tokens = output_tokens + $10,
                jitter_us = MAX(jitter_us, $13), longest_gap_ms = MAX(longest_gap_ms, $14),
                speech_dbfs = COALESCE($15, speech_dbfs), noise_dbfs = COALESCE($16, noise_dbfs), clipped_samples = clipped_samples + $17,
                cached_tokens = cached_tokens + $18, false_alarms = false_alarms + $19, echoes = echoes + $20,
                mos_hundredths = COALESCE(MIN($21, mos_hundredths), $21, mos_hundredths)
                WHERE id = $11",
        )
        .bind(reason)
        .bind(blame)
        .bind(*frames_in as i64)
        .bind(*frames_in_dropped as i64)
        .bind(*frames_out as i64)
        .bind(*assistant_ms_dropped as i64)
        .bind(*underruns as i64)
        .bind(*interruptions as i64)
        .bind(*input_tokens as i64)
        .bind(*output_tokens as i64)
        .bind(&entry.call)
        .bind(i64::from(*stream))
        .bind(*jitter_us as i64)
        .bind(*longest_gap_ms as i64)
        .bind(speech_dbfs.map(i64::from))
        .bind(noise_dbfs.map(i64::from))
        .bind(*clipped_samples as i64)
        .bind(*cached_tokens as i64)
        .bind(*false_alarms as i64)
        .bind(*echoes as i64)
        .bind(mos_hundredths.map(i64::from)),
        Fact::FirstAudio { after_ms } => sqlx::query("UPDATE calls SET first_audio_ms = COALESCE(first_audio_ms, $1) WHERE id = $2")
            .bind(*after_ms as i64)
            .bind(&entry.call),
        Fact::AssistantLost { .. } => {
            sqlx::query("UPDATE calls SET sessions_lost = sessions_lost + 1 WHERE id = $1").bind(&entry.call)
        }
        Fact::AssistantRolled => {
            sqlx::query("UPDATE calls SET sessions_rolled = sessions_rolled + 1 WHERE id = $1").bind(&entry.call)
        }
        Fact::Recorded { stream, location, channels, length_ms, sha256 } => sqlx::query(
            "INSERT INTO recordings (call, epoch, tenant, location, channels, length_ms, sha256) VALUES ($1, $2, $3, $4, $5, $6, $7)
                ON CONFLICT (call, epoch) DO UPDATE SET length_ms = MAX(recordings.length_ms, excluded.length_ms),
                sha256 = COALESCE(excluded.sha256, recordings.sha256)",
        )
        .bind(&entry.call)
        .bind(i64::from(*stream))
        .bind(&entry.tenant)
        .bind(location)
        .bind(i64::from(*channels))
        .bind(*length_ms as i64)
        .bind(sha256),
        Fact::Status { status, rank, terminal, duration_s } => sqlx::query(
            "UPDATE calls SET status = $1, status_rank = $2, ended_at_ms = CASE WHEN $3 THEN $4 ELSE ended_at_ms END,
                duration_s = COALESCE($5, duration_s) WHERE id = $6 AND status_rank < $2",
        )
        .bind(status)
        .bind(rank)
        .bind(terminal)
        .bind(entry.at_ms)
        .bind(duration_s.map(|it| it as i64))
        .bind(&entry.call),
        Fact::Message { name, number, text } => sqlx::query(
            "INSERT INTO messages (call, epoch, seq, tenant, at_ms, name, number, text) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
                ON CONFLICT (call, epoch, seq) DO NOTHING",
        )
        .bind(&entry.call)
        .bind(epoch)
        .bind(seq)
        .bind(&entry.tenant)
        .bind(entry.at_ms)
        .bind(name)
        .bind(number)
        .bind(text),
        Fact::AssistantReady { .. }
        | Fact::Interrupted { .. }
        | Fact::FalseAlarm { .. }
        | Fact::Transfer { .. }
        | Fact::Transferred { .. }
        | Fact::Controlled { .. }
        | Fact::Key { .. }
        | Fact::Next { .. }
        | Fact::StreamStatus { .. } => return Ok(()),
    };
    query.execute(&mut **transaction).await?;
    Ok(())
}
