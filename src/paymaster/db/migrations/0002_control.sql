-- applies-to: control
-- The directory: who is where, what is offered, what is allowed. Read often, written rarely.

CREATE TABLE environment (
    id bigint PRIMARY KEY,
    tenant text NOT NULL,
    mode text NOT NULL CHECK (mode IN ('live', 'test')),
    time_zone text NOT NULL,
    created_at timestamptz NOT NULL,
    UNIQUE (tenant, mode)
);

-- A cell belongs to one environment; its number is never used again.
CREATE TABLE cell (
    number integer PRIMARY KEY CHECK (number BETWEEN 0 AND 1023),
    environment_id bigint NOT NULL REFERENCES environment,
    server text NOT NULL,
    schema_name text NOT NULL,
    treasury boolean NOT NULL,
    open_for_users boolean NOT NULL,
    created_at timestamptz NOT NULL,
    UNIQUE (server, schema_name)
);
CREATE UNIQUE INDEX cell_treasury ON cell (environment_id) WHERE treasury;

CREATE TABLE credential (
    id bigint PRIMARY KEY,
    environment_id bigint NOT NULL REFERENCES environment,
    prefix text NOT NULL UNIQUE,
    secret_hash bytea NOT NULL,
    name text NOT NULL,
    scopes text[] NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_on date
);

CREATE TABLE directory (
    environment_id bigint NOT NULL REFERENCES environment,
    external_id text NOT NULL CHECK (length(external_id) BETWEEN 1 AND 128),
    cell integer NOT NULL REFERENCES cell,
    user_id bigint NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (environment_id, external_id),
    UNIQUE (cell, user_id)
);

-- What is global by nature: who uses one destination. Claimed before the cell's transaction.
CREATE TABLE registry (
    environment_id bigint NOT NULL REFERENCES environment,
    kind text NOT NULL,
    fingerprint bytea NOT NULL,
    cell integer NOT NULL,
    user_id bigint NOT NULL,
    claimed_at timestamptz NOT NULL,
    PRIMARY KEY (environment_id, kind, fingerprint, cell, user_id)
);

CREATE TABLE sponsor (
    id bigint PRIMARY KEY,
    environment_id bigint NOT NULL REFERENCES environment,
    external_id text NOT NULL CHECK (length(external_id) BETWEEN 1 AND 128),
    name text NOT NULL,
    created_at timestamptz NOT NULL,
    UNIQUE (environment_id, external_id)
);

CREATE TABLE campaign (
    id bigint PRIMARY KEY,
    environment_id bigint NOT NULL REFERENCES environment,
    sponsor_id bigint NOT NULL REFERENCES sponsor,
    home_cell integer NOT NULL REFERENCES cell,
    external_id text NOT NULL CHECK (length(external_id) BETWEEN 1 AND 128),
    name text NOT NULL,
    currency text NOT NULL,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz,
    state text NOT NULL CHECK (state IN ('active', 'paused', 'ended')),
    when_exhausted text NOT NULL CHECK (when_exhausted IN ('wait', 'refuse')),
    vesting_seconds bigint NOT NULL CHECK (vesting_seconds >= 0),
    targeting jsonb NOT NULL,
    funding_reference text NOT NULL UNIQUE,
    version integer NOT NULL,
    created_at timestamptz NOT NULL,
    UNIQUE (environment_id, external_id)
);

CREATE TABLE task (
    id bigint PRIMARY KEY,
    campaign_id bigint NOT NULL REFERENCES campaign,
    external_id text NOT NULL CHECK (length(external_id) BETWEEN 1 AND 128),
    type text NOT NULL,
    title text NOT NULL,
    reward_minor bigint NOT NULL CHECK (reward_minor > 0),
    verification jsonb NOT NULL,
    requirements jsonb NOT NULL,
    user_cap integer CHECK (user_cap > 0),
    starts_at timestamptz NOT NULL,
    expires_at timestamptz,
    state text NOT NULL CHECK (state IN ('active', 'paused', 'ended')),
    version integer NOT NULL,
    created_at timestamptz NOT NULL,
    UNIQUE (campaign_id, external_id)
);

CREATE TABLE gold (
    task_id bigint NOT NULL REFERENCES task,
    item text NOT NULL CHECK (length(item) BETWEEN 1 AND 256),
    answer text NOT NULL,
    PRIMARY KEY (task_id, item)
);

CREATE TABLE rule_set (
    environment_id bigint NOT NULL REFERENCES environment,
    version integer NOT NULL,
    rules jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (environment_id, version)
);

CREATE TABLE rail_account (
    id bigint PRIMARY KEY,
    environment_id bigint NOT NULL REFERENCES environment,
    name text NOT NULL CHECK (name ~ '^[a-z][a-z0-9-]{0,39}$'),
    rail text NOT NULL,
    currency text NOT NULL,
    time_zone text NOT NULL,
    settings jsonb NOT NULL,
    secrets jsonb NOT NULL,
    payout_window text NOT NULL,
    state text NOT NULL CHECK (state IN ('active', 'paused')),
    version integer NOT NULL,
    created_at timestamptz NOT NULL,
    UNIQUE (environment_id, name)
);
