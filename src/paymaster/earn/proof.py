"""`prove` for rewards: what is stored against what the books say; nothing found is the proof."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import LiteralString

from paymaster.db.tx import CellRead
from paymaster.earn.machine import RewardState
from paymaster.earn.store import rewards as reward_store
from paymaster.earn.store.rewards import RewardRow
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.entry import Entry
from paymaster.ledger.proof import Difference

PAGE = 2000
MOST = 100

_CHECKS: dict[str, LiteralString] = {
    "vesting": """
        SELECT coalesce(a.owner_id, r.user_id) || ' ' || coalesce(a.asset, r.asset),
            coalesce(a.balance, 0)::text, coalesce(r.total, 0)::text
        FROM (SELECT owner_id, asset, balance FROM account WHERE kind = 'vesting') a
        FULL JOIN (
            SELECT user_id, asset, sum(remaining) AS total FROM reward WHERE remaining > 0
            GROUP BY user_id, asset
        ) r ON r.user_id = a.owner_id AND r.asset = a.asset
        WHERE coalesce(a.balance, 0) <> coalesce(r.total, 0)
    """,
    "spent": """
        WITH flow AS (
            SELECT CASE WHEN s.kind = 'budget' THEN s.owner_id ELSE d.owner_id END AS campaign_id,
                p.asset,
                sum(CASE WHEN s.kind = 'budget' THEN p.amount ELSE -p.amount END) AS total
            FROM posting p
            JOIN entry e ON e.id = p.entry_id AND e.kind IN ('reward', 'reverse')
            JOIN account s ON s.id = p.source_id
            JOIN account d ON d.id = p.destination_id
            WHERE s.kind = 'budget' OR d.kind = 'budget'
            GROUP BY 1, 2
        ), owed AS (
            SELECT campaign_id, asset, sum(amount) AS total FROM reward
            WHERE state IN ('vesting', 'credited') GROUP BY 1, 2
        )
        SELECT coalesce(f.campaign_id, o.campaign_id) || ' ' || coalesce(f.asset, o.asset),
            coalesce(o.total, 0)::text, coalesce(f.total, 0)::text
        FROM flow f FULL JOIN owed o ON o.campaign_id = f.campaign_id AND o.asset = f.asset
        WHERE coalesce(f.total, 0) <> coalesce(o.total, 0)
    """,
    "overspent": """
        SELECT owner_id || ' ' || asset, balance::text, '0 or more' FROM account
        WHERE kind = 'budget' AND balance < 0
    """,
    "reward-count": """
        SELECT coalesce(s.user_id, r.user_id) || '/' || coalesce(s.task_id, r.task_id),
            coalesce(s.rewards, 0)::text, coalesce(r.n, 0)::text
        FROM task_state s FULL JOIN (
            SELECT user_id, task_id, count(*) AS n FROM reward GROUP BY 1, 2
        ) r ON r.user_id = s.user_id AND r.task_id = s.task_id
        WHERE coalesce(s.rewards, 0) <> coalesce(r.n, 0)
    """,
    "reward-moves": """
        SELECT r.id::text, r.state || ' after ' || r.version,
            coalesce(m.target, 'nothing') || ' after ' || coalesce(m.n, 0)
        FROM reward r LEFT JOIN (
            SELECT reward_id, count(*) AS n, (array_agg(target ORDER BY number DESC))[1] AS target
            FROM reward_move GROUP BY 1
        ) m ON m.reward_id = r.id
        WHERE r.state IS DISTINCT FROM m.target OR r.version IS DISTINCT FROM m.n
    """,
    "task-moves": """
        SELECT s.user_id || '/' || s.task_id, s.state || ' after ' || s.number,
            coalesce(m.target, 'offered') || ' after ' || coalesce(m.n, 0)
        FROM task_state s LEFT JOIN (
            SELECT user_id, task_id, count(*) AS n,
                (array_agg(target ORDER BY number DESC))[1] AS target
            FROM task_move GROUP BY 1, 2
        ) m ON m.user_id = s.user_id AND m.task_id = s.task_id
        WHERE s.state <> coalesce(m.target, 'offered') OR s.number <> coalesce(m.n, 0)
    """,
}

CHECKS = (*_CHECKS, "reward-entries")
"""The names of all checks."""


async def prove(tx: CellRead) -> list[Difference]:
    """Run every check; at most 100 differences each."""
    found: list[Difference] = []
    for check, statement in _CHECKS.items():
        for subject, stored, derived in (await tx.tuples(statement))[:MOST]:
            found.append(Difference(f"earn-{check}", subject, stored, derived))
    found.extend(await _entries(tx))
    return found


async def _entries(tx: CellRead) -> list[Difference]:
    """Each reward's state against the very entries that it must and must not have posted."""
    found: list[Difference] = []
    last = 0
    while len(found) < MOST:
        rows = await reward_store.after(tx, last, PAGE)
        if not rows:
            break
        last = rows[-1].id
        known = await _known(tx, rows)
        found.extend(
            difference for row in rows if (difference := _judge(tx, row, known)) is not None
        )
    return found[:MOST]


async def _known(tx: CellRead, rows: Sequence[RewardRow]) -> dict[int, tuple[str, bytes]]:
    ids = [
        number for row in rows for number in (row.entry_credit, row.entry_mature, row.entry_reverse)
    ]
    stored = await tx.tuples("SELECT id, kind, digest FROM entry WHERE id = ANY(%s)", (ids,))
    return {row[0]: (row[1], bytes(row[2])) for row in stored}


def _judge(tx: CellRead, row: RewardRow, known: dict[int, tuple[str, bytes]]) -> Difference | None:
    names = {
        row.entry_credit: "credit",
        row.entry_mature: "mature",
        row.entry_reverse: "reverse",
    }
    wrong = [
        name
        for number, name in names.items()
        if number in known and known[number][1] not in _possible(tx, row, name)
    ]
    have = frozenset(name for number, name in names.items() if number in known)
    if not wrong and have in _EXPECTED[RewardState(row.state)]:
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


def _possible(tx: CellRead, row: RewardRow, name: str) -> Iterable[bytes]:
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
        kind, choices = (
            "mature",
            [recipes.mature(row.user_id, amount, owes=owes) for owes in (True, False)],
        )
    else:
        kind, choices = (
            "reverse",
            [
                recipes.reverse(row.campaign_id, row.user_id, amount, vesting)
                for vesting in (amount, nothing)
            ],
        )
    return {Entry(0, kind, subject, postings).digest() for postings in choices}
