"""`prove` for money that came in: every credit against its charge, what is set aside and unbooked.

Page by page, each on a snapshot of its own; the sums are over charges and refunds of few accounts.
"""

from __future__ import annotations

from typing import LiteralString

from paymaster.db.snapshots import OneSnapshot, Snapshots
from paymaster.db.tx import CellRead
from paymaster.ledger.proof import POSTINGS_OF_E, Difference, Pages, Told, silent, walk
from paymaster.ledger.proof_pages import differences

LIMIT = 100
PAGE = 2_000

_BOUND: LiteralString = (
    "SELECT id FROM charge WHERE id > %(low)s ORDER BY id OFFSET %(size)s LIMIT 1"
)

# A charge is paid exactly when its own entry stands in the books, over its amount and for its
# target. An entry that is gone into an archive says nothing any more.
_BY_CHARGE: dict[str, LiteralString] = {
    "charge-credit": f"""
        SELECT c.key, c.state || ' ' || c.amount, coalesce(b.amount, 0) || ' credited'
        FROM charge c LEFT JOIN LATERAL (
            SELECT sum(p.amount) AS amount FROM (
                SELECT id, commit_id, first_posting_id, last_posting_id FROM entry
                WHERE id = c.entry_id LIMIT 1
            ) AS e CROSS JOIN LATERAL (
                SELECT entry_id, source_id, destination_id, amount FROM posting
                WHERE {POSTINGS_OF_E} OFFSET 0
            ) AS p JOIN account s ON s.id = p.source_id JOIN account d ON d.id = p.destination_id
            WHERE s.kind = 'incoming' AND s.owner_id = c.rail_account_id AND d.asset = c.asset
                AND d.kind = CASE c.purpose WHEN 'campaign' THEN 'budget' ELSE 'available' END
                AND d.owner_id = c.target_id
        ) AS b ON true
        WHERE c.id > %(low)s AND c.id <= %(high)s
            AND CASE WHEN c.state = 'paid' THEN c.amount ELSE 0 END <> coalesce(b.amount, 0)
            AND NOT (c.state = 'paid' AND b.amount IS NULL AND coalesce(
                c.ended_at <= (SELECT max(recorded_through) FROM archive), false)) LIMIT 100
    """,
    "charge-refunded": """
        SELECT c.key, c.refunded, coalesce(r.amount, 0)
        FROM charge c LEFT JOIN LATERAL (
            SELECT sum(amount) AS amount FROM charge_refund
            WHERE charge_id = c.id AND state <> 'failed'
        ) AS r ON true
        WHERE c.id > %(low)s AND c.id <= %(high)s AND c.refunded <> coalesce(r.amount, 0) LIMIT 100
    """,
    "charge-booking": """
        SELECT key, state, 'booked by ' || booked_line FROM charge
        WHERE id > %(low)s AND id <= %(high)s AND booked_line IS NOT NULL AND state <> 'paid'
        LIMIT 100
    """,
}

_TOTALS: dict[str, LiteralString] = {
    "incoming": """
        SELECT 'rail account ' || coalesce(a.owner_id, f.owner_id),
            coalesce(a.balance, 0) || ' ' || coalesce(a.asset, f.asset), coalesce(f.amount, 0)
        FROM (SELECT * FROM account WHERE kind = 'incoming') AS a FULL JOIN (
            SELECT owner_id, asset, sum(amount) AS amount FROM (
                SELECT rail_account_id AS owner_id, asset,
                    CASE WHEN booked_line IS NULL THEN -amount ELSE 0 END AS amount
                FROM charge WHERE state = 'paid'
                UNION ALL
                SELECT rail_account_id, asset,
                    CASE WHEN booked_line IS NULL THEN amount ELSE 0 END
                FROM charge_refund WHERE state = 'done'
            ) AS fact GROUP BY 1, 2
        ) AS f ON f.owner_id = a.owner_id AND f.asset = a.asset
        WHERE coalesce(a.balance, 0) <> coalesce(f.amount, 0)
    """,
    "refunds": """
        SELECT 'rail account ' || coalesce(a.owner_id, f.owner_id),
            coalesce(a.balance, 0) || ' ' || coalesce(a.asset, f.asset), coalesce(f.amount, 0)
        FROM (SELECT * FROM account WHERE kind = 'refunds') AS a FULL JOIN (
            SELECT rail_account_id AS owner_id, asset, sum(amount) AS amount FROM charge_refund
            WHERE state NOT IN ('done', 'failed') GROUP BY 1, 2
        ) AS f ON f.owner_id = a.owner_id AND f.asset = a.asset
        WHERE coalesce(a.balance, 0) <> coalesce(f.amount, 0)
    """,
}

CHECKS = (*_BY_CHARGE, *_TOTALS)
"""The names of all checks."""


async def prove(tx: CellRead) -> list[Difference]:
    """Every check, on the snapshot of `tx`; at most 100 differences each."""
    return await prove_in(OneSnapshot(tx))


async def prove_in(snapshots: Snapshots, told: Told = silent) -> list[Difference]:
    """Every check, page by page; at most 100 differences each."""
    found = await walk(snapshots, Pages("charges", _BOUND, _BY_CHARGE, PAGE), told)
    for check, statement in _TOTALS.items():
        rows = await snapshots.read(lambda tx, one=statement: tx.tuples(one))
        found += differences(check, rows[:LIMIT])
    return found
