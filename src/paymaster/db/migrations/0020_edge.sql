-- applies-to: control
-- How often somebody guessed wrong: a key, a password, a code. Kept per what was guessed at and per
-- address it came from ('' where it does not matter); gone a week after the last failure.
CREATE TABLE lockout (
    kind text NOT NULL CHECK (kind ~ '^[a-z][a-z0-9-]{0,39}$'),
    subject text NOT NULL CHECK (length(subject) <= 200),
    address text NOT NULL CHECK (length(address) <= 64),
    failures integer NOT NULL CHECK (failures >= 0),
    counted_from timestamptz NOT NULL,
    failed_at timestamptz NOT NULL,
    locks integer NOT NULL CHECK (locks >= 0),
    locked_until timestamptz,
    PRIMARY KEY (kind, subject, address)
);

CREATE INDEX lockout_failed ON lockout (failed_at);

CREATE INDEX lockout_locked ON lockout (kind, locked_until) WHERE locked_until IS NOT NULL;

-- How much one caller may still ask, in thousandths of a request, shared by all processes of the
-- API. Not logged: after a crash every caller begins with a full bucket, as one unseen for a minute
-- does.
CREATE UNLOGGED TABLE rate_bucket (
    kind text NOT NULL,
    subject text NOT NULL,
    per_minute integer NOT NULL CHECK (per_minute > 0),
    left_milli bigint NOT NULL,
    filled_at timestamptz NOT NULL,
    PRIMARY KEY (kind, subject)
) WITH (fillfactor = 50);

CREATE INDEX rate_bucket_filled ON rate_bucket (filled_at);
