"""Every withdrawal's money, derived anew from its state and compared with hold and postings.

The state says what must have been posted (`machine.posted`, the same on every way into it); the
row says under which entry ids, between whose accounts, how much. What is missing, what is too
much, and what nobody asked for is a difference. None at all is the proof that every failure gave
the money back exactly once and every payment took it exactly once.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, LiteralString

from paymaster.db.snapshots import OneSnapshot, Snapshots
from paymaster.db.tx import CellRead
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.ledger.proof import POSTINGS_OF_E, Difference, Pages, Told, silent, walk
from paymaster.ledger.proof_moves import LEGAL, parameters
from paymaster.ledger.proof_pages import LAST_ID, differences
from paymaster.withdraw.fees import exchanged
from paymaster.withdraw.machine import WITHDRAWAL, holds_money, posted

PAGE = 5_000
ENTRIES_PAGE = 100_000
_NEAR = 120_000 << 22
"""Two minutes, in ids: a withdrawal and its entry ids are made together."""

_ENTRY_IDS: LiteralString = (
    "unnest(ARRAY[entry_request, entry_release, entry_paid, entry_returned])"
)
_FOUND: LiteralString = f"""
    SELECT p.entry_id, e.kind, s.kind AS source, s.owner_id AS source_owner,
        d.kind AS destination, d.owner_id AS destination_owner, p.asset, p.amount
    FROM asked a CROSS JOIN LATERAL (
        SELECT id, kind, commit_id, first_posting_id, last_posting_id FROM entry
        WHERE id = a.id AND kind IN ('request', 'release', 'paid', 'returned') LIMIT 1
    ) AS e CROSS JOIN LATERAL (
        SELECT entry_id, source_id, destination_id, asset, amount FROM posting
        WHERE {POSTINGS_OF_E} OFFSET 0
    ) AS p
        LEFT JOIN account s ON s.id = p.source_id LEFT JOIN account d ON d.id = p.destination_id
"""
_TOLD: LiteralString = (
    "d.kind || ': ' || coalesce(d.source, '?') || ' ' || coalesce(d.source_owner, 0) || ' -> '"
    " || coalesce(d.destination, '?') || ' ' || coalesce(d.destination_owner, 0) || ' '"
    " || d.amount || ' ' || d.asset"
)

_POSTINGS: LiteralString = f"""
    WITH page AS MATERIALIZED (
        SELECT * FROM withdrawal WHERE id > %(low)s AND id <= %(high)s
    ), asked AS MATERIALIZED (
        SELECT {_ENTRY_IDS} AS id FROM page
    ), due AS (
        SELECT entry_request AS entry_id, 'request' AS kind, 'available' AS source,
            user_id AS source_owner, 'held' AS destination, user_id AS destination_owner, asset,
            amount + fee AS amount
        FROM page
        UNION ALL
        SELECT entry_release, 'release', 'held', user_id, 'available', user_id, asset, amount + fee
        FROM page WHERE state = ANY(%(release)s)
        UNION ALL
        SELECT entry_paid, 'paid', 'held', user_id, 'clearing', rail_account_id, asset, amount
        FROM page WHERE state = ANY(%(paid)s) AND asset = payout_asset
        UNION ALL
        SELECT entry_paid, 'paid', 'held', user_id, 'fx', 0, asset, amount
        FROM page WHERE state = ANY(%(paid)s) AND asset <> payout_asset
        UNION ALL
        SELECT entry_paid, 'paid', 'fx', 0, 'clearing', rail_account_id, payout_asset,
            payout_amount
        FROM page WHERE state = ANY(%(paid)s) AND asset <> payout_asset
        UNION ALL
        SELECT entry_paid, 'paid', 'held', user_id, 'fee_revenue', 0, asset, fee
        FROM page WHERE state = ANY(%(paid)s) AND fee > 0
        UNION ALL
        SELECT entry_returned, 'returned', 'clearing', rail_account_id, 'available', user_id,
            asset, amount
        FROM page WHERE state = ANY(%(returned)s) AND asset = payout_asset
        UNION ALL
        SELECT entry_returned, 'returned', 'clearing', rail_account_id, 'fx', 0, payout_asset,
            payout_amount
        FROM page WHERE state = ANY(%(returned)s) AND asset <> payout_asset
        UNION ALL
        SELECT entry_returned, 'returned', 'fx', 0, 'available', user_id, asset, amount
        FROM page WHERE state = ANY(%(returned)s) AND asset <> payout_asset
        UNION ALL
        SELECT entry_returned, 'returned', 'fee_revenue', 0, 'available', user_id, asset, fee
        FROM page WHERE state = ANY(%(returned)s) AND fee_back AND fee > 0
    ), expected AS (
        SELECT * FROM due WHERE entry_id <> ALL(%(archived)s::bigint[])
    ), found AS MATERIALIZED ({_FOUND}), different AS (
        SELECT m.*, true AS missing FROM (
            SELECT * FROM expected EXCEPT ALL SELECT * FROM found
        ) AS m
        UNION ALL
        SELECT s.*, false FROM (SELECT * FROM found EXCEPT ALL SELECT * FROM expected) AS s
    )
    SELECT w.id, d.missing, {_TOLD}
    FROM different d LEFT JOIN page w
        ON d.entry_id IN (w.entry_request, w.entry_release, w.entry_paid, w.entry_returned)
    ORDER BY d.entry_id LIMIT 100
"""

# Entries that were posted while a month ran that is in an archive by now, and that are gone.
_ARCHIVED: LiteralString = """
    WITH through AS (SELECT max(recorded_through) AS moment FROM archive), page AS MATERIALIZED (
        SELECT * FROM withdrawal
        WHERE id > %(low)s AND id <= %(high)s AND requested_at <= (SELECT moment FROM through)
    ), made AS (
        SELECT entry_request AS id, requested_at AS made_at FROM page
        UNION ALL
        SELECT CASE m.recipe WHEN 'release' THEN w.entry_release WHEN 'paid' THEN w.entry_paid
            ELSE w.entry_returned END, m.moved_at
        FROM page w CROSS JOIN LATERAL (
            SELECT recipe, min(moved_at) AS moved_at FROM withdrawal_move JOIN (
                SELECT 'release', unnest(%(release)s::text[]) UNION ALL
                SELECT 'paid', unnest(%(paid)s::text[]) UNION ALL
                SELECT 'returned', unnest(%(returned)s::text[])
            ) AS r (recipe, state) ON r.state = target
            WHERE withdrawal_id = w.id GROUP BY recipe
        ) AS m
    )
    SELECT id FROM made WHERE made_at <= (SELECT moment FROM through)
        AND NOT EXISTS (SELECT FROM entry WHERE entry.id = made.id)
"""

# Of an entry that no withdrawal of its time names, all withdrawals are asked.
_STRAYS: LiteralString = f"""
    SELECT id FROM entry WHERE id > %(low)s AND id <= %(high)s
        AND kind IN ('request', 'release', 'paid', 'returned')
    EXCEPT
    SELECT {_ENTRY_IDS} FROM withdrawal WHERE id > %(from)s AND id <= %(to)s
    LIMIT 1000
"""
_NAMED: LiteralString = f"""
    SELECT {_ENTRY_IDS} FROM withdrawal WHERE entry_request = ANY(%(ids)s)
        OR entry_release = ANY(%(ids)s) OR entry_paid = ANY(%(ids)s)
        OR entry_returned = ANY(%(ids)s)
"""
_STRAY_POSTINGS: LiteralString = f"""
    WITH asked AS (SELECT unnest(%(ids)s::bigint[]) AS id), found AS ({_FOUND})
    SELECT d.entry_id, {_TOLD} FROM found d ORDER BY d.entry_id LIMIT 100
"""

_HOLDS: LiteralString = """
    SELECT w.id, h.id, coalesce(h.state || ' ' || h.remaining || ' of ' || h.amount || CASE
            WHEN a.id IS NULL THEN ', not on held ' || w.user_id || ' ' || w.asset ELSE '' END
            || coalesce(', expires ' || h.expires_at, ''), 'no hold'),
        CASE WHEN w.state = ANY(%(open)s) THEN 'open ' || w.amount + w.fee || ' of '
                || w.amount + w.fee
            WHEN w.state = ANY(%(release)s) THEN 'released 0 of ' || w.amount + w.fee
            ELSE 'captured 0 of ' || w.amount + w.fee END AS due
    FROM withdrawal w LEFT JOIN LATERAL (
        SELECT * FROM hold WHERE id = w.hold_id AND reason = 'withdrawal' LIMIT 1
    ) AS h ON true LEFT JOIN account a ON a.id = h.held_id AND a.kind = 'held'
        AND a.owner_id = w.user_id AND a.asset = w.asset
    WHERE w.id > %(low)s AND w.id <= %(high)s AND (h.id IS NULL OR a.id IS NULL
        OR h.expires_at IS NOT NULL OR h.amount <> w.amount + w.fee
        OR h.remaining <> CASE WHEN w.state = ANY(%(open)s) THEN h.amount ELSE 0 END
        OR h.state <> CASE WHEN w.state = ANY(%(open)s) THEN 'open'
            WHEN w.state = ANY(%(release)s) THEN 'released' ELSE 'captured' END)
    ORDER BY 1 LIMIT 100
"""
_STRAY_HOLDS: LiteralString = """
    SELECT NULL::bigint, h.id, h.state || ' ' || h.remaining || ' of ' || h.amount, 'no withdrawal'
    FROM hold h LEFT JOIN LATERAL (
        SELECT id FROM withdrawal WHERE hold_id = h.id LIMIT 1
    ) AS w ON true
    WHERE h.id > %(low)s AND h.id <= %(high)s AND h.reason = 'withdrawal' AND w.id IS NULL
    ORDER BY 2 LIMIT 100
"""

# A used quote against what it was used for, then what names a quote that does not name it.
_QUOTES: LiteralString = """
    SELECT q.id, coalesce(concat_ws(' ', w.id, w.user_id, w.destination_id, w.amount, w.fee,
            w.asset, w.payout_amount, w.payout_asset, w.fee_payer, w.fee_back, w.rate),
            'no withdrawal'),
        concat_ws(' ', q.withdrawal_id, q.user_id, q.destination_id, q.amount, q.fee, q.asset,
            q.payout_amount, q.payout_asset, q.fee_payer, q.fee_back, q.rate)
    FROM quote q LEFT JOIN withdrawal w ON w.quote_id = q.id
    WHERE q.id > %(low)s AND q.id <= %(high)s AND q.withdrawal_id IS NOT NULL
        AND (w.id IS NULL OR (w.id, w.user_id, w.destination_id, w.amount, w.fee, w.asset,
                w.payout_amount, w.payout_asset, w.fee_payer, w.fee_back, coalesce(w.rate, ''))
            <> (q.withdrawal_id, q.user_id, q.destination_id, q.amount, q.fee, q.asset,
                q.payout_amount, q.payout_asset, q.fee_payer, q.fee_back, coalesce(q.rate, '')))
    ORDER BY 1 LIMIT 100
"""
_UNQUOTED: LiteralString = """
    SELECT w.id, coalesce('used by ' || q.withdrawal_id, 'no such quote, or not used')
    FROM withdrawal w LEFT JOIN quote q ON q.id = w.quote_id
    WHERE w.id > %(low)s AND w.id <= %(high)s AND w.quote_id IS NOT NULL
        AND q.withdrawal_id IS DISTINCT FROM w.id
    ORDER BY 1 LIMIT 100
"""
_RATES: LiteralString = """
    SELECT id, side, amount, asset, payout_amount, payout_asset, rate FROM quote
    WHERE id > %(low)s AND id <= %(high)s AND rate IS NOT NULL ORDER BY id
"""

_MOVES: LiteralString = """
    SELECT coalesce(w.id, m.withdrawal_id), w.state || ' after ' || w.number,
        coalesce(m.last, %(initial)s) || ' after ' || coalesce(m.n, 0)
        || CASE WHEN m.unbroken THEN '' ELSE ', chain broken' END
    FROM (SELECT * FROM withdrawal WHERE id > %(low)s AND id <= %(high)s) AS w FULL JOIN (
        SELECT withdrawal_id, count(*) AS n, (array_agg(target ORDER BY number DESC))[1] AS last,
            bool_and(source = before AND number = place) AS unbroken
        FROM (
            SELECT withdrawal_id, number, source, target,
                coalesce(lag(target) OVER each, %(initial)s) AS before,
                row_number() OVER each AS place
            FROM withdrawal_move WHERE withdrawal_id > %(low)s AND withdrawal_id <= %(high)s
            WINDOW each AS (PARTITION BY withdrawal_id ORDER BY number)
        ) AS chained GROUP BY withdrawal_id
    ) AS m ON m.withdrawal_id = w.id
    WHERE w.id IS NULL OR w.number <> coalesce(m.n, 0)
        OR w.state <> coalesce(m.last, %(initial)s) OR NOT coalesce(m.unbroken, true)
    ORDER BY 1 LIMIT 100
"""
_LEGAL: LiteralString = f"""
    SELECT m.withdrawal_id, m.number || ': ' || m.source || ' ' || m.event || ' -> ' || m.target,
        'no such move'
    FROM withdrawal_move m
    WHERE m.withdrawal_id > %(low)s AND m.withdrawal_id <= %(high)s AND NOT {LEGAL} LIMIT 100
"""

CHECKS = (
    "withdrawal-postings",
    "withdrawal-hold",
    "withdrawal-moves",
    "withdrawal-legal",
    "withdrawal-quote",
)
"""The names of all checks."""


async def prove(tx: CellRead) -> list[Difference]:
    """Compare every withdrawal of the cell with the books, on the snapshot of `tx`."""
    return await prove_in(OneSnapshot(tx))


async def prove_in(snapshots: Snapshots, told: Told = silent) -> list[Difference]:
    """Compare every withdrawal of the cell with the books, page by page."""
    states = sorted(WITHDRAWAL.states())
    params: dict[str, Any] = {
        "release": [s for s in states if "release" in posted(s)],
        "paid": [s for s in states if "paid" in posted(s)],
        "returned": [s for s in states if "returned" in posted(s)],
        "open": [s for s in states if holds_money(s)],
        "initial": WITHDRAWAL.initial.value,
        **parameters(WITHDRAWAL),
    }
    found: list[Difference] = []
    for pages in (
        Pages(
            "withdrawals",
            _BOUND,
            {
                "withdrawal-postings": _postings,
                "withdrawal-hold": _holds,
                "withdrawal-moves": _moves,
                "withdrawal-legal": _legal,
                "withdrawal-quote": _unquoted,
            },
            PAGE,
            params,
        ),
        Pages(
            "entries of withdrawals",
            _ENTRY_BOUND,
            {"withdrawal-postings": _strays},
            ENTRIES_PAGE,
        ),
        Pages("holds of withdrawals", _HOLD_BOUND, {"withdrawal-hold": _stray_holds}, PAGE),
        Pages("quotes", _QUOTE_BOUND, {"withdrawal-quote": _quotes}, PAGE),
    ):
        found += await walk(snapshots, pages, told)
    return found


_BOUND: LiteralString = (
    "SELECT id FROM withdrawal WHERE id > %(low)s ORDER BY id OFFSET %(size)s LIMIT 1"
)
_ENTRY_BOUND: LiteralString = (
    "SELECT id FROM entry WHERE id > %(low)s ORDER BY id OFFSET %(size)s LIMIT 1"
)
_HOLD_BOUND: LiteralString = (
    "SELECT id FROM hold WHERE id > %(low)s ORDER BY id OFFSET %(size)s LIMIT 1"
)

_QUOTE_BOUND: LiteralString = (
    "SELECT id FROM quote WHERE id > %(low)s ORDER BY id OFFSET %(size)s LIMIT 1"
)


async def _postings(tx: CellRead, params: dict[str, Any]) -> list[Difference]:
    found: list[Difference] = []
    gone = [row[0] for row in await tx.tuples(_ARCHIVED, params)]
    for withdrawal_id, missing, posting in await tx.tuples(_POSTINGS, {**params, "archived": gone}):
        subject = text_id("wd", tx.cell, withdrawal_id)
        stored, derived = ("nothing", posting) if missing else (posting, "nothing")
        found.append(Difference("withdrawal-postings", subject, stored, derived))
    return found


async def _strays(tx: CellRead, params: dict[str, Any]) -> list[Difference]:
    """Postings of withdrawals' kinds under entries that no withdrawal names."""
    low, high = params["low"], params["high"]
    near = {"low": low, "high": high, "from": low - _NEAR, "to": min(high, LAST_ID - _NEAR) + _NEAR}
    ids = {row[0] for row in await tx.tuples(_STRAYS, near)}
    if ids:
        ids -= {row[0] for row in await tx.tuples(_NAMED, {"ids": list(ids)})}
    if not ids:
        return []
    return [
        Difference("withdrawal-postings", text_id("en", tx.cell, entry_id), posting, "nothing")
        for entry_id, posting in await tx.tuples(_STRAY_POSTINGS, {"ids": list(ids)})
    ]


async def _holds(tx: CellRead, params: dict[str, Any]) -> list[Difference]:
    return [_hold(tx, row) for row in await tx.tuples(_HOLDS, params)]


async def _stray_holds(tx: CellRead, params: dict[str, Any]) -> list[Difference]:
    return [_hold(tx, row) for row in await tx.tuples(_STRAY_HOLDS, params)]


def _hold(tx: CellRead, row: tuple[Any, ...]) -> Difference:
    withdrawal_id, hold_id, stored, derived = row
    subject = (
        text_id("ho", tx.cell, hold_id)
        if withdrawal_id is None
        else text_id("wd", tx.cell, withdrawal_id)
    )
    return Difference("withdrawal-hold", subject, stored, derived)


async def _moves(tx: CellRead, params: dict[str, Any]) -> list[Difference]:
    return [
        Difference(
            "withdrawal-moves", text_id("wd", tx.cell, row[0]), row[1] or "no withdrawal", row[2]
        )
        for row in await tx.tuples(_MOVES, params)
    ]


async def _legal(tx: CellRead, params: dict[str, Any]) -> list[Difference]:
    rows = await tx.tuples(_LEGAL, params)
    return differences(
        "withdrawal-legal", [(text_id("wd", tx.cell, row[0]), *row[1:]) for row in rows]
    )


async def _unquoted(tx: CellRead, params: dict[str, Any]) -> list[Difference]:
    return [
        Difference("withdrawal-quote", text_id("wd", tx.cell, withdrawal_id), quote, "its quote")
        for withdrawal_id, quote in await tx.tuples(_UNQUOTED, params)
    ]


async def _quotes(tx: CellRead, params: dict[str, Any]) -> list[Difference]:
    """Used quotes against their withdrawals, and each exchange against its own rate."""
    found = differences(
        "withdrawal-quote",
        [
            (text_id("qt", tx.cell, quote_id), charged, quoted)
            for quote_id, charged, quoted in await tx.tuples(_QUOTES, params)
        ],
    )
    for quote_id, side, amount, asset, payout, payout_asset, rate in await tx.tuples(
        _RATES, params
    ):
        given, gets, at = Money(amount, asset), Money(payout, payout_asset), Fraction(rate)
        if side == "amount":
            stored, derived = gets, Money(exchanged(given, at, payout_asset), payout_asset)
        else:
            stored, derived = given, Money(exchanged(gets, 1 / at, asset), asset)
        if stored != derived:
            subject = text_id("qt", tx.cell, quote_id)
            found.append(Difference("withdrawal-quote", subject, str(stored), str(derived)))
    return found
