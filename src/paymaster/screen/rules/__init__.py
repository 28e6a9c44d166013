"""The rules that exist: one file each, named with its version in `KNOWN`."""

from __future__ import annotations

from typing import Protocol

from paymaster.screen.rules.base import Parameters, Rule
from paymaster.screen.rules.cooling_off import CoolingOff
from paymaster.screen.rules.daily_limit import DailyLimit
from paymaster.screen.rules.maximum import Maximum
from paymaster.screen.rules.minimum import Minimum
from paymaster.screen.rules.shared_destination import SharedDestination
from paymaster.screen.rules.standing import AccountStanding
from paymaster.screen.rules.velocity import Velocity


class RuleKind(Protocol):
    """What makes a rule from its parameters."""

    def read(self, parameters: Parameters) -> Rule:
        """Read them, noting faults; the rule is used only when there were none."""
        ...


KNOWN: dict[str, dict[int, RuleKind]] = {
    "standing": {1: AccountStanding},
    "minimum": {1: Minimum},
    "maximum": {1: Maximum},
    "daily_limit": {1: DailyLimit},
    "velocity": {1: Velocity},
    "cooling_off": {1: CoolingOff},
    "shared_destination": {1: SharedDestination},
}
"""Name to version to rule. A version that has judged stays, or its verdicts cannot be replayed."""
