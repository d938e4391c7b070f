-- How the caller's line sounded, in whole dB below full scale: speech, and what lies between it.
ALTER TABLE calls ADD COLUMN speech_dbfs BIGINT;
ALTER TABLE calls ADD COLUMN noise_dbfs BIGINT;
ALTER TABLE calls ADD COLUMN clipped_samples BIGINT NOT NULL DEFAULT 0;
