"""Which event makes which letter, and to whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from paymaster.settings import Email

Audience = Literal["earner", "operators"]


@dataclass(frozen=True, slots=True)
class Letter:
    """A template; `security`: an earner who wants no notices gets it all the same."""

    template: str
    audience: Audience
    security: bool = False


LETTERS: Final = {
    "withdrawal.challenge_reminder": Letter("withdrawal_challenge", "earner", security=True),
    "withdrawal.paid": Letter("withdrawal_paid", "earner"),
    "withdrawal.failed": Letter("withdrawal_failed", "earner"),
    "withdrawal.returned": Letter("withdrawal_returned", "earner"),
    "destination.added": Letter("destination_added", "earner", security=True),
    "destination.paused": Letter("destination_paused", "earner"),
    "security.factor_added": Letter("factor_added", "earner", security=True),
    "security.factor_removed": Letter("factor_removed", "earner", security=True),
    "security.factors_reset": Letter("factors_reset", "earner", security=True),
    "webhook_endpoint.disabled": Letter("endpoint_disabled", "operators"),
    "security.locked_out": Letter("locked_out", "operators"),
    "security.break_glass": Letter("break_glass", "operators"),
    "security.guessing": Letter("alert", "operators"),
}
"""By topic."""

BY_TEMPLATE: Final = {letter.template: letter for letter in LETTERS.values()}


def wanted(settings: Email) -> frozenset[str]:
    """The topics that make letters under these settings."""
    if settings.host is None:
        return frozenset()
    return frozenset(topic for topic, letter in LETTERS.items() if _goes(letter, settings))


def _goes(letter: Letter, settings: Email) -> bool:
    if letter.audience == "operators":
        return bool(settings.operators)
    if settings.earner_notices == "all":
        return True
    return letter.security and settings.earner_notices == "security"
