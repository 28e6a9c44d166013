"""The SQL by which the books are summed up for the proof; see `proof_sum` for what it means.

A *step* is a point in an account's history: account, number, posting, balance and currency. Each
side of a posting arrives at one step and leaves the one before; the account's row is the end.
`_mark` turns a step into 62 bits. The hash functions are PostgreSQL's own for hash partitions, so
they stay the same from version to version; each number goes in by its two halves, because the
function by itself would fold them together.
"""

from __future__ import annotations

from typing import LiteralString

from paymaster.ledger.proof_pages import POSTINGS_OF_E

SEED: LiteralString = "5912417307823146371"
"""Of all marks; stored sums are only worth something as long as it stays the same."""

LAST_BUCKET: LiteralString = "16383"
"""Buckets into which steps are sorted to name what is wrong, less one; a mask of bits."""

KNOWN_MARK = -1721964504650940110
"""What `GUARD` must select."""


def _mixed(value: LiteralString, seed: LiteralString) -> LiteralString:
    return f"hashint8extended({value}, hashint8extended(({value}) >> 32, {seed}))"


def _mark(
    account: LiteralString,
    number: LiteralString,
    posting: LiteralString,
    balance: LiteralString,
    asset: LiteralString,
) -> LiteralString:
    whose = _mixed(account, f"hashtextextended({asset}, {SEED})")
    return f"({_mixed(balance, _mixed(posting, f'hashint8extended({number}, {whose})'))} >> 2)"


GUARD: LiteralString = "SELECT " + _mark("12::bigint", "34", "56::bigint", "78::bigint", "'EUR'")
"""One mark, to see that this server makes the same as the others."""


def _link_mark(entry: LiteralString, posting: LiteralString) -> LiteralString:
    return f"({_mixed(posting, _mixed(entry, SEED))} >> 2)"


_SOURCE: LiteralString = (
    _mark("source_id", "source_number", "id", "source_balance", "asset")
    + " - "
    + _mark(
        "source_id",
        "source_number - 1",
        "coalesce(source_previous, 0)",
        "source_balance + amount",
        "asset",
    )
)
_DESTINATION: LiteralString = (
    _mark("destination_id", "destination_number", "id", "destination_balance", "asset")
    + " - "
    + _mark(
        "destination_id",
        "destination_number - 1",
        "coalesce(destination_previous, 0)",
        "destination_balance - amount",
        "asset",
    )
)
_STEP_MARK: LiteralString = _mark(
    "step.account_id", "step.number", "step.id", "step.balance", "step.asset"
)
_BUCKET: LiteralString = (
    f"(hashint8extended(step.number, {_mixed('step.account_id', SEED)}) & {LAST_BUCKET})"
)
_COLUMNS: LiteralString = (
    "id, entry_id, source_id, destination_id, amount, asset, source_previous, source_number,"
    " source_balance, destination_previous, destination_number, destination_balance"
)

ACCOUNT_BOUND: LiteralString = (
    "SELECT id FROM account WHERE id > %(low)s ORDER BY id OFFSET %(size)s LIMIT 1"
)
POSTING_BOUND: LiteralString = (
    "SELECT id FROM posting WHERE id > %(low)s ORDER BY id OFFSET %(size)s LIMIT 1"
)
ENTRY_BOUND: LiteralString = (
    "SELECT id FROM entry WHERE id > %(low)s ORDER BY id OFFSET %(size)s LIMIT 1"
)
HOLD_BOUND: LiteralString = (
    "SELECT id FROM hold WHERE id > %(low)s ORDER BY id OFFSET %(size)s LIMIT 1"
)

# ---------------------------------------------------------------- the whole, as sums

ACCOUNT_SUMS: LiteralString = f"""
    SELECT asset, sum({_mark("id", "postings", "coalesce(last_posting_id, 0)", "balance", "asset")})
            - sum({_mark("id", "0", "0", "0", "asset")}), sum(balance), count(*)
    FROM account WHERE id > %(low)s AND id <= %(high)s GROUP BY asset
"""

POSTING_SUMS: LiteralString = f"""
    SELECT coalesce(sum({_SOURCE}), 0) + coalesce(sum({_DESTINATION}), 0),
        coalesce(sum({_link_mark("entry_id", "id")}), 0), count(*)
    FROM posting WHERE id > %(low)s AND id <= %(high)s
"""
"""Of the steps, of the entries that postings name; and how many postings."""

# An entry of one or two postings names them all; of others they are looked up. Where their count is
# not the entry's, the sum is made wrong on purpose.
_ENTERED: LiteralString = f"""
    SELECT coalesce(sum({_link_mark("id", "first_posting_id")}), 0)
        + coalesce(sum({_link_mark("id", "last_posting_id")}) FILTER (WHERE postings = 2), 0)
        + count(*) FILTER (WHERE postings = 1 AND first_posting_id <> last_posting_id)
        + (
            SELECT coalesce(sum(p.links + (e.postings - p.n)), 0)
            FROM part AS e CROSS JOIN LATERAL (
                SELECT count(*) AS n, coalesce(sum({_link_mark("entry_id", "id")}), 0)
                    - coalesce({_link_mark("e.id", "e.first_posting_id")}, 0) AS links
                FROM posting WHERE {POSTINGS_OF_E}
            ) AS p
            WHERE e.postings > 2 OR (e.postings > 0 AND e.first_posting_id IS NULL)
                OR (e.postings <= 0 AND e.first_posting_id IS NOT NULL)
        ) AS links, count(*) AS entries
    FROM part
"""

ENTRY_SUMS: LiteralString = f"""
    WITH part AS (
        SELECT id, commit_id, postings, first_posting_id, last_posting_id FROM entry
        WHERE id > %(low)s AND id <= %(high)s
    )
    {_ENTERED}
"""

RANGE_SUMS: LiteralString = f"""
    WITH part AS (
        SELECT id, commit_id, postings, first_posting_id, last_posting_id FROM entry
        WHERE coalesce(first_posting_id, commit_id) >= %(low)s
            AND coalesce(first_posting_id, commit_id) < %(high)s
    ), entered AS ({_ENTERED})
    SELECT coalesce(sum({_SOURCE}), 0) + coalesce(sum({_DESTINATION}), 0),
        coalesce(sum({_link_mark("entry_id", "id")}), 0) - (SELECT links FROM entered)
    FROM posting WHERE id >= %(low)s AND id < %(high)s
"""
"""Of a month that leaves for an archive: its steps, its named entries less its entries."""

ARCHIVED: LiteralString = "SELECT low_id, high_id, chain_sum, link_sum FROM archive ORDER BY low_id"

SPAN_BOUND: LiteralString = """
    SELECT coalesce(
        (SELECT max(last_seq) FROM commit WHERE last_seq > %(low)s
            AND last_seq <= least(%(low)s::bigint + %(size)s, %(until)s)),
        (SELECT min(last_seq) FROM commit WHERE last_seq > %(low)s AND last_seq <= %(until)s)
    )
"""

# An entry without a range of posting ids was written by an older version: its postings' ids were
# made in the same transaction as the commit's.
_NEAR: LiteralString = "503316480000"
"""Two minutes, in ids."""

_LATE: LiteralString = f"""
    WITH recent AS MATERIALIZED (
        SELECT id, last_seq AS seq FROM commit WHERE last_seq > %(low)s AND last_seq <= %(high)s
    ), late_entry AS MATERIALIZED (
        SELECT e.id, e.postings, r.seq,
            coalesce(e.first_posting_id, r.id - {_NEAR}) AS first,
            coalesce(e.last_posting_id, r.id + {_NEAR}) AS last
        FROM entry e JOIN recent r ON r.id = e.commit_id
        WHERE e.commit_id BETWEEN (SELECT min(id) FROM recent) AND (SELECT max(id) FROM recent)
    ), late AS (
        SELECT p.*, e.seq,
            (%(posting_seqs)s::bigint[])[width_bucket(p.id, %(posting_ids)s::bigint[]) + 1] AS seen
        FROM late_entry e CROSS JOIN LATERAL (
            SELECT {_COLUMNS} FROM posting
            WHERE id BETWEEN e.first AND e.last AND entry_id = e.id OFFSET 0
        ) AS p
    )
"""
_SOURCE_AT: LiteralString = (
    "(%(account_seqs)s::bigint[])[width_bucket(source_id, %(account_ids)s::bigint[]) + 1]"
)
_DESTINATION_AT: LiteralString = (
    "(%(account_seqs)s::bigint[])[width_bucket(destination_id, %(account_ids)s::bigint[]) + 1]"
)

LATE_SUMS: LiteralString = (
    _LATE
    + f"""
    SELECT asset,
        coalesce(sum({_SOURCE}) FILTER (WHERE seq <= {_SOURCE_AT}), 0)
            + coalesce(sum({_DESTINATION}) FILTER (WHERE seq <= {_DESTINATION_AT}), 0),
        coalesce(sum({_SOURCE}) FILTER (WHERE seq <= seen), 0)
            + coalesce(sum({_DESTINATION}) FILTER (WHERE seq <= seen), 0),
        coalesce(sum(amount) FILTER (WHERE seq <= {_DESTINATION_AT}), 0)
            - coalesce(sum(amount) FILTER (WHERE seq <= {_SOURCE_AT}), 0),
        coalesce(sum({_link_mark("entry_id", "id")}) FILTER (WHERE seq <= seen), 0),
        count(*)
    FROM late GROUP BY asset
"""
)
"""By currency: the steps that the accounts' rows show, those that the pass over the postings saw,
the money that the rows show moved, the entries that the pass saw named; how many postings."""

LATE_ENTRY_SUMS: LiteralString = (
    _LATE
    + f"""
    SELECT coalesce(sum({_link_mark("entry_id", "id")}) FILTER (WHERE seq <=
        (%(entry_seqs)s::bigint[])[width_bucket(entry_id, %(entry_ids)s::bigint[]) + 1]), 0)
    FROM late
"""
)

LATE_COUNTS: LiteralString = (
    _LATE
    + """
    SELECT e.id, e.postings, coalesce(p.n, 0) FROM late_entry e
        LEFT JOIN (SELECT entry_id, count(*) AS n FROM late GROUP BY entry_id) AS p
            ON p.entry_id = e.id
    WHERE e.postings <> coalesce(p.n, 0) LIMIT 100
"""
)

# ---------------------------------------------------------------- what does not come out, by step

_ACCOUNT_STEPS: LiteralString = """
    WITH step AS (
        SELECT v.account_id, v.number, v.id, v.balance, a.asset, v.weight
        FROM account a CROSS JOIN LATERAL (VALUES
            (a.id, a.postings, coalesce(a.last_posting_id, 0), a.balance, -1),
            (a.id, 0, 0, 0, 1)
        ) AS v (account_id, number, id, balance, weight)
        WHERE a.id > %(low)s AND a.id <= %(high)s
    )
"""
_VALUES: LiteralString = """
    (p.source_id, p.source_number, p.id, p.source_balance, 1),
    (p.source_id, p.source_number - 1, coalesce(p.source_previous, 0),
        p.source_balance + p.amount, -1),
    (p.destination_id, p.destination_number, p.id, p.destination_balance, 1),
    (p.destination_id, p.destination_number - 1, coalesce(p.destination_previous, 0),
        p.destination_balance - p.amount, -1)
"""
_POSTING_STEPS: LiteralString = f"""
    WITH step AS (
        SELECT v.account_id, v.number, v.id, v.balance, p.asset, v.weight
        FROM posting p CROSS JOIN LATERAL (VALUES {_VALUES})
            AS v (account_id, number, id, balance, weight)
        WHERE p.id > %(low)s AND p.id <= %(high)s
    )
"""
_LATE_STEPS: LiteralString = (
    _LATE
    + f"""
    , step AS (
        SELECT v.account_id, v.number, v.id, v.balance, p.asset, v.weight * (
            (p.seq <= (%(account_seqs)s::bigint[])[
                width_bucket(v.account_id, %(account_ids)s::bigint[]) + 1])::int
            - (p.seq <= p.seen)::int
        ) AS weight
        FROM late p CROSS JOIN LATERAL (VALUES {_VALUES})
            AS v (account_id, number, id, balance, weight)
    )
"""
)
# Histories that begin in an archive have their first steps there.
_HERE: LiteralString = (
    "NOT EXISTS (SELECT FROM unnest(%(archived_from)s::bigint[], %(archived_to)s::bigint[])"
    " AS a (low, high) WHERE step.id >= a.low AND step.id < a.high)"
)
_BY_BUCKET: LiteralString = (
    f" SELECT {_BUCKET}, sum(weight * {_STEP_MARK}) FROM step WHERE weight <> 0 AND {_HERE}"
    " GROUP BY 1"
)
_BY_STEP: LiteralString = (
    " SELECT account_id, number, id, balance, asset, sum(weight) FROM step"
    f" WHERE weight <> 0 AND {_HERE} AND {_BUCKET} = ANY(%(buckets)s)"
    " GROUP BY 1, 2, 3, 4, 5 HAVING sum(weight) <> 0"
)

ACCOUNT_BUCKETS: LiteralString = _ACCOUNT_STEPS + _BY_BUCKET
POSTING_BUCKETS: LiteralString = _POSTING_STEPS + _BY_BUCKET
LATE_BUCKETS: LiteralString = _LATE_STEPS + _BY_BUCKET
ACCOUNT_UNMATCHED: LiteralString = _ACCOUNT_STEPS + _BY_STEP
POSTING_UNMATCHED: LiteralString = _POSTING_STEPS + _BY_STEP
LATE_UNMATCHED: LiteralString = _LATE_STEPS + _BY_STEP
