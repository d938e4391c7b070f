//! The journal and SQL together: nothing acknowledged is lost, nothing is there twice, tenants see only their own.

use store::{Entry, Fact, Journal, Position, Speaker, Store};

fn entry(tenant: &str, call: &str, epoch: u32, seq: u64, fact: Fact) -> Entry {
    Entry { tenant: tenant.into(), call: call.into(), epoch, seq, at_ms: 1_000 + seq as i64, fact }
}

fn ringing(call: &str) -> Fact {
    Fact::Ringing {
        call_sid: format!("CA{call}"),
        account_sid: "AC1".into(),
        from: None,
        to: Some("+15550100002".into()),
        direction: "inbound".into(),
        api_version: None,
        forwarded_from: None,
        caller_name: None,
        assistant: "front-desk".into(),
        language: "en".into(),
        node: "n1".into(),
    }
}

fn said(text: &str) -> Fact {
    Fact::Said { speaker: Speaker::Caller, text: text.into(), start_ms: 10, end_ms: 20, cut: false }
}

fn status(status: &str, rank: i64) -> Fact {
    Fact::Status { status: status.into(), rank, terminal: rank == 5, duration_s: (rank == 5).then_some(42) }
}

fn url(folder: &tempfile::TempDir) -> String {
    format!("sqlite:{}", folder.path().join("offhook.db").display())
}

#[tokio::test]
async fn acknowledged_facts_survive_a_process_that_never_delivered() {
    let folder = tempfile::tempdir().unwrap();
    let journal_folder = folder.path().join("journal");
    {
        // A database that refuses everything stands for one that is down.
        let away = Store::open(&url(&folder)).await.unwrap();
        away.close().await;
        let (journal, tasks) = Journal::open(journal_folder.clone(), away).await.unwrap();
        journal.commit(entry("t", "1", 0, 0, ringing("1"))).await.unwrap();
        for seq in 1..=100 {
            journal.commit(entry("t", "1", 0, seq, said(&format!("line {seq}")))).await.unwrap();
        }
        assert!(journal.undelivered() > 0);
        drop(tasks);
    }
    let store = Store::open(&url(&folder)).await.unwrap();
    let (journal, tasks) = Journal::open(journal_folder, store.clone()).await.unwrap();
    let lines: Vec<String> = store.tenant("t").transcript("1").await.unwrap().into_iter().map(|it| it.text).collect();
    assert_eq!(lines.len(), 100);
    assert_eq!((journal.undelivered(), journal.lost()), (0, 0));
    drop(journal);
    tasks.finished().await;
}

#[tokio::test]
async fn facts_of_the_last_moment_are_delivered_and_the_tasks_end() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&url(&folder)).await.unwrap();
    let (journal, tasks) = Journal::open(folder.path().join("journal"), store.clone()).await.unwrap();
    journal.append(entry("t", "1", 0, 0, ringing("1")));
    for seq in 1..=500 {
        journal.append(entry("t", "1", 0, seq, said("hello")));
    }
    // Nobody is left to watch when they reach the disk.
    drop(journal);
    tasks.finished().await;
    assert_eq!(store.tenant("t").transcript("1").await.unwrap().len(), 500);
}

#[tokio::test]
async fn delivering_twice_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&url(&folder)).await.unwrap();
    let facts = [
        entry("t", "1", 0, 0, ringing("1")),
        entry("t", "1", 0, 1, said("hello")),
        entry("t", "1", 0, 2, status("completed", 5)),
    ];
    let to = Position { segment: 1, bytes: 7 };
    store.apply(&facts, to).await.unwrap();
    let before = store.tenant("t").call("1").await.unwrap();
    store.apply(&facts, to).await.unwrap();
    assert!(store.tenant("t").call("1").await.unwrap() == before);
    assert_eq!(store.tenant("t").transcript("1").await.unwrap().len(), 1);
    assert_eq!(store.position().await.unwrap(), to);
}

#[tokio::test]
async fn a_late_status_never_reopens_a_call() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&url(&folder)).await.unwrap();
    let order = [("ringing", 3), ("completed", 5), ("in-progress", 4), ("busy", 5), ("queued", 1)];
    let mut facts = vec![entry("t", "1", 0, 0, ringing("1"))];
    facts.extend(order.iter().zip(1..).map(|((name, rank), seq)| entry("t", "1", 0, seq, status(name, *rank))));
    store.apply(&facts, Position::default()).await.unwrap();
    let call = store.tenant("t").call("1").await.unwrap().unwrap();
    assert_eq!((call.status.as_str(), call.duration_s), ("completed", Some(42)));
}

#[tokio::test]
async fn a_call_is_claimed_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&url(&folder)).await.unwrap();
    store.apply(&[entry("t", "1", 0, 0, ringing("1"))], Position::default()).await.unwrap();
    let scope = store.tenant("t");
    let (first, second) = tokio::join!(scope.claim("1", 0, "n1"), scope.claim("1", 0, "n2"));
    assert!(first.unwrap() ^ second.unwrap());
    assert!(!scope.claim("1", 0, "n3").await.unwrap());
    assert_eq!(scope.call("1").await.unwrap().unwrap().epoch, 1);
    // The journalled claim of the winner, delivered later, does not raise it again.
    store.apply(&[entry("t", "1", 1, 0, Fact::Claimed { node: "n1".into() })], Position::default()).await.unwrap();
    let call = scope.call("1").await.unwrap().unwrap();
    assert_eq!((call.epoch, call.resumes), (1, 1));
}

#[tokio::test]
async fn tenants_see_only_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&url(&folder)).await.unwrap();
    let tool = Fact::ToolCalled { id: "x".into(), name: "canary".into(), arguments: "{}".into() };
    let turn = Fact::Turn { endpointing_us: 1, thinking_us: 2, bridging_us: 3, playout_us: 4 };
    let recorded = Fact::Recorded { stream: 0, location: "canary".into(), channels: 2, length_ms: 1, sha256: None };
    let facts: Vec<Entry> = [ringing("1"), said("canary"), tool, turn, recorded]
        .into_iter()
        .zip(0..)
        .map(|(fact, seq)| entry("a", "1", 0, seq, fact))
        .collect();
    store.apply(&facts, Position::default()).await.unwrap();
    for (tenant, expected) in [("a", 1), ("b", 0), ("", 0), ("a' OR '1'='1", 0)] {
        let scope = store.tenant(tenant);
        assert_eq!(scope.calls(10).await.unwrap().len(), expected);
        assert_eq!(usize::from(scope.call("1").await.unwrap().is_some()), expected);
        assert_eq!(scope.transcript("1").await.unwrap().len(), expected);
        assert_eq!(scope.turns("1").await.unwrap().len(), expected);
        assert_eq!(scope.tool_calls("1").await.unwrap().len(), expected);
        assert_eq!(scope.recordings("1").await.unwrap().len(), expected);
        assert_eq!(usize::from(scope.claim("1", 0, "n").await.unwrap()), expected);
    }
}

#[tokio::test]
async fn a_foreign_address_is_named_without_its_secrets() {
    let error = Store::open("postgres://user:secret@host/db").await.unwrap_err().to_string();
    assert!(error.contains("postgres") && !error.contains("secret"), "{error}");
}
