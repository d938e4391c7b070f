-- How the caller's line sounded, in whole dB below full scale: speech, and what lies between it.
ALTER TABLE calls ADD COLUMN speech_dbfs BIGINT;
ALTER TABLE calls ADD COLUMN noise_dbfs BIGINT;
ALTER TABLE calls ADD COLUMN clipped_samples BIGINT NOT NULL DEFAULT 0;

-- Of the complete file: a recording that was cut or changed later can be told.
ALTER TABLE recordings ADD COLUMN sha256 TEXT;
