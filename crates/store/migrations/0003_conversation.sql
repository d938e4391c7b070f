-- How the conversation went: what the caller waited for, what was lost and replaced on the way, and what it cost.
ALTER TABLE calls ADD COLUMN first_audio_ms BIGINT;
ALTER TABLE calls ADD COLUMN sessions_lost BIGINT NOT NULL DEFAULT 0;
ALTER TABLE calls ADD COLUMN sessions_rolled BIGINT NOT NULL DEFAULT 0;
ALTER TABLE calls ADD COLUMN false_alarms BIGINT NOT NULL DEFAULT 0;
ALTER TABLE calls ADD COLUMN echoes BIGINT NOT NULL DEFAULT 0;
ALTER TABLE calls ADD COLUMN cached_tokens BIGINT NOT NULL DEFAULT 0;
-- Estimated listening quality (G.107) of the worst stream, in hundredths.
ALTER TABLE calls ADD COLUMN mos_hundredths BIGINT;

-- What callers left for the business.
CREATE TABLE messages (
    call   TEXT NOT NULL,
    epoch  BIGINT NOT NULL,
    seq    BIGINT NOT NULL,
    tenant TEXT NOT NULL,
    at_ms  BIGINT NOT NULL,
    name   TEXT,
    number TEXT,
    text   TEXT NOT NULL,
    PRIMARY KEY (call, epoch, seq)
);
CREATE INDEX messages_by_tenant ON messages (tenant, at_ms);
