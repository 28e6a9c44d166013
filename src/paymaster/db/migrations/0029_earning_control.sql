-- applies-to: control
-- How earnings of a source clear, are reserved and are clawed back: under versions. `subject_id` is
-- the campaign or sponsor that a source names.

CREATE TABLE earning_policy (
    id bigint PRIMARY KEY,
    environment_id bigint NOT NULL REFERENCES environment,
    source text NOT NULL,
    version integer NOT NULL CHECK (version > 0),
    subject_id bigint,
    terms jsonb NOT NULL,
    reason text NOT NULL,
    actor text NOT NULL,
    created_at timestamptz NOT NULL,
    commit_id bigint NOT NULL,
    ordinal integer NOT NULL,
    UNIQUE (environment_id, source, version)
);

CREATE INDEX earning_policy_commit ON earning_policy (commit_id);
