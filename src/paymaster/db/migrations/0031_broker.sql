-- applies-to: control cell
-- Events that the message broker does not take, such as one larger than it allows. `due_at` is set
-- while one shall be tried again, `done_at` when it was taken after all.
CREATE TABLE broker_aside (
    seq bigint PRIMARY KEY,
    event text NOT NULL,
    topic text NOT NULL,
    key text NOT NULL,
    tries integer NOT NULL,
    detail text NOT NULL,
    laid_at timestamptz NOT NULL,
    due_at timestamptz,
    done_at timestamptz
);

CREATE INDEX broker_aside_open ON broker_aside (seq) WHERE done_at IS NULL;

CREATE INDEX broker_aside_due ON broker_aside (seq) WHERE due_at IS NOT NULL;
