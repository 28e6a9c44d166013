-- applies-to: control
-- Environments that were removed. `certificate` is the SHA-256 of the signed document that says what
-- was removed; names, ids and cell numbers of a removed environment are never used again.

CREATE TABLE environment_removal (
    environment_id bigint PRIMARY KEY REFERENCES environment,
    certificate bytea NOT NULL CHECK (octet_length(certificate) = 32),
    reason text NOT NULL,
    removed_at timestamptz NOT NULL,
    commit_id bigint NOT NULL,
    ordinal integer NOT NULL
);
