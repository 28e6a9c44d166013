"""The rule set that a new environment starts with: careful, and meant to be replaced.

Small first payouts pass by themselves. What is large, fast or in an unlisted currency goes to a
person; beyond the daily limit it is refused.
"""

from __future__ import annotations

from paymaster.screen.rule_set import RuleSet

_DAY_SECONDS, _HOUR_SECONDS = 86_400, 3_600


def default_rule_set(version: int = 1) -> RuleSet:
    """The set, under the version that the environment gives it."""
    return RuleSet.read(
        {
            "version": version,
            "rules": [
                {"rule": "standing"},
                {"rule": "minimum", "parameters": {"amounts": _in_each(1)}},
                {
                    "rule": "maximum",
                    "parameters": {"amounts": _in_each(1_000), "outcome": "review"},
                },
                {
                    "rule": "daily_limit",
                    "parameters": {"count": 10, "amounts": _in_each(5_000)},
                },
                {
                    "id": "user-hour",
                    "rule": "velocity",
                    "parameters": {"scope": "user", "window_seconds": _HOUR_SECONDS, "count": 5},
                },
                {
                    "id": "destination-day",
                    "rule": "velocity",
                    "parameters": {
                        "scope": "destination",
                        "window_seconds": _DAY_SECONDS,
                        "count": 10,
                        "amounts": _in_each(5_000),
                    },
                },
                {
                    "rule": "cooling_off",
                    "parameters": {"seconds": _DAY_SECONDS, "exempt_up_to": _in_each(100)},
                },
                {"rule": "shared_destination", "parameters": {"users": 3}},
            ],
        }
    )


def _in_each(units: int) -> dict[str, str]:
    """About the same worth in the listed currencies; the others have no limit set."""
    return {
        "EUR": str(units),
        "USD": str(units),
        "GBP": str(units),
        "CHF": str(units),
        "CNY": str(units * 7),
        "JPY": str(units * 150),
    }
