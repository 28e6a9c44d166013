-- applies-to: cell
-- Why a dead order pays nobody, once for each of them. A further order for the same withdrawal
-- refers to the proof of the one before it, and that one to the proof before: the database takes
-- no second order while an earlier one may still be paid.

CREATE TABLE attempt_proof (
    attempt_id bigint PRIMARY KEY REFERENCES attempt,
    withdrawal_id bigint,
    number integer NOT NULL,
    rail_account_id bigint NOT NULL,
    kind text NOT NULL,
    code text,
    evidence text NOT NULL,
    proven_at timestamptz NOT NULL,
    commit_id bigint NOT NULL,
    ordinal integer NOT NULL,
    UNIQUE (withdrawal_id, number)
);
CREATE INDEX attempt_proof_commit ON attempt_proof (commit_id);

-- `after_number` is the order before; `routed` says why this account was chosen; `alerted` counts
-- the warnings about an order that stays unknown.
ALTER TABLE attempt ADD COLUMN after_number integer;

ALTER TABLE attempt ADD COLUMN routed text;

ALTER TABLE attempt ADD COLUMN alerted integer NOT NULL DEFAULT 0;

UPDATE attempt SET after_number = number - 1 WHERE number > 1;

ALTER TABLE attempt ADD CONSTRAINT attempt_after CHECK (
    CASE WHEN number > 1 THEN after_number IS NOT NULL AND after_number = number - 1
    ELSE after_number IS NULL END);

ALTER TABLE attempt ADD CONSTRAINT attempt_earlier_is_dead
    FOREIGN KEY (withdrawal_id, after_number) REFERENCES attempt_proof (withdrawal_id, number)
    NOT VALID;

CREATE INDEX attempt_unknown ON attempt (created_at, id) WHERE state = 'unknown';

-- How many of an order's tries have ended here, and when the last one did: a provider that does not
-- know the order proves something only when no try can still be on its way.
ALTER TABLE batch ADD COLUMN ended integer NOT NULL DEFAULT 0;

ALTER TABLE batch ADD COLUMN ended_at timestamptz;
