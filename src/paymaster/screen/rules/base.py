"""What a rule is, and how it reads its parameters.

A rule looks at the facts and says what it found. It reads no clock, no table and no setting. Once
a version of a rule has judged, its behaviour is frozen: a change is a new version beside it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol, cast

from paymaster.kernel.errors import Problem, Refusal
from paymaster.kernel.money import EXPONENTS, Money
from paymaster.screen.facts import Facts, KycLevel, UserFacts, Window
from paymaster.screen.verdict import Outcome

ANY_CURRENCY = "*"
_COUNTRY = re.compile(r"[A-Z]{2}\Z", re.ASCII)
_WHOLE_UNITS = re.compile(r"(0|[1-9][0-9]{0,14})\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a rule objects to."""

    outcome: Outcome
    text: str


class Rule(Protocol):
    """A rule with its parameters read."""

    def judge(self, facts: Facts) -> Sequence[Finding]:
        """What it objects to; nothing when all is well or it does not concern this act."""
        ...

    def windows(self) -> frozenset[Window]:
        """The windows whose figures it needs among the facts."""
        ...


@dataclass(frozen=True, slots=True)
class AmountTable:
    """Amounts per currency, and per KYC level where that differs; `*` is any other currency.

    Looked up in this order: the level's currency, the level's `*`, the currency, `*`. What a
    jurisdiction has a table of its own for is looked up there first, in the same order.
    """

    amounts: Mapping[str, str]
    levels: Mapping[str, Mapping[str, str]]
    jurisdictions: Mapping[str, AmountTable] = field(default_factory=dict[str, "AmountTable"])

    def find(self, currency: str, user: UserFacts) -> Money | None:
        """The amount that applies to a user; None when the table does not say."""
        place = user.jurisdiction if isinstance(user.jurisdiction, str) else None
        return self._find(currency, user.kyc_level, place)

    def every(self, currency: str) -> list[Money | None]:
        """The amounts that apply to anybody: one for each level and jurisdiction."""
        return [
            self._find(currency, level, place)
            for level in KycLevel
            for place in (None, *self.jurisdictions)
        ]

    def currencies(self) -> set[str]:
        """Every currency that has a line somewhere."""
        found = {*self.amounts, *(name for table in self.levels.values() for name in table)}
        return found.union(*(table.currencies() for table in self.jurisdictions.values()))

    def _find(self, currency: str, level: KycLevel, place: str | None) -> Money | None:
        own = self.jurisdictions.get(place) if place is not None else None
        found = own._find(currency, level, None) if own is not None else None  # noqa: SLF001
        if found is not None:
            return found
        for table in (self.levels.get(level.value, {}), self.amounts):
            text = table.get(currency, table.get(ANY_CURRENCY))
            if text is not None:
                return _parsed(text, currency)
        return None


@lru_cache(maxsize=4096)
def _parsed(text: str, currency: str) -> Money:
    return Money.parse(text, currency)


class Parameters:
    """Reads the parameters of one rule and collects every fault under its JSON pointer."""

    def __init__(self, data: Mapping[str, Any], pointer: str, problems: list[Problem]) -> None:
        self._data = data
        self._pointer = pointer
        self._problems = problems
        self._read: set[str] = set()

    def problem(self, name: str, detail: str) -> None:
        """Note a fault at a parameter; at the parameters as a whole when `name` is empty."""
        pointer = f"{self._pointer}/{name}" if name else self._pointer
        self._problems.append(Problem(pointer, detail))

    def has(self, name: str) -> bool:
        """Whether it is given."""
        return self._data.get(name) is not None

    def whole(self, name: str, *, least: int, most: int) -> int:
        """A whole number that must be given."""
        value = self._take(name)
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        self.problem(name, f"Give a whole number from {least} to {most}.")
        return least

    def optional_whole(self, name: str, *, least: int, most: int) -> int | None:
        """A whole number, or None when it is not given."""
        return self.whole(name, least=least, most=most) if self.has(name) else None

    def choice(self, name: str, choices: Sequence[str], default: str | None = None) -> str:
        """One of several words."""
        value = self._take(name)
        if value is None and default is not None:
            return default
        if isinstance(value, str) and value in choices:
            return value
        self.problem(name, f"Give one of {', '.join(choices)}.")
        return choices[0]

    def outcome(self, default: Outcome) -> Outcome:
        """The parameter `outcome`: what the rule says when it objects."""
        words = [Outcome.CHALLENGE.value, Outcome.REVIEW.value, Outcome.DENIED.value]
        return Outcome(self.choice("outcome", words, default.value))

    def amounts(self, name: str, *, required: bool) -> AmountTable:
        """A table of amounts; beside it `levels` and `jurisdictions` for those that differ."""
        base = self._table(self._take(name), name)
        elsewhere = self.has("levels") or self.has("jurisdictions")
        if required and not self._data.get(name) and not elsewhere:
            self.problem(name, 'Give at least one amount, such as {"EUR": "10.00"}.')
        places: dict[str, AmountTable] = {}
        given = self._object(self._take("jurisdictions"), "jurisdictions")
        for place, tables in given.items():
            at = f"jurisdictions/{_step(place)}"
            if _COUNTRY.match(place) is None:
                self.problem(at, "Write a country as two capital letters, such as CN.")
            own = self._object(tables, at)
            for other in own.keys() - {name, "levels"}:
                self.problem(f"{at}/{_step(other)}", f"A jurisdiction has {name} and levels.")
            places[place] = AmountTable(
                self._table(own.get(name), f"{at}/{name}"),
                self._levels(own.get("levels"), f"{at}/levels"),
            )
        return AmountTable(base, self._levels(self._take("levels"), "levels"), places)

    def _levels(self, value: object, at: str) -> dict[str, Mapping[str, str]]:
        known = [level.value for level in KycLevel]
        levels: dict[str, Mapping[str, str]] = {}
        for level, table in self._object(value, at).items():
            if level not in known:
                self.problem(f"{at}/{_step(level)}", f"A KYC level is one of {', '.join(known)}.")
            levels[level] = self._table(table, f"{at}/{_step(level)}")
        return levels

    def finish(self) -> None:
        """Every name that nobody has read is a fault: a misspelt limit would be no limit."""
        for name in self._data:
            if name not in self._read:
                self.problem(_step(name), "This rule has no such parameter.")

    def _take(self, name: str) -> object:
        self._read.add(name)
        return self._data.get(name)

    def _object(self, value: object, name: str) -> Mapping[str, object]:
        if isinstance(value, Mapping):
            return cast("Mapping[str, object]", value)
        if value is not None:
            self.problem(name, 'Give an object such as {"EUR": "10.00"}.')
        return {}

    def _table(self, value: object, name: str) -> dict[str, str]:
        table: dict[str, str] = {}
        for currency, text in self._object(value, name).items():
            fault = _fault(currency, text)
            if fault is None:
                table[currency] = cast("str", text)
            else:
                self.problem(f"{name}/{_step(currency)}", fault)
        return table


def _step(name: str) -> str:
    """A name as one step of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def _fault(currency: str, text: object) -> str | None:
    """What is wrong with one line of a table of amounts."""
    if not isinstance(text, str):
        return 'Write the amount as a decimal string such as "10.00".'
    if currency == ANY_CURRENCY:
        if _WHOLE_UNITS.match(text) is None:
            return "For any currency write whole units without decimals."
        return None
    if currency not in EXPONENTS:
        return "This is not an ISO 4217 currency code."
    try:
        amount = Money.parse(text, currency)
    except Refusal as refusal:
        return refusal.detail
    return "An amount must not be negative." if amount < Money.zero(currency) else None


def no_figure(window: Window) -> Finding:
    """Nobody measured what a rule needs: a person must look, it is never approved unseen."""
    length = "the day" if window.seconds is None else f"{window.seconds} seconds"
    return Finding(
        Outcome.REVIEW, f"The facts have no figure per {window.scope.value} over {length}."
    )


def no_limit(currency: str) -> Finding:
    """A currency that the table of limits does not know."""
    return Finding(Outcome.REVIEW, f"No limit is set for {currency}.")
