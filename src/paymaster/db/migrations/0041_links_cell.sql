-- applies-to: cell
-- Links of users to their accounts with wallet providers, and the ways to the provider and back that
-- are open: each may be gone once, by the browser that began it.
CREATE TABLE link_way (
    id bigint PRIMARY KEY,
    user_id bigint NOT NULL REFERENCES app_user,
    provider text NOT NULL,
    secret_hash bytea NOT NULL,
    nonce_hash bytea NOT NULL,
    return_to text,
    state text NOT NULL CHECK (state IN ('open', 'exchanging', 'done', 'failed')),
    code_hash bytea,
    lease_until timestamptz,
    slug text,
    link_id bigint,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    version integer NOT NULL
);
CREATE INDEX link_way_user ON link_way (user_id);

CREATE TABLE link (
    id bigint PRIMARY KEY,
    user_id bigint NOT NULL REFERENCES app_user,
    provider text NOT NULL,
    destination_id bigint NOT NULL REFERENCES destination,
    owner_id bigint NOT NULL,
    owner_version integer NOT NULL,
    state text NOT NULL CHECK (state IN ('active', 'unlinked')),
    linked_at timestamptz NOT NULL,
    unlinked_at timestamptz,
    version integer NOT NULL
);
CREATE UNIQUE INDEX link_active ON link (user_id, provider) WHERE state = 'active';
