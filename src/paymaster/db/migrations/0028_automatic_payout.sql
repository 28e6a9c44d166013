-- applies-to: cell
-- What is paid out without being asked for each time: a choice for each earner and currency, and
-- the times it was carried out. Amounts are minor units of `asset`.

CREATE TABLE automatic_payout (
    user_id bigint NOT NULL,
    asset text NOT NULL,
    mode text NOT NULL CHECK (mode IN ('off', 'threshold', 'schedule')),
    destination_id bigint,
    minimum bigint NOT NULL CHECK (minimum > 0),
    at_most bigint CHECK (at_most >= minimum),
    every text CHECK (every IN ('day', 'week', 'month')),
    on_day integer,
    own boolean NOT NULL,
    proven boolean NOT NULL,
    due_at timestamptz,
    last_at timestamptz,
    last_slug text,
    last_detail text,
    last_withdrawal_id bigint,
    changed_at timestamptz NOT NULL,
    version integer NOT NULL,
    PRIMARY KEY (user_id, asset),
    CHECK ((mode = 'schedule') = (every IS NOT NULL)),
    CHECK ((mode = 'off') = (due_at IS NULL))
);
CREATE INDEX automatic_payout_due ON automatic_payout (due_at, user_id, asset)
    WHERE mode = 'schedule';
CREATE INDEX automatic_payout_threshold ON automatic_payout (user_id, asset)
    WHERE mode = 'threshold';

-- Once for each earner, currency and period, for ever: the key is `auto:<user>:<currency>:<period>`.
CREATE TABLE automatic_run (
    key text PRIMARY KEY,
    withdrawal_id bigint NOT NULL UNIQUE,
    commit_id bigint NOT NULL,
    ordinal integer NOT NULL
);
CREATE INDEX automatic_run_commit ON automatic_run (commit_id);
