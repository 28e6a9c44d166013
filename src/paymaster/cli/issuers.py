"""`paymaster issuers`: whose tokens log earners in."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from paymaster.cli.keys import Mode, Tenant, run_in
from paymaster.db.cells import Environment
from paymaster.db.tx import ControlRead, ControlTx
from paymaster.kernel.errors import NotFound
from paymaster.people import issuers
from paymaster.people.issuers import Issuer, NewIssuer
from paymaster.people.oidc_token import ALGORITHMS

app = typer.Typer(help="Issuers whose tokens log earners in.", no_args_is_help=True)

Url = Annotated[str, typer.Argument(help="The address of the issuer, exactly as in `iss`.")]
Reason = Annotated[str, typer.Option(help="Kept in the audit.")]


@app.command("add")
def add(
    url: Url,
    audience: Annotated[
        list[str], typer.Option(help="What `aud` must hold, such as the app's client id; repeat.")
    ],
    algorithm: Annotated[
        list[str] | None, typer.Option(help=f"Of {', '.join(ALGORITHMS)}; repeat. Default: all.")
    ] = None,
    subject_claim: Annotated[str, typer.Option(help="The claim that names the user.")] = "sub",
    user_prefix: Annotated[
        str, typer.Option(help="Stands before the claim in the app's own id of the user.")
    ] = "",
    plain_http: Annotated[
        bool, typer.Option("--plain-http", help="Allow http:// elsewhere than here; test only.")
    ] = False,
    tenant: Tenant = "default",
    mode: Mode = "test",
) -> None:
    """Trust an issuer: its tokens name users of this environment."""
    new = NewIssuer(
        url,
        audience,
        algorithm or list(ALGORITHMS),
        subject_claim,
        user_prefix,
        plain_http,
    )
    made = run_in(tenant, mode, lambda tx, e: issuers.add(tx, e, new))
    typer.echo(json.dumps(made.wire()))


@app.command("list")
def list_issuers(tenant: Tenant = "default", mode: Mode = "test") -> None:
    """The issuers of an environment, one JSON object a line."""
    for one in run_in(tenant, mode, lambda tx, e: issuers.listing(tx, e.id)):
        typer.echo(json.dumps(one.wire()))


@app.command("remove")
def remove(url: Url, reason: Reason, tenant: Tenant = "default", mode: Mode = "test") -> None:
    """Trust an issuer no longer, at once. Its users stay."""

    async def work(tx: ControlTx, environment: Environment) -> None:
        found = await _named(tx, environment, url)
        await issuers.remove(tx, environment.id, found.id, reason)

    run_in(tenant, mode, work)
    typer.echo(f"{url} is removed")


@app.command("disable")
def disable(url: Url, reason: Reason, tenant: Tenant = "default", mode: Mode = "test") -> None:
    """Refuse an issuer's tokens from now on; `enable` takes them again."""
    _set(url, reason, tenant, mode, enabled=False)


@app.command("enable")
def enable(url: Url, reason: Reason, tenant: Tenant = "default", mode: Mode = "test") -> None:
    """Take the tokens of an issuer that was disabled."""
    _set(url, reason, tenant, mode, enabled=True)


def _set(url: str, reason: str, tenant: str, mode: str, *, enabled: bool) -> None:
    async def work(tx: ControlTx, environment: Environment) -> Issuer:
        found = await _named(tx, environment, url)
        return await issuers.enable(tx, environment.id, found.id, enabled=enabled, reason=reason)

    typer.echo(json.dumps(run_in(tenant, mode, work).wire()))


async def _named(tx: ControlRead, environment: Environment, url: str) -> Issuer:
    for one in await issuers.listing(tx, environment.id):
        if one.url == url:
            return one
    raise NotFound("issuer-unknown", "There is no issuer of this address.")
