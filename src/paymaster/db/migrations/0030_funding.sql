-- applies-to: cell
-- What is on its way out through an account, without looking at every order.
CREATE INDEX attempt_under_way ON attempt (rail_account_id)
    WHERE state IN ('sending', 'unknown', 'sent');

-- Who may let payments out of an account while its float is watched: the holder of the lease in the
-- treasury cell raises its token in every cell before it counts what there is.
CREATE TABLE float_fence (
    rail_account_id bigint PRIMARY KEY,
    token bigint NOT NULL
);

-- What left through an account on a business day, by the orders made in this cell; for forecasts.
CREATE TABLE rail_outflow (
    rail_account_id bigint NOT NULL,
    day date NOT NULL,
    asset text NOT NULL,
    amount bigint NOT NULL,
    payments bigint NOT NULL,
    PRIMARY KEY (rail_account_id, day, asset)
);
CREATE INDEX rail_outflow_day ON rail_outflow (day);

-- Whether users were owed more than there was when it was looked at last; in the treasury cell.
CREATE TABLE funding_state (
    asset text PRIMARY KEY,
    short boolean NOT NULL,
    changed_at timestamptz NOT NULL
);
