"""What a verdict is made from: every figure that the rules may look at, at one moment.

The facts are stored beside the verdict. Nothing outside them may influence it, so that the same
facts give the same verdict years later, in another process.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import pairwise
from typing import Any

import msgspec

from paymaster.kernel.errors import Broken
from paymaster.kernel.money import Money


class Act(StrEnum):
    """What is being asked for."""

    REGISTRATION = "registration"
    TASK_START = "task_start"
    REWARD = "reward"
    DESTINATION_CHANGE = "destination_change"
    TRANSFER = "transfer"
    WITHDRAWAL = "withdrawal"


class Standing(StrEnum):
    """The state of a user's account."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    CLOSED = "closed"


class KycLevel(StrEnum):
    """How well the user is known."""

    NONE = "none"
    BASIC = "basic"
    FULL = "full"


class Scope(StrEnum):
    """By what requests are counted together."""

    USER = "user"
    DESTINATION = "destination"
    """The fingerprint, whoever uses it."""


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time that ends now: `seconds` long, or the business day so far when None."""

    scope: Scope
    seconds: int | None


@dataclass(frozen=True, slots=True)
class Figure:
    """What happened in a window before this request, which is not counted in.

    `count` is over all currencies, `amounts` holds one sum per currency (absent means none).
    Requests that were denied, cancelled or failed do not count.
    """

    window: Window
    count: int
    amounts: tuple[Money, ...] = ()

    def __post_init__(self) -> None:
        currencies = {money.currency for money in self.amounts}
        if self.count < 0 or len(currencies) != len(self.amounts):
            raise Broken("facts-malformed", "A figure is negative or names a currency twice.")
        if len(currencies) < 2:
            return
        ordered = tuple(sorted(self.amounts, key=lambda money: money.currency))
        object.__setattr__(self, "amounts", ordered)

    def amount(self, currency: str) -> Money:
        """The sum in a currency."""
        found = (money for money in self.amounts if money.currency == currency)
        return next(found, Money.zero(currency))


@dataclass(frozen=True, slots=True)
class UserFacts:
    """The user, by text id; no personal data. `jurisdiction` is a country, where one is known."""

    id: str
    standing: Standing
    kyc_level: KycLevel
    created_at: datetime
    jurisdiction: str | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        object.__setattr__(self, "created_at", _utc(self.created_at))


@dataclass(frozen=True, slots=True)
class DestinationFacts:
    """Where the money would go: the keyed fingerprint in hex, and since when it is known.

    `users` is how many users of the environment have it, as far as anybody has counted.
    """

    kind: str
    fingerprint: str
    added_at: datetime
    users: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "added_at", _utc(self.added_at))


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything about one request.

    `amount` is what was asked for, which the API has held against the same limits: what the payee
    gets, with the fee where the payee bears it.
    """

    act: Act
    at: datetime
    user: UserFacts
    amount: Money | None = None
    destination: DestinationFacts | None = None
    figures: tuple[Figure, ...] = ()
    challenge_passed: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", _utc(self.at))
        keys = [(figure.window.scope, figure.window.seconds or 0) for figure in self.figures]
        if all(before < after for before, after in pairwise(keys)):
            return  # as they are nearly always made: in order, none twice
        windows = [figure.window for figure in self.figures]
        if len(set(windows)) != len(windows):
            raise Broken("facts-malformed", "One window has two figures.")
        ordered = tuple(
            sorted(
                self.figures,
                key=lambda figure: (figure.window.scope.value, figure.window.seconds or 0),
            )
        )
        object.__setattr__(self, "figures", ordered)

    def figure(self, window: Window) -> Figure | None:
        """The figure of a window; None when nobody measured it."""
        return next((figure for figure in self.figures if figure.window == window), None)

    def canonical(self) -> bytes:
        """The one way to write these facts as JSON: sorted names, no spaces, times in UTC."""
        return msgspec.json.encode(self, order="sorted")

    def digest(self) -> str:
        """SHA-256 of the canonical form, in hex."""
        return hashlib.sha256(self.canonical()).hexdigest()

    @classmethod
    def read(cls, stored: str | bytes | Mapping[str, Any]) -> Facts:
        """Read stored facts. Raises Broken `facts-malformed`, also for what is not known here."""
        text = json.dumps(stored) if isinstance(stored, Mapping) else stored
        try:
            facts = msgspec.json.decode(text, type=cls)
            same = json.loads(facts.canonical()) == json.loads(text)
        except (msgspec.MsgspecError, ValueError) as error:
            raise Broken("facts-malformed", f"Stored facts cannot be read: {error}.") from None
        if not same:
            raise Broken("facts-malformed", "Stored facts hold something that is not known here.")
        return facts


def _utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise Broken("facts-malformed", "A time among the facts has no offset.")
    return moment.astimezone(UTC)
