-- applies-to: control
-- Messages to the outside, of what happens in the directory: see the cells' file of the same number.

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

-- Locked by whatever changes who is next at an endpoint that wants order, and, under the id
-- of an environment, by whatever makes endpoints of it.
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

-- Where an app wants to be told of events.

-- `types` are names of event types, `group.*` or `*`. `starts_after` is how far each schema's order
-- of commits had come when the endpoint was made: older events are not sent unless asked for.
CREATE TABLE webhook_endpoint (
    id bigint PRIMARY KEY,
    environment_id bigint NOT NULL REFERENCES environment,
    url text NOT NULL CHECK (length(url) <= 2048),
    description text NOT NULL,
    types text[] NOT NULL,
    ordered boolean NOT NULL,
    state text NOT NULL CHECK (state IN ('enabled', 'disabled', 'deleted')),
    disabled_reason text,
    starts_after jsonb NOT NULL,
    failing_since timestamptz,
    created_at timestamptz NOT NULL,
    version integer NOT NULL
);

CREATE INDEX webhook_endpoint_environment ON webhook_endpoint (environment_id);

-- The keys that sign; an older one goes on signing beside the newest until it expires.
CREATE TABLE webhook_secret (
    id bigint PRIMARY KEY,
    endpoint_id bigint NOT NULL REFERENCES webhook_endpoint,
    sealed bytea NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz
);

CREATE INDEX webhook_secret_endpoint ON webhook_secret (endpoint_id);
