"""`paymaster doctor`: what is set, where it came from, and what is missing."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from paymaster.cli import doctor_secrets
from paymaster.compose import Deps, build
from paymaster.db import ready
from paymaster.db.embedded import EmbeddedPostgresError, find_binaries
from paymaster.db.migrate import latest_version
from paymaster.db.servers import embedded
from paymaster.db.tx import ReadTx
from paymaster.dispatch import accounts, unknowns
from paymaster.kernel.clock import WallClock, rfc3339
from paymaster.kernel.errors import PaymasterError
from paymaster.rails import failures
from paymaster.roles import certificates
from paymaster.roles.process import ROLES
from paymaster.settings import Settings, explain, load_settings
from paymaster.settle import refused_files, unmatched

Finding = tuple[str, bool, str]

_WIDE = 160
_PATIENCE = timedelta(minutes=15)


@dataclass(slots=True)
class Seen:
    """What was seen of secrets, and of values under them."""

    secrets: list[doctor_secrets.Secret] = field(default_factory=list[doctor_secrets.Secret])
    sealed: list[doctor_secrets.SealedCount] = field(
        default_factory=list[doctor_secrets.SealedCount]
    )


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check the installation; exit code 1 when something is missing."""
    settings = load_settings()
    findings = [_python(), _binaries(settings), *_servers(settings)]
    seen = Seen()
    if all(ok for _, ok, _ in findings):
        findings += asyncio.run(_inside(settings, seen))
    findings += certificates.findings(settings, ROLES, WallClock().now())
    healthy = all(ok for _, ok, _ in findings)
    if as_json:
        shown = {
            "healthy": healthy,
            "settings": [
                {"name": name, "value": value, "origin": origin}
                for name, value, origin in explain(settings)
            ],
            "findings": [{"check": c, "ok": ok, "detail": d} for c, ok, d in findings],
            "secrets": [one.wire() for one in seen.secrets],
            "sealed": [one.wire() for one in seen.sealed],
        }
        typer.echo(json.dumps(shown))
    else:
        _show(settings, findings, seen)
    if not healthy:
        raise typer.Exit(1)


def _show(settings: Settings, findings: list[Finding], seen: Seen) -> None:
    # Into a file or a pipe nothing is cut off and lines stay whole.
    console = Console(width=None if sys.stdout.isatty() else _WIDE)
    table = Table(*(Column(name, overflow="fold") for name in ("setting", "value", "from")))
    for name, value, origin in explain(settings):
        table.add_row(name, value, origin)
    console.print(table, *doctor_secrets.tables(seen.secrets, seen.sealed))
    checks = Table("check", "", "")
    for name, ok, detail in findings:
        checks.add_row(name, "[green]ok[/]" if ok else "[red]missing[/]", detail)
    console.print(checks)


def _python() -> Finding:
    return "python", sys.version_info >= (3, 11), sys.version.split()[0]


def _binaries(settings: Settings) -> Finding:
    if settings.database.url is not None:
        return "postgresql", True, "by address"
    try:
        found = find_binaries()
    except EmbeddedPostgresError as error:
        return "postgresql", False, str(error)
    return "postgresql", True, f"{found.version} from {found.origin}"


def _servers(settings: Settings) -> list[Finding]:
    def said(*, runs: bool, exists: bool) -> str:
        if runs:
            return "runs"
        if exists:
            return "run `paymaster up`"
        return "not made yet: name its folder with --data, or run `paymaster setup`"

    return [
        (f"server {name}", one.is_running, said(runs=one.is_running, exists=one.exists))
        for name, one in embedded(settings).items()
    ]


async def _inside(settings: Settings, seen: Seen) -> list[Finding]:
    found: list[Finding] = []
    try:
        async with build(settings) as deps:
            found += await _schemas(deps)
            if not all(ok for _, ok, _ in found):
                return found
            found += _keys(deps)
            seen.secrets += await doctor_secrets.secrets_in_use(deps, deps.clock.now())
            if all(ok for _, ok, _ in found):
                seen.sealed += await doctor_secrets.sealed_counts(deps)
            found += doctor_secrets.findings(seen.secrets, seen.sealed)
            found += [*await _rails(deps), *await put_off(deps), *await unplaced(deps)]
            return [*found, await _ready(deps)]
    except PaymasterError as error:
        return [*found, ("installation", False, str(error))]


async def _schemas(deps: Deps) -> list[Finding]:
    async def version(tx: ReadTx) -> int:
        return int(await tx.value("SELECT max(version) FROM schema_version"))

    found = await deps.dbs.control.read(version)
    wanted = latest_version("control")
    findings: list[Finding] = [("schema control", found == wanted, f"{found} of {wanted}")]
    wanted = latest_version("cell")
    for cell in deps.dbs.cells():
        found = await deps.dbs.cell(cell.number).read(version)
        findings.append((f"schema cell {cell.number}", found == wanted, f"{found} of {wanted}"))
    return findings


def _keys(deps: Deps) -> list[Finding]:
    def check(use: Callable[[], object]) -> tuple[bool, str]:
        try:
            return True, str(use())
        except PaymasterError as error:
            return False, error.detail

    sealer = deps.secrets.sealer
    return [
        ("key-encryption key", *check(lambda: f"id {deps.secrets.kek.current_id()}")),
        ("fingerprint key", *check(lambda: sealer.fingerprint("doctor", "x") and "present")),
    ]


async def _rails(deps: Deps) -> list[Finding]:
    findings: list[Finding] = []
    for environment in deps.dbs.environments():
        for account in (await accounts.load(deps.dbs, environment.id)).values():
            name = f"rail {environment.tenant}/{environment.mode} {account.rail.name}"
            if account.rail.rail not in deps.rails:
                findings.append((name, False, f"the rail {account.rail.rail!r} is not installed"))
                continue
            missing = [s for s in account.rail.secrets.values() if not deps.secrets.store.get(s)]
            detail = f"no secret named {', '.join(missing)}" if missing else account.state
            findings.append((name, not missing, detail))
    return findings


async def put_off(deps: Deps) -> list[Finding]:
    """A finding for each reason for which a provider has been putting payments off for a while."""
    findings: list[Finding] = []
    before = deps.clock.now() - _PATIENCE
    for environment in deps.dbs.environments():
        known = await accounts.load(deps.dbs, environment.id)
        for cell in deps.dbs.cells():
            for one in await deps.dbs.cell(cell.number).read(
                lambda tx: unknowns.put_off(tx, before)
            ):
                account = known.get(one.rail_account_id)
                if account is None:
                    continue
                name = f"payments {environment.tenant}/{environment.mode} {account.rail.name}"
                what = failures.find(one.code, account.rail.rail).operator.en
                since = f"{one.orders} put off, the oldest of {rfc3339(one.since)}"
                findings.append((name, False, f"{since}: {one.code}. {what}"))
    return findings


async def unplaced(deps: Deps) -> list[Finding]:
    """Findings about what providers said that could not be placed, and left that was refused."""
    findings: list[Finding] = []
    for environment in deps.dbs.environments():
        known = await accounts.load(deps.dbs, environment.id)
        notices = Counter[str]()
        for cell in deps.dbs.cells(environment.id):
            notices.update(await deps.dbs.cell(cell.number).read(unmatched.counts))
        if notices:
            name = f"notices {environment.tenant}/{environment.mode}"
            why = ", ".join(f"{count} {slug}" for slug, count in sorted(notices.items()))
            findings.append((name, False, f"laid aside: {why}. See GET /v1/settlement/notices"))
        files = await deps.dbs.treasury(environment.id).read(refused_files.counts)
        for account_id, count in sorted(files.items()):
            account = known.get(account_id)
            rail = str(account_id) if account is None else account.rail.name
            name = f"files {environment.tenant}/{environment.mode} {rail}"
            said = f"{count} refused. See GET /v1/settlement/files?state=refused"
            findings.append((name, False, said))
    return findings


async def _ready(deps: Deps) -> Finding:
    faults = await ready.faults(deps.dbs)
    return "ready", not faults, "; ".join(faults) or "yes"
