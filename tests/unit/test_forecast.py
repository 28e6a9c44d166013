"""When an account runs dry, as far as the days before can tell; which kinds of accounts count."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest

from paymaster.funding.figures import _SHOWN, OF_USERS
from paymaster.funding.forecast import expected, forecast, weighted_median
from paymaster.ledger.chart import KINDS
from paymaster.settings import Funding

NOW = date(2026, 11, 20)


def test_a_weighted_median() -> None:
    assert weighted_median([]) == 0
    assert weighted_median([(5, 1.0)]) == 5
    assert weighted_median([(1, 1.0), (100, 1.0), (2, 1.0)]) == 2
    assert weighted_median([(1, 1.0), (100, 5.0)]) == 100


def test_a_forecast_follows_the_week() -> None:
    """Fridays cost ten times as much as other days; one day was out of the ordinary."""
    days = [NOW - timedelta(days=ago) for ago in range(1, 29)]
    history = {day: 10_000 if day.weekday() == 4 else 1_000 for day in days}
    history[NOW - timedelta(days=3)] = 900_000
    assert expected(history, NOW) == 10_000  # a Friday
    assert expected(history, NOW + timedelta(days=1)) == 1_000
    found = forecast(history, NOW, 26_000, 0, 0, 7)
    assert found.history_days == 28
    assert found.runs_dry_on == NOW + timedelta(days=8), "two Fridays and seven days between"
    assert found.top_up == 0
    assert forecast(history, NOW, 26_000, 20_000, 1_000, 7).top_up == 11_000
    assert forecast(history, NOW, 10**9, 0, 0, 7).runs_dry_on is None
    assert forecast(history, NOW, 500, 600, 0, 7).runs_dry_on == NOW


def test_too_little_history_makes_no_forecast() -> None:
    history = {NOW - timedelta(days=ago): 1_000 for ago in range(1, 6)}
    found = forecast(history, NOW, 100, 0, 0, 7)
    assert (found.per_day, found.runs_dry_on, found.top_up) == (None, None, 0)
    assert forecast(history, NOW, 100, 400, 50, 7).top_up == 350


def test_the_kinds_of_the_chart_are_all_shown() -> None:
    """A new kind of account must be given a place in the figures."""
    assert set(KINDS) == set(_SHOWN) | OF_USERS


def test_settings_name_modes() -> None:
    assert Funding(modes={"acme/live": "enforce"}).mode_of("acme", "live") == "enforce"
    assert Funding(modes={"acme/live": "enforce"}).mode_of("acme", "test") == "alert"
    wrong: Any = {"acme/live": "often"}
    with pytest.raises(ValueError, match="off, alert or enforce"):
        Funding(modes=wrong)
