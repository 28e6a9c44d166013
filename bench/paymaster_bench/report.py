"""What a run found: rows, checks, notes; shown as a table, written as JSON and Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from rich.table import Table

from paymaster_bench.machine import Machine

Status = Literal["ok", "invalid", "skipped"]


@dataclass(slots=True)
class Row:
    """One line: a value beside its reference, both of this run unless the reference says not.

    `ratio` is value / reference_value. `goal` is the least ratio that is aimed at (the most, for
    a row of times); it decides nothing here.
    """

    name: str
    value: float
    unit: str
    reference: str
    reference_value: float | None
    goal: float | None = None
    status: Status = "ok"
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """`value` over `reference_value`."""
        return self.value / self.reference_value if self.reference_value else None

    def wire(self) -> dict[str, object]:
        """For JSON."""
        ratio = self.ratio
        return {
            "name": self.name,
            "value": None if self.status == "skipped" else round(self.value, 3),
            "unit": self.unit,
            "reference": self.reference,
            "reference_value": None
            if self.reference_value is None
            else round(self.reference_value, 3),
            "ratio": None if ratio is None else round(ratio, 4),
            "goal": self.goal,
            "status": self.status,
            "note": self.note,
        }


@dataclass(frozen=True, slots=True)
class Check:
    """A statement about the books after a row: what was looked at, and what was wrong with it."""

    name: str
    ok: bool
    looked_at: int
    faults: Sequence[str] = ()


@dataclass(slots=True)
class Findings:
    """What a family of rows brought."""

    rows: list[Row] = field(default_factory=list[Row])
    checks: list[Check] = field(default_factory=list[Check])
    notes: list[str] = field(default_factory=list[str])

    def judge(self) -> None:
        """A family whose books or verdicts are wrong has no figures."""
        if any(not check.ok for check in self.checks):
            for row in self.rows:
                if row.status == "ok":
                    row.status = "invalid"


def skipped(name: str, reason: str) -> Row:
    """A row that could not be run here."""
    return Row(name, 0.0, "", "", None, status="skipped", note=reason)


@dataclass(slots=True)
class Report:
    """A whole run."""

    machine: Machine
    at: str
    quick: bool
    findings: list[Findings]
    notes: Sequence[str]

    @property
    def rows(self) -> list[Row]:
        """All rows."""
        return [row for found in self.findings for row in found.rows]

    @property
    def checks(self) -> list[Check]:
        """All checks."""
        return [check for found in self.findings for check in found.checks]

    @property
    def all_notes(self) -> list[str]:
        """What the figures do not show, and what was seen on the way."""
        lax = self.machine.not_durable
        warning = [f"NOT DURABLE, so these figures say little: {', '.join(lax)}."] if lax else []
        return [*warning, *self.notes, *(n for found in self.findings for n in found.notes)]

    @property
    def ok(self) -> bool:
        """No check failed."""
        return all(check.ok for check in self.checks)

    def json(self) -> str:
        """The whole report."""
        return json.dumps(
            {
                "rows": [row.wire() for row in self.rows],
                "machine": self.machine.wire(),
                "at": self.at,
                "quick": self.quick,
                "ok": self.ok,
                "checks": [asdict(check) for check in self.checks],
                "notes": self.all_notes,
            },
            indent=1,
        )

    def markdown(self) -> str:
        """The whole report, to be read."""
        machine = self.machine
        settings = ", ".join(f"{name} {value}" for name, value in machine.settings.items())
        lines = [
            f"# Benchmark of {self.at}" + (" (quick: shape, not figures)" if self.quick else ""),
            "",
            (
                f"{machine.cpu}, {machine.cores_used} of {machine.cores_of_machine} cores for"
                f" everything, {machine.kernel}, {machine.python}, PostgreSQL"
                f" {machine.postgresql} ({machine.server}): {settings}. A write of 8 kB is durable"
                f" after {machine.fdatasync_us} us."
            ),
            "",
            f"| {' | '.join(_COLUMNS)} |",
            "|---|--:|---|---|--:|--:|--:|---|",
        ]
        lines += [f"| {' | '.join(cells)} |" for cells in map(_cells, self.rows)]
        lines += ["", "## Checks", ""]
        for check in self.checks:
            verdict = "ok" if check.ok else "WRONG: " + "; ".join(check.faults)
            lines.append(f"- {check.name}, {check.looked_at} looked at: {verdict}")
        lines += ["", "## What this does not show", ""]
        lines += [f"- {note}" for note in self.all_notes]
        return "\n".join(lines) + "\n"

    def table(self) -> Table:
        """For a terminal; the rows' notes are not in it."""
        table = Table(
            title=f"{self.machine.cpu}, {self.machine.cores_used} cores, fdatasync"
            f" {self.machine.fdatasync_us} us",
            title_justify="left",
        )
        for name in _COLUMNS[:-1]:
            justify = "right" if name in _NUMBERS else "left"
            table.add_column(name, justify=justify, no_wrap=name == "row")
        for row in self.rows:
            colour = {"ok": "", "invalid": "red", "skipped": "dim"}[row.status]
            table.add_row(*_cells(row)[:-1], style=colour)
        return table

    def lines(self) -> list[str]:
        """What is said below the table: rows' notes and checks."""
        said = self.all_notes[:1] if self.machine.not_durable else []
        said += [f"{row.name}: {_cells(row)[-1]}" for row in self.rows if _cells(row)[-1]]
        for check in self.checks:
            verdict = "ok" if check.ok else "WRONG: " + "; ".join(check.faults)
            said.append(f"{check.name}: {verdict} ({check.looked_at:,} looked at)")
        return said


_COLUMNS = ("row", "value", "unit", "reference", "its value", "ratio", "goal", "note")
_NUMBERS = {"value", "its value", "ratio", "goal"}


def _cells(row: Row) -> tuple[str, ...]:
    if row.status == "skipped":
        return row.name, "", "", "", "", "", "", f"skipped: {row.note}"
    return (
        row.name,
        _number(row.value),
        row.unit,
        row.reference,
        _number(row.reference_value),
        "" if row.ratio is None else f"{row.ratio:.3f}",
        "" if row.goal is None else f"{row.goal:g}",
        "INVALID " + row.note if row.status == "invalid" else row.note,
    )


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
