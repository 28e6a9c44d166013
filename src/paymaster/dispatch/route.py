"""Which of our accounts pays a withdrawal: a pure choice that can be repeated, with its reason.

An account can pay when it is active, in the right currency, and its rail reaches that kind of
destination; one that only takes money in is no candidate. Of those that can, a healthy one goes
before a sick one, then one that lately answered before one that often did not, then the cheaper one
(settings `cost`, minor units a payment, and `cost_percent` of the amount), then the name decides. A
sick account is still chosen when there is no other: the payment then waits for it to recover.

Once an order has left the choice is made: another account would pay a second time. Only when every
order of the withdrawal is proven dead may another account be chosen, one `without` those proofs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paymaster.dispatch.accounts import PayoutAccount
from paymaster.kernel.money import Money
from paymaster.rails.base import RailCaps

STEADY_PERCENT = 80
"""Share of calls that an account must have answered lately, unless its own setting says else."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An account with what its rail can do and how it works at the moment.

    `healthy`: its circuit is closed. `share` is how many of 100 calls it answered lately; None when
    there were too few to tell.
    """

    account: PayoutAccount
    caps: RailCaps
    healthy: bool
    share: int | None = None

    @property
    def steady(self) -> bool:
        """Whether it answered often enough lately."""
        least = min(100, self.account.number("steady_percent", STEADY_PERCENT))
        return self.share is None or self.share >= least


@dataclass(frozen=True, slots=True)
class Choice:
    """The account that pays, and why it and no other."""

    account: PayoutAccount
    why: str


def can_pay(candidate: Candidate, kind: str, currency: str) -> bool:
    """Whether this account can pay a destination of a kind in a currency at all."""
    account, caps = candidate.account, candidate.caps
    return (
        account.active
        and account.rail.currency == currency
        and kind in caps.destination_kinds
        and (caps.currencies is None or currency in caps.currencies)
    )


def pick(
    candidates: Sequence[Candidate],
    kind: str,
    money: Money,
    without: frozenset[int] = frozenset(),
) -> Choice | None:
    """The account that pays so much, none of `without`, and why; None when none can."""
    able = [
        each
        for each in candidates
        if each.account.id not in without and can_pay(each, kind, money.currency)
    ]
    if not able:
        return None
    able.sort(key=lambda each: _preference(each, money))
    return Choice(able[0].account, _why(able, money))


def by_amount(candidates: Sequence[Candidate]) -> bool:
    """Whether the choice may depend on the amount."""
    return any(each.account.cost_millionths for each in candidates)


def _preference(candidate: Candidate, money: Money) -> tuple[bool, bool, int, str]:
    account = candidate.account
    return (
        not candidate.healthy,
        not candidate.steady,
        account.cost_of(money),
        account.rail.name,
    )


def _why(able: Sequence[Candidate], money: Money) -> str:
    """The first difference to the next best."""
    first = able[0]
    if len(able) == 1:
        return "the only account that can pay it" + ("" if first.healthy else ", though sick")
    one, other = (_preference(each, money) for each in able[:2])
    next_name = able[1].account.rail.name
    if one[0] != other[0]:
        return f"of {len(able)} that can pay it: it works, {next_name} is sick"
    if one[1] != other[1]:
        return f"of {len(able)} that can pay it: {next_name} answered {able[1].share} of 100 calls"
    if one[2] != other[2]:
        costs = (Money(each[2], money.currency).text() for each in (one, other))
        return f"of {len(able)} that can pay it: costs {next(costs)}, {next_name} {next(costs)}"
    return f"of {len(able)} that can pay it: equal to {next_name}, first by name"
