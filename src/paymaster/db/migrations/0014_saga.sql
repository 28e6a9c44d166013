-- applies-to: cell
-- Every move of a withdrawal is checked against `legal_move`. On two pages the planner reads the
-- whole table for each check (12 microseconds a move, measured); spread over more pages, it looks the
-- move up (9; without a check it would be 5).

ALTER TABLE legal_move SET (fillfactor = 10);

UPDATE legal_move SET machine = machine;

-- Commands for other cells that could not be carried out, and those behind them under the same key,
-- in their order. `due_at` is set while one shall be tried again.
CREATE TABLE aside (
    message_id bigint PRIMARY KEY,
    seq bigint NOT NULL UNIQUE,
    topic text NOT NULL,
    key text NOT NULL,
    target_cell integer NOT NULL,
    payload jsonb NOT NULL,
    trace_id text NOT NULL,
    tries integer NOT NULL,
    slug text NOT NULL,
    detail text NOT NULL,
    laid_at timestamptz NOT NULL,
    due_at timestamptz,
    done_at timestamptz
);

CREATE INDEX aside_open ON aside (target_cell, key, seq) WHERE done_at IS NULL;

CREATE INDEX aside_due ON aside (due_at) WHERE due_at IS NOT NULL;
