DROP TABLE spoken_messages;
DROP TABLE voice_samples;
DROP TABLE sms_log;
DROP TABLE voicemail_messages;
DROP TABLE voice_sessions;
DROP TABLE tickets;
DROP TABLE bookings;
DROP TABLE customers;
