-- applies-to: cell
-- How well a user is known. Evidence is named by its provider's reference, never kept here.

CREATE TABLE kyc_record (
    user_id bigint NOT NULL REFERENCES app_user,
    number integer NOT NULL,
    level text NOT NULL,
    jurisdiction text,
    provider text NOT NULL,
    evidence text NOT NULL,
    reason text,
    expires_at timestamptz,
    recorded_at timestamptz NOT NULL,
    commit_id bigint NOT NULL,
    ordinal integer NOT NULL,
    PRIMARY KEY (user_id, number),
    UNIQUE (user_id, provider, evidence, level)
);
