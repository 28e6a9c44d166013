-- applies-to: control cell
-- Callers whose commands were carried out together: the commit has a trace of its own, and each
-- caller's trace leads to it from here.

CREATE TABLE trace_commit (
    trace_id text NOT NULL,
    commit_id bigint NOT NULL,
    PRIMARY KEY (trace_id, commit_id)
);

-- A trace leads to its withdrawals by the acts of its commits.
DROP INDEX IF EXISTS withdrawal_trace;

-- Users and destinations are never deleted, and a request looks them up before it inserts: the
-- references cost more than the row (two look-ups and two row locks each).
ALTER TABLE IF EXISTS withdrawal DROP CONSTRAINT IF EXISTS withdrawal_user_id_fkey;

ALTER TABLE IF EXISTS withdrawal DROP CONSTRAINT IF EXISTS withdrawal_destination_id_fkey;
