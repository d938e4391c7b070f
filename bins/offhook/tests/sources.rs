//! The systems that offhook replaces: a call to each one's addresses, as its number is wired today, from the first ring to the rows.

use offhook::stage::{ACCOUNT, CALLED, Format, Options, Provider, Stage, TENANT};
use sim::Moment;

const CALLER: &str = "+15550100001";

/// A source document: where its numbers ask, and where they tell.
struct Source {
    name: &'static str,
    prefix: &'static str,
    voice: &'static str,
    status: &'static str,
}

const SOURCES: [Source; 5] = [
    // S0-01, S0-07: a service behind a path prefix.
    Source { name: "S0", prefix: "/voiceclone", voice: "/webhooks/inbound", status: "/twilio/status" },
    Source { name: "S0 at the root", prefix: "", voice: "/webhooks/inbound", status: "/twilio/status" },
    // S2-01, S2-04.
    Source { name: "S2", prefix: "", voice: "/twilio/voice", status: "/twilio/status" },
    // S3-01, S3-04.
    Source { name: "S3", prefix: "", voice: "/twilio/voice", status: "/twilio/status" },
    // S4-01, S4-02.
    Source { name: "S4", prefix: "", voice: "/api/aloha/webhooks/incoming-call", status: "/api/aloha/webhooks/call-status" },
];

#[test]
fn a_number_that_is_wired_for_an_earlier_system_works_as_it_is() {
    // S0-01, S0-07, S0-08, S2-01, S2-04, S3-01, S3-04, S4-01, S4-02.
    for source in SOURCES {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::time::pause();
            let simulated = Options::simulated(Provider::Openai, Format::Ulaw, folder.path());
            let stage = Stage::set(&Options { prefix: source.prefix.into(), ..simulated }).await.unwrap();
            let mut telephone = stage.telephone.clone();
            let url = |path: &str| format!("http://{}{}{path}", stage.address, source.prefix);
            (telephone.voice_url, telephone.status_url) = (url(source.voice), url(source.status));
            // Twilio sends the first one twice when an answer got lost: one call, one row.
            telephone.repeat_first_webhook = true;
            let script = "hear greeting\nsay book\nhear booked\npress 9\nhear farewell".parse().unwrap();
            let outcome = telephone.ring(CALLER, CALLED, script).await;
            let name = source.name;
            assert_eq!((outcome.steps, outcome.status, outcome.streams), ((5, 5), "completed", 1), "{name}");
            stage.server.bridge.idle().await;
            stage.server.ledger.journal().flush().await;
            let scope = stage.server.store.tenant(TENANT);
            let rows = scope.calls(10).await.unwrap();
            assert_eq!(rows.len(), 1, "{name}: one call, one row");
            let row = &rows[0];
            assert_eq!((row.account_sid.as_str(), row.call_sid.as_str()), (ACCOUNT, outcome.call_sid.as_str()), "{name}");
            assert_eq!((row.from_number.as_deref(), row.to_number.as_deref()), (Some(CALLER), Some(CALLED)), "{name}");
            assert_eq!((row.status.as_str(), row.direction.as_str()), ("completed", "inbound"), "{name}");
            assert_eq!((&row.forwarded_from, &row.caller_name), (&None, &None), "{name}: they may be missing");
            assert_eq!(row.duration_s, Some(outcome.duration.as_secs()), "{name}");
            assert_eq!(row.end_reason.as_deref(), Some("assistant_hung_up"), "{name}");
            assert_eq!(scope.transcript(&row.id).await.unwrap().len(), 4, "{name}");
            let told = stage
                .timeline
                .count(|it| matches!(it, Moment::Webhook { path, status: 204, .. } if path.ends_with(source.status)));
            assert_eq!(told, 1, "{name}: the status was taken");
            stage.strike().await;
        });
    }
}
