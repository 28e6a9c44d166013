"""A pytest plugin: what is measured while a test runs belongs to that test, and how long it took.

Fixtures of a module or a session belong to the test that asked for them first.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import coverage
import pytest

_seconds: dict[str, float] = {}


def unhurried() -> None:
    """Let no example of hypothesis fail for its time, nor look for the smallest one that fails."""
    from hypothesis import Phase, settings  # noqa: PLC0415 - pytest has to load its plugin first

    phases = (Phase.explicit, Phase.generate)
    settings.register_profile("mutants", deadline=None, database=None, phases=phases)
    settings.load_profile("mutants")


def pytest_configure() -> None:
    """Before tests are collected."""
    unhurried()


def pytest_runtest_logstart(nodeid: str) -> None:
    """Everything from here on is this test's."""
    current = coverage.Coverage.current()
    if current is not None:
        current.switch_context(nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up its phases; one that does not pass says nothing about mutants."""
    known = _seconds.get(report.nodeid, 0.0)
    _seconds[report.nodeid] = float("inf") if report.failed else known + report.duration


def pytest_sessionfinish() -> None:
    """Tell how long each took."""
    sound = {name: seconds for name, seconds in _seconds.items() if seconds != float("inf")}
    Path(os.environ["MUTATION_SECONDS"]).write_text(json.dumps(sound))
