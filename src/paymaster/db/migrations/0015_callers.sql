-- applies-to: control
-- The person a key belongs to, where somebody owns it: four eyes count persons, not keys.
ALTER TABLE credential ADD COLUMN person_id bigint;

-- Who may say who an earner is. A token names its issuer and for whom it was made; together they
-- lead to one environment. `user_prefix` stands before the subject in the app's own id of a user,
-- so that an issuer can name no users but those of its own.
CREATE TABLE issuer (
    id bigint PRIMARY KEY,
    environment_id bigint NOT NULL REFERENCES environment,
    url text NOT NULL,
    audiences text[] NOT NULL,
    algorithms text[] NOT NULL,
    subject_claim text NOT NULL,
    user_prefix text NOT NULL,
    enabled boolean NOT NULL,
    created_at timestamptz NOT NULL,
    removed_at timestamptz
);
CREATE UNIQUE INDEX issuer_of_environment ON issuer (environment_id, url) WHERE removed_at IS NULL;
CREATE UNIQUE INDEX issuer_users ON issuer (environment_id, user_prefix) WHERE removed_at IS NULL;
CREATE INDEX issuer_by_url ON issuer (url) WHERE removed_at IS NULL;

-- The audiences that are taken: one audience of an issuer belongs to one environment.
CREATE TABLE issuer_audience (
    url text NOT NULL,
    audience text NOT NULL,
    issuer_id bigint NOT NULL REFERENCES issuer,
    PRIMARY KEY (url, audience)
);
