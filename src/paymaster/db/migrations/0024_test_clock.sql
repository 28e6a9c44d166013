-- applies-to: cell
-- How far the clock of a test environment runs ahead of the machines'. Live ones never look.

CREATE TABLE test_clock (
    id smallint PRIMARY KEY CHECK (id = 1),
    ahead_seconds bigint NOT NULL CHECK (ahead_seconds >= 0)
);
INSERT INTO test_clock (id, ahead_seconds) VALUES (1, 0);
