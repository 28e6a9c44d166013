-- applies-to: cell
-- How often somebody was warned that it is long unknown what became of a charge or a refund.
ALTER TABLE charge ADD COLUMN alerted smallint NOT NULL DEFAULT 0;
ALTER TABLE charge_refund ADD COLUMN alerted smallint NOT NULL DEFAULT 0;

CREATE INDEX charge_refund_live ON charge_refund (created_at, id)
    WHERE state NOT IN ('done', 'failed');
