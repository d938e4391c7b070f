-- Who the businesses are, who works for them, and what may be spent.
CREATE TABLE tenants (
    id            TEXT PRIMARY KEY,
    name          TEXT NOT NULL,
    active        BOOLEAN NOT NULL,
    time_zone     TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL
);

CREATE TABLE users (
    id            TEXT PRIMARY KEY,
    email         TEXT NOT NULL UNIQUE,
    name          TEXT NOT NULL,
    password_hash TEXT,
    created_at_ms BIGINT NOT NULL
);

-- owner, admin, operator, viewer
CREATE TABLE members (
    tenant        TEXT NOT NULL,
    user_id       TEXT NOT NULL,
    role          TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    PRIMARY KEY (tenant, user_id)
);

CREATE TABLE api_keys (
    id            TEXT PRIMARY KEY,
    tenant        TEXT NOT NULL,
    name          TEXT NOT NULL,
    role          TEXT NOT NULL,
    hash          TEXT NOT NULL UNIQUE,
    created_at_ms BIGINT NOT NULL,
    expires_at_ms BIGINT,
    last_used_ms  BIGINT,
    revoked_at_ms BIGINT
);

-- Numbers of a workspace (which is a tenant), and who bought them.
CREATE TABLE user_phone_numbers (
    id                TEXT PRIMARY KEY,
    tenant            TEXT NOT NULL,
    user_id           TEXT,
    phone_number      TEXT NOT NULL UNIQUE,
    twilio_phone_sid  TEXT,
    is_active         BOOLEAN NOT NULL,
    voicemail_enabled BOOLEAN NOT NULL,
    created_at_ms     BIGINT NOT NULL
);
CREATE INDEX user_phone_numbers_by_tenant ON user_phone_numbers (tenant);

-- What is configured, as it was at any time.
CREATE TABLE config_versions (
    tenant  TEXT NOT NULL,
    version BIGINT NOT NULL,
    at_ms   BIGINT NOT NULL,
    author  TEXT NOT NULL,
    body    TEXT NOT NULL,
    PRIMARY KEY (tenant, version)
);

CREATE TABLE audit_log (
    id     TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    at_ms  BIGINT NOT NULL,
    actor  TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    detail TEXT
);
CREATE INDEX audit_log_by_tenant ON audit_log (tenant, at_ms);

-- What things cost, in millionths of the currency, from a moment on.
CREATE TABLE prices (
    kind     TEXT NOT NULL,
    from_ms  BIGINT NOT NULL,
    unit     TEXT NOT NULL,
    micros   BIGINT NOT NULL,
    currency TEXT NOT NULL,
    PRIMARY KEY (kind, from_ms)
);

-- What a tenant may do at most and does now: calls at a time, money in a day.
CREATE TABLE caps (
    tenant TEXT NOT NULL,
    kind   TEXT NOT NULL,
    most   BIGINT NOT NULL,
    used   BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, kind)
);

-- Who holds a part of a cap; what a dead node held is given back.
CREATE TABLE cap_holders (
    tenant TEXT NOT NULL,
    kind   TEXT NOT NULL,
    holder TEXT NOT NULL,
    node   TEXT NOT NULL,
    amount BIGINT NOT NULL,
    at_ms  BIGINT NOT NULL,
    PRIMARY KEY (tenant, kind, holder)
);
