"""`prove` for rewards: what is stored against what the books say; nothing found is the proof."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any, LiteralString

from paymaster.db.snapshots import OneSnapshot, Snapshots
from paymaster.db.tx import CellRead
from paymaster.earn import proof_reserve
from paymaster.earn.machine import REWARD, TASK, RewardState
from paymaster.earn.store import reversals as reversal_store
from paymaster.earn.store import rewards as reward_store
from paymaster.earn.store.reversals import ReversalRow
from paymaster.earn.store.rewards import RewardRow
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.entry import Entry
from paymaster.ledger.proof import POSTINGS_OF_E, Difference, Pages, Told, silent, walk
from paymaster.ledger.proof_moves import LEGAL, parameters
from paymaster.ledger.proof_pages import LAST_ID, Check, differences

PAGE = 2_000
ENTRIES_PAGE = 100_000
_NEAR = 120_000 << 22
"""Two minutes, in ids: a reward and its entry ids are made together."""

_USERS: LiteralString = (
    "SELECT id FROM app_user WHERE id > %(low)s ORDER BY id OFFSET %(size)s LIMIT 1"
)
_REWARDS: LiteralString = (
    "SELECT id FROM reward WHERE id > %(low)s ORDER BY id OFFSET %(size)s LIMIT 1"
)
_ENTRIES: LiteralString = (
    "SELECT id FROM entry WHERE id > %(low)s ORDER BY id OFFSET %(size)s LIMIT 1"
)

_BY_USER: dict[str, LiteralString] = {
    "earn-vesting": """
        SELECT coalesce(a.owner_id, r.user_id) || ' ' || coalesce(a.asset, r.asset),
            coalesce(a.balance, 0), coalesce(r.total, 0)
        FROM (
            SELECT owner_id, asset, balance FROM account
            WHERE kind = 'vesting' AND owner_id > %(low)s AND owner_id <= %(high)s
        ) a
        FULL JOIN (
            SELECT user_id, asset, sum(remaining) AS total FROM reward
            WHERE remaining > 0 AND user_id > %(low)s AND user_id <= %(high)s
            GROUP BY user_id, asset
        ) r ON r.user_id = a.owner_id AND r.asset = a.asset
        WHERE coalesce(a.balance, 0) <> coalesce(r.total, 0) LIMIT 100
    """,
    "earn-overspent": """
        SELECT owner_id || ' ' || asset, balance, '0 or more' FROM account
        WHERE kind = 'budget' AND balance < 0 AND owner_id > %(low)s AND owner_id <= %(high)s
        LIMIT 100
    """,
    "earn-reward-count": """
        SELECT coalesce(s.user_id, r.user_id) || '/' || coalesce(s.task_id, r.task_id),
            coalesce(s.rewards, 0), coalesce(r.n, 0)
        FROM (
            SELECT * FROM task_state WHERE user_id > %(low)s AND user_id <= %(high)s
        ) s FULL JOIN (
            SELECT user_id, task_id, count(*) AS n FROM reward
            WHERE user_id > %(low)s AND user_id <= %(high)s GROUP BY 1, 2
        ) r ON r.user_id = s.user_id AND r.task_id = s.task_id
        WHERE coalesce(s.rewards, 0) <> coalesce(r.n, 0) LIMIT 100
    """,
    "earn-counted": """
        SELECT s.user_id || '/' || s.task_id, s.counted || ' ' || s.counted_type,
            e.n || ' ' || coalesce(e.kinds, '')
        FROM task_state s CROSS JOIN LATERAL (
            SELECT count(*) AS n, string_agg(DISTINCT type, ' or ') AS kinds
            FROM event WHERE task_id = s.task_id AND user_id = s.user_id AND outcome = 'counts'
        ) e
        WHERE s.user_id > %(low)s AND s.user_id <= %(high)s AND (s.counted <> e.n
            OR s.counted_type <> '' AND (s.counted_type <> e.kinds OR e.kinds IS NULL))
        LIMIT 100
    """,
    "earn-task-moves": """
        SELECT s.user_id || '/' || s.task_id, s.state || ' after ' || s.number,
            coalesce(m.target, 'offered') || ' after ' || coalesce(m.n, 0)
        FROM task_state s LEFT JOIN (
            SELECT user_id, task_id, count(*) AS n,
                (array_agg(target ORDER BY number DESC))[1] AS target
            FROM task_move WHERE user_id > %(low)s AND user_id <= %(high)s GROUP BY 1, 2
        ) m ON m.user_id = s.user_id AND m.task_id = s.task_id
        WHERE s.user_id > %(low)s AND s.user_id <= %(high)s
            AND (s.state <> coalesce(m.target, 'offered') OR s.number <> coalesce(m.n, 0))
        LIMIT 100
    """,
    "earn-task-legal": f"""
        SELECT m.user_id || '/' || m.task_id || '/' || m.number,
            m.machine || ': ' || m.source || ' ' || m.event || ' -> ' || m.target, 'no such move'
        FROM task_move m WHERE m.user_id > %(low)s AND m.user_id <= %(high)s AND NOT {LEGAL}
        LIMIT 100
    """,
}

# What left the budget for a reward, less what came back.
_FLOW: LiteralString = f"""
    SELECT e.id AS entry_id, sum(CASE WHEN s.kind = 'budget' THEN p.amount ELSE 0 END)
            - sum(CASE WHEN d.kind = 'budget' THEN p.amount ELSE 0 END) AS total,
        bool_and(coalesce(s.kind <> 'budget' OR s.owner_id = asked.campaign_id, false)
            AND coalesce(d.kind <> 'budget' OR d.owner_id = asked.campaign_id, false)) AS own
    FROM asked CROSS JOIN LATERAL (
        SELECT id, commit_id, first_posting_id, last_posting_id FROM entry
        WHERE id = asked.id AND kind IN ('reward', 'reverse') LIMIT 1
    ) AS e CROSS JOIN LATERAL (
        SELECT source_id, destination_id, amount FROM posting WHERE {POSTINGS_OF_E} OFFSET 0
    ) AS p LEFT JOIN account s ON s.id = p.source_id LEFT JOIN account d ON d.id = p.destination_id
    GROUP BY e.id
"""
_SPENT: LiteralString = f"""
    WITH page AS MATERIALIZED (
        SELECT id, campaign_id, amount - taken AS rest, asset, state, entry_credit, entry_reverse
        FROM reward WHERE id > %(low)s AND id <= %(high)s
    ), asked AS MATERIALIZED (
        SELECT id AS reward_id, campaign_id, unnest(ARRAY[entry_credit, entry_reverse]) AS id
        FROM page UNION SELECT page.id, page.campaign_id, v.entry_id
        FROM page JOIN reward_reversal v ON v.reward_id = page.id
    ), flow AS MATERIALIZED ({_FLOW}), moved AS (
        SELECT a.reward_id, sum(f.total) AS total, bool_and(f.own) AS own
        FROM asked a JOIN flow f ON f.entry_id = a.id GROUP BY 1
    )
    SELECT r.id, coalesce(m.total, 0) || ' ' || r.asset || CASE
            WHEN coalesce(m.own, true) THEN '' ELSE ', not all by campaign ' || r.campaign_id END,
        CASE WHEN r.state IN ('vesting', 'credited') THEN r.rest ELSE 0 END || ' ' || r.asset
    FROM page r LEFT JOIN moved m ON m.reward_id = r.id
    WHERE NOT EXISTS (SELECT FROM asked a WHERE a.reward_id = r.id
            AND a.id = ANY(%(archived)s::bigint[])) AND (
        coalesce(m.total, 0) <> CASE WHEN r.state IN ('vesting', 'credited') THEN r.rest ELSE 0 END
        OR NOT coalesce(m.own, true))
    ORDER BY r.id LIMIT 100
"""
# Entries that were posted while a month ran that is in an archive by now, and that are gone.
_ARCHIVED: LiteralString = """
    WITH through AS (SELECT max(recorded_through) AS moment FROM archive)
    SELECT e.id FROM reward r CROSS JOIN LATERAL (
        SELECT min(moved_at) FILTER (WHERE target IN ('vesting', 'credited')) AS credited_at,
            min(moved_at) FILTER (WHERE target = 'credited') AS matured_at,
            min(moved_at) FILTER (WHERE target = 'reversed') AS reversed_at
        FROM reward_move WHERE reward_id = r.id
    ) AS m CROSS JOIN LATERAL (VALUES (r.entry_credit, m.credited_at),
        (r.entry_mature, m.matured_at), (r.entry_reverse, m.reversed_at)
        UNION ALL SELECT v.entry_id, v.reversed_at FROM reward_reversal v
        WHERE v.reward_id = r.id AND v.entry_id <> r.entry_reverse) AS e (id, made_at)
    WHERE r.id > %(low)s AND r.id <= %(high)s AND r.created_at <= (SELECT moment FROM through)
        AND e.made_at <= (SELECT moment FROM through)
        AND NOT EXISTS (SELECT FROM entry WHERE entry.id = e.id)
"""
_REWARD_MOVES: LiteralString = """
    SELECT r.id, r.state || ' after ' || r.version,
        coalesce(m.target, 'nothing') || ' after ' || coalesce(m.n, 0)
    FROM reward r LEFT JOIN (
        SELECT reward_id, count(*) AS n, (array_agg(target ORDER BY number DESC))[1] AS target
        FROM reward_move WHERE reward_id > %(low)s AND reward_id <= %(high)s GROUP BY 1
    ) m ON m.reward_id = r.id
    WHERE r.id > %(low)s AND r.id <= %(high)s
        AND (r.state IS DISTINCT FROM m.target OR r.version IS DISTINCT FROM m.n) LIMIT 100
"""
_REWARD_LEGAL: LiteralString = f"""
    SELECT m.reward_id || '/' || m.number,
        m.machine || ': ' || m.source || ' ' || m.event || ' -> ' || m.target, 'no such move'
    FROM reward_move m WHERE m.reward_id > %(low)s AND m.reward_id <= %(high)s AND NOT {LEGAL}
    LIMIT 100
"""

# Of an entry that no reward of its time names, all rewards are asked.
_STRAYS: LiteralString = """
    SELECT id FROM entry WHERE id > %(low)s AND id <= %(high)s AND kind IN ('reward', 'reverse')
    EXCEPT
    SELECT unnest(ARRAY[entry_credit, entry_reverse]) FROM reward
    WHERE id > %(from)s AND id <= %(to)s
    EXCEPT
    SELECT entry_id FROM reward_reversal WHERE entry_id > %(low)s AND entry_id <= %(high)s
    LIMIT 1000
"""
_NAMED: LiteralString = (
    "SELECT unnest(ARRAY[entry_credit, entry_reverse]) FROM reward"
    " WHERE entry_credit = ANY(%(ids)s) OR entry_reverse = ANY(%(ids)s)"
)
_STRAY_FLOW: LiteralString = f"""
    WITH asked AS (SELECT unnest(%(ids)s::bigint[]) AS id, NULL::bigint AS campaign_id),
        flow AS ({_FLOW})
    SELECT entry_id, total FROM flow WHERE total <> 0 ORDER BY entry_id LIMIT 100
"""

CHECKS = (
    *_BY_USER,
    "earn-spent",
    "earn-reward-moves",
    "earn-reward-legal",
    "earn-reward-entries",
    *proof_reserve.CHECKS,
)
"""The names of all checks."""


async def prove(tx: CellRead) -> list[Difference]:
    """Every check, on the snapshot of `tx`; at most 100 differences each."""
    return await prove_in(OneSnapshot(tx))


async def prove_in(snapshots: Snapshots, told: Told = silent) -> list[Difference]:
    """Every check, page by page; at most 100 differences each."""
    found: list[Difference] = []
    rewards: dict[str, LiteralString | Check] = {
        "earn-spent": _spent,
        "earn-reward-moves": _REWARD_MOVES,
        "earn-reward-legal": _REWARD_LEGAL,
        "earn-reward-entries": _entries,
    }
    for pages in (
        Pages("rewards of users", _USERS, _BY_USER, PAGE, parameters(TASK)),
        Pages("rewards", _REWARDS, rewards, PAGE, parameters(REWARD)),
        Pages("entries of rewards", _ENTRIES, {"earn-spent": _strays}, ENTRIES_PAGE),
        *proof_reserve.PAGES,
    ):
        found += await walk(snapshots, pages, told)
    return found


async def _gone(tx: CellRead, params: dict[str, Any]) -> frozenset[int]:
    return frozenset(row[0] for row in await tx.tuples(_ARCHIVED, params))


async def _spent(tx: CellRead, params: dict[str, Any]) -> list[Difference]:
    """What left the budget for each reward, against its amount."""
    gone = list(await _gone(tx, params))
    return differences("earn-spent", await tx.tuples(_SPENT, {**params, "archived": gone}))


async def _strays(tx: CellRead, params: dict[str, Any]) -> list[Difference]:
    """Money that left or entered a budget under a reward's name, but under no reward's entry."""
    low, high = params["low"], params["high"]
    near = {"low": low, "high": high, "from": low - _NEAR, "to": min(high, LAST_ID - _NEAR) + _NEAR}
    ids = {row[0] for row in await tx.tuples(_STRAYS, near)}
    if ids:
        ids -= {row[0] for row in await tx.tuples(_NAMED, {"ids": list(ids)})}
    if not ids:
        return []
    return [
        Difference("earn-spent", text_id("en", tx.cell, row[0]), str(row[1]), "no reward")
        for row in await tx.tuples(_STRAY_FLOW, {"ids": list(ids)})
    ]


async def _entries(tx: CellRead, params: dict[str, Any]) -> list[Difference]:
    """Each reward's state against the very entries that it must and must not have posted."""
    rows = await reward_store.after(tx, params["low"], PAGE)
    taken: dict[int, list[ReversalRow]] = {}
    for one in await reversal_store.of_rewards(tx, [row.id for row in rows]):
        taken.setdefault(one.reward_id, []).append(one)
    parts = [one.entry_id for those in taken.values() for one in those]
    known, gone = await _known(tx, rows, parts), await _gone(tx, params)
    return [
        difference
        for row in rows
        if (difference := _judge(tx, row, taken.get(row.id, []), known, gone)) is not None
    ]


async def _known(
    tx: CellRead, rows: Sequence[RewardRow], parts: Sequence[int]
) -> dict[int, tuple[str, bytes]]:
    ids = [
        number for row in rows for number in (row.entry_credit, row.entry_mature, row.entry_reverse)
    ]
    ids += parts
    stored = await tx.tuples("SELECT id, kind, digest FROM entry WHERE id = ANY(%s)", (ids,))
    return {row[0]: (row[1], bytes(row[2])) for row in stored}


def _judge(
    tx: CellRead,
    row: RewardRow,
    taken: Sequence[ReversalRow],
    known: dict[int, tuple[str, bytes]],
    gone: frozenset[int],
) -> Difference | None:
    names = {
        row.entry_credit: "credit",
        row.entry_mature: "mature",
        row.entry_reverse: "reverse",
    }
    wrong = [
        name
        for number, name in names.items()
        if number in known and known[number][1] not in _possible(tx, row, taken, name)
    ]
    wrong += [
        f"part {one.number}"
        for one in taken
        if one.entry_id != row.entry_reverse
        and not (one.entry_id in gone or known.get(one.entry_id, ("", b""))[1] == _part(tx, one))
    ]
    have = frozenset(name for number, name in names.items() if number in known)
    archived = frozenset(name for number, name in names.items() if number in gone)
    if not wrong and any(
        have <= expected <= have | archived for expected in _EXPECTED[RewardState(row.state)]
    ):
        return None
    stored = " ".join(sorted(have)) or "none"
    if wrong:
        stored += f" (not by recipe: {' '.join(wrong)})"
    return Difference("earn-reward-entries", text_id("rw", tx.cell, row.id), stored, row.state)


_NONE: frozenset[str] = frozenset()
_CREDIT = frozenset({"credit"})
_EXPECTED: dict[RewardState, tuple[frozenset[str], ...]] = {
    RewardState.DUE: (),
    RewardState.AWAITING_FUNDS: (_NONE,),
    RewardState.REFUSED: (_NONE,),
    RewardState.VESTING: (_CREDIT,),
    RewardState.CREDITED: (_CREDIT, _CREDIT | {"mature"}),
    RewardState.REVERSED: (
        _NONE,
        _CREDIT | {"reverse"},
        _CREDIT | {"mature", "reverse"},
    ),
}


def _part(tx: CellRead, one: ReversalRow) -> bytes:
    """The digest of the entry of a reversal."""
    amount, vesting = Money(one.amount, one.asset), Money(one.from_vesting, one.asset)
    postings = recipes.reverse(one.campaign_id, one.user_id, amount, vesting)
    return Entry(0, "reverse", text_id("rw", tx.cell, one.reward_id), postings).digest()


def _before_reserves(row: RewardRow, amount: Money, vesting: Money) -> recipes.Postings:
    """How a reversal was posted when nothing was kept in reserve yet, and no row of it."""
    found = recipes.reverse(row.campaign_id, row.user_id, amount, vesting)
    return tuple(one for one in found if one.source.kind != "reserve")


def _possible(
    tx: CellRead, row: RewardRow, taken: Sequence[ReversalRow], name: str
) -> Iterable[bytes]:
    """Digests of the entry by its recipe, whether the user owed something or not at the time."""
    amount = Money(row.amount, row.asset)
    subject = text_id("rw", tx.cell, row.id)
    nothing = Money.zero(row.asset)
    if name == "credit":
        kind, choices = (
            "reward",
            [
                recipes.reward(
                    row.campaign_id, row.user_id, amount, vests=vests, owes=owes, commission=nothing
                )
                for vests, owes in product((True, False), repeat=2)
            ],
        )
    elif name == "mature":
        left = amount - Money(sum(one.from_vesting for one in taken), row.asset)
        kind, choices = (
            "mature",
            [recipes.mature(row.user_id, left, owes=owes) for owes in (True, False) if left],
        )
    else:
        known = [one for one in taken if one.entry_id == row.entry_reverse]
        if known:
            return {_part(tx, one) for one in known}
        kind, choices = (
            "reverse",
            [_before_reserves(row, amount, vesting) for vesting in (amount, nothing)],
        )
    return {Entry(0, kind, subject, postings).digest() for postings in choices}
