-- applies-to: cell
-- The hash chain: one row a block, and what every record needs to be found by its commit.

-- A block covers whole commits, `first_seq` to `last_seq`. For each of `tables` there is the count of
-- records and the SHA-256 over the hashes of all of them; `marks` keeps eight bytes a record, so that
-- an altered one can be named. Block 0 covers what was written before the chain.
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

-- Hashes do not compress.
ALTER TABLE seal ALTER COLUMN marks SET STORAGE EXTERNAL;

-- Rows from before have commit 0; new ones must name theirs.
ALTER TABLE event ADD COLUMN commit_id bigint NOT NULL DEFAULT 0,
    ADD COLUMN ordinal integer NOT NULL DEFAULT 0;

ALTER TABLE event ALTER COLUMN commit_id DROP DEFAULT,
    ALTER COLUMN ordinal DROP DEFAULT;

ALTER TABLE dead_letter ADD COLUMN commit_id bigint NOT NULL DEFAULT 0,
    ADD COLUMN ordinal integer NOT NULL DEFAULT 0;

ALTER TABLE dead_letter ALTER COLUMN commit_id DROP DEFAULT,
    ALTER COLUMN ordinal DROP DEFAULT;

ALTER TABLE applied_rule_set ADD COLUMN commit_id bigint NOT NULL DEFAULT 0,
    ADD COLUMN ordinal integer NOT NULL DEFAULT 0;

ALTER TABLE applied_rule_set ALTER COLUMN commit_id DROP DEFAULT,
    ALTER COLUMN ordinal DROP DEFAULT;

ALTER TABLE statement ADD COLUMN commit_id bigint NOT NULL DEFAULT 0,
    ADD COLUMN ordinal integer NOT NULL DEFAULT 0;

ALTER TABLE statement ALTER COLUMN commit_id DROP DEFAULT,
    ALTER COLUMN ordinal DROP DEFAULT;

ALTER TABLE recon_run ADD COLUMN commit_id bigint NOT NULL DEFAULT 0,
    ADD COLUMN ordinal integer NOT NULL DEFAULT 0;

ALTER TABLE recon_run ALTER COLUMN commit_id DROP DEFAULT,
    ALTER COLUMN ordinal DROP DEFAULT;

-- The records of a commit. Rows come in nearly the order of commits, so these grow at their right
-- end only. An index of block ranges would cost less, but knows nothing of its newest blocks until
-- a vacuum, and those are what sealing reads.
DROP INDEX entry_commit;

CREATE INDEX entry_commit ON entry (commit_id);

CREATE INDEX event_commit ON event (commit_id);

CREATE INDEX dead_letter_commit ON dead_letter (commit_id);

CREATE INDEX task_move_commit ON task_move (commit_id);

CREATE INDEX reward_move_commit ON reward_move (commit_id);

CREATE INDEX withdrawal_move_commit ON withdrawal_move (commit_id);

CREATE INDEX verdict_commit ON verdict (commit_id);

CREATE INDEX transfer_move_commit ON transfer_move (commit_id);

CREATE INDEX statement_commit ON statement (commit_id);

CREATE INDEX recon_run_commit ON recon_run (commit_id);

-- Entries from before they named their range.
UPDATE entry SET first_posting_id = p.first_id, last_posting_id = p.last_id
FROM (SELECT entry_id, min(id) AS first_id, max(id) AS last_id FROM posting GROUP BY entry_id) p
WHERE entry.id = p.entry_id AND entry.first_posting_id IS NULL;
