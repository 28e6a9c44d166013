"""The page of others' faults names tests that exist, one at least for every entry."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PAGE = PROJECT / "docs" / "internals" / "regressions.md"
OWN = PROJECT / "tests" / "regression"
NAMED = re.compile(r"`(tests/[a-z0-9_/]+\.py)::(test_[a-z0-9_]+)`")
ENTRIES = 34
"""An entry is taken off the page only together with this line."""


def rows() -> list[list[str]]:
    """What went wrong, where, and the tests: the cells of every row but heads and rules."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0] not in {"What went wrong", "---"}]


@cache
def defined_in(path: Path) -> frozenset[str]:
    """The tests at the top of a file, as pytest finds them."""
    found = ast.parse(path.read_text()).body
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(
        one.name for one in found if isinstance(one, functions) and one.name.startswith("test_")
    )


def test_every_entry_names_tests_and_nothing_else() -> None:
    found = rows()
    assert len(found) == ENTRIES
    assert len({tuple(row[:2]) for row in found}) == ENTRIES
    for row in found:
        assert len(row) == 3, row
        assert row[1], row
        assert NAMED.search(row[2]), row
        assert not NAMED.sub("", row[2]).strip(" ,"), row


def test_every_named_test_exists() -> None:
    for path, name in NAMED.findall(PAGE.read_text()):
        file = PROJECT / path
        assert file.exists(), path
        assert name in defined_in(file), f"{path}::{name}"


def test_every_regression_test_is_named() -> None:
    named = {(PROJECT / path, name) for path, name in NAMED.findall(PAGE.read_text())}
    there = {(path, name) for path in OWN.glob("test_*.py") for name in defined_in(path)}
    assert there
    assert there <= named
