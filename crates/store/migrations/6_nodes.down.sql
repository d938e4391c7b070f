DROP TABLE leases;
DROP TABLE commands;
DROP TABLE nodes;
