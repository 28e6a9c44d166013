"""`paymaster audit list`: who did what, newest first."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from typing import Annotated

import typer

from paymaster.cli.opening import environment_of, open_deps
from paymaster.db import audit_list
from paymaster.db.audit_list import Entry, Wanted
from paymaster.kernel.clock import parse_rfc3339

_Time = typer.Option(help="RFC 3339 with an offset.", metavar="TIME")


def _moment(text: str | None) -> datetime | None:
    try:
        return None if text is None else parse_rfc3339(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def list_acts(
    actor: Annotated[str | None, typer.Option(help="Such as person:pe_...")] = None,
    subject: Annotated[str | None, typer.Option(help="The id of what it was done to.")] = None,
    action: Annotated[str | None, typer.Option(help="Such as withdrawal.approve.")] = None,
    since: Annotated[str | None, _Time] = None,
    until: Annotated[str | None, _Time] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="At most so many.")] = 50,
    tenant: Annotated[str, typer.Option(help="Name of the app or legal entity.")] = "default",
    mode: Annotated[str, typer.Option(help="live or test")] = "test",
) -> None:
    """Acts in an environment, newest first, one JSON object a line."""
    wanted = Wanted(actor, subject, action, _moment(since), _moment(until))

    async def work() -> list[Entry]:
        async with open_deps() as deps:
            environment = environment_of(deps, tenant, mode)
            cells = [cell.number for cell in deps.dbs.cells(environment.id)]
            directory = await deps.dbs.control.read(
                lambda tx: audit_list.in_directory(tx, environment.id, cells, wanted, None, limit)
            )
            parts = [
                await deps.dbs.cell(number).read(
                    lambda tx: audit_list.in_cell(tx, wanted, None, limit)
                )
                for number in cells
            ]
            return audit_list.merged([directory, *parts], limit)

    for row in asyncio.run(work()):
        typer.echo(json.dumps(row.wire()))
