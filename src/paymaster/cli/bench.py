"""`paymaster bench`: measure this machine."""

from __future__ import annotations

import importlib.util
import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from paymaster.kernel.errors import Refusal


def _told_to_end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def bench(
    context: typer.Context,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="A row; may be given several times.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small and short: shows the shape, not the figures.")
    ] = False,
    json_path: Annotated[
        str | None, typer.Option("--json", help="Write the report as JSON; - is standard output.")
    ] = None,
    markdown_path: Annotated[
        str | None, typer.Option("--markdown", help="Write the report as Markdown.")
    ] = None,
    cores: Annotated[
        int, typer.Option("--cores", min=1, help="Cores for everything, PostgreSQL included.")
    ] = 2,
    dsn: Annotated[
        str | None,
        typer.Option("--dsn", help="A superuser's address of a server to measure instead."),
    ] = None,
) -> None:
    """Run every promise about speed against its limit; exit code 1 when books are wrong."""
    if context.parent is not None and context.parent.params.get("data") is not None:
        raise Refusal(
            "bench-data", "The benchmark has a folder of its own; --data names an installation's."
        )
    if importlib.util.find_spec("paymaster_bench") is None:
        raise Refusal("bench-missing", "This installation came without the benchmark suite.")
    from paymaster_bench.command import Options, main

    # A run that is told to end removes its server and its folder, as at any other end.
    signal.signal(signal.SIGTERM, _told_to_end)
    raise typer.Exit(main(Options(only or (), quick, json_path, markdown_path, cores, dsn)))
