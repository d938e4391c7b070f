//! Configurations are published whole, in versions; a number belongs to one tenant.

mod common;

use common::on_both;
use store::{NewConfiguration, PriceRow, PublishError};

fn new<'a>(body: &'a str, numbers: &'a [(&'a str, bool)], follows: Option<u64>) -> NewConfiguration<'a> {
    NewConfiguration { author: "ana", body, numbers, calls_max: None, follows }
}

#[tokio::test]
async fn what_is_published_is_a_version_and_nobody_overwrites_what_they_have_not_seen() {
    on_both(async |place| {
        let store = place.store().await;
        let (a, b) = (store.tenant("a"), store.tenant("b"));
        assert_eq!(a.configuration(None).await.unwrap(), None);
        assert_eq!(a.publish(&new("{1}", &[("+15550100001", true)], Some(0))).await.unwrap(), 1);
        assert_eq!(a.publish(&new("{2}", &[("+15550100001", true)], Some(1))).await.unwrap(), 2);
        let refused = a.publish(&new("{3}", &[], Some(1))).await.unwrap_err();
        assert!(matches!(refused, PublishError::Outdated { newest: 2 }), "{refused}");
        assert_eq!(b.publish(&new("{b}", &[("+15550100002", false)], None)).await.unwrap(), 1);
        // Both have one; a tenant's number is taken by nobody else, and a refused document leaves nothing.
        let refused = b.publish(&new("{c}", &[("+15550100003", true), ("+15550100001", true)], None)).await.unwrap_err();
        assert!(matches!(&refused, PublishError::NumberTaken { number } if number == "+15550100001"), "{refused}");
        assert_eq!(a.publish(&new("{3}", &[("+15550100003", true)], None)).await.unwrap(), 3, "nobody has the third number");
        // Given up, it is free.
        assert_eq!(b.publish(&new("{b2}", &[("+15550100001", true)], Some(1))).await.unwrap(), 2);
        let newest = store.configurations().await.unwrap();
        let found: Vec<_> = newest.iter().map(|it| (it.tenant.as_str(), it.version, it.body.as_str())).collect();
        assert_eq!(found, [("a", 3, "{3}"), ("b", 2, "{b2}")]);
        assert_eq!(a.configuration(Some(1)).await.unwrap().unwrap().body, "{1}", "what was, can be looked at");
        assert_eq!(a.configurations(2).await.unwrap().iter().map(|it| it.version).collect::<Vec<_>>(), [3, 2]);
        let log = a.audit_log(10).await.unwrap();
        assert_eq!(log.len(), 3);
        assert_eq!(
            (log[0].actor.as_str(), log[0].action.as_str(), log[0].target.as_str()),
            ("ana", "configuration.publish", "3")
        );
    })
    .await;
}

#[tokio::test]
async fn of_two_who_publish_at_once_one_is_told() {
    on_both(async |place| {
        let store = place.store().await;
        let racers = (0..8).map(|it| {
            let store = store.clone();
            tokio::spawn(async move {
                let body = it.to_string();
                let result = store.tenant("a").publish(&new(&body, &[("+15550100001", true)], Some(0))).await;
                result.is_ok()
            })
        });
        let won = futures::future::join_all(racers).await.into_iter().filter(|it| *it.as_ref().unwrap()).count();
        assert_eq!(won, 1);
        assert_eq!(store.tenant("a").configurations(10).await.unwrap().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_cap_comes_and_goes_with_the_configuration() {
    on_both(async |place| {
        let store = place.store().await;
        let scope = store.tenant("a");
        let publish = async |calls_max| {
            scope.publish(&NewConfiguration { calls_max, ..new("{}", &[], None) }).await.unwrap();
        };
        publish(Some(1)).await;
        assert!(scope.take("calls", "c1", "n", 1).await.unwrap());
        assert!(!scope.take("calls", "c2", "n", 1).await.unwrap());
        publish(Some(2)).await;
        assert!(scope.take("calls", "c2", "n", 1).await.unwrap());
        publish(None).await;
        assert!(scope.take("calls", "c3", "n", 1).await.unwrap());
        publish(Some(1)).await;
        assert_eq!(scope.used("calls").await.unwrap(), Some((0, 1)));
    })
    .await;
}

#[tokio::test]
async fn a_price_is_that_of_its_time() {
    on_both(async |place| {
        let store = place.store().await;
        let price = |from_ms, micros| PriceRow {
            kind: "openai.input_tokens".into(),
            from_ms,
            unit: "1000000 tokens".into(),
            micros,
            currency: "USD".into(),
        };
        for it in [price(100, 4_000_000), price(200, 32_000_000), price(200, 30_000_000)] {
            store.set_price(&it).await.unwrap();
        }
        let at = async |at_ms| store.price("openai.input_tokens", at_ms).await.unwrap().map(|it| it.micros);
        assert_eq!((at(99).await, at(199).await, at(200).await), (None, Some(4_000_000), Some(30_000_000)));
    })
    .await;
}
