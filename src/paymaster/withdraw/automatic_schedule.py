"""When an automatic payout is due, how much it is, and what an environment's default says: pure.

A schedule is due as its day begins in the environment's time zone. One that was missed, because
nothing ran, is made up for once.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

from paymaster.kernel.errors import PaymasterError, Problem, Unprocessable
from paymaster.kernel.money import EXPONENTS, Money
from paymaster.withdraw.fee_plans import Plans
from paymaster.withdraw.fees import FeePlan, fee

Mode = Literal["off", "threshold", "schedule"]
Every = Literal["day", "week", "month"]

MODES: Final = ("off", "threshold", "schedule")
LONGEST: Final[Mapping[str, int]] = {"week": 7, "month": 31}
"""The last day that a week's or a month's payout may be on."""

_FIELDS: Final = frozenset({"mode", "minimum", "at_most", "every", "on_day"})


@dataclass(frozen=True, slots=True)
class Plan:
    """What shall be paid out by itself, in one currency.

    `minimum` is the threshold, or what a schedule must find at least; both are asked of the balance
    before fees. `at_most` of it goes at once. `on_day` is a day of the week (1 is Monday) or of the
    month (a shorter month ends on its last).
    """

    mode: Mode
    minimum: Money
    at_most: Money | None = None
    every: Every | None = None
    on_day: int | None = None


def check(plan: Plan, where: str = "") -> None:
    """Raises Unprocessable `automatic-invalid` with every fault; `where` begins the pointers."""
    problems: list[Problem] = []
    if plan.minimum.minor <= 0:
        problems.append(Problem(f"{where}/minimum", "Zero is no minimum: write more."))
    if plan.at_most is not None and plan.at_most < plan.minimum:
        problems.append(Problem(f"{where}/at_most", "It cannot be below the minimum."))
    if (plan.mode == "schedule") != (plan.every is not None):
        problems.append(Problem(f"{where}/every", "A schedule, and only one, says how often."))
    longest = LONGEST.get(plan.every or "")
    if (longest is None) != (plan.on_day is None):
        problems.append(Problem(f"{where}/on_day", "Name the day of a week or month, of no other."))
    elif longest is not None and plan.on_day is not None and not 1 <= plan.on_day <= longest:
        problems.append(Problem(f"{where}/on_day", f"It is from 1 to {longest}."))
    if problems:
        raise _invalid(problems)


def defaults(written: Mapping[str, Any]) -> dict[str, Plan]:
    """What earners get who have chosen nothing, by currency, out of an environment's policy.

    Raises Unprocessable `automatic-invalid`.
    """
    found: dict[str, Plan] = {}
    for currency, fields in written.items():
        where = f"/automatic/{currency}"
        if currency not in EXPONENTS or not isinstance(fields, dict):
            raise _invalid([Problem(where, "Write a currency such as EUR, and its plan.")])
        found[currency] = _default(currency, fields, where)  # pyright: ignore[reportUnknownArgumentType]
    return found


def _default(currency: str, fields: Mapping[str, Any], where: str) -> Plan:
    unknown = sorted(fields.keys() - _FIELDS)
    problems = [Problem(f"{where}/{name}", "There is no such field.") for name in unknown]
    mode, every, on_day = fields.get("mode"), fields.get("every"), fields.get("on_day")
    if mode not in MODES:
        problems.append(Problem(f"{where}/mode", f"It is one of {', '.join(MODES)}."))
    if every not in (None, "day", *LONGEST):
        problems.append(Problem(f"{where}/every", "It is day, week or month."))
    if on_day is not None and (not isinstance(on_day, int) or isinstance(on_day, bool)):
        problems.append(Problem(f"{where}/on_day", "It is a whole number."))
    amounts: dict[str, Money | None] = {}
    for name in ("minimum", "at_most"):
        try:
            given = fields.get(name)
            amounts[name] = None if given is None else Money.parse(str(given), currency)
        except PaymasterError as error:
            problems.append(Problem(f"{where}/{name}", error.detail))
    if amounts.get("minimum") is None and not any(p.pointer.endswith("/minimum") for p in problems):
        problems.append(Problem(f"{where}/minimum", "Say what it must be at least."))
    if problems:
        raise _invalid(problems)
    assert amounts["minimum"] is not None
    plan = Plan(mode, amounts["minimum"], amounts["at_most"], every, on_day)  # type: ignore[arg-type]
    check(plan, where)
    return plan


def _invalid(problems: list[Problem]) -> Unprocessable:
    return Unprocessable(
        "automatic-invalid", "The automatic payout cannot be so.", problems=problems
    )


def next_due(plan: Plan, time_zone: str, after: datetime) -> datetime | None:
    """When it is due next, strictly after a moment; None when it is off.

    A threshold is looked at all the time, but once it was paid not again on that day.
    """
    if plan.mode == "off":
        return None
    zone = ZoneInfo(time_zone)
    day = after.astimezone(zone).date()
    while True:
        day += timedelta(days=1)
        if _falls_on(plan, day):
            return _begin(day, zone)


def _falls_on(plan: Plan, day: date) -> bool:
    if plan.every == "week":
        return day.isoweekday() == plan.on_day
    if plan.every == "month":
        return day.day == min(plan.on_day or 1, monthrange(day.year, day.month)[1])
    return True


def _begin(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), zone).astimezone(UTC)


def period(time_zone: str, due_at: datetime) -> str:
    """The name of the period that a payout belongs to: its day."""
    return due_at.astimezone(ZoneInfo(time_zone)).date().isoformat()


def all_of(balance: Money, at_most: Money | None, kind: str, plans: Plans) -> Money:
    """The largest amount to ask for, so that the fee fits as well; zero when nothing is left."""
    most = balance if at_most is None else min(balance, at_most)
    plan = plans.choose(kind, balance.currency, balance.currency) if plans.plans else None
    if plan is None or plan.payer == "receiver":
        return most
    starts = sorted({1, *(tier.since for tier in plan.tiers)}, reverse=True)
    end = most.minor
    for start in starts:
        found = _largest(plan, start, end, balance.minor)
        if found is not None:
            return Money(found, balance.currency)
        end = min(end, start - 1)
    return Money.zero(balance.currency)


def _largest(plan: FeePlan, start: int, end: int, balance: int) -> int | None:
    """The largest amount of a tier that fits with its fee; inside a tier fees never fall."""
    low, high = start, end
    if low > high or low + fee(plan, low) > balance:
        return None
    while low < high:
        middle = (low + high + 1) // 2
        if middle + fee(plan, middle) <= balance:
            low = middle
        else:
            high = middle - 1
    return low
