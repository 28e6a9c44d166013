-- applies-to: control
-- Where users link the account that they have with a wallet provider, as data of an environment;
-- and whose each linked identity is, by a fingerprint: one identity belongs to one user.
CREATE TABLE link_provider (
    environment_id bigint NOT NULL REFERENCES environment,
    provider text NOT NULL CHECK (provider IN ('wechat', 'alipay')),
    settings jsonb NOT NULL,
    secrets jsonb NOT NULL,
    currency text NOT NULL,
    return_to text[] NOT NULL,
    enabled boolean NOT NULL,
    version integer NOT NULL,
    changed_at timestamptz NOT NULL,
    PRIMARY KEY (environment_id, provider)
);

CREATE TABLE link_owner (
    environment_id bigint NOT NULL REFERENCES environment,
    provider text NOT NULL,
    fingerprint bytea NOT NULL,
    cell integer NOT NULL,
    user_id bigint NOT NULL,
    owner_id bigint NOT NULL,
    version integer NOT NULL,
    bound_at timestamptz NOT NULL,
    PRIMARY KEY (environment_id, provider, fingerprint)
);
CREATE INDEX link_owner_user ON link_owner (environment_id, cell, user_id);
