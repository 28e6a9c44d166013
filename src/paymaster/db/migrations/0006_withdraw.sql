-- applies-to: cell
-- The request, the verdict on it, the attempts to pay it.

CREATE TABLE withdrawal (
    id bigint PRIMARY KEY,
    user_id bigint NOT NULL REFERENCES app_user,
    destination_id bigint NOT NULL REFERENCES destination,
    amount bigint NOT NULL CHECK (amount > 0),
    fee bigint NOT NULL CHECK (fee >= 0),
    asset text NOT NULL,
    state text NOT NULL,
    number integer NOT NULL,
    hold_id bigint NOT NULL UNIQUE,
    entry_request bigint NOT NULL,
    entry_release bigint NOT NULL,
    entry_paid bigint NOT NULL,
    entry_returned bigint NOT NULL,
    rail_account_id bigint,
    reason text,
    due_at timestamptz,
    tries integer NOT NULL,
    lease_token bigint NOT NULL,
    requested_at timestamptz NOT NULL,
    trace_id text NOT NULL,
    version integer NOT NULL
);
CREATE INDEX withdrawal_trace ON withdrawal (trace_id);
CREATE INDEX withdrawal_user ON withdrawal (user_id, id);
CREATE INDEX withdrawal_due ON withdrawal (state, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX withdrawal_destination ON withdrawal (destination_id, id);
CREATE INDEX withdrawal_state ON withdrawal (state, id);
CREATE INDEX withdrawal_queued ON withdrawal (rail_account_id, due_at) WHERE state = 'queued';

CREATE TABLE withdrawal_move (
    withdrawal_id bigint NOT NULL,
    number integer NOT NULL,
    machine text NOT NULL,
    source text NOT NULL,
    event text NOT NULL,
    target text NOT NULL,
    actor text NOT NULL,
    reason text,
    commit_id bigint NOT NULL,
    ordinal integer NOT NULL,
    moved_at timestamptz NOT NULL,
    PRIMARY KEY (withdrawal_id, number),
    FOREIGN KEY (machine, source, event, target) REFERENCES legal_move
);

-- The rules as they stood, kept beside the verdicts so that a verdict can be replayed alone.
CREATE TABLE applied_rule_set (
    version integer PRIMARY KEY,
    rules jsonb NOT NULL
);

CREATE TABLE verdict (
    id bigint PRIMARY KEY,
    withdrawal_id bigint NOT NULL,
    rule_set_version integer NOT NULL REFERENCES applied_rule_set,
    outcome text NOT NULL,
    reasons jsonb NOT NULL,
    facts jsonb NOT NULL,
    digest bytea NOT NULL,
    commit_id bigint NOT NULL,
    ordinal integer NOT NULL,
    decided_at timestamptz NOT NULL
);
CREATE INDEX verdict_withdrawal ON verdict (withdrawal_id);

-- One order to a provider: a request of one payment, or a file of many. The exact bytes are here,
-- sealed, before the network is touched.
CREATE TABLE batch (
    id bigint PRIMARY KEY,
    batch_key text NOT NULL UNIQUE,
    rail_account_id bigint NOT NULL,
    sealed bytea NOT NULL,
    digest bytea NOT NULL,
    items integer NOT NULL,
    total bigint NOT NULL,
    asset text NOT NULL,
    state text NOT NULL CHECK (state IN
        ('prepared', 'sending', 'sent', 'unknown', 'refused', 'answered')),
    tries integer NOT NULL,
    due_at timestamptz,
    lease_token bigint NOT NULL,
    created_at timestamptz NOT NULL,
    sent_at timestamptz,
    detail text,
    trace_id text NOT NULL,
    version integer NOT NULL
);
CREATE INDEX batch_due ON batch (rail_account_id, due_at) WHERE due_at IS NOT NULL;

-- What one order holds for one withdrawal or one treasury transfer. `key` is the reference by
-- which the provider, its webhooks and its statements name the payment; `booked_line` and
-- `returned_line` are the statement lines that proved it out and back.
CREATE TABLE attempt (
    id bigint PRIMARY KEY,
    withdrawal_id bigint REFERENCES withdrawal,
    transfer_id bigint,
    number integer NOT NULL,
    batch_id bigint NOT NULL REFERENCES batch,
    rail_account_id bigint NOT NULL,
    key text NOT NULL UNIQUE,
    amount bigint NOT NULL CHECK (amount > 0),
    asset text NOT NULL,
    state text NOT NULL,
    provider_id text,
    code text,
    detail text,
    tries integer NOT NULL,
    due_at timestamptz,
    lease_token bigint NOT NULL,
    created_at timestamptz NOT NULL,
    resolved_at timestamptz,
    booked_on date,
    booked_line text,
    returned_on date,
    returned_line text,
    trace_id text NOT NULL,
    version integer NOT NULL,
    CHECK ((withdrawal_id IS NULL) <> (transfer_id IS NULL))
);
CREATE UNIQUE INDEX attempt_withdrawal ON attempt (withdrawal_id, number) WHERE withdrawal_id IS NOT NULL;
CREATE UNIQUE INDEX attempt_transfer ON attempt (transfer_id, number) WHERE transfer_id IS NOT NULL;
-- At most one order for a thing may be alive: a second one needs proof that the first is dead.
CREATE UNIQUE INDEX attempt_withdrawal_live ON attempt (withdrawal_id)
    WHERE withdrawal_id IS NOT NULL AND state <> 'rejected';
CREATE UNIQUE INDEX attempt_transfer_live ON attempt (transfer_id)
    WHERE transfer_id IS NOT NULL AND state <> 'rejected';
CREATE INDEX attempt_due ON attempt (rail_account_id, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX attempt_batch ON attempt (batch_id);
CREATE INDEX attempt_unbooked ON attempt (rail_account_id, id) WHERE booked_on IS NULL;
CREATE INDEX attempt_unreturned ON attempt (rail_account_id, id)
    WHERE state = 'returned' AND returned_on IS NULL;

-- When the next file of a rail account leaves.
CREATE TABLE payout_window (
    rail_account_id bigint PRIMARY KEY,
    due_at timestamptz NOT NULL,
    lease_token bigint NOT NULL,
    version integer NOT NULL
);
