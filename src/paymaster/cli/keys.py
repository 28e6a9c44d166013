"""`paymaster keys`: API keys of an environment."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Annotated, TypeVar

import typer

from paymaster.cli.opening import environment_of, opened
from paymaster.compose import Deps
from paymaster.db.cells import Environment
from paymaster.db.tx import Actor, ControlTx
from paymaster.kernel.ids import new_trace_id
from paymaster.people import credentials, staff
from paymaster.people.scopes import DEFAULT_SCOPES, SCOPES

T = TypeVar("T")
app = typer.Typer(help="API keys. A key is shown once, when it is made.", no_args_is_help=True)

Tenant = Annotated[str, typer.Option(help="Name of the app or legal entity.")]
Mode = Annotated[str, typer.Option(help="live or test")]


def run_in(tenant: str, mode: str, work: Callable[[ControlTx, Environment], Awaitable[T]]) -> T:
    """A transaction in the directory, in the name of the command line."""

    async def inside(deps: Deps) -> T:
        environment = environment_of(deps, tenant, mode)
        return await deps.dbs.control.run(
            Actor("cli", None, environment.id), new_trace_id(), lambda tx: work(tx, environment)
        )

    return opened(inside)


@app.command("issue")
def issue(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    tenant: Tenant = "default",
    mode: Mode = "test",
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Repeat for more, of: {', '.join(SCOPES)}. Default: {', '.join(DEFAULT_SCOPES)}."
        ),
    ] = None,
    owner: Annotated[
        str | None,
        typer.Option(help="The person it belongs to: address or pe_...; four eyes count persons."),
    ] = None,
    expires_in_days: Annotated[
        int | None, typer.Option(min=1, max=3650, help="Default: it does not expire.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make a key and print it: it cannot be shown again."""
    scopes = scope or list(DEFAULT_SCOPES)

    async def make(tx: ControlTx, environment: Environment) -> credentials.Issued:
        person = None if owner is None else await staff.find(tx, environment, owner)
        ends = None if expires_in_days is None else tx.now + timedelta(days=expires_in_days)
        return await credentials.issue(tx, environment.id, name, scopes, ends, person)

    made = run_in(tenant, mode, make)
    typer.echo(json.dumps({"key": made.key, "scopes": scopes}) if as_json else made.key)


@app.command("list")
def list_keys(tenant: Tenant = "default", mode: Mode = "test") -> None:
    """The keys of an environment, one JSON object a line; never the keys themselves."""
    for view in run_in(tenant, mode, lambda tx, e: credentials.listing(tx, e.id)):
        typer.echo(json.dumps(view.wire()))


@app.command("revoke")
def revoke(
    prefix: Annotated[str, typer.Argument(help="The visible part, such as pk_test_1a2b3c4d.")],
    reason: Annotated[str, typer.Option(help="Kept in the audit.")],
    tenant: Tenant = "default",
    mode: Mode = "test",
) -> None:
    """End a key at once."""
    run_in(tenant, mode, lambda tx, e: credentials.revoke(tx, e.id, prefix, reason))
    typer.echo(f"{prefix} is revoked")


@app.command("rotate")
def rotate(
    prefix: Annotated[str, typer.Argument(help="The visible part of the old key.")],
    overlap_hours: Annotated[int, typer.Option(help="How long the old key stays good.")] = 24,
    tenant: Tenant = "default",
    mode: Mode = "test",
) -> None:
    """A new key with the same scopes; the old one ends after the overlap."""
    overlap = timedelta(hours=overlap_hours)
    made = run_in(tenant, mode, lambda tx, e: credentials.rotate(tx, e.id, prefix, overlap))
    typer.echo(made.key)
