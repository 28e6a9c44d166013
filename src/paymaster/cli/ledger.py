"""`paymaster ledger`: prove the books."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, TaskID, TextColumn, TimeElapsedColumn

app = typer.Typer(help="The books.", no_args_is_help=True)


@app.command("prove")
def prove(
    cell: Annotated[int | None, typer.Option("--cell", help="Only this cell.")] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Read all postings again, not only the new ones.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Derive every balance, hold and state anew from the entries; exit code 1 on a difference.

    Posting may go on meanwhile. Postings that an earlier run found sound are not read again,
    unless with --full.
    """
    cells = asyncio.run(_prove(cell, full=full))
    ok = not any(one["differences"] for one in cells)
    if as_json:
        typer.echo(json.dumps({"ok": ok, "cells": cells, "peak_memory_mb": _peak_mb()}))
    else:
        for one in cells:
            _show(one)
    if not ok:
        raise typer.Exit(1)


async def _prove(number: int | None, *, full: bool) -> list[dict[str, Any]]:
    from paymaster.cli.opening import open_deps
    from paymaster.db.tx import Actor
    from paymaster.kernel.clock import monotonic_seconds
    from paymaster.kernel.ids import new_trace_id
    from paymaster.proof import prove_kept

    found: list[dict[str, Any]] = []
    async with open_deps() as deps:
        numbers = [number] if number is not None else [c.number for c in deps.dbs.cells()]
        with _progress() as progress:
            for each in numbers:
                task, began = progress.add_task(f"cell {each}", rows=0), monotonic_seconds()
                db = deps.dbs.cell(each)
                told = _Telling(progress, task, each)
                proof = await prove_kept(db, Actor("cli"), new_trace_id(), full=full, told=told)
                progress.remove_task(task)
                seconds = monotonic_seconds() - began
                found.append({**proof.wire(), "seconds": round(seconds, 2)})
    return found


def _progress() -> Progress:
    """What is being read, on standard error and only when somebody looks at it."""
    return Progress(
        TextColumn("{task.description}"),
        TextColumn("{task.fields[rows]:,} rows"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )


class _Telling:
    """Moves the progress line."""

    def __init__(self, progress: Progress, task: TaskID, cell: int) -> None:
        self._progress, self._task, self._cell = progress, task, cell

    def __call__(self, stage: str, rows: int) -> None:
        self._progress.update(self._task, description=f"cell {self._cell}: {stage}", rows=rows)


def _show(one: dict[str, Any]) -> None:
    differences = one["differences"]
    verdict = f"{len(differences)} differences" if differences else "ok"
    typer.echo(f"cell {one['cell']} at {one['as_of_seq']}: {verdict}")
    for each in differences:
        typer.echo(
            f"  {each['check']} {each['subject']}: the books say {each['stored']},"
            f" derived is {each['derived']}"
        )
    if sys.stderr.isatty():
        after = f" after {one['since_seq']}" if one["since_seq"] else ""
        rate = one["postings"] / max(one["seconds"], 0.01)
        typer.echo(
            f"  read {one['postings']:,} postings{after} and {one['accounts']:,} accounts in"
            f" {one['seconds']:.1f} s ({rate:,.0f} postings a second, peak memory {_peak_mb()} MB)",
            err=True,
        )


def _peak_mb() -> int:
    """The most memory that this process ever held (the server has its own bound)."""
    import resource

    own = Path("/proc/self/status")
    if own.exists():
        # What getrusage says begins, on Linux, with what the process was that started this one.
        words = (line.split() for line in own.read_text().splitlines())
        return next(int(said[1]) // 1024 for said in words if said[0] == "VmHWM:")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most // (1024 * 1024 if sys.platform == "darwin" else 1024)
