-- applies-to: cell
-- Users and where their money goes. Personal and bank data only sealed, under the user's own key.

CREATE TABLE app_user (
    id bigint PRIMARY KEY,
    external_id text NOT NULL UNIQUE,
    status text NOT NULL CHECK (status IN ('active', 'suspended', 'closed')),
    status_reason text,
    created_at timestamptz NOT NULL,
    version integer NOT NULL
);

CREATE TABLE data_key (
    user_id bigint PRIMARY KEY REFERENCES app_user,
    wrapped bytea NOT NULL,
    kek_id text NOT NULL
);

CREATE TABLE pii (
    user_id bigint NOT NULL REFERENCES app_user,
    kind text NOT NULL,
    sealed bytea NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, kind)
);

CREATE TABLE destination (
    id bigint PRIMARY KEY,
    user_id bigint NOT NULL REFERENCES app_user,
    kind text NOT NULL,
    currency text NOT NULL,
    mask text NOT NULL,
    fingerprint bytea NOT NULL,
    sealed bytea NOT NULL,
    state text NOT NULL CHECK (state IN ('active', 'closed')),
    closed_reason text,
    usable_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    version integer NOT NULL,
    UNIQUE (user_id, kind, fingerprint, currency)
);
CREATE INDEX destination_fingerprint ON destination (fingerprint);
