//! What tenants have configured, version by version, and who changed what.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::db::{Row, StoreError, Value, Wall, values};
use crate::{Scope, Store, Topic};

/// A configuration as it was published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigurationRow {
    pub tenant: String,
    /// Counts from 1.
    pub version: u64,
    /// Unix time in milliseconds.
    pub at_ms: i64,
    pub author: String,
    /// The whole document, as `desk` reads it.
    pub body: String,
}

/// A configuration to be published.
#[derive(Clone, Copy, Debug)]
pub struct NewConfiguration<'a> {
    pub author: &'a str,
    pub body: &'a str,
    /// Its numbers, in E.164, and whether calls to them are answered.
    pub numbers: &'a [(&'a str, bool)],
    /// Calls at a time; `None`: as many as the servers take.
    pub calls_max: Option<u32>,
    /// The version that was changed, 0 for none; `None` takes whatever there is.
    pub follows: Option<u64>,
}

/// Why a configuration was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("somebody else has published version {newest} meanwhile: look at it, then change that one")]
    Outdated { newest: u64 },
    #[error("the number {number} belongs to another tenant")]
    NumberTaken { number: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An entry of the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    pub at_ms: i64,
    /// Who did it: a user, a key, or a command of the operator.
    pub actor: String,
    pub action: String,
    /// To what.
    pub target: String,
    pub detail: Option<String>,
}

/// What something costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceRow {
    /// Such as `openai.input_tokens`.
    pub kind: String,
    /// From when on, Unix milliseconds.
    pub from_ms: i64,
    /// What one of it is, such as `1000000 tokens` or `minute`.
    pub unit: String,
    /// Millionths of the currency.
    pub micros: i64,
    /// ISO 4217.
    pub currency: String,
}

fn configuration(row: &Row) -> Result<ConfigurationRow, StoreError> {
    Ok(ConfigurationRow {
        tenant: row.get("tenant")?,
        version: row.get("version")?,
        at_ms: row.get("at_ms")?,
        author: row.get("author")?,
        body: row.get("body")?,
    })
}

impl Store {
    /// The newest configuration of every tenant.
    pub async fn configurations(&self) -> Result<Vec<ConfigurationRow>, StoreError> {
        let sql = "SELECT * FROM config_versions c
            WHERE version = (SELECT MAX(version) FROM config_versions d WHERE d.tenant = c.tenant) ORDER BY tenant";
        self.ask(Wall::None).await?.rows(sql, &[]).await?.iter().map(configuration).collect()
    }

    /// The newest version of every tenant: what is asked often.
    pub async fn configuration_versions(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        let sql = "SELECT tenant, MAX(version) AS version FROM config_versions GROUP BY tenant";
        let rows = self.ask(Wall::None).await?.rows(sql, &[]).await?;
        rows.iter().map(|it| Ok((it.get("tenant")?, it.get("version")?))).collect()
    }

    /// Sets what something costs from a moment on.
    pub async fn set_price(&self, it: &PriceRow) -> Result<(), StoreError> {
        let mut tx = self.write(Wall::None).await?;
        let sql = "INSERT INTO prices (kind, from_ms, unit, micros, currency) VALUES ($1, $2, $3, $4, $5)
            ON CONFLICT (kind, from_ms) DO UPDATE SET unit = excluded.unit, micros = excluded.micros, currency = excluded.currency";
        tx.execute(sql, values![&it.kind, it.from_ms, &it.unit, it.micros, &it.currency]).await?;
        tx.commit().await
    }

    /// What something cost at a moment.
    pub async fn price(&self, kind: &str, at_ms: i64) -> Result<Option<PriceRow>, StoreError> {
        let sql = "SELECT * FROM prices WHERE kind = $1 AND from_ms <= $2 ORDER BY from_ms DESC LIMIT 1";
        let row = self.ask(Wall::None).await?.row(sql, values![kind, at_ms]).await?;
        let price = |it: Row| {
            Ok(PriceRow {
                kind: it.get("kind")?,
                from_ms: it.get("from_ms")?,
                unit: it.get("unit")?,
                micros: it.get("micros")?,
                currency: it.get("currency")?,
            })
        };
        row.map(price).transpose()
    }
}

impl Scope<'_> {
    /// Publishes a configuration, all of it or nothing; returns its version. Its numbers are the tenant's from then on, those
    /// that it does not name any more are free.
    ///
    /// # Errors
    /// [`PublishError`]
    pub async fn publish(&self, new: &NewConfiguration<'_>) -> Result<u64, PublishError> {
        let mut tx = self.write().await?;
        let now = tx.now_ms().await?;
        let sql = "SELECT COALESCE(MAX(version), 0) AS newest FROM config_versions WHERE tenant = $1";
        let row = tx.row(sql, values![self.tenant]).await?;
        let newest: u64 = row.map_or(Ok(0), |it| it.get("newest"))?;
        let sql = "INSERT INTO config_versions (tenant, version, at_ms, author, body) VALUES ($1, $2, $3, $4, $5)
            ON CONFLICT DO NOTHING";
        let version = newest + 1;
        let fresh = new.follows.is_none_or(|it| it == newest)
            && tx.execute(sql, values![self.tenant, version, now, new.author, new.body]).await? == 1;
        if !fresh {
            // Somebody published at this very moment, or long ago.
            let raced = new.follows.is_none_or(|it| it == newest);
            return Err(PublishError::Outdated { newest: if raced { version } else { newest } });
        }
        let listed: Vec<Row> =
            tx.rows("SELECT phone_number FROM user_phone_numbers WHERE tenant = $1", values![self.tenant]).await?;
        for row in &listed {
            let number: String = row.get("phone_number")?;
            if !new.numbers.iter().any(|it| it.0 == number) {
                let sql = "DELETE FROM user_phone_numbers WHERE tenant = $1 AND phone_number = $2";
                tx.execute(sql, values![self.tenant, &number]).await?;
            }
        }
        for (number, active) in new.numbers {
            let sql = "INSERT INTO user_phone_numbers (id, tenant, phone_number, is_active, voicemail_enabled, created_at_ms)
                VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (phone_number) DO NOTHING";
            let id = uuid::Uuid::now_v7().to_string();
            tx.execute(sql, values![id, self.tenant, *number, *active, false, now]).await?;
            let sql = "UPDATE user_phone_numbers SET is_active = $1 WHERE tenant = $2 AND phone_number = $3";
            if tx.execute(sql, values![*active, self.tenant, *number]).await? == 0 {
                return Err(PublishError::NumberTaken { number: (*number).to_owned() });
            }
        }
        match new.calls_max {
            Some(most) => {
                let sql = "INSERT INTO caps (tenant, kind, most) VALUES ($1, 'calls', $2)
                    ON CONFLICT (tenant, kind) DO UPDATE SET most = excluded.most";
                tx.execute(sql, values![self.tenant, most]).await?;
            }
            None => {
                // Who holds a part is forgotten with it: a later cap begins with nobody.
                tx.execute("DELETE FROM cap_holders WHERE tenant = $1 AND kind = 'calls'", values![self.tenant]).await?;
                tx.execute("DELETE FROM caps WHERE tenant = $1 AND kind = 'calls'", values![self.tenant]).await?;
            }
        }
        let target = version.to_string();
        let entry =
            AuditRow { at_ms: now, actor: new.author.into(), action: "configuration.publish".into(), target, detail: None };
        log(&mut tx, self.tenant, &entry).await?;
        tx.commit().await?;
        self.store.hint(Topic::Configuration);
        Ok(version)
    }

    /// A configuration: a version of it, or the newest.
    pub async fn configuration(&self, version: Option<u64>) -> Result<Option<ConfigurationRow>, StoreError> {
        let sql = "SELECT * FROM config_versions WHERE tenant = $1 AND (CAST($2 AS BIGINT) IS NULL OR version = $2)
            ORDER BY version DESC LIMIT 1";
        let row = self.ask().await?.row(sql, values![self.tenant, version]).await?;
        row.map(|it| configuration(&it)).transpose()
    }

    /// The newest versions, the last one first.
    pub async fn configurations(&self, limit: u32) -> Result<Vec<ConfigurationRow>, StoreError> {
        let sql = "SELECT * FROM config_versions WHERE tenant = $1 ORDER BY version DESC LIMIT $2";
        self.ask().await?.rows(sql, values![self.tenant, limit]).await?.iter().map(configuration).collect()
    }

    /// Notes who did what.
    pub async fn audit(&self, actor: &str, action: &str, target: &str, detail: Option<&str>) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let at_ms = tx.now_ms().await?;
        let [actor, action, target] = [actor, action, target].map(str::to_owned);
        log(&mut tx, self.tenant, &AuditRow { at_ms, actor, action, target, detail: detail.map(str::to_owned) }).await?;
        tx.commit().await
    }

    /// Who did what, the newest first.
    pub async fn audit_log(&self, limit: u32) -> Result<Vec<AuditRow>, StoreError> {
        let sql =
            "SELECT at_ms, actor, action, target, detail FROM audit_log WHERE tenant = $1 ORDER BY at_ms DESC, id DESC LIMIT $2";
        let entry = |row: &Row| {
            Ok(AuditRow {
                at_ms: row.get("at_ms")?,
                actor: row.get("actor")?,
                action: row.get("action")?,
                target: row.get("target")?,
                detail: row.get("detail")?,
            })
        };
        self.ask().await?.rows(sql, values![self.tenant, limit]).await?.iter().map(entry).collect()
    }
}

async fn log(tx: &mut crate::db::Tx, tenant: &str, it: &AuditRow) -> Result<(), StoreError> {
    let id = uuid::Uuid::now_v7().to_string();
    let sql = "INSERT INTO audit_log (id, tenant, at_ms, actor, action, target, detail) VALUES ($1, $2, $3, $4, $5, $6, $7)";
    let values: &[Value<'_>] = values![id, tenant, it.at_ms, &it.actor, &it.action, &it.target, &it.detail];
    tx.execute(sql, values).await.map(drop)
}
