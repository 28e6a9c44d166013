-- applies-to: control
-- How an environment pays: whether another account may pay when one is proven not to have, how many
-- orders one withdrawal may have, and what earners get who have chosen nothing themselves.

CREATE TABLE payout_policy (
    environment_id bigint PRIMARY KEY REFERENCES environment,
    failover boolean NOT NULL,
    most_orders integer NOT NULL CHECK (most_orders BETWEEN 1 AND 50),
    tries_before_leaving integer NOT NULL CHECK (tries_before_leaving >= 1),
    automatic jsonb NOT NULL,
    version integer NOT NULL,
    changed_at timestamptz NOT NULL
);
