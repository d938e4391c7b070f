//! The journal and SQL together: nothing acknowledged is lost, nothing is there twice, tenants see only their own.

mod common;

use common::{POSTGRES, Place, apply, entry, on_both, ringing, said, status};
use store::{Entry, Fact, Journal, Position, Store};

#[tokio::test]
async fn acknowledged_facts_survive_a_process_that_never_delivered() {
    on_both(async |place| {
        {
            // A database that refuses everything stands for one that is down.
            let away = place.store().await;
            away.close().await;
            let (journal, tasks) = Journal::open(place.journal(), away).await.unwrap();
            journal.commit(entry("t", "1", 0, 0, ringing("1"))).await.unwrap();
            for seq in 1..=100 {
                journal.commit(entry("t", "1", 0, seq, said(&format!("line {seq}")))).await.unwrap();
            }
            assert!(journal.undelivered() > 0);
            drop(tasks);
        }
        let store = Store::open(&place.url).await.unwrap();
        let (journal, tasks) = Journal::open(place.journal(), store.clone()).await.unwrap();
        let lines: Vec<String> = store.tenant("t").transcript("1").await.unwrap().into_iter().map(|it| it.text).collect();
        assert_eq!(lines.len(), 100);
        assert_eq!((journal.undelivered(), journal.lost(), journal.rejected()), (0, 0, 0));
        drop(journal);
        tasks.finished().await;
    })
    .await;
}

/// One that rings, and 500 lines of what was said.
fn append_a_call(journal: &Journal) {
    journal.append(entry("t", "1", 0, 0, ringing("1")));
    for seq in 1..=500 {
        journal.append(entry("t", "1", 0, seq, said("hello")));
    }
}

#[tokio::test]
async fn facts_of_the_last_moment_are_delivered_and_the_tasks_end() {
    on_both(async |place| {
        let store = place.store().await;
        let (journal, tasks) = Journal::open(place.journal(), store.clone()).await.unwrap();
        append_a_call(&journal);
        // Nobody is left to watch when they reach the disk.
        drop(journal);
        tasks.finished().await;
        assert_eq!(store.tenant("t").transcript("1").await.unwrap().len(), 500);
    })
    .await;
}

#[tokio::test]
async fn what_was_appended_before_a_flush_is_in_sql_behind_it() {
    on_both(async |place| {
        let store = place.store().await;
        let (journal, tasks) = Journal::open(place.journal(), store.clone()).await.unwrap();
        append_a_call(&journal);
        // Nothing of it was written yet.
        journal.flush().await;
        assert_eq!(store.tenant("t").transcript("1").await.unwrap().len(), 500);
        drop(journal);
        tasks.finished().await;
    })
    .await;
}

#[tokio::test]
async fn delivering_twice_changes_nothing() {
    on_both(async |place| {
        let store = place.store().await;
        let facts = [
            entry("t", "1", 0, 0, ringing("1")),
            entry("t", "1", 0, 1, said("hello")),
            entry("t", "1", 0, 2, status("completed", 5)),
        ];
        let to = Position { segment: 1, bytes: 7 };
        store.apply("a", &facts, to).await.unwrap();
        let before = store.tenant("t").call("1").await.unwrap();
        store.apply("a", &facts, to).await.unwrap();
        assert!(store.tenant("t").call("1").await.unwrap() == before);
        assert_eq!(store.tenant("t").transcript("1").await.unwrap().len(), 1);
        assert_eq!(store.position("a").await.unwrap(), to);
        assert_eq!(store.position("of another node").await.unwrap(), Position::default());
    })
    .await;
}

#[tokio::test]
async fn a_late_status_never_reopens_a_call() {
    on_both(async |place| {
        let store = place.store().await;
        let order = [("ringing", 3), ("completed", 5), ("in-progress", 4), ("busy", 5), ("queued", 1)];
        let mut facts = vec![entry("t", "1", 0, 0, ringing("1"))];
        facts.extend(order.iter().zip(1..).map(|((name, rank), seq)| entry("t", "1", 0, seq, status(name, *rank))));
        apply(&store, &facts).await;
        let call = store.tenant("t").call("1").await.unwrap().unwrap();
        assert_eq!((call.status.as_str(), call.duration_s), ("completed", Some(42)));
    })
    .await;
}

#[tokio::test]
async fn the_end_of_a_stream_adds_up_and_keeps_the_worst() {
    on_both(async |place| {
        let store = place.store().await;
        let ended = |stream, jitter_us, mos: Option<u32>| Fact::Ended {
            stream,
            reason: "caller_lost".into(),
            blame: "telephone".into(),
            duration_ms: 1000,
            frames_in: 50,
            frames_in_dropped: 1,
            frames_out: 40,
            assistant_ms_dropped: 20,
            underruns: 2,
            jitter_us,
            longest_gap_ms: jitter_us / 10,
            interruptions: 1,
            input_tokens: 100,
            cached_tokens: 10,
            output_tokens: 200,
            false_alarms: 1,
            echoes: 2,
            mos_hundredths: mos,
            speech_dbfs: (stream == 0).then_some(-20),
            noise_dbfs: Some(-60),
            clipped_samples: 3,
        };
        let facts = [
            entry("t", "1", 0, 0, ringing("1")),
            entry("t", "1", 0, 1, Fact::StreamStarted { stream_sid: "MZ1".into() }),
            entry("t", "1", 0, 2, Fact::FirstAudio { after_ms: 210 }),
            entry("t", "1", 0, 3, ended(0, 900, Some(410))),
            entry("t", "1", 1, 0, Fact::Claimed { node: "n2".into() }),
            entry("t", "1", 1, 1, Fact::FirstAudio { after_ms: 50 }),
            entry("t", "1", 1, 2, ended(1, 300, None)),
            entry("t", "1", 1, 3, ended(1, 300, Some(390))),
        ];
        apply(&store, &facts).await;
        let call = store.tenant("t").call("1").await.unwrap().unwrap();
        assert_eq!((call.frames_in, call.frames_out, call.underruns, call.cached_tokens), (150, 120, 6, 30));
        assert_eq!((call.jitter_us, call.longest_gap_ms, call.mos_hundredths), (900, 90, Some(390)));
        assert_eq!((call.speech_dbfs, call.noise_dbfs, call.clipped_samples), (Some(-20), Some(-60), 9));
        assert_eq!((call.first_audio_ms, call.resumes, call.last_seq, call.epoch), (Some(210), 1, Some(3), 1));
        assert_eq!(call.status, "in-progress");
    })
    .await;
}

#[tokio::test]
async fn a_call_is_claimed_by_one() {
    on_both(async |place| {
        let store = place.store().await;
        apply(&store, &[entry("t", "1", 0, 0, ringing("1"))]).await;
        let scope = store.tenant("t");
        let (first, second) = tokio::join!(scope.claim("1", 0, "n1"), scope.claim("1", 0, "n2"));
        assert!(first.unwrap() ^ second.unwrap());
        assert!(!scope.claim("1", 0, "n3").await.unwrap());
        assert_eq!(scope.call("1").await.unwrap().unwrap().epoch, 1);
        // The journalled claim of the winner, delivered later, does not raise it again.
        apply(&store, &[entry("t", "1", 1, 0, Fact::Claimed { node: "n1".into() })]).await;
        let call = scope.call("1").await.unwrap().unwrap();
        assert_eq!((call.epoch, call.resumes), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn tenants_see_only_their_own() {
    on_both(async |place| {
        let store = place.store().await;
        let tool = Fact::ToolCalled { id: "x".into(), name: "canary".into(), arguments: "{}".into() };
        let turn = Fact::Turn { endpointing_us: 1, thinking_us: 2, bridging_us: 3, playout_us: 4 };
        let recorded = Fact::Recorded { stream: 0, location: "canary".into(), channels: 2, length_ms: 1, sha256: None };
        let message = Fact::Message { name: None, number: None, text: "canary".into() };
        let facts: Vec<Entry> = [ringing("1"), said("canary"), tool, turn, recorded, message]
            .into_iter()
            .zip(0..)
            .map(|(fact, seq)| entry("a", "1", 0, seq, fact))
            .collect();
        apply(&store, &facts).await;
        for (tenant, expected) in [("a", 1), ("b", 0), ("", 0), ("a' OR '1'='1", 0), ("*", 0)] {
            let scope = store.tenant(tenant);
            assert_eq!(scope.calls(10).await.unwrap().len(), expected);
            assert_eq!(usize::from(scope.call("1").await.unwrap().is_some()), expected);
            assert_eq!(scope.transcript("1").await.unwrap().len(), expected);
            assert_eq!(scope.turns("1").await.unwrap().len(), expected);
            assert_eq!(scope.tool_calls("1").await.unwrap().len(), expected);
            assert_eq!(scope.recordings("1").await.unwrap().len(), expected);
            assert_eq!(scope.messages(10).await.unwrap().len(), expected);
            assert_eq!(usize::from(scope.claim("1", 0, "n").await.unwrap()), expected);
        }
    })
    .await;
}

#[tokio::test]
async fn what_no_database_can_hold_stops_nothing() {
    on_both(async |place| {
        let store = place.store().await;
        let (journal, tasks) = Journal::open(place.journal(), store.clone()).await.unwrap();
        journal.append(entry("t", "1", 0, 0, ringing("1")));
        // PostgreSQL's texts have no NUL.
        journal.append(entry("t", "1", 0, 1, said("a\0b")));
        // A number beyond what a database counts to.
        journal.append(entry(
            "t",
            "1",
            0,
            2,
            Fact::Turn { endpointing_us: u64::MAX, thinking_us: 0, bridging_us: 0, playout_us: 0 },
        ));
        journal.append(entry("t", "1", 0, 3, said("goes on")));
        drop(journal);
        tasks.finished().await;
        let lines: Vec<String> = store.tenant("t").transcript("1").await.unwrap().into_iter().map(|it| it.text).collect();
        assert_eq!(lines, ["a\u{FFFD}b", "goes on"]);
    })
    .await;
}

#[tokio::test]
async fn a_fact_that_postgresql_refuses_is_put_aside_and_the_others_arrive() {
    let place = Place::postgres();
    let store = place.store().await;
    let database = place.database.as_deref().unwrap();
    POSTGRES.sql(database, "ALTER TABLE transcript ADD CONSTRAINT no_bad CHECK (text <> 'bad')");
    let (journal, tasks) = Journal::open(place.journal(), store.clone()).await.unwrap();
    journal.append(entry("t", "1", 0, 0, ringing("1")));
    for seq in 1..=300 {
        journal.append(entry("t", "1", 0, seq, said(if seq == 150 { "bad" } else { "good" })));
    }
    let watch = journal.clone();
    drop(journal);
    let finished = async {
        watch.flush().await;
        watch.rejected()
    };
    // The last handle is gone when this is known.
    let rejected = tokio::time::timeout(std::time::Duration::from_secs(60), finished).await.unwrap();
    drop(watch);
    tasks.finished().await;
    assert_eq!(store.tenant("t").transcript("1").await.unwrap().len(), 299);
    assert_eq!(rejected, 1);
    let kept = std::fs::read_to_string(place.journal().join("rejected.jsonl")).unwrap();
    assert_eq!(kept.lines().count(), 1);
    assert!(kept.contains("\"text\":\"bad\""));
}

#[tokio::test]
async fn a_foreign_address_is_named_without_its_secrets() {
    let error = Store::open("mysql://user:secret@host/db").await.unwrap_err().to_string();
    assert!(error.contains("mysql") && !error.contains("secret"), "{error}");
}
