"""Mutants tried one by one, side by side, each in a copy of the project.

A mutant is shown to the tests that run its line, those first that have killed others in its file;
one on a line that runs before any test does (a table) is shown to the tests of its group. It is
killed when a test fails twice with it that passes without it. Tests that take far longer than they
should are told apart from that (`slow`).
"""

from __future__ import annotations

import json
import shutil
import tempfile
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from random import Random
from typing import Literal, NamedTuple

from tools.mutation.covering import Covering
from tools.mutation.find import Mutant, find, mutated
from tools.mutation.workers import Answer, Limits, Worker

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
WALL_FACTOR, LEAST_WALL_SECONDS = 6, 90.0
CPU_FACTOR, LEAST_CPU_SECONDS = 3, 30.0
MOST_TESTS, MOST_SECONDS = 40, 12.0
"""Of the tests that reach a line, so many are asked, as long as they take less than this."""

MOST_KILLERS = 4
TRUSTED_AFTER = 3
"""A test that failed twice with so many mutants, and never only once, need not be run twice."""

Kind = Literal["warm", "cold"]


class Group(NamedTuple):
    """Files that the same tests are asked about."""

    name: str
    whole: tuple[str, ...]
    sampled: tuple[str, ...]
    tests: tuple[str, ...]


class Result(NamedTuple):
    """What became of a mutant: killed (by a test), survived, or slow: ended for its time."""

    key: str
    module: str
    row: int
    fault: str
    line: str
    group: str
    outcome: str
    test: str
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
    """Every mutant of the whole files, and a sample of the others; in an order drawn as well.

    So what is done of them at any time is a sample of them all.
    """
    whole: list[tuple[Group, Mutant]] = []
    others: list[tuple[Group, Mutant]] = []
    for group in groups():
        if only and group.name not in only:
            continue
        whole += [(group, one) for file in group.whole for one in find(PROJECT, file)]
        others += [(group, one) for file in group.sampled for one in find(PROJECT, file)]
    random = Random(seed)  # noqa: S311 - a sample that can be drawn again
    random.shuffle(others)
    work = [one for one in whole if not one[1].idle]
    work += [one for one in others if not one[1].idle][:sample]
    random.shuffle(work)
    return work


def known(path: Path | None) -> dict[str, Result]:
    """What became of mutants in a run before, by their key."""
    if path is None or not path.exists():
        return {}
    found = [Result(**json.loads(line)) for line in path.read_text().splitlines()]
    return {result.key: result for result in found}


class Trials:
    """What is learnt while mutants are tried: which tests kill, and which can be believed."""

    def __init__(self, covering: Covering) -> None:
        self._covering = covering
        self._killers: dict[tuple[str, Kind], Counter[str]] = defaultdict(Counter)
        self._trusted: Counter[tuple[Kind, str]] = Counter()
        self._sound: dict[tuple[Kind, str], bool] = {}

    def one(self, worker: Worker, group: Group, mutant: Mutant) -> Result:
        """Show a mutant to its tests."""
        seconds = 0.0
        outcome, test = "survived", ""
        sound = (PROJECT / mutant.module).read_text(encoding="utf-8")
        faulty = mutated(PROJECT, mutant)
        fault = {"file": str(worker.folder / mutant.module), "sound": sound, "faulty": faulty}
        worker.put(mutant.module, faulty)
        try:
            for kind, tests in self._plan(group, mutant):
                answer, took = self._shown(worker, mutant, kind, tests, fault)
                seconds += took
                if answer.outcome == "unfit":
                    answer, took = self._shown(worker, mutant, "cold", tests, fault)
                    seconds += took
                if answer.outcome != "passed":
                    outcome = "killed" if answer.outcome == "failed" else "slow"
                    test = answer.test
                    break
        finally:
            worker.restore(mutant.module)
        place = (mutant.module, mutant.row, mutant.fault, mutant.line)
        return Result(mutant.key, *place, group.name, outcome, test, round(seconds, 2))

    def _plan(self, group: Group, mutant: Mutant) -> Iterator[tuple[Kind, list[str]]]:
        """Which tests, and how, one after the other."""
        covering, module = self._covering, mutant.module
        reaching = covering.ordered(module, mutant.row)
        early = covering.imported(module, mutant.row) or not reaching
        kind: Kind = "cold" if early else "warm"
        killers = self._killers[module, kind]
        if early:
            first = [name for name, _ in killers.most_common(MOST_KILLERS)]
            if first:
                yield kind, first
        reaching.sort(key=lambda test: -min(killers[test], MOST_KILLERS))
        some: list[str] = []
        for test in reaching[:MOST_TESTS]:
            if not some or covering.needs([*some, test]) < MOST_SECONDS:
                some.append(test)
        if some:
            yield kind, some
        if early:
            yield kind, list(group.tests)

    def _shown(
        self, worker: Worker, mutant: Mutant, kind: Kind, tests: list[str], fault: dict[str, str]
    ) -> tuple[Answer, float]:
        """Run tests with a fault; a failure that does not come twice is none."""
        seconds, left = 0.0, [one for one in tests if self._sound.get((kind, one), True)]
        while left:
            answer = worker.ask(kind, left, self._limits(left), fault)
            seconds += answer.seconds
            if answer.outcome != "failed":
                return answer, seconds
            if not answer.test:
                # Modules that cannot be imported, or tests of which one has no such name any more.
                files = _files(left)
                if left != files:
                    left = files
                    continue
                is_sound = self._is_sound(worker, kind, files[0], mutant)
                return (answer if is_sound else Answer("passed", "", 0.0)), seconds
            if self._trusted[kind, answer.test] >= TRUSTED_AFTER:
                self._killers[mutant.module, kind][answer.test] += 1
                return answer, seconds
            again = worker.ask(kind, [answer.test], self._limits([answer.test]), fault)
            seconds += again.seconds
            if again.outcome == "failed" and self._is_sound(worker, kind, answer.test, mutant):
                self._trusted[kind, answer.test] += 1
                self._killers[mutant.module, kind][answer.test] += 1
                return answer, seconds
            self._trusted[kind, answer.test] = -len(self._covering.seconds)
            print(f"not to be believed ({kind}): {answer.test}", flush=True)
            if answer.test in left:
                left.remove(answer.test)
            else:
                left.append(f"--deselect={answer.test}")
        return Answer("passed", "", 0.0), seconds

    def _is_sound(self, worker: Worker, kind: Kind, test: str, mutant: Mutant) -> bool:
        """Whether a test passes without a fault, run in the same way."""
        if (kind, test) not in self._sound:
            faulty = (worker.folder / mutant.module).read_text(encoding="utf-8")
            worker.restore(mutant.module)
            answer = worker.ask(kind, [test], self._limits([test]))
            worker.put(mutant.module, faulty)
            self._sound[kind, test] = answer.outcome == "passed"
        return self._sound[kind, test]

    def _limits(self, tests: list[str]) -> Limits:
        """How long tests may take. Tests of whole files: as long as theirs took together."""
        named = [
            name
            for one in tests
            for name in ([one] if "::" in one else self._covering.of_file(one))
        ]
        needs = self._covering.needs(named)
        return Limits(
            LEAST_WALL_SECONDS + WALL_FACTOR * needs, LEAST_CPU_SECONDS + CPU_FACTOR * needs
        )


def _files(tests: Sequence[str]) -> list[str]:
    named = [one for one in tests if not one.startswith("--")]
    return list(dict.fromkeys(one.partition("::")[0] for one in named))


def tried(work: Sequence[tuple[Group, Mutant]], count: int, covering: Covering) -> Iterator[Result]:
    """The results as they come."""
    root = Path(tempfile.mkdtemp(prefix="paymaster-mutants-"))
    workers = [Worker(PROJECT, root / str(number) / "main") for number in range(count)]
    trials, free = Trials(covering), SimpleQueue[Worker]()
    files = sorted({name.partition("::")[0] for name in covering.seconds})

    def begin(worker: Worker) -> None:
        worker.start(files)
        free.put(worker)

    def one(each: tuple[Group, Mutant]) -> Result:
        worker = free.get()
        try:
            return trials.one(worker, *each)
        finally:
            free.put(worker)

    with ThreadPoolExecutor(count) as pool:
        try:
            for done in [pool.submit(begin, worker) for worker in workers]:
                done.result()
            for done in as_completed([pool.submit(one, each) for each in work]):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)
            for worker in workers:
                worker.stop()
            shutil.rmtree(root, ignore_errors=True)
