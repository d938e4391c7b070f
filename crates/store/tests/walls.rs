//! Another tenant's questions: whatever is asked, it finds nothing and changes nothing, on both engines. That PostgreSQL keeps
//! tenants apart even where a query forgets its tenant is shown in `migrations.rs`.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{apply, entry, on_both, ringing, said};
use store::{
    Begun, BookingRow, CallFilter, CloneOutcome, DialLimits, Fact, Intent, NewConfiguration, NewJob, NewObject, NewSession,
    Objects, Schedule, Sealer, Store, VoiceSessionChange,
};

/// In every row of the owner's, and in nothing that anybody else may see.
const CANARY: &str = "canary-7f3a";

const CONFIGURATION: NewConfiguration<'_> =
    NewConfiguration { author: CANARY, body: CANARY, numbers: &[("+15550100001", true)], calls_max: Some(5), follows: None };

/// Ids that a stranger might get to know.
struct Planted {
    job: String,
    endpoint: String,
    object: String,
    ticket: String,
    session: String,
    user: String,
    key: String,
}

fn session(phone: &str) -> NewSession<'_> {
    NewSession { phone, customer: None, from_number: None, agent_type: CANARY, status: "created", consent: false, key: None }
}

async fn plant(store: &Store, objects: &Objects, sealer: &Sealer, folder: &std::path::Path) -> Planted {
    let scope = store.tenant("owner");
    let (endpoint, _) = scope.add_endpoint(&format!("https://example.com/{CANARY}"), &[], sealer).await.unwrap();
    let facts = [
        ringing(CANARY),
        said(CANARY),
        Fact::Turn { endpointing_us: 1, thinking_us: 1, bridging_us: 1, playout_us: 1 },
        Fact::Message { name: None, number: None, text: CANARY.into() },
        Fact::ToolCalled { id: CANARY.into(), name: CANARY.into(), arguments: CANARY.into() },
        Fact::Recorded { stream: 0, location: CANARY.into(), channels: 2, length_ms: 1, sha256: None },
    ];
    let entries: Vec<_> = (0..).zip(facts).map(|(seq, fact)| entry("owner", CANARY, 0, seq, fact)).collect();
    apply(store, &entries).await;
    assert!(scope.save_clone_call(CANARY, None, None, None).await.unwrap());
    scope.publish(&CONFIGURATION).await.unwrap();
    scope.audit(CANARY, CANARY, CANARY, None).await.unwrap();
    let job = scope.enqueue(&NewJob::new(CANARY, "{}")).await.unwrap().unwrap();
    let schedule = Schedule { name: CANARY, kind: CANARY, body: "{}", cron: "0 3 * * *", time_zone: "UTC" };
    scope.schedule(&schedule).await.unwrap();
    assert_eq!(scope.intend(CANARY).await.unwrap(), Intent::Fresh);
    assert!(scope.take("calls", CANARY, "n", 1).await.unwrap());
    scope.command(CANARY, CANARY, "n", CANARY, Duration::from_secs(60)).await.unwrap();
    let file = folder.join(CANARY);
    std::fs::write(&file, CANARY).unwrap();
    let new = NewObject { kind: CANARY, media_type: "text/plain", number: None, call: None, expires_at_ms: None };
    let object = objects.put("owner", &file, &new).await.unwrap().id;
    let customer = scope.save_customer("+15550100007", Some(CANARY), None).await.unwrap().id;
    assert!(scope.save_booking(&booking(Some(customer))).await.unwrap());
    let ticket = scope.open_ticket(CANARY, CANARY, CANARY, None, None).await.unwrap();
    let Begun::Fresh(session) = scope.begin_session(&session("+15550100007")).await.unwrap() else { panic!("it is new") };
    let session = session.id;
    let dialled = VoiceSessionChange { call_sid: Some(CANARY), ..Default::default() };
    assert!(scope.change_session(&session, &dialled).await.unwrap() && scope.is_call_of_a_session(CANARY).await.unwrap());
    scope.do_not_call("+15550100008", CANARY, CANARY).await.unwrap();
    assert!(store.create_tenant("owner", CANARY, "UTC").await.unwrap());
    let user = store.create_user(CANARY, CANARY, CANARY).await.unwrap().unwrap();
    scope.set_member(&user, "owner").await.unwrap();
    scope.sign_in(&user, CANARY, Duration::from_secs(60)).await.unwrap();
    let key = scope.add_key(CANARY, "viewer", CANARY, None).await.unwrap();
    Planted { job, endpoint, object, ticket, session, user, key }
}

fn booking(customer: Option<String>) -> BookingRow {
    BookingRow {
        id: CANARY.into(),
        customer,
        call: Some(CANARY.into()),
        starts_at_ms: 1,
        ends_at_ms: 2,
        time_zone: "UTC".into(),
        status: "held".into(),
        hold_expires_ms: None,
        confirmation: CANARY.into(),
    }
}

/// Everything that the owner sees, as text.
async fn view(store: &Store, it: &Planted) -> String {
    let scope = store.tenant("owner");
    let call = scope.call(CANARY).await.unwrap().unwrap();
    let line = scope.transcript(CANARY).await.unwrap().remove(0);
    let tool = scope.tool_calls(CANARY).await.unwrap().remove(0);
    format!(
        "{} {} {} {:?} {} {:?} {:?} {} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        call.epoch,
        call.owner_node,
        line.text,
        scope.turns(CANARY).await.unwrap(),
        tool.name,
        scope.recordings(CANARY).await.unwrap(),
        scope.messages(10).await.unwrap().iter().map(|it| it.text.clone()).collect::<Vec<_>>(),
        scope.calls(10).await.unwrap().len(),
        scope.clone_call(CANARY).await.unwrap().map(|it| it.status),
        scope.configurations(10).await.unwrap(),
        scope.audit_log(10).await.unwrap(),
        scope.jobs(None, 10).await.unwrap(),
        scope.used("calls").await.unwrap(),
        scope.outcome(CANARY).await.unwrap(),
        scope.endpoints().await.unwrap(),
        scope.objects(10).await.unwrap(),
        scope.deliveries(&it.endpoint, 10).await.unwrap().len(),
        scope.customers(10).await.unwrap(),
        scope.bookings(0, 10).await.unwrap(),
        scope.tickets(10).await.unwrap(),
        scope.sessions(None, 10).await.unwrap(),
        scope.not_to_be_called(None, 10).await.unwrap(),
        scope.members().await.unwrap(),
        scope.keys(10).await.unwrap(),
        scope.this_tenant().await.unwrap(),
    )
}

#[tokio::test]
async fn a_stranger_finds_nothing_and_changes_nothing() {
    on_both(async |place| {
        let store = place.store().await;
        let sealer = Arc::new(Sealer::new(["ab".repeat(32).as_str()]).unwrap());
        let folder = place.folder.path().join("objects");
        let objects = Objects::open(folder.to_str().unwrap(), [], store.clone(), sealer.clone()).unwrap();
        let planted = plant(&store, &objects, &sealer, place.folder.path()).await;
        let before = view(&store, &planted).await;
        assert!(before.matches(CANARY).count() > 10, "the owner sees it: {before}");
        let it = store.tenant("stranger");
        // Reading.
        assert!(it.call(CANARY).await.unwrap().is_none() && it.calls(10).await.unwrap().is_empty());
        assert!(it.transcript(CANARY).await.unwrap().is_empty() && it.turns(CANARY).await.unwrap().is_empty());
        assert!(it.messages(10).await.unwrap().is_empty() && it.tool_calls(CANARY).await.unwrap().is_empty());
        assert!(it.recordings(CANARY).await.unwrap().is_empty() && it.clone_call(CANARY).await.unwrap().is_none());
        assert!(it.configuration(None).await.unwrap().is_none() && it.configuration(Some(1)).await.unwrap().is_none());
        assert!(it.configurations(10).await.unwrap().is_empty() && it.audit_log(10).await.unwrap().is_empty());
        assert!(it.jobs(None, 10).await.unwrap().is_empty() && it.job(&planted.job).await.unwrap().is_none());
        assert!(it.used("calls").await.unwrap().is_none() && it.outcome(CANARY).await.unwrap().is_none());
        assert!(it.endpoints().await.unwrap().is_empty());
        assert!(it.deliveries(&planted.endpoint, 10).await.unwrap().is_empty());
        assert!(it.objects(10).await.unwrap().is_empty() && objects.find("stranger", &planted.object).await.is_err());
        assert!(it.customer("+15550100007").await.unwrap().is_none() && it.customers(10).await.unwrap().is_empty());
        assert!(it.bookings(0, 10).await.unwrap().is_empty() && it.bookings_of_call(CANARY).await.unwrap().is_empty());
        assert!(it.tickets(10).await.unwrap().is_empty() && it.sessions(None, 10).await.unwrap().is_empty());
        assert!(it.session(&planted.session).await.unwrap().is_none());
        assert!(it.find_calls(&CallFilter { live: true, ..Default::default() }, 10).await.unwrap().is_empty());
        assert!(it.not_to_be_called(None, 10).await.unwrap().is_empty());
        assert!(!it.is_not_to_be_called("+15550100008").await.unwrap() && !it.may_call("+15550100008").await.unwrap());
        assert!(it.members().await.unwrap().is_empty() && it.keys(10).await.unwrap().is_empty());
        assert!(!it.is_call_of_a_session(CANARY).await.unwrap());
        let customer = store.tenant("owner").customer("+15550100007").await.unwrap().unwrap().id;
        assert!(it.customer_of_id(&customer).await.unwrap().is_none());
        assert!(it.this_tenant().await.unwrap().is_none());
        // Writing.
        assert!(it.remove_member(&planted.user).await.is_err() && !it.revoke_key(&planted.key).await.unwrap());
        assert!(it.admit_session(&planted.session, &DialLimits::default()).await.is_err());
        assert!(!it.settle_session(&planted.session, 1).await.unwrap());
        assert!(matches!(it.begin_session(&session("+15550100007")).await.unwrap(), Begun::Fresh(_)));
        assert!(!it.save_booking(&booking(None)).await.unwrap() && !it.set_ticket(&planted.ticket, "closed").await.unwrap());
        assert!(!it.change_session(&planted.session, &VoiceSessionChange { ended: true, ..Default::default() }).await.unwrap());
        assert!(!it.recording_kept(CANARY, 0, "o").await.unwrap() && !it.claim(CANARY, 0, "n2").await.unwrap());
        assert!(!it.update_clone(CANARY, CloneOutcome::Failed { error: "x" }).await.unwrap());
        assert!(!it.retry_job(&planted.job).await.unwrap() && !it.cancel_job(&planted.job).await.unwrap());
        assert!(!it.unschedule(CANARY).await.unwrap() && !it.release("calls", CANARY).await.unwrap());
        assert!(!it.remove_endpoint(&planted.endpoint).await.unwrap());
        assert!(!it.resume_endpoint(&planted.endpoint).await.unwrap());
        assert_eq!(it.replay(&planted.endpoint, 0).await.unwrap(), 0);
        assert!(objects.delete("stranger", &planted.object).await.is_err());
        assert!(it.publish(&CONFIGURATION).await.is_err(), "the number is the owner's");
        // Under the same names the stranger has things of its own.
        it.intended(CANARY, "x").await.unwrap();
        it.abandoned(CANARY).await.unwrap();
        assert_eq!(it.intend(CANARY).await.unwrap(), Intent::Fresh);
        assert!(matches!(store.tenant("owner").intend(CANARY).await.unwrap(), Intent::Unclear), "the owner's is as it was");
        it.set_cap("calls", 0).await.unwrap();
        assert!(!it.take("calls", CANARY, "n", 1).await.unwrap());
        assert_ne!(it.save_customer("+15550100007", None, None).await.unwrap().name.as_deref(), Some(CANARY));
        // A number or an id that is taken is refused, or changes nothing.
        let _ = it.save_clone_call(CANARY, Some("+15550109999"), None, None).await;
        let _ = it.command(CANARY, CANARY, "n", "other", Duration::from_secs(60)).await;
        assert!(it.enqueue(&NewJob::new(CANARY, "{}")).await.unwrap().is_some());
        assert_eq!(objects.erase("stranger", "+15550100002").await.unwrap(), (0, 0));
        assert_eq!(view(&store, &planted).await, before);
        assert_eq!(store.tenant("owner").outcome(CANARY).await.unwrap(), None);
    })
    .await;
}

#[test]
fn every_question_of_a_tenant_is_tried() {
    let sources = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut untried, mut found) = (vec![sources], Vec::new(), 0);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for block in text.split("\nimpl ").filter(|it| it.starts_with("Scope<") || it.starts_with("<'a> Scope")) {
                let block = block.split("\n}\n").next().unwrap_or_default();
                for name in block.split("pub async fn ").skip(1).filter_map(|it| it.split('(').next()) {
                    found += 1;
                    if !include_str!("walls.rs").contains(&format!("it.{name}(")) {
                        untried.push(name.to_owned());
                    }
                }
            }
        }
    }
    // Planted by the owner, which a stranger's own of the same name is beside.
    untried.retain(|it| {
        !["add_endpoint", "add_key", "audit", "do_not_call", "open_ticket", "schedule", "set_member", "sign_in"]
            .contains(&it.as_str())
    });
    assert!(found >= 40 && untried.is_empty(), "{found} found, untried: {untried:?}");
}
