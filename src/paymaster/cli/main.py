"""`paymaster`: run everything, one role, the demo; look after an installation."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from paymaster.cli import (
    archive,
    audit,
    bench,
    broker,
    cells,
    certificates,
    clock,
    doctor,
    environments,
    funding,
    imports,
    issuers,
    keys,
    ledger,
    listen,
    lockouts,
    rates,
    relay,
    run,
    sandbox,
    screen,
    secrets,
    sim,
    staff,
)
from paymaster.cli.demo import command as demo_command
from paymaster.kernel.errors import PaymasterError

app = typer.Typer(
    name="paymaster",
    help="The self-hosted backend of an app that pays its users.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("up")(run.up)
app.command("role")(run.role)
app.command("setup")(run.setup)
app.command("upgrade")(run.upgrade)
app.command("stop-database")(run.stop_database)
app.command("demo")(demo_command.demo)
app.command("doctor")(doctor.doctor)
app.command("bench")(bench.bench)
app.command("sim")(sim.sim)
app.command("sandbox")(sandbox.sandbox)
app.command("funding")(funding.funding)
app.command("listen")(listen.listen)
app.command("openapi")(run.openapi)
app.add_typer(audit.app, name="audit")
app.add_typer(broker.app, name="broker")
app.add_typer(keys.app, name="keys")
app.add_typer(issuers.app, name="issuers")
app.add_typer(environments.app, name="environments")
app.add_typer(cells.app, name="cells")
app.add_typer(clock.app, name="clock")
app.add_typer(certificates.app, name="certificates")
app.add_typer(lockouts.app, name="lockouts")
app.add_typer(imports.app, name="import")
ledger.app.add_typer(archive.app, name="archive")
app.add_typer(ledger.app, name="ledger")
app.add_typer(rates.app, name="rates")
app.add_typer(relay.app, name="relay")
app.add_typer(screen.app, name="screen")
app.add_typer(secrets.app, name="secrets")
app.add_typer(staff.app, name="staff")


@app.callback()
def options(
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder of the embedded database and the local keys."),
    ] = None,
) -> None:
    """Options before the command hold for every command."""
    if data is not None:
        os.environ["PAYMASTER__DATABASE__DATA_DIR"] = str(data)


def main() -> None:
    """Entry point: an expected error is one line on standard error and exit code 1."""
    try:
        app()
    except PaymasterError as error:
        print(f"paymaster: {error}", file=sys.stderr)
        for problem in error.problems:
            print(f"  {problem.pointer}: {problem.detail}", file=sys.stderr)
        sys.exit(1)
