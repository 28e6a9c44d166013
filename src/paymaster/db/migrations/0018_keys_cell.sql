-- applies-to: cell
-- How far the wrapping anew of a table has come. `key_id` is the key it works towards, known since
-- `since`; `after_key` is the row reached in the pass that began, or may begin, at `started_at`. Done is
-- a table of which a whole pass found nothing to do.
CREATE TABLE rewrap (
    name text PRIMARY KEY,
    key_id text NOT NULL,
    since timestamptz NOT NULL,
    started_at timestamptz NOT NULL,
    after_key text[],
    changed bigint NOT NULL,
    missed bigint NOT NULL,
    done_at timestamptz
);

-- The key of a sealed value whose row never changes, wrapped anew: it stands in for the wrapped key
-- in the value itself, which the hash chain covers as it was written.
CREATE TABLE sealed_key (
    name text NOT NULL,
    row_id bigint NOT NULL,
    wrapped bytea NOT NULL,
    kek_id text NOT NULL,
    PRIMARY KEY (name, row_id)
);

-- A day whose books are closed and whose totals are not signed yet: who signs may be far away, and is
-- never waited for inside a transaction. One at a time.
CREATE TABLE day_draft (
    id smallint PRIMARY KEY CHECK (id = 1),
    day date NOT NULL,
    closed_seq bigint NOT NULL,
    totals jsonb NOT NULL,
    actor text NOT NULL,
    made_at timestamptz NOT NULL
);
