"""A payee's consent to payments once and for all, where a rail pays so: asked, looked up, ended.

What stands is the provider's to say: nothing of it is kept here. No money moves by any of this, and
a payment without a consent is refused by the rail.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from paymaster.dispatch.accounts import PayoutAccount
from paymaster.dispatch.answered import answered
from paymaster.kernel.errors import Conflict
from paymaster.rails.base import Payee, Rail
from paymaster.rails.consent import AsksConsent, Consent

TIMEOUT_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Asking:
    """A payee at the account that pays him by consent."""

    rail: AsksConsent
    account: PayoutAccount
    payee: Payee

    async def ask(self, display_name: str) -> Consent:
        """Ask for it. Not inside a transaction; raises as `_told`."""
        rail, account = self.rail, self.account.rail
        return await _told(lambda: rail.ask_consent(account, self.payee, display_name))

    async def look(self) -> Consent:
        """What became of it. Not inside a transaction; raises as `_told`."""
        return await _told(lambda: self.rail.consent(self.account.rail, self.payee))

    async def end(self) -> Consent:
        """End it. Not inside a transaction; raises as `_told`."""
        return await _told(lambda: self.rail.end_consent(self.account.rail, self.payee))


def asking(
    accounts: Sequence[PayoutAccount], rails: Mapping[str, Rail], payee: Payee, currency: str
) -> Asking:
    """The account that pays a payee by consent; the first by name, where several do.

    Raises Conflict `consent-not-needed` when none does.
    """
    for account in sorted(accounts, key=lambda one: one.rail.name):
        rail = rails.get(account.rail.rail)
        fits = account.active and account.rail.currency == currency
        if fits and isinstance(rail, AsksConsent) and rail.needs_consent(account.rail, payee):
            return Asking(rail, account, payee)
    raise Conflict("consent-not-needed", "No account pays this destination by consent.")


async def _told(call: Callable[[], Awaitable[Consent]]) -> Consent:
    """Raises Conflict `consent-refused`, Busy `consent-unavailable`; see `answered`."""
    return await answered(
        call, TIMEOUT_SECONDS, no_slug="consent-refused", away_slug="consent-unavailable"
    )
