DROP TABLE objects;
DROP TABLE webhook_deliveries;
DROP TABLE webhook_endpoints;
DROP TABLE intents;
DROP TABLE schedules;
DROP TABLE jobs;
