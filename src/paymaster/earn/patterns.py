"""Patterns of a batch: what counts towards each, what came before, and which are complete now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from functools import partial

from paymaster.db.tx import CellTx
from paymaster.earn import verify
from paymaster.earn.resolve import COUNTS, Item
from paymaster.earn.states import States
from paymaster.earn.store import events as store
from paymaster.earn.store.events import Span
from paymaster.earn.store.states import Pair
from paymaster.kernel.clock import business_day
from paymaster.kernel.errors import Broken

MAX_STEPS = 10_000
"""How many events of one pattern are looked at in one judgement; older ones are left out."""


def runs_of(states: States, items: Sequence[Item]) -> dict[Pair, list[Item]]:
    """What counts towards patterns that can still be earned."""
    runs: dict[Pair, list[Item]] = {}
    for item in items:
        if item.shows is COUNTS:
            run = runs.get(item.pair)
            if run is None:
                runs[item.pair] = [item]
            else:
                run.append(item)
    return {pair: run for pair, run in runs.items() if states.open(pair)}


async def before(
    tx: CellTx, states: States, runs: Mapping[Pair, Sequence[Item]]
) -> dict[Pair, list[verify.Step]]:
    """What users did towards their patterns before this batch, where it can matter."""
    spans = [_span(run) for pair, run in runs.items() if not states.begins(pair)]
    if not spans:
        return {}
    found: dict[Pair, list[verify.Step]] = {}
    for task_id, user_id, occurred_at, kind in await store.counted(tx, spans, MAX_STEPS):
        found.setdefault((user_id, task_id), []).append(verify.Step(occurred_at, kind))
    return found


def complete(
    tx: CellTx, runs: Mapping[Pair, Sequence[Item]], known: Mapping[Pair, Sequence[verify.Step]]
) -> list[tuple[Item, str]]:
    """The last new event of each pattern that is complete now, with its occurrence."""
    day = partial(_day, tx.time_zone, {})
    earned: list[tuple[Item, str]] = []
    for pair, run in runs.items():
        rule, earlier = run[0].offer.rule, known.get(pair, ())
        if not isinstance(rule, verify.Count) or len(earlier) + len(run) < rule.count:
            continue
        if verify.complete(rule, [*map(_step, run), *earlier], day):
            earned.append((run[-1], verify.ONCE))
    return earned


def _day(zone: str, cache: dict[datetime, date], moment: datetime) -> date:
    """The business day; looked up once for each quarter of an hour, the finest zone offset."""
    quarter = moment.replace(minute=moment.minute // 15 * 15, second=0, microsecond=0)
    if quarter not in cache:
        cache[quarter] = business_day(quarter, zone)
    return cache[quarter]


def _step(item: Item) -> verify.Step:
    return verify.Step(item.event.occurred_at, item.event.type)


def _span(run: Sequence[Item]) -> Span:
    rule = run[0].offer.rule
    if not isinstance(rule, verify.Count):
        raise Broken("rule-kind", "Only counts are judged over time.")
    least = max(rule.count - len(run), 0)
    if rule.within_seconds is None:
        return Span(run[0].offer.id, run[0].user_id, None, None, least)
    times = [item.event.occurred_at for item in run]
    first, last = verify.reach(rule, min(times), max(times))
    return Span(run[0].offer.id, run[0].user_id, first, last, least)
