//! Real processes, real sockets, real time: a call survives the death of the server, and its orderly end.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dialer::{Cluster, Report, faults};
use futures::FutureExt as _;
use media::file::{Limits, Reader};
use sim::{CallOutcome, Lateness, Moment};
use store::{Line, Speaker, Store};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(60);

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

/// Tells a story. One that was disturbed by a machine that stood still says nothing about the server: it is told once more.
async fn undisturbed(story: impl AsyncFn()) {
    for attempt in 1.. {
        let lateness = Lateness::watch();
        let told = AssertUnwindSafe(story()).catch_unwind().await;
        match told {
            Ok(()) => return,
            Err(failure) if attempt == 3 || !lateness.is_disturbed() => resume_unwind(failure),
            Err(_) => println!("once more, because the machine stood still for {:?}", lateness.longest()),
        }
    }
}

/// Every goal of a run is met.
fn judge(report: anyhow::Result<Report>) {
    let report = report.unwrap();
    assert!(report.holds(), "{report}");
    println!("{report}");
}

/// The kernel notes what it was asked for, whether it has some to give or not.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn its_memory_is_to_lie_in_huge_pages() {
    let scene = alone().await;
    let server = scene.start(0).await.unwrap();
    let ranges = std::fs::read_to_string(format!("/proc/{}/smaps", server.id().unwrap())).unwrap();
    scene.end(server).await.unwrap();
    let huge = |line: &str| line.starts_with("VmFlags:") && line.split_ascii_whitespace().any(|it| it == "hg");
    assert!(ranges.lines().any(huge), "{ranges}");
}

#[tokio::test]
async fn a_call_survives_sigkill() {
    undisturbed(async || {
        let scene = alone().await;
        let mut first = scene.start(0).await.unwrap();
        let call = scene.ring(faults::LOST_AND_RESUMED).unwrap();
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
    })
    .await;
}

#[tokio::test]
async fn a_call_goes_on_with_the_next_process_after_sigterm() {
    undisturbed(async || {
        let scene = alone().await;
        let first = scene.start(0).await.unwrap();
        let call = scene.ring(faults::LOST_AND_RESUMED).unwrap();
        let before = question_is_on_record(&scene).await;
        scene.end(first).await.unwrap();
        let second = scene.start(0).await.unwrap();
        let outcome = timeout(Duration::from_secs(60), call).await.unwrap().unwrap();
        scene.end(second).await.unwrap();
        story_went_on(&scene, &outcome, &before).await;
        let cut = scene.timeline.count(|it| matches!(it, Moment::Warning { code: 31_903, .. }));
        assert_eq!(cut, 0, "the stream was closed in order");
        assert_eq!(scene.ask(scene.address, "/health").await, None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_a_killed_node_go_on_with_the_other_one() {
    undisturbed(async || {
        judge(faults::kill9(offhook(), 6).await);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_do_not_notice_a_database_that_hangs_and_dies_and_it_misses_nothing() {
    undisturbed(async || {
        // F12, F13, F21, G8.
        let away = Duration::from_secs(10);
        judge(faults::database(offhook(), 4, away, faults::How::FreezeAndKill).await);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recordings_reach_a_bucket_that_was_away() {
    undisturbed(async || {
        // F15
        judge(faults::objects(offhook(), 2, Duration::ZERO).await);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_node_twilio_asks_knows_how_a_call_ended() {
    undisturbed(async || {
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
            assert_eq!(
                (call.epoch, call.end_reason.as_deref(), call.status.as_str()),
                (0, Some("assistant_hung_up"), "completed")
            );
            assert_eq!(
                (store.tenant("default").transcript(&call.id).await.unwrap().len(), call.from_number),
                (0, None),
                "erased"
            );
        }
        store.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_number_is_answered_within_its_cap_and_while_the_database_is_away() {
    undisturbed(async || {
        // F12: what was published is known for a day.
        const WAITING: &str = "hear greeting\nwait 60000ms";
        let mut postgres = testbed::Postgres::start();
        let database = postgres.url(&postgres.database());
        Store::migrate(&database, None).await.unwrap();
        let scene = Cluster::new(offhook(), 1, Some(database)).await.unwrap();
        let mut server = scene.start(0).await.unwrap();
        publish(&scene, 1, "calls_max = 1\n[assistants.desk]\n[numbers.\"+15550100002\"]\nroute = \"desk\"\n").await;
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
    })
    .await;
}

/// Publishes a tenant's document and waits until the server has taken it.
async fn publish(scene: &Cluster, version: u32, document: &str) {
    let file = scene.folder.path().join("dental.toml");
    std::fs::write(&file, document).unwrap();
    scene.command(&["configuration", "publish", "--tenant", "dental", file.to_str().unwrap()]).await.unwrap();
    let snapshot = scene.data(0).join("configuration.json");
    timeout(PATIENCE, async {
        while !std::fs::read_to_string(&snapshot).is_ok_and(|it| it.contains(&format!("\"version\":{version},"))) {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the server takes what is published");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_has_a_ladder_of_people_assistants_and_sentences_by_opening_hours() {
    undisturbed(async || {
        const WAITING: &str = "wait 60000ms";
        const ROUTES: &str = "[assistants.desk]
        [routes.reception]
        kind = \"dial\"
        number = \"+15550100050\"
        [routes.sorry]
        kind = \"message\"
        text = \"We are closed.\"
        [routes.hours]
        kind = \"schedule\"
        time_zone = \"Europe/Bucharest\"
        hours = []
        open = \"desk\"
        closed = \"sorry\"
        [numbers.\"+15550100002\"]\n";
        let mut scene = alone().await;
        let server = scene.start(0).await.unwrap();
        let timeline = scene.timeline.clone();
        let dialled = || timeline.count(|it| matches!(it, Moment::Dialled { .. }));
        let said = || timeline.count(|it| matches!(it, Moment::Webhook { answer, .. } if answer == "<Say> <Hangup/>"));
        // Somebody whose number is not in service, then the assistant.
        publish(&scene, 1, &format!("{ROUTES} route = \"reception\"\n fallback = [\"desk\"]")).await;
        let outcome = timeout(PATIENCE, scene.ring("hear greeting\npress 9\nhear farewell").unwrap()).await.unwrap().unwrap();
        assert_eq!((outcome.steps, outcome.streams, dialled(), said()), ((3, 3), 1, 1, 0), "{}", scene.story());
        // Never open: a sentence, and nobody is rung.
        publish(&scene, 2, &format!("{ROUTES} route = \"hours\"")).await;
        let outcome = timeout(PATIENCE, scene.ring(WAITING).unwrap()).await.unwrap().unwrap();
        assert_eq!((outcome.streams, outcome.status, dialled(), said()), (0, "completed", 1, 1), "{}", scene.story());
        // A caller who is not wanted is turned away, unless it is somebody who is answered otherwise.
        let callers = "block = [\"+1555*\"]";
        publish(&scene, 3, &format!("{ROUTES} route = \"desk\"\n [callers]\n {callers}")).await;
        let outcome = timeout(PATIENCE, scene.ring(WAITING).unwrap()).await.unwrap().unwrap();
        assert_eq!((outcome.streams, outcome.status, said()), (0, "busy", 1), "{}", scene.story());
        let callers = format!("{callers}\n vip = [\"+15550100001\"]\n vip_route = \"sorry\"");
        publish(&scene, 4, &format!("{ROUTES} route = \"desk\"\n [callers]\n {callers}")).await;
        let outcome = timeout(PATIENCE, scene.ring(WAITING).unwrap()).await.unwrap().unwrap();
        assert_eq!((outcome.streams, outcome.status, said()), (0, "completed", 2), "{}", scene.story());
        // No assistant can answer: people are tried, and no assistant again.
        scene.end(server).await.unwrap();
        scene.environment.push(("OPENAI_API_KEY".into(), "wrong".into()));
        let server = scene.start(0).await.unwrap();
        publish(&scene, 5, &format!("{ROUTES} route = \"desk\"\n fallback = [\"desk\", \"reception\", \"desk\", \"sorry\"]"))
            .await;
        let outcome = timeout(PATIENCE, scene.ring(WAITING).unwrap()).await.unwrap().unwrap();
        assert_eq!((outcome.streams, dialled(), said()), (1, 2, 3), "{}", scene.story());
        scene.end(server).await.unwrap();
        let store = scene.open().await.unwrap();
        let calls = store.tenant("dental").calls(10).await.unwrap();
        let mut found: Vec<_> = calls.iter().map(|it| (it.assistant.as_str(), it.status.as_str())).collect();
        found.sort();
        let expected = [("desk", "completed"), ("reception", "completed"), ("sorry", "completed"), ("sorry", "completed")];
        assert_eq!(found, expected, "each is on record, by what answered first");
        store.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_first_call_needs_is_looked_at_with_the_fix() {
    undisturbed(async || {
    // C-59: what cannot work is found before somebody calls.
    const ACCOUNT: &str = "AC00000000000000000000000000000001";
    let mut scene = alone().await;
    let voice = format!("http://{}/twilio/voice", scene.address);
    let status = format!("http://{}/twilio/status", scene.address);
    let drifts = Arc::<AtomicBool>::default();
    let moved = drifts.clone();
    let answer = move |uri: http::Uri| {
        let wired = serde_json::json!({"sid": "PN1", "phone_number": "+15550100002", "voice_url": voice, "status_callback": status, "voice_fallback_url": "https://static.example.com/sorry.xml"});
        let drifted = serde_json::json!({"sid": "PN2", "phone_number": "+15550100003", "voice_url": "https://old.example.com/"});
 let numbers = if moved.load(Ordering::Relaxed) { vec![wired, drifted] } else { vec![wired] };
        let body = match uri.path().rsplit('/').next() {
            Some("IncomingPhoneNumbers.json") => {
                serde_json::json!({"incoming_phone_numbers": numbers, "next_page_uri": null})
            }
            _ => serde_json::json!({"sid": ACCOUNT, "friendly_name": "x", "status": "active", "type": "Full"}),
        };
        async move { body.to_string() }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let twilio = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await });
    scene.environment = [("TWILIO_ACCOUNT_SID", ACCOUNT), ("TWILIO_API_BASE_URL", &twilio)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    // Before the server is started.
    let said = scene.command(&["doctor"]).await.unwrap_err().to_string();
    assert!(said.contains("offhook doctor"), "the exit code tells: {said}");
    let server = scene.start(0).await.unwrap();
    let found = |said: &str| -> Vec<(String, String, String)> {
        let findings: Vec<serde_json::Value> = serde_json::from_str(said).unwrap();
        let text = |it: &serde_json::Value| it.as_str().unwrap().to_owned();
        findings.iter().map(|it| (text(&it["check"]), text(&it["verdict"]), text(&it["found"]))).collect()
    };
    let said = scene.command(&["doctor", "--json"]).await.unwrap();
    let findings = found(&said);
    assert!(findings.iter().all(|it| it.0 != "OpenAI Live"), "nobody uses it: {findings:#?}");
    // The drifted number fails the whole; what is said comes on standard output nevertheless.
    drifts.store(true, Ordering::Relaxed);
    let said = scene.output(&["doctor", "--json"]).await.unwrap();
    assert_eq!(said.status.code(), Some(1));
    let findings = found(&String::from_utf8(said.stdout).unwrap());
    let of = |check: &str| findings.iter().filter(|it| it.0 == check).map(|it| it.1.as_str()).collect::<Vec<_>>();
    for check in ["settings", "disk", "database", "clock", "signatures", "media socket", "OpenAI", "Twilio account"] {
        assert_eq!(of(check), ["ok"], "{check}: {findings:#?}");
    }
    // Unencrypted, on loopback.
    assert_eq!((of("public address"), of("numbers")), (vec!["warning"], vec!["ok", "failed"]), "{findings:#?}");
    // Another token than the server's: as if a proxy had changed the address.
    scene.environment.push(("TWILIO_AUTH_TOKEN".into(), "another".into()));
    let said = scene.output(&["doctor"]).await.unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains("✗ signatures") && said.contains("a rightly signed request is refused"), "{said}");
    scene.environment.pop();
    scene.end(server).await.unwrap();
}).await;
}

#[tokio::test]
async fn an_operator_orders_a_live_call_from_another_process() {
    undisturbed(async || {
        let scene = alone().await;
        let server = scene.start(0).await.unwrap();
        let call = scene.ring("hear greeting\nwait 60000ms").unwrap();
        let store = scene.open().await.unwrap();
        let id = timeout(PATIENCE, async {
            loop {
                let spoken =
                    scene.timeline.count(|it| matches!(it, Moment::CallerHeard { utterance: Some("greeting"), .. })) == 1;
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
    })
    .await;
}
