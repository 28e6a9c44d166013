"""A payee's consent to payments once and for all, where a rail pays so: asked, looked up, ended.

What stands is the provider's to say: nothing of it is kept here. No money moves by any of this, and
a payment without a consent is refused by the rail.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from paymaster.dispatch.accounts import PayoutAccount
from paymaster.kernel.errors import Busy, Conflict, RailDoubted, RailError, RailPutOff, RailRefused
from paymaster.observe import get_logger
from paymaster.rails.base import Payee, Rail
from paymaster.rails.consent import AsksConsent, Consent

TIMEOUT_SECONDS: Final = 15.0
_log = get_logger(__name__)


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
    """The provider's answer.

    Raises Conflict `consent-refused` for its no, Busy `consent-unavailable` when there is none.
    """
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await call()
    except RailPutOff as error:
        raise _unavailable(error) from None
    except (RailRefused, RailDoubted) as error:
        code = error.extra.get("code", error.slug)
        raise Conflict("consent-refused", f"The provider refused: {code}.") from None
    except (RailError, TimeoutError) as error:
        raise _unavailable(error) from None


def _unavailable(error: Exception) -> Busy:
    slug = error.slug if isinstance(error, RailError) else "call-timeout"
    _log.warning("consent_unavailable", slug=slug)
    return Busy("consent-unavailable", "The provider gave no answer.", retry_after_seconds=5)
