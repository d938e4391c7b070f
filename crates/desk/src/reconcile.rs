//! Calls whose end nobody has told: their server died, and Twilio's callback found nobody. Twilio is asked what became of them.
//! Nothing is done to a call that lives.

use std::collections::HashSet;
use std::time::Duration;

use bridge::CallId;
use store::{Fact, Store, StoreError};
use twilio::CallStatus;
use twilio::rest::Rest;

use crate::background::DEAD_AFTER;
use crate::ledger::Ledger;

/// A call younger than this may still be told.
const YOUNG_MS: i64 = 120_000;
/// What is older is not asked about any more: Twilio keeps records of calls for long, but somebody has looked by then.
const OLD_MS: i64 = 7 * 86_400_000;
/// Asked at a time: Twilio limits requests, and there will be another time.
const CALLS_MAX: u32 = 50;
/// The status of a call that is over and that Twilio has no record of.
const UNKNOWN: &str = "unknown";
/// Longest wait for the journal.
const JOURNAL_WAIT: Duration = Duration::from_secs(5);

/// Asks about calls that are open on record and live on no server; returns how many have turned out to be over.
pub(crate) async fn reconcile(store: &Store, ledger: &Ledger, rest: &Rest, now_ms: i64) -> Result<usize, StoreError> {
    let open = store.open_calls(rest.account_sid(), now_ms - OLD_MS, now_ms - YOUNG_MS, CALLS_MAX).await?;
    let nodes = store.nodes().await?;
    let live: HashSet<&str> = nodes
        .iter()
        .filter(|it| Duration::from_millis(it.silent_ms) < DEAD_AFTER)
        .flat_map(|it| it.live.iter().map(String::as_str))
        .collect();
    let mut over = 0;
    for it in open.iter().filter(|it| !live.contains(it.id.as_str())) {
        let (status, duration_s) = match rest.call(&it.call_sid).await {
            Ok(found) => (found.status, found.duration),
            // Its record was deleted there: nobody will ever tell.
            Err(error) if error.is_not_found() => (UNKNOWN.to_owned(), None),
            Err(error) => {
                tracing::warn!(%error, "Twilio does not say what became of calls whose end nobody has told");
                break;
            }
        };
        let call = CallId(it.id.as_str().into());
        if status != UNKNOWN && !CallStatus::parse(&status).is_terminal() {
            tracing::warn!(%call, status, "a call lives at Twilio and on no server: it is left alone");
            continue;
        }
        if !ledger.knows(&call) {
            ledger.learn(&call, it.epoch, it.last_seq.map_or(0, |it| it + 1), Vec::new(), None);
        }
        let fact = Fact::Status { status, rank: CallStatus::Completed.rank(), terminal: true, duration_s };
        over += usize::from(ledger.commit(&call, &it.tenant, fact, JOURNAL_WAIT).await);
    }
    Ok(over)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ringing;
    use axum::Router;
    use axum::extract::Path;
    use axum::response::IntoResponse as _;
    use store::{Entry, Heartbeat, Journal, Position};
    use twilio::rest::{Account, Key};

    const ACCOUNT: &str = "ACaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn sid(it: u32) -> String {
        format!("CA{it:032x}")
    }

    #[tokio::test]
    async fn what_became_of_forgotten_calls_is_asked_and_live_ones_are_left_alone() {
        // B95, S1-22.
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let answer = |Path((_, call)): Path<(String, String)>| async move {
            let status = match u32::from_str_radix(call.trim_start_matches("CA").trim_end_matches(".json"), 16) {
                Ok(1) => "completed",
                Ok(2) => "in-progress",
                Ok(5) => return axum::http::StatusCode::NOT_FOUND.into_response(),
                other => panic!("{other:?} is nobody's business"),
            };
            let call = call.trim_end_matches(".json");
            format!(r#"{{"sid": "{call}", "status": "{status}", "duration": "42"}}"#).into_response()
        };
        let router = Router::new().route("/2010-04-01/Accounts/{account}/Calls/{call}", axum::routing::get(answer));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let rest = Rest::new(Account { sid: ACCOUNT.into(), key: Key::AuthToken(String::from("t").into()) }, &base).unwrap();

        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("sqlite:{}", folder.path().join("o.db").display())).await.unwrap();
        let (journal, _tasks) = Journal::open(folder.path().join("journal"), store.clone()).await.unwrap();
        let ledger = Ledger::new(journal);
        let now = 1_800_000_000_000;
        // 1: over. 2: lives at Twilio. 3: live on a server. 4: young. 5: Twilio has forgotten it. 6: another account's. 7: old.
        for (call, age_ms, account) in [
            (1, 300_000, ACCOUNT),
            (2, 300_000, ACCOUNT),
            (3, 300_000, ACCOUNT),
            (4, 1_000, ACCOUNT),
            (5, 300_000, ACCOUNT),
            (6, 300_000, "ACbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"),
            (7, OLD_MS + 1, ACCOUNT),
        ] {
            let fact = ringing(&sid(call), account, None);
            let entry = Entry { tenant: "t".into(), call: call.to_string(), epoch: 0, seq: 0, at_ms: now - age_ms, fact };
            store.apply("dead", &[entry], Position::default()).await.unwrap();
        }
        let alive =
            Heartbeat { node: "n", address: "http://127.0.0.1:1", version: "1", draining: false, live: &["3".to_owned()] };
        store.heartbeat(&alive).await.unwrap();
        assert_eq!(reconcile(&store, &ledger, &rest, now).await.unwrap(), 2);
        ledger.journal().flush().await;
        for row in store.tenant("t").calls(10).await.unwrap() {
            let expected = match row.id.as_str() {
                "1" => ("completed", Some(42)),
                "5" => ("unknown", None),
                _ => ("ringing", None),
            };
            assert_eq!((row.status.as_str(), row.duration_s), expected, "{}", row.id);
        }
        assert_eq!(reconcile(&store, &ledger, &rest, now).await.unwrap(), 0, "asked once, it is known");
    }
}
