"""`paymaster screen`: stored verdicts."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer

from paymaster.cli.opening import open_deps
from paymaster.kernel.errors import NotFound
from paymaster.kernel.ids import parse_text_id
from paymaster.screen import decide

app = typer.Typer(help="Screening.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Keeps `replay` a subcommand."""


@app.command("replay")
def replay(
    withdrawal: Annotated[str, typer.Argument(help="Its id, wd_...")],
) -> None:
    """Reach the stored verdicts again from their stored facts and rules; fail if one differs."""

    async def work() -> list[dict[str, object]]:
        async with open_deps() as deps:
            ref = parse_text_id("wd", withdrawal)
            stored = await deps.dbs.cell(ref.cell).read(
                lambda tx: decide.stored_verdicts(tx, ref.id)
            )
            if not stored:
                raise NotFound("not-found", "There is no verdict on this withdrawal.")
            return [
                {"outcome": decide.check(one).outcome.value, "same": True, "facts": one.facts}
                for one in stored
            ]

    for row in asyncio.run(work()):
        typer.echo(json.dumps(row))
