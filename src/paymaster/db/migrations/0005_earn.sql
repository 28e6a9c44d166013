-- applies-to: cell
-- From something happened to something owed. Uniqueness here is permanent: it guards money.

-- `outcome` says what the event itself showed; whether money followed is in `reward`.
CREATE TABLE event (
    source text NOT NULL,
    event_id text NOT NULL,
    task_id bigint NOT NULL,
    user_id bigint NOT NULL,
    type text NOT NULL,
    occurred_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    digest bytea NOT NULL,
    payload jsonb NOT NULL,
    outcome text NOT NULL,
    trace_id text NOT NULL,
    PRIMARY KEY (source, event_id)
);

-- The first answer of a user to an item decides: a second try at the same gold earns nothing.
CREATE TABLE answer (
    task_id bigint NOT NULL,
    user_id bigint NOT NULL,
    item text NOT NULL,
    source text NOT NULL,
    event_id text NOT NULL,
    PRIMARY KEY (task_id, user_id, item)
);

-- Events that count towards a pattern, by time: judged again whenever one arrives, in any order.
CREATE TABLE progress (
    task_id bigint NOT NULL,
    user_id bigint NOT NULL,
    occurred_at timestamptz NOT NULL,
    source text NOT NULL,
    event_id text NOT NULL,
    step text NOT NULL,
    PRIMARY KEY (task_id, user_id, occurred_at, source, event_id)
);

CREATE TABLE dead_letter (
    id bigint PRIMARY KEY,
    source text NOT NULL,
    line integer NOT NULL,
    event_id text,
    slug text NOT NULL,
    detail text NOT NULL,
    sealed bytea NOT NULL,
    received_at timestamptz NOT NULL,
    trace_id text NOT NULL
);

-- `rewards` counts the reward rows of the user for the task; whoever holds this row's lock may add.
CREATE TABLE task_state (
    user_id bigint NOT NULL,
    task_id bigint NOT NULL,
    home_cell integer NOT NULL,
    state text NOT NULL,
    number integer NOT NULL,
    rewards integer NOT NULL,
    expires_at timestamptz,
    updated_at timestamptz NOT NULL,
    version integer NOT NULL,
    PRIMARY KEY (user_id, task_id)
);
CREATE INDEX task_state_expiry ON task_state (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE task_move (
    user_id bigint NOT NULL,
    task_id bigint NOT NULL,
    number integer NOT NULL,
    machine text NOT NULL,
    source text NOT NULL,
    event text NOT NULL,
    target text NOT NULL,
    actor text NOT NULL,
    reason text,
    commit_id bigint NOT NULL,
    ordinal integer NOT NULL,
    moved_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, task_id, number),
    FOREIGN KEY (machine, source, event, target) REFERENCES legal_move
);

-- `remaining` is what of the amount still vests. Entry ids are fixed when the row is made, so
-- that every retry posts the same entries.
CREATE TABLE reward (
    id bigint PRIMARY KEY,
    campaign_id bigint NOT NULL,
    home_cell integer NOT NULL,
    task_id bigint NOT NULL,
    user_id bigint NOT NULL,
    occurrence text NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    asset text NOT NULL,
    state text NOT NULL,
    remaining bigint NOT NULL CHECK (remaining BETWEEN 0 AND amount),
    matures_at timestamptz NOT NULL,
    entry_credit bigint NOT NULL,
    entry_mature bigint NOT NULL,
    entry_reverse bigint NOT NULL,
    source text NOT NULL,
    event_id text NOT NULL,
    due_at timestamptz,
    lease_token bigint NOT NULL,
    created_at timestamptz NOT NULL,
    trace_id text NOT NULL,
    version integer NOT NULL,
    UNIQUE (user_id, task_id, campaign_id, occurrence)
);
CREATE INDEX reward_due ON reward (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX reward_vesting ON reward (user_id, matures_at) WHERE remaining > 0;
CREATE INDEX reward_waiting ON reward (campaign_id, id) WHERE state = 'awaiting_funds';

CREATE TABLE reward_move (
    reward_id bigint NOT NULL,
    number integer NOT NULL,
    machine text NOT NULL,
    source text NOT NULL,
    event text NOT NULL,
    target text NOT NULL,
    actor text NOT NULL,
    reason text,
    commit_id bigint NOT NULL,
    ordinal integer NOT NULL,
    moved_at timestamptz NOT NULL,
    PRIMARY KEY (reward_id, number),
    FOREIGN KEY (machine, source, event, target) REFERENCES legal_move
);

-- Budget slices asked of and leased from the campaign's home cell.
CREATE TABLE slice (
    id bigint PRIMARY KEY,
    campaign_id bigint NOT NULL,
    asset text NOT NULL,
    home_cell integer NOT NULL,
    when_exhausted text NOT NULL CHECK (when_exhausted IN ('wait', 'refuse')),
    amount bigint NOT NULL CHECK (amount > 0),
    least bigint NOT NULL CHECK (least BETWEEN 1 AND amount),
    granted bigint CHECK (granted BETWEEN 0 AND amount),
    state text NOT NULL CHECK (state IN ('asked', 'granted', 'empty', 'returned')),
    asked_at timestamptz NOT NULL,
    answered_at timestamptz
);
CREATE INDEX slice_campaign ON slice (campaign_id, id);
CREATE UNIQUE INDEX slice_asked ON slice (campaign_id) WHERE state = 'asked';

-- In the home cell: which cells may hold some of a budget. `idle` until a recall was answered and
-- nothing was granted since; `grants` tells an answer from before a grant from one after it;
-- `refuse` is the campaign's policy for rewards that wait here when nothing came home.
CREATE TABLE slice_lease (
    campaign_id bigint NOT NULL,
    cell integer NOT NULL,
    asset text NOT NULL,
    grants integer NOT NULL,
    idle boolean NOT NULL,
    recalled boolean NOT NULL,
    refuse boolean NOT NULL,
    PRIMARY KEY (campaign_id, cell)
);

-- In the home cell: asks that wait for recalled slices. Less than `least` would help nobody.
CREATE TABLE slice_wait (
    cell integer NOT NULL,
    slice_id bigint NOT NULL,
    campaign_id bigint NOT NULL,
    asset text NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    least bigint NOT NULL CHECK (least BETWEEN 1 AND amount),
    asked_at timestamptz NOT NULL,
    PRIMARY KEY (cell, slice_id)
);
CREATE INDEX slice_wait_campaign ON slice_wait (campaign_id);
