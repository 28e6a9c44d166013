-- applies-to: cell
-- Money that is asked for through a provider: a sponsor's for a campaign's budget, in the campaign's
-- home cell, or a user's for his wallet, in the user's cell. `sealed` holds what names the payer and
-- what opens the provider's page, until the charge has an end. `refunded` is what was given back or
-- is about to be.
CREATE TABLE charge (
    id bigint PRIMARY KEY,
    key text NOT NULL UNIQUE,
    purpose text NOT NULL CHECK (purpose IN ('campaign', 'user')),
    target_id bigint NOT NULL,
    rail_account_id bigint NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    asset text NOT NULL,
    method text NOT NULL,
    shows text NOT NULL,
    description text NOT NULL,
    sealed bytea,
    state text NOT NULL,
    maybe_there boolean NOT NULL,
    found text,
    provider_id text,
    code text,
    detail text,
    refunded bigint NOT NULL CHECK (refunded BETWEEN 0 AND amount),
    entry_id bigint NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    opened_at timestamptz,
    close_at timestamptz,
    paid_at timestamptz,
    ended_at timestamptz,
    booked_on date,
    booked_line text,
    due_at timestamptz,
    tries integer NOT NULL,
    lease_token bigint NOT NULL,
    actor text NOT NULL,
    trace_id text NOT NULL,
    version integer NOT NULL
);
CREATE INDEX charge_due ON charge (rail_account_id, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX charge_target ON charge (purpose, target_id, id);
CREATE INDEX charge_state ON charge (state, id) WHERE state NOT IN ('paid', 'closed');
CREATE INDEX charge_unbooked ON charge (rail_account_id, ended_at)
    WHERE state = 'paid' AND booked_line IS NULL;

-- Money of a charge that is given back to its payer. Its entries: set aside, given back, or returned
-- to where it was.
CREATE TABLE charge_refund (
    id bigint PRIMARY KEY,
    key text NOT NULL UNIQUE,
    charge_id bigint NOT NULL REFERENCES charge,
    rail_account_id bigint NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    asset text NOT NULL,
    reason text NOT NULL,
    state text NOT NULL,
    maybe_there boolean NOT NULL,
    found text,
    provider_id text,
    code text,
    detail text,
    entry_held bigint NOT NULL,
    entry_done bigint NOT NULL,
    entry_back bigint NOT NULL,
    created_at timestamptz NOT NULL,
    ended_at timestamptz,
    booked_on date,
    booked_line text,
    due_at timestamptz,
    tries integer NOT NULL,
    lease_token bigint NOT NULL,
    actor text NOT NULL,
    trace_id text NOT NULL,
    version integer NOT NULL
);
CREATE INDEX charge_refund_charge ON charge_refund (charge_id, id);
CREATE INDEX charge_refund_due ON charge_refund (rail_account_id, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX charge_refund_unbooked ON charge_refund (rail_account_id, ended_at)
    WHERE state = 'done' AND booked_line IS NULL;
