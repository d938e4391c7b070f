//! What calls are about, linked both ways.

mod common;

use common::{apply, entry, on_both, ringing};
use std::time::Duration;

use store::{Admission, Begun, BookingRow, DialLimits, NewSession, VoiceSessionChange};

const NUMBER: &str = "+40711111111";

fn new_session(phone: &str) -> NewSession<'_> {
    NewSession { phone, customer: None, from_number: None, agent_type: "reminder", status: "created", consent: false, key: None }
}

#[tokio::test]
async fn an_order_with_a_name_is_one_call_however_often_it_comes() {
    on_both(async |place| {
        let store = place.store().await;
        let scope = store.tenant("t");
        let order = NewSession { key: Some(("k", "f")), ..new_session(NUMBER) };
        let all = futures::future::join_all((0..8).map(|_| scope.begin_session(&order))).await;
        let fresh = all.iter().filter(|it| matches!(it, Ok(Begun::Fresh(_)))).count();
        assert_eq!((fresh, scope.sessions(None, 10).await.unwrap().len()), (1, 1), "{all:?}");
        let Begun::Before(row) = scope.begin_session(&NewSession { key: Some(("k", "g")), ..order }).await.unwrap() else {
            panic!("it was there")
        };
        assert_eq!(row.fingerprint.as_deref(), Some("f"), "what was ordered first");
        let elsewhere = store.tenant("other");
        assert!(matches!(elsewhere.begin_session(&order).await.unwrap(), Begun::Fresh(_)), "names are the tenant's own");
    })
    .await;
}

#[tokio::test]
async fn of_racing_calls_as_many_are_dialled_as_may_be() {
    // 64 at cap - 1.
    on_both(async |place| {
        let store = place.store().await;
        let scope = store.tenant("t");
        let longest = Duration::from_secs(3600);
        let limits = DialLimits { live: Some(3), longest, ..Default::default() };
        let mut ids = Vec::new();
        for _ in 0..66 {
            let Begun::Fresh(row) = scope.begin_session(&new_session(NUMBER)).await.unwrap() else { panic!("each is new") };
            ids.push(row.id);
        }
        for id in &ids[..2] {
            assert_eq!(scope.admit_session(id, &limits).await.unwrap(), Admission::Admitted);
            assert_eq!(scope.admit_session(id, &limits).await.unwrap(), Admission::Admitted, "it was before");
        }
        let racing = futures::future::join_all(ids[2..].iter().map(|id| scope.admit_session(id, &limits))).await;
        let passed = racing.iter().filter(|it| matches!(it, Ok(Admission::Admitted))).count();
        assert_eq!((passed, racing.len()), (1, 64), "{racing:?}");
        assert!(racing.iter().all(|it| matches!(it, Ok(Admission::Admitted | Admission::Full))), "{racing:?}");
        // One is over: another one may be dialled.
        let over = VoiceSessionChange { status: Some(("completed", 5)), ended: true, ..Default::default() };
        scope.change_session(&ids[0], &over).await.unwrap();
        let waiting = racing.iter().position(|it| matches!(it, Ok(Admission::Full))).unwrap() + 2;
        assert_eq!(scope.admit_session(&ids[waiting], &limits).await.unwrap(), Admission::Admitted);
        // Four were begun today, whoever is over.
        let fifth = (2..66).rev().find(|it| matches!(racing[it - 2], Ok(Admission::Full)) && *it != waiting).unwrap();
        let day = DialLimits { in_a_day: Some(4), longest, ..Default::default() };
        assert_eq!(scope.admit_session(&ids[fifth], &day).await.unwrap(), Admission::DayFull);
        // Money: what is over has cost what it lasted.
        let spending = DialLimits { micros_in_a_day: Some(1_000), reserve_micros: 600, longest, ..Default::default() };
        assert_eq!(scope.admit_session(&ids[fifth], &spending).await.unwrap(), Admission::Admitted);
        let Begun::Fresh(last) = scope.begin_session(&new_session(NUMBER)).await.unwrap() else { panic!("it is new") };
        assert_eq!(scope.admit_session(&last.id, &spending).await.unwrap(), Admission::Spent);
        assert!(scope.settle_session(&ids[fifth], 100).await.unwrap());
        assert_eq!(scope.admit_session(&last.id, &spending).await.unwrap(), Admission::Admitted);
        // Calls of an account go at a pace, of all servers together.
        let apart = Duration::from_secs(10);
        let waits = futures::future::join_all((0..3).map(|_| store.pace("AC1", apart))).await;
        let mut waits: Vec<u64> = waits.into_iter().map(|it| it.unwrap().as_secs()).collect();
        waits.sort_unstable();
        assert!(waits[0] == 0 && (9..=10).contains(&waits[1]) && (19..=20).contains(&waits[2]), "{waits:?}");
    })
    .await;
}

#[tokio::test]
async fn a_call_a_customer_a_booking_and_a_ticket_know_each_other() {
    // S1-11, S1-16, S2-23.
    on_both(async |place| {
        let store = place.store().await;
        let scope = store.tenant("t");
        apply(&store, &[entry("t", "c1", 0, 0, ringing("c1"))]).await;
        // Noted before it is dialled: there is a row even if Twilio never hears of it.
        let Begun::Fresh(noted) = scope.begin_session(&new_session(NUMBER)).await.unwrap() else { panic!("it is new") };
        let session = noted.id;
        let customer = scope.customer(NUMBER).await.unwrap().unwrap();
        assert_eq!(scope.session(&session).await.unwrap().unwrap().customer.as_deref(), Some(customer.id.as_str()));
        let dialled = VoiceSessionChange {
            call_sid: Some("CAc1"),
            call: Some("c1"),
            status: Some(("in-progress", 4)),
            ..Default::default()
        };
        assert!(scope.change_session(&session, &dialled).await.unwrap());
        let ended = VoiceSessionChange {
            status: Some(("completed", 5)),
            recording_url: Some("/files/x"),
            ended: true,
            ..Default::default()
        };
        assert!(scope.change_session(&session, &ended).await.unwrap());
        // Told late, it changes nothing.
        let late = VoiceSessionChange { call_sid: Some("CAother"), status: Some(("ringing", 3)), ..Default::default() };
        assert!(scope.change_session(&session, &late).await.unwrap());
        let row = scope.sessions(None, 10).await.unwrap().remove(0);
        assert_eq!(row.call_sid.as_deref(), Some("CAc1"));
        assert_eq!(
            (row.call.as_deref(), row.status.as_str(), row.recording_url.as_deref()),
            (Some("c1"), "completed", Some("/files/x"))
        );
        assert!(row.ended_at_ms >= Some(row.created_at_ms));
        // The same number is the same customer; what is known is not forgotten.
        let named = scope.save_customer(NUMBER, Some("Ana"), Some("c1")).await.unwrap();
        let again = scope.save_customer(NUMBER, None, None).await.unwrap();
        assert_eq!(
            (named.id.as_str(), again.name.as_deref(), again.call.as_deref()),
            (customer.id.as_str(), Some("Ana"), Some("c1"))
        );
        let mut booking = BookingRow {
            id: "b1".into(),
            customer: Some(customer.id.clone()),
            call: Some("c1".into()),
            starts_at_ms: 1_000,
            ends_at_ms: 2_000,
            time_zone: "Europe/Bucharest".into(),
            status: "held".into(),
            hold_expires_ms: Some(500),
            confirmation: "K7".into(),
        };
        assert!(scope.save_booking(&booking).await.unwrap());
        booking.status = "confirmed".into();
        booking.hold_expires_ms = None;
        assert!(scope.save_booking(&booking).await.unwrap());
        assert_eq!(scope.bookings_of_call("c1").await.unwrap(), [booking.clone()]);
        assert_eq!(scope.bookings(1_999, 3_000).await.unwrap(), [booking.clone()]);
        assert!(scope.bookings(2_000, 3_000).await.unwrap().is_empty(), "what is over does not touch what follows");
        assert!(!store.tenant("other").save_booking(&booking).await.unwrap(), "the id is somebody else's");
        let id = scope.open_ticket("Broken lamp", "Room 3", "high", Some(&customer.id), Some("c1")).await.unwrap();
        assert!(scope.set_ticket(&id, "closed").await.unwrap() && !scope.set_ticket("none", "closed").await.unwrap());
        let ticket = scope.tickets(10).await.unwrap().remove(0);
        assert_eq!(
            (ticket.status.as_str(), ticket.customer.as_deref(), ticket.call.as_deref()),
            ("closed", Some(customer.id.as_str()), Some("c1"))
        );
        assert_eq!(scope.customers(10).await.unwrap().len(), 1);
    })
    .await;
}
