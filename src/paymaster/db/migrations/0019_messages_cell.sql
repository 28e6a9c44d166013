-- applies-to: cell
-- Messages to the outside: what of the outbox is owed to whom. An event is a row of the outbox and
-- is named by its place in the order of commits; nothing of it is copied.

-- One event for one webhook endpoint. `due_at` is set while something is to be done; an event that
-- waits behind another one of its key, at an endpoint that wants order, has none.
CREATE TABLE webhook_delivery (
    endpoint_id bigint NOT NULL,
    seq bigint NOT NULL,
    topic text NOT NULL,
    key text NOT NULL,
    ordered boolean NOT NULL,
    state text NOT NULL CHECK (state IN ('waiting', 'sending', 'delivered', 'failed', 'cancelled')),
    tries integer NOT NULL,
    due_at timestamptz,
    lease_token bigint NOT NULL,
    status smallint,
    outcome text,
    duration_ms integer,
    tried_at timestamptz,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (endpoint_id, seq),
    CHECK (due_at IS NULL OR state IN ('waiting', 'sending'))
);

CREATE INDEX webhook_delivery_due ON webhook_delivery (endpoint_id, due_at)
    WHERE due_at IS NOT NULL;

-- Who of a key is next: the one that is due, else the first.
CREATE INDEX webhook_delivery_open ON webhook_delivery (endpoint_id, key, due_at, seq)
    WHERE ordered AND state IN ('waiting', 'sending');

CREATE INDEX webhook_delivery_seq ON webhook_delivery (seq);

-- Locked by whatever changes who is next at an endpoint that wants order.
CREATE TABLE webhook_order (
    endpoint_id bigint PRIMARY KEY
);

-- Old events that somebody wants sent again, worked off from `at_seq` on.
CREATE TABLE webhook_replay (
    id bigint PRIMARY KEY,
    endpoint_id bigint NOT NULL,
    since timestamptz NOT NULL,
    at_seq bigint NOT NULL,
    until_seq bigint NOT NULL,
    queued integer NOT NULL,
    created_at timestamptz NOT NULL,
    done_at timestamptz
);

CREATE INDEX webhook_replay_open ON webhook_replay (id) WHERE done_at IS NULL;

-- Letters to be written: at most one an event. Whom it goes to is looked up when it is sent.
CREATE TABLE mail (
    seq bigint PRIMARY KEY,
    template text NOT NULL,
    user_id bigint,
    state text NOT NULL CHECK (state IN ('waiting', 'sending', 'sent', 'failed', 'skipped')),
    tries integer NOT NULL,
    due_at timestamptz,
    lease_token bigint NOT NULL,
    outcome text,
    tried_at timestamptz,
    created_at timestamptz NOT NULL,
    CHECK (due_at IS NULL OR state IN ('waiting', 'sending'))
);

CREATE INDEX mail_due ON mail (due_at) WHERE due_at IS NOT NULL;
