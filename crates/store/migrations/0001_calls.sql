-- One row a call, made of the facts that the journal delivered.
CREATE TABLE calls (
    id                TEXT PRIMARY KEY,
    tenant            TEXT NOT NULL,
    call_sid          TEXT NOT NULL,
    account_sid       TEXT NOT NULL,
    from_number       TEXT,
    to_number         TEXT,
    direction         TEXT NOT NULL,
    api_version       TEXT,
    forwarded_from    TEXT,
    caller_name       TEXT,
    assistant         TEXT NOT NULL,
    language          TEXT NOT NULL,
    status            TEXT NOT NULL,
    status_rank       BIGINT NOT NULL,
    epoch             BIGINT NOT NULL,
    owner_node        TEXT NOT NULL,
    resumes           BIGINT NOT NULL DEFAULT 0,
    started_at_ms     BIGINT NOT NULL,
    stream_started_ms BIGINT,
    ended_at_ms       BIGINT,
    end_reason        TEXT,
    end_blame         TEXT,
    duration_s        BIGINT,
    frames_in         BIGINT NOT NULL DEFAULT 0,
    frames_in_dropped BIGINT NOT NULL DEFAULT 0,
    frames_out        BIGINT NOT NULL DEFAULT 0,
    assistant_ms_dropped BIGINT NOT NULL DEFAULT 0,
    underruns         BIGINT NOT NULL DEFAULT 0,
    jitter_us         BIGINT NOT NULL DEFAULT 0,
    longest_gap_ms    BIGINT NOT NULL DEFAULT 0,
    interruptions     BIGINT NOT NULL DEFAULT 0,
    input_tokens      BIGINT NOT NULL DEFAULT 0,
    output_tokens     BIGINT NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX calls_by_sid ON calls (account_sid, call_sid);
CREATE INDEX calls_by_tenant ON calls (tenant, started_at_ms);

-- Every fact as it was journalled; the key makes delivery idempotent.
CREATE TABLE call_events (
    call   TEXT NOT NULL,
    epoch  BIGINT NOT NULL,
    seq    BIGINT NOT NULL,
    tenant TEXT NOT NULL,
    at_ms  BIGINT NOT NULL,
    kind   TEXT NOT NULL,
    body   TEXT NOT NULL,
    PRIMARY KEY (call, epoch, seq)
);

CREATE TABLE transcript (
    call     TEXT NOT NULL,
    epoch    BIGINT NOT NULL,
    seq      BIGINT NOT NULL,
    tenant   TEXT NOT NULL,
    speaker  TEXT NOT NULL,
    text     TEXT NOT NULL,
    start_ms BIGINT NOT NULL,
    end_ms   BIGINT NOT NULL,
    cut      BOOLEAN NOT NULL,
    PRIMARY KEY (call, epoch, seq)
);

CREATE TABLE turns (
    call           TEXT NOT NULL,
    epoch          BIGINT NOT NULL,
    seq            BIGINT NOT NULL,
    tenant         TEXT NOT NULL,
    endpointing_us BIGINT NOT NULL,
    thinking_us    BIGINT NOT NULL,
    bridging_us    BIGINT NOT NULL,
    playout_us     BIGINT NOT NULL,
    PRIMARY KEY (call, epoch, seq)
);

CREATE TABLE tool_calls (
    call        TEXT NOT NULL,
    id          TEXT NOT NULL,
    tenant      TEXT NOT NULL,
    name        TEXT NOT NULL,
    arguments   TEXT NOT NULL,
    called_ms   BIGINT NOT NULL,
    finished_ms BIGINT,
    output      TEXT,
    failed      BOOLEAN,
    PRIMARY KEY (call, id)
);

CREATE TABLE recordings (
    call     TEXT NOT NULL,
    epoch    BIGINT NOT NULL,
    tenant   TEXT NOT NULL,
    location TEXT NOT NULL,
    channels BIGINT NOT NULL,
    length_ms BIGINT NOT NULL,
    PRIMARY KEY (call, epoch)
);

-- How far the journal was delivered: written in the transaction that delivers.
CREATE TABLE journal_position (
    id      BIGINT PRIMARY KEY CHECK (id = 1),
    segment BIGINT NOT NULL,
    bytes   BIGINT NOT NULL
);
INSERT INTO journal_position (id, segment, bytes) VALUES (1, 0, 0);
