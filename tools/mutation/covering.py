"""Which tests run a line: measured once, so that a mutant is only shown to tests that reach it."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import coverage

ASKED = ("tests/unit", "tests/property", "tests/store", "tests/simulation", "tests/contract")
BEFORE, BEHIND = 6, 10
"""Rows around a line that tell tests apart."""

_SETTINGS = """[run]
source = paymaster
data_file = {data}
"""


@dataclass(frozen=True, slots=True)
class Covering:
    """The tests of each line, by file, and how long each takes.

    The name of no test stands for what runs before any does, while modules are imported.
    """

    tests: dict[str, dict[int, list[str]]]
    seconds: dict[str, float]

    def of(self, module: str, row: int) -> list[str]:
        """The tests that run a line; none where it only runs before any test does."""
        found = self.tests.get(module, {}).get(row, [])
        return [test for test in found if test in self.seconds]

    def ordered(self, module: str, row: int) -> list[str]:
        """The tests that run a line, the quickest first, and in turns: who runs which lines nearby.

        Of all the tests that pass by, few may go where a wrong turn is noticed.
        """
        here = set(self.of(module, row))
        nearby = range(row - BEFORE, row + BEHIND)
        sets = {frozenset(here.intersection(self.of(module, one))) for one in nearby}
        sorted_sets = sorted((sorted(one, key=self._pace) for one in sets), key=len)
        turns = itertools.chain.from_iterable(itertools.zip_longest(*sorted_sets))
        return [test for test in dict.fromkeys(turns) if test is not None]

    def _pace(self, test: str) -> tuple[float, str]:
        return self.seconds[test], test

    def of_file(self, file: str) -> list[str]:
        """All tests of a file."""
        return [test for test in self.seconds if test.startswith(f"{file}::")]

    def imported(self, module: str, row: int) -> bool:
        """Whether a line also runs while modules are imported."""
        return "" in self.tests.get(module, {}).get(row, [])

    def needs(self, tests: list[str]) -> float:
        """How long they take, without the start."""
        return sum(self.seconds.get(test, 0.0) for test in tests)


def measure(
    project: Path, place: Path, asked: tuple[str, ...] = ASKED, workers: int = 1
) -> Covering:
    """Run the tests once under measurement, or read what was measured into this place before."""
    place.mkdir(parents=True, exist_ok=True)
    if not (place / "complete").exists():
        files = sorted(str(path) for one in asked for path in (project / one).rglob("test_*.py"))
        shares = [files[number::workers] for number in range(workers)]
        started = [_start(project, place, number, some) for number, some in enumerate(shares)]
        for process in started:
            process.wait()
        (place / "complete").touch()
    return _read(project, place)


def _start(project: Path, place: Path, number: int, files: list[str]) -> subprocess.Popen[bytes]:
    settings = place / f"coverage.{number}.ini"
    settings.write_text(_SETTINGS.format(data=place / f"coverage.{number}.data"))
    command = [sys.executable, "-m", "coverage", "run", f"--rcfile={settings}", "-m", "pytest"]
    command += ["-p", "no:xdist", "-p", "no:cacheprovider", "-p", "tools.mutation.contexts"]
    command += ["-q", "-m", "not long", *files]
    paths = os.pathsep.join(str(project / name) for name in ("src", "bench", "."))
    seconds = str(place / f"seconds.{number}.json")
    environment = {**os.environ, "PYTHONPATH": paths, "MUTATION_SECONDS": seconds}
    return subprocess.Popen(command, cwd=project, env=environment)


def _read(project: Path, place: Path) -> Covering:
    tests: dict[str, dict[int, list[str]]] = {}
    for data in sorted(place.glob("coverage.*.data")):
        measured = coverage.CoverageData(str(data))
        measured.read()
        for file in measured.measured_files():
            module = tests.setdefault(str(Path(file).relative_to(project)), {})
            for row, names in measured.contexts_by_lineno(file).items():
                module.setdefault(row, []).extend(names)
    seconds: dict[str, float] = {}
    for file in sorted(place.glob("seconds.*.json")):
        seconds.update(json.loads(file.read_text()))
    return Covering(tests, seconds)
