"""`paymaster audit`: the audit trail, and the hash chain over everything recorded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from paymaster.cli.audit_list import list_acts
from paymaster.cli.opening import open_deps
from paymaster.compose import Deps
from paymaster.db import seal, seal_head, seal_verify
from paymaster.db.seal import Head, Place
from paymaster.db.seal_head import Exported
from paymaster.db.seal_verify import Report
from paymaster.kernel.clock import monotonic_seconds
from paymaster.kernel.errors import Refusal
from paymaster.removal.directory import removed_cells
from paymaster.roles.sealing import Sealer

app = typer.Typer(help="Who did what; the hash chain over it.", no_args_is_help=True)
app.command("list")(list_acts)

_GRACE = timedelta(seconds=1)
"""So that a lease nobody prolongs has run out before we give up."""

Cell = Annotated[int | None, typer.Option(help="Only this cell; 0 for the directory.")]


def _places(deps: Deps, cell: int | None) -> list[Place]:
    """The schemas asked for: the directory is 0, cells begin at 1."""
    if cell == 0:
        return [deps.dbs.control]
    if cell is not None:
        return [deps.dbs.cell(cell)]
    return [deps.dbs.control, *(deps.dbs.cell(known.number) for known in deps.dbs.cells())]


@app.command("verify")
def verify(
    cell: Cell = None,
    head: Annotated[
        Path | None, typer.Option(help="A head exported earlier: finds a lost or rewritten end.")
    ] = None,
    public_key: Annotated[
        str | None,
        typer.Option(help="Public key in hex that signed it. Default: that of the secret store."),
    ] = None,
    no_signature: Annotated[
        bool, typer.Option("--no-signature", help="Take a head that is not signed as well.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compute every block anew and name the first altered record; exit code 1 if there is one."""
    if head is None and (public_key is not None or no_signature):
        raise Refusal("audit-options", "--public-key and --no-signature are about --head.")
    if public_key is not None and no_signature:
        raise Refusal("audit-options", "--public-key and --no-signature exclude each other.")
    exported = None if head is None else _read(head)

    async def work() -> list[Report]:
        async with open_deps() as deps:
            places = _places(deps, cell)
            if exported is not None:
                await _check_signature(deps, exported, public_key, unsigned=no_signature)
                await _check_chains(deps, exported)
            return [await _verify(place, exported, quiet=as_json) for place in places]

    reports = asyncio.run(work())
    ok = not any(report.findings for report in reports)
    if as_json:
        chains = [{**report.wire(), "head": _compared(report, exported)} for report in reports]
        typer.echo(json.dumps({"ok": ok, "chains": chains}))
    else:
        for report in reports:
            _show(report, exported)
    if not ok:
        raise typer.Exit(1)


async def _verify(place: Place, exported: Exported | None, *, quiet: bool) -> Report:
    known = None if exported is None else exported.of(seal.chain_of(place))
    console = Console(stderr=True, quiet=quiet or not Console(stderr=True).is_terminal)
    started = monotonic_seconds()
    with Live(console=console, transient=True) as live:

        def progress(report: Report) -> None:
            rate = report.records / max(monotonic_seconds() - started, 0.001)
            live.update(Text(f"{report.chain}: {report.records:,} records, {rate:,.0f} a second"))

        return await seal_verify.verify(place, known, progress)


def _compared(report: Report, exported: Exported | None) -> dict[str, object] | None:
    """Which block of the head the chain was held against, if any; for JSON."""
    known = None if exported is None else exported.of(report.chain)
    if exported is None or known is None:
        return None
    return {"block": known.block, "reached": report.blocks > known.block, "signed": exported.signed}


def _show(report: Report, exported: Exported | None) -> None:
    state = "ok" if not report.findings else f"{len(report.findings)} findings"
    typer.echo(
        f"{report.chain}: {report.records} records in {report.blocks} blocks, sealed to seq"
        f" {report.sealed_seq}, {report.unsealed} not sealed yet: {state}"
    )
    if exported is not None:
        known = exported.of(report.chain)
        signed = "signed" if exported.signed else "NOT SIGNED"
        if known is None:
            typer.echo(f"  not in the head ({signed}): the chain began later")
        elif report.blocks > known.block:
            typer.echo(f"  compared with block {known.block} of the head ({signed})")
        else:
            typer.echo(f"  block {known.block} of the head ({signed}) was not reached")
    for found in report.findings:
        seq = "" if found.seq is None else f", seq {found.seq}"
        typer.echo(f"  {found.what} {found.table} ({found.key}) in block {found.block}{seq}")


@app.command("seal")
def seal_now() -> None:
    """Seal everything committed so far at once, instead of when its time comes.

    While the role relay seals, wait for it, no longer than its lease lasts.
    """

    async def work() -> None:
        async with open_deps() as deps:
            for place in _places(deps, None):
                length = timedelta(seconds=deps.settings.roles.lease_seconds)
                sealer = Sealer(place, lease_length=length, interval=timedelta())
                try:
                    rows, reached = await sealer.catch_up(length + _GRACE)
                finally:
                    await sealer.give_up()
                typer.echo(
                    f"{seal.chain_of(place)}: sealed to seq {reached}, {rows} rows of it now"
                )

    asyncio.run(work())


@app.command("head")
def head(
    out: Annotated[
        Path | None, typer.Option(help="File to write. Default: standard output.")
    ] = None,
    sign: Annotated[bool, typer.Option(help="Sign it with the key of --key.")] = True,
    key: Annotated[str, typer.Option(help="Name of the key.")] = seal_head.SIGNING_KEY,
) -> None:
    """Export the heads of all chains, to be kept where no operator of the database can write."""
    seal_head.checked_key(key)

    async def work() -> str:
        async with open_deps() as deps:
            # Before the first look: a chain that begins meanwhile is younger than the head.
            now = deps.clock.now()
            found: list[Head] = []
            for place in _places(deps, None):
                name = seal.chain_of(place)
                newest = await place.read(lambda tx, name=name: seal.head(tx, name))
                found += [] if newest is None else [newest]
            if not found:
                raise Refusal("audit-head-empty", "Nothing is sealed yet: run `audit seal` first.")
            signer = deps.secrets.signers if sign else None
            return await seal_head.export(found, now, signer, key)

    document = asyncio.run(work())
    if out is None:
        typer.echo(document)
    else:
        try:
            out.write_text(document + "\n", encoding="utf-8")
        except OSError as error:
            problem = f"{out} cannot be written: {error.strerror}."
            raise Refusal("file-unwritable", problem) from error


@app.command("public-key")
def public_key(
    key: Annotated[str, typer.Option(help="Name of the key.")] = seal_head.SIGNING_KEY,
) -> None:
    """Print the public keys that verify exported heads, newest first, in hex."""
    seal_head.checked_key(key)

    async def work() -> list[bytes]:
        async with open_deps() as deps:
            return list(await deps.secrets.signers.public_keys(key))

    for one in asyncio.run(work()):
        typer.echo(one.hex())


def _read(file: Path) -> Exported:
    try:
        text = file.read_bytes()
    except OSError as error:
        raise Refusal("file-unreadable", f"{file} cannot be read: {error.strerror}.") from error
    return seal_head.read(text)


async def _check_signature(
    deps: Deps, exported: Exported, public_key: str | None, *, unsigned: bool
) -> None:
    """Raises Refusal `audit-head-signature` when it is signed by another key.

    Raises Refusal `audit-head-unsigned` without a signature, unless `unsigned` ones are taken, and
    `audit-head-key` when the head names a key of another purpose.
    """
    keys: Sequence[bytes]
    if not exported.signed or exported.key_id is None:
        if unsigned:
            return
        raise Refusal(
            "audit-head-unsigned",
            "The head is not signed, or its signature was removed. Take a signed copy; with"
            " --no-signature it is taken as it is.",
        )
    if public_key is not None:
        try:
            keys = [bytes.fromhex(public_key)]
        except ValueError:
            raise Refusal(
                "audit-head-signature", "A public key is hex, as `audit public-key` prints it."
            ) from None
    else:
        keys = await deps.secrets.signers.public_keys(seal_head.checked_key(exported.key_id))
    if not exported.signed_by(keys):
        raise Refusal("audit-head-signature", "The head is not signed by that key.")


async def _check_chains(deps: Deps, exported: Exported) -> None:
    """The head names the chains that there were, all of them.

    Cells of environments that were removed are not looked for: see `paymaster environments verify`.
    Raises Refusal `audit-head-chain` for a head of a schema that was never here,
    `audit-head-incomplete` when a chain is not in the head that had begun when it was made.
    """
    places = {seal.chain_of(place): place for place in _places(deps, None)}
    named = {known.chain for known in exported.heads}
    removed = {f"cell:{number}" for number in await deps.dbs.control.read(removed_cells)}
    strangers = sorted(named - places.keys() - removed)
    if strangers:
        raise Refusal("audit-head-chain", f"There is no {', '.join(strangers)} here.")
    for chain in sorted(places.keys() - named):
        first = await places[chain].read(lambda tx: seal.load(tx, 0))
        if first is not None and first.sealed_at <= exported.exported_at:
            raise Refusal(
                "audit-head-incomplete",
                f"The head does not name {chain}, which was sealed before the head was made.",
            )
