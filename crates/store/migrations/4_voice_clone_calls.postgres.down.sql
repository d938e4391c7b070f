DO $$
DECLARE
    it RECORD;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM adopted_columns) THEN
        DROP TABLE voice_clone_calls;
        RETURN;
    END IF;
    ALTER TABLE voice_clone_calls ALTER COLUMN retry_count DROP DEFAULT;
    FOR it IN SELECT * FROM adopted_columns ORDER BY position LOOP
        IF it.old_name IS NULL THEN
            EXECUTE format('ALTER TABLE voice_clone_calls DROP COLUMN %I', it.name);
            CONTINUE;
        END IF;
        IF it.old_type LIKE 'timestamp%' THEN
            EXECUTE format('ALTER TABLE voice_clone_calls ALTER COLUMN %I TYPE %s USING to_timestamp(%I / 1000.0)%s',
                it.name, it.old_type, it.name, CASE WHEN it.old_type LIKE '%without%' THEN ' AT TIME ZONE ''UTC''' ELSE '' END);
        ELSE
            EXECUTE format('ALTER TABLE voice_clone_calls ALTER COLUMN %I TYPE %s USING %I::TEXT::%s',
                it.name, it.old_type, it.name, it.old_type);
        END IF;
        IF it.old_default IS NOT NULL THEN
            EXECUTE format('ALTER TABLE voice_clone_calls ALTER COLUMN %I SET DEFAULT %s', it.name, it.old_default);
        END IF;
        IF it.old_name <> it.name THEN
            EXECUTE format('ALTER TABLE voice_clone_calls RENAME COLUMN %I TO %I', it.name, it.old_name);
        END IF;
    END LOOP;
END
$$;
DROP TABLE adopted_columns;
