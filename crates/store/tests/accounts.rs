//! People, keys and sign-ins.

mod common;

use std::time::Duration;

use common::on_both;
use store::{MemberError, Renewal};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_refresh_token_is_used_once_and_a_copy_ends_the_sign_in() {
    on_both(async |place| {
        let store = place.store().await;
        assert!(store.create_tenant("t", "T", "UTC").await.unwrap());
        let user = store.create_user("ana@example.com", "Ana", "hash").await.unwrap().unwrap();
        let scope = store.tenant("t");
        scope.set_member(&user, "owner").await.unwrap();
        let sign_in = scope.sign_in(&user, "first", HOUR).await.unwrap();
        let holder = store.signed_in(&sign_in).await.unwrap().unwrap();
        assert_eq!((holder.tenant.as_str(), holder.id.as_str(), holder.role.as_str()), ("t", user.as_str(), "owner"));
        assert_eq!(store.renew(&sign_in, "first", "second").await.unwrap(), Renewal::Renewed);
        assert_eq!(store.renew(&sign_in, "second", "third").await.unwrap(), Renewal::Renewed);
        assert_eq!(store.renew(&sign_in, "second", "thief").await.unwrap(), Renewal::Reused);
        assert_eq!(store.signed_in(&sign_in).await.unwrap(), None, "for whoever has it");
        assert_eq!(store.renew(&sign_in, "third", "fourth").await.unwrap(), Renewal::Over);
        assert_eq!(store.renew("nobody's", "x", "y").await.unwrap(), Renewal::Over);
        // Two at a time with the same token: one of them is a copy.
        let sign_in = scope.sign_in(&user, "a", HOUR).await.unwrap();
        let (one, other) = tokio::join!(store.renew(&sign_in, "a", "b"), store.renew(&sign_in, "a", "c"));
        let both = [one.unwrap(), other.unwrap()];
        assert!(both.contains(&Renewal::Renewed) && both.contains(&Renewal::Reused), "{both:?}");
        // Its time is over.
        let sign_in = scope.sign_in(&user, "a", Duration::ZERO).await.unwrap();
        assert_eq!(store.signed_in(&sign_in).await.unwrap(), None);
        assert_eq!(store.renew(&sign_in, "a", "b").await.unwrap(), Renewal::Over);
        assert!(store.forget_sign_ins().await.unwrap() <= 1);
        // Signed out, a new password, sent away, the tenant switched off: at once.
        let sign_in = scope.sign_in(&user, "a", HOUR).await.unwrap();
        store.sign_out(&sign_in).await.unwrap();
        assert_eq!(store.signed_in(&sign_in).await.unwrap(), None);
        let sign_in = scope.sign_in(&user, "a", HOUR).await.unwrap();
        assert!(store.set_password(&user, "another").await.unwrap());
        assert_eq!(store.signed_in(&sign_in).await.unwrap(), None);
        let sign_in = scope.sign_in(&user, "a", HOUR).await.unwrap();
        assert!(store.set_tenant_active("t", false).await.unwrap());
        assert_eq!(store.signed_in(&sign_in).await.unwrap(), None);
        assert!(store.memberships(&user).await.unwrap().is_empty());
        assert!(store.set_tenant_active("t", true).await.unwrap() && !store.set_tenant_active("u", true).await.unwrap());
        assert!(store.signed_in(&sign_in).await.unwrap().is_some());
        let other = store.create_user("ion@example.com", "Ion", "hash").await.unwrap().unwrap();
        scope.set_member(&other, "owner").await.unwrap();
        scope.remove_member(&user).await.unwrap();
        assert_eq!(store.signed_in(&sign_in).await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn a_tenant_keeps_an_owner_and_keys_end() {
    on_both(async |place| {
        let store = place.store().await;
        assert!(store.create_tenant("t", "T", "UTC").await.unwrap() && !store.create_tenant("t", "U", "UTC").await.unwrap());
        let scope = store.tenant("t");
        let one = store.create_user("a@example.com", "A", "h").await.unwrap().unwrap();
        let other = store.create_user("b@example.com", "B", "h").await.unwrap().unwrap();
        assert_eq!(store.create_user("a@example.com", "C", "h").await.unwrap(), None, "the address is taken");
        assert!(matches!(scope.set_member(&one, "viewer").await, Err(MemberError::LastOwner)));
        scope.set_member(&one, "owner").await.unwrap();
        scope.set_member(&other, "owner").await.unwrap();
        // Each sends the other one away, at the same time.
        let (first, second) = tokio::join!(scope.remove_member(&one), scope.remove_member(&other));
        assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
        assert_eq!(scope.members().await.unwrap().len(), 1);
        assert!(matches!(scope.remove_member("nobody").await, Err(MemberError::Unknown)));

        let key = scope.add_key("crm", "operator", "hash", None).await.unwrap();
        let holder = store.key_holder("hash").await.unwrap().unwrap();
        assert_eq!((holder.tenant.as_str(), holder.id.as_str(), holder.role.as_str()), ("t", key.as_str(), "operator"));
        assert!(scope.keys(10).await.unwrap()[0].last_used_ms.is_some());
        assert_eq!(store.key_holder("another").await.unwrap(), None);
        scope.add_key("old", "viewer", "old", Some(1)).await.unwrap();
        assert_eq!(store.key_holder("old").await.unwrap(), None, "its time is over");
        assert!(store.set_tenant_active("t", false).await.unwrap());
        assert_eq!(store.key_holder("hash").await.unwrap(), None);
        assert!(store.set_tenant_active("t", true).await.unwrap());
        assert!(scope.revoke_key(&key).await.unwrap() && !scope.revoke_key(&key).await.unwrap());
        assert_eq!(store.key_holder("hash").await.unwrap(), None);
    })
    .await;
}
