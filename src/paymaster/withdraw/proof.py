"""Every withdrawal's money, derived anew from its state and compared with hold and postings.

The state says what must have been posted (`machine.posted`, the same on every way into it); the
row says under which entry ids, between whose accounts, how much. What is missing, what is too
much, and what nobody asked for is a difference. None at all is the proof that every failure gave
the money back exactly once and every payment took it exactly once.
"""

from __future__ import annotations

from typing import LiteralString

from paymaster.db.tx import CellRead
from paymaster.kernel.ids import text_id
from paymaster.ledger.proof import Difference
from paymaster.withdraw.machine import WITHDRAWAL, holds_money, posted

LIMIT = 100
"""Differences told of each check."""

_POSTINGS: LiteralString = """
    WITH expected AS (
        SELECT id AS withdrawal_id, entry_request AS entry_id, 'request' AS kind,
            'available' AS source, user_id AS source_owner, 'held' AS destination,
            user_id AS destination_owner, asset, amount + fee AS amount
        FROM withdrawal
        UNION ALL
        SELECT id, entry_release, 'release', 'held', user_id, 'available', user_id, asset,
            amount + fee
        FROM withdrawal WHERE state = ANY(%(release)s)
        UNION ALL
        SELECT id, entry_paid, 'paid', 'held', user_id, 'clearing', rail_account_id, asset, amount
        FROM withdrawal WHERE state = ANY(%(paid)s)
        UNION ALL
        SELECT id, entry_paid, 'paid', 'held', user_id, 'fee_revenue', 0, asset, fee
        FROM withdrawal WHERE state = ANY(%(paid)s) AND fee > 0
        UNION ALL
        SELECT id, entry_returned, 'returned', 'clearing', rail_account_id, 'available', user_id,
            asset, amount
        FROM withdrawal WHERE state = ANY(%(returned)s)
    ), found AS (
        SELECT p.entry_id, e.kind, s.kind AS source, s.owner_id AS source_owner,
            d.kind AS destination, d.owner_id AS destination_owner, p.asset, p.amount
        FROM entry e JOIN posting p ON p.entry_id = e.id
            JOIN account s ON s.id = p.source_id JOIN account d ON d.id = p.destination_id
        WHERE e.kind IN ('request', 'release', 'paid', 'returned')
    ), different AS (
        SELECT entry_id, kind, source, source_owner, destination, destination_owner, asset, amount,
            1 AS missing
        FROM (
            SELECT entry_id, kind, source, source_owner, destination, destination_owner, asset,
                amount FROM expected
            EXCEPT ALL SELECT * FROM found
        ) AS m
        UNION ALL
        SELECT *, 0 FROM (
            SELECT * FROM found
            EXCEPT ALL
            SELECT entry_id, kind, source, source_owner, destination, destination_owner, asset,
                amount FROM expected
        ) AS s
    )
    SELECT w.id, d.entry_id, d.missing = 1, d.kind || ': ' || d.source || ' ' || d.source_owner
        || ' -> ' || d.destination || ' ' || coalesce(d.destination_owner, 0) || ' ' || d.amount
        || ' ' || d.asset
    FROM different d LEFT JOIN withdrawal w
        ON d.entry_id IN (w.entry_request, w.entry_release, w.entry_paid, w.entry_returned)
    ORDER BY d.entry_id LIMIT %(limit)s
"""

_HOLDS: LiteralString = """
    SELECT w.id, h.id, coalesce(h.state || ' ' || h.remaining || ' of ' || h.amount, 'no hold'),
        CASE WHEN w.id IS NULL THEN 'no withdrawal'
            WHEN w.state = ANY(%(open)s) THEN 'open ' || w.amount + w.fee || ' of '
                || w.amount + w.fee
            WHEN w.state = ANY(%(release)s) THEN 'released 0 of ' || w.amount + w.fee
            ELSE 'captured 0 of ' || w.amount + w.fee END AS due
    FROM withdrawal w FULL JOIN (SELECT * FROM hold WHERE reason = 'withdrawal') h
        ON h.id = w.hold_id
    WHERE w.id IS NULL OR h.id IS NULL OR h.amount <> w.amount + w.fee
        OR h.remaining <> CASE WHEN w.state = ANY(%(open)s) THEN h.amount ELSE 0 END
        OR h.state <> CASE WHEN w.state = ANY(%(open)s) THEN 'open'
            WHEN w.state = ANY(%(release)s) THEN 'released' ELSE 'captured' END
    ORDER BY 1, 2 LIMIT %(limit)s
"""

_MOVES: LiteralString = """
    SELECT coalesce(w.id, m.withdrawal_id), w.state || ' after ' || w.number,
        coalesce(m.last, %(initial)s) || ' after ' || coalesce(m.n, 0)
        || CASE WHEN m.unbroken THEN '' ELSE ', chain broken' END
    FROM withdrawal w FULL JOIN (
        SELECT withdrawal_id, count(*) AS n, (array_agg(target ORDER BY number DESC))[1] AS last,
            bool_and(source = before AND number = place) AS unbroken
        FROM (
            SELECT withdrawal_id, number, source, target,
                coalesce(lag(target) OVER each, %(initial)s) AS before,
                row_number() OVER each AS place
            FROM withdrawal_move
            WINDOW each AS (PARTITION BY withdrawal_id ORDER BY number)
        ) AS chained GROUP BY withdrawal_id
    ) AS m ON m.withdrawal_id = w.id
    WHERE w.id IS NULL OR w.number <> coalesce(m.n, 0)
        OR w.state <> coalesce(m.last, %(initial)s) OR NOT coalesce(m.unbroken, true)
    ORDER BY 1 LIMIT %(limit)s
"""

CHECKS = ("withdrawal-postings", "withdrawal-hold", "withdrawal-moves")
"""The names of all checks."""


async def prove(tx: CellRead) -> list[Difference]:
    """Compare every withdrawal of the cell with the books, on the snapshot of `tx`."""
    params = {
        "release": [s for s in sorted(WITHDRAWAL.states()) if "release" in posted(s)],
        "paid": [s for s in sorted(WITHDRAWAL.states()) if "paid" in posted(s)],
        "returned": [s for s in sorted(WITHDRAWAL.states()) if "returned" in posted(s)],
        "open": [s for s in sorted(WITHDRAWAL.states()) if holds_money(s)],
        "initial": WITHDRAWAL.initial.value,
        "limit": LIMIT,
    }
    found: list[Difference] = []
    for withdrawal_id, entry_id, missing, posting in await tx.tuples(_POSTINGS, params):
        subject = _subject(tx, withdrawal_id, "en", entry_id)
        stored, derived = ("nothing", posting) if missing else (posting, "nothing")
        found.append(Difference("withdrawal-postings", subject, stored, derived))
    for withdrawal_id, hold_id, stored, derived in await tx.tuples(_HOLDS, params):
        subject = _subject(tx, withdrawal_id, "ho", hold_id)
        found.append(Difference("withdrawal-hold", subject, stored, derived))
    for withdrawal_id, stored, derived in await tx.tuples(_MOVES, params):
        subject = text_id("wd", tx.cell, withdrawal_id)
        found.append(Difference("withdrawal-moves", subject, stored or "no withdrawal", derived))
    return found


def _subject(tx: CellRead, withdrawal_id: int | None, prefix: str, other_id: int | None) -> str:
    if withdrawal_id is not None:
        return text_id("wd", tx.cell, withdrawal_id)
    return text_id(prefix, tx.cell, other_id or 0)
