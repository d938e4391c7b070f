//! `offhook demo`: a whole call, or many, against the simulated telephone network and a simulated provider; every step
//! is checked against what the simulators saw and what was stored.

use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;

use anyhow::Result;
use media::file::{Limits, Reader};
use sim::{Behaviour, CallOutcome, Ear, Moment, Speech, Timeline};
use store::{CallRow, Line, RecordingRow, Speaker, TurnRow};

use crate::stage::{Format, Options, Provider, Stage, TENANT};

/// One step of the story, and whether it happened as it should.
#[derive(Clone, Debug)]
pub struct Check {
    pub step: String,
    pub found: Result<(), String>,
}

/// How it went.
#[derive(Debug)]
pub struct Report {
    pub checks: Vec<Check>,
    /// For people.
    pub text: String,
}

impl Report {
    /// Steps that did not happen as they should.
    pub fn failures(&self) -> Vec<&Check> {
        self.checks.iter().filter(|it| it.found.is_err()).collect()
    }
}

/// Plays the story and checks it.
///
/// # Errors
/// When something could not be started; a story that goes wrong is in the report.
pub async fn run(options: &Options) -> Result<(Report, Stage)> {
    run_with(options, |_| ()).await
}

/// Same, with a provider that behaves otherwise.
///
/// # Errors
/// As [`run`].
pub async fn run_with(options: &Options, change: impl FnOnce(&mut Behaviour)) -> Result<(Report, Stage)> {
    let stage = Stage::set_with(options, change).await?;
    let outcomes = stage.perform(options.calls).await?;
    let report = judge(options, &stage, &outcomes).await?;
    Ok((report, stage))
}

/// Collects checks.
struct Judge {
    checks: Vec<Check>,
}

impl Judge {
    fn check(&mut self, step: impl Into<String>, happened: bool, found: impl FnOnce() -> String) {
        let found = if happened { Ok(()) } else { Err(found()) };
        self.checks.push(Check { step: step.into(), found });
    }

    fn count(&mut self, step: &str, timeline: &Timeline, expected: usize, like: impl Fn(&Moment) -> bool) {
        let count = timeline.count(like);
        self.check(step, count == expected, || format!("expected {expected} times, seen {count} times"));
    }
}

async fn judge(options: &Options, stage: &Stage, outcomes: &[CallOutcome]) -> Result<Report> {
    let (timeline, calls) = (&stage.timeline, options.calls);
    let openai = options.provider == Provider::Openai;
    let mut judge = Judge { checks: Vec::new() };
    let webhook = |path: &'static str, answer: &'static str| move |it: &Moment| matches!(it, Moment::Webhook { path: p, status: 200 | 204, answer: a } if p.contains(path) && a.contains(answer));
    judge.count(
        "signed voice webhook is answered with a media stream",
        timeline,
        calls,
        webhook("/twilio/voice", "<Connect><Stream>"),
    );
    judge.count("media socket opens", timeline, calls, |it| matches!(it, Moment::StreamOpened { .. }));
    let announced = match (options.provider, options.format) {
        (Provider::Openai, Format::Pcm16) => "audio/pcm 24000",
        (Provider::Openai, _) | (Provider::Live, _) => "audio/pcmu",
        (Provider::Elevenlabs, Format::Pcm16) => "pcm_16000",
        (Provider::Elevenlabs, _) => "ulaw_8000",
    };
    judge.count(
        "provider session is configured",
        timeline,
        calls,
        |it| matches!(it, Moment::SessionConfigured { output, .. } if output == announced),
    );
    let heard = |name: &'static str, whole: bool| move |it: &Moment| matches!(it, Moment::CallerHeard { utterance: Some(n), complete, .. } if *n == name && *complete == whole);
    judge.count("caller hears the greeting to its end", timeline, calls, heard("greeting", true));
    let understood =
        |name: &'static str| move |it: &Moment| matches!(it, Moment::CallerUnderstood { utterance: Some(n), .. } if *n == name);
    judge.count("assistant understands the question", timeline, calls, understood("ask-hours"));
    judge.count("caller interrupts the answer in mid-sentence", timeline, calls, heard("hours", false));
    // Live speaks no faster than it plays and falls silent by itself: there is nothing to clear.
    if options.provider != Provider::Live {
        judge.count(
            "clear reaches Twilio while the caller speaks",
            timeline,
            calls,
            |it| matches!(it, Moment::Cleared { discarded_ms, after_speech_ms: Some(_) } if *discarded_ms <= 400),
        );
    }
    if openai {
        check_truncation(&mut judge, timeline, calls);
    } else {
        judge.count("provider knows that it was interrupted", timeline, calls, |it| {
            matches!(it, Moment::Interrupted { utterance: "hours", .. })
        });
    }
    judge.count("assistant understands the interruption", timeline, calls, understood("book"));
    judge.count("caller hears the new answer to its end", timeline, calls, heard("booked", true));
    judge.count("caller presses a key", timeline, calls, |it| matches!(it, Moment::KeyPressed { key: '9' }));
    judge.count(
        "assistant is told of the key",
        timeline,
        calls,
        |it| matches!(it, Moment::ToldInText { text } if text.contains("key 9")),
    );
    judge.count(
        "assistant calls end_call",
        timeline,
        calls,
        |it| matches!(it, Moment::ToolCalled { name } if name == "end_call"),
    );
    judge.count(
        "end_call is answered",
        timeline,
        calls,
        |it| matches!(it, Moment::ToolAnswered { name, .. } if name == "end_call"),
    );
    judge.count("caller hears the farewell to its end", timeline, calls, heard("farewell", true));
    judge.count("server closes the stream normally", timeline, calls, |it| *it == Moment::StreamClosed { code: Some(1000) });
    judge.count("next is answered with <Hangup/>", timeline, calls, webhook("/twilio/next/", "<Hangup/>"));
    judge.count("status callback is taken", timeline, calls, webhook("/twilio/status", ""));
    judge.count("provider session is closed with the call", timeline, calls, |it| {
        matches!(it, Moment::SessionClosed { code: Some(1000) })
    });
    let complaints: Vec<String> = timeline
        .moments()
        .iter()
        .filter(|it| {
            matches!(
                it.2,
                Moment::Warning { .. } | Moment::ClientError { .. } | Moment::StepFailed { .. } | Moment::SessionRefused { .. }
            )
        })
        .map(|it| it.2.to_string())
        .collect();
    judge.check("nobody complains", complaints.is_empty(), || complaints.join("; "));
    let unfinished = outcomes.iter().filter(|it| it.steps.0 != it.steps.1 || it.status != "completed").count();
    judge.check("every caller's script is done", unfinished == 0, || format!("{unfinished} of {calls} are not"));
    let live = stage.server.bridge.directory().live();
    judge.check("nothing is left behind", live == 0, || format!("{live} calls are still live"));
    let mut text = String::new();
    let scope = stage.server.store.tenant(TENANT);
    let rows = scope.calls(10_000).await?;
    judge.check("every call has its record", rows.len() == calls, || format!("{} records", rows.len()));
    for row in &rows {
        let record = Record {
            lines: scope.transcript(&row.id).await?,
            turns: scope.turns(&row.id).await?,
            recordings: scope.recordings(&row.id).await?,
            row: row.clone(),
        };
        let outcome = outcomes.iter().find(|it| it.call_sid == row.call_sid);
        check_record(&mut judge, &record, outcome, stage.speech);
        if calls == 1 {
            describe(&mut text, &record, &options.folder);
        }
    }
    if calls > 1 {
        // Per call the same steps; say each once, with the calls that failed it.
        judge.checks = merged(judge.checks);
        let _ = writeln!(text, "\n{calls} calls; database {}", options.folder.join("offhook.db").display());
    }
    Ok(Report { checks: judge.checks, text })
}

/// The provider was told what the caller really heard.
fn check_truncation(judge: &mut Judge, timeline: &Timeline, calls: usize) {
    let moments = timeline.moments();
    let told: Vec<usize> = moments
        .iter()
        .filter_map(|it| if let Moment::Truncated { utterance: "hours", heard_ms, .. } = it.2 { Some(heard_ms) } else { None })
        .collect();
    let heard: Vec<usize> = moments
        .iter()
        .filter_map(|it| {
            if let Moment::CallerHeard { utterance: Some("hours"), ms, complete: false } = it.2 { Some(ms) } else { None }
        })
        .collect();
    let near = |it: &usize| heard.iter().any(|ms| ms.abs_diff(*it) <= 150);
    let fits = told.len() == calls && told.iter().all(near);
    judge.check("answer is truncated to what was heard", fits, || {
        format!("the provider was told {told:?} ms, the callers heard {heard:?} ms")
    });
}

struct Record {
    row: CallRow,
    lines: Vec<Line>,
    turns: Vec<TurnRow>,
    recordings: Vec<RecordingRow>,
}

fn check_record(judge: &mut Judge, record: &Record, outcome: Option<&CallOutcome>, speech: Speech) {
    let row = &record.row;
    judge.check(
        "record: completed, ended by the assistant",
        row.status == "completed" && row.end_reason.as_deref() == Some("assistant_hung_up"),
        || format!("status {}, reason {:?}", row.status, row.end_reason),
    );
    let text = |utterances: &[sim::Utterance], name: &str| {
        utterances.iter().find(|it| it.name == name).map_or("", |it| it.text).to_owned()
    };
    let expected = [
        (Speaker::Assistant, text(speech.assistant, "greeting"), false),
        (Speaker::Caller, text(speech.caller, "ask-hours"), false),
        (Speaker::Assistant, text(speech.assistant, "hours"), true),
        (Speaker::Caller, text(speech.caller, "book"), false),
        (Speaker::Assistant, text(speech.assistant, "booked"), false),
        (Speaker::Assistant, text(speech.assistant, "farewell"), false),
    ];
    let fits = record.lines.len() == expected.len()
        && record.lines.iter().zip(&expected).all(|(line, (speaker, text, cut))| {
            line.speaker == *speaker
                && line.cut == *cut
                && if *cut { text.starts_with(&line.text) && line.text.len() < text.len() } else { line.text == *text }
        });
    judge.check("record: transcript of both sides in order, cut where the caller interrupted", fits, || {
        record
            .lines
            .iter()
            .map(|it| format!("{:?}: {}{}", it.speaker, it.text, if it.cut { " …" } else { "" }))
            .collect::<Vec<_>>()
            .join(" | ")
    });
    judge.check("record: a latency for every answer to the caller", record.turns.len() == 2, || {
        format!("{} latencies", record.turns.len())
    });
    let Some(outcome) = outcome else {
        return judge.check("record: belongs to a call", false, || "its call SID is unknown".into());
    };
    let missing = outcome.frames_sent.saturating_sub(row.frames_in);
    let whole = missing <= 10 && row.frames_in_dropped == 0;
    judge.check("record: no caller frame is missing or dropped", whole, || {
        format!("{} sent, {} came in, {} dropped", outcome.frames_sent, row.frames_in, row.frames_in_dropped)
    });
    let complete = record.recordings.iter().filter(|it| it.sha256.is_some()).count();
    judge.check("record: a recording of the call", record.recordings.len() == 1 && complete == 1, || {
        format!("{} recordings, {complete} with a checksum", record.recordings.len())
    });
    for recording in &record.recordings {
        match listen(Path::new(&recording.location), speech) {
            Ok((left, right)) => {
                judge.check("recording: the caller on the left", left == ["ask-hours", "book"], || format!("{left:?}"));
                judge.check(
                    "recording: what the caller heard on the right",
                    right == ["greeting", "hours", "booked", "farewell"],
                    || format!("{right:?}"),
                );
            }
            Err(error) => judge.check("recording: is readable", false, || error.to_string()),
        }
    }
}

/// What a listener recognises on the two channels.
fn listen(path: &Path, speech: Speech) -> Result<(Vec<&'static str>, Vec<&'static str>)> {
    let mut reader = Reader::open(File::open(path)?, Limits::FILE)?;
    anyhow::ensure!(reader.spec().channels == 2, "it has {} channels", reader.spec().channels);
    let samples = reader.read_all()?;
    let channel = |index: usize, known: &'static [sim::Utterance]| {
        let mut ear = Ear::new(known);
        let ulaw: Vec<u8> = samples.iter().skip(index).step_by(2).map(|it| sim::ulaw(*it)).collect();
        let mut heard: Vec<_> = ulaw.chunks(160).filter_map(|frame| ear.listen(frame)?.name).collect();
        heard.extend(ear.end().and_then(|it| it.name));
        heard
    };
    Ok((channel(0, speech.caller), channel(1, speech.assistant)))
}

fn describe(text: &mut String, record: &Record, folder: &Path) {
    let row = &record.row;
    let _ = writeln!(text, "\nTranscript");
    for line in &record.lines {
        let who = if line.speaker == Speaker::Caller { "caller" } else { "assistant" };
        let at = line.start_ms as f64 / 1000.0;
        let _ = writeln!(text, "  {at:>6.2} s  {who:<9}  {}{}", line.text, if line.cut { " … (interrupted)" } else { "" });
    }
    let _ = writeln!(text, "\nLatency of each answer: caller's last word → first sound, in ms");
    let _ = writeln!(text, "  {:>12} {:>12} {:>12} {:>12} {:>12}", "end of turn", "thinking", "offhook", "at Twilio", "= total");
    for turn in &record.turns {
        let parts = [turn.endpointing_us, turn.thinking_us, turn.bridging_us, turn.playout_us];
        let ms = |us: u64| us as f64 / 1000.0;
        let total: u64 = parts.iter().sum();
        let [a, b, c, d] = parts.map(ms);
        let _ = writeln!(text, "  {a:>12.1} {b:>12.1} {c:>12.1} {d:>12.1} {:>12.1}", ms(total));
    }
    let _ = writeln!(
        text,
        "\nFrames of 20 ms: {} from the caller ({} dropped), {} to the caller; {} ms of assistant audio dropped after the interruption",
        row.frames_in, row.frames_in_dropped, row.frames_out, row.assistant_ms_dropped
    );
    let _ = writeln!(
        text,
        "Caller frames arrived with {:.1} ms of jitter, at most {} ms apart",
        row.jitter_us as f64 / 1000.0,
        row.longest_gap_ms
    );
    if let (Some(speech), Some(noise)) = (row.speech_dbfs, row.noise_dbfs) {
        let (snr, clipped) = (speech - noise, row.clipped_samples);
        let _ = writeln!(text, "The caller's line: speech at {speech} dBFS, {snr} dB above the noise, {clipped} samples clipped");
    }
    for recording in &record.recordings {
        let _ = writeln!(text, "Recording: {} ({:.1} s, two channels)", recording.location, recording.length_ms as f64 / 1000.0);
    }
    let _ = writeln!(text, "Database:  {}", folder.join("offhook.db").display());
}

/// The checks of many calls, each step once.
fn merged(checks: Vec<Check>) -> Vec<Check> {
    let mut merged: Vec<Check> = Vec::new();
    for check in checks {
        match merged.iter_mut().find(|it| it.step == check.step) {
            Some(known) => {
                if known.found.is_ok() {
                    known.found = check.found;
                }
            }
            None => merged.push(check),
        }
    }
    merged
}
