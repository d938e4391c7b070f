//! One database, two engines. SQL is written once, in what SQLite and PostgreSQL have in common; a statement that must
//! differ is given twice. Nothing outside this file knows which engine it talks to.

use std::borrow::Cow;
use std::str::FromStr as _;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgRow};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, PgTransaction, Row as _, Sqlite, SqliteTransaction};

/// The database said no.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("DATABASE_URL `{url}` is not understood: expected sqlite:PATH or postgres://USER:PASSWORD@HOST/DATABASE")]
    Url { url: String },
    #[error("the database at `{url}` cannot be opened: {problem}")]
    Open { url: String, problem: String },
    #[error("the database's schema cannot be changed: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error("the database's schema is at version {found}, this offhook needs {needed}: run `offhook migrate`")]
    Schema { found: i64, needed: i64 },
    #[error("the database failed: {0}")]
    Failed(#[from] sqlx::Error),
    #[error("a row in the database is not understood: {0}")]
    Row(String),
}

impl StoreError {
    /// Whether the same statement may succeed later: the database is away, busy or starting. Anything else is about the
    /// statement itself.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Open { .. } => true,
            Self::Failed(sqlx::Error::Database(error)) => {
                // Class 08: connection; 25006: read-only after a fail-over; 40: conflict; 53: resources; 55P03: lock;
                // 57: the server shuts down or starts; 58: its disk. SQLite: busy, locked, full, I/O.
                let code = error.code().unwrap_or_default();
                let postgres = ["08", "25006", "40", "53", "55P03", "57", "58"];
                let sqlite = ["5", "6", "10", "13"];
                if code.len() == 5 {
                    postgres.iter().any(|it| code.starts_with(it))
                } else {
                    code.parse::<u32>().is_ok_and(|it| sqlite.contains(&(it & 0xFF).to_string().as_str()))
                }
            }
            Self::Failed(sqlx::Error::ColumnDecode { .. } | sqlx::Error::ColumnNotFound(_)) => false,
            Self::Failed(_) => true,
            Self::Url { .. } | Self::Migrate(_) | Self::Schema { .. } | Self::Row(_) => false,
        }
    }
}

/// An open database. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Db {
    pub(crate) pools: Pools,
    /// Simulated time waits for transactions; see [`Store::open_for_simulation`](crate::Store::open_for_simulation).
    pub(crate) hold_clock: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Pools {
    /// One connection writes: SQLite has one writer.
    Lite {
        writer: SqlitePool,
        readers: SqlitePool,
    },
    Pg(PgPool),
}

/// Keeps simulated time from passing until it is dropped: a blocking task is what a paused clock waits for.
pub(crate) struct Busy {
    _working: std::sync::mpsc::Sender<()>,
}

impl Busy {
    pub(crate) fn begin() -> Self {
        let (working, done) = std::sync::mpsc::channel();
        tokio::task::spawn_blocking(move || {
            let _ = done.recv();
        });
        Self { _working: working }
    }
}

/// Which SQL is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Lite,
    Pg,
}

/// Longest wait for a server at the start.
const REACH_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections to PostgreSQL: delivery, jobs, and what people look at. Calls need none.
const CONNECTIONS_MAX: u32 = 16;

impl Db {
    /// Opens `sqlite:PATH` (created when missing) or `postgres://…`.
    ///
    /// # Errors
    /// [`StoreError`] names the address without its password, and what is wrong with it.
    pub(crate) async fn open(url: &str) -> Result<Self, StoreError> {
        let scheme = url.split(':').next().unwrap_or_default();
        match scheme {
            "sqlite" => {
                let open = |error: sqlx::Error| StoreError::Open { url: url.to_owned(), problem: error.to_string() };
                let options = SqliteConnectOptions::from_str(url)
                    .map_err(open)?
                    .create_if_missing(true)
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Normal)
                    .busy_timeout(Duration::from_secs(5))
                    .foreign_keys(true);
                // A file does not hang up: it is not asked first whether it is still there.
                let pool = SqlitePoolOptions::new().test_before_acquire(false);
                let writer = pool.clone().max_connections(1).connect_with(options.clone()).await.map_err(open)?;
                let pool = pool.max_connections(4).acquire_timeout(ACQUIRE_TIMEOUT);
                let readers = pool.connect_with(options.read_only(true)).await.map_err(open)?;
                Ok(Self { pools: Pools::Lite { writer, readers }, hold_clock: false })
            }
            "postgres" | "postgresql" => {
                let hidden = without_password(url);
                let open = |error: sqlx::Error| StoreError::Open { url: hidden.clone(), problem: error.to_string() };
                let options = PgConnectOptions::from_str(url).map_err(open)?.application_name("offhook");
                let pool = PgPoolOptions::new().max_connections(CONNECTIONS_MAX).acquire_timeout(ACQUIRE_TIMEOUT);
                Ok(Self { pools: Pools::Pg(pool.connect_lazy_with(options)), hold_clock: false })
            }
            _ => Err(StoreError::Url { url: scheme.to_owned() }),
        }
    }

    /// Sees that the database is there, and says why not: a pool says only that it waited.
    pub(crate) async fn reach(&self) -> Result<(), StoreError> {
        let Pools::Pg(pool) = &self.pools else { return Ok(()) };
        let options = pool.connect_options();
        let place = format!("{}:{}", options.get_host(), options.get_port());
        let away = |problem: String| StoreError::Open { url: place.clone(), problem };
        match tokio::time::timeout(REACH_TIMEOUT, options.connect()).await {
            Ok(Ok(connection)) => Ok(connection.close().await?),
            Ok(Err(error)) => Err(away(error.to_string())),
            Err(_) => Err(away(format!("no answer within {} s", REACH_TIMEOUT.as_secs()))),
        }
    }

    pub(crate) fn engine(&self) -> Engine {
        match self.pools {
            Pools::Lite { .. } => Engine::Lite,
            Pools::Pg(_) => Engine::Pg,
        }
    }

    /// Begins to read: everything in it is of one moment.
    pub(crate) async fn read(&self, wall: Wall<'_>) -> Result<Tx, StoreError> {
        let busy = self.hold_clock.then(Busy::begin);
        let link = match &self.pools {
            Pools::Lite { readers, .. } => Link::Lite(readers.begin().await?),
            Pools::Pg(pool) => {
                Link::behind(pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?, wall).await?
            }
        };
        Ok(Tx { link, _busy: busy })
    }

    /// For one question.
    pub(crate) async fn ask(&self, wall: Wall<'_>) -> Result<Alone, StoreError> {
        let Pools::Lite { readers, .. } = &self.pools else { return Ok(Alone(self.read(wall).await?)) };
        self.alone(readers).await
    }

    /// For one change.
    pub(crate) async fn tell(&self, wall: Wall<'_>) -> Result<Alone, StoreError> {
        let Pools::Lite { writer, .. } = &self.pools else { return Ok(Alone(self.write(wall).await?)) };
        self.alone(writer).await
    }

    async fn alone(&self, pool: &SqlitePool) -> Result<Alone, StoreError> {
        let busy = self.hold_clock.then(Busy::begin);
        Ok(Alone(Tx { link: Link::Alone(pool.acquire().await?), _busy: busy }))
    }

    /// Begins to write.
    pub(crate) async fn write(&self, wall: Wall<'_>) -> Result<Tx, StoreError> {
        let busy = self.hold_clock.then(Busy::begin);
        let link = match &self.pools {
            Pools::Lite { writer, .. } => Link::Lite(writer.begin_with("BEGIN IMMEDIATE").await?),
            Pools::Pg(pool) => Link::behind(pool.begin().await?, wall).await?,
        };
        Ok(Tx { link, _busy: busy })
    }

    pub(crate) async fn close(&self) {
        match &self.pools {
            Pools::Lite { writer, readers } => {
                readers.close().await;
                writer.close().await;
            }
            Pools::Pg(pool) => pool.close().await,
        }
    }
}

/// The address as it may be shown.
fn without_password(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) => {
            let user = url[scheme + 3..at].split(':').next().unwrap_or_default();
            format!("{}{user}:…{}", &url[..scheme + 3], url[at..].split('?').next().unwrap_or_default())
        }
        _ => url.split('?').next().unwrap_or_default().to_owned(),
    }
}

/// Whose rows exist in a transaction. On PostgreSQL the server itself holds this wall (row-level security, see
/// `migrations`): a query that forgets its tenant finds nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wall<'a> {
    Tenant(&'a str),
    /// The system's own work: delivery, queues, nodes.
    None,
}

/// A transaction; dropped, it never was.
pub(crate) struct Tx {
    link: Link,
    _busy: Option<Busy>,
}

/// One statement, which is a transaction by itself. SQLite's statements are carried out by another thread: BEGIN and its end
/// would cost as much as the statement between them, which is what a server at rest does most.
pub(crate) struct Alone(Tx);

enum Link {
    Lite(SqliteTransaction<'static>),
    Alone(PoolConnection<Sqlite>),
    Pg(PgTransaction<'static>),
}

macro_rules! bound {
    ($sql:expr, $values:expr) => {{
        let mut query = sqlx::query($sql);
        for value in $values {
            query = match value {
                Value::Int(it) => query.bind(*it),
                Value::Text(it) => query.bind(it.as_deref()),
                Value::Flag(it) => query.bind(*it),
                Value::Bytes(it) => query.bind(*it),
            };
        }
        query
    }};
}

impl Link {
    async fn behind(mut transaction: PgTransaction<'static>, wall: Wall<'_>) -> Result<Self, StoreError> {
        let tenant = match wall {
            Wall::Tenant(tenant) => tenant,
            Wall::None => "*",
        };
        sqlx::query("SELECT set_config('offhook.tenant', $1, true)").bind(tenant).execute(&mut *transaction).await?;
        Ok(Self::Pg(transaction))
    }
}

impl Tx {
    pub(crate) fn engine(&self) -> Engine {
        match self.link {
            Link::Lite(_) | Link::Alone(_) => Engine::Lite,
            Link::Pg(_) => Engine::Pg,
        }
    }

    /// Runs a statement; returns how many rows it touched.
    pub(crate) async fn execute(&mut self, sql: &'static str, values: &[Value<'_>]) -> Result<u64, StoreError> {
        Ok(match &mut self.link {
            Link::Lite(it) => bound!(sql, values).execute(&mut **it).await?.rows_affected(),
            Link::Alone(it) => bound!(sql, values).execute(&mut **it).await?.rows_affected(),
            Link::Pg(it) => bound!(sql, values).execute(&mut **it).await?.rows_affected(),
        })
    }

    /// All rows of a question.
    pub(crate) async fn rows(&mut self, sql: &'static str, values: &[Value<'_>]) -> Result<Vec<Row>, StoreError> {
        Ok(match &mut self.link {
            Link::Lite(it) => bound!(sql, values).fetch_all(&mut **it).await?.into_iter().map(Row::Lite).collect(),
            Link::Alone(it) => bound!(sql, values).fetch_all(&mut **it).await?.into_iter().map(Row::Lite).collect(),
            Link::Pg(it) => bound!(sql, values).fetch_all(&mut **it).await?.into_iter().map(Row::Pg).collect(),
        })
    }

    /// The first row of a question.
    pub(crate) async fn row(&mut self, sql: &'static str, values: &[Value<'_>]) -> Result<Option<Row>, StoreError> {
        Ok(match &mut self.link {
            Link::Lite(it) => bound!(sql, values).fetch_optional(&mut **it).await?.map(Row::Lite),
            Link::Alone(it) => bound!(sql, values).fetch_optional(&mut **it).await?.map(Row::Lite),
            Link::Pg(it) => bound!(sql, values).fetch_optional(&mut **it).await?.map(Row::Pg),
        })
    }

    /// Unix milliseconds by the database's clock: what several nodes must agree on goes by it. SQLite runs in this process and has
    /// no other clock than ours, which need not be fetched from its thread: it would be every second statement of an idle server.
    pub(crate) async fn now_ms(&mut self) -> Result<i64, StoreError> {
        let sql = match self.engine() {
            Engine::Lite => return Ok(jiff::Timestamp::now().as_millisecond()),
            Engine::Pg => "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT) AS now_ms",
        };
        let row = self.row(sql, &[]).await?;
        row.ok_or_else(|| StoreError::Row("the database has no clock".into()))?.get("now_ms")
    }

    pub(crate) async fn commit(self) -> Result<(), StoreError> {
        match self.link {
            Link::Lite(it) => it.commit().await?,
            Link::Alone(_) => (),
            Link::Pg(it) => it.commit().await?,
        }
        Ok(())
    }
}

impl Alone {
    /// See [`Tx::now_ms`].
    pub(crate) async fn now_ms(&mut self) -> Result<i64, StoreError> {
        self.0.now_ms().await
    }

    /// See [`Tx::execute`]; it is committed.
    pub(crate) async fn execute(mut self, sql: &'static str, values: &[Value<'_>]) -> Result<u64, StoreError> {
        let touched = self.0.execute(sql, values).await?;
        self.0.commit().await?;
        Ok(touched)
    }

    /// See [`Tx::rows`].
    pub(crate) async fn rows(mut self, sql: &'static str, values: &[Value<'_>]) -> Result<Vec<Row>, StoreError> {
        self.0.rows(sql, values).await
    }

    /// See [`Tx::row`].
    pub(crate) async fn row(mut self, sql: &'static str, values: &[Value<'_>]) -> Result<Option<Row>, StoreError> {
        self.0.row(sql, values).await
    }
}

/// What a statement is given.
#[derive(Clone, Debug)]
pub(crate) enum Value<'a> {
    Int(Option<i64>),
    Text(Option<Cow<'a, str>>),
    Flag(Option<bool>),
    Bytes(Option<&'a [u8]>),
}

/// PostgreSQL's texts cannot hold NUL, which a hostile client may send.
fn text(it: &str) -> Cow<'_, str> {
    if it.contains('\0') { Cow::Owned(it.replace('\0', "\u{FFFD}")) } else { Cow::Borrowed(it) }
}

macro_rules! value_of_numbers {
    ($($number:ty),*) => {
        $(
            impl From<$number> for Value<'_> {
                fn from(it: $number) -> Self {
                    Self::Int(Some(it as i64))
                }
            }
            impl From<Option<$number>> for Value<'_> {
                fn from(it: Option<$number>) -> Self {
                    Self::Int(it.map(|it| it as i64))
                }
            }
        )*
    };
}

value_of_numbers!(i16, u16, i32, u32, i64, u64, usize);

impl<'a> From<&'a str> for Value<'a> {
    fn from(it: &'a str) -> Self {
        Self::Text(Some(text(it)))
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(it: &'a String) -> Self {
        Self::Text(Some(text(it)))
    }
}

impl From<String> for Value<'_> {
    fn from(it: String) -> Self {
        Self::Text(Some(Cow::Owned(text(&it).into_owned())))
    }
}

impl<'a> From<Option<&'a str>> for Value<'a> {
    fn from(it: Option<&'a str>) -> Self {
        Self::Text(it.map(text))
    }
}

impl<'a> From<&'a Option<String>> for Value<'a> {
    fn from(it: &'a Option<String>) -> Self {
        Self::Text(it.as_deref().map(text))
    }
}

impl From<bool> for Value<'_> {
    fn from(it: bool) -> Self {
        Self::Flag(Some(it))
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(it: &'a [u8]) -> Self {
        Self::Bytes(Some(it))
    }
}

impl<'a> From<Option<&'a [u8]>> for Value<'a> {
    fn from(it: Option<&'a [u8]>) -> Self {
        Self::Bytes(it)
    }
}

/// The values of a statement, in the order of `$1`, `$2`, …
macro_rules! values {
    ($($value:expr),* $(,)?) => { &[$($crate::db::Value::from($value)),*] };
}
pub(crate) use values;

/// A row of an answer.
pub(crate) enum Row {
    Lite(SqliteRow),
    Pg(PgRow),
}

impl Row {
    /// A column by its name.
    pub(crate) fn get<T: Column>(&self, name: &str) -> Result<T, StoreError> {
        T::of(self, name)
    }
}

/// What a column can be read as.
pub(crate) trait Column: Sized {
    fn of(row: &Row, name: &str) -> Result<Self, StoreError>;
}

macro_rules! columns {
    ($($kind:ty),*) => {
        $(
            impl Column for $kind {
                fn of(row: &Row, name: &str) -> Result<Self, StoreError> {
                    Ok(match row {
                        Row::Lite(it) => it.try_get(name)?,
                        Row::Pg(it) => it.try_get(name)?,
                    })
                }
            }
        )*
    };
}

columns!(i64, Option<i64>, String, Option<String>, bool, Option<bool>, Vec<u8>, Option<Vec<u8>>);

/// Narrower numbers; what does not fit was never written by us.
macro_rules! narrow_columns {
    ($($kind:ty),*) => {
        $(
            impl Column for $kind {
                fn of(row: &Row, name: &str) -> Result<Self, StoreError> {
                    let wide: i64 = row.get(name)?;
                    Self::try_from(wide).map_err(|_| StoreError::Row(format!("{name} = {wide}")))
                }
            }
            impl Column for Option<$kind> {
                fn of(row: &Row, name: &str) -> Result<Self, StoreError> {
                    let wide: Option<i64> = row.get(name)?;
                    wide.map(|it| <$kind>::try_from(it).map_err(|_| StoreError::Row(format!("{name} = {it}")))).transpose()
                }
            }
        )*
    };
}

narrow_columns!(i16, u16, i32, u32, u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        for (url, shown) in [
            ("postgres://user:se:cr@et@host:5432/db?sslmode=require", "postgres://user:…@host:5432/db"),
            ("postgres://user@host/db", "postgres://user:…@host/db"),
            ("postgres://host/db?password=secret", "postgres://host/db"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }

    #[test]
    fn no_text_holds_nul() {
        let Value::Text(Some(it)) = Value::from("a\0b") else { panic!() };
        assert_eq!(it, "a\u{FFFD}b");
    }
}
