//! What happens on calls of all processes, as it reaches the database.

use std::collections::HashMap;

use crate::db::{Row, StoreError, Wall, values};
use crate::{Entry, Store};

/// Facts taken at a time from one journal: what is behind after an hour without database must not fill the memory.
const FACTS_MAX: i64 = 500;

/// Follows the facts of other journals; see [`Store::feed`].
#[derive(Debug)]
pub struct Feed {
    store: Store,
    ours: String,
    /// How many facts of each journal were seen.
    seen: HashMap<String, i64>,
}

impl Store {
    /// Follows, from now on, the facts of every journal but `ours`, whose facts are known here first.
    pub async fn feed(&self, ours: &str) -> Result<Feed, StoreError> {
        let mut feed = Feed { store: self.clone(), ours: ours.to_owned(), seen: HashMap::new() };
        feed.seen = feed.journals().await?;
        Ok(feed)
    }
}

impl Feed {
    /// How many facts each journal has delivered.
    async fn journals(&self) -> Result<HashMap<String, i64>, StoreError> {
        let sql = "SELECT journal, facts FROM journal_positions WHERE journal <> $1";
        let rows = self.store.ask(Wall::None).await?.rows(sql, values![&self.ours]).await?;
        rows.iter().map(|it| Ok((it.get("journal")?, it.get("facts")?))).collect()
    }

    /// What has come since the last question, in the order of each journal; a call's facts of one stream are in one journal.
    /// Nothing comes twice, and nothing is left out unless its person was erased meanwhile. After much has happened it comes in
    /// pieces: ask until nothing is left.
    pub async fn next(&mut self) -> Result<Vec<Entry>, StoreError> {
        let mut facts = Vec::new();
        for (journal, delivered) in self.journals().await? {
            let seen = self.seen.get(&journal).copied().unwrap_or(0);
            if seen == delivered {
                continue;
            }
            let sql = "SELECT tenant, call, epoch, seq, at_ms, place, body FROM call_events
                WHERE journal = $1 AND place > $2 AND place <= $3 ORDER BY place LIMIT $4";
            let rows = self.store.ask(Wall::None).await?.rows(sql, values![&journal, seen, delivered, FACTS_MAX]).await?;
            for row in &rows {
                facts.push(entry(row)?);
            }
            let seen = match rows.last() {
                Some(last) if rows.len() as i64 == FACTS_MAX => last.get("place")?,
                _ => delivered,
            };
            self.seen.insert(journal, seen);
        }
        Ok(facts)
    }
}

fn entry(row: &Row) -> Result<Entry, StoreError> {
    let body: String = row.get("body")?;
    Ok(Entry {
        tenant: row.get("tenant")?,
        call: row.get("call")?,
        epoch: row.get("epoch")?,
        seq: row.get("seq")?,
        at_ms: row.get("at_ms")?,
        fact: serde_json::from_str(&body).map_err(|error| StoreError::Row(format!("a fact: {error}")))?,
    })
}
