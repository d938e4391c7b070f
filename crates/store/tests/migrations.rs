//! The schema goes up, down and up again with data in it, on both engines; a database of the older product is adopted and
//! given back.

mod common;

use common::{POSTGRES, Place, apply, entry, on_both, ringing, said};
use store::{CloneStatus, NEWEST, Store};

#[tokio::test]
async fn every_version_goes_up_down_and_up_with_data_in_place() {
    on_both(async |place| {
        for version in 1..=NEWEST {
            assert_eq!(Store::migrate(&place.url, Some(version)).await.unwrap(), (version - 1, version));
        }
        let store = Store::open(&place.url).await.unwrap();
        apply(&store, &[entry("t", "1", 0, 0, ringing("1")), entry("t", "1", 0, 1, said("hello"))]).await;
        store.close().await;
        for version in (1..NEWEST).rev() {
            assert_eq!(Store::migrate(&place.url, Some(version)).await.unwrap(), (version + 1, version));
            assert_eq!(Store::migrate(&place.url, Some(version + 1)).await.unwrap(), (version, version + 1));
            assert_eq!(Store::migrate(&place.url, Some(version)).await.unwrap(), (version + 1, version));
        }
        Store::migrate(&place.url, None).await.unwrap();
        let store = Store::open(&place.url).await.unwrap();
        assert_eq!(store.tenant("t").transcript("1").await.unwrap().len(), 1, "what belongs to version 1 outlived the others");
        store.close().await;
        assert_eq!(Store::migrate(&place.url, Some(0)).await.unwrap(), (NEWEST, 0));
        Store::migrate(&place.url, None).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_old_schema_is_told_with_the_fix() {
    let place = Place::postgres();
    Store::migrate(&place.url, Some(2)).await.unwrap();
    let error = Store::open(&place.url).await.unwrap_err().to_string();
    assert!(error.contains("version 2") && error.contains("offhook migrate"), "{error}");
    // SQLite belongs to one process, which brings it up to date by itself.
    let place = Place::sqlite();
    Store::migrate(&place.url, Some(2)).await.unwrap();
    Store::open(&place.url).await.unwrap();
}

/// The older product's table as its own migrations made it.
const OLD: &str = r#"
CREATE TYPE clonestatus AS ENUM ('processing', 'completed', 'failed');
CREATE TABLE voice_clone_calls (
    "3cx_call_id"     VARCHAR(64) PRIMARY KEY,
    caller_number     VARCHAR(32),
    "3cx_extension"   VARCHAR(16),
    status            clonestatus NOT NULL DEFAULT 'processing',
    voice_clone_id    VARCHAR(64),
    sample_size_bytes INTEGER,
    error             TEXT,
    retry_count       INTEGER DEFAULT 0,
    clone_metadata    TEXT,
    created_at        TIMESTAMP DEFAULT now(),
    updated_at        TIMESTAMP WITH TIME ZONE
);
CREATE INDEX ix_call ON voice_clone_calls ("3cx_call_id");
INSERT INTO voice_clone_calls VALUES
    ('c-1', '+40711111111', '101', 'completed', 'v-1', 1234, NULL, 1, '{"a":1}', '2025-10-07 12:00:00', '2025-10-07 12:00:01+00'),
    ('c-2', NULL, '102', 'failed', NULL, NULL, 'too short', NULL, NULL, '2025-10-08 00:00:00.5', NULL);
"#;

#[tokio::test]
async fn an_older_database_is_adopted_and_released_as_it_was() {
    let place = Place::postgres();
    let database = place.database.as_deref().unwrap();
    POSTGRES.sql(database, &format!("SET ROLE offhook; {OLD}"));
    let shape = |database: &str| {
        POSTGRES.sql(
            database,
            "SELECT column_name, data_type, udt_name, character_maximum_length, column_default, is_nullable FROM information_schema.columns
                WHERE table_name = 'voice_clone_calls' ORDER BY column_name",
        )
    };
    let rows = |database: &str| POSTGRES.sql(database, r#"SELECT * FROM voice_clone_calls ORDER BY "3cx_call_id""#);
    let (shape_before, rows_before) = (shape(database), rows(database));
    Store::migrate(&place.url, None).await.unwrap();
    let adopted =
        "SELECT call_sid, tenant, caller_number, twilio_number, status, sample_size_bytes, retry_count, created_at, updated_at
        FROM voice_clone_calls ORDER BY call_sid";
    assert_eq!(
        POSTGRES.sql(database, adopted),
        "c-1|default|+40711111111|101|completed|1234|1|1759838400000|1759838401000\n\
         c-2|default||102|failed||0|1759881600500|"
    );
    let store = Store::open(&place.url).await.unwrap();
    let row = store.tenant("default").clone_call("c-2").await.unwrap().unwrap();
    assert_eq!((row.status, row.error.as_deref(), row.updated_at), (CloneStatus::Failed, Some("too short"), row.created_at));
    store.close().await;
    Store::migrate(&place.url, Some(0)).await.unwrap();
    assert_eq!(shape(database), shape_before);
    // A missing count has become zero; everything else is as it was.
    assert_eq!(rows(database), rows_before.replace("too short||", "too short|0|"));
    Store::migrate(&place.url, None).await.unwrap();
    assert_eq!(POSTGRES.sql(database, "SELECT COUNT(*) FROM voice_clone_calls"), "2");
}

#[tokio::test]
async fn every_table_of_a_tenant_is_walled_by_the_server_itself() {
    let place = Place::postgres();
    let store = place.store().await;
    apply(&store, &[entry("a", "1", 0, 0, ringing("1")), entry("b", "2", 0, 0, ringing("2"))]).await;
    let database = place.database.as_deref().unwrap();
    let tables = POSTGRES.sql(
        database,
        "SELECT string_agg(table_name, ' ' ORDER BY table_name) FROM information_schema.columns
            WHERE column_name = 'tenant' AND table_schema = 'public'",
    );
    let walled = POSTGRES.sql(
        database,
        "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class c WHERE relrowsecurity AND relforcerowsecurity
            AND EXISTS (SELECT 1 FROM pg_policy WHERE polrelid = c.oid)",
    );
    assert_eq!(tables, walled, "a table with a tenant needs its wall");
    // As the product's own role, without any scope in the query.
    let seen = |tenant: &str| {
        let set = if tenant.is_empty() { String::new() } else { format!("SET offhook.tenant = '{tenant}';") };
        POSTGRES.sql(database, &format!("SET ROLE offhook; {set} SELECT string_agg(id, ',' ORDER BY id) FROM calls"))
    };
    assert_eq!(
        (seen(""), seen("a"), seen("b"), seen("c"), seen("*")),
        ("".into(), "1".into(), "2".into(), "".into(), "1,2".into())
    );
    // Nor can one write into another's.
    let stolen =
        "SET ROLE offhook; SET offhook.tenant = 'a'; UPDATE calls SET tenant = 'a' WHERE id = '2'; SELECT COUNT(*) FROM calls";
    assert_eq!(POSTGRES.sql(database, stolen), "1");
}
