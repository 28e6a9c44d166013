"""Which tests run a line: measured once, so that a mutant is only shown to tests that reach it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import coverage

MOST_TESTS = 24
"""Of those that reach a line, so many are asked, the quickest first."""

ASKED = ("tests/unit", "tests/property", "tests/store", "tests/simulation", "tests/contract")
_SETTINGS = """[run]
source = paymaster
data_file = {data}
"""


@dataclass(frozen=True, slots=True)
class Covering:
    """The tests of each line, by file, and how long each takes."""

    tests: dict[str, dict[int, list[str]]]
    seconds: dict[str, float]

    def of(self, module: str, row: int) -> list[str]:
        """The quickest tests that run a line; none where it runs before any test does."""
        found = self.tests.get(module, {}).get(row, [])
        sound = [test for test in found if test in self.seconds]
        return sorted(sound, key=lambda test: (self.seconds[test], test))[:MOST_TESTS]

    def needs(self, tests: list[str]) -> float:
        """How long they take, without the start."""
        return sum(self.seconds.get(test, 0.0) for test in tests)


def measure(project: Path, place: Path, asked: tuple[str, ...] = ASKED) -> Covering:
    """Run the tests once under measurement, or read what was measured into this place before."""
    place.mkdir(parents=True, exist_ok=True)
    data, settings, seconds = place / "coverage", place / "coverage.ini", place / "seconds.json"
    if not seconds.exists():
        settings.write_text(_SETTINGS.format(data=data))
        command = [sys.executable, "-m", "coverage", "run", f"--rcfile={settings}", "-m", "pytest"]
        command += ["-p", "no:xdist", "-p", "no:cacheprovider", "-p", "tools.mutation.contexts"]
        command += ["-q", "-m", "not long", *asked]
        paths = os.pathsep.join(str(project / name) for name in ("src", "bench", "."))
        environment = {**os.environ, "PYTHONPATH": paths, "MUTATION_SECONDS": str(seconds)}
        subprocess.run(command, cwd=project, env=environment, check=False)
    return _read(project, data, seconds)


def _read(project: Path, data: Path, seconds: Path) -> Covering:
    measured = coverage.CoverageData(str(data))
    measured.read()
    tests: dict[str, dict[int, list[str]]] = {}
    for file in measured.measured_files():
        module = str(Path(file).relative_to(project))
        by_row = measured.contexts_by_lineno(file)
        tests[module] = {row: [c for c in names if c] for row, names in by_row.items()}
    return Covering(tests, json.loads(seconds.read_text()))
