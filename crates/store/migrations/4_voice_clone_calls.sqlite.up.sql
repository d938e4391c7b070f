-- A call whose voice is cloned before the caller is connected.
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
