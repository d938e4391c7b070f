DROP TABLE journal_positions;
DROP TABLE messages;
DROP TABLE recordings;
DROP TABLE tool_calls;
DROP TABLE turns;
DROP TABLE transcript;
DROP TABLE call_events;
DROP TABLE calls;
