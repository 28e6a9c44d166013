"""`paymaster broker`: the message broker that is told of events."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Annotated

import typer

from paymaster.cli.opening import open_deps
from paymaster.db.cells import Databases
from paymaster.db.tx import Actor
from paymaster.kernel.clock import parse_rfc3339, rfc3339
from paymaster.kernel.errors import NotFound, Refusal
from paymaster.messages.broker import again, aside
from paymaster.messages.broker.link import Access, open_wire
from paymaster.messages.place import Place, locate, places

app = typer.Typer(help="The message broker that is told of events.", no_args_is_help=True)
_ACTOR = Actor("cli:broker")


async def _listing() -> list[dict[str, object]]:
    async with open_deps() as deps:
        return [
            {
                "id": one.event,
                "type": one.topic,
                "key": one.key,
                "tries": one.tries,
                "detail": one.detail,
                "laid_at": rfc3339(one.laid_at),
            }
            for place in places(deps.dbs)
            for one in await place.read(aside.listing)
        ]


@app.command("aside")
def list_aside() -> None:
    """Events that the broker does not take, in their order, one JSON object a line."""
    for row in asyncio.run(_listing()):
        typer.echo(json.dumps(row))


def _find(dbs: Databases, event: str) -> tuple[Place, int]:
    for environment in dbs.environments():
        with contextlib.suppress(NotFound):
            return locate(dbs, environment.id, event)
    raise NotFound("not-found", "There is no such event.")


@app.command("retry")
def retry(
    event: Annotated[str, typer.Argument(help="Its id, ev_... or ec_...")],
    reason: Annotated[str | None, typer.Option(help="Why it will be taken now.")] = None,
) -> None:
    """Have an event that was laid aside sent again."""

    async def work() -> None:
        async with open_deps() as deps:
            place, seq = _find(deps.dbs, event)
            await place.run(_ACTOR, lambda tx: aside.try_again(tx, seq, event, reason))

    asyncio.run(work())
    typer.echo(json.dumps({"due": 1}))


@app.command("again")
def again_since(
    since: Annotated[str, typer.Option(help="RFC 3339, such as 2026-11-20T00:00:00Z.")],
    reason: Annotated[str | None, typer.Option(help="Why.")] = None,
) -> None:
    """Publish all events since a moment again, under their ids: for a stream that was lost."""
    try:
        moment = parse_rfc3339(since)
    except ValueError as error:
        raise Refusal("time-malformed", f"{since!r} is not a moment: {error}.") from None

    async def work() -> int:
        async with open_deps() as deps:
            return sum([
                await one.run(_ACTOR, lambda tx, n=one.name: again.again(tx, n, moment, reason))
                for one in places(deps.dbs)
            ])  # fmt: skip

    typer.echo(json.dumps({"places": asyncio.run(work())}))


@app.command("check")
def check() -> None:
    """Connect as the settings say, see to the stream or the exchange, and say that it works."""

    async def work() -> dict[str, object]:
        async with open_deps() as deps:
            settings = deps.settings.broker
            if settings.kind is None:
                raise Refusal("broker-unset", "No broker is configured: set broker.urls.")
            access = Access(settings, deps.settings.peers, deps.secrets.text)
            wire = await open_wire(access)
            await wire.close()
            where = settings.stream if settings.kind == "nats" else settings.exchange
            return {"kind": settings.kind, "to": where, "limit_bytes": wire.limit_bytes}

    typer.echo(json.dumps(asyncio.run(work())))
