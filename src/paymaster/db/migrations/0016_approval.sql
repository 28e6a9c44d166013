-- applies-to: cell
-- Acts on money that wait for a second person. The act is carried out in the transaction in which
-- it is approved, so it waits in the cell of what it is about.

CREATE TABLE approval (
    id bigint PRIMARY KEY,
    environment_id bigint NOT NULL,
    act text NOT NULL,
    subject text NOT NULL,
    amount bigint,
    asset text,
    body jsonb NOT NULL,
    digest bytea NOT NULL,
    reason text NOT NULL,
    state text NOT NULL
        CHECK (state IN ('proposed', 'approved', 'refused', 'withdrawn', 'expired')),
    proposer text NOT NULL,
    proposer_id bigint NOT NULL,
    origin text,
    trace_id text NOT NULL,
    proposed_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    decider text,
    decider_id bigint,
    decided_at timestamptz,
    decision_reason text,
    CHECK ((amount IS NULL) = (asset IS NULL)),
    CHECK ((state = 'proposed') = (decided_at IS NULL)),
    CHECK (state <> 'approved' OR (decider_id IS NOT NULL AND decider_id <> proposer_id))
);

CREATE UNIQUE INDEX approval_waiting ON approval (environment_id, act, subject)
    WHERE state = 'proposed';

CREATE INDEX approval_expires ON approval (expires_at) WHERE state = 'proposed';

-- Acts of persons are few among those of keys, and asked for by person.
CREATE INDEX audit_person ON audit (actor, commit_id, ordinal) WHERE actor LIKE 'person:%';
