-- applies-to: cell
-- What keeps a growing history quick to read, and what stays of months that were archived.

-- Every 64th posting of an account: "as of" looks for a moment among these, then walks less than 64
-- postings. A missing mark costs time, nothing else.
CREATE TABLE account_mark (
    account_id bigint NOT NULL,
    number bigint NOT NULL,
    posting_id bigint NOT NULL,
    PRIMARY KEY (account_id, number)
);

-- Legs that took effect before their account's previous posting was recorded: few, because only
-- entries dated by somebody else (a bank's booking day) do. `amount` is signed as the account sees it.
CREATE TABLE late_leg (
    account_id bigint NOT NULL,
    number bigint NOT NULL,
    posting_id bigint NOT NULL,
    effective_at timestamptz NOT NULL,
    amount bigint NOT NULL,
    PRIMARY KEY (account_id, number)
);

-- Both are written in the order of postings and are found by them when they are sealed or archived.
CREATE INDEX account_mark_posting ON account_mark (posting_id);

CREATE INDEX late_leg_posting ON late_leg (posting_id);

-- Months that left for a file: the postings with ids in [low_id, high_id) and the entries they
-- belong to. `recorded_through` is the last moment at which any of them was recorded; balances
-- before it are not known here any more. `chain_sum` and `link_sum` stand in for them in the proof.
CREATE TABLE archive (
    month date PRIMARY KEY,
    low_id bigint NOT NULL,
    high_id bigint NOT NULL,
    entries bigint NOT NULL,
    postings bigint NOT NULL,
    last_seq bigint NOT NULL,
    recorded_through timestamptz NOT NULL,
    chain_sum numeric NOT NULL,
    link_sum numeric NOT NULL,
    file text NOT NULL,
    sha256 bytea NOT NULL,
    actor text NOT NULL,
    archived_at timestamptz NOT NULL,
    commit_id bigint NOT NULL,
    ordinal integer NOT NULL,
    CHECK (low_id < high_id)
);

-- For books that were begun earlier.
INSERT INTO account_mark (account_id, number, posting_id)
SELECT source_id, source_number, id FROM posting WHERE source_number % 64 = 0
UNION ALL
SELECT destination_id, destination_number, id FROM posting WHERE destination_number % 64 = 0;

INSERT INTO late_leg (account_id, number, posting_id, effective_at, amount)
SELECT l.account_id, l.number, l.id, e.effective_at, l.amount
FROM (
    SELECT id, entry_id, source_id AS account_id, source_number AS number, -amount AS amount,
        source_previous AS previous_id FROM posting
    UNION ALL
    SELECT id, entry_id, destination_id, destination_number, amount, destination_previous
    FROM posting
) l
JOIN entry e ON e.id = l.entry_id
JOIN posting p ON p.id = l.previous_id
JOIN entry pe ON pe.id = p.entry_id
JOIN commit pc ON pc.id = pe.commit_id
WHERE e.effective_at < pc.recorded_at;

-- A row an account and day was one random key a leg: a second index on postings by another name.
DROP TABLE account_day;

ALTER TABLE account DROP COLUMN last_day;
