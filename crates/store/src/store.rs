//! The database as the rest of the project knows it.

use std::sync::Arc;

use tokio::sync::OnceCell;

use crate::db::{Alone, Busy, Db, Engine, Pools, StoreError, Tx, Wall, values};
use crate::hints::{Board, Topic};
use crate::migrate::NEWEST;
use crate::{Entry, Fact, Position, delivery};

/// The database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    db: Db,
    pub(crate) board: Arc<Board>,
    /// The schema was seen to be the right one.
    checked: Arc<OnceCell<()>>,
}

impl Store {
    /// Opens `sqlite:PATH` (created when missing, its schema brought up to date) or `postgres://…` (whose schema is brought up
    /// to date by `offhook migrate`). A PostgreSQL server that is away is no error: it is connected to when it is needed.
    ///
    /// # Errors
    /// [`StoreError`] names the address, without its password, and what is wrong with it.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        let store = Self { db: Db::open(url).await?, checked: Arc::default(), board: Arc::default() };
        if let Err(error) = store.db.reach().await {
            tracing::warn!(%error, "the database is away: calls go on, what happens in them is delivered when it is back");
            return Ok(store);
        }
        store.check().await.map(|()| store)
    }

    /// Same, for simulations with a paused clock: the database works in threads and processes of its own, which the clock
    /// does not see, so that waiting for it would look idle and make timeouts fire at once. A blocking task that lasts as
    /// long as each transaction keeps the clock where it is.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_for_simulation(url: &str) -> Result<Self, StoreError> {
        let _busy = Busy::begin();
        let mut store = Self::open(url).await?;
        store.db.hold_clock = true;
        Ok(store)
    }

    /// Brings the schema of the database at `url` to a version, up or down; 0 takes everything away. Returns the versions
    /// before and after.
    ///
    /// # Errors
    /// [`StoreError`]; a version that fails leaves the ones before it in place.
    pub async fn migrate(url: &str, target: Option<i64>) -> Result<(i64, i64), StoreError> {
        let db = Db::open(url).await?;
        db.reach().await?;
        let before = db.version().await?;
        db.migrate(target.unwrap_or(NEWEST)).await?;
        let after = db.version().await?;
        db.close().await;
        Ok((before, after))
    }

    /// Sees that the schema is one that this program knows.
    async fn check(&self) -> Result<(), StoreError> {
        let check = || async {
            if self.db.engine() == Engine::Lite {
                self.db.migrate(NEWEST).await?;
            }
            let found = self.db.version().await?;
            // A newer schema is that of the next release, which is being rolled out.
            if found < NEWEST {
                return Err(StoreError::Schema { found, needed: NEWEST });
            }
            if self.db.engine() == Engine::Pg {
                let sql = "SELECT rolsuper OR rolbypassrls AS above FROM pg_roles WHERE rolname = current_user";
                let row = self.db.ask(Wall::None).await?.row(sql, &[]).await?;
                if row.map_or(Ok(false), |it| it.get("above"))? {
                    tracing::warn!(
                        "this database role stands above row-level security: give offhook a role of its own, without SUPERUSER and \
                         BYPASSRLS, so that PostgreSQL itself keeps tenants apart"
                    );
                }
            }
            Ok(())
        };
        self.checked.get_or_try_init(check).await.copied()
    }

    pub(crate) async fn ask(&self, wall: Wall<'_>) -> Result<Alone, StoreError> {
        self.check().await?;
        self.db.ask(wall).await
    }

    pub(crate) async fn tell(&self, wall: Wall<'_>) -> Result<Alone, StoreError> {
        self.check().await?;
        self.db.tell(wall).await
    }

    pub(crate) async fn write(&self, wall: Wall<'_>) -> Result<Tx, StoreError> {
        self.check().await?;
        self.db.write(wall).await
    }

    /// How far a journal was delivered.
    pub async fn position(&self, journal: &str) -> Result<Position, StoreError> {
        let sql = "SELECT segment, bytes FROM journal_positions WHERE journal = $1";
        let row = self.ask(Wall::None).await?.row(sql, values![journal]).await?;
        row.map_or(Ok(Position::default()), |it| Ok(Position { segment: it.get("segment")?, bytes: it.get("bytes")? }))
    }

    /// Delivers facts and the journal's new position in one transaction. A fact delivered before changes nothing.
    pub async fn apply(&self, journal: &str, entries: &[Entry], to: Position) -> Result<(), StoreError> {
        let mut tx = self.write(Wall::None).await?;
        let row = tx.row("SELECT facts FROM journal_positions WHERE journal = $1", values![journal]).await?;
        let mut facts: i64 = row.map_or(Ok(0), |it| it.get("facts"))?;
        for entry in entries {
            facts += i64::from(delivery::apply(&mut tx, journal, facts + 1, entry).await?);
        }
        let sql = "INSERT INTO journal_positions (journal, segment, bytes, facts) VALUES ($1, $2, $3, $4)
            ON CONFLICT (journal) DO UPDATE SET segment = excluded.segment, bytes = excluded.bytes, facts = excluded.facts";
        tx.execute(sql, values![journal, to.segment, to.bytes, facts]).await?;
        tx.commit().await?;
        self.hint(Topic::Facts);
        if entries.iter().any(|it| matches!(it.fact, Fact::Recorded { .. })) {
            self.hint(Topic::Jobs);
        }
        Ok(())
    }

    pub(crate) fn pools(&self) -> &Pools {
        &self.db.pools
    }

    /// Everything of a tenant is asked here.
    pub fn tenant<'a>(&'a self, tenant: &'a str) -> Scope<'a> {
        Scope { store: self, tenant }
    }

    /// Closes all connections; what was committed stays.
    pub async fn close(&self) {
        self.db.close().await;
    }
}

/// Questions of one tenant; rows of others do not exist here.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    pub(crate) store: &'a Store,
    pub(crate) tenant: &'a str,
}

impl Scope<'_> {
    pub(crate) async fn ask(&self) -> Result<Alone, StoreError> {
        self.store.ask(Wall::Tenant(self.tenant)).await
    }

    pub(crate) async fn write(&self) -> Result<Tx, StoreError> {
        self.store.write(Wall::Tenant(self.tenant)).await
    }
}
