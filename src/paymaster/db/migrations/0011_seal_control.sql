-- applies-to: control
-- The hash chain of the directory: see the cells' file of the same number.

CREATE TABLE seal (
    block bigint PRIMARY KEY,
    format smallint NOT NULL,
    first_seq bigint NOT NULL,
    last_seq bigint NOT NULL,
    tables text[] NOT NULL,
    counts integer[] NOT NULL,
    digests bytea[] NOT NULL,
    marks bytea NOT NULL,
    previous bytea NOT NULL,
    hash bytea NOT NULL,
    sealed_at timestamptz NOT NULL
);

ALTER TABLE seal ALTER COLUMN marks SET STORAGE EXTERNAL;

-- Rows from before have commit 0; new ones must name theirs.
ALTER TABLE directory ADD COLUMN commit_id bigint NOT NULL DEFAULT 0,
    ADD COLUMN ordinal integer NOT NULL DEFAULT 0;

ALTER TABLE directory ALTER COLUMN commit_id DROP DEFAULT,
    ALTER COLUMN ordinal DROP DEFAULT;

ALTER TABLE registry ADD COLUMN commit_id bigint NOT NULL DEFAULT 0,
    ADD COLUMN ordinal integer NOT NULL DEFAULT 0;

ALTER TABLE registry ALTER COLUMN commit_id DROP DEFAULT,
    ALTER COLUMN ordinal DROP DEFAULT;

ALTER TABLE rule_set ADD COLUMN commit_id bigint NOT NULL DEFAULT 0,
    ADD COLUMN ordinal integer NOT NULL DEFAULT 0;

ALTER TABLE rule_set ALTER COLUMN commit_id DROP DEFAULT,
    ALTER COLUMN ordinal DROP DEFAULT;

-- Made by the owner, sometimes before there is a commit to name.
ALTER TABLE environment ADD COLUMN commit_id bigint NOT NULL DEFAULT 0,
    ADD COLUMN ordinal integer NOT NULL DEFAULT 0;

ALTER TABLE cell ADD COLUMN commit_id bigint NOT NULL DEFAULT 0,
    ADD COLUMN ordinal integer NOT NULL DEFAULT 0;

CREATE INDEX directory_commit ON directory (commit_id);

CREATE INDEX registry_commit ON registry (commit_id);

CREATE INDEX rule_set_commit ON rule_set (commit_id);
