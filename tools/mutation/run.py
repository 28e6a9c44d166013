"""Mutants tried one by one, side by side, each in a copy of the project.

A mutant is shown to the tests that run its line; one on a line that runs before any test does (a
table) is shown to the tests of its group. It is killed when a test fails, or when the tests take
far longer than they should. What survives is either a gap in the tests or changes nothing that
matters: `survivors.toml` says which, with the reason, for every one that is known.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from random import Random
from typing import Any, NamedTuple

from tools.mutation.covering import Covering
from tools.mutation.find import Mutant, find, mutated

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
COPIED = ("src", "tests", "docs", "tools", "bench", "deploy", "pyproject.toml", "README.md")
SLOWEST_FACTOR, LEAST_SECONDS, FIRST_TESTS = 6, 60.0, 4
PYTEST = ("-W", "error", "-m", "pytest", "-x", "-q", "-p", "no:xdist", "-p", "no:cacheprovider")


class Group(NamedTuple):
    """Files that the same tests are asked about."""

    name: str
    whole: tuple[str, ...]
    sampled: tuple[str, ...]
    tests: tuple[str, ...]


class Result(NamedTuple):
    """What became of a mutant: killed, survived, or slow (killed by its time)."""

    mutant: Mutant
    group: str
    outcome: str
    seconds: float


def groups() -> list[Group]:
    """The groups of targets.toml, patterns resolved. A file belongs to the first that names it."""
    taken: set[str] = set()
    found: list[Group] = []
    for table in tomllib.loads((HERE / "targets.toml").read_text())["group"]:
        whole = _resolved(table.get("whole", []), taken)
        sampled = _resolved(table.get("sampled", []), taken)
        found.append(Group(table["name"], whole, sampled, tuple(table["tests"])))
    return found


def _resolved(patterns: Sequence[str], taken: set[str]) -> tuple[str, ...]:
    files = [str(p.relative_to(PROJECT)) for one in patterns for p in sorted(PROJECT.glob(one))]
    fresh = [one for one in dict.fromkeys(files) if one not in taken]
    taken.update(fresh)
    return tuple(fresh)


def drawn(sample: int, seed: int, only: Sequence[str]) -> list[tuple[Group, Mutant]]:
    """Every mutant of the whole files, and a sample of the others."""
    whole: list[tuple[Group, Mutant]] = []
    others: list[tuple[Group, Mutant]] = []
    for group in groups():
        if only and group.name not in only:
            continue
        whole += [(group, one) for file in group.whole for one in find(PROJECT, file)]
        others += [(group, one) for file in group.sampled for one in find(PROJECT, file)]
    random = Random(seed)  # noqa: S311 - a sample that can be drawn again
    random.shuffle(others)
    return whole + others[:sample]


class Copies:
    """Copies of the project to put mutants into, one for each that works."""

    def __init__(self, count: int) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="paymaster-mutants-"))
        self._free: SimpleQueue[Path] = SimpleQueue()
        for number in range(count):
            folder = self.root / f"{number}" / "main"
            folder.mkdir(parents=True)
            for name in COPIED:
                source = PROJECT / name
                if source.is_dir():
                    ignored = shutil.ignore_patterns("__pycache__", "node_modules")
                    shutil.copytree(source, folder / name, ignore=ignored)
                elif source.exists():
                    shutil.copy2(source, folder / name)
            self._free.put(folder)

    def take(self) -> Path:
        """One that nobody uses."""
        return self._free.get()

    def give_back(self, folder: Path) -> None:
        """It is as it was."""
        self._free.put(folder)

    def remove(self) -> None:
        """All of them."""
        shutil.rmtree(self.root, ignore_errors=True)


def tests_of(folder: Path, tests: Sequence[str], most_seconds: float) -> tuple[str, float]:
    """Run tests in a copy: `passed`, `failed` or `slow`, and how long it took."""
    paths = f"{folder / 'src'}{os.pathsep}{folder / 'bench'}{os.pathsep}{folder}"
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *PYTEST, "-m", "not long", *tests],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        outcome = "passed" if process.wait(most_seconds) == 0 else "failed"
    except subprocess.TimeoutExpired:
        outcome = "slow"
        _end(process)
    return outcome, time.monotonic() - began


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let pytest tidy up, its server with it; if it does not, end it."""
    for sign, patience in ((signal.SIGINT, 15.0), (signal.SIGKILL, 15.0)):
        try:
            os.killpg(process.pid, sign)
            process.wait(patience)
        except (subprocess.TimeoutExpired, ProcessLookupError):
            continue
        return


def tried(
    work: Sequence[tuple[Group, Mutant]], workers: int, covering: Covering
) -> Iterator[Result]:
    """The results as they come. Raises SystemExit when tests do not pass without a fault."""
    copies = Copies(workers)
    try:
        folder = copies.take()
        for tests in {group.tests for group, _ in work}:
            if tests_of(folder, tests, 1800)[0] != "passed":
                sys.exit(f"These do not pass without a fault: {' '.join(tests)}")
        copies.give_back(folder)
        with ThreadPoolExecutor(workers) as pool:
            for one in [pool.submit(_try, copies, *each, covering) for each in work]:
                yield one.result()
    finally:
        copies.remove()


def _try(copies: Copies, group: Group, mutant: Mutant, covering: Covering) -> Result:
    tests = covering.of(mutant.module, mutant.row)
    most_seconds = LEAST_SECONDS + SLOWEST_FACTOR * covering.needs(tests)
    folder = copies.take()
    file = folder / mutant.module
    sound = file.read_text(encoding="utf-8")
    try:
        file.write_text(mutated(PROJECT, mutant), encoding="utf-8")
        outcome, seconds = "passed", 0.0
        for some in _in_stages(tests, group.tests):
            outcome, took = tests_of(folder, some, most_seconds)
            seconds += took
            if outcome != "passed":
                break
    finally:
        file.write_text(sound, encoding="utf-8")
        copies.give_back(folder)
    said = {"passed": "survived", "failed": "killed", "slow": "slow"}[outcome]
    return Result(mutant, group.name, said, seconds)


def _in_stages(reaching: Sequence[str], whole: Sequence[str]) -> list[Sequence[str]]:
    """The quickest first: they kill most, and need not wait until all are collected.

    What survives the tests that reach its line is shown to all of its group.
    """
    return [
        some
        for some in (reaching[:FIRST_TESTS], reaching[FIRST_TESTS:], whole[:1], whole[1:])
        if some
    ]


def known_survivors() -> dict[str, str]:
    """Why the survivors that are known live, by their key."""
    file = HERE / "survivors.toml"
    if not file.exists():
        return {}
    tables: list[dict[str, Any]] = tomllib.loads(file.read_text()).get("survivor", [])
    return {table["key"]: table["reason"] for table in tables}


def report(results: Sequence[Result], path: Path | None) -> int:
    """Print the score of each group and every survivor; how many survive without a reason."""
    known = known_survivors()
    names = list(dict.fromkeys(result.group for result in results))
    figures: list[dict[str, Any]] = []
    for name in [*names, "all"]:
        here = [result for result in results if name in ("all", result.group)]
        dead = sum(result.outcome != "survived" for result in here)
        score = round(100 * dead / len(here), 1) if here else 0.0
        figures.append({"group": name, "mutants": len(here), "killed": dead, "score": score})
        print(f"{name:24} {len(here):6} mutants {dead:6} killed  {score:5.1f} %")
    alive = [result for result in results if result.outcome == "survived"]
    for result in alive:
        mutant, reason = result.mutant, known.get(result.mutant.key, "no reason given")
        print(f"survived: {mutant.module}:{mutant.row} {mutant.fault}: {mutant.line} [{reason}]")
    if path is not None:
        told = [
            {
                "module": r.mutant.module, "row": r.mutant.row, "fault": r.mutant.fault,
                "line": r.mutant.line, "key": r.mutant.key, "reason": known.get(r.mutant.key),
            }
            for r in alive
        ]  # fmt: skip
        path.write_text(json.dumps({"groups": figures, "survivors": told}, indent=1) + "\n")
    return sum(result.mutant.key not in known for result in alive)
