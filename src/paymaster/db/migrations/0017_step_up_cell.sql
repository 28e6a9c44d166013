-- applies-to: cell
-- Second factors of earners and the proofs that they give. Seeds, keys and the names that people
-- give their factors are sealed under the user's own key. Removing a factor deletes its row.

CREATE TABLE factor (
    id bigint PRIMARY KEY,
    user_id bigint NOT NULL REFERENCES app_user,
    kind text NOT NULL CHECK (kind IN ('totp', 'passkey')),
    state text NOT NULL CHECK (state IN ('pending', 'active')),
    sealed bytea NOT NULL,
    credential_hash bytea UNIQUE,
    counter bigint NOT NULL,
    challenge bytea,
    authorised boolean NOT NULL,
    expires_at timestamptz,
    created_at timestamptz NOT NULL,
    confirmed_at timestamptz,
    last_used_at timestamptz,
    version integer NOT NULL,
    CHECK ((state = 'pending') = (expires_at IS NOT NULL)),
    CHECK ((state = 'active') = (confirmed_at IS NOT NULL))
);

CREATE INDEX factor_user ON factor (user_id);

CREATE INDEX factor_pending ON factor (expires_at) WHERE state = 'pending';

CREATE TABLE recovery_code (
    user_id bigint NOT NULL REFERENCES app_user,
    hash bytea NOT NULL,
    made_at timestamptz NOT NULL,
    used_at timestamptz,
    PRIMARY KEY (user_id, hash)
);

CREATE TABLE step_up (
    id bigint PRIMARY KEY,
    user_id bigint NOT NULL REFERENCES app_user,
    purpose text NOT NULL CHECK (purpose IN ('withdrawal', 'destination', 'factor')),
    amount bigint,
    currency text,
    payee text NOT NULL,
    nonce bytea NOT NULL,
    state text NOT NULL CHECK (state IN ('open', 'verified', 'used', 'void')),
    passkeys boolean NOT NULL,
    method text CHECK (method IN ('totp', 'passkey', 'recovery_code')),
    factor_id bigint,
    used_for text,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    verified_at timestamptz,
    used_at timestamptz,
    version integer NOT NULL,
    CHECK ((purpose = 'withdrawal') = (amount IS NOT NULL)),
    CHECK ((amount IS NULL) = (currency IS NULL))
);

CREATE INDEX step_up_user ON step_up (user_id);

CREATE INDEX step_up_ended ON step_up (expires_at);

-- One row a user, locked by whatever changes the factors of that user or asks for them. Money does not
-- leave by a step-up before `cooling_until`.
CREATE TABLE factor_guard (
    user_id bigint PRIMARY KEY REFERENCES app_user,
    cooling_until timestamptz,
    version integer NOT NULL
);
