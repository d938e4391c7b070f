//! What several processes must agree on, they agree on.

mod common;

use std::time::Duration;

use common::{Place, entry, on_both, ringing, said};
use store::{Entry, Heartbeat, Position, Store, Topic};
use tokio_util::sync::CancellationToken;

fn heartbeat<'a>(node: &'a str, live: &'a [String]) -> Heartbeat<'a> {
    Heartbeat { node, address: "http://127.0.0.1:1", version: "1", draining: false, live }
}

#[tokio::test]
async fn of_many_who_race_for_the_last_place_one_gets_it() {
    // S1-10, G20: never above the cap, and back to zero.
    on_both(async |place| {
        let store = place.store().await;
        let scope = store.tenant("t");
        scope.set_cap("calls", 10).await.unwrap();
        for holder in 0..9 {
            assert!(scope.take("calls", &format!("early-{holder}"), "n1", 1).await.unwrap());
        }
        for round in 0..5 {
            let holders: Vec<String> = (0..64).map(|it| format!("{round}-{it}")).collect();
            let raced = futures::future::join_all(holders.iter().map(|it| scope.take("calls", it, "n1", 1))).await;
            let won: Vec<&String> = holders.iter().zip(raced).filter(|it| *it.1.as_ref().unwrap()).map(|it| it.0).collect();
            assert_eq!((won.len(), scope.used("calls").await.unwrap()), (1, Some((10, 10))));
            assert!(scope.take("calls", won[0], "n1", 1).await.unwrap(), "who has it is not counted again");
            assert!(scope.release("calls", won[0]).await.unwrap() && !scope.release("calls", won[0]).await.unwrap());
        }
        assert!(store.tenant("other").take("calls", "x", "n1", 1).await.unwrap(), "without a cap everything is allowed");
        assert_eq!(scope.used("calls").await.unwrap(), Some((9, 10)));
    })
    .await;
}

#[tokio::test]
async fn what_a_dead_node_held_is_given_back() {
    on_both(async |place| {
        let store = place.store().await;
        let scope = store.tenant("t");
        scope.set_cap("calls", 3).await.unwrap();
        store.heartbeat(&heartbeat("alive", &[])).await.unwrap();
        store.heartbeat(&heartbeat("dead", &[])).await.unwrap();
        assert!(scope.take("calls", "a", "alive", 1).await.unwrap());
        assert!(scope.take("calls", "b", "dead", 2).await.unwrap());
        tokio::time::sleep(Duration::from_millis(60)).await;
        store.heartbeat(&heartbeat("alive", &[])).await.unwrap();
        assert_eq!(store.free_caps(Duration::from_millis(50)).await.unwrap(), 1);
        assert_eq!(scope.used("calls").await.unwrap(), Some((1, 3)));
        assert_eq!(store.free_caps(Duration::from_millis(50)).await.unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn nodes_are_known_with_their_calls_until_they_say_farewell() {
    on_both(async |place| {
        let store = place.store().await;
        store.heartbeat(&heartbeat("n1", &["c1".into(), "c2".into()])).await.unwrap();
        store.heartbeat(&heartbeat("n2", &[])).await.unwrap();
        store.heartbeat(&heartbeat("n1", &["c2".into()])).await.unwrap();
        let nodes = store.nodes().await.unwrap();
        assert_eq!(nodes.iter().map(|it| (it.id.as_str(), it.live.len())).collect::<Vec<_>>(), [("n1", 1), ("n2", 0)]);
        assert!(nodes.iter().all(|it| it.silent_ms < 5_000));
        store.farewell("n1").await.unwrap();
        assert_eq!(store.nodes().await.unwrap().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_lease_is_one_nodes_until_it_runs_out() {
    on_both(async |place| {
        let store = place.store().await;
        let long = Duration::from_secs(60);
        let raced = futures::future::join_all(["n1", "n2", "n3"].map(|it| store.take_lease("sweep", it, long))).await;
        assert_eq!(raced.iter().filter(|it| *it.as_ref().unwrap()).count(), 1);
        let holder = ["n1", "n2", "n3"][raced.iter().position(|it| *it.as_ref().unwrap()).unwrap()];
        assert!(store.take_lease("sweep", holder, Duration::ZERO).await.unwrap(), "its holder may keep it, or let it go");
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(store.take_lease("sweep", "n9", long).await.unwrap());
        assert!(!store.take_lease("sweep", holder, long).await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn an_order_reaches_the_node_that_has_the_call_and_is_acknowledged_once() {
    on_both(async |place| {
        let store = place.store().await;
        let scope = store.tenant("t");
        let minute = Duration::from_secs(60);
        for _ in 0..2 {
            scope.command("o1", "c1", "n1", r#"{"hang_up":true}"#, minute).await.unwrap();
        }
        scope.command("o2", "c1", "n1", "{}", Duration::ZERO).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(store.commands("n2").await.unwrap().is_empty());
        let orders = store.commands("n1").await.unwrap();
        assert_eq!(orders.iter().map(|it| it.id.as_str()).collect::<Vec<_>>(), ["o1"], "what is too late is gone");
        assert_eq!(scope.outcome("o1").await.unwrap(), None);
        assert!(store.acknowledge("o1", "done").await.unwrap() && !store.acknowledge("o1", "again").await.unwrap());
        assert_eq!(scope.outcome("o1").await.unwrap().as_deref(), Some("done"));
        assert_eq!(store.tenant("other").outcome("o1").await.unwrap(), None);
        assert!(store.commands("n1").await.unwrap().is_empty());
        assert_eq!(store.forget_commands().await.unwrap(), 1, "the one that was too late");
    })
    .await;
}

#[tokio::test]
async fn what_happens_elsewhere_is_followed_in_order_once_and_from_now_on() {
    on_both(async |place| {
        let store = place.store().await;
        let deliver = async |journal: &str, facts: &[Entry]| store.apply(journal, facts, Position::default()).await.unwrap();
        deliver("a", &[entry("t", "old", 0, 0, ringing("old"))]).await;
        let mut feed = store.feed("ours").await.unwrap();
        assert!(feed.next().await.unwrap().is_empty(), "what happened before is not told");
        deliver("ours", &[entry("t", "own", 0, 0, ringing("own"))]).await;
        // More than is taken at a time, delivered in pieces, some of them again.
        let facts: Vec<Entry> = (0..1200).map(|it| entry("t", "1", 0, it, said(&it.to_string()))).collect();
        for piece in facts.chunks(300) {
            deliver("a", piece).await;
            deliver("a", &piece[..100]).await;
        }
        deliver("b", &[entry("other", "2", 0, 0, ringing("2"))]).await;
        let mut seen = feed.next().await.unwrap();
        deliver("a", &[entry("t", "1", 0, 1200, said("last"))]).await;
        loop {
            let more = feed.next().await.unwrap();
            if more.is_empty() {
                break;
            }
            seen.extend(more);
        }
        assert!(seen.iter().filter(|it| it.call == "1").map(|it| it.seq).eq(0..=1200), "in order, each once");
        assert!(facts.iter().all(|it| seen.contains(it)), "as they were");
        assert_eq!(seen.iter().filter(|it| it.call != "1").map(|it| it.tenant.as_str()).collect::<Vec<_>>(), ["other"]);
    })
    .await;
}

#[tokio::test]
async fn a_hint_reaches_who_waits_here_and_in_other_processes() {
    let place = Place::postgres();
    let (near, far) = (place.store().await, Store::open(&place.url).await.unwrap());
    let stop = CancellationToken::new();
    for store in [near.clone(), far.clone()] {
        let stop = stop.clone();
        tokio::spawn(async move { store.carry_hints(&stop).await });
    }
    let hour = Duration::from_secs(3600);
    let (mut here, mut there, mut other) = (near.hints(Topic::Orders), far.hints(Topic::Orders), far.hints(Topic::Facts));
    near.hint(Topic::Orders);
    here.wait(hour).await;
    // Its connection may not listen yet: a hint that nobody hears is lost, so it is said again until it is heard.
    let heard = async {
        tokio::select! {
            () = there.wait(hour) => (),
            () = async {
                loop {
                    near.hint(Topic::Orders);
                    tokio::task::yield_now().await;
                }
            } => (),
        }
    };
    tokio::time::timeout(Duration::from_secs(30), heard).await.expect("the other process hears it");
    assert!(
        tokio::time::timeout(Duration::from_millis(1), other.wait(hour)).await.is_err(),
        "nothing was said about another topic"
    );
    // Without a hint it is looked anyway.
    other.wait(Duration::from_millis(1)).await;
    stop.cancel();
}
