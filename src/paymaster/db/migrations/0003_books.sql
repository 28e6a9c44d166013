-- applies-to: cell
-- The books: accounts, entries, postings, holds. Entries and postings are facts: inserted, never
-- changed. Both are partitioned by id, which carries the time.

CREATE TABLE account (
    id bigint PRIMARY KEY,
    kind text NOT NULL,
    owner_id bigint NOT NULL,
    asset text NOT NULL,
    scale smallint NOT NULL CHECK (scale BETWEEN 0 AND 9),
    balance bigint NOT NULL,
    floor bigint,
    ceiling bigint,
    postings bigint NOT NULL,
    last_posting_id bigint,
    last_day date,
    closed_at timestamptz,
    UNIQUE (kind, owner_id, asset),
    CHECK (floor IS NULL OR balance >= floor),
    CHECK (ceiling IS NULL OR balance <= ceiling)
) WITH (fillfactor = 50);

CREATE TABLE entry (
    id bigint NOT NULL,
    commit_id bigint NOT NULL,
    ordinal integer NOT NULL,
    kind text NOT NULL,
    recipe_version smallint NOT NULL,
    subject text NOT NULL,
    postings smallint NOT NULL,
    effective_at timestamptz NOT NULL,
    effective_day date NOT NULL,
    digest bytea NOT NULL,
    evidence jsonb NOT NULL,
    reverses_id bigint,
    trace_id text NOT NULL,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);

-- `*_number` counts an account's postings, `*_previous` is the posting before, `*_balance` the
-- balance after: a statement is a walk over the primary key, no second index.
CREATE TABLE posting (
    id bigint NOT NULL,
    entry_id bigint NOT NULL,
    source_id bigint NOT NULL,
    destination_id bigint NOT NULL,
    amount bigint NOT NULL CHECK (amount >= 0),
    asset text NOT NULL,
    requested bigint NOT NULL,
    source_previous bigint,
    source_number bigint NOT NULL,
    source_balance bigint NOT NULL,
    destination_previous bigint,
    destination_number bigint NOT NULL,
    destination_balance bigint NOT NULL,
    PRIMARY KEY (id),
    CHECK (source_id <> destination_id)
) PARTITION BY RANGE (id);

-- Where each account stood when a business day began for it: "as of" and archives start here.
CREATE TABLE account_day (
    account_id bigint NOT NULL,
    day date NOT NULL,
    opening_balance bigint NOT NULL,
    first_posting_id bigint NOT NULL,
    PRIMARY KEY (account_id, day)
);

CREATE TABLE hold (
    id bigint PRIMARY KEY,
    available_id bigint NOT NULL,
    held_id bigint NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    remaining bigint NOT NULL CHECK (remaining BETWEEN 0 AND amount),
    state text NOT NULL CHECK (state IN ('open', 'captured', 'released', 'expired')),
    reason text NOT NULL,
    subject text NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    version integer NOT NULL,
    CHECK (state = 'open' OR remaining = 0)
);
CREATE INDEX hold_held ON hold (held_id) WHERE state = 'open';
CREATE INDEX hold_expiry ON hold (expires_at) WHERE state = 'open' AND expires_at IS NOT NULL;

CREATE TABLE legal_move (
    machine text NOT NULL,
    source text NOT NULL,
    event text NOT NULL,
    target text NOT NULL,
    PRIMARY KEY (machine, source, event, target)
);
