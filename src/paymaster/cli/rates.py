"""`paymaster rates`: rates between currencies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from paymaster.cli.keys import Mode, Tenant
from paymaster.cli.opening import environment_of, opened
from paymaster.compose import Deps
from paymaster.db.tx import Actor
from paymaster.kernel.errors import Refusal
from paymaster.kernel.ids import new_trace_id
from paymaster.withdraw import rates_ecb, rates_record
from paymaster.withdraw.rates import Rate
from paymaster.withdraw.rates_record import Recorded

app = typer.Typer(help="Rates between currencies.", no_args_is_help=True)


@app.command("import")
def import_file(
    file: Annotated[
        Path, typer.Argument(help="The European Central Bank's reference rates, XML or CSV.")
    ],
    tenant: Tenant = "default",
    mode: Mode = "test",
) -> None:
    """Take down the newest day of a file; safe to repeat."""
    try:
        body = file.read_bytes()
    except OSError as error:
        raise Refusal("file-unreadable", f"{file}: {error.strerror}.") from None

    async def work(deps: Deps) -> Recorded:
        environment, fx = environment_of(deps, tenant, mode), deps.settings.fx
        rates = rates_ecb.read(body, fx.ecb_age_hours * 3600)
        now = deps.dbs.clock_of(environment.id).now()
        return await deps.dbs.control.run(
            Actor("cli", None, environment.id),
            new_trace_id(),
            lambda tx: rates_record.record(tx, environment.id, rates, fx.most_change_percent, now),
        )

    done = opened(work)
    typer.echo(json.dumps({"new": done.new, "known": done.known}))


@app.command("list")
def list_rates(tenant: Tenant = "default", mode: Mode = "test") -> None:
    """The newest rate of each source and pair, one JSON object a line."""

    async def work(deps: Deps) -> list[Rate]:
        environment = environment_of(deps, tenant, mode)
        return await deps.dbs.control.read(lambda tx: rates_record.newest(tx, environment.id))

    for rate in opened(work):
        typer.echo(json.dumps(rates_record.shown(rate)))
