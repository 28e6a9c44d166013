"""`paymaster lockouts`: who guessed wrong too often, and letting them in again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from paymaster.cli.opening import existing
from paymaster.compose import Deps, build
from paymaster.db import lockouts
from paymaster.db.lockouts import Lockout
from paymaster.db.tx import Actor, ControlTx
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.ids import new_trace_id

T = TypeVar("T")
app = typer.Typer(help="Lock-outs after wrong guesses.", no_args_is_help=True)


def _run(work: Callable[[Deps], Awaitable[T]]) -> T:
    settings = existing()

    async def inside() -> T:
        async with build(settings) as deps:
            return await work(deps)

    return asyncio.run(inside())


@app.command("list")
def list_(
    everything: Annotated[
        bool, typer.Option("--all", help="Also what is only counted, and locks that have ended.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """What is locked, the last failure first."""
    rows = _run(
        lambda deps: deps.dbs.control.read(
            lambda tx: lockouts.listing(tx, only_locked=not everything)
        )
    )
    if as_json:
        typer.echo(json.dumps({"lockouts": [_wire(row) for row in rows]}))
        return
    for row in rows:
        until = "-" if row.locked_until is None else rfc3339(row.locked_until)
        place = f"{row.kind}\t{row.subject or '-'}\t{row.address or '-'}"
        typer.echo(f"{place}\t{row.failures} failures\t{row.locks} locks\tuntil {until}")


@app.command("clear")
def clear(
    kind: Annotated[str, typer.Argument(help="As shown by `list`: key, login, totp, ...")],
    subject: Annotated[str, typer.Argument(help="As shown by `list`; '' for an address alone.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept in the audit trail.")],
    address: Annotated[str, typer.Option(help="As shown by `list`, if there is one.")] = "",
) -> None:
    """Unlock, and forget the failures. Who calls and is refused is let in a moment later."""

    async def work(tx: ControlTx) -> None:
        await lockouts.clear(tx, kind, subject, reason, address=address)

    _run(lambda deps: deps.dbs.control.run(Actor("cli"), new_trace_id(), work))
    typer.echo("unlocked")


def _wire(row: Lockout) -> dict[str, str | int | None]:
    return {
        "kind": row.kind,
        "subject": row.subject,
        "address": row.address,
        "failures": row.failures,
        "failed_at": rfc3339(row.failed_at),
        "locks": row.locks,
        "locked_until": None if row.locked_until is None else rfc3339(row.locked_until),
    }
