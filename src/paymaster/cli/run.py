"""Commands that run or prepare the installation."""

from __future__ import annotations

import fcntl
import json
import os
import re
import threading
from typing import Annotated
from zoneinfo import available_timezones

import typer

from paymaster.installation import (
    NewCell,
    add_environment,
    ensure_partitions,
    revive_embedded,
    start_embedded,
    stop_embedded,
)
from paymaster.installation import upgrade as upgrade_schemas
from paymaster.kernel.clock import WallClock
from paymaster.kernel.errors import Refusal
from paymaster.observe import configure_logs
from paymaster.settings import Settings, load_settings

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def up(
    copies: Annotated[int, typer.Option(min=1, max=8, help="Copies of each role.")] = 1,
    exit_with_parent: Annotated[
        bool, typer.Option(help="Stop when the process that started this one ends.")
    ] = False,
) -> None:
    """Start the embedded database, migrate, and run every role until SIGTERM."""
    from paymaster.roles.process import ROLES
    from paymaster.roles.supervisor import Supervisor

    settings, clock = load_settings(), WallClock()
    configure_logs(settings.log.level, settings.log.format)
    _claim_folder(settings)
    start_embedded(settings)
    try:
        upgrade_schemas(settings, clock)
        supervisor = Supervisor(settings, ROLES, copies=copies)
        if exit_with_parent:
            _stop_with_parent(supervisor.request_stop)
        supervisor.every(6 * 3600.0, lambda: ensure_partitions(settings, clock))
        supervisor.every(2.0, lambda: revive_embedded(settings))
        supervisor.run()
    finally:
        stop_embedded(settings)


def _claim_folder(settings: Settings) -> None:
    """One `up` a data folder: the lock is held until this process ends, however it ends.

    Raises Refusal `already-running`.
    """
    folder = settings.database.data_dir
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(folder / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise Refusal(
            "already-running",
            f"Another `paymaster up` serves {folder}; stop it first, or choose another --data.",
        ) from error


def _stop_with_parent(stop: object) -> None:
    parent = os.getppid()

    def watch() -> None:
        wait = threading.Event()
        while os.getppid() == parent:
            wait.wait(0.5)
        if callable(stop):
            stop()

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def role(
    name: Annotated[str, typer.Argument(help="api, hooks, intake, screen, dispatch, ...")],
    health_port: Annotated[
        int | None, typer.Option(help="Port of /healthz, /readyz and /metrics (background roles).")
    ] = None,
    exit_with_parent: Annotated[
        bool, typer.Option(help="Stop when the process that started this one ends.")
    ] = False,
    share_port: Annotated[
        bool, typer.Option(help="Let copies of api or hooks listen on one port side by side.")
    ] = False,
) -> None:
    """Run one role until SIGTERM. The database must run and be migrated."""
    from paymaster.cli.opening import require
    from paymaster.roles.process import ROLES, Running, run_role

    settings = load_settings()
    require(settings)
    number = ROLES.index(name) if name in ROLES else 0
    port = health_port or settings.roles.health_base_port + number
    run_role(settings, Running(name, port, exit_with_parent, share_port))


def setup(
    tenant: Annotated[str, typer.Option(help="Name of the app or legal entity.")] = "default",
    mode: Annotated[str, typer.Option(help="live or test")] = "test",
    time_zone: Annotated[str, typer.Option(help="IANA time zone of its business day.")] = "UTC",
    cell: Annotated[
        list[str] | None,
        typer.Option(help="Server of each cell, the first is the treasury; repeat for more."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make an environment with its cells; safe to repeat."""
    if not _TENANT.fullmatch(tenant):
        raise typer.BadParameter(
            "Write 1 to 64 letters, digits, dots, - and _: it stands in addresses.",
            param_hint="--tenant",
        )
    if mode not in ("live", "test"):
        raise typer.BadParameter("It is live or test.", param_hint="--mode")
    if time_zone not in available_timezones():
        raise typer.BadParameter(
            "Write an IANA name such as Europe/Berlin.", param_hint="--time-zone"
        )
    settings, clock = load_settings(), WallClock()
    start_embedded(settings)
    upgrade_schemas(settings, clock)
    servers = [NewCell(server) for server in cell or ["main"]]
    environment = add_environment(settings, clock, tenant, mode, time_zone, servers)
    if environment.time_zone != time_zone:
        typer.echo(f"{tenant}/{mode} keeps its time zone {environment.time_zone}.", err=True)
    shown = {"tenant": environment.tenant, "mode": environment.mode, "cells": len(servers)}
    typer.echo(json.dumps(shown) if as_json else f"{tenant}/{mode}: {len(servers)} cell(s)")


def upgrade(as_json: Json = False) -> None:
    """Migrate the directory and every cell, and make missing partitions."""
    settings, clock = load_settings(), WallClock()
    start_embedded(settings)
    applied = upgrade_schemas(settings, clock) + ensure_partitions(settings, clock)
    if as_json:
        typer.echo(json.dumps({"applied": applied}))
    else:
        typer.echo("\n".join(applied) or "Everything is up to date.")


def stop_database() -> None:
    """Stop the embedded database servers of the data folder."""
    stop_embedded(load_settings())


def openapi() -> None:
    """Print the OpenAPI document."""
    from paymaster.api.app import openapi_document

    typer.echo(json.dumps(openapi_document(), indent=2, sort_keys=True))
