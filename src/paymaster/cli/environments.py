"""`paymaster environments`: tenants and their two sides; removing one, with proof."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from paymaster.cli.opening import opened
from paymaster.compose import Deps
from paymaster.db.seal_head import SIGNING_KEY
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import Refusal
from paymaster.removal import certificate, check, directory
from paymaster.removal import remove as steps
from paymaster.removal.directory import Known
from paymaster.removal.remove import Removed, Wanted

app = typer.Typer(help="Tenants, live and test; removing one.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("list")
def list_environments(as_json: Json = False) -> None:
    """All environments, also those that were removed; users are those ever made."""

    async def work(deps: Deps) -> list[Known]:
        return await deps.dbs.control.read(directory.known)

    rows = opened(work)
    if as_json:
        typer.echo(json.dumps({"environments": [_wire(row) for row in rows]}))
        return
    for row in rows:
        made = f"made {rfc3339(row.created_at)}"
        gone = "" if row.removed_at is None else f", removed {rfc3339(row.removed_at)}"
        typer.echo(f"{row.name}: {row.cells} cell(s), {row.users} user(s), {made}{gone}")


def _wire(row: Known) -> dict[str, object]:
    """For JSON."""
    return {
        "tenant": row.tenant,
        "mode": row.mode,
        "time_zone": row.time_zone,
        "cells": row.cells,
        "users": row.users,
        "created_at": rfc3339(row.created_at),
        "removed_at": None if row.removed_at is None else rfc3339(row.removed_at),
        "certificate": None if row.certificate is None else row.certificate.hex(),
        "reason": row.reason,
    }


@app.command("remove")
def remove(
    tenant: Annotated[str, typer.Option(help="Name of the app or legal entity.")],
    mode: Annotated[str, typer.Option(help="live or test")],
    confirm: Annotated[str, typer.Option(help="Both again, as TENANT/MODE.")],
    reason: Annotated[str, typer.Option(help="Kept in the audit and in the certificate.")],
    to: Annotated[Path, typer.Option(help="File of the certificate; mode 0600.")],
    force: Annotated[
        bool, typer.Option("--force", help="A live one too that owes money or is not closed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove an environment with all its cells; nothing brings it back.

    Stop the roles before. After a crash give the same command again.
    """
    wanted = Wanted(tenant, mode, confirm, reason, to, force)

    async def work(deps: Deps) -> Removed:
        return await steps.remove(deps, wanted)

    done = opened(work)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "environment": done.name,
                    "certificate": done.certificate.hex(),
                    "dropped": done.dropped,
                    "secrets": done.secrets,
                }
            )
        )
        return
    typer.echo(f"{done.name} is removed; schemas dropped: {', '.join(done.dropped) or 'none'}")
    typer.echo(f"SHA-256 of the certificate: {done.certificate.hex()}")
    if done.secrets:
        typer.echo(f"Secrets that its rail accounts used: {', '.join(done.secrets)}")


@app.command("verify")
def verify(
    file: Annotated[Path, typer.Argument(help="A certificate that `remove` wrote.")],
    public_key: Annotated[
        str | None,
        typer.Option(help="Public key in hex that signed it. Default: that of the secret store."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a certificate, that all of it is gone, and that the hash chain says so."""
    stored = certificate.read(file)
    given = None if public_key is None else _key(public_key)

    async def work(deps: Deps) -> list[str]:
        keys: Sequence[bytes] = (
            [given] if given else await deps.secrets.signers.public_keys(SIGNING_KEY)
        )
        return await check.faults(deps, stored, keys)

    problems, named = opened(work), stored.certificate.environment
    if as_json:
        typer.echo(json.dumps({"ok": not problems, "problems": problems}))
    elif problems:
        typer.echo("\n".join(problems))
    else:
        typer.echo(f"{named.tenant}/{named.mode} was removed as the certificate says: ok")
    if problems:
        raise typer.Exit(1)


def _key(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise Refusal(
            "audit-head-signature", "A public key is hex, as `audit public-key` prints it."
        ) from None
