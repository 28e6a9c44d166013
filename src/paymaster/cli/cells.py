"""`paymaster cells`: the cells of an installation."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer

from paymaster.cli.opening import environment_of, existing, open_deps
from paymaster.compose import build
from paymaster.installation import NewCell
from paymaster.installation import add_cell as add
from paymaster.kernel.clock import WallClock

app = typer.Typer(help="Cells: where users and their money live.", no_args_is_help=True)


async def _listing() -> list[dict[str, object]]:
    async with open_deps() as deps:
        found: list[dict[str, object]] = []
        for cell in deps.dbs.cells():
            environment = deps.dbs.environment(cell.environment_id)
            found.append(
                {
                    "cell": cell.number,
                    "tenant": environment.tenant,
                    "mode": environment.mode,
                    "server": cell.server,
                    "schema": cell.schema_name,
                    "treasury": cell.treasury,
                }
            )
        return found


@app.command("list")
def list_cells() -> None:
    """All cells, one JSON object a line."""
    for row in asyncio.run(_listing()):
        typer.echo(json.dumps(row))


@app.command("add")
def add_cell(
    tenant: Annotated[str, typer.Option()] = "default",
    mode: Annotated[str, typer.Option()] = "test",
    server: Annotated[str, typer.Option(help="Name of the server that shall hold it.")] = "main",
) -> None:
    """Add a cell to an environment; new users go to it as well. Restart the roles afterwards."""
    settings, clock = existing(), WallClock()

    async def environment_id() -> int:
        async with build(settings) as deps:
            return environment_of(deps, tenant, mode).id

    number = add(settings, clock, asyncio.run(environment_id()), NewCell(server))
    typer.echo(json.dumps({"cell": number}))
