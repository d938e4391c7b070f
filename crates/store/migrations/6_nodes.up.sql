-- Who is there. Times are the database's.
CREATE TABLE nodes (
    id            TEXT PRIMARY KEY,
    address       TEXT,
    version       TEXT NOT NULL,
    started_at_ms BIGINT NOT NULL,
    seen_at_ms    BIGINT NOT NULL,
    draining      BOOLEAN NOT NULL,
    -- Its live calls: a JSON array.
    live          TEXT NOT NULL
);

-- Orders to calls on other nodes, acknowledged by who carries them out.
CREATE TABLE commands (
    id            TEXT PRIMARY KEY,
    tenant        TEXT NOT NULL,
    call          TEXT NOT NULL,
    node          TEXT NOT NULL,
    body          TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    expires_at_ms BIGINT NOT NULL,
    outcome       TEXT
);
CREATE INDEX commands_by_node ON commands (node, created_at_ms);

-- What one node may do at a time: sweep, schedule.
CREATE TABLE leases (
    name     TEXT PRIMARY KEY,
    holder   TEXT NOT NULL,
    until_ms BIGINT NOT NULL
);
