-- applies-to: control cell
-- What every schema has: the order of commits, workers and leases, messages in and out,
-- callers' keys, the audit trail. No triggers, no sequences: ids and times are parameters.

-- The order of commits. The last statement of every writing transaction moves `seq` on, so it is
-- gapless and is the order in which transactions became visible.
CREATE TABLE head (
    id smallint PRIMARY KEY CHECK (id = 1),
    seq bigint NOT NULL,
    recorded_at timestamptz NOT NULL,
    closed_through date
);

-- One row a transaction: the range of `seq` that its append-only rows took, in their ordinals' order.
CREATE TABLE commit (
    id bigint PRIMARY KEY,
    first_seq bigint NOT NULL,
    last_seq bigint NOT NULL UNIQUE,
    recorded_at timestamptz NOT NULL,
    actor text NOT NULL,
    trace_id text NOT NULL,
    CHECK (first_seq <= last_seq)
);
CREATE INDEX commit_trace ON commit (trace_id);

-- Numbers that make ids unique. `last_ms` is how far ids may have been issued under the number.
CREATE TABLE worker (
    number smallint PRIMARY KEY CHECK (number BETWEEN 0 AND 63),
    holder text NOT NULL,
    token bigint NOT NULL,
    last_ms bigint NOT NULL,
    expires_at timestamptz NOT NULL
);

-- Leadership of single-runner work, fenced by `token`.
CREATE TABLE lease (
    name text PRIMARY KEY,
    holder text NOT NULL,
    token bigint NOT NULL,
    expires_at timestamptz NOT NULL
);

-- At most two batch-sized writers in a cell (measured: more only ruin the tail).
CREATE TABLE permit (
    number smallint PRIMARY KEY
);

-- How far a reader of `seq` has come.
CREATE TABLE cursor (
    name text PRIMARY KEY,
    seq bigint NOT NULL
);

CREATE TABLE outbox (
    commit_id bigint NOT NULL,
    ordinal integer NOT NULL,
    message_id bigint NOT NULL,
    topic text NOT NULL,
    key text NOT NULL,
    target_cell integer,
    payload jsonb NOT NULL,
    trace_id text NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (commit_id, ordinal)
);

-- Messages from outside, once each. `due_at` is set while there is something left to do.
CREATE TABLE inbox (
    source text NOT NULL,
    message_id text NOT NULL,
    topic text NOT NULL,
    payload jsonb,
    sealed bytea,
    digest bytea NOT NULL,
    trace_id text NOT NULL,
    received_at timestamptz NOT NULL,
    due_at timestamptz,
    tries integer NOT NULL,
    lease_token bigint NOT NULL,
    done_at timestamptz,
    result jsonb,
    PRIMARY KEY (source, message_id)
);
CREATE INDEX inbox_due ON inbox (due_at) WHERE due_at IS NOT NULL;
-- What could not be applied, with its reason: somebody has to look.
CREATE INDEX inbox_refused ON inbox (received_at) WHERE result ->> 'slug' IS NOT NULL;

-- Callers' keys with the answer they got, written in the transaction of the effect.
CREATE TABLE idempotency (
    credential_id bigint NOT NULL,
    route text NOT NULL,
    key_hash bytea NOT NULL,
    body_hash bytea NOT NULL,
    status smallint,
    answer bytea,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (credential_id, route, key_hash)
);
CREATE INDEX idempotency_created ON idempotency (created_at);

CREATE TABLE audit (
    commit_id bigint NOT NULL,
    ordinal integer NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    subject text NOT NULL,
    reason text,
    detail jsonb NOT NULL,
    origin text,
    trace_id text NOT NULL,
    acted_at timestamptz NOT NULL,
    PRIMARY KEY (commit_id, ordinal)
);
CREATE INDEX audit_subject ON audit (subject);
