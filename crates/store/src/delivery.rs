//! Facts become rows. Delivering one twice changes nothing.

use crate::db::{StoreError, Tx, Value, values};
use crate::{Entry, Fact, NewJob, Speaker, jobs, outbox};

/// Delivers a fact of a journal, as the one at that place; `false` when it was delivered before.
pub(crate) async fn apply(tx: &mut Tx, journal: &str, place: i64, entry: &Entry) -> Result<bool, StoreError> {
    let body = serde_json::to_string(&entry.fact).expect("facts are strings, numbers and booleans");
    let (epoch, seq) = (i64::from(entry.epoch), entry.seq as i64);
    let fresh = tx
        .execute(
            "INSERT INTO call_events (call, epoch, journal, seq, tenant, at_ms, kind, body, place) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
                ON CONFLICT DO NOTHING",
            values![&entry.call, epoch, journal, seq, &entry.tenant, entry.at_ms, entry.fact.kind(), body, place],
        )
        .await?;
    if fresh == 0 {
        return Ok(false);
    }
    outbox::tell(tx, journal, entry).await?;
    let (sql, values): (&'static str, Vec<Value<'_>>) = match &entry.fact {
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
        } => (
"INSERT INTO calls (id, tenant, call_sid, account_sid, from_number, to_number, direction, api_version, forwarded_from,
                caller_name, assistant, language, status, status_rank, epoch, owner_node, started_at_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 'ringing', 3, 0, $13, $14) ON CONFLICT DO NOTHING",
vec![Value::from(&entry.call), Value::from(&entry.tenant), Value::from(call_sid), Value::from(account_sid), Value::from(from), Value::from(to), Value::from(direction), Value::from(api_version), Value::from(forwarded_from), Value::from(caller_name), Value::from(assistant), Value::from(language), Value::from(node), Value::from(entry.at_ms)],
),
        Fact::Claimed { node } => (
"UPDATE calls SET epoch = $1, owner_node = $2, resumes = $1, end_reason = NULL, end_blame = NULL WHERE id = $3 AND epoch <= $1",
vec![Value::from(epoch), Value::from(node), Value::from(&entry.call)],
),
        Fact::StreamStarted { .. } => (
"UPDATE calls SET stream_started_ms = COALESCE(stream_started_ms, $1),
                status = CASE WHEN status_rank < 4 THEN 'in-progress' ELSE status END, status_rank = CASE WHEN status_rank < 4 THEN 4 ELSE status_rank END WHERE id = $2",
vec![Value::from(entry.at_ms), Value::from(&entry.call)],
),
        Fact::Said { speaker, text, start_ms, end_ms, cut } => (
"INSERT INTO transcript (call, epoch, seq, tenant, speaker, text, start_ms, end_ms, cut) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
vec![Value::from(&entry.call), Value::from(epoch), Value::from(seq), Value::from(&entry.tenant), Value::from(match speaker {
            Speaker::Caller => "caller",
            Speaker::Assistant => "assistant",
        }), Value::from(text), Value::from(*start_ms), Value::from(*end_ms), Value::from(*cut)],
),
        Fact::ToolCalled { id, name, arguments } => (
"INSERT INTO tool_calls (call, id, tenant, name, arguments, called_ms) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
vec![Value::from(&entry.call), Value::from(id), Value::from(&entry.tenant), Value::from(name), Value::from(arguments), Value::from(entry.at_ms)],
),
        Fact::ToolFinished { id, output, failed } => {
            (
"UPDATE tool_calls SET finished_ms = $1, output = $2, failed = $3 WHERE call = $4 AND id = $5 AND finished_ms IS NULL",
vec![Value::from(entry.at_ms), Value::from(output), Value::from(*failed), Value::from(&entry.call), Value::from(id)],
)
        }
        Fact::Turn { endpointing_us, thinking_us, bridging_us, playout_us } => (
"INSERT INTO turns (call, epoch, seq, tenant, endpointing_us, thinking_us, bridging_us, playout_us) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
vec![Value::from(&entry.call), Value::from(epoch), Value::from(seq), Value::from(&entry.tenant), Value::from(*endpointing_us), Value::from(*thinking_us), Value::from(*bridging_us), Value::from(*playout_us)],
),
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
        } => (
// A newer stream of the call is not ended by the late end of an older one.
            "UPDATE calls SET end_reason = CASE WHEN epoch <= $12 THEN $1 ELSE end_reason END,
                end_blame = CASE WHEN epoch <= $12 THEN $2 ELSE end_blame END, frames_in = frames_in + $3, frames_in_dropped = frames_in_dropped + $4,
                frames_out = frames_out + $5, assistant_ms_dropped = assistant_ms_dropped + $6, underruns = underruns + $7,
                interruptions = interruptions + $8, input_tokens = input_tokens + $9, output_tokens = output_tokens + $10,
                jitter_us = CASE WHEN jitter_us < $13 THEN $13 ELSE jitter_us END,
                longest_gap_ms = CASE WHEN longest_gap_ms < $14 THEN $14 ELSE longest_gap_ms END,
                speech_dbfs = COALESCE($15, speech_dbfs), noise_dbfs = COALESCE($16, noise_dbfs), clipped_samples = clipped_samples + $17,
                cached_tokens = cached_tokens + $18, false_alarms = false_alarms + $19, echoes = echoes + $20,
                mos_hundredths = CASE WHEN mos_hundredths < $21 OR $21 IS NULL THEN mos_hundredths ELSE $21 END
                WHERE id = $11",
vec![Value::from(reason), Value::from(blame), Value::from(*frames_in), Value::from(*frames_in_dropped), Value::from(*frames_out), Value::from(*assistant_ms_dropped), Value::from(*underruns), Value::from(*interruptions), Value::from(*input_tokens), Value::from(*output_tokens), Value::from(&entry.call), Value::from(*stream), Value::from(*jitter_us), Value::from(*longest_gap_ms), Value::from(*speech_dbfs), Value::from(*noise_dbfs), Value::from(*clipped_samples), Value::from(*cached_tokens), Value::from(*false_alarms), Value::from(*echoes), Value::from(*mos_hundredths)],
),
        Fact::FirstAudio { after_ms } => (
"UPDATE calls SET first_audio_ms = COALESCE(first_audio_ms, $1) WHERE id = $2",
vec![Value::from(*after_ms), Value::from(&entry.call)],
),
        Fact::Transfer { to } => {
            ("UPDATE calls SET transfer_to = $1 WHERE id = $2", vec![Value::from(to), Value::from(&entry.call)])
        }
        Fact::Reviewed { conversation, successful, summary } => (
            "UPDATE calls SET provider_conversation = $1, successful = $2, summary = $3 WHERE id = $4",
            vec![Value::from(conversation), Value::from(successful), Value::from(summary), Value::from(&entry.call)],
        ),
        Fact::AssistantLost { .. } => {
            (
"UPDATE calls SET sessions_lost = sessions_lost + 1 WHERE id = $1",
vec![Value::from(&entry.call)],
)
        }
        Fact::AssistantRolled => {
            (
"UPDATE calls SET sessions_rolled = sessions_rolled + 1 WHERE id = $1",
vec![Value::from(&entry.call)],
)
        }
        Fact::Recorded { stream, location, channels, length_ms, sha256 } => (
"INSERT INTO recordings (call, epoch, tenant, location, channels, length_ms, sha256) VALUES ($1, $2, $3, $4, $5, $6, $7)
                ON CONFLICT (call, epoch) DO UPDATE SET length_ms = CASE WHEN recordings.length_ms < excluded.length_ms THEN excluded.length_ms ELSE recordings.length_ms END,
                sha256 = COALESCE(excluded.sha256, recordings.sha256)",
vec![Value::from(&entry.call), Value::from(*stream), Value::from(&entry.tenant), Value::from(location), Value::from(*channels), Value::from(*length_ms), Value::from(sha256)],
),
        Fact::Status { status, rank, terminal, duration_s } => (
"UPDATE calls SET status = $1, status_rank = $2, ended_at_ms = CASE WHEN $3 THEN $4 ELSE ended_at_ms END,
                duration_s = COALESCE($5, duration_s) WHERE id = $6 AND status_rank < $2",
vec![Value::from(status), Value::from(*rank), Value::from(*terminal), Value::from(entry.at_ms), Value::from(*duration_s), Value::from(&entry.call)],
),
        Fact::Message { name, number, text } => (
"INSERT INTO messages (call, epoch, seq, tenant, at_ms, name, number, text) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
                ON CONFLICT (call, epoch, seq) DO NOTHING",
vec![Value::from(&entry.call), Value::from(epoch), Value::from(seq), Value::from(&entry.tenant), Value::from(entry.at_ms), Value::from(name), Value::from(number), Value::from(text)],
),
        Fact::AssistantReady { .. }
        | Fact::Interrupted { .. }
        | Fact::FalseAlarm { .. }
        | Fact::Transferred { .. }
        | Fact::Controlled { .. }
        | Fact::Key { .. }
        | Fact::Next { .. }
        | Fact::StreamStatus { .. } => return Ok(true),
    };
    tx.execute(sql, &values).await?;
    if let Fact::Recorded { stream, location, sha256: Some(_), .. } = &entry.fact {
        // In the same transaction: a recording that is known is kept, whoever dies.
        let body = serde_json::json!({"call": entry.call, "epoch": stream, "location": location}).to_string();
        let once = format!("{}/{stream}", entry.call);
        let kind = recording_kept_by(journal);
        let job = NewJob { once: Some(&once), attempts_max: 1000, ..NewJob::new(&kind, &body) };
        jobs::enqueue(tx, &entry.tenant, &job).await?;
    }
    Ok(true)
}

/// The kind of the jobs that keep recordings: they lie on the disk of the node whose journal told of them.
pub fn recording_kept_by(journal: &str) -> String {
    format!("keep_recording:{journal}")
}
