"""Which of our accounts pays a withdrawal: a pure choice, made once, before the first order.

An account can pay when it is active, in the right currency, and its rail reaches that kind of
destination. Of those that can, a healthy one goes before a sick one, then the cheaper one (setting
`cost`, minor units a payment), then the name decides, so that the choice can be repeated. A sick
account is still chosen when there is no other: the payment then waits for it to recover.

After the first order left there is no choice any more: another account would pay a second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paymaster.dispatch.accounts import PayoutAccount
from paymaster.rails.base import RailCaps


@dataclass(frozen=True, slots=True)
class Candidate:
    """An account with what its rail can do and whether it works at the moment."""

    account: PayoutAccount
    caps: RailCaps
    healthy: bool


def can_pay(candidate: Candidate, kind: str, currency: str) -> bool:
    """Whether this account can pay a destination of a kind in a currency at all."""
    account, caps = candidate.account, candidate.caps
    return (
        account.active
        and account.rail.currency == currency
        and kind in caps.destination_kinds
        and (caps.currencies is None or currency in caps.currencies)
    )


def choose(candidates: Sequence[Candidate], kind: str, currency: str) -> PayoutAccount | None:
    """The account that pays; None when none can."""
    able = [each for each in candidates if can_pay(each, kind, currency)]
    if not able:
        return None
    return min(able, key=_preference).account


def _preference(candidate: Candidate) -> tuple[bool, int, str]:
    return not candidate.healthy, candidate.account.cost, candidate.account.rail.name
