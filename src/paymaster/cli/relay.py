"""`paymaster relay`: commands between cells that were laid aside."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer

from paymaster.cli.opening import open_deps
from paymaster.db import aside, audit
from paymaster.db.tx import Actor, CellTx
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import NotFound
from paymaster.kernel.ids import new_trace_id, parse_text_id, text_id

app = typer.Typer(help="Commands between cells.", no_args_is_help=True)
_ACTOR = Actor("cli:relay")
_MOST = 10_000


async def _listing() -> list[dict[str, object]]:
    async with open_deps() as deps:
        return [
            {
                "id": text_id("cm", cell.number, one.message_id),
                "topic": one.topic,
                "key": one.key,
                "from_cell": cell.number,
                "to_cell": one.target_cell,
                "tries": one.tries,
                "slug": one.slug,
                "detail": one.detail,
                "laid_at": rfc3339(one.laid_at),
                "trace_id": one.trace_id,
            }
            for cell in deps.dbs.cells()
            for one in await deps.dbs.cell(cell.number).read(lambda tx: aside.listing(tx, _MOST))
        ]


@app.command("aside")
def list_aside() -> None:
    """Commands that were laid aside, in their order, one JSON object a line."""
    for row in asyncio.run(_listing()):
        typer.echo(json.dumps(row))


async def try_again(tx: CellTx, message_id: int, reason: str | None) -> int:
    """Have a command tried again, with those behind it; audited. Raises NotFound `not-found`."""
    count = await aside.try_again(tx, message_id)
    if not count:
        raise NotFound("not-found", "No command of this id lies aside.")
    subject = text_id("cm", tx.cell, message_id)
    await audit.record(tx, [audit.Act("command.retry", subject, reason, {"commands": count})])
    return count


@app.command("retry")
def retry(
    command: Annotated[str, typer.Argument(help="Its id, cm_...")],
    reason: Annotated[str | None, typer.Option(help="Why it will succeed now.")] = None,
) -> None:
    """Have the relay try a command again, with those of its key that wait behind it."""
    ref = parse_text_id("cm", command)

    async def work() -> int:
        async with open_deps() as deps:
            return await deps.dbs.cell(ref.cell).run(
                _ACTOR, new_trace_id(), lambda tx: try_again(tx, ref.id, reason)
            )

    typer.echo(json.dumps({"due": asyncio.run(work())}))
