-- What calls are about.
CREATE TABLE customers (
    id            TEXT PRIMARY KEY,
    tenant        TEXT NOT NULL,
    name          TEXT,
    phone         TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    updated_at_ms BIGINT NOT NULL,
    -- The call that created or last changed it.
    call          TEXT,
    UNIQUE (tenant, phone)
);

CREATE TABLE bookings (
    id              TEXT PRIMARY KEY,
    tenant          TEXT NOT NULL,
    customer        TEXT REFERENCES customers (id),
    call            TEXT,
    starts_at_ms    BIGINT NOT NULL,
    ends_at_ms      BIGINT NOT NULL,
    time_zone       TEXT NOT NULL,
    status          TEXT NOT NULL,
    hold_expires_ms BIGINT,
    confirmation    TEXT NOT NULL,
    created_at_ms   BIGINT NOT NULL,
    updated_at_ms   BIGINT NOT NULL
);
CREATE INDEX bookings_by_time ON bookings (tenant, starts_at_ms);

CREATE TABLE tickets (
    id            TEXT PRIMARY KEY,
    tenant        TEXT NOT NULL,
    customer      TEXT REFERENCES customers (id),
    call          TEXT,
    subject       TEXT NOT NULL,
    body          TEXT NOT NULL,
    priority      TEXT NOT NULL,
    status        TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    updated_at_ms BIGINT NOT NULL
);
CREATE INDEX tickets_by_tenant ON tickets (tenant, created_at_ms);

-- A call that we make, noted before it is dialled.
CREATE TABLE voice_sessions (
    id            TEXT PRIMARY KEY,
    tenant        TEXT NOT NULL,
    customer      TEXT REFERENCES customers (id),
    phone         TEXT NOT NULL,
    agent_type    TEXT NOT NULL,
    call_sid      TEXT,
    call          TEXT,
    status        TEXT NOT NULL,
    recording_url TEXT,
    created_at_ms BIGINT NOT NULL,
    updated_at_ms BIGINT NOT NULL,
    ended_at_ms   BIGINT
);
CREATE INDEX voice_sessions_by_tenant ON voice_sessions (tenant, created_at_ms);

CREATE TABLE voicemail_messages (
    id            TEXT PRIMARY KEY,
    tenant        TEXT NOT NULL,
    call          TEXT,
    recording_sid TEXT UNIQUE,
    object        TEXT,
    length_ms     BIGINT NOT NULL,
    transcript    TEXT,
    summary       TEXT,
    urgency       TEXT,
    callback      TEXT,
    read_at_ms    BIGINT,
    created_at_ms BIGINT NOT NULL
);
CREATE INDEX voicemail_messages_by_tenant ON voicemail_messages (tenant, created_at_ms);

CREATE TABLE sms_log (
    id            TEXT PRIMARY KEY,
    tenant        TEXT NOT NULL,
    call          TEXT,
    to_number     TEXT NOT NULL,
    body          TEXT NOT NULL,
    sid           TEXT,
    status        TEXT NOT NULL,
    error         TEXT,
    created_at_ms BIGINT NOT NULL,
    updated_at_ms BIGINT NOT NULL
);
CREATE INDEX sms_log_by_tenant ON sms_log (tenant, created_at_ms);

-- Recorded with consent, to be spoken with later.
CREATE TABLE voice_samples (
    id            TEXT PRIMARY KEY,
    tenant        TEXT NOT NULL,
    caller_number TEXT NOT NULL,
    object        TEXT NOT NULL,
    size_bytes    BIGINT NOT NULL,
    consent       TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    expires_at_ms BIGINT
);
CREATE INDEX voice_samples_by_caller ON voice_samples (tenant, caller_number);

-- Spoken messages, made once for each text and voice.
CREATE TABLE spoken_messages (
    tenant        TEXT NOT NULL,
    text_hash     TEXT NOT NULL,
    voice         TEXT NOT NULL,
    object        TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    used_at_ms    BIGINT NOT NULL,
    PRIMARY KEY (tenant, text_hash, voice)
);
