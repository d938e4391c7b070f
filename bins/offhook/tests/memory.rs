//! Calls leave no memory behind: after hundreds of them the process holds what it held before.

use std::time::Duration;

use benches::{Counting, live_bytes};
use offhook::stage::{Format, Options, Provider, Stage};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Calls of one round.
const CALLS: usize = 40;
/// What a round may leave: caches of the database, and the simulators' own record of what happened.
const PER_CALL_MAX: i64 = 1024;

#[test]
fn memory_is_flat_over_hundreds_of_calls() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::pause();
        let simulated = Options::simulated(Provider::Openai, Format::Pcm16, folder.path());
        let options = Options { calls: CALLS, calls_max: CALLS, ..simulated };
        let stage = Stage::set(&options).await.unwrap();
        let mut after = Vec::new();
        for _ in 0..5 {
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
            stage.timeline.forget();
            let _ = stage.telephone.ring("+15550100001", offhook::stage::CALLED, "hear greeting\nhang up".parse().unwrap()).await;
            stage.server.bridge.idle().await;
            after.push(live_bytes());
        }
        // The first rounds warm caches and pools.
        println!("bytes held after each round: {after:?}");
        let grown = (after[4] - after[1]) / (3 * CALLS as i64);
        assert!(grown < PER_CALL_MAX, "{grown} bytes stay per call: {after:?}");
        stage.strike().await;
    });
}
