ALTER TABLE journal_positions DROP COLUMN facts;
DROP INDEX call_events_by_place;
ALTER TABLE call_events DROP COLUMN place;
