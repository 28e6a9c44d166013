"""How much of what was credited is taken back: of a user, and under a policy's source, by day.

Counted are rewards whose policy asks for it. The figures are kept by the transactions that credit
and take back, and are asked for by key: nothing is ever added up from the rewards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import NamedTuple

from paymaster.db.tx import CellRead, CellTx
from paymaster.earn.store.rewards import RewardRow
from paymaster.earn.terms import MILLION, Chargeback, Policy
from paymaster.kernel.clock import business_day

RATE = "chargeback-rate"
"""Why a reward matures later."""

Scope = tuple[str, str, str]
"""`user` or `source`, whose or which, and the currency."""


class Asked(NamedTuple):
    """Whose rate is asked for under which rule."""

    user_id: int
    asset: str
    source: str
    rule: Chargeback

    def scopes(self) -> tuple[Scope, Scope]:
        """Both figures that count."""
        return ("user", str(self.user_id), self.asset), ("source", self.source, self.asset)


def watch(row: RewardRow, policies: Mapping[int, Policy]) -> Asked | None:
    """What of a reward is watched; None when its policy asks for nothing."""
    found = policies.get(row.policy_id or 0)
    if found is None or found.terms.chargeback is None:
        return None
    return Asked(row.user_id, row.asset, found.source, found.terms.chargeback)


async def credited(tx: CellTx, rows: Sequence[RewardRow], policies: Mapping[int, Policy]) -> None:
    """Count rewards whose money was credited in this transaction."""
    await _count(tx, [(watch(row, policies), 1, row.amount, 0) for row in rows])


async def reversed_(
    tx: CellTx, taken: Iterable[tuple[RewardRow, int]], policies: Mapping[int, Policy]
) -> None:
    """Count what was taken back of rewards in this transaction."""
    await _count(tx, [(watch(row, policies), 0, 0, amount) for row, amount in taken])


async def _count(tx: CellTx, parts: Sequence[tuple[Asked | None, int, int, int]]) -> None:
    sums: dict[Scope, list[int]] = {}
    for asked, rewards, plus, minus in parts:
        for scope in asked.scopes() if asked is not None else ():
            total = sums.setdefault(scope, [0, 0, 0])
            for place, value in enumerate((rewards, plus, minus)):
                total[place] += value
    if not sums:
        return
    keys = sorted(sums)
    await tx.execute(
        """
        INSERT INTO chargeback_day (scope, subject, asset, day, rewards, credited, reversed)
        SELECT s, k, a, %s, n, c, r
        FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::numeric[],
            %s::numeric[]) AS u (s, k, a, n, c, r)
        ON CONFLICT (scope, subject, asset, day) DO UPDATE
        SET rewards = chargeback_day.rewards + excluded.rewards,
            credited = chargeback_day.credited + excluded.credited,
            reversed = chargeback_day.reversed + excluded.reversed
        """,
        (
            business_day(tx.now, tx.time_zone),
            *([key[place] for key in keys] for place in range(3)),
            *([sums[key][place] for key in keys] for place in range(3)),
        ),
    )


async def above(tx: CellRead, asked: Iterable[Asked]) -> set[Asked]:
    """Those whose user or source has more taken back than their rule bears."""
    wanted = set(asked)
    today = business_day(tx.now, tx.time_zone)
    pairs = sorted({(scope, _since(one.rule, today)) for one in wanted for scope in one.scopes()})
    if not pairs:
        return set()
    rows = await tx.tuples(
        """
        SELECT n.place, sum(d.rewards)::bigint, sum(d.credited), sum(d.reversed)
        FROM unnest(%s::text[], %s::text[], %s::text[], %s::date[]) WITH ORDINALITY
                AS n (scope, subject, asset, since, place)
            JOIN chargeback_day d ON d.scope = n.scope AND d.subject = n.subject
                AND d.asset = n.asset AND d.day >= n.since
        GROUP BY n.place
        """,
        (
            *([scope[place] for scope, _ in pairs] for place in range(3)),
            [since for _, since in pairs],
        ),
    )
    figures: dict[tuple[Scope, date], tuple[int, int, int]] = {
        pairs[place - 1]: (count, int(plus), int(minus)) for place, count, plus, minus in rows
    }
    return {
        one
        for one in wanted
        if any(
            _exceeds(one.rule, figures.get((scope, _since(one.rule, today))))
            for scope in one.scopes()
        )
    }


def _since(rule: Chargeback, today: date) -> date:
    return today - timedelta(days=rule.window_days - 1)


def _exceeds(rule: Chargeback, found: tuple[int, int, int] | None) -> bool:
    if found is None:
        return False
    rewards, plus, minus = found
    return rewards >= rule.at_least and minus * MILLION > rule.above_ppm * plus
