//! Every job ends, done or dead; what it does to the outside world is done once, whoever dies meanwhile.

mod common;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::on_both;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use store::{Failure, Handler, Intent, NewJob, Store, Work, Workers};
use tokio_util::sync::CancellationToken;

/// What jobs have done to the outside world, by job.
type Effects = Arc<Mutex<HashMap<String, usize>>>;

/// Does its work in three steps, with an effect that must not be repeated.
struct Careful {
    effects: Effects,
    steps: Arc<AtomicUsize>,
}

impl Handler for Careful {
    fn kind(&self) -> &str {
        "careful"
    }
    fn at_a_time(&self) -> usize {
        8
    }
    fn run(&self, mut work: Work) -> BoxFuture<'static, Result<(), Failure>> {
        let (effects, steps) = (self.effects.clone(), self.steps.clone());
        async move {
            let id = work.job().id.clone();
            let prepared: String = work
                .step("prepare", || async {
                    steps.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Ok("prepared".to_owned())
                })
                .await?;
            assert_eq!(prepared, "prepared");
            let key = format!("effect:{id}");
            match work.intend(&key).await? {
                Intent::Fresh => {
                    *effects.lock().unwrap().entry(id.clone()).or_default() += 1;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    work.intended(&key, "sent").await?;
                }
                Intent::Done(outcome) => assert_eq!(outcome, "sent"),
                // The other side is asked: it knows.
                Intent::Unclear => {
                    if !effects.lock().unwrap().contains_key(&id) {
                        effects.lock().unwrap().insert(id.clone(), 1);
                    }
                    work.intended(&key, "sent").await?;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(())
        }
        .boxed()
    }
}

/// Fails as its body says.
struct Failing;

impl Handler for Failing {
    fn kind(&self) -> &str {
        "failing"
    }
    fn at_a_time(&self) -> usize {
        2
    }
    fn run(&self, work: Work) -> BoxFuture<'static, Result<(), Failure>> {
        async move {
            match work.body::<String>()?.as_str() {
                "never" => Err(Failure::Never("it cannot be".into())),
                "panic" => panic!("a bug"),
                "fine" => Ok(()),
                _ => Err(Failure::Later("not yet".into())),
            }
        }
        .boxed()
    }
}

fn workers(store: &Store, handlers: Vec<Arc<dyn Handler>>) -> (CancellationToken, tokio::task::JoinHandle<()>) {
    let stop = CancellationToken::new();
    let workers = Workers::new(store.clone(), "n1", handlers).with_lease(Duration::from_millis(600));
    (stop.clone(), tokio::spawn(workers.run(stop)))
}

async fn until(store: &Store, what: &str, mut over: impl AsyncFnMut(&Store) -> bool) {
    for _ in 0..600 {
        if over(store).await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not within a minute: {what}; {:?}", store.all_jobs(None, 1000).await.unwrap());
}

#[tokio::test]
async fn workers_that_are_killed_over_and_over_leave_every_job_done_and_every_effect_once() {
    on_both(async |place| {
        let store = place.store().await;
        let (effects, steps) = (Effects::default(), Arc::new(AtomicUsize::new(0)));
        const JOBS: usize = 60;
        for n in 0..JOBS {
            let body = n.to_string();
            store.tenant("t").enqueue(&NewJob { attempts_max: 1000, ..NewJob::new("careful", &body) }).await.unwrap().unwrap();
        }
        let handler = || -> Vec<Arc<dyn Handler>> { vec![Arc::new(Careful { effects: effects.clone(), steps: steps.clone() })] };
        for _ in 0..6 {
            let (_, running) = workers(&store, handler());
            tokio::time::sleep(Duration::from_millis(150)).await;
            // Killed: nothing is noted, nothing is given back.
            running.abort();
            let _ = running.await;
        }
        let (stop, running) = workers(&store, handler());
        until(&store, "every job is over", async |store| {
            store.all_jobs(None, 1000).await.unwrap().iter().all(|it| matches!(it.state.as_str(), "done" | "dead"))
        })
        .await;
        stop.cancel();
        running.await.unwrap();
        let jobs = store.all_jobs(None, 1000).await.unwrap();
        assert_eq!(jobs.len(), JOBS);
        let effects = effects.lock().unwrap();
        assert!(effects.len() == JOBS && effects.values().all(|it| *it == 1), "{effects:?}");
        assert!(jobs.iter().any(|it| it.crashes > 0), "somebody was killed at work");
        for job in jobs.iter().filter(|it| it.state == "dead") {
            assert!(job.crashes >= 3 && job.problem.as_deref().unwrap().contains("died"), "{job:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_fails_is_tried_again_or_dies_with_its_reason_and_can_be_steered() {
    on_both(async |place| {
        let store = place.store().await;
        let scope = store.tenant("t");
        let enqueue = async |body: &str, attempts_max| {
            let body = format!("\"{body}\"");
            scope.enqueue(&NewJob { attempts_max, ..NewJob::new("failing", &body) }).await.unwrap().unwrap()
        };
        let never = enqueue("never", 8).await;
        let last = enqueue("later", 1).await;
        let later = enqueue("later", 8).await;
        let panicking = enqueue("panic", 1).await;
        let fine = enqueue("fine", 1).await;
        let broken = scope.enqueue(&NewJob::new("failing", "{}")).await.unwrap().unwrap();
        let (stop, running) = workers(&store, vec![Arc::new(Failing)]);
        let state = async |id: &str| {
            let job = scope.job(id).await.unwrap().unwrap();
            (job.state.clone(), job.problem.clone().unwrap_or_default(), job.attempts)
        };
        until(&store, "all were tried", async |store| {
            store.all_jobs(None, 10).await.unwrap().iter().all(|it| it.attempts > 0 && it.state != "running")
        })
        .await;
        assert_eq!(state(&never).await, ("dead".into(), "it cannot be".into(), 1));
        assert_eq!(state(&last).await, ("dead".into(), "not yet".into(), 1));
        assert_eq!(state(&later).await, ("ready".into(), "not yet".into(), 1));
        assert_eq!(state(&fine).await.0, "done");
        assert!(state(&panicking).await.1.contains("panicked"));
        assert!(state(&broken).await.1.contains("not understood"));
        // Steered by people.
        assert!(!scope.retry_job(&fine).await.unwrap(), "what is done is done");
        assert!(scope.cancel_job(&later).await.unwrap() && !scope.cancel_job(&later).await.unwrap());
        assert!(!store.tenant("other").retry_job(&never).await.unwrap(), "of another tenant");
        assert!(scope.retry_job(&never).await.unwrap());
        until(&store, "it was tried again", async |_| state(&never).await.0 == "dead").await;
        stop.cancel();
        running.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn the_same_work_is_queued_once() {
    on_both(async |place| {
        let store = place.store().await;
        let scope = store.tenant("t");
        let once = NewJob { once: Some("call-1"), ..NewJob::new("failing", "\"fine\"") };
        assert!(scope.enqueue(&once).await.unwrap().is_some());
        assert!(scope.enqueue(&once).await.unwrap().is_none());
        assert!(store.tenant("other").enqueue(&once).await.unwrap().is_some(), "another tenant's is another");
        let (stop, running) = workers(&store, vec![Arc::new(Failing)]);
        until(&store, "both are done", async |store| store.all_jobs(Some("done"), 10).await.unwrap().len() == 2).await;
        stop.cancel();
        running.await.unwrap();
        assert!(scope.enqueue(&once).await.unwrap().is_some(), "what is over may come again");
    })
    .await;
}

#[tokio::test]
async fn racing_workers_of_many_nodes_never_have_the_same_job() {
    on_both(async |place| {
        let store = place.store().await;
        let (effects, steps) = (Effects::default(), Arc::new(AtomicUsize::new(0)));
        for n in 0..100 {
            store.tenant("t").enqueue(&NewJob::new("careful", &n.to_string())).await.unwrap();
        }
        let nodes: Vec<_> =
            (0..4).map(|_| workers(&store, vec![Arc::new(Careful { effects: effects.clone(), steps: steps.clone() })])).collect();
        until(&store, "all are done", async |store| store.all_jobs(Some("done"), 1000).await.unwrap().len() == 100).await;
        for (stop, running) in nodes {
            stop.cancel();
            running.await.unwrap();
        }
        assert_eq!(steps.load(Ordering::Relaxed), 100, "no step was done twice");
        assert!(effects.lock().unwrap().values().all(|it| *it == 1));
    })
    .await;
}
