"""What a policy says of the earnings of a source: when they clear, what is reserved, who bears.

A source is `campaign:<external id>`, `source:<name of the sender of events>`, `type:<task type>`,
`partner:<sponsor's external id>` or `default`. The most specific policy in force, in this order,
counts alone: nothing is mixed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from paymaster.kernel.errors import Problem, Unprocessable
from paymaster.people.kyc import LEVELS

MAX_SECONDS = 366 * 24 * 3600
MILLION = 1_000_000
DEFAULT: Final = "default"
KINDS: Final = ("campaign", "source", "type", "partner")
"""From the most specific on; `default` comes last."""

Bearer = Literal["platform", "sponsor"]


class Reserve(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`ppm` millionths of each matured reward stay aside for `seconds`."""

    ppm: int
    seconds: int


class Chargeback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What happens when more than `above_ppm` millionths were taken back within the window.

    Counted are the credits of the source, and those of the user, each from `at_least` rewards on.
    `extra_seconds` is how much longer a reward then clears, again and again while it is so; None
    means that a person has to let it mature.
    """

    above_ppm: int
    window_days: int
    at_least: int = 10
    extra_seconds: int | None = None


class FirstPayout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A user's first withdrawal waits `seconds` from `since` on; only of the default policy."""

    seconds: int
    since: Literal["registration", "first_earning"] = "first_earning"


class Terms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a policy says. `clearing_seconds` None: what the campaign says, `vesting_seconds`.

    `tiers` has other clearing times by KYC level. `loss` is who bears a debt that is written off.
    A policy that is not `in_force` leaves its source to the next less specific one.
    """

    in_force: bool = True
    clearing_seconds: int | None = None
    tiers: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    reserve: Reserve | None = None
    chargeback: Chargeback | None = None
    first_payout: FirstPayout | None = None
    loss: Bearer = "platform"

    def stored(self) -> dict[str, Any]:
        """As JSON, complete."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found


@dataclass(frozen=True, slots=True)
class Policy:
    """A version of a source's policy."""

    id: int
    source: str
    version: int
    terms: Terms

    @property
    def name(self) -> str:
        """Source and version, as people read it."""
        return f"{self.source}/{self.version}"

    def wire(self) -> dict[str, Any]:
        """What a reward shows of it."""
        return {"source": self.source, "version": self.version}


_Key = tuple[str, int | str]


class Policies:
    """Those of an environment that are in force."""

    __slots__ = ("_by_key",)

    def __init__(self, rows: Iterable[Sequence[Any]] = ()) -> None:
        """From rows of id, source, subject id, version, terms."""
        self._by_key: dict[_Key, Policy] = {}
        for number, source, subject_id, version, terms in rows:
            policy = Policy(number, source, version, msgspec.convert(terms, Terms))
            if policy.terms.in_force:
                kind, _, name = source.partition(":")
                self._by_key[kind, name if subject_id is None else subject_id] = policy

    def __bool__(self) -> bool:
        return bool(self._by_key)

    def of(self, campaign_id: int, sponsor_id: int, task_type: str, source: str) -> Policy | None:
        """The one that counts for a reward; None where none does."""
        keys: tuple[_Key, ...] = (
            ("campaign", campaign_id),
            ("source", source),
            ("type", task_type),
            ("partner", sponsor_id),
            (DEFAULT, ""),
        )
        return next((self._by_key[key] for key in keys if key in self._by_key), None)


NONE: Final = Policies()
"""Where nobody has ever set a policy."""


def read(document: Mapping[str, Any], source: str) -> Terms:
    """Check a document. Raises Unprocessable `policy-invalid` with every fault."""
    try:
        terms = msgspec.convert(document, Terms)
    except msgspec.ValidationError as error:
        raise _invalid([Problem("/terms", f"{error}.")]) from None
    problems: list[Problem] = []
    _seconds(problems, "/terms/clearing_seconds", terms.clearing_seconds)
    for level, seconds in terms.tiers.items():
        if level not in LEVELS:
            problems.append(Problem("/terms/tiers", f"Levels are: {', '.join(LEVELS)}."))
        _seconds(problems, f"/terms/tiers/{level[:20]}", seconds)
    if terms.reserve is not None:
        _share(problems, "/terms/reserve/ppm", terms.reserve.ppm, 1)
        _seconds(problems, "/terms/reserve/seconds", terms.reserve.seconds, 1)
    if terms.chargeback is not None:
        _watch(problems, terms.chargeback)
    if terms.first_payout is not None:
        _seconds(problems, "/terms/first_payout/seconds", terms.first_payout.seconds)
        if source != DEFAULT:
            said = "Whose first payout it is, is no matter of a source: set it in `default`."
            problems.append(Problem("/terms/first_payout", said))
    if problems:
        raise _invalid(problems)
    return terms


def _watch(problems: list[Problem], rule: Chargeback) -> None:
    _share(problems, "/terms/chargeback/above_ppm", rule.above_ppm, 0)
    if not 1 <= rule.window_days <= 366:
        problems.append(Problem("/terms/chargeback/window_days", "Write days from 1 to 366."))
    if not 1 <= rule.at_least <= MILLION:
        problems.append(Problem("/terms/chargeback/at_least", f"Write 1 to {MILLION}."))
    _seconds(problems, "/terms/chargeback/extra_seconds", rule.extra_seconds, 3600)


def _seconds(problems: list[Problem], at: str, seconds: int | None, least: int = 0) -> None:
    if seconds is not None and not least <= seconds <= MAX_SECONDS:
        problems.append(Problem(at, f"Write seconds from {least} to {MAX_SECONDS}."))


def _share(problems: list[Problem], at: str, ppm: int, least: int) -> None:
    if not least <= ppm <= MILLION:
        problems.append(Problem(at, f"Write millionths from {least} to {MILLION}."))


def _invalid(problems: list[Problem]) -> Unprocessable:
    return Unprocessable("policy-invalid", "The policy has faults.", problems=problems)


def share(amount: int, ppm: int) -> int:
    """So many millionths of an amount, rounded half to even."""
    whole, rest = divmod(amount * ppm, MILLION)
    return whole + (2 * rest > MILLION or (2 * rest == MILLION and whole % 2 == 1))
