"""A run as a list of decisions: what happens when. The same script gives the same run.

A script is written from a seed before anything is run, so that a failing one can be made shorter:
leave out acts until it fails no more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from paymaster.kernel.errors import Refusal

VERSION = 2

FAULTS: Mapping[str, str] = {
    "answer-lost": "the wallet provider pays, and its answer is lost",
    "error-before": "the wallet provider answers 503 and has paid nothing",
    "error-after": "the wallet provider pays and answers 500",
    "slow": "the wallet provider answers after our patience has ended",
    "unreachable": "no connection to the wallet provider",
    "not-found-lag": "what was paid just now is not found yet",
    "forged": "notifications that lie, under a wrong signature",
    "duplicate": "notifications that come several times",
    "late": "notifications that come days later",
    "reordered": "notifications in another order",
    "missing": "notifications that never come",
    "refused": "payees whose payment is refused, at once or later",
    "returned": "payments that come back after they were paid",
    "short": "the float runs dry; payments wait for a top-up",
    "report-lost": "the bank takes a file and never answers to it",
    "skew": "processes whose clocks go wrong by some seconds",
    "crash": "a process ends at any of its awaits, and starts again",
    "stall": "a process stands still after a provider's answer, past the end of its lease",
    "connection": "a process loses its database connections at any of its awaits",
    "repeated": "clients that lose the answer and ask again under the same key",
    "limited": "calls that are turned away because there were too many, or are said to go again",
    "unlisted": "answers with a code that no list has, of orders that were carried out",
    "doubtful": "answers that are not signed, or not right, or cannot be read",
    "lied-no": "a listed refusal, signed, of an order that was carried out",
    "late-end": "orders that a provider works on for hours before they have their end",
    "rotated": "providers that sign with new keys before we know them",
    "provider-skew": "providers whose clocks are wrong by some minutes",
    "unwilling": "payees who forget to confirm, refuse, or come too late",
    "taken-back": "payments that are taken back at the moment at which their payee confirms",
    "consent-closed": "payees who withdraw their consent to transfers, and give it again",
}
"""Every fault by name; some can strike in one currency only. See `mixes`."""


@dataclass(frozen=True, slots=True)
class Act:
    """Something happens `at` so many seconds after the start. `fault` names it, if it is one."""

    at: int
    kind: str
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Script:
    """All that is decided about a run before it begins."""

    seed: int
    days: int
    users: int
    rails: tuple[str, ...]
    acts: tuple[Act, ...]

    def without(self, gone: Iterable[int]) -> Script:
        """The same without the acts at these places."""
        left_out = set(gone)
        kept = tuple(act for place, act in enumerate(self.acts) if place not in left_out)
        return replace(self, acts=kept)

    def dump(self) -> str:
        """As JSON, one act a line."""
        head = {
            "version": VERSION,
            "seed": self.seed,
            "days": self.days,
            "users": self.users,
            "rails": self.rails,
        }
        lines = ",\n".join(f"  {json.dumps(_plain(act), sort_keys=True)}" for act in self.acts)
        return f'{json.dumps(head)[:-1]}, "acts": [\n{lines}\n]}}\n'


def _plain(act: Act) -> dict[str, Any]:
    return {name: value for name, value in asdict(act).items() if value is not None}


def load(text: str) -> Script:
    """Read what `dump` has written. Raises Refusal `script-unreadable`."""
    try:
        found = json.loads(text)
        if found["version"] != VERSION:
            raise ValueError(f"version {found['version']} is not {VERSION}")
        acts = tuple(Act(**act) for act in found["acts"])
        rails = tuple(str(name) for name in found["rails"])
        return Script(int(found["seed"]), int(found["days"]), int(found["users"]), rails, acts)
    except (ValueError, KeyError, TypeError) as error:
        raise Refusal("script-unreadable", f"This is no script of a run: {error}.") from None
