-- applies-to: control
-- Persons of the staff: who they are, what they may do where, how they log in, and which acts need
-- a second one of them. What they did is in the audit trail.

-- A person belongs to a tenant: two persons of one tenant never share an address or a login.
CREATE TABLE person (
    id bigint PRIMARY KEY,
    tenant text NOT NULL,
    email text NOT NULL CHECK (email = lower(email) AND length(email) BETWEEN 3 AND 254),
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    state text NOT NULL CHECK (state IN ('active', 'disabled')),
    version integer NOT NULL,
    created_at timestamptz NOT NULL,
    UNIQUE (tenant, email)
);

-- By which account at which issuer a person has logged in. Bound once, by the invited address; from
-- then on only the subject counts, because addresses are given to other people.
CREATE TABLE person_identity (
    tenant text NOT NULL,
    issuer text NOT NULL,
    subject text NOT NULL CHECK (length(subject) BETWEEN 1 AND 255),
    person_id bigint NOT NULL REFERENCES person,
    bound_at timestamptz NOT NULL,
    last_login_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, issuer, subject),
    UNIQUE (person_id, issuer)
);

CREATE TABLE person_role (
    environment_id bigint NOT NULL REFERENCES environment,
    person_id bigint NOT NULL REFERENCES person,
    role text NOT NULL CHECK (role IN ('support', 'finance', 'risk', 'admin', 'auditor')),
    given_at timestamptz NOT NULL,
    PRIMARY KEY (environment_id, person_id)
);

CREATE INDEX person_role_person ON person_role (person_id);

-- Where persons log in: of one tenant, or of the whole installation (no tenant). `group_roles` maps
-- groups, named by the claim `groups_claim`, to roles; without it roles are given by hand.
CREATE TABLE identity_provider (
    id bigint PRIMARY KEY,
    tenant text,
    issuer text NOT NULL,
    client_id text NOT NULL,
    secret_name text,
    email_domains text[] NOT NULL,
    groups_claim text,
    group_roles jsonb NOT NULL,
    state text NOT NULL CHECK (state IN ('active', 'disabled')),
    version integer NOT NULL,
    created_at timestamptz NOT NULL,
    CHECK (groups_claim IS NOT NULL OR group_roles = '{}')
);

CREATE UNIQUE INDEX identity_provider_client
    ON identity_provider (coalesce(tenant, ''), issuer, client_id);

-- Logins whose answer came: each is taken once. Rows go after a day.
CREATE TABLE login_used (
    state_hash bytea PRIMARY KEY,
    used_at timestamptz NOT NULL
);

CREATE INDEX login_used_at ON login_used (used_at);

-- `hash` is the SHA-256 of what the browser holds. Rows go thirty days after their end.
CREATE TABLE staff_session (
    id bigint PRIMARY KEY,
    hash bytea NOT NULL UNIQUE,
    person_id bigint NOT NULL REFERENCES person,
    environment_id bigint NOT NULL REFERENCES environment,
    origin text,
    started_at timestamptz NOT NULL,
    used_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    ended_at timestamptz,
    ended_why text
);

CREATE INDEX staff_session_person ON staff_session (person_id) WHERE ended_at IS NULL;

CREATE INDEX staff_session_expires ON staff_session (expires_at);

-- More than a person's role, for a while and loudly.
CREATE TABLE break_glass (
    id bigint PRIMARY KEY,
    environment_id bigint NOT NULL REFERENCES environment,
    person_id bigint NOT NULL REFERENCES person,
    role text NOT NULL CHECK (role IN ('support', 'finance', 'risk', 'admin', 'auditor')),
    reason text NOT NULL,
    started_by text NOT NULL,
    started_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    ended_at timestamptz,
    CHECK (ends_at > started_at)
);

CREATE INDEX break_glass_open ON break_glass (person_id, environment_id) WHERE ended_at IS NULL;

-- Above how much an act needs a second person. No row: never.
CREATE TABLE four_eyes_limit (
    environment_id bigint NOT NULL REFERENCES environment,
    act text NOT NULL,
    currency text NOT NULL,
    minor bigint NOT NULL CHECK (minor >= 0),
    version integer NOT NULL,
    changed_at timestamptz NOT NULL,
    PRIMARY KEY (environment_id, act, currency)
);

-- Acts on the directory that wait for a second person; those on money are in the cells.
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
