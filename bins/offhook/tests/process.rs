//! Real processes, real sockets, real time: a call survives the death of the server, and its orderly end.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use media::file::{Limits, Reader};
use sim::{
    AssistantScript, Balancer, Behaviour, CallOutcome, Moment, Network, OpenAi, OutputFormat, Speech, TelephoneNetwork, Timeline,
};
use store::{Line, Speaker, Store};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

const ACCOUNT: &str = "AC00000000000000000000000000000001";
const TOKEN: &str = "process-test-token";
const KEY: &str = "process-test-key";
const ENCRYPTION_KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
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

struct Scene {
    folder: tempfile::TempDir,
    /// Servers that may run.
    nodes: Vec<SocketAddr>,
    /// Where Twilio calls: the only server, or the balancer in front of them.
    address: SocketAddr,
    database: String,
    /// Where recordings are kept.
    objects: String,
    provider: SocketAddr,
    timeline: Timeline,
    stop: CancellationToken,
}

impl Scene {
    /// One server with its own database.
    async fn new() -> Self {
        Self::with(1, None).await
    }

    /// Several servers behind a balancer, on one database.
    async fn with(nodes: usize, database: Option<String>) -> Self {
        let timeline = Timeline::new(None);
        let script: AssistantScript = include_str!("../scenarios/demo.assistant").parse().unwrap();
        let behaviour = Arc::new(Behaviour::new(script, Speech::of("en").unwrap(), OutputFormat::Ulaw, KEY));
        let (listener, provider) = Network::Loopback.listen().await.unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(OpenAi { behaviour, timeline: timeline.clone() }.serve(listener, stop.clone()));
        // Ports that are free now; the servers take them next.
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let nodes: Vec<SocketAddr> =
            (0..nodes).map(|_| free()).collect::<Vec<_>>().iter().map(|it| it.local_addr().unwrap()).collect();
        let mut address = nodes[0];
        if nodes.len() > 1 {
            let front = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            address = front.local_addr().unwrap();
            tokio::spawn(Balancer { servers: nodes.clone() }.serve(front, stop.clone()));
        }
        let folder = tempfile::tempdir().unwrap();
        let database = database.unwrap_or_else(|| format!("sqlite:{}", folder.path().join("offhook.db").display()));
        Self { folder, nodes, address, database, objects: "none".into(), provider, timeline, stop }
    }

    fn data(&self, node: usize) -> PathBuf {
        self.folder.path().join(format!("node-{node}"))
    }

    /// Starts the first server.
    async fn server(&self) -> Child {
        self.start(0).await
    }

    /// Starts a server as an operator would and waits until it is ready.
    async fn start(&self, node: usize) -> Child {
        let child = Command::new(env!("CARGO_BIN_EXE_offhook"))
            .args(["serve", "--config", "/nonexistent/offhook.toml"])
            .env_clear()
            .env("OFFHOOK_LISTEN", self.nodes[node].to_string())
            .env("PUBLIC_URL", format!("http://{}", self.address))
            .env("OFFHOOK_NODE_URL", format!("http://{}", self.nodes[node]))
            .env("OFFHOOK_NODE", format!("node-{node}"))
            .env("OFFHOOK_DATA_DIR", self.data(node))
            .env("DATABASE_URL", &self.database)
            .env("OFFHOOK_OBJECTS", &self.objects)
            .env("OFFHOOK_ENCRYPTION_KEYS", ENCRYPTION_KEY)
            .env("OFFHOOK_DRAIN_SECONDS", "0")
            .env("OFFHOOK_LOG", "warn")
            .env("OFFHOOK_RECORDING", "true")
            .env("TWILIO_AUTH_TOKEN", TOKEN)
            .env("OPENAI_API_KEY", KEY)
            .env("OPENAI_REALTIME_URL", format!("ws://{}/v1/realtime", self.provider))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        timeout(PATIENCE, async {
            while self.ask(self.nodes[node], "/readyz").await != Some(200) {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .expect("the server becomes ready");
        child
    }

    async fn open(&self) -> Store {
        Store::open(&self.database).await.unwrap()
    }

    /// Runs a command as an operator would, beside the servers; returns what it prints.
    async fn command(&self, arguments: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_offhook"))
            .args(arguments)
            .env_clear()
            .env("PUBLIC_URL", format!("http://{}", self.address))
            .env("OFFHOOK_DATA_DIR", self.data(0))
            .env("DATABASE_URL", &self.database)
            .env("OFFHOOK_OBJECTS", &self.objects)
            .env("OFFHOOK_ENCRYPTION_KEYS", ENCRYPTION_KEY)
            .current_dir(self.folder.path())
            .output()
            .await
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    async fn download(&self, path: &str) -> (u16, Vec<u8>) {
        let mut socket = tokio::net::TcpStream::connect(self.address).await.unwrap();
        socket.write_all(format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.unwrap();
        let body = answer.windows(4).position(|it| it == b"\r\n\r\n").unwrap() + 4;
        let status = std::str::from_utf8(&answer[9..12]).unwrap().parse().unwrap();
        (status, answer.split_off(body))
    }

    async fn get(&self, path: &str) -> Option<u16> {
        self.ask(self.address, path).await
    }

    async fn ask(&self, server: SocketAddr, path: &str) -> Option<u16> {
        let request = hyper::Request::get(path).header("host", "test").body(Full::new(Bytes::new())).unwrap();
        sim::web::send(&Network::Loopback, "127.0.0.1", server.port(), request).await.ok().map(|it| it.status().as_u16())
    }

    async fn replayed_voice_webhook(&self, call_sid: &str) -> String {
        let parameters = [("CallSid", call_sid), ("AccountSid", ACCOUNT), ("To", "+15550100002"), ("CallStatus", "ringing")];
        let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let url = format!("http://{}/twilio/voice", self.address);
        let signature = twilio::sign(twilio::Algorithm::HmacSha1, TOKEN, &url, twilio::Body::Form(&parameters));
        let body =
            parameters.iter().map(|(name, value)| format!("{name}={}", value.replace('+', "%2B"))).collect::<Vec<_>>().join("&");
        let request = hyper::Request::post("/twilio/voice")
            .header("host", "test")
            .header("content-type", "application/x-www-form-urlencoded")
            .header("x-twilio-signature", signature)
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        let response = sim::web::send(&Network::Loopback, "127.0.0.1", self.address.port(), request).await.unwrap();
        assert_eq!(response.status(), 200);
        String::from_utf8_lossy(response.body()).into_owned()
    }

    fn ring(&self) -> tokio::task::JoinHandle<CallOutcome> {
        self.ring_with(STORY)
    }

    fn ring_with(&self, story: &'static str) -> tokio::task::JoinHandle<CallOutcome> {
        let telephone = TelephoneNetwork {
            net: Network::Loopback,
            timeline: self.timeline.clone(),
            account_sid: ACCOUNT.into(),
            auth_token: TOKEN.into(),
            voice_url: format!("http://{}/twilio/voice", self.address),
            status_url: format!("http://{}/twilio/status", self.address),
            speech: Speech::of("en").unwrap(),
            repeat_first_webhook: false,
            connecting: Duration::ZERO,
            people: Default::default(),
        };
        tokio::spawn(async move { telephone.ring("+15550100001", "+15550100002", story.parse().unwrap()).await })
    }

    /// Waits until the caller's question is answered and its transcript line has reached the database.
    async fn question_is_on_record(&self) -> Vec<Line> {
        let store = self.open().await;
        let lines = timeout(PATIENCE, async {
            loop {
                let speaking = self.timeline.count(|it| matches!(it, Moment::SpeaksTo { utterance: "hours" })) == 1;
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

    fn story(&self) -> String {
        let moments = self.timeline.moments();
        moments.iter().map(|it| format!("{:.3} {:?} {}\n", it.0.as_secs_f64(), it.1, it.2)).collect()
    }

    async fn story_went_on(&self, outcome: &CallOutcome, before: &[Line]) {
        let moments = self.story();
        assert_eq!((outcome.steps.0, outcome.streams), (outcome.steps.1, 2), "{moments}");
        let replayed = self.timeline.count(|it| matches!(it, Moment::Replayed { items } if *items >= 2));
        assert_eq!(replayed, 1, "the new session is told what was said\n{moments}");
        let store = self.open().await;
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
        self.stop.cancel();
    }
}

/// Ends a server as a supervisor would: SIGTERM, and an exit code that says that nothing is left.
async fn end(mut server: Child) {
    let pid = server.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    let status = timeout(PATIENCE, server.wait()).await.expect("it ends by itself").unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn a_call_survives_sigkill() {
    let scene = Scene::new().await;
    let mut first = scene.server().await;
    let call = scene.ring();
    let before = scene.question_is_on_record().await;
    // tokio's kill is SIGKILL.
    first.kill().await.unwrap();
    let second = scene.server().await;
    let outcome = timeout(Duration::from_secs(60), call).await.unwrap().unwrap();
    // Somebody who listened in sends the first webhook again: it disturbs nothing and opens nothing.
    let document = scene.replayed_voice_webhook(&outcome.call_sid).await;
    assert!(document.contains("<Hangup/>") && !document.contains("<Stream"), "{document}");
    end(second).await;
    scene.story_went_on(&outcome, &before).await;
    let lost = scene.timeline.count(|it| matches!(it, Moment::Warning { code: 31_903, .. }));
    assert_eq!(lost, 1, "Twilio saw the process die");
}

#[tokio::test]
async fn a_call_goes_on_with_the_next_process_after_sigterm() {
    let scene = Scene::new().await;
    let first = scene.server().await;
    let call = scene.ring();
    let before = scene.question_is_on_record().await;
    end(first).await;
    let second = scene.server().await;
    let outcome = timeout(Duration::from_secs(60), call).await.unwrap().unwrap();
    end(second).await;
    scene.story_went_on(&outcome, &before).await;
    let cut = scene.timeline.count(|it| matches!(it, Moment::Warning { code: 31_903, .. }));
    assert_eq!(cut, 0, "the stream was closed in order");
    assert_eq!(scene.get("/health").await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_a_killed_node_go_on_with_the_other_one() {
    // Two real processes on one real PostgreSQL.
    const CALLS: usize = 6;
    let postgres = testbed::Postgres::start();
    let database = postgres.url(&postgres.database());
    Store::migrate(&database, None).await.unwrap();
    let scene = Scene::with(2, Some(database)).await;
    let mut killed = scene.start(0).await;
    let survivor = scene.start(1).await;
    let calls: Vec<_> = (0..CALLS).map(|_| scene.ring()).collect();
    let store = scene.open().await;
    let scope = store.tenant("default");
    let lines = async || {
        let mut lines = Vec::new();
        for call in scope.calls(100).await.unwrap() {
            lines.push((call.id.clone(), scope.transcript(&call.id).await.unwrap()));
        }
        lines
    };
    let before = timeout(PATIENCE, async {
        loop {
            let speaking = scene.timeline.count(|it| matches!(it, Moment::SpeaksTo { utterance: "hours" }));
            let lines = lines().await;
            if speaking == CALLS && lines.len() == CALLS && lines.iter().all(|it| it.1.len() == 2) {
                break lines;
            }
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("every call is answered, on record, and spoken to");
    killed.kill().await.unwrap();
    let mut gaps = Vec::new();
    for call in calls {
        let outcome = timeout(Duration::from_secs(90), call).await.unwrap().unwrap();
        if outcome.streams == 2 {
            assert_eq!(outcome.steps.0, outcome.steps.1, "the caller's script went on\n{}", scene.story());
            gaps.extend(outcome.gaps);
        }
    }
    assert!((1..CALLS).contains(&gaps.len()), "both nodes had calls: {gaps:?}");
    println!("silence after SIGKILL of the node: {gaps:?}");
    end(survivor).await;
    let after = lines().await;
    for (call, lines) in &before {
        let now = &after.iter().find(|it| it.0 == *call).unwrap().1;
        assert!(lines.iter().all(|it| now.contains(it)), "an acknowledged line is lost");
    }
    let resumed: Vec<_> = scope.calls(100).await.unwrap().into_iter().filter(|it| it.epoch == 1).collect();
    assert_eq!(resumed.len(), gaps.len());
    for call in &resumed {
        let tools = scope.tool_calls(&call.id).await.unwrap();
        assert_eq!((tools.len(), call.status.as_str()), (1, "completed"), "no tool is repeated");
    }
    store.close().await;
    scene.stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_node_twilio_asks_knows_how_a_call_ended() {
    const CALLS: usize = 6;
    let postgres = testbed::Postgres::start();
    let database = postgres.url(&postgres.database());
    Store::migrate(&database, None).await.unwrap();
    let mut scene = Scene::with(2, Some(database)).await;
    scene.objects = scene.folder.path().join("objects").display().to_string();
    let nodes = [scene.start(0).await, scene.start(1).await];
    let story = "hear greeting\nsay book\nhear booked\npress 9\nhear farewell";
    let calls: Vec<_> = (0..CALLS).map(|_| scene.ring_with(story)).collect();
    // Somebody sends the first webhook of live calls again, to either node: no call leaves the node that has it.
    timeout(PATIENCE, async {
        while scene.timeline.count(|it| matches!(it, Moment::CallerHeard { utterance: Some("greeting"), .. })) < CALLS {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .unwrap();
    let store = scene.open().await;
    let mut turned_away = 0;
    for call in store.tenant("default").calls(100).await.unwrap() {
        for _ in 0..2 {
            turned_away += usize::from(scene.replayed_voice_webhook(&call.call_sid).await.contains("<Hangup/>"));
        }
    }
    assert!(turned_away > 0, "the node that has not answered the call was asked too");
    for call in calls {
        let outcome = timeout(Duration::from_secs(60), call).await.unwrap().unwrap();
        assert_eq!((outcome.steps, outcome.streams), ((5, 5), 1), "{}", scene.story());
    }
    let listed = scene.command(&["nodes"]).await;
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
        let listed = scene.command(&["recordings", &call.id]).await;
        let path = listed.trim().rsplit_once(&scene.address.to_string()).unwrap().1;
        let (status, bytes) = scene.download(path).await;
        assert_eq!((status, &bytes[..4]), (200, &b"RIFF"[..]), "{listed}");
        let mut reader = Reader::open(std::io::Cursor::new(bytes), Limits::FILE).unwrap();
        assert!(reader.read_all().unwrap().len() > 10 * 16_000);
        assert_eq!(scene.download(&format!("{path}x")).await.0, 404);
    }
    let left = std::fs::read_dir(scene.data(0).join("recordings/default")).unwrap().count();
    assert_eq!(left, 0);
    let listed = scene.command(&["jobs", "list"]).await;
    assert_eq!(listed.lines().count(), CALLS, "{listed}");
    assert!(scene.command(&["journal", "cat"]).await.lines().all(|it| it.starts_with('{')));
    let erased = scene.command(&["erase", "+15550100001"]).await;
    assert!(erased.contains(&format!("{CALLS} calls, {CALLS} files")), "{erased}");
    for node in nodes {
        end(node).await;
    }
    for call in store.tenant("default").calls(100).await.unwrap() {
        assert_eq!((call.epoch, call.end_reason.as_deref(), call.status.as_str()), (0, Some("assistant_hung_up"), "completed"));
        assert_eq!((store.tenant("default").transcript(&call.id).await.unwrap().len(), call.from_number), (0, None), "erased");
    }
    store.close().await;
    scene.stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_do_not_notice_a_database_that_hangs_and_dies_and_it_misses_nothing() {
    // F12, F13, G8: frozen, then killed under live calls; others ring meanwhile.
    const CALLS: usize = 6;
    let mut postgres = testbed::Postgres::start();
    let database = postgres.url(&postgres.database());
    Store::migrate(&database, None).await.unwrap();
    let scene = Scene::with(1, Some(database)).await;
    let server = scene.server().await;
    let story = "hear greeting\nsay ask-hours\nhear hours\nsay book\nhear booked\npress 9\nhear farewell";
    let live: Vec<_> = (0..CALLS / 2).map(|_| scene.ring_with(story)).collect();
    timeout(PATIENCE, async {
        while scene.timeline.count(|it| matches!(it, Moment::SpeaksTo { utterance: "hours" })) < CALLS / 2 {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .unwrap();
    // It takes requests and answers none: webhooks wait for it a moment, then answer without.
    postgres.freeze();
    let late: Vec<_> = (0..CALLS / 2).map(|_| scene.ring_with(story)).collect();
    sleep(Duration::from_secs(4)).await;
    postgres.kill();
    for call in live.into_iter().chain(late) {
        let outcome = timeout(Duration::from_secs(90), call).await.unwrap().unwrap();
        assert_eq!((outcome.steps, outcome.streams, outcome.status), ((7, 7), 1, "completed"), "{}", scene.story());
    }
    postgres.restart();
    let store = scene.open().await;
    let begun = std::time::Instant::now();
    timeout(Duration::from_secs(15), async {
        loop {
            // The pool's connections died with the server: asking is how it finds out.
            let calls = store.tenant("default").calls(100).await.unwrap_or_default();
            if calls.len() == CALLS && calls.iter().all(|it| it.status == "completed") {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("every row is there within 15 s");
    println!("every row was there {:?} after the database", begun.elapsed());
    for call in store.tenant("default").calls(100).await.unwrap() {
        assert_eq!(store.tenant("default").transcript(&call.id).await.unwrap().len(), 6);
        assert_eq!(call.end_reason.as_deref(), Some("assistant_hung_up"));
    }
    end(server).await;
    store.close().await;
    scene.stop.cancel();
}

#[tokio::test]
async fn an_operator_orders_a_live_call_from_another_process() {
    let scene = Scene::new().await;
    let server = scene.server().await;
    let call = scene.ring_with("hear greeting\nwait 60000ms");
    let store = scene.open().await;
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
    scene.command(&["order", &id, "hang-up"]).await;
    let outcome = timeout(PATIENCE, call).await.unwrap().unwrap();
    assert!(outcome.status == "completed" && outcome.duration < Duration::from_secs(30), "{}", scene.story());
    end(server).await;
    let row = store.tenant("default").call(&id).await.unwrap().unwrap();
    assert_eq!(row.end_reason.as_deref(), Some("hung_up_from_outside"));
    store.close().await;
    scene.stop.cancel();
}
