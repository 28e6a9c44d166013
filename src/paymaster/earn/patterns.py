"""Patterns of a batch: what counts towards each, what came before, and which are complete now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from functools import partial

from paymaster.db.tx import CellTx
from paymaster.earn import verify
from paymaster.earn.resolve import COUNTS, Item
from paymaster.earn.states import States
from paymaster.earn.store import events as store
from paymaster.earn.store.events import Span
from paymaster.earn.store.states import Counting, Pair
from paymaster.kernel.clock import business_day
from paymaster.kernel.errors import Broken

MAX_STEPS = 10_000
"""How many events of one pattern are looked at in one judgement; older ones are left out."""

Runs = Mapping[Pair, list[Item]]
"""New events that count, by whose they are and towards what, in their order."""


def runs_of(items: Iterable[Item]) -> Runs:
    """What counts towards patterns."""
    runs: dict[Pair, list[Item]] = {}
    for item in items:
        if item.shows is COUNTS:
            pair = item.pair
            if pair in runs:
                runs[pair].append(item)
            else:
                runs[pair] = [item]
    return runs


def counting(run: Sequence[Item]) -> Counting:
    """How many there are of one, and of which type."""
    kind = run[0].event.type
    if len(run) > 1 and any(item.event.type != kind for item in run):
        kind = ""
    return len(run), kind


def ripe(states: States, runs: Runs) -> Runs:
    """Those that may be complete now: enough counts, and they can still be earned.

    None of which something was taken back before they were.
    """
    found: dict[Pair, list[Item]] = {}
    row_of = states.row
    for pair, run in runs.items():
        row = row_of(pair)
        enough = row.counted + len(run) >= _rule(run).count
        if enough and row.rewards == 0 and not row.barred:
            found[pair] = run
    return found


async def before(tx: CellTx, states: States, runs: Runs) -> dict[Pair, list[verify.Step]]:
    """What users did towards their patterns before this batch, where it can matter."""
    spans = [
        _span(run)
        for pair, run in runs.items()
        if states.row(pair).counted and not _by_number(states, pair, run)
    ]
    if not spans:
        return {}
    found: dict[Pair, list[verify.Step]] = {}
    for task_id, user_id, occurred_at, kind in await store.counted(tx, spans, MAX_STEPS):
        found.setdefault((user_id, task_id), []).append(verify.Step(occurred_at, kind))
    return found


def complete(
    tx: CellTx, states: States, runs: Runs, known: Mapping[Pair, Sequence[verify.Step]]
) -> list[tuple[Item, str]]:
    """The last new event of each ripe pattern that is complete now, with its occurrence."""
    day = partial(_day, tx.time_zone, {})
    earned: list[tuple[Item, str]] = []
    for pair, run in runs.items():
        if not _by_number(states, pair, run):
            steps = [*map(_step, run), *known.get(pair, ())]
            if not verify.complete(_rule(run), steps, day):
                continue
        earned.append((run[-1], verify.ONCE))
    return earned


def _by_number(states: States, pair: Pair, run: Sequence[Item]) -> bool:
    """Whether the number decides: nothing else matters, and all that counts is of one type."""
    rule, row = _rule(run), states.row(pair)
    return verify.by_number(rule) and (row.counted == 0 or row.counted_type == rule.event)


def _rule(run: Sequence[Item]) -> verify.Count:
    rule = run[0].offer.rule
    if not isinstance(rule, verify.Count):
        raise Broken("rule-kind", "Only counts are judged over time.")
    return rule


def _day(zone: str, cache: dict[datetime, date], moment: datetime) -> date:
    """The business day; looked up once for each quarter of an hour, the finest zone offset."""
    quarter = moment.replace(minute=moment.minute // 15 * 15, second=0, microsecond=0)
    if quarter not in cache:
        cache[quarter] = business_day(quarter, zone)
    return cache[quarter]


def _step(item: Item) -> verify.Step:
    return verify.Step(item.event.occurred_at, item.event.type)


def _span(run: Sequence[Item]) -> Span:
    rule, offer, user_id = _rule(run), run[0].offer, run[0].user_id
    if rule.within_seconds is None:
        return Span(offer.id, user_id, None, None, 0)
    times = [item.event.occurred_at for item in run]
    first, last = verify.reach(rule, min(times), max(times))
    return Span(offer.id, user_id, first, last, max(rule.count - len(run), 0))
