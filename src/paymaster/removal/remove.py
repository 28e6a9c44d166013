"""Removing an environment, step by step; each step may be repeated, and the next one relies on it.

    close      the application's role may no longer look into the cells
    seal       what was committed is put into the hash chains, and the chains are verified
    certify    rows and balances are taken and signed; the file is on the disk
    record     one transaction in the directory: keys revoked, rows deleted, the removal recorded
    drop       the schemas go, table by table
    seal       the record is put into the directory's chain

Until `record` nothing is lost and the environment can be opened again; from then on it is removed,
and the command, given again, drops what is left. So at no moment is an environment in use whose
cells are gone.
"""

from __future__ import annotations

import asyncio
import getpass
import hashlib
import os
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from paymaster.compose import Deps
from paymaster.db import audit, seal_verify
from paymaster.db.cells import Databases
from paymaster.db.seal import Place as Chain
from paymaster.db.servers import app_role, owner_dsns
from paymaster.db.tx import Actor, ControlTx
from paymaster.db.worker import holder
from paymaster.kernel.errors import Conflict, Problem, Refusal
from paymaster.kernel.ids import new_trace_id
from paymaster.removal import certificate, directory, inventory, schemas
from paymaster.removal.certificate import KIND, VERSION, CellEnd, Certificate, Named, moment
from paymaster.removal.directory import Known, Place
from paymaster.roles.sealing import Sealer

_GRACE = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What shall be removed, why, and where the certificate goes."""

    tenant: str
    mode: str
    confirm: str
    reason: str
    file: Path
    force: bool = False


@dataclass(frozen=True, slots=True)
class Removed:
    """What was done. `certificate` is the SHA-256 of the file; `dropped` the schemas gone now."""

    name: str
    certificate: bytes
    dropped: list[str]
    secrets: list[str]


@dataclass(frozen=True, slots=True)
class _Run:
    """One run of the command: `dbs` has the owner's rights."""

    deps: Deps
    dbs: Databases
    owners: dict[str, str]
    wanted: Wanted
    actor: Actor

    @property
    def role(self) -> str:
        return app_role(self.deps.settings)

    async def seal(self, chain: Chain) -> None:
        """Seal all that was committed; waits for the lease of another one that seals."""
        length = timedelta(seconds=self.deps.settings.roles.lease_seconds)
        sealer = Sealer(chain, lease_length=length, interval=timedelta())
        try:
            await sealer.catch_up(length + _GRACE)
        finally:
            await sealer.give_up()


async def remove(deps: Deps, wanted: Wanted) -> Removed:
    """Remove an environment; again after a crash it completes what was begun.

    Raises Refusal `environment-confirm`, `environment-unknown`, `environment-running`,
    `environment-open`, `removal-file`, `file-unwritable`, Conflict `environment-changed`, and what
    sealing and signing raise. Nothing is lost then.
    """
    _checked(wanted)
    owners = owner_dsns(deps.settings)
    async with schemas.alone(owners), _opened(deps, owners) as dbs:
        found = await dbs.control.read(lambda tx: directory.named(tx, wanted.tenant, wanted.mode))
        if found is None:
            raise Refusal("environment-unknown", f"There is no environment {wanted.confirm}.")
        places = await dbs.control.read(lambda tx: directory.cells(tx, found.id))
        actor = Actor("cli", _origin(), found.id, wanted.reason)
        run = _Run(deps, dbs, owners, wanted, actor)
        digest = found.certificate
        if digest is None:
            digest = await _certify_and_record(run, found, places)
        else:
            _same_file(wanted.file, digest)
        dropped = await drop(run, places)
        await run.seal(dbs.control)
        names = certificate.read(wanted.file).certificate.secrets if wanted.file.exists() else []
        return Removed(found.name, digest, dropped, names)


def _checked(wanted: Wanted) -> None:
    name = f"{wanted.tenant}/{wanted.mode}"
    if wanted.confirm != name:
        raise Refusal("environment-confirm", f"To remove this environment, write --confirm {name}.")
    if not wanted.reason.strip():
        raise Refusal("environment-confirm", "Write down with --reason why it is removed.")


def _same_file(file: Path, digest: bytes) -> None:
    """It was removed already: the file is the certificate, or was taken away."""
    if file.exists() and certificate.read(file).sha256 != digest:
        raise Refusal(
            "removal-file",
            f"{file} is not the certificate of this removal, whose SHA-256 is {digest.hex()}.",
        )


@asynccontextmanager
async def _opened(deps: Deps, owners: dict[str, str]) -> AsyncGenerator[Databases]:
    """With the owner's rights, and as much time as counting takes."""
    dbs = Databases(owners, deps.clock, connections=2, statement_seconds=0)
    try:
        await dbs.open()
        yield dbs
    finally:
        await dbs.close()


async def _certify_and_record(run: _Run, found: Known, places: Sequence[Place]) -> bytes:
    """Up to the record; whatever is refused on the way, the environment is as it was."""
    _free_file(run.wanted.file, found)
    await _unfinished(run, found, places)
    try:
        await close(run, places)
        # What was looked at before may have changed until nobody could write any more.
        unfinished = await _unfinished(run, found, places)
        ends = await end_chains(run, places)
        broken = [end.number for end in ends if end.chain.findings]
        unfinished += [f"cell {number}: its hash chain does not hold" for number in broken]
        _refuse_open(run, found, unfinished)
        data = await certify(run, found, ends, unfinished)
        digest = hashlib.sha256(data).digest()
        await record(run, found, places, digest)
    except BaseException:
        await _open_again(run, found, places)
        raise
    return digest


async def _open_again(run: _Run, found: Known, places: Sequence[Place]) -> None:
    """Unless it was recorded after all: the connection may be lost while COMMIT is under way."""
    now = await run.dbs.control.read(lambda tx: directory.numbered(tx, found.id))
    if now is not None and now.certificate is None:
        await asyncio.to_thread(schemas.open_to, run.owners, places, run.role)


def _free_file(file: Path, found: Known) -> None:
    """A file from a run that did not come to its end is replaced, anything else is not."""
    if file.exists() and certificate.read(file).certificate.environment.id != str(found.id):
        raise Refusal("removal-file", f"{file} is the certificate of another environment.")


async def _unfinished(run: _Run, found: Known, places: Sequence[Place]) -> list[str]:
    """What is not finished, by cell.

    Raises Refusal `environment-running` while processes work for it, `environment-open` for what
    is not finished in a live one.
    """
    here, unfinished, runs = holder(), list[str](), list[Problem]()
    for place in places:
        cell = run.dbs.cell(place.number)
        for one in await cell.read(inventory.working):
            if one.holder != here and not _dead(one.holder):
                until = f"process {one.holder} works in it, at least until {one.until}"
                runs.append(Problem(f"/cells/{place.number}", until))
        texts = await cell.read(inventory.unfinished)
        unfinished += [f"cell {place.number}: {text}" for text in texts]
    if runs:
        raise Refusal(
            "environment-running",
            "Stop every role of the installation, and other commands, first; a process that was"
            " killed on another machine counts for a minute.",
            problems=runs,
        )
    _refuse_open(run, found, unfinished)
    return unfinished


def _refuse_open(run: _Run, found: Known, unfinished: Sequence[str]) -> None:
    if unfinished and found.mode == "live" and not run.wanted.force:
        raise Refusal(
            "environment-open",
            f"{found.name} is live and not finished; --force removes it all the same.",
            problems=[Problem("/", text) for text in unfinished],
        )


def _dead(name: str) -> bool:
    """Whether a holder was a process of this machine that has ended."""
    host, _, number = name.rpartition(":")
    if host != socket.gethostname() or not number.isdigit():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


async def close(run: _Run, places: Sequence[Place]) -> None:
    """Take the cells away from the application's role."""
    await asyncio.to_thread(schemas.close_to, run.owners, places, run.role)


async def end_chains(run: _Run, places: Sequence[Place]) -> list[CellEnd]:
    """Seal and verify each cell's chain, and take what the cell holds."""
    ends: list[CellEnd] = []
    for place in places:
        cell = run.dbs.cell(place.number)
        await run.seal(cell)
        report = await seal_verify.verify(cell)
        findings = len(report.findings)
        ends.append(
            await cell.run(
                run.actor,
                new_trace_id(),
                lambda tx, place=place, findings=findings: inventory.take(tx, place, findings),
            )
        )
    return ends


async def certify(run: _Run, found: Known, ends: list[CellEnd], unfinished: Sequence[str]) -> bytes:
    """Write the certificate and sign it; it is on the disk when this returns."""
    control, number = run.dbs.control, found.id
    unsigned = Certificate(
        KIND,
        VERSION,
        moment(run.deps.clock.now()),
        run.actor.name,
        run.actor.origin or "",
        run.wanted.reason,
        run.wanted.force,
        Named(str(number), found.tenant, found.mode, found.time_zone, moment(found.created_at)),
        ends,
        list(unfinished),
        await control.read(lambda tx: directory.left(tx, number)),
        await control.read(lambda tx: directory.staying(tx, number)),
        await control.read(lambda tx: directory.secret_names(tx, number)),
        certificate.SIGNING_KEY,
        "",
    )
    data = await certificate.sign(unsigned, run.deps.secrets.signers)
    await asyncio.to_thread(certificate.write, run.wanted.file, data)
    return data


async def record(run: _Run, found: Known, places: Sequence[Place], digest: bytes) -> None:
    """From here on it is removed. Raises Conflict `environment-changed` for a new cell."""

    async def work(tx: ControlTx) -> None:
        # Nobody adds a cell meanwhile: that takes this row as well.
        await tx.tuples("SELECT 1 FROM head WHERE id = 1 FOR UPDATE")
        if await directory.cells(tx, found.id) != list(places):
            raise Conflict("environment-changed", "It has another cell now; begin again.")
        await directory.record(tx, found.id, digest, run.wanted.reason)
        await directory.empty(tx, found.id)
        detail = {
            "certificate": digest.hex(),
            "cells": [place.number for place in places],
            "forced": run.wanted.force,
        }
        await audit.record(
            tx, [audit.Act("environment.remove", found.name, run.wanted.reason, detail)]
        )

    await run.dbs.control.run(run.actor, new_trace_id(), work)


async def drop(run: _Run, places: Sequence[Place]) -> list[str]:
    """Drop what is left of the cells; the names of the schemas that were there."""
    return await asyncio.to_thread(schemas.drop, run.owners, places)


def _origin() -> str:
    """Who gave the command, as far as the machine knows."""
    with suppress(OSError, KeyError):
        return f"{getpass.getuser()}@{socket.gethostname()}"
    return f"uid {os.getuid()}@{socket.gethostname()}"
