-- Facts are numbered in the order in which a journal delivers them, so that whoever follows what happens can ask for what came
-- after. A clock or a sequence of the whole database would not do: transactions become visible in another order than they began.
ALTER TABLE call_events ADD COLUMN place BIGINT NOT NULL DEFAULT 0;
CREATE INDEX call_events_by_place ON call_events (journal, place);
ALTER TABLE journal_positions ADD COLUMN facts BIGINT NOT NULL DEFAULT 0;
