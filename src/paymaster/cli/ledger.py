"""`paymaster ledger`: prove the books."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer

from paymaster.compose import build
from paymaster.proof import prove_cells
from paymaster.settings import load_settings

app = typer.Typer(help="The books.", no_args_is_help=True)


@app.command("prove")
def prove(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Derive every balance, hold and state anew from the entries; exit code 1 on a difference."""

    async def work() -> list[dict[str, object]]:
        async with build(load_settings()) as deps:
            return [proof.wire() for proof in await prove_cells(deps.dbs, deps.dbs.cells())]

    cells = asyncio.run(work())
    ok = not any(cell["differences"] for cell in cells)
    if as_json:
        typer.echo(json.dumps({"ok": ok, "cells": cells}))
    else:
        for cell in cells:
            differences = cell["differences"]
            typer.echo(f"cell {cell['cell']} at {cell['as_of_seq']}: {differences or 'ok'}")
    if not ok:
        raise typer.Exit(1)
