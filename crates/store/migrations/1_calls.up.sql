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
    -- Whom the caller is to be connected with, by the name of the destination.
    transfer_to       TEXT,
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
    cached_tokens     BIGINT NOT NULL DEFAULT 0,
    output_tokens     BIGINT NOT NULL DEFAULT 0,
    -- What the caller waited for, what was lost and replaced on the way.
    first_audio_ms    BIGINT,
    sessions_lost     BIGINT NOT NULL DEFAULT 0,
    sessions_rolled   BIGINT NOT NULL DEFAULT 0,
    false_alarms      BIGINT NOT NULL DEFAULT 0,
    echoes            BIGINT NOT NULL DEFAULT 0,
    -- Estimated listening quality (G.107) of the worst stream, in hundredths.
    mos_hundredths    BIGINT,
    -- How the caller's line sounded, in whole dB below full scale: speech, and what lies between it.
    speech_dbfs       BIGINT,
    noise_dbfs        BIGINT,
    clipped_samples   BIGINT NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX calls_by_sid ON calls (account_sid, call_sid);
CREATE INDEX calls_by_tenant ON calls (tenant, started_at_ms);

-- Every fact as it was journalled; the key makes delivery idempotent.
CREATE TABLE call_events (
    call    TEXT NOT NULL,
    epoch   BIGINT NOT NULL,
    -- Whose fact it is: of the node that has the stream, or of another one that Twilio told something about the call.
    journal TEXT NOT NULL,
    seq     BIGINT NOT NULL,
    tenant  TEXT NOT NULL,
    at_ms   BIGINT NOT NULL,
    kind    TEXT NOT NULL,
    body    TEXT NOT NULL,
    PRIMARY KEY (call, epoch, journal, seq)
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
    -- Of the complete file: a recording that was cut or changed later can be told.
    sha256   TEXT,
    PRIMARY KEY (call, epoch)
);

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

-- How far each journal was delivered: written in the transaction that delivers. A node has one.
CREATE TABLE journal_positions (
    journal TEXT PRIMARY KEY,
    segment BIGINT NOT NULL,
    bytes   BIGINT NOT NULL
);
