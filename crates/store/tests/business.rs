//! What calls are about, linked both ways.

mod common;

use common::{apply, entry, on_both, ringing};
use store::{BookingRow, VoiceSessionChange};

const NUMBER: &str = "+40711111111";

#[tokio::test]
async fn a_call_a_customer_a_booking_and_a_ticket_know_each_other() {
    // S1-11, S1-16, S2-23.
    on_both(async |place| {
        let store = place.store().await;
        let scope = store.tenant("t");
        apply(&store, &[entry("t", "c1", 0, 0, ringing("c1"))]).await;
        // Noted before it is dialled: there is a row even if Twilio never hears of it.
        let session = scope.begin_session(NUMBER, "reminder").await.unwrap();
        let customer = scope.customer(NUMBER).await.unwrap().unwrap();
        assert_eq!(scope.session(&session).await.unwrap().unwrap().customer.as_deref(), Some(customer.id.as_str()));
        let dialled =
            VoiceSessionChange { call_sid: Some("CAc1"), call: Some("c1"), status: Some("in-progress"), ..Default::default() };
        assert!(scope.change_session(&session, &dialled).await.unwrap());
        let ended =
            VoiceSessionChange { status: Some("completed"), recording_url: Some("/files/x"), ended: true, ..Default::default() };
        assert!(scope.change_session(&session, &ended).await.unwrap());
        let row = scope.sessions(10).await.unwrap().remove(0);
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
