-- Who has signed in: the newest refresh token of each, as a hash.
CREATE TABLE sign_ins (
    id            TEXT PRIMARY KEY,
    tenant        TEXT NOT NULL,
    user_id       TEXT NOT NULL,
    hash          TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    expires_at_ms BIGINT NOT NULL,
    revoked_at_ms BIGINT
);
CREATE INDEX sign_ins_by_user ON sign_ins (user_id);

-- Who is not to be called.
CREATE TABLE do_not_call (
    tenant        TEXT NOT NULL,
    number        TEXT NOT NULL,
    reason        TEXT NOT NULL,
    author        TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    PRIMARY KEY (tenant, number)
);

-- When something that goes at a pace may happen next: calls of an account.
CREATE TABLE paces (
    name    TEXT PRIMARY KEY,
    next_ms BIGINT NOT NULL
);

-- What the provider tells about a conversation when it is over.
ALTER TABLE calls ADD COLUMN provider_conversation TEXT;
ALTER TABLE calls ADD COLUMN successful TEXT;
ALTER TABLE calls ADD COLUMN summary TEXT;

ALTER TABLE voice_sessions ADD COLUMN from_number TEXT;
ALTER TABLE voice_sessions ADD COLUMN status_rank BIGINT NOT NULL DEFAULT 0;
-- Why it came to nothing.
ALTER TABLE voice_sessions ADD COLUMN problem TEXT;
-- Whoever is called has agreed to it, by whom it was ordered.
ALTER TABLE voice_sessions ADD COLUMN consent BOOLEAN NOT NULL DEFAULT FALSE;
-- A person or a machine, in Twilio's words.
ALTER TABLE voice_sessions ADD COLUMN answered_by TEXT;
ALTER TABLE voice_sessions ADD COLUMN answered_at_ms BIGINT;
ALTER TABLE voice_sessions ADD COLUMN duration_s BIGINT;
-- Of the leg to a provider's number, where calls are passed on instead of streamed.
ALTER TABLE voice_sessions ADD COLUMN dial_status TEXT;
ALTER TABLE voice_sessions ADD COLUMN dial_duration_s BIGINT;
-- The order's own name: the same one again is the same call. And what was ordered under it.
ALTER TABLE voice_sessions ADD COLUMN request_key TEXT;
ALTER TABLE voice_sessions ADD COLUMN fingerprint TEXT;
-- What it may cost at most, in millionths: counted from when it is dialled.
ALTER TABLE voice_sessions ADD COLUMN reserved_micros BIGINT NOT NULL DEFAULT 0;
ALTER TABLE voice_sessions ADD COLUMN dialled_at_ms BIGINT;
CREATE UNIQUE INDEX voice_sessions_by_key ON voice_sessions (tenant, request_key);
CREATE INDEX voice_sessions_by_dial ON voice_sessions (tenant, dialled_at_ms);
