//! The schema, version by version, up and down, for both engines.

use std::borrow::Cow;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{AssertSqlSafe, SqlSafeStr as _};

use crate::db::{Db, Engine, Pools, Row, StoreError, Wall};

/// A version: what makes it, what takes it back, and the tables whose rows belong to tenants.
struct Version {
    name: &'static str,
    up: Sql,
    down: Sql,
    tables: &'static [&'static str],
}

enum Sql {
    Both(&'static str),
    Each { lite: &'static str, postgres: &'static str },
}

impl Sql {
    fn of(&self, engine: Engine) -> &'static str {
        match (self, engine) {
            (Self::Both(sql), _) => sql,
            (Self::Each { lite, .. }, Engine::Lite) => lite,
            (Self::Each { postgres, .. }, Engine::Pg) => postgres,
        }
    }
}

macro_rules! both {
    ($name:literal, $tables:expr) => {
        Version {
            name: $name,
            up: Sql::Both(include_str!(concat!("../migrations/", $name, ".up.sql"))),
            down: Sql::Both(include_str!(concat!("../migrations/", $name, ".down.sql"))),
            tables: $tables,
        }
    };
}

/// In order; the first is version 1. What has been released is never changed: the next version changes it.
const VERSIONS: &[Version] = &[
    both!("1_calls", &["calls", "call_events", "transcript", "turns", "tool_calls", "recordings", "messages"]),
    both!("2_tenants", &["members", "api_keys", "user_phone_numbers", "config_versions", "audit_log", "caps", "cap_holders"]),
    both!(
        "3_business",
        &[
            "customers",
            "bookings",
            "tickets",
            "voice_sessions",
            "voicemail_messages",
            "sms_log",
            "voice_samples",
            "spoken_messages"
        ]
    ),
    Version {
        name: "4_voice_clone_calls",
        up: Sql::Each {
            lite: include_str!("../migrations/4_voice_clone_calls.sqlite.up.sql"),
            postgres: include_str!("../migrations/4_voice_clone_calls.postgres.up.sql"),
        },
        down: Sql::Each {
            lite: include_str!("../migrations/4_voice_clone_calls.sqlite.down.sql"),
            postgres: include_str!("../migrations/4_voice_clone_calls.postgres.down.sql"),
        },
        tables: &["voice_clone_calls"],
    },
    both!("5_work", &["jobs", "schedules", "intents", "webhook_endpoints", "webhook_deliveries", "objects"]),
    both!("6_nodes", &["commands"]),
    both!("7_feed", &[]),
    both!("8_front_door", &["sign_ins", "do_not_call"]),
];

/// The version that this program needs.
pub const NEWEST: i64 = VERSIONS.len() as i64;

/// PostgreSQL's own wall around a table: rows exist only for the tenant of the transaction, or for the system's own work.
fn wall(table: &str) -> String {
    format!(
        "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
         ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
         CREATE POLICY tenant ON {table}
            USING (current_setting('offhook.tenant', true) IN (tenant, '*'))
            WITH CHECK (current_setting('offhook.tenant', true) IN (tenant, '*'));\n"
    )
}

/// Taken down before a version is taken back: an adopted table must leave as it came.
fn no_wall(table: &str) -> String {
    format!(
        "DROP POLICY tenant ON {table};
         ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY;
         ALTER TABLE {table} DISABLE ROW LEVEL SECURITY;\n"
    )
}

fn migrator(engine: Engine) -> Migrator {
    let mut migrations = Vec::new();
    for (version, number) in VERSIONS.iter().zip(1..) {
        let (mut up, mut down) = (version.up.of(engine).to_owned(), version.down.of(engine).to_owned());
        if engine == Engine::Pg {
            up.extend(version.tables.iter().map(|it| wall(it)));
            down.insert_str(0, &version.tables.iter().map(|it| no_wall(it)).collect::<String>());
        }
        for (sql, kind) in [(up, MigrationType::ReversibleUp), (down, MigrationType::ReversibleDown)] {
            let sql = AssertSqlSafe(sql).into_sql_str();
            migrations.push(Migration::new(number, Cow::Borrowed(version.name), kind, sql, false));
        }
    }
    Migrator::with_migrations(migrations)
}

impl Db {
    /// Brings the schema to a version, up or down; 0 takes everything away.
    pub(crate) async fn migrate(&self, target: i64) -> Result<(), StoreError> {
        let migrator = migrator(self.engine());
        let found = self.version().await?;
        match &self.pools {
            Pools::Lite { writer, .. } if target >= found => migrator.run_to(target, writer).await?,
            Pools::Lite { writer, .. } => migrator.undo(writer, target).await?,
            Pools::Pg(pool) if target >= found => migrator.run_to(target, pool).await?,
            Pools::Pg(pool) => migrator.undo(pool, target).await?,
        }
        Ok(())
    }

    /// The version of the schema; 0 where there is none yet.
    pub(crate) async fn version(&self) -> Result<i64, StoreError> {
        let mut tx = self.read(Wall::None).await?;
        let there = match self.engine() {
            Engine::Lite => "SELECT COUNT(*) AS found FROM sqlite_master WHERE name = '_sqlx_migrations'",
            Engine::Pg => "SELECT COUNT(to_regclass('_sqlx_migrations')) AS found",
        };
        let count = |row: Option<Row>| row.map_or(Ok(0), |it| it.get::<i64>("found"));
        if count(tx.row(there, &[]).await?)? == 0 {
            return Ok(0);
        }
        let sql = "SELECT COALESCE(MAX(version), 0) AS found FROM _sqlx_migrations WHERE success";
        count(tx.row(sql, &[]).await?)
    }
}
