DROP TABLE voice_clone_calls;
