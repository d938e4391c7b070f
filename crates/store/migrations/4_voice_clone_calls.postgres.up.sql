-- A call whose voice is cloned before the caller is connected. A table of that name may be there already, made for another
-- telephone system, with `3cx_call_id` and `3cx_extension`: it is adopted, and what it looked like is kept for the way back.
CREATE TABLE adopted_columns (
    position     BIGINT PRIMARY KEY,
    name         TEXT NOT NULL,
    old_name     TEXT,
    old_type     TEXT,
    old_default  TEXT
);

DO $$
DECLARE
    wanted  RECORD;
    present RECORD;
    place   BIGINT := 0;
BEGIN
    IF to_regclass('voice_clone_calls') IS NULL THEN
        CREATE TABLE voice_clone_calls (
            call_sid          TEXT PRIMARY KEY,
            tenant            TEXT NOT NULL DEFAULT 'default',
            caller_number     TEXT,
            twilio_number     TEXT,
            -- processing, completed, failed
            status            TEXT NOT NULL,
            voice_clone_id    TEXT,
            sample_size_bytes BIGINT,
            error             TEXT,
            retry_count       BIGINT NOT NULL DEFAULT 0,
            clone_metadata    TEXT,
            created_at        BIGINT NOT NULL,
            updated_at        BIGINT NOT NULL
        );
        RETURN;
    END IF;
    FOR wanted IN
        SELECT * FROM (VALUES
            ('call_sid', '3cx_call_id', 'text'), ('tenant', NULL, 'text'), ('caller_number', NULL, 'text'),
            ('twilio_number', '3cx_extension', 'text'), ('status', NULL, 'text'), ('voice_clone_id', NULL, 'text'),
            ('sample_size_bytes', NULL, 'bigint'), ('error', NULL, 'text'), ('retry_count', NULL, 'bigint'),
            ('clone_metadata', NULL, 'text'), ('created_at', NULL, 'bigint'), ('updated_at', NULL, 'bigint')
        ) AS it (name, earlier, kind)
    LOOP
        place := place + 1;
        SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS kind, pg_get_expr(d.adbin, d.adrelid) AS fallback
            INTO present
            FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
            WHERE a.attrelid = 'voice_clone_calls'::regclass AND NOT a.attisdropped AND a.attname IN (wanted.name, wanted.earlier)
            ORDER BY a.attname = wanted.name DESC LIMIT 1;
        IF NOT FOUND THEN
            INSERT INTO adopted_columns VALUES (place, wanted.name, NULL, NULL, NULL);
            IF wanted.name = 'tenant' THEN
                ALTER TABLE voice_clone_calls ADD COLUMN tenant TEXT NOT NULL DEFAULT 'default';
            ELSE
                EXECUTE format('ALTER TABLE voice_clone_calls ADD COLUMN %I %s', wanted.name, wanted.kind);
            END IF;
            CONTINUE;
        END IF;
        INSERT INTO adopted_columns VALUES (place, wanted.name, present.name, present.kind, present.fallback);
        IF present.name <> wanted.name THEN
            EXECUTE format('ALTER TABLE voice_clone_calls RENAME COLUMN %I TO %I', present.name, wanted.name);
        END IF;
        IF present.fallback IS NOT NULL THEN
            EXECUTE format('ALTER TABLE voice_clone_calls ALTER COLUMN %I DROP DEFAULT', wanted.name);
        END IF;
        IF present.kind LIKE 'timestamp%' THEN
            EXECUTE format(
                'ALTER TABLE voice_clone_calls ALTER COLUMN %I TYPE BIGINT USING (extract(epoch FROM %I%s) * 1000)::BIGINT',
                wanted.name, wanted.name, CASE WHEN present.kind LIKE '%without%' THEN ' AT TIME ZONE ''UTC''' ELSE '' END);
        ELSIF present.kind <> wanted.kind THEN
            EXECUTE format('ALTER TABLE voice_clone_calls ALTER COLUMN %I TYPE %s USING %I::TEXT::%s',
                wanted.name, wanted.kind, wanted.name, wanted.kind);
        END IF;
    END LOOP;
    UPDATE voice_clone_calls SET retry_count = 0 WHERE retry_count IS NULL;
    ALTER TABLE voice_clone_calls ALTER COLUMN retry_count SET DEFAULT 0;
END
$$;
