//! Calls with cloned voices go through their states, once.

mod common;

use common::on_both;
use store::{CloneOutcome, CloneStatus};

#[tokio::test]
async fn a_clone_is_noted_retried_and_ends_once() {
    // S0-21, S0-24, S0-25.
    on_both(async |place| {
        let store = place.store().await;
        let scope = store.tenant("t");
        assert!(scope.save_clone_call("CA1", Some("+40711111111"), Some("+40312345678"), Some(1234)).await.unwrap());
        assert!(!scope.save_clone_call("CA1", None, None, None).await.unwrap(), "noted once");
        assert!(scope.update_clone("CA1", CloneOutcome::Retried { error: "busy" }).await.unwrap());
        let row = scope.clone_call("CA1").await.unwrap().unwrap();
        assert_eq!((row.status, row.retry_count, row.error.as_deref()), (CloneStatus::Processing, 1, Some("busy")));
        let done = CloneOutcome::Completed { voice: "v1", metadata: Some(r#"{"model":"m"}"#) };
        assert!(scope.update_clone("CA1", done).await.unwrap());
        assert!(!scope.update_clone("CA1", CloneOutcome::Failed { error: "late" }).await.unwrap(), "the first end stands");
        let row = scope.clone_call("CA1").await.unwrap().unwrap();
        assert_eq!((row.status, row.voice_clone_id.as_deref(), row.error), (CloneStatus::Completed, Some("v1"), None));
        assert_eq!((row.sample_size_bytes, row.caller_number.as_deref()), (Some(1234), Some("+40711111111")));
        assert!(row.updated_at >= row.created_at && row.created_at > 1_700_000_000_000);
        assert!(store.tenant("other").clone_call("CA1").await.unwrap().is_none());
        assert!(!store.tenant("other").update_clone("CA1", done).await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn what_a_dead_process_was_cloning_has_failed() {
    on_both(async |place| {
        let store = place.store().await;
        let scope = store.tenant("t");
        for call in ["CA1", "CA2"] {
            scope.save_clone_call(call, None, None, None).await.unwrap();
        }
        let done = CloneOutcome::Completed { voice: "v1", metadata: None };
        assert!(scope.update_clone("CA2", done).await.unwrap());
        assert_eq!(store.fail_stale_clones(60_000).await.unwrap(), 0);
        // As if a minute had passed.
        assert_eq!(store.fail_stale_clones(-60_000).await.unwrap(), 1, "what is completed is left alone");
        let row = scope.clone_call("CA1").await.unwrap().unwrap();
        assert!(row.status == CloneStatus::Failed && row.error.unwrap().contains("died"));
    })
    .await;
}
