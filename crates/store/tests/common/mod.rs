//! The same tests against both engines.
#![allow(dead_code)] // Every test file uses its own part of this.

use std::sync::LazyLock;

use store::{Entry, Fact, Position, Speaker, Store};
use testbed::Postgres;

/// One server for all tests of a file; each has a database of its own.
pub(crate) static POSTGRES: LazyLock<Postgres> = LazyLock::new(Postgres::start);

/// Where a test has its database.
pub(crate) struct Place {
    pub(crate) url: String,
    pub(crate) folder: tempfile::TempDir,
    /// On PostgreSQL: the name of the database.
    pub(crate) database: Option<String>,
}

impl Place {
    pub(crate) fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { url: format!("sqlite:{}", folder.path().join("offhook.db").display()), folder, database: None }
    }

    pub(crate) fn postgres() -> Self {
        let database = POSTGRES.database();
        Self { url: POSTGRES.url(&database), folder: tempfile::tempdir().unwrap(), database: Some(database) }
    }

    /// The database with the newest schema.
    pub(crate) async fn store(&self) -> Store {
        Store::migrate(&self.url, None).await.unwrap();
        Store::open(&self.url).await.unwrap()
    }

    pub(crate) fn journal(&self) -> std::path::PathBuf {
        self.folder.path().join("journal")
    }
}

/// Runs a test on SQLite, then on PostgreSQL.
pub(crate) async fn on_both(test: impl AsyncFn(&Place)) {
    for place in [Place::sqlite(), Place::postgres()] {
        test(&place).await;
    }
}

pub(crate) fn entry(tenant: &str, call: &str, epoch: u32, seq: u64, fact: Fact) -> Entry {
    Entry { tenant: tenant.into(), call: call.into(), epoch, seq, at_ms: 1_000 + seq as i64, fact }
}

pub(crate) fn ringing(call: &str) -> Fact {
    Fact::Ringing {
        call_sid: format!("CA{call}"),
        account_sid: "AC1".into(),
        from: None,
        to: Some("+15550100002".into()),
        direction: "inbound".into(),
        api_version: None,
        forwarded_from: None,
        caller_name: None,
        assistant: "front-desk".into(),
        language: "en".into(),
        node: "n1".into(),
    }
}

pub(crate) fn said(text: &str) -> Fact {
    Fact::Said { speaker: Speaker::Caller, text: text.into(), start_ms: 10, end_ms: 20, cut: false }
}

pub(crate) fn status(status: &str, rank: i64) -> Fact {
    Fact::Status { status: status.into(), rank, terminal: rank == 5, duration_s: (rank == 5).then_some(42) }
}

/// Delivers facts without a journal.
pub(crate) async fn apply(store: &Store, entries: &[Entry]) {
    store.apply("test", entries, Position::default()).await.unwrap();
}
