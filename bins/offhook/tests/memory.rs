//! Calls leave nothing behind: after hundreds of them the process holds the memory, tasks, sockets and files that it held
//! before.

use std::time::Duration;

use benches::{Counting, live_bytes};
use offhook::stage::{Format, Options, Provider, Stage};
use sim::Moment;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Calls of one round.
const CALLS: usize = 40;
/// What a round may leave: caches of the database, and the simulators' own record of what happened.
const PER_CALL_MAX: i64 = 1024;

/// Tasks alive, and files and sockets open.
fn held() -> (usize, usize) {
    let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    (tokio::runtime::Handle::current().metrics().num_alive_tasks(), files)
}

/// C-35, C-36, C-37: neither tasks nor sockets nor memory of a call outlive it, recordings included.
#[test]
fn nothing_is_left_of_two_hundred_calls() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::pause();
        let simulated = Options::simulated(Provider::Openai, Format::Pcm16, folder.path());
        let options = Options { calls: CALLS, calls_max: CALLS, ..simulated };
        let stage = Stage::set(&options).await.unwrap();
        let (mut after, mut left) = (Vec::new(), Vec::new());
        for round in 0..5_usize {
            let script = "hear greeting\nsay ask-hours\nhear hours for 500ms\nhang up";
            let ringing = (0..CALLS).map(|index| {
                let (telephone, script) = (stage.telephone.clone(), script.parse().unwrap());
                async move { telephone.ring(&format!("+1555010{index:04}"), offhook::stage::CALLED, script).await }
            });
            let outcomes = futures::future::join_all(ringing).await;
            assert!(outcomes.iter().all(|it| it.steps == (4, 4)));
            stage.server.bridge.idle().await;
            stage.server.ledger.journal().flush().await;
            // What is remembered for late webhooks is forgotten after ten minutes, when the next call comes.
            tokio::time::sleep(Duration::from_secs(1200)).await;
            // The round's, and the one that ended the round before.
            let sessions = CALLS + round.min(1);
            let count = |like: fn(&Moment) -> bool| stage.timeline.count(like);
            let (opened, closed) =
                (count(|it| *it == Moment::SessionOpened), count(|it| matches!(it, Moment::SessionClosed { .. })));
            assert_eq!((opened, closed), (sessions, sessions), "provider sessions");
            stage.timeline.forget();
            let _ = stage.telephone.ring("+15550100001", offhook::stage::CALLED, "hear greeting\nhang up".parse().unwrap()).await;
            stage.server.bridge.idle().await;
            tokio::time::sleep(Duration::from_secs(60)).await;
            // The database's threads hand connections back in real time.
            tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(100))).await.unwrap();
            after.push(live_bytes());
            left.push(held());
        }
        // The first rounds warm caches and pools.
        println!("held after each round: {after:?} bytes, {left:?} tasks and files");
        assert!(left[1..].iter().all(|it| it.0 <= left[0].0 && it.1 <= left[0].1), "{left:?}");
        let grown = (after[4] - after[1]) / (3 * CALLS as i64);
        assert!(grown < PER_CALL_MAX, "{grown} bytes stay per call: {after:?}");
        stage.strike().await;
    });
}
