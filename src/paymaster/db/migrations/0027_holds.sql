-- applies-to: cell
-- Orders of an authority: what is frozen under which reference, by whom, and who lifted it. A hold
-- is open while `lifted_at` is NULL; one subject may be under several. `user_id` is whose it is.

CREATE TABLE legal_hold (
    id bigint PRIMARY KEY,
    subject_kind text NOT NULL CHECK (subject_kind IN ('user', 'destination', 'withdrawal')),
    subject_id bigint NOT NULL,
    user_id bigint NOT NULL REFERENCES app_user,
    reference text NOT NULL,
    reason text NOT NULL,
    placed_by text NOT NULL,
    placed_at timestamptz NOT NULL,
    lifted_by text,
    lift_reason text,
    lifted_at timestamptz,
    trace_id text NOT NULL,
    version integer NOT NULL,
    CHECK ((lifted_at IS NULL) = (lifted_by IS NULL) AND (lifted_at IS NULL) = (lift_reason IS NULL))
);
CREATE UNIQUE INDEX legal_hold_open ON legal_hold (subject_id, reference) WHERE lifted_at IS NULL;
CREATE INDEX legal_hold_user ON legal_hold (user_id, id);
