//! What several processes must agree on: who is there, who does what only one may do, what a tenant may use, and orders to
//! calls that another process has. Times are the database's.

use std::time::Duration;

use crate::db::{Engine, Row, StoreError, Tx, Wall, values};
use crate::{Scope, Store, Topic};

/// What a process says of itself, once a second.
#[derive(Clone, Debug)]
pub struct Heartbeat<'a> {
    pub node: &'a str,
    /// Where its media sockets come.
    pub address: &'a str,
    pub version: &'a str,
    pub draining: bool,
    /// Ids of its live calls.
    pub live: &'a [String],
}

/// A process as it was last heard of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRow {
    pub id: String,
    pub address: Option<String>,
    pub version: String,
    pub started_at_ms: i64,
    /// How long ago it last said that it lives.
    pub silent_ms: u64,
    pub draining: bool,
    pub live: Vec<String>,
}

impl NodeRow {
    /// Whether it lives and has a call: it was heard of within `dead_after`.
    pub fn has(&self, call: &str, dead_after: Duration) -> bool {
        Duration::from_millis(self.silent_ms) < dead_after && self.live.iter().any(|it| it == call)
    }
}

/// An order to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandRow {
    pub id: String,
    pub tenant: String,
    pub call: String,
    /// What is to be done; JSON.
    pub body: String,
}

fn ms(it: Duration) -> i64 {
    i64::try_from(it.as_millis()).unwrap_or(i64::MAX / 4)
}

impl Store {
    /// Says that a process lives.
    pub async fn heartbeat(&self, it: &Heartbeat<'_>) -> Result<(), StoreError> {
        let live = serde_json::to_string(it.live).map_err(|error| StoreError::Row(error.to_string()))?;
        let mut tell = self.tell(Wall::None).await?;
        let now = tell.now_ms().await?;
        let sql = "INSERT INTO nodes (id, address, version, started_at_ms, seen_at_ms, draining, live) VALUES ($1, $2, $3, $4, $4, $5, $6)
            ON CONFLICT (id) DO UPDATE SET address = excluded.address, version = excluded.version,
                seen_at_ms = excluded.seen_at_ms, draining = excluded.draining, live = excluded.live";
        tell.execute(sql, values![it.node, it.address, it.version, now, it.draining, live]).await?;
        Ok(())
    }

    /// Says that a process is gone for good.
    pub async fn farewell(&self, node: &str) -> Result<(), StoreError> {
        let mut tx = self.write(Wall::None).await?;
        tx.execute("DELETE FROM nodes WHERE id = $1", values![node]).await?;
        tx.commit().await
    }

    /// Every process that has not said farewell.
    pub async fn nodes(&self) -> Result<Vec<NodeRow>, StoreError> {
        let mut ask = self.ask(Wall::None).await?;
        let now = ask.now_ms().await?;
        let node = |row: &Row| {
            let live: String = row.get("live")?;
            let seen: i64 = row.get("seen_at_ms")?;
            Ok(NodeRow {
                id: row.get("id")?,
                address: row.get("address")?,
                version: row.get("version")?,
                started_at_ms: row.get("started_at_ms")?,
                silent_ms: u64::try_from(now - seen).unwrap_or(0),
                draining: row.get("draining")?,
                live: serde_json::from_str(&live).map_err(|error| StoreError::Row(error.to_string()))?,
            })
        };
        ask.rows("SELECT * FROM nodes ORDER BY id", &[]).await?.iter().map(node).collect()
    }

    /// Takes, or keeps, what only one process may do at a time, for so long. `false`: another one has it.
    pub async fn take_lease(&self, name: &str, holder: &str, time: Duration) -> Result<bool, StoreError> {
        let mut tx = self.write(Wall::None).await?;
        let now = tx.now_ms().await?;
        let sql = "INSERT INTO leases (name, holder, until_ms) VALUES ($1, $2, $3)
            ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until_ms = excluded.until_ms
                WHERE leases.holder = excluded.holder OR leases.until_ms < $4";
        let ours = tx.execute(sql, values![name, holder, now + ms(time), now]).await? == 1;
        tx.commit().await?;
        Ok(ours)
    }

    /// Gives back what is not needed any more of caps: what dead processes held, which were not heard of for so long or are
    /// unknown, and what calls held that are over. Returns how many parts.
    pub async fn free_caps(&self, silent: Duration) -> Result<u64, StoreError> {
        let mut tx = self.write(Wall::None).await?;
        let alive_since = tx.now_ms().await? - ms(silent);
        let sql = "SELECT tenant, kind, holder, amount FROM cap_holders h WHERE at_ms < $1
            AND (NOT EXISTS (SELECT 1 FROM nodes n WHERE n.id = h.node AND n.seen_at_ms >= $1)
                OR EXISTS (SELECT 1 FROM calls c WHERE c.id = h.holder AND c.tenant = h.tenant AND c.ended_at_ms IS NOT NULL))";
        let dead = tx.rows(sql, values![alive_since]).await?;
        let mut freed = 0;
        for row in &dead {
            let (tenant, kind, holder): (String, String, String) = (row.get("tenant")?, row.get("kind")?, row.get("holder")?);
            freed += u64::from(release(&mut tx, &tenant, &kind, &holder).await?);
        }
        tx.commit().await?;
        Ok(freed)
    }

    /// Orders that a process has not carried out and whose time is not over, oldest first.
    pub async fn commands(&self, node: &str) -> Result<Vec<CommandRow>, StoreError> {
        let mut ask = self.ask(Wall::None).await?;
        let now = ask.now_ms().await?;
        let sql = "SELECT id, tenant, call, body FROM commands WHERE node = $1 AND outcome IS NULL AND expires_at_ms >= $2
            ORDER BY created_at_ms, id LIMIT 100";
        let rows = ask.rows(sql, values![node, now]).await?;
        let command = |row: &Row| {
            Ok(CommandRow { id: row.get("id")?, tenant: row.get("tenant")?, call: row.get("call")?, body: row.get("body")? })
        };
        rows.iter().map(command).collect()
    }

    /// Deletes orders whose time is over.
    pub async fn forget_commands(&self) -> Result<u64, StoreError> {
        let mut tx = self.write(Wall::None).await?;
        let now = tx.now_ms().await?;
        let gone = tx.execute("DELETE FROM commands WHERE expires_at_ms < $1", values![now]).await?;
        tx.commit().await?;
        Ok(gone)
    }

    /// Notes what became of an order. `false` when that was noted before.
    pub async fn acknowledge(&self, id: &str, outcome: &str) -> Result<bool, StoreError> {
        let mut tx = self.write(Wall::None).await?;
        let sql = "UPDATE commands SET outcome = $1 WHERE id = $2 AND outcome IS NULL";
        let first = tx.execute(sql, values![outcome, id]).await? == 1;
        tx.commit().await?;
        self.hint(Topic::Orders);
        Ok(first)
    }
}

async fn release(tx: &mut Tx, tenant: &str, kind: &str, holder: &str) -> Result<bool, StoreError> {
    let sql = "DELETE FROM cap_holders WHERE tenant = $1 AND kind = $2 AND holder = $3 RETURNING amount";
    let Some(row) = tx.row(sql, values![tenant, kind, holder]).await? else { return Ok(false) };
    let amount: i64 = row.get("amount")?;
    let sql = "UPDATE caps SET used = CASE WHEN used > $1 THEN used - $1 ELSE 0 END WHERE tenant = $2 AND kind = $3";
    tx.execute(sql, values![amount, tenant, kind]).await?;
    Ok(true)
}

impl Scope<'_> {
    /// Sets what the tenant may use of something at a time: calls, money.
    pub async fn set_cap(&self, kind: &str, most: i64) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let sql = "INSERT INTO caps (tenant, kind, most) VALUES ($1, $2, $3) ON CONFLICT (tenant, kind) DO UPDATE SET most = excluded.most";
        tx.execute(sql, values![self.tenant, kind, most]).await?;
        tx.commit().await
    }

    /// Takes a part of a cap for a holder, such as a call; once, however often it asks. `false`: the cap is reached, and nothing
    /// was taken. Without a cap everything is allowed.
    pub async fn take(&self, kind: &str, holder: &str, node: &str, amount: i64) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let now = tx.now_ms().await?;
        // The cap's row is what everybody waits for: whoever has it counts alone.
        let sql = match tx.engine() {
            Engine::Lite => "SELECT most, used FROM caps WHERE tenant = $1 AND kind = $2",
            Engine::Pg => "SELECT most, used FROM caps WHERE tenant = $1 AND kind = $2 FOR UPDATE",
        };
        let Some(cap) = tx.row(sql, values![self.tenant, kind]).await? else { return Ok(true) };
        let (most, used): (i64, i64) = (cap.get("most")?, cap.get("used")?);
        let sql = "INSERT INTO cap_holders (tenant, kind, holder, node, amount, at_ms) VALUES ($1, $2, $3, $4, $5, $6)
            ON CONFLICT DO NOTHING";
        if tx.execute(sql, values![self.tenant, kind, holder, node, amount, now]).await? == 0 {
            // Another node may have taken the call over.
            let sql = "UPDATE cap_holders SET node = $1 WHERE tenant = $2 AND kind = $3 AND holder = $4";
            tx.execute(sql, values![node, self.tenant, kind, holder]).await?;
            tx.commit().await?;
            return Ok(true);
        }
        if used + amount > most {
            return Ok(false);
        }
        tx.execute("UPDATE caps SET used = used + $1 WHERE tenant = $2 AND kind = $3", values![amount, self.tenant, kind])
            .await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Gives back what a holder took; `false` when it holds nothing.
    pub async fn release(&self, kind: &str, holder: &str) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let released = release(&mut tx, self.tenant, kind, holder).await?;
        tx.commit().await?;
        Ok(released)
    }

    /// What is used of a cap, and the cap.
    pub async fn used(&self, kind: &str) -> Result<Option<(i64, i64)>, StoreError> {
        let sql = "SELECT used, most FROM caps WHERE tenant = $1 AND kind = $2";
        let row = self.ask().await?.row(sql, values![self.tenant, kind]).await?;
        row.map(|it| Ok((it.get("used")?, it.get("most")?))).transpose()
    }

    /// Orders something of a call that another process has. The same id again is the same order.
    pub async fn command(&self, id: &str, call: &str, node: &str, body: &str, life: Duration) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let now = tx.now_ms().await?;
        let sql = "INSERT INTO commands (id, tenant, call, node, body, created_at_ms, expires_at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7)
            ON CONFLICT DO NOTHING";
        tx.execute(sql, values![id, self.tenant, call, node, body, now, now + ms(life)]).await?;
        tx.commit().await?;
        self.store.hint(Topic::Orders);
        Ok(())
    }

    /// What became of an order; `None` as long as nothing did.
    pub async fn outcome(&self, id: &str) -> Result<Option<String>, StoreError> {
        let sql = "SELECT outcome FROM commands WHERE tenant = $1 AND id = $2";
        let row = self.ask().await?.row(sql, values![self.tenant, id]).await?;
        row.map_or(Ok(None), |it| it.get("outcome"))
    }
}
