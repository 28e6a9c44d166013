"""`paymaster import`: files of events."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import track

from paymaster.cli.keys import Mode, Tenant
from paymaster.cli.opening import environment_of, existing
from paymaster.compose import build
from paymaster.db.tx import Actor
from paymaster.earn import mapping
from paymaster.earn.event import EventOutcome, Status
from paymaster.earn.ingest import ingest
from paymaster.kernel.errors import Refusal
from paymaster.kernel.ids import new_trace_id

app = typer.Typer(help="Take files in.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Keeps `events` a subcommand."""


@app.command("events")
def events(
    file: Annotated[Path, typer.Argument(help="Rows with a header line, UTF-8.")],
    fields: Annotated[
        str,
        typer.Option(
            "--mapping", help='JSON: event field to template, such as {"event_id": "{id}", ...}.'
        ),
    ],
    source: Annotated[str, typer.Option(help="An event id is unique in its source.")] = "file",
    tab: Annotated[bool, typer.Option(help="Columns are separated by tabs.")] = False,
    tenant: Tenant = "default",
    mode: Mode = "test",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Stream a CSV or TSV file of events in; safe to repeat. Exit code 1 if a row was rejected."""
    try:
        document: Any = json.loads(fields)
    except ValueError:
        raise Refusal("json-malformed", "The mapping is not JSON.") from None
    found = asyncio.run(
        _read(file, mapping.parse(document), source, "\t" if tab else ",", tenant, mode, as_json)
    )
    counts = {status.value: 0 for status in Status}
    for outcome in found:
        counts[outcome.status.value] += 1
    rejected = [outcome for outcome in found if outcome.status is Status.REJECTED]
    if as_json:
        shown = [{"line": o.line, "slug": o.slug, "detail": o.detail} for o in rejected]
        typer.echo(json.dumps({**counts, "rejections": shown}))
    else:
        typer.echo(", ".join(f"{count} {name}" for name, count in counts.items()))
        for outcome in rejected[:100]:
            typer.echo(f"line {outcome.line}: {outcome.slug}: {outcome.detail}", err=True)
    if rejected:
        raise typer.Exit(1)


async def _read(
    file: Path,
    fields: mapping.FieldMap,
    source: str,
    delimiter: str,
    tenant: str,
    mode: str,
    quiet: bool,
) -> list[EventOutcome]:
    outcomes: list[EventOutcome] = []
    settings = await asyncio.to_thread(existing)
    try:
        handle = await asyncio.to_thread(file.open, encoding="utf-8-sig", newline="")
    except OSError as error:
        raise Refusal("file-unreadable", f"{file} cannot be read: {error.strerror}.") from error
    with handle:
        async with build(settings) as deps:
            environment = environment_of(deps, tenant, mode)
            batches = mapping.read_rows(
                handle, fields, source, deps.clock.now(), delimiter=delimiter
            )
            for parsed in track(batches, "Taking events in", disable=quiet):
                report = await ingest(
                    deps.dbs,
                    deps.secrets.sealer,
                    environment.id,
                    Actor("cli"),
                    new_trace_id(),
                    source,
                    parsed,
                )
                outcomes += report.outcomes
    return outcomes
