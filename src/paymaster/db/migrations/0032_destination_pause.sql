-- applies-to: cell
-- A destination to which several payments in a row failed takes no more until somebody resumes it.
-- How many failed is counted from the withdrawals themselves, after `resumed_at`.

ALTER TABLE destination DROP CONSTRAINT destination_state_check;
ALTER TABLE destination ADD CONSTRAINT destination_state_check
    CHECK (state IN ('active', 'paused', 'closed'));
ALTER TABLE destination ADD COLUMN paused_code text;
ALTER TABLE destination ADD COLUMN paused_at timestamptz;
ALTER TABLE destination ADD COLUMN resumed_at timestamptz;
