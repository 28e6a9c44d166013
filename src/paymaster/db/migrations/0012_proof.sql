-- applies-to: cell
-- How far the books were proven. `at_seq` is the sum over the postings up to there with which the
-- next proof goes on; only sums that came out are written here.
CREATE TABLE proof (
    seq bigint PRIMARY KEY,
    at_seq numeric NOT NULL,
    postings bigint NOT NULL,
    proven_at timestamptz NOT NULL
);
