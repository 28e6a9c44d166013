"""`paymaster ledger archive`: whole months of the books leave for files."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

import typer

from paymaster.cli.opening import existing
from paymaster.db.cells import Databases
from paymaster.db.servers import owner_dsns
from paymaster.db.tx import Actor
from paymaster.kernel.clock import WallClock
from paymaster.kernel.errors import Refusal
from paymaster.ledger import archive, archive_file
from paymaster.ledger.archive_file import Manifest
from paymaster.settings import Settings

app = typer.Typer(help="Whole months of the books leave for files.")
_ACTOR = Actor("cli:archive")


def _month(text: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC).date()
    except ValueError:
        raise Refusal("month-invalid", f"{text!r} is not a month; write it as 2026-01.") from None


async def _archive(
    settings: Settings, before: date, folder: Path, cell: int | None, reason: str
) -> list[Manifest]:
    """Archive, oldest first, and stop at the first month that may not go."""
    dbs = Databases(owner_dsns(settings), WallClock(), connections=2, statement_seconds=0)
    await dbs.open()
    made: list[Manifest] = []
    try:
        for row in dbs.cells():
            if cell not in (None, row.number):
                continue
            db = dbs.cell(row.number)
            await archive.finish(db, _ACTOR)
            for month in await db.read(lambda tx: archive.months_before(tx, before)):
                manifest = await archive.archive_month(db, month, folder, _ACTOR, reason)
                if manifest is not None:
                    typer.echo(_line(folder / archive.file_name(row.number, month), manifest))
                    made.append(manifest)
    finally:
        await dbs.close()
    return made


def _line(file: Path, manifest: Manifest) -> str:
    return f"{file}: {manifest.counts['posting']} postings, sha256 {manifest.sha256}"


@app.callback(invoke_without_command=True)
def archive_months(
    context: typer.Context,
    before: Annotated[str, typer.Option(help="Archive the months before it, as 2026-01.")] = "",
    to: Annotated[Path, typer.Option(help="Folder of the files.")] = Path("archive"),
    reason: Annotated[str, typer.Option(help="For the audit trail.")] = "",
    cell: Annotated[int | None, typer.Option(help="Only this cell.")] = None,
) -> None:
    """Write months that are closed, proven and sealed to files, and empty their partitions."""
    if context.invoked_subcommand is not None:
        return
    if not reason:
        raise Refusal("reason-missing", "Say with --reason why months are archived.")
    month, settings = _month(before), existing()
    try:
        to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refusal("file-unwritable", f"{to} cannot be made: {error.strerror}.") from None
    made = asyncio.run(_archive(settings, month, to, cell, reason))
    typer.echo(f"{len(made)} months archived")


@app.command("verify")
def verify(
    file: Annotated[Path, typer.Argument(help="The file; its manifest lies beside it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
) -> None:
    """Prove a file: its hash, its entries and postings, every account's chain of balances."""
    manifest = archive_file.verify(file)
    typer.echo(json.dumps(asdict(manifest)) if as_json else f"ok: {_line(file, manifest)}")
