//! Real processes, real sockets, real time: a call survives the death of the server, and its orderly end.

use std::path::Path;
use std::time::Duration;

use dialer::{Cluster, Report, faults};
use media::file::{Limits, Reader};
use sim::{CallOutcome, Moment};
use store::{Line, Speaker, Store};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(30);

const STORY: &str = "
    hear greeting
    say ask-hours
    hear resumed
    say book
    hear booked
    press 9
    hear farewell
";

fn offhook() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_offhook"))
}

/// One server with its own database.
async fn alone() -> Cluster {
    Cluster::new(offhook(), 1, None).await.unwrap()
}

/// Waits until the caller's question is answered and its transcript line has reached the database.
async fn question_is_on_record(cluster: &Cluster) -> Vec<Line> {
    let store = cluster.open().await.unwrap();
    let lines = timeout(PATIENCE, async {
        loop {
            let speaking = cluster.timeline.count(|it| matches!(it, Moment::SpeaksTo { utterance: "hours" })) == 1;
            let calls = store.tenant("default").calls(1).await.unwrap();
            if let (true, Some(call)) = (speaking, calls.first()) {
                let lines = store.tenant("default").transcript(&call.id).await.unwrap();
                if lines.len() == 2 {
                    return lines;
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("two lines are on record");
    store.close().await;
    lines
}

async fn story_went_on(cluster: &Cluster, outcome: &CallOutcome, before: &[Line]) {
    let moments = cluster.story();
    assert_eq!((outcome.steps.0, outcome.streams), (outcome.steps.1, 2), "{moments}");
    let replayed = cluster.timeline.count(|it| matches!(it, Moment::Replayed { items } if *items >= 2));
    assert_eq!(replayed, 1, "the new session is told what was said\n{moments}");
    let store = cluster.open().await.unwrap();
    let scope = store.tenant("default");
    let call = scope.calls(10).await.unwrap();
    assert_eq!(call.len(), 1, "one call, one record");
    let call = &call[0];
    assert_eq!((call.epoch, call.status.as_str(), call.end_reason.as_deref()), (1, "completed", Some("assistant_hung_up")));
    let after = scope.transcript(&call.id).await.unwrap();
    assert!(before.iter().all(|line| after.contains(line)), "an acknowledged line is lost");
    let said: Vec<&str> =
        after.iter().filter(|it| it.epoch == 1 && it.speaker == Speaker::Assistant).map(|it| it.text.as_str()).collect();
    assert_eq!(said.len(), 3, "{said:?}");
    let recordings = scope.recordings(&call.id).await.unwrap();
    assert_eq!(recordings.iter().map(|it| it.epoch).collect::<Vec<_>>(), [0, 1]);
    for it in &recordings {
        // Also the one whose process was killed is known, and can be played up to the last second.
        let file = std::fs::File::open(&it.location).unwrap();
        let length_s = Reader::open(file, Limits::FILE).unwrap().read_all().unwrap().len() / 16_000;
        assert!(length_s >= 5, "{} s: {}", length_s, it.location);
    }
    store.close().await;
}

async fn download(cluster: &Cluster, path: &str) -> (u16, Vec<u8>) {
    let mut socket = tokio::net::TcpStream::connect(cluster.address).await.unwrap();
    socket.write_all(format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    let body = answer.windows(4).position(|it| it == b"\r\n\r\n").unwrap() + 4;
    let status = std::str::from_utf8(&answer[9..12]).unwrap().parse().unwrap();
    (status, answer.split_off(body))
}

/// Prints what a run found; every goal of it is met.
fn judge(report: &Report) {
    println!("{report}");
    assert!(report.holds(), "{report}");
}

#[tokio::test]
async fn a_call_survives_sigkill() {
    let scene = alone().await;
    let mut first = scene.start(0).await.unwrap();
    let call = scene.ring(STORY).unwrap();
    let before = question_is_on_record(&scene).await;
    // tokio's kill is SIGKILL.
    first.kill().await.unwrap();
    let second = scene.start(0).await.unwrap();
    let outcome = timeout(Duration::from_secs(60), call).await.unwrap().unwrap();
    // Somebody who listened in sends the first webhook again: it disturbs nothing and opens nothing.
    let document = scene.replay_voice_webhook(&outcome.call_sid).await.unwrap();
    assert!(document.contains("<Hangup/>") && !document.contains("<Stream"), "{document}");
    scene.end(second).await.unwrap();
    story_went_on(&scene, &outcome, &before).await;
    let lost = scene.timeline.count(|it| matches!(it, Moment::Warning { code: 31_903, .. }));
    assert_eq!(lost, 1, "Twilio saw the process die");
}

#[tokio::test]
async fn a_call_goes_on_with_the_next_process_after_sigterm() {
    let scene = alone().await;
    let first = scene.start(0).await.unwrap();
    let call = scene.ring(STORY).unwrap();
    let before = question_is_on_record(&scene).await;
    scene.end(first).await.unwrap();
    let second = scene.start(0).await.unwrap();
    let outcome = timeout(Duration::from_secs(60), call).await.unwrap().unwrap();
    scene.end(second).await.unwrap();
    story_went_on(&scene, &outcome, &before).await;
    let cut = scene.timeline.count(|it| matches!(it, Moment::Warning { code: 31_903, .. }));
    assert_eq!(cut, 0, "the stream was closed in order");
    assert_eq!(scene.ask(scene.address, "/health").await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_a_killed_node_go_on_with_the_other_one() {
    judge(&faults::kill9(offhook(), 6).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_do_not_notice_a_database_that_hangs_and_dies_and_it_misses_nothing() {
    // F12, F13, F21, G8.
    let away = Duration::from_secs(10);
    judge(&faults::database(offhook(), 4, away, faults::How::FreezeAndKill).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recordings_reach_a_bucket_that_was_away() {
    // F15
    judge(&faults::objects(offhook(), 2, Duration::ZERO).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_node_twilio_asks_knows_how_a_call_ended() {
    const CALLS: usize = 6;
    let postgres = testbed::Postgres::start();
    let database = postgres.url(&postgres.database());
    Store::migrate(&database, None).await.unwrap();
    let mut scene = Cluster::new(offhook(), 2, Some(database)).await.unwrap();
    scene.objects = scene.folder.path().join("objects").display().to_string();
    let nodes = [scene.start(0).await.unwrap(), scene.start(1).await.unwrap()];
    let story = "hear greeting\nsay book\nhear booked\npress 9\nhear farewell";
    let calls: Vec<_> = (0..CALLS).map(|_| scene.ring(story).unwrap()).collect();
    // Somebody sends the first webhook of live calls again, to either node: no call leaves the node that has it.
    timeout(PATIENCE, async {
        while scene.timeline.count(|it| matches!(it, Moment::CallerHeard { utterance: Some("greeting"), .. })) < CALLS {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .unwrap();
    let store = scene.open().await.unwrap();
    let mut turned_away = 0;
    for call in store.tenant("default").calls(100).await.unwrap() {
        for _ in 0..2 {
            turned_away += usize::from(scene.replay_voice_webhook(&call.call_sid).await.unwrap().contains("<Hangup/>"));
        }
    }
    assert!(turned_away > 0, "the node that has not answered the call was asked too");
    for call in calls {
        let outcome = timeout(Duration::from_secs(60), call).await.unwrap().unwrap();
        assert_eq!((outcome.steps, outcome.streams), ((5, 5), 1), "{}", scene.story());
    }
    let listed = scene.command(&["nodes"]).await.unwrap();
    assert_eq!(listed.lines().filter(|it| it.contains("taking calls")).count(), 2, "{listed}");
    // Recordings leave the disks of calls, and are downloaded from whichever node is asked.
    timeout(PATIENCE, async {
        while store.all_jobs(Some("done"), 100).await.unwrap().len() < CALLS {
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("every recording is kept");
    for call in store.tenant("default").calls(100).await.unwrap() {
        let listed = scene.command(&["recordings", &call.id]).await.unwrap();
        let path = listed.trim().rsplit_once(&scene.address.to_string()).unwrap().1;
        let (status, bytes) = download(&scene, path).await;
        assert_eq!((status, &bytes[..4]), (200, &b"RIFF"[..]), "{listed}");
        let mut reader = Reader::open(std::io::Cursor::new(bytes), Limits::FILE).unwrap();
        assert!(reader.read_all().unwrap().len() > 10 * 16_000);
        assert_eq!(download(&scene, &format!("{path}x")).await.0, 404);
    }
    let left = std::fs::read_dir(scene.data(0).join("recordings/default")).unwrap().count();
    assert_eq!(left, 0);
    let listed = scene.command(&["jobs", "list"]).await.unwrap();
    assert_eq!(listed.lines().count(), CALLS, "{listed}");
    assert!(scene.command(&["journal", "cat"]).await.unwrap().lines().all(|it| it.starts_with('{')));
    let erased = scene.command(&["erase", "+15550100001"]).await.unwrap();
    assert!(erased.contains(&format!("{CALLS} calls, {CALLS} files")), "{erased}");
    for node in nodes {
        scene.end(node).await.unwrap();
    }
    for call in store.tenant("default").calls(100).await.unwrap() {
        assert_eq!((call.epoch, call.end_reason.as_deref(), call.status.as_str()), (0, Some("assistant_hung_up"), "completed"));
        assert_eq!((store.tenant("default").transcript(&call.id).await.unwrap().len(), call.from_number), (0, None), "erased");
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_number_is_answered_within_its_cap_and_while_the_database_is_away() {
    // F12: what was published is known for a day.
    const WAITING: &str = "hear greeting\nwait 60000ms";
    let mut postgres = testbed::Postgres::start();
    let database = postgres.url(&postgres.database());
    Store::migrate(&database, None).await.unwrap();
    let scene = Cluster::new(offhook(), 1, Some(database)).await.unwrap();
    let mut server = scene.start(0).await.unwrap();
    let file = scene.folder.path().join("dental.toml");
    std::fs::write(&file, "calls_max = 1\n[assistants.desk]\n[numbers.\"+15550100002\"]\nassistant = \"desk\"\n").unwrap();
    let publish = ["configuration", "publish", "--tenant", "dental", file.to_str().unwrap()];
    assert!(scene.command(&publish).await.unwrap().contains("version 1"));
    let snapshot = scene.data(0).join("configuration.json");
    timeout(PATIENCE, async {
        while !std::fs::read_to_string(&snapshot).is_ok_and(|it| it.contains("dental")) {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the server takes what is published");
    let greeted = |calls: usize| {
        let heard = |it: &Moment| matches!(it, Moment::CallerHeard { utterance: Some("greeting"), .. });
        let timeline = scene.timeline.clone();
        timeout(PATIENCE, async move {
            while timeline.count(heard) < calls {
                sleep(Duration::from_millis(20)).await;
            }
        })
    };
    let store = scene.open().await.unwrap();
    let dental = store.tenant("dental");
    let first = scene.ring(WAITING).unwrap();
    greeted(1).await.expect("the first call is answered");
    let second = timeout(PATIENCE, scene.ring(WAITING).unwrap()).await.unwrap().unwrap();
    assert_eq!(second.streams, 0, "the second one hears that all lines are busy\n{}", scene.story());
    let id = dental.calls(1).await.unwrap()[0].id.clone();
    scene.command(&["order", &id, "hang-up", "--tenant", "dental"]).await.unwrap();
    timeout(PATIENCE, first).await.unwrap().unwrap();
    timeout(PATIENCE, async {
        while dental.used("calls").await.unwrap() != Some((0, 1)) {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("its place is given back");
    postgres.kill();
    server.kill().await.unwrap();
    let server = scene.start(0).await.unwrap();
    let third = scene.ring(WAITING).unwrap();
    greeted(2).await.expect("a server that starts without database answers");
    postgres.restart();
    timeout(PATIENCE, async {
        while dental.calls(10).await.map_or(0, |it| it.len()) < 2 {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("the call is on record, as the tenant's");
    scene.end(server).await.unwrap();
    third.abort();
    store.close().await;
}

#[tokio::test]
async fn an_operator_orders_a_live_call_from_another_process() {
    let scene = alone().await;
    let server = scene.start(0).await.unwrap();
    let call = scene.ring("hear greeting\nwait 60000ms").unwrap();
    let store = scene.open().await.unwrap();
    let id = timeout(PATIENCE, async {
        loop {
            let spoken = scene.timeline.count(|it| matches!(it, Moment::CallerHeard { utterance: Some("greeting"), .. })) == 1;
            match store.tenant("default").calls(1).await.unwrap().pop() {
                Some(call) if spoken => return call.id,
                _ => sleep(Duration::from_millis(50)).await,
            }
        }
    })
    .await
    .unwrap();
    scene.command(&["order", &id, "hang-up"]).await.unwrap();
    let outcome = timeout(PATIENCE, call).await.unwrap().unwrap();
    assert!(outcome.status == "completed" && outcome.duration < Duration::from_secs(30), "{}", scene.story());
    scene.end(server).await.unwrap();
    let row = store.tenant("default").call(&id).await.unwrap().unwrap();
    assert_eq!(row.end_reason.as_deref(), Some("hung_up_from_outside"));
    store.close().await;
}
