-- Work that must be done, whoever dies.
CREATE TABLE jobs (
    id             TEXT PRIMARY KEY,
    tenant         TEXT NOT NULL,
    kind           TEXT NOT NULL,
    body           TEXT NOT NULL,
    -- The same work is there only once while it is not over.
    once           TEXT,
    -- ready, running, done, dead, cancelled
    state          TEXT NOT NULL,
    -- Higher first.
    priority       BIGINT NOT NULL,
    run_at_ms      BIGINT NOT NULL,
    attempts       BIGINT NOT NULL DEFAULT 0,
    attempts_max   BIGINT NOT NULL,
    -- Attempts whose worker died.
    crashes        BIGINT NOT NULL DEFAULT 0,
    worker         TEXT,
    lease_until_ms BIGINT,
    -- What was reached so far, by step: a JSON object.
    steps          TEXT NOT NULL DEFAULT '{}',
    problem        TEXT,
    created_at_ms  BIGINT NOT NULL,
    finished_at_ms BIGINT
);
CREATE INDEX jobs_due ON jobs (state, kind, priority, run_at_ms);
CREATE INDEX jobs_by_tenant ON jobs (tenant, created_at_ms);
CREATE UNIQUE INDEX jobs_once ON jobs (tenant, kind, once) WHERE state IN ('ready', 'running');

CREATE TABLE schedules (
    tenant     TEXT NOT NULL,
    name       TEXT NOT NULL,
    kind       TEXT NOT NULL,
    body       TEXT NOT NULL,
    cron       TEXT NOT NULL,
    time_zone  TEXT NOT NULL,
    next_at_ms BIGINT NOT NULL,
    PRIMARY KEY (tenant, name)
);

-- Something is about to be done to the outside world that cannot be undone: noted before, completed after.
CREATE TABLE intents (
    tenant         TEXT NOT NULL,
    key            TEXT NOT NULL,
    at_ms          BIGINT NOT NULL,
    finished_at_ms BIGINT,
    outcome        TEXT,
    PRIMARY KEY (tenant, key)
);

-- Where a tenant's events go.
CREATE TABLE webhook_endpoints (
    id            TEXT PRIMARY KEY,
    tenant        TEXT NOT NULL,
    url           TEXT NOT NULL,
    -- Encrypted.
    secret        BYTEA NOT NULL,
    -- Kinds of events with spaces between; empty: all.
    events        TEXT NOT NULL,
    paused_reason TEXT,
    created_at_ms BIGINT NOT NULL
);
CREATE INDEX webhook_endpoints_by_tenant ON webhook_endpoints (tenant);

CREATE TABLE webhook_deliveries (
    id             TEXT PRIMARY KEY,
    tenant         TEXT NOT NULL,
    endpoint       TEXT NOT NULL,
    event          TEXT NOT NULL,
    kind           TEXT NOT NULL,
    -- Events of one key are delivered in the order of their numbers.
    order_key      TEXT NOT NULL,
    number         BIGINT NOT NULL,
    body           TEXT NOT NULL,
    -- waiting, delivered, expired
    state          TEXT NOT NULL,
    attempts       BIGINT NOT NULL DEFAULT 0,
    next_at_ms     BIGINT NOT NULL,
    lease_until_ms BIGINT,
    last_status    BIGINT,
    last_problem   TEXT,
    created_at_ms  BIGINT NOT NULL,
    finished_at_ms BIGINT,
    UNIQUE (endpoint, event)
);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (state, next_at_ms);
CREATE INDEX webhook_deliveries_in_order ON webhook_deliveries (endpoint, order_key, number);

-- Files: recordings, samples, messages.
CREATE TABLE objects (
    id            TEXT PRIMARY KEY,
    tenant        TEXT NOT NULL,
    kind          TEXT NOT NULL,
    sha256        TEXT NOT NULL,
    size_bytes    BIGINT NOT NULL,
    media_type    TEXT NOT NULL,
    -- Whose voice it is.
    number        TEXT,
    call          TEXT,
    -- Where its content lies; the same content of a tenant lies there once.
    location      TEXT NOT NULL,
    -- The key of its content, encrypted.
    content_key   BYTEA NOT NULL,
    created_at_ms BIGINT NOT NULL,
    expires_at_ms BIGINT
);
CREATE INDEX objects_by_tenant ON objects (tenant, created_at_ms);
CREATE INDEX objects_by_number ON objects (tenant, number);
CREATE INDEX objects_by_content ON objects (tenant, sha256);
CREATE INDEX objects_by_location ON objects (location);
CREATE INDEX objects_by_end ON objects (expires_at_ms);
