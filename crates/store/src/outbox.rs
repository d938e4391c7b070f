//! What happens on calls, told to the programs of a tenant: signed, in order, until they have it.
//!
//! An event is written in the transaction that delivers its fact, so that none is lost and none is invented. Of one call the
//! next event goes out when the one before has arrived, or was given up. Signatures follow Standard Webhooks 1.0.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::db::{Engine, Row, StoreError, Tx, Wall, values};
use crate::seal::{SealError, Sealer, random};
use crate::{Entry, Fact, Scope, Store};

/// Pauses after failed attempts; their sum is 72 hours.
const PAUSES: [Duration; 11] = {
    const fn minutes(it: u64) -> Duration {
        Duration::from_secs(60 * it)
    }
    [
        Duration::from_secs(5),
        Duration::from_secs(55),
        minutes(4),
        minutes(25),
        minutes(90),
        minutes(180),
        minutes(300),
        minutes(600),
        minutes(840),
        minutes(1080),
        minutes(1200),
    ]
};
/// How long an event is in its courier's hands.
const LEASE_MS: i64 = 60_000;
/// Secrets begin so (Standard Webhooks, "Signature scheme").
const SECRET_PREFIX: &str = "whsec_";

/// What may go out: of each endpoint and call the event with the lowest number that waits.
macro_rules! due {
    () => {
        "SELECT d.id, d.tenant, d.event, d.body, d.attempts, p.url, p.secret, p.id AS endpoint
            FROM webhook_deliveries d JOIN webhook_endpoints p ON p.id = d.endpoint
            WHERE d.state = 'waiting' AND d.next_at_ms <= $1 AND (d.lease_until_ms IS NULL OR d.lease_until_ms < $1)
                AND p.paused_reason IS NULL AND NOT EXISTS (SELECT 1 FROM webhook_deliveries e WHERE e.endpoint = d.endpoint
                    AND e.order_key = d.order_key AND e.state = 'waiting'
                    AND (e.number < d.number OR (e.number = d.number AND e.id < d.id)))
            ORDER BY d.next_at_ms, d.id LIMIT $2"
    };
}

/// What tenants are told of a fact; `None`: nothing.
fn kind(fact: &Fact) -> Option<&'static str> {
    Some(match fact {
        Fact::Ringing { .. } => "call.ringing",
        Fact::StreamStarted { .. } => "call.answered",
        Fact::Said { .. } => "call.said",
        Fact::ToolFinished { .. } => "call.tool_finished",
        Fact::Transferred { .. } => "call.transferred",
        Fact::Message { .. } => "call.message",
        Fact::Recorded { sha256: Some(_), .. } => "call.recorded",
        Fact::Status { terminal: true, .. } => "call.ended",
        _ => return None,
    })
}

/// Where events of a tenant go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointRow {
    pub id: String,
    pub url: String,
    /// Kinds of events; empty: all.
    pub events: Vec<String>,
    pub paused_reason: Option<String>,
}

/// An event in its courier's hands.
#[derive(Clone)]
pub struct Parcel {
    pub id: String,
    pub tenant: String,
    pub url: String,
    /// Stays the same for all attempts.
    pub event: String,
    pub body: String,
    attempts: u32,
    secret: Vec<u8>,
}

/// An event as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryRow {
    pub id: String,
    pub endpoint: String,
    pub event: String,
    pub kind: String,
    /// `waiting`, `delivered`, `expired`.
    pub state: String,
    pub attempts: u32,
    pub last_status: Option<u16>,
    pub last_problem: Option<String>,
}

impl fmt::Debug for Parcel {
    /// Neither words nor the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Parcel({}, attempt {})", self.event, self.attempts)
    }
}

impl Parcel {
    /// The headers that go with it: `webhook-id`, `webhook-timestamp` (Unix seconds), `webhook-signature`.
    pub fn headers(&self, now_s: i64) -> [(&'static str, String); 3] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.secret);
        let signature = hmac::sign(&key, format!("{}.{now_s}.{}", self.event, self.body).as_bytes());
        [
            ("webhook-id", self.event.clone()),
            ("webhook-timestamp", now_s.to_string()),
            ("webhook-signature", format!("v1,{}", STANDARD.encode(signature.as_ref()))),
        ]
    }
}

/// Writes the events of a fact, for every endpoint of its tenant that wants them.
pub(crate) async fn tell(tx: &mut Tx, journal: &str, entry: &Entry) -> Result<(), StoreError> {
    let Some(kind) = kind(&entry.fact) else { return Ok(()) };
    let sql = "SELECT id, events FROM webhook_endpoints WHERE tenant = $1";
    let endpoints = tx.rows(sql, values![&entry.tenant]).await?;
    if endpoints.is_empty() {
        return Ok(());
    }
    let now = tx.now_ms().await?;
    let event = format!("{}-{}-{}-{journal}", entry.call, entry.epoch, entry.seq);
    let data = serde_json::to_value(&entry.fact).map_err(|error| StoreError::Row(error.to_string()))?;
    let time = jiff::Timestamp::from_millisecond(entry.at_ms).map(|it| it.to_string()).unwrap_or_default();
    let body =
        json!({"type": kind, "timestamp": time, "data": {"call": entry.call, "stream": entry.epoch, "fact": data}}).to_string();
    let number = (i64::from(entry.epoch) << 32) + entry.seq as i64;
    for endpoint in endpoints {
        let (id, events): (String, String) = (endpoint.get("id")?, endpoint.get("events")?);
        if !events.is_empty() && !events.split(' ').any(|it| it == kind) {
            continue;
        }
        let sql = "INSERT INTO webhook_deliveries (id, tenant, endpoint, event, kind, order_key, number, body, state, next_at_ms, created_at_ms)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'waiting', $9, $9) ON CONFLICT DO NOTHING";
        let delivery = uuid::Uuid::now_v7().to_string();
        tx.execute(sql, values![delivery, &entry.tenant, id, &event, kind, &entry.call, number, &body, now]).await?;
    }
    Ok(())
}

impl Scope<'_> {
    /// Adds an endpoint; returns its id and its secret, which is shown this once.
    pub async fn add_endpoint(&self, url: &str, events: &[&str], sealer: &Sealer) -> Result<(String, String), StoreError> {
        let id = uuid::Uuid::now_v7().to_string();
        let secret = random::<32>();
        let sealed = sealer.seal(&secret, &format!("endpoint/{}/{id}", self.tenant));
        let mut tx = self.write().await?;
        let now = tx.now_ms().await?;
        let sql =
            "INSERT INTO webhook_endpoints (id, tenant, url, secret, events, created_at_ms) VALUES ($1, $2, $3, $4, $5, $6)";
        tx.execute(sql, values![&id, self.tenant, url, sealed.as_slice(), events.join(" "), now]).await?;
        tx.commit().await?;
        Ok((id, format!("{SECRET_PREFIX}{}", STANDARD.encode(secret))))
    }

    /// The tenant's endpoints.
    pub async fn endpoints(&self) -> Result<Vec<EndpointRow>, StoreError> {
        let sql = "SELECT id, url, events, paused_reason FROM webhook_endpoints WHERE tenant = $1 ORDER BY id";
        let endpoint = |row: &Row| {
            let events: String = row.get("events")?;
            Ok(EndpointRow {
                id: row.get("id")?,
                url: row.get("url")?,
                events: events.split_whitespace().map(str::to_owned).collect(),
                paused_reason: row.get("paused_reason")?,
            })
        };
        self.ask().await?.rows(sql, values![self.tenant]).await?.iter().map(endpoint).collect()
    }

    /// Removes an endpoint with what was waiting for it.
    pub async fn remove_endpoint(&self, id: &str) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        tx.execute("DELETE FROM webhook_deliveries WHERE tenant = $1 AND endpoint = $2", values![self.tenant, id]).await?;
        let sql = "DELETE FROM webhook_endpoints WHERE tenant = $1 AND id = $2";
        let gone = tx.execute(sql, values![self.tenant, id]).await? == 1;
        tx.commit().await?;
        Ok(gone)
    }

    /// Ends the pause of an endpoint: what waits goes out at once.
    pub async fn resume_endpoint(&self, id: &str) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let now = tx.now_ms().await?;
        let sql = "UPDATE webhook_endpoints SET paused_reason = NULL WHERE tenant = $1 AND id = $2";
        let there = tx.execute(sql, values![self.tenant, id]).await? == 1;
        let sql = "UPDATE webhook_deliveries SET next_at_ms = $1 WHERE tenant = $2 AND endpoint = $3 AND state = 'waiting'";
        tx.execute(sql, values![now, self.tenant, id]).await?;
        tx.commit().await?;
        Ok(there)
    }

    /// Sends events again, delivered or not, that happened from a moment on. Returns how many.
    pub async fn replay(&self, endpoint: &str, from_ms: i64) -> Result<u64, StoreError> {
        let mut tx = self.write().await?;
        let now = tx.now_ms().await?;
        let sql = "UPDATE webhook_deliveries SET state = 'waiting', attempts = 0, next_at_ms = $1, lease_until_ms = NULL, finished_at_ms = NULL
            WHERE tenant = $2 AND endpoint = $3 AND created_at_ms >= $4 AND state <> 'waiting'";
        let again = tx.execute(sql, values![now, self.tenant, endpoint, from_ms]).await?;
        tx.commit().await?;
        Ok(again)
    }

    /// The newest events of an endpoint.
    pub async fn deliveries(&self, endpoint: &str, limit: u32) -> Result<Vec<DeliveryRow>, StoreError> {
        let sql = "SELECT * FROM webhook_deliveries WHERE tenant = $1 AND endpoint = $2 ORDER BY created_at_ms DESC, number DESC LIMIT $3";
        let delivery = |row: &Row| {
            Ok(DeliveryRow {
                id: row.get("id")?,
                endpoint: row.get("endpoint")?,
                event: row.get("event")?,
                kind: row.get("kind")?,
                state: row.get("state")?,
                attempts: row.get("attempts")?,
                last_status: row.get("last_status")?,
                last_problem: row.get("last_problem")?,
            })
        };
        self.ask().await?.rows(sql, values![self.tenant, endpoint, limit]).await?.iter().map(delivery).collect()
    }
}

impl Store {
    /// Takes up to `most` events that are due: of each call and endpoint the next one.
    pub async fn claim_parcels(&self, most: u32, sealer: &Sealer) -> Result<Vec<Parcel>, StoreError> {
        // Mostly nothing is due: then nobody's writing is waited for, or kept waiting.
        let mut ask = self.ask(Wall::None).await?;
        let now = ask.now_ms().await?;
        if ask.row(due!(), values![now, 1]).await?.is_none() {
            return Ok(Vec::new());
        }
        let mut tx = self.write(Wall::None).await?;
        let now = tx.now_ms().await?;
        let sql = match tx.engine() {
            Engine::Lite => due!(),
            Engine::Pg => concat!(due!(), " FOR UPDATE OF d SKIP LOCKED"),
        };
        let mut parcels = Vec::new();
        for row in tx.rows(sql, values![now, most]).await? {
            let (id, tenant, endpoint): (String, String, String) = (row.get("id")?, row.get("tenant")?, row.get("endpoint")?);
            let sealed: Vec<u8> = row.get("secret")?;
            let secret = match sealer.open(&sealed, &format!("endpoint/{tenant}/{endpoint}")) {
                Ok(secret) => secret,
                Err(error) => {
                    pause(&mut tx, &endpoint, &unreadable(&error)).await?;
                    continue;
                }
            };
            let sql = "UPDATE webhook_deliveries SET lease_until_ms = $1, attempts = attempts + 1 WHERE id = $2";
            tx.execute(sql, values![now + LEASE_MS, &id]).await?;
            let attempts: u32 = row.get("attempts")?;
            parcels.push(Parcel {
                id,
                tenant,
                url: row.get("url")?,
                event: row.get("event")?,
                body: row.get("body")?,
                attempts: attempts + 1,
                secret,
            });
        }
        tx.commit().await?;
        Ok(parcels)
    }

    /// Notes what became of an attempt. `status` is the receiver's answer, if there was one: 2xx means that it has the event;
    /// 410 that it wants no more.
    pub async fn parcel_done(&self, parcel: &Parcel, status: Option<u16>, problem: Option<&str>) -> Result<(), StoreError> {
        let mut tx = self.write(Wall::None).await?;
        let now = tx.now_ms().await?;
        let arrived = status.is_some_and(|it| (200..300).contains(&it));
        let pause_ms = PAUSES.get(parcel.attempts as usize - 1).map(|it| it.as_millis() as i64);
        let (state, next, finished) = match (arrived, pause_ms) {
            (true, _) => ("delivered", now, Some(now)),
            // A fifth more or less: what failed together is not tried together.
            (false, Some(pause)) => ("waiting", now + pause * 9 / 10 + fastrand::i64(0..=pause / 5), None),
            (false, None) => ("expired", now, Some(now)),
        };
        let sql =
            "UPDATE webhook_deliveries SET state = $1, next_at_ms = $2, finished_at_ms = $3, last_status = $4, last_problem = $5,
            lease_until_ms = NULL WHERE id = $6 AND state = 'waiting' AND attempts = $7";
        tx.execute(sql, values![state, next, finished, status, problem, &parcel.id, parcel.attempts]).await?;
        let endpoint = tx.row("SELECT endpoint FROM webhook_deliveries WHERE id = $1", values![&parcel.id]).await?;
        if let Some(endpoint) = endpoint.map(|it| it.get::<String>("endpoint")).transpose()? {
            if status == Some(410) {
                pause(&mut tx, &endpoint, "it answered 410: it wants no more events").await?;
            } else if state == "expired" {
                pause(&mut tx, &endpoint, "an event could not be delivered for 72 hours").await?;
            }
        }
        tx.commit().await
    }

    /// Deletes events that were delivered or given up before a moment.
    pub async fn forget_deliveries(&self, before_ms: i64) -> Result<u64, StoreError> {
        let mut tx = self.write(Wall::None).await?;
        let sql = "DELETE FROM webhook_deliveries WHERE state <> 'waiting' AND finished_at_ms < $1";
        let gone = tx.execute(sql, values![before_ms]).await?;
        tx.commit().await?;
        Ok(gone)
    }
}

async fn pause(tx: &mut Tx, endpoint: &str, reason: &str) -> Result<(), StoreError> {
    tracing::error!(endpoint, reason, "a webhook endpoint is paused");
    let sql = "UPDATE webhook_endpoints SET paused_reason = $1 WHERE id = $2 AND paused_reason IS NULL";
    tx.execute(sql, values![reason, endpoint]).await.map(drop)
}

fn unreadable(error: &SealError) -> String {
    format!("its secret cannot be read: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_tried_for_three_days() {
        let hours = PAUSES.iter().sum::<Duration>().as_secs_f64() / 3600.0;
        assert!((71.5..72.5).contains(&hours), "{hours}");
    }

    #[test]
    fn signatures_are_those_of_standard_webhooks() {
        // The example of the specification's reference implementations.
        let parcel = Parcel {
            id: "1".into(),
            tenant: "t".into(),
            url: "https://x".into(),
            event: "msg_p5jXN8AQM9LWM0D4loKWxJek".into(),
            body: r#"{"test": 2432232314}"#.into(),
            attempts: 1,
            secret: STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap(),
        };
        let [_, _, (_, signature)] = parcel.headers(1_614_265_330);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    /// Everything is due now.
    async fn hurry(store: &Store) {
        let mut tx = store.write(Wall::None).await.unwrap();
        tx.execute("UPDATE webhook_deliveries SET next_at_ms = 0 WHERE state = 'waiting'", &[]).await.unwrap();
        tx.commit().await.unwrap();
    }

    #[tokio::test]
    async fn two_thousand_events_reach_a_receiver_that_often_fails_in_order_and_once_acknowledged_never_again() {
        // G19.
        let folder = tempfile::tempdir().unwrap();
        let server = testbed::Postgres::start();
        let sealer = Sealer::new(["00".repeat(32).as_str()]).unwrap();
        let mut random = fastrand::Rng::with_seed(7);
        for url in [format!("sqlite:{}", folder.path().join("o.db").display()), server.url(&server.database())] {
            Store::migrate(&url, None).await.unwrap();
            let store = Store::open(&url).await.unwrap();
            let (endpoint, secret) = store.tenant("t").add_endpoint("https://x", &["call.said"], &sealer).await.unwrap();
            assert!(secret.starts_with("whsec_"));
            const CALLS: u64 = 100;
            const EVENTS: u64 = 20;
            for call in 0..CALLS {
                let said = |seq| Entry {
                    tenant: "t".into(),
                    call: format!("c{call}"),
                    epoch: 0,
                    seq,
                    at_ms: 1,
                    fact: Fact::Said { speaker: crate::Speaker::Caller, text: "x".into(), start_ms: 0, end_ms: 1, cut: false },
                };
                let entries: Vec<Entry> = (0..EVENTS).map(said).collect();
                store.apply("j", &entries, crate::Position::default()).await.unwrap();
                // Delivered to SQL again, as after a crash: no event is told twice.
                store.apply("j", &entries, crate::Position::default()).await.unwrap();
            }
            let mut arrived = std::collections::BTreeMap::<String, Vec<u64>>::new();
            let mut attempts = 0;
            loop {
                let parcels = store.claim_parcels(500, &sealer).await.unwrap();
                if parcels.is_empty() {
                    break;
                }
                assert!(store.claim_parcels(500, &sealer).await.unwrap().iter().all(|it| parcels.iter().all(|p| p.id != it.id)));
                for parcel in parcels {
                    attempts += 1;
                    let mut words = parcel.event.split('-');
                    let (call, seq) = (words.next().unwrap().to_owned(), words.nth(1).unwrap().parse().unwrap());
                    let failed = random.f32() < 0.3;
                    store.parcel_done(&parcel, Some(if failed { 503 } else { 200 }), failed.then_some("no")).await.unwrap();
                    if !failed {
                        arrived.entry(call).or_default().push(seq);
                    }
                }
                hurry(&store).await;
            }
            assert_eq!(arrived.len() as u64, CALLS);
            assert!(arrived.values().all(|it| *it == (0..EVENTS).collect::<Vec<_>>()), "every event of a call, in order, once");
            assert!(attempts > 2400, "{attempts}: it often failed");
            // Replayed, when somebody asks for it.
            assert_eq!(store.tenant("t").replay(&endpoint, 0).await.unwrap(), CALLS * EVENTS);
            assert_eq!(store.tenant("other").replay(&endpoint, 0).await.unwrap(), 0);
        }
    }

    #[tokio::test]
    async fn who_wants_no_more_or_is_down_for_three_days_is_paused_and_nothing_waits_for_others() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("sqlite:{}", folder.path().join("o.db").display())).await.unwrap();
        let sealer = Sealer::new(["00".repeat(32).as_str()]).unwrap();
        let scope = store.tenant("t");
        let (down, _) = scope.add_endpoint("https://down", &[], &sealer).await.unwrap();
        let (gone, _) = scope.add_endpoint("https://gone", &[], &sealer).await.unwrap();
        let entry = |tenant: &str, seq| Entry {
            tenant: tenant.into(),
            call: "c".into(),
            epoch: 0,
            seq,
            at_ms: 1,
            fact: Fact::StreamStarted { stream_sid: "MZ".into() },
        };
        store.apply("j", &[entry("t", 0), entry("t", 1), entry("other", 2)], crate::Position::default()).await.unwrap();
        for attempt in 0..=PAUSES.len() {
            for parcel in store.claim_parcels(10, &sealer).await.unwrap() {
                let status = if parcel.url == "https://gone" { Some(410) } else { None };
                store.parcel_done(&parcel, status, Some("refused")).await.unwrap();
                assert!(attempt == 0 || parcel.url == "https://down", "who is paused is left alone");
            }
            hurry(&store).await;
        }
        let paused: Vec<_> = scope.endpoints().await.unwrap().into_iter().map(|it| (it.id, it.paused_reason)).collect();
        assert!(paused.iter().find(|it| it.0 == gone).unwrap().1.as_deref().unwrap().contains("410"));
        assert!(paused.iter().find(|it| it.0 == down).unwrap().1.as_deref().unwrap().contains("72 hours"));
        let first = scope.deliveries(&down, 10).await.unwrap().pop().unwrap();
        assert_eq!((first.state.as_str(), first.attempts as usize), ("expired", PAUSES.len() + 1));
        assert!(store.claim_parcels(10, &sealer).await.unwrap().is_empty());
        // People bring it back: what waited goes on, and what was given up is replayed.
        assert!(scope.resume_endpoint(&down).await.unwrap());
        assert_eq!(scope.replay(&down, 0).await.unwrap(), 1);
        assert_eq!(store.claim_parcels(10, &sealer).await.unwrap().len(), 1);
        assert!(scope.remove_endpoint(&gone).await.unwrap() && !scope.remove_endpoint(&gone).await.unwrap());
    }
}
