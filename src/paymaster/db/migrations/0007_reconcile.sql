-- applies-to: cell
-- Statements, what they match, what does not (breaks), and the closed day. Only the treasury cell
-- of an environment fills these; every cell has them, because cells are alike.

-- Money moved between two of our own accounts (bank to rail float).
CREATE TABLE transfer (
    id bigint PRIMARY KEY,
    from_account_id bigint NOT NULL,
    to_account_id bigint NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    asset text NOT NULL,
    state text NOT NULL,
    number integer NOT NULL,
    entry_out bigint NOT NULL,
    entry_in bigint NOT NULL,
    entry_back bigint NOT NULL,
    due_at timestamptz,
    lease_token bigint NOT NULL,
    created_at timestamptz NOT NULL,
    actor text NOT NULL,
    reason text NOT NULL,
    trace_id text NOT NULL,
    version integer NOT NULL
);
CREATE INDEX transfer_due ON transfer (due_at) WHERE due_at IS NOT NULL;

CREATE TABLE transfer_move (
    transfer_id bigint NOT NULL,
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
    PRIMARY KEY (transfer_id, number),
    FOREIGN KEY (machine, source, event, target) REFERENCES legal_move
);

CREATE TABLE rail_file (
    id bigint PRIMARY KEY,
    rail_account_id bigint NOT NULL,
    name text NOT NULL,
    digest bytea NOT NULL,
    sealed bytea NOT NULL,
    state text NOT NULL CHECK (state IN ('received', 'read', 'refused')),
    slug text,
    detail text,
    received_at timestamptz NOT NULL,
    UNIQUE (rail_account_id, name, digest)
);

-- A statement that says the same as an earlier one of its day and more restates it; its own lines
-- are then only the additional ones.
CREATE TABLE statement (
    id bigint PRIMARY KEY,
    rail_account_id bigint NOT NULL,
    statement_id text NOT NULL,
    day date NOT NULL,
    opening bigint NOT NULL,
    closing bigint NOT NULL,
    asset text NOT NULL,
    lines integer NOT NULL,
    digest bytea NOT NULL,
    restates_id bigint UNIQUE REFERENCES statement,
    file_id bigint NOT NULL REFERENCES rail_file,
    entry_opening bigint NOT NULL,
    received_at timestamptz NOT NULL,
    UNIQUE (rail_account_id, statement_id)
);
CREATE INDEX statement_day ON statement (rail_account_id, day, id);

-- `asked`: the payout's cell was asked about it. `posted_id`: the entry that moved the account's
-- cash for it; set on a line that is not matched, that entry went to suspense. `given_reference`
-- is a person's correction. `sealed` holds the remittance text and the other party's name.
CREATE TABLE statement_line (
    id bigint PRIMARY KEY,
    statement_id bigint NOT NULL REFERENCES statement,
    rail_account_id bigint NOT NULL,
    line_id text NOT NULL,
    kind text NOT NULL,
    amount bigint NOT NULL,
    fee bigint NOT NULL,
    asset text NOT NULL,
    booked_on date NOT NULL,
    reference text,
    given_reference text,
    code text,
    sealed bytea,
    state text NOT NULL CHECK (state IN ('open', 'asked', 'matched', 'break')),
    posted_id bigint,
    accepted boolean NOT NULL,
    matched text,
    entry_id bigint NOT NULL,
    entry_fee bigint NOT NULL,
    due_at timestamptz,
    version integer NOT NULL,
    UNIQUE (rail_account_id, line_id)
);
CREATE INDEX statement_line_due ON statement_line (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX statement_line_statement ON statement_line (statement_id, id);
CREATE INDEX statement_line_unsettled ON statement_line (rail_account_id, id)
    WHERE state <> 'matched';

CREATE TABLE recon_run (
    id bigint PRIMARY KEY,
    rail_account_id bigint NOT NULL,
    day date NOT NULL,
    asset text NOT NULL,
    opening bigint NOT NULL,
    closing bigint NOT NULL,
    ledger bigint NOT NULL,
    outstanding bigint NOT NULL,
    difference bigint NOT NULL,
    lines integer NOT NULL,
    matched integer NOT NULL,
    breaks integer NOT NULL,
    as_of_seq bigint NOT NULL,
    started_at timestamptz NOT NULL,
    actor text NOT NULL
);
CREATE INDEX recon_run_day ON recon_run (day, rail_account_id);

CREATE TABLE break (
    id bigint PRIMARY KEY,
    rail_account_id bigint NOT NULL,
    day date NOT NULL,
    kind text NOT NULL,
    subject text NOT NULL,
    expected bigint,
    found bigint,
    asset text NOT NULL,
    detail text NOT NULL,
    state text NOT NULL CHECK (state IN ('open', 'resolved')),
    owner text,
    resolution text,
    resolved_by text,
    opened_at timestamptz NOT NULL,
    resolved_at timestamptz,
    version integer NOT NULL,
    UNIQUE (kind, subject)
);
CREATE INDEX break_open ON break (day, id) WHERE state = 'open';
CREATE INDEX break_subject ON break (subject);

CREATE TABLE day_close (
    day date PRIMARY KEY,
    closed_seq bigint NOT NULL,
    totals jsonb NOT NULL,
    digest bytea NOT NULL,
    signature bytea NOT NULL,
    key_id text NOT NULL,
    actor text NOT NULL,
    commit_id bigint NOT NULL,
    ordinal integer NOT NULL,
    closed_at timestamptz NOT NULL
);
