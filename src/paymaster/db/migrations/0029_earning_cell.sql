-- applies-to: cell
-- Maturity by policy, reserve, partial and early reversals, debts written off.

-- Policies as they stood, beside the rewards that were made under them.
CREATE TABLE applied_policy (
    id bigint PRIMARY KEY,
    source text NOT NULL,
    version integer NOT NULL,
    terms jsonb NOT NULL,
    commit_id bigint NOT NULL,
    ordinal integer NOT NULL
);

CREATE INDEX applied_policy_commit ON applied_policy (commit_id);

-- How long after which moment of a user's life here the first payout may be asked for: one row, a
-- copy of what the default policy says.
CREATE TABLE payout_wait (
    id smallint PRIMARY KEY CHECK (id = 1),
    seconds bigint NOT NULL CHECK (seconds >= 0),
    since text NOT NULL CHECK (since IN ('registration', 'first_earning')),
    version integer NOT NULL
);

-- `taken` is what of the amount was taken back; `waits_for` says why a reward matures later than
-- its policy promised, `exempt` that a person let it mature all the same.
ALTER TABLE reward ADD COLUMN policy_id bigint,
    ADD COLUMN taken bigint NOT NULL DEFAULT 0,
    ADD COLUMN waits_for text,
    ADD COLUMN exempt boolean NOT NULL DEFAULT false;

-- An event was taken back that counts towards a pattern not earned yet: it never will be.
ALTER TABLE task_state ADD COLUMN barred boolean NOT NULL DEFAULT false;

-- One row a reversal. `from_*` and `owed` are what was moved from where; `bearer` is who bears what
-- of the debt is written off.
CREATE TABLE reward_reversal (
    reward_id bigint NOT NULL,
    number integer NOT NULL,
    reference text,
    user_id bigint NOT NULL,
    campaign_id bigint NOT NULL,
    asset text NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    from_vesting bigint NOT NULL CHECK (from_vesting >= 0),
    from_available bigint NOT NULL CHECK (from_available >= 0),
    from_reserve bigint NOT NULL CHECK (from_reserve >= 0),
    owed bigint NOT NULL CHECK (owed >= 0),
    bearer text NOT NULL,
    entry_id bigint NOT NULL,
    reason text NOT NULL,
    actor text NOT NULL,
    reversed_at timestamptz NOT NULL,
    commit_id bigint NOT NULL,
    ordinal integer NOT NULL,
    PRIMARY KEY (reward_id, number)
);

CREATE UNIQUE INDEX reward_reversal_reference ON reward_reversal (reward_id, reference)
    WHERE reference IS NOT NULL;

CREATE INDEX reward_reversal_owed ON reward_reversal (user_id, asset, reversed_at) WHERE owed > 0;

CREATE INDEX reward_reversal_entry ON reward_reversal (entry_id);

CREATE INDEX reward_reversal_commit ON reward_reversal (commit_id);

-- Reversals whose reward is not there: of an event that never came (then the event itself is kept
-- as reversed, and can never earn), or of a part of a reward still to be made.
CREATE TABLE early_reversal (
    source text NOT NULL,
    event_id text NOT NULL,
    reference text NOT NULL,
    user_id bigint NOT NULL,
    amount bigint CHECK (amount > 0),
    asset text,
    reason text NOT NULL,
    actor text NOT NULL,
    received_at timestamptz NOT NULL,
    due_at timestamptz,
    met_at timestamptz,
    trace_id text NOT NULL,
    PRIMARY KEY (source, event_id, reference),
    CHECK ((amount IS NULL) = (asset IS NULL))
);

CREATE INDEX early_reversal_due ON early_reversal (due_at) WHERE due_at IS NOT NULL;

CREATE INDEX early_reversal_open ON early_reversal (source, event_id, reference)
    WHERE met_at IS NULL;

-- Part of a matured reward that stays aside until its date. The balance of a user's reserve account
-- is the sum of `remaining`.
CREATE TABLE reserve (
    reward_id bigint PRIMARY KEY,
    user_id bigint NOT NULL,
    asset text NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    remaining bigint NOT NULL CHECK (remaining BETWEEN 0 AND amount),
    releases_at timestamptz NOT NULL,
    due_at timestamptz,
    entry_reserve bigint NOT NULL,
    entry_release bigint NOT NULL,
    requested bigint NOT NULL CHECK (requested >= amount),
    released bigint NOT NULL CHECK (released BETWEEN 0 AND amount),
    created_at timestamptz NOT NULL,
    released_at timestamptz,
    version integer NOT NULL,
    CHECK ((due_at IS NULL) = (remaining = 0))
);

CREATE INDEX reserve_due ON reserve (due_at, reward_id) WHERE due_at IS NOT NULL;

CREATE INDEX reserve_user ON reserve (user_id, releases_at, reward_id) WHERE remaining > 0;

-- What was credited and taken back, by day: of a user, and of all rewards under a policy's source.
CREATE TABLE chargeback_day (
    scope text NOT NULL CHECK (scope IN ('user', 'source')),
    subject text NOT NULL,
    asset text NOT NULL,
    day date NOT NULL,
    rewards bigint NOT NULL,
    credited numeric NOT NULL,
    reversed numeric NOT NULL,
    PRIMARY KEY (scope, subject, asset, day)
);

-- Debts given up, a row for each who bears a part: a campaign, or nobody but the house.
-- `from_budget` is what the campaign's budget here reached for.
CREATE TABLE write_off (
    id bigint NOT NULL,
    place integer NOT NULL,
    user_id bigint NOT NULL,
    asset text NOT NULL,
    campaign_id bigint,
    home_cell integer,
    amount bigint NOT NULL CHECK (amount > 0),
    from_budget bigint NOT NULL CHECK (from_budget BETWEEN 0 AND amount),
    state text NOT NULL CHECK (state IN ('written_off', 'undone')),
    entry_id bigint NOT NULL,
    entry_undo bigint NOT NULL,
    reason text NOT NULL,
    actor text NOT NULL,
    written_off_at timestamptz NOT NULL,
    undone_reason text,
    undone_by text,
    undone_at timestamptz,
    version integer NOT NULL,
    PRIMARY KEY (id, place),
    CHECK (campaign_id IS NOT NULL OR from_budget = 0),
    CHECK ((state = 'undone') = (undone_at IS NOT NULL))
);

CREATE INDEX write_off_user ON write_off (user_id, id);
