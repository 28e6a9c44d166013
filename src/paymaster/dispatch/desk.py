"""What dispatch works with: the accounts, their rails, the key to sealed orders, and its pace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from paymaster.dispatch.accounts import PayoutAccount
from paymaster.dispatch.policy import PayoutPolicy
from paymaster.dispatch.route import Candidate
from paymaster.kernel.retry import Backoff
from paymaster.rails.base import Prepared, Rail, pays_out
from paymaster.secrets.sealing import Sealer

_SEND_AGAIN = Backoff(timedelta(seconds=1), timedelta(minutes=10))
_ASK_AGAIN = Backoff(timedelta(seconds=2), timedelta(minutes=15))
_POLL_AGAIN = Backoff(timedelta(seconds=30), timedelta(hours=1))


@dataclass(frozen=True, slots=True)
class Pace:
    """How much at once, and how long.

    `lease` must be longer than `call`, or a holder loses to the clock what it is still doing.
    """

    items: int = 200
    lease: timedelta = timedelta(seconds=120)
    call: timedelta = timedelta(seconds=90)
    send_again: Backoff = _SEND_AGAIN
    ask_again: Backoff = _ASK_AGAIN
    poll_again: Backoff = _POLL_AGAIN
    after_refused_copy: timedelta = timedelta(hours=6)
    look_again: timedelta = timedelta(minutes=5)
    """After which a payment that no account can make or prepare is looked at again."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How an account works at the moment; see `route.Candidate`."""

    healthy: bool = True
    share: int | None = None


WELL = Standing()


@dataclass(frozen=True, slots=True)
class Desk:
    """One environment's way out. Made anew when the accounts are read again.

    `standing` tells how an account works now, as far as this process knows.
    """

    accounts: Mapping[int, PayoutAccount]
    rails: Mapping[str, Rail]
    sealer: Sealer
    pace: Pace = field(default_factory=Pace)
    policy: PayoutPolicy = field(default_factory=PayoutPolicy)
    standing: Callable[[int], Standing] = lambda _account_id: WELL
    watched: frozenset[int] = frozenset()
    """Accounts out of whose queue payments leave only as far as the float reaches."""

    def candidates(self) -> list[Candidate]:
        """The accounts that pay out, with rails installed here, each with how it works."""
        found: list[Candidate] = []
        for account in self.accounts.values():
            rail = self.rail(account)
            if rail is not None and pays_out(rail, account.rail):
                now = self.standing(account.id)
                found.append(Candidate(account, rail.caps, now.healthy, now.share))
        return found

    def rail(self, account: PayoutAccount) -> Rail | None:
        """The rail of an account; None when this process does not have it installed."""
        return self.rails.get(account.rail.rail)


@dataclass(frozen=True, slots=True)
class Order:
    """A claimed batch: what this process alone may send until `until`.

    `replay`: an earlier try of the same bytes may have been executed. `absent`: payments of which
    the provider has proven since that it was not.
    """

    batch_id: int
    account: PayoutAccount
    prepared: Prepared
    lease_token: int
    until: datetime
    tries: int
    replay: bool = False
    absent: frozenset[str] = frozenset()
