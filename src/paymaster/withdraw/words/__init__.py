"""How a withdrawal stands, in words: data beside the machine, one entry for each of its states."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, get_args

from paymaster.kernel.errors import Broken
from paymaster.kernel.language import Words
from paymaster.rails.failures import Who
from paymaster.withdraw.machine import WITHDRAWAL, State

UNDER_REVIEW = State.IN_REVIEW
"""How an earner is shown whatever people or an authority have stopped."""

ANSWERED = "challenge_answered"
"""How one that is challenged stands once its user has given the proof, until it is judged again."""


@dataclass(frozen=True, slots=True)
class StateWords:
    """`stage` and `money` are codes for apps; `now`, `then` and `staff` words for people."""

    stage: str
    money: str
    next: Who
    now: Words
    then: Words
    staff: Words


def _toml(name: str) -> dict[str, Any]:
    text = files("paymaster.withdraw.words").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


@cache
def states() -> Mapping[str, StateWords]:
    """For every state, and for `ANSWERED`.

    Raises Broken `words-malformed` where one is missing or half written.
    """
    places = _toml("common")["money"]
    found: dict[str, StateWords] = {}
    for state, entry in _toml("states").items():
        try:
            now, then, staff = (Words(*entry.pop(name)) for name in ("now", "then", "staff"))
            found[state] = StateWords(now=now, then=then, staff=staff, **entry)
        except (KeyError, TypeError) as error:
            raise Broken("words-malformed", f"states.toml, {state}: {error!r}.") from error
        if found[state].next not in get_args(Who) or found[state].money not in places:
            raise Broken("words-malformed", f"states.toml, {state}: an unknown code.")
    if found.keys() != {ANSWERED, *(str(state) for state in WITHDRAWAL.states())}:
        raise Broken("words-malformed", "states.toml does not hold exactly the machine's states.")
    return MappingProxyType(found)


def of(state: str) -> StateWords:
    """Those of a state, or of `ANSWERED`."""
    return states()[state]


@cache
def common(group: str, name: str) -> Words:
    """A sentence of `common.toml`."""
    return Words(*_toml("common")[group][name])
