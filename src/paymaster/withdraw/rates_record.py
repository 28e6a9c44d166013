"""Taking rates down: what came from outside must be plausible, what a person enters needs no more.

An entry by a person is the way to say that a rate really has jumped; where withdrawals are approved
by two persons it needs two as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any, Final

from paymaster.db import audit
from paymaster.db.tx import ControlRead, ControlTx
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import Conflict, Problem, Unprocessable
from paymaster.kernel.money import exponent
from paymaster.settings import Fx
from paymaster.withdraw import rates_store
from paymaster.withdraw.rates import SOURCES, Found, Rate, pick, worked_out

MAX_RATES: Final = 200
_MAX_SECONDS: Final = 31 * 86_400
_AHEAD: Final = timedelta(minutes=5)
"""How much a provider's clock may be ahead of ours."""
_DRIFT: Final = timedelta(days=1)
"""In this time rates from outside change no more than a single one may."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """How many rates were new, and how many were known already."""

    new: int
    known: int


async def record(
    tx: ControlTx,
    environment_id: int,
    rates: Sequence[Rate],
    most_change_percent: int,
    now: datetime,
) -> Recorded:
    """Store rates, audited; those that are known already change nothing.

    `now` is the time in the environment, which a test's clock may have put forward.

    Raises Unprocessable `rate-invalid` with a problem for each fault, `rate-implausible` when one
    that no person entered differs by more than `most_change_percent` from what was known before,
    Conflict `rates-changed` when somebody has stored the same at this moment.
    """
    check(max(tx.now, now), rates)
    known = await rates_store.known(tx, environment_id, rates)
    fresh = [rate for place, rate in enumerate(rates) if place not in known]
    if fresh:
        await _plausible(tx, environment_id, fresh, most_change_percent)
        if await rates_store.insert_rates(tx, environment_id, fresh, tx.actor.name) != len(fresh):
            raise Conflict("rates-changed", "The same rates were stored just now; read them.")
        detail = {"rates": [shown(rate) for rate in fresh], audit.ENVIRONMENT: environment_id}
        await audit.record(tx, [audit.Act("fx_rate.record", f"fx:{fresh[0].source}", None, detail)])
    return Recorded(len(fresh), len(known))


def check(now: datetime, rates: Sequence[Rate]) -> None:
    """Raises Unprocessable `rate-invalid` with a problem for each fault of these rates."""
    problems: list[Problem] = []
    names = [(rate.source, rate.base, rate.counter, rate.observed_at) for rate in rates]
    for place, rate in enumerate(rates):
        at = f"/rates/{place}"
        exponent(rate.base)
        exponent(rate.counter)
        try:
            _ = rate.value
        except Unprocessable as refused:
            problems.append(Problem(f"{at}/rate", refused.detail))
        if rate.source not in SOURCES:
            problems.append(Problem(f"{at}/source", f"Sources are: {', '.join(SOURCES)}."))
        if rate.base == rate.counter:
            problems.append(Problem(f"{at}/counter", "Name two different currencies."))
        if rate.observed_at > now + _AHEAD:
            problems.append(Problem(f"{at}/observed_at", "It is in the future."))
        if not 0 < rate.valid_seconds <= _MAX_SECONDS:
            problems.append(Problem(f"{at}/valid_seconds", f"From 1 to {_MAX_SECONDS} seconds."))
        if names[place] in names[:place]:
            problems.append(Problem(at, "The same pair is there twice."))
    if not 0 < len(rates) <= MAX_RATES:
        problems.append(Problem("/rates", f"Give 1 to {MAX_RATES} rates."))
    if problems:
        raise Unprocessable("rate-invalid", "These rates have faults.", problems=problems)


async def _plausible(
    tx: ControlTx, environment_id: int, rates: Sequence[Rate], most_change_percent: int
) -> None:
    """Neither far from the rate before it, nor from that of a day ago by many small steps.

    Of a pair that has none yet, not far from what the central bank's rates say of it. A person's
    entry is where the counting of steps begins anew.
    """
    asked = [rate for rate in rates if rate.source != "operator"]
    for rate, known in zip(asked, await _known_of(tx, environment_id, asked), strict=True):
        for value in known:
            if abs(rate.value - value) * 100 > value * most_change_percent:
                raise Unprocessable(
                    "rate-implausible",
                    f"{rate.base}/{rate.counter} at {rate.rate} is more than {most_change_percent}%"
                    " from the one before it or of a day ago; if it is right, have a person enter"
                    " it (source operator).",
                )


async def _known_of(
    tx: ControlRead, environment_id: int, rates: Sequence[Rate]
) -> list[list[Fraction]]:
    """For each rate what it is held against; nothing where nobody has named the pair before."""
    if not rates:
        return []
    pairs = [(rate.base, rate.counter) for rate in rates]
    near = [pair for one in pairs for pair in rates_store.pairs_between(*one)]
    before = await rates_store.newest_rates(tx, environment_id, near)
    settled = await rates_store.settled_rates(tx, environment_id, pairs, tx.now - _DRIFT)
    found: list[list[Fraction]] = []
    for pair in pairs:
        mates = [one for one in before if (one.base, one.counter) == pair]
        newest = max(mates, key=lambda one: one.observed_at, default=None)
        day_ago = [one for one in settled if (one.base, one.counter) == pair]
        known = [one.value for one in (newest, *day_ago) if one is not None]
        if not known:
            derived = worked_out(before, *pair)
            known = [] if derived is None else [derived]
        found.append(known)
    return found


async def unheard_of(tx: ControlRead, environment_id: int, rates: Sequence[Rate]) -> bool:
    """Whether there is a pair among these that nothing is known of to hold a rate against.

    Whoever names the first rate of a pair sets its price as much as who enters one by hand.
    """
    return not all(await _known_of(tx, environment_id, rates))


async def between(
    tx: ControlRead,
    environment_id: int,
    given: str,
    wanted: str,
    sources: Sequence[str],
    fx: Fx,
    now: datetime,
) -> Found | str:
    """The rate to use now, or `rate-missing` or `rate-stale`; see `rates.pick`."""
    pairs = rates_store.pairs_between(given, wanted)
    known = await rates_store.newest_rates(tx, environment_id, pairs)
    return pick(known, given, wanted, sources, ages(fx), now)


def ages(fx: Fx) -> Mapping[str, timedelta]:
    """How old a rate of each source may be."""
    return {
        "ecb": timedelta(hours=fx.ecb_age_hours),
        "provider": timedelta(seconds=fx.provider_age_seconds),
        "operator": timedelta(hours=fx.operator_age_hours),
    }


async def newest(tx: ControlRead, environment_id: int) -> list[Rate]:
    """The newest rate of each source and pair."""
    return await rates_store.all_newest(tx, environment_id)


def shown(rate: Rate) -> dict[str, Any]:
    """A rate for JSON."""
    return {
        "source": rate.source,
        "base": rate.base,
        "counter": rate.counter,
        "rate": rate.rate,
        "observed_at": rfc3339(rate.observed_at),
        "valid_until": rfc3339(rate.valid_until),
        "reference": rate.reference,
    }
