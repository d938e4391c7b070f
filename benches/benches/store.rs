//! What the database carries: facts, jobs. On SQLite and on a PostgreSQL server of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use store::{Entry, Fact, Failure, Handler, NewJob, Position, Speaker, Store, Topic, Work, Workers};
use tokio_util::sync::CancellationToken;

/// Facts in one delivery: what the journal carries at most.
const FACTS: u64 = 512;
/// Jobs of one round.
const JOBS: u64 = 200;

struct Nothing;

impl Handler for Nothing {
    fn kind(&self) -> &str {
        "nothing"
    }
    fn at_a_time(&self) -> usize {
        64
    }
    fn run(&self, _: Work) -> BoxFuture<'static, Result<(), Failure>> {
        async { Ok(()) }.boxed()
    }
}

fn facts(call: u64) -> Vec<Entry> {
    let said = Fact::Said {
        speaker: Speaker::Caller,
        text: "I would like to book a table for two at eight, please.".into(),
        start_ms: 1000,
        end_ms: 3000,
        cut: false,
    };
    let entry = |seq| Entry { tenant: "t".into(), call: format!("c{call}"), epoch: 0, seq, at_ms: 1, fact: said.clone() };
    (0..FACTS).map(entry).collect()
}

async fn done(store: &Store, before: u64) -> bool {
    store.tenant("t").jobs(Some("done"), u32::MAX >> 1).await.is_ok_and(|it| it.len() as u64 >= before)
}

fn engines(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let server = testbed::Postgres::start();
    let sqlite = format!("sqlite:{}", folder.path().join("offhook.db").display());
    for (engine, url) in [("sqlite", sqlite), ("postgresql", server.url(&server.database()))] {
        let store = runtime.block_on(async {
            Store::migrate(&url, None).await.unwrap();
            Store::open(&url).await.unwrap()
        });
        let mut group = c.benchmark_group(engine);
        group.sample_size(10).measurement_time(Duration::from_secs(5));
        group.throughput(Throughput::Elements(FACTS));
        let mut call = 0;
        group.bench_function("deliver facts", |bencher| {
            bencher.iter(|| {
                call += 1;
                runtime.block_on(store.apply("bench", &facts(call), Position::default())).unwrap();
            });
        });
        group.throughput(Throughput::Elements(JOBS));
        let mut over = 0;
        group.bench_function("queue and do jobs", |bencher| {
            bencher.iter_custom(|rounds| {
                runtime.block_on(async {
                    let stop = CancellationToken::new();
                    let workers = Workers::new(store.clone(), "bench", vec![Arc::new(Nothing)]);
                    let running = tokio::spawn(workers.run(stop.clone()));
                    let begun = Instant::now();
                    for _ in 0..rounds {
                        for _ in 0..JOBS {
                            store.tenant("t").enqueue(&NewJob::new("nothing", "{}")).await.unwrap();
                        }
                        over += JOBS;
                        while !done(&store, over).await {
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                    }
                    let time = begun.elapsed();
                    stop.cancel();
                    running.await.unwrap();
                    time
                })
            });
        });
        group.finish();
        runtime.block_on(store.close());
    }
}

/// Events of the measurement below.
const EVENTS: usize = 300;
/// How often a listener looks that gets no hints; `desk` looks as often.
const LOOK: Duration = Duration::from_millis(250);

/// From a fact's delivery on one server to its arrival at who listens on another one.
fn live_events(_: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = testbed::Postgres::start();
    let url = server.url(&server.database());
    for hints in [false, true] {
        let mut late = runtime.block_on(async {
            Store::migrate(&url, None).await.unwrap();
            let (near, far) = (Store::open(&url).await.unwrap(), Store::open(&url).await.unwrap());
            let stop = CancellationToken::new();
            for store in [near.clone(), far.clone()] {
                let stop = stop.clone();
                tokio::spawn(async move { if hints { store.carry_hints(&stop).await } else { stop.cancelled().await } });
            }
            let mut changes = far.hints(Topic::Facts);
            let mut feed = far.feed("far").await.unwrap();
            let epoch = Instant::now();
            let telling = tokio::spawn(async move {
                for seq in 0..EVENTS as u64 {
                    // Calls do not keep time with those who look.
                    tokio::time::sleep(Duration::from_millis(20 + seq * 7919 % 61)).await;
                    let fact = Fact::Key { key: '1' };
                    let at_ms = epoch.elapsed().as_micros() as i64;
                    let call = format!("live-{hints}");
                    let entry = Entry { tenant: "t".into(), call, epoch: 0, seq, at_ms, fact };
                    near.apply("near", &[entry], Position::default()).await.unwrap();
                }
            });
            let mut late = Vec::new();
            while late.len() < EVENTS {
                changes.wait(LOOK).await;
                for entry in feed.next().await.unwrap() {
                    late.push(epoch.elapsed().saturating_sub(Duration::from_micros(entry.at_ms as u64)));
                }
            }
            telling.await.unwrap();
            stop.cancel();
            late
        });
        late.sort();
        let (p50, p99) = (late[EVENTS / 2], late[EVENTS * 99 / 100]);
        let how = if hints { "with hints" } else { "polled" };
        println!("postgresql/live events {how:<10}  p50 {p50:>9.2?}  p99 {p99:>9.2?}  longest {:>9.2?}", late[EVENTS - 1]);
    }
}

criterion_group!(benches, engines, live_events);
criterion_main!(benches);
