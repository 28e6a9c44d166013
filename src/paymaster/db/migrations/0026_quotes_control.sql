-- applies-to: control
-- What withdrawals cost: fee plans under versions, and rates between currencies as they became known.
-- `revision` counts all versions of an environment's plans; `rate` is exact decimal text: so many
-- units of `counter` for one of `base`.

CREATE TABLE fee_plan (
    environment_id bigint NOT NULL REFERENCES environment,
    name text NOT NULL,
    version integer NOT NULL,
    revision integer NOT NULL,
    plan jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    commit_id bigint NOT NULL,
    ordinal integer NOT NULL,
    PRIMARY KEY (environment_id, name, version)
);
CREATE UNIQUE INDEX fee_plan_revision ON fee_plan (environment_id, revision);
CREATE INDEX fee_plan_commit ON fee_plan (commit_id);

CREATE TABLE fx_rate (
    id bigint PRIMARY KEY,
    environment_id bigint NOT NULL REFERENCES environment,
    source text NOT NULL,
    base text NOT NULL,
    counter text NOT NULL CHECK (counter <> base),
    rate text NOT NULL,
    observed_at timestamptz NOT NULL,
    valid_seconds integer NOT NULL CHECK (valid_seconds > 0),
    reference text NOT NULL,
    actor text NOT NULL,
    recorded_at timestamptz NOT NULL,
    commit_id bigint NOT NULL,
    ordinal integer NOT NULL
);
CREATE UNIQUE INDEX fx_rate_known
    ON fx_rate (environment_id, base, counter, source, observed_at, rate);
CREATE INDEX fx_rate_commit ON fx_rate (commit_id);
