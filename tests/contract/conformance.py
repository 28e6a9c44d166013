"""The conformance suite: what every rail must do, checked against a world that knows the truth.

A rail passes when every check that applies to its capabilities passes. A check is a coroutine over
a `Harness`: the rail under test and its provider (a sandbox, or a provider's own test system). The
checks believe the provider's books, never the rail.

    problems = await run(harness)        # {} when the rail conforms

`broken_rails` shows that no check is idle: each catches a rail with a defect that real systems had.
"""

from __future__ import annotations

from tests.contract import checks_of_answers, checks_of_orders
from tests.contract.checking import CHECKS, NotConforming, applies
from tests.contract.harness import Harness

SUITE = (checks_of_orders, checks_of_answers)
"""The modules whose import registers the checks."""


async def run(harness: Harness) -> dict[str, str]:
    """Run every check that applies; what is wrong, by check."""
    problems: dict[str, str] = {}
    for name, function in CHECKS.items():
        if applies(name, harness):
            try:
                await function(harness)
            except Exception as error:  # noqa: BLE001 - a rail that breaks a check fails it
                problems[name] = f"{type(error).__name__}: {error}"
    return problems


__all__ = ["CHECKS", "SUITE", "NotConforming", "applies", "run"]
