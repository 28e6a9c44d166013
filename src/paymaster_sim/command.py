"""`paymaster sim`: seeds are run one after the other, or by several processes side by side."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import typer

from paymaster.kernel.clock import monotonic_seconds
from paymaster.kernel.errors import Refusal
from paymaster_sim import mutants, script, writing
from paymaster_sim.mixes import rails_of
from paymaster_sim.runtime import fixed_hash_seed, on_one_core
from paymaster_sim.script import FAULTS, Script
from paymaster_sim.shrink import shrink
from paymaster_sim.stage import Found, Result, Stage, stage
from paymaster_sim.workers import many


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for."""

    seed: int = 1
    seeds: int = 1
    days: int = 30
    users: int = 50
    faults: str = "all"
    as_json: bool = False
    shrink: bool = False
    mutant: str | None = None
    script: Path | None = None
    workers: int = 1
    trace: Path | None = None
    rails: str = ""


@dataclass(slots=True)
class Sum:
    """What all runs came to."""

    seeds: int = 0
    withdrawals: int = 0
    faults: int = 0
    crashes: int = 0
    steps: int = 0
    by_rail: dict[str, Counter[str]] = field(default_factory=dict[str, Counter[str]])
    violations: list[dict[str, object]] = field(default_factory=list[dict[str, object]])

    def add(self, result: Result) -> None:
        """One more run."""
        self.seeds += 1
        self.withdrawals += result.withdrawals
        self.faults += result.faults
        self.crashes += result.crashes
        self.steps += result.steps
        self._add_rails(result.by_rail)
        if result.violation is not None:
            self.violations.append({**result.violation.wire(), "trace": result.digest})

    def merge(self, told: dict[str, object]) -> None:
        """What another process has counted, as it wrote it."""
        for name in ("seeds", "withdrawals", "faults", "crashes", "steps"):
            setattr(self, name, getattr(self, name) + int(str(told[name])))
        rails = told["by_rail"]
        if isinstance(rails, dict):
            self._add_rails(rails)  # pyright: ignore[reportUnknownArgumentType]
        found = told["violations"]
        if isinstance(found, list):
            self.violations += found  # pyright: ignore[reportUnknownArgumentType]

    def _add_rails(self, more: Mapping[str, Mapping[str, int]]) -> None:
        for name, states in more.items():
            self.by_rail.setdefault(name, Counter()).update(states)

    def wire(self, seconds: float) -> dict[str, object]:
        """For JSON."""
        return {
            "seeds": self.seeds,
            "withdrawals": self.withdrawals,
            "faults": self.faults,
            "crashes": self.crashes,
            "steps": self.steps,
            "seconds": round(seconds, 2),
            "by_rail": {
                name: dict(sorted(self.by_rail[name].items())) for name in sorted(self.by_rail)
            },
            "violations": self.violations,
        }


def chosen(text: str) -> tuple[str, ...]:
    """The faults that a text names. Raises Refusal `fault-unknown`."""
    if text == "all":
        return tuple(FAULTS)
    names = tuple(name for name in text.split(",") if name) if text != "none" else ()
    for name in names:
        if name not in FAULTS:
            raise Refusal("fault-unknown", f"{name!r} is no fault; there are {', '.join(FAULTS)}.")
    return names


def main(options: Options) -> int:
    """Run what was asked for; 1 when an invariant was violated."""
    fixed_hash_seed()
    chosen(options.faults)
    rails_of(options.seed, options.rails)
    mutants.check(options.mutant)
    began, total = monotonic_seconds(), Sum()
    if options.workers > 1 and options.script is None and options.trace is None:
        for told in many(options.seed, options.seeds, options.workers, _arguments(options)):
            total.merge(told)
            _say(f"{total.seeds} seeds, {len(total.violations)} violations")
    else:
        _here(options, total)
    _report(options, total, monotonic_seconds() - began)
    return 1 if total.violations else 0


def main_mutants(options: Options) -> int:
    """Run each mutant until it is found; 1 when one is not found within fifty seeds."""
    fixed_hash_seed()
    survivors = 0
    for name, mutant in mutants.MUTANTS.items():
        found, tried = None, 0
        faults = chosen(options.faults)
        with mutants.applied(name), stage(options.users) as made:
            for seed in range(options.seed, options.seed + mutants.SEEDS):
                tried += 1
                rails = rails_of(seed, options.rails)
                one = writing.write(seed, options.days, options.users, faults, rails)
                found = made.play(one).violation
                if found is not None:
                    break
        if found is None:
            survivors += 1
            typer.echo(f'{name}: SURVIVED {tried} seeds without "{mutant.guard}"')
        else:
            typer.echo(f"{name}: after {tried} seeds: {_sentence(found)}")
    typer.echo(f"{len(mutants.MUTANTS) - survivors} of {len(mutants.MUTANTS)} mutants found")
    return 1 if survivors else 0


def _arguments(options: Options) -> list[str]:
    given = [
        f"--days={options.days}", f"--users={options.users}", f"--faults={options.faults}",
        f"--rails={options.rails}", "--json",
    ]  # fmt: skip
    if options.mutant:
        given.append(f"--mutant={options.mutant}")
    return [*given, "--shrink"] if options.shrink else given


def _here(options: Options, total: Sum) -> None:
    on_one_core()
    changed = mutants.applied(options.mutant) if options.mutant else nullcontext()
    first = next(_scripts(options))
    with changed, stage(first.users) as made:
        for one in _scripts(options):
            result = made.play(one, keep=options.trace is not None)
            total.add(result)
            if options.trace is not None:
                options.trace.write_text("\n".join(result.lines) + "\n")
            if result.violation is not None:
                _say(_sentence(result.violation))
                if options.shrink:
                    _shrunk(made, one, result.violation, options.mutant)


def text_of(file: Path) -> str:
    """What is in a file. Raises Refusal `file-unreadable`."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal("file-unreadable", f"{file} cannot be read: {error}.") from None


def _scripts(options: Options) -> Iterator[Script]:
    if options.script is not None:
        yield script.load(text_of(options.script))
        return
    faults = chosen(options.faults)
    for seed in range(options.seed, options.seed + options.seeds):
        rails = rails_of(seed, options.rails)
        yield writing.write(seed, options.days, options.users, faults, rails)


def _shrunk(made: Stage, one: Script, found: Found, mutant: str | None) -> None:
    def told(acts: int, runs: int) -> None:
        _say(f"  {acts} acts left after {runs} runs")

    short = shrink(made, one, found, told=told)
    path = Path(f"sim-{one.seed}.json")
    path.write_text(short.dump())
    again = f"paymaster sim --script {path}" + (f" --mutant {mutant}" if mutant else "")
    _say(f"  {len(short.acts)} of {len(one.acts)} acts: {again}")


def _sentence(found: Found) -> str:
    return (
        f"seed {found.seed}: {found.name}, on day {found.day:.3f}, step {found.step}:"
        f" {found.detail}"
    )


def _report(options: Options, total: Sum, seconds: float) -> None:
    if options.as_json:
        typer.echo(json.dumps(total.wire(seconds)))
        return
    typer.echo(
        f"{total.seeds} seeds, {total.withdrawals} withdrawals, {total.faults} faults,"
        f" {total.crashes} crashes, {total.steps} steps in {seconds:.1f} s:"
        f" {len(total.violations)} violations"
    )
    for found in total.violations:
        typer.echo(f"  seed {found['seed']}: {found['invariant']}: {found['detail']}")


def _say(text: str) -> None:
    typer.echo(text, err=True)
