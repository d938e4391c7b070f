//! Calls, and what was said and done in them: questions about what was delivered.

use crate::db::{Row, StoreError, Wall, values};
use crate::{Scope, Speaker, Store};

/// A call as it stands.
#[derive(Clone, PartialEq, Eq)]
pub struct CallRow {
    pub id: String,
    pub tenant: String,
    pub call_sid: String,
    pub account_sid: String,
    pub from_number: Option<String>,
    pub to_number: Option<String>,
    /// `inbound`, `outbound-api`.
    pub direction: String,
    pub forwarded_from: Option<String>,
    pub caller_name: Option<String>,
    pub assistant: String,
    pub language: String,
    pub status: String,
    pub epoch: u32,
    /// The highest sequence number delivered for that epoch.
    pub last_seq: Option<u64>,
    /// Who had its last stream.
    pub owner_node: String,
    pub resumes: u32,
    pub started_at_ms: i64,
    pub ended_at_ms: Option<i64>,
    pub end_reason: Option<String>,
    /// Whose doing it was.
    pub end_blame: Option<String>,
    /// Whom the caller is to be connected with, by the name of the destination.
    pub transfer_to: Option<String>,
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
    /// Times that the caller interrupted.
    pub interruptions: u64,
    /// What the provider counted.
    pub input_tokens: u64,
    pub cached_tokens: u64,
    /// What the provider says of the conversation: its id there, `success` or `failure`, a summary.
    pub provider_conversation: Option<String>,
    pub successful: Option<String>,
    pub summary: Option<String>,
    pub output_tokens: u64,
    /// Estimated listening quality (G.107) of the worst stream, hundredths.
    pub mos_hundredths: Option<u32>,
}

/// Which calls; what is not set lets everything through.
#[derive(Clone, Copy, Debug, Default)]
pub struct CallFilter<'a> {
    pub status: Option<&'a str>,
    /// `inbound`, `outbound`.
    pub direction: Option<&'a str>,
    /// Calling or called, E.164.
    pub number: Option<&'a str>,
    pub assistant: Option<&'a str>,
    /// Begun at or after, and before, in Unix milliseconds.
    pub from_ms: Option<i64>,
    pub to_ms: Option<i64>,
    /// Only calls whose end nobody has told.
    pub live: bool,
    /// Only calls behind this one in the order of the list: when it began, and its id.
    pub behind: Option<(i64, &'a str)>,
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
    /// `object:` and an id, or a path on the disk of the node that made it.
    pub location: String,
    pub channels: u16,
    /// 0 while it is being written, and for good if the process died meanwhile: the file then tells.
    pub length_ms: u64,
    /// Of the complete file, hexadecimal; `None` as long as it is not.
    pub sha256: Option<String>,
}

impl Scope<'_> {
    /// A call, by our id.
    pub async fn call(&self, id: &str) -> Result<Option<CallRow>, StoreError> {
        let row = self
            .ask()
            .await?
            .row(
                "SELECT c.*, (SELECT MAX(seq) FROM call_events e WHERE e.call = c.id AND e.epoch = c.epoch) AS last_seq
                    FROM calls c WHERE c.tenant = $1 AND c.id = $2",
                values![self.tenant, id],
            )
            .await?;
        row.map(|it| call_row(&it)).transpose()
    }

    /// The newest calls first, at most `limit`.
    pub async fn calls(&self, limit: u32) -> Result<Vec<CallRow>, StoreError> {
        self.find_calls(&CallFilter::default(), limit).await
    }

    /// Calls that a filter lets through, the newest first, at most `limit`.
    pub async fn find_calls(&self, it: &CallFilter<'_>, limit: u32) -> Result<Vec<CallRow>, StoreError> {
        let sql = "SELECT c.*, CAST(NULL AS BIGINT) AS last_seq FROM calls c WHERE c.tenant = $1
                AND (CAST($2 AS TEXT) IS NULL OR c.status = $2) AND (CAST($3 AS TEXT) IS NULL OR c.direction LIKE $3 || '%')
                AND (CAST($4 AS TEXT) IS NULL OR c.from_number = $4 OR c.to_number = $4)
                AND (CAST($5 AS TEXT) IS NULL OR c.assistant = $5)
                AND c.started_at_ms >= $6 AND c.started_at_ms < $7 AND ($8 = FALSE OR c.ended_at_ms IS NULL)
                AND (CAST($10 AS TEXT) IS NULL OR c.started_at_ms < $9 OR (c.started_at_ms = $9 AND c.id < $10))
            ORDER BY c.started_at_ms DESC, c.id DESC LIMIT $11";
        let (behind_ms, behind) = it.behind.unzip();
        let values = values![
            self.tenant,
            it.status,
            it.direction,
            it.number,
            it.assistant,
            it.from_ms.unwrap_or(0),
            it.to_ms.unwrap_or(i64::MAX),
            it.live,
            behind_ms.unwrap_or(0),
            behind,
            limit
        ];
        self.ask().await?.rows(sql, values).await?.iter().map(call_row).collect()
    }

    /// What was said, in order.
    pub async fn transcript(&self, call: &str) -> Result<Vec<Line>, StoreError> {
        let sql = "SELECT epoch, speaker, text, start_ms, end_ms, cut FROM transcript WHERE tenant = $1 AND call = $2
            ORDER BY epoch, start_ms, seq";
        let line = |row: &Row| {
            Ok(Line {
                epoch: row.get("epoch")?,
                speaker: if row.get::<String>("speaker")? == "caller" { Speaker::Caller } else { Speaker::Assistant },
                text: row.get("text")?,
                start_ms: row.get("start_ms")?,
                end_ms: row.get("end_ms")?,
                cut: row.get("cut")?,
            })
        };
        self.ask().await?.rows(sql, values![self.tenant, call]).await?.iter().map(line).collect()
    }

    /// Latency of every turn, in order.
    pub async fn turns(&self, call: &str) -> Result<Vec<TurnRow>, StoreError> {
        let sql = "SELECT endpointing_us, thinking_us, bridging_us, playout_us FROM turns WHERE tenant = $1 AND call = $2
            ORDER BY epoch, seq";
        let turn = |row: &Row| {
            Ok(TurnRow {
                endpointing_us: row.get("endpointing_us")?,
                thinking_us: row.get("thinking_us")?,
                bridging_us: row.get("bridging_us")?,
                playout_us: row.get("playout_us")?,
            })
        };
        self.ask().await?.rows(sql, values![self.tenant, call]).await?.iter().map(turn).collect()
    }

    /// The newest messages of callers.
    pub async fn messages(&self, limit: u32) -> Result<Vec<MessageRow>, StoreError> {
        let sql = "SELECT call, at_ms, name, number, text FROM messages WHERE tenant = $1 ORDER BY at_ms DESC, seq DESC LIMIT $2";
        let message = |row: &Row| {
            Ok(MessageRow {
                call: row.get("call")?,
                at_ms: row.get("at_ms")?,
                name: row.get("name")?,
                number: row.get("number")?,
                text: row.get("text")?,
            })
        };
        self.ask().await?.rows(sql, values![self.tenant, limit]).await?.iter().map(message).collect()
    }

    /// Tool calls in the order they were made.
    pub async fn tool_calls(&self, call: &str) -> Result<Vec<ToolCallRow>, StoreError> {
        let sql =
            "SELECT id, name, arguments, output, failed FROM tool_calls WHERE tenant = $1 AND call = $2 ORDER BY called_ms, id";
        let tool = |row: &Row| {
            Ok(ToolCallRow {
                id: row.get("id")?,
                name: row.get("name")?,
                arguments: row.get("arguments")?,
                output: row.get("output")?,
                failed: row.get("failed")?,
            })
        };
        self.ask().await?.rows(sql, values![self.tenant, call]).await?.iter().map(tool).collect()
    }

    /// Recordings, one per stream of the call.
    pub async fn recordings(&self, call: &str) -> Result<Vec<RecordingRow>, StoreError> {
        let sql =
            "SELECT epoch, location, channels, length_ms, sha256 FROM recordings WHERE tenant = $1 AND call = $2 ORDER BY epoch";
        let recording = |row: &Row| {
            Ok(RecordingRow {
                epoch: row.get("epoch")?,
                location: row.get("location")?,
                channels: row.get("channels")?,
                length_ms: row.get("length_ms")?,
                sha256: row.get("sha256")?,
            })
        };
        self.ask().await?.rows(sql, values![self.tenant, call]).await?.iter().map(recording).collect()
    }

    /// Notes that a recording lies among the objects now; `false` when there is no such recording any more.
    pub async fn recording_kept(&self, call: &str, epoch: u32, object: &str) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let sql = "UPDATE recordings SET location = $1 WHERE tenant = $2 AND call = $3 AND epoch = $4";
        let there = tx.execute(sql, values![format!("object:{object}"), self.tenant, call, epoch]).await? == 1;
        tx.commit().await?;
        Ok(there)
    }

    /// Takes a call over: raises its epoch from `epoch` by one. `false` when somebody else was faster.
    pub async fn claim(&self, call: &str, epoch: u32, node: &str) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let sql = "UPDATE calls SET epoch = epoch + 1, owner_node = $1, resumes = resumes + 1
            WHERE tenant = $2 AND id = $3 AND epoch = $4";
        let claimed = tx.execute(sql, values![node, self.tenant, call, epoch]).await? == 1;
        tx.commit().await?;
        Ok(claimed)
    }
}

/// A call whose end nobody has told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenCall {
    pub tenant: String,
    pub id: String,
    pub call_sid: String,
    pub epoch: u32,
    /// The highest sequence number delivered for that epoch.
    pub last_seq: Option<u64>,
}

impl Store {
    /// Calls of an account, of all tenants, whose end nobody has told, begun between two moments (Unix milliseconds), the newest
    /// first.
    pub async fn open_calls(&self, account_sid: &str, from_ms: i64, to_ms: i64, limit: u32) -> Result<Vec<OpenCall>, StoreError> {
        let sql = "SELECT tenant, id, call_sid, epoch,
                (SELECT MAX(seq) FROM call_events e WHERE e.call = c.id AND e.epoch = c.epoch) AS last_seq
            FROM calls c WHERE account_sid = $1 AND ended_at_ms IS NULL AND started_at_ms BETWEEN $2 AND $3
            ORDER BY started_at_ms DESC LIMIT $4";
        let open = |row: &Row| {
            Ok(OpenCall {
                tenant: row.get("tenant")?,
                id: row.get("id")?,
                call_sid: row.get("call_sid")?,
                epoch: row.get("epoch")?,
                last_seq: row.get("last_seq")?,
            })
        };
        self.ask(Wall::None).await?.rows(sql, values![account_sid, from_ms, to_ms, limit]).await?.iter().map(open).collect()
    }

    /// Whose a call is: asked without a tenant, because Twilio's requests name none.
    pub async fn owner_of(&self, call: &str) -> Result<Option<String>, StoreError> {
        let row = self.ask(Wall::None).await?.row("SELECT tenant FROM calls WHERE id = $1", values![call]).await?;
        row.map(|it| it.get("tenant")).transpose()
    }

    /// The call of a Twilio call SID, with its tenant: status callbacks name nothing else.
    pub async fn call_of_sid(&self, account_sid: &str, call_sid: &str) -> Result<Option<(String, String)>, StoreError> {
        let sql = "SELECT tenant, id FROM calls WHERE account_sid = $1 AND call_sid = $2";
        let row = self.ask(Wall::None).await?.row(sql, values![account_sid, call_sid]).await?;
        row.map(|it| Ok((it.get("tenant")?, it.get("id")?))).transpose()
    }
}

fn call_row(row: &Row) -> Result<CallRow, StoreError> {
    Ok(CallRow {
        id: row.get("id")?,
        tenant: row.get("tenant")?,
        call_sid: row.get("call_sid")?,
        account_sid: row.get("account_sid")?,
        from_number: row.get("from_number")?,
        to_number: row.get("to_number")?,
        direction: row.get("direction")?,
        forwarded_from: row.get("forwarded_from")?,
        caller_name: row.get("caller_name")?,
        end_blame: row.get("end_blame")?,
        provider_conversation: row.get("provider_conversation")?,
        successful: row.get("successful")?,
        summary: row.get("summary")?,
        interruptions: row.get("interruptions")?,
        input_tokens: row.get("input_tokens")?,
        output_tokens: row.get("output_tokens")?,
        assistant: row.get("assistant")?,
        language: row.get("language")?,
        status: row.get("status")?,
        epoch: row.get("epoch")?,
        last_seq: row.get("last_seq")?,
        owner_node: row.get("owner_node")?,
        resumes: row.get("resumes")?,
        started_at_ms: row.get("started_at_ms")?,
        ended_at_ms: row.get("ended_at_ms")?,
        end_reason: row.get("end_reason")?,
        transfer_to: row.get("transfer_to")?,
        duration_s: row.get("duration_s")?,
        frames_in: row.get("frames_in")?,
        frames_in_dropped: row.get("frames_in_dropped")?,
        frames_out: row.get("frames_out")?,
        assistant_ms_dropped: row.get("assistant_ms_dropped")?,
        underruns: row.get("underruns")?,
        jitter_us: row.get("jitter_us")?,
        longest_gap_ms: row.get("longest_gap_ms")?,
        speech_dbfs: row.get("speech_dbfs")?,
        noise_dbfs: row.get("noise_dbfs")?,
        clipped_samples: row.get("clipped_samples")?,
        first_audio_ms: row.get("first_audio_ms")?,
        sessions_lost: row.get("sessions_lost")?,
        sessions_rolled: row.get("sessions_rolled")?,
        false_alarms: row.get("false_alarms")?,
        echoes: row.get("echoes")?,
        cached_tokens: row.get("cached_tokens")?,
        mos_hundredths: row.get("mos_hundredths")?,
    })
}
