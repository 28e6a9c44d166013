-- applies-to: cell
-- Payments that their payee has to accept with the provider: what opens its page, sealed, until the
-- order has an end; and that their user wants them taken back, which the provider is asked for.
CREATE TABLE confirmation (
    attempt_id bigint PRIMARY KEY REFERENCES attempt,
    sealed bytea NOT NULL,
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL
);

ALTER TABLE attempt ADD COLUMN cancel_at timestamptz;

CREATE INDEX attempt_awaiting ON attempt (created_at, id) WHERE state = 'awaiting_payee';

DROP INDEX attempt_under_way;
CREATE INDEX attempt_under_way ON attempt (rail_account_id)
    WHERE state IN ('sending', 'unknown', 'sent', 'awaiting_payee');
