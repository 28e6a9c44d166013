-- applies-to: cell
-- Quotes: what a withdrawal would cost, locked for a time. A withdrawal says what its payee gets, in
-- which currency, who bears the fee and by which quote; `rate` is a fraction, n/d, of whole units.

CREATE TABLE quote (
    id bigint PRIMARY KEY,
    user_id bigint NOT NULL,
    destination_id bigint NOT NULL,
    side text NOT NULL CHECK (side IN ('amount', 'payout')),
    asked bigint NOT NULL CHECK (asked > 0),
    amount bigint NOT NULL CHECK (amount > 0),
    fee bigint NOT NULL CHECK (fee >= 0),
    asset text NOT NULL,
    payout_amount bigint NOT NULL CHECK (payout_amount > 0),
    payout_asset text NOT NULL,
    fee_payer text NOT NULL CHECK (fee_payer IN ('sender', 'receiver')),
    fee_plan text,
    fee_back boolean NOT NULL,
    fee_lines jsonb NOT NULL,
    rate text,
    mid_rate text,
    markup_ppm integer,
    rate_source text,
    rate_observed_at timestamptz,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    created_by text NOT NULL,
    trace_id text NOT NULL,
    withdrawal_id bigint,
    CHECK (asset = payout_asset AND amount = payout_amount AND rate IS NULL
        OR asset <> payout_asset AND rate IS NOT NULL)
);
CREATE INDEX quote_user ON quote (user_id, id);
CREATE INDEX quote_unused ON quote (expires_at) WHERE withdrawal_id IS NULL;
CREATE UNIQUE INDEX quote_withdrawal ON quote (withdrawal_id) WHERE withdrawal_id IS NOT NULL;

ALTER TABLE withdrawal ADD COLUMN payout_amount bigint,
    ADD COLUMN payout_asset text,
    ADD COLUMN fee_payer text NOT NULL DEFAULT 'sender',
    ADD COLUMN fee_back boolean NOT NULL DEFAULT false,
    ADD COLUMN fee_plan text,
    ADD COLUMN quote_id bigint,
    ADD COLUMN rate text;

UPDATE withdrawal SET payout_amount = amount, payout_asset = asset;

ALTER TABLE withdrawal ALTER COLUMN payout_amount SET NOT NULL,
    ALTER COLUMN payout_asset SET NOT NULL,
    ALTER COLUMN fee_payer DROP DEFAULT,
    ALTER COLUMN fee_back DROP DEFAULT,
    ADD CHECK (payout_amount > 0),
    ADD CHECK (fee_payer IN ('sender', 'receiver')),
    ADD CHECK (asset = payout_asset AND amount = payout_amount AND rate IS NULL
        OR asset <> payout_asset AND rate IS NOT NULL AND quote_id IS NOT NULL);

-- A quote serves once, whatever the code believes.
CREATE UNIQUE INDEX withdrawal_quote ON withdrawal (quote_id) WHERE quote_id IS NOT NULL;
