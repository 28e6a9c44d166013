-- applies-to: control
-- Which acts of an environment need a second factor. Currency '*' stands for every currency.

CREATE TABLE step_up_policy (
    environment_id bigint NOT NULL REFERENCES environment,
    purpose text NOT NULL CHECK (purpose IN ('withdrawal', 'destination')),
    currency text NOT NULL,
    above_minor bigint NOT NULL CHECK (above_minor >= 0),
    applies_to text NOT NULL CHECK (applies_to IN ('users', 'servers', 'both')),
    changed_at timestamptz NOT NULL,
    PRIMARY KEY (environment_id, purpose, currency),
    CHECK (above_minor = 0 OR (purpose = 'withdrawal' AND currency <> '*'))
);
