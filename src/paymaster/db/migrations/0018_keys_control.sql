-- applies-to: control
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
