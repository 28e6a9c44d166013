"""`paymaster clock`: the clock of a test environment."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Annotated

import typer

from paymaster.cli.opening import environment_of, existing, opened
from paymaster.compose import Deps
from paymaster.db import environment_clock
from paymaster.db.tx import Actor
from paymaster.installation import ensure_partitions
from paymaster.kernel.clock import WallClock, parse_rfc3339, rfc3339
from paymaster.kernel.errors import Refusal
from paymaster.kernel.ids import new_trace_id

app = typer.Typer(help="The clock of a test environment.", no_args_is_help=True)

Tenant = Annotated[str, typer.Option(help="Name of the app or legal entity.")]


@app.command("show")
def show(tenant: Tenant = "default") -> None:
    """What time it is in the test environment."""

    async def work(deps: Deps) -> dict[str, object]:
        environment = environment_of(deps, tenant, "test")
        ahead = await deps.dbs.treasury(environment.id).read(environment_clock.ahead)
        return {"now": rfc3339(deps.dbs.clock_of(environment.id).now()), "ahead_seconds": ahead}

    typer.echo(json.dumps(opened(work)))


@app.command("forward")
def forward(
    to: Annotated[str, typer.Option(help="A moment, as 2027-01-31T12:00:00Z.")] = "",
    days: Annotated[float, typer.Option(help="Instead: so many days from the time there.")] = 0.0,
    reason: Annotated[str, typer.Option(help="For the audit trail.")] = "a test",
    tenant: Tenant = "default",
) -> None:
    """Put it forward; what falls due until then is due at once. It never goes back."""
    moment = _moment(to, days)

    async def target(deps: Deps) -> datetime:
        environment = environment_of(deps, tenant, "test")
        await deps.dbs.treasury(environment.id).read(environment_clock.ahead)
        there = deps.dbs.clock_of(environment.id).now()
        return moment or there + timedelta(days=days)

    until = opened(target)
    ensure_partitions(existing(), WallClock(), until)

    async def work(deps: Deps) -> dict[str, object]:
        environment = environment_of(deps, tenant, "test")
        ahead = await environment_clock.forward(
            deps.dbs, environment.id, Actor("cli"), new_trace_id(), until, reason
        )
        now = deps.dbs.clock_of(environment.id).now()
        return {"to": rfc3339(until), "now": rfc3339(now), "ahead_seconds": ahead}

    typer.echo(json.dumps(opened(work)))


def _moment(to: str, days: float) -> datetime | None:
    if bool(to) == bool(days) or days < 0 or days > 3650:
        raise Refusal("time-malformed", "Give --to, or --days from 0 to 3650.")
    try:
        return parse_rfc3339(to) if to else None
    except ValueError as error:
        raise Refusal("time-malformed", f"{to!r} is not a moment: {error}.") from None
