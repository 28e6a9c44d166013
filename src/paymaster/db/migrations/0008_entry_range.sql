-- applies-to: cell
-- An entry names the range of posting ids that it was given, so that its postings are found by the
-- primary key; both are NULL for an entry that moved nothing. Entries lie in the order of commits,
-- which is all that an index of block ranges needs to find those of a commit.

ALTER TABLE entry ADD COLUMN first_posting_id bigint;

ALTER TABLE entry ADD COLUMN last_posting_id bigint;

CREATE INDEX entry_commit ON entry USING brin (commit_id) WITH (pages_per_range = 16);
