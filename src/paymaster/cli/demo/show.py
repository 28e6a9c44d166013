"""The demo for a person: progress, the money's way as a table, the final statement."""

from __future__ import annotations

from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
)
from rich.progress import TimeElapsedColumn as Elapsed
from rich.table import Table

from paymaster.kernel.money import Money


class Narrator:
    """Shows stages as they run; quiet when the output is for a program."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            Elapsed(),
            console=console,
            disable=quiet,
        )
        self._task: TaskID | None = None
        self._total = 1

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def stage(self, description: str) -> None:
        """A new stage begins; the one before is done."""
        self.done()
        self._total = 1
        self._task = self._progress.add_task(description, total=self._total)

    def step(self, done: int, total: int) -> None:
        """How far the stage is."""
        if self._task is not None:
            self._total = max(total, 1)
            self._progress.update(self._task, completed=done, total=self._total)

    def done(self) -> None:
        """The stage is complete."""
        if self._task is not None:
            self._progress.update(self._task, completed=self._total, total=self._total)


def money_table(summary: dict[str, Any], currency: str) -> Table:
    """Where the sponsor's money went."""
    table = Table(title="The money's way")
    table.add_column("step")
    table.add_column("count", justify="right")
    table.add_column(currency, justify="right")

    def row(step: str, count: object, minor: int | None, style: str = "") -> None:
        amount = "" if minor is None else Money(minor, currency).text()
        table.add_row(step, str(count), amount, style=style)

    row("answers of workers", summary["answers"], None)
    row("workers", summary["workers"], None)
    row("answers equal to gold, rewarded", summary["rewarded"], summary["rewarded_minor"])
    row("debited to the sponsor's budget", "", summary["sponsor_spent_minor"])
    rails = summary.get("by_rail", {})
    expired = sum(own["expired_minor"] for own in rails.values())
    withdrawn = summary["paid_minor"] + summary["returned_minor"] + expired
    row("withdrawals", summary["withdrawals"], withdrawn)
    row("  paid", summary["paid"], summary["paid_minor"], "green")
    row("  came back, credited again", summary["returned"], summary["returned_minor"])
    if rails:
        row("  not accepted within a day, credited again", summary["expired_returned"], expired)
        for rail, own in rails.items():
            row(f"of the paid, through {rail}", own["paid"], own["paid_minor"])
        row("of the paid, accepted hours late", summary["confirmed_late"], None)
    row("paid by the providers' own books", "", summary["sandbox_paid_minor"])
    row("still owed to workers", "", summary["owed_minor"])
    row("paid twice", summary["duplicates_paid"], None)
    row("breaks left open", summary["open_breaks"], None)
    row("books proven", summary["prove"], None, "bold")
    return table


def statement_table(worker: str, rows: list[dict[str, Any]]) -> Table:
    """One worker's last movements, newest first."""
    table = Table(title=f"Statement of {worker} (available, newest first)")
    for name in ("when", "what", "amount", "balance"):
        table.add_column(name, justify="right" if name in ("amount", "balance") else "left")
    for row in rows:
        table.add_row(
            row["recorded_at"][:19].replace("T", " "),
            f"{row['kind']} {row['subject']}",
            row["amount"]["amount"],
            row["balance"]["amount"],
        )
    return table
