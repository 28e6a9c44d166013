"""What an auditor does with a certificate: is it ours, is all gone, does the chain say so too."""

from __future__ import annotations

from collections.abc import Sequence

from paymaster.compose import Deps
from paymaster.db import seal_verify
from paymaster.db.tx import ControlRead
from paymaster.removal import directory
from paymaster.removal.certificate import CellEnd, Stored
from paymaster.removal.directory import Known, Place


async def faults(deps: Deps, stored: Stored, public_keys: Sequence[bytes]) -> list[str]:
    """What is wrong, in words; empty when nothing is.

    Verifies the whole chain of the directory, which holds the record of the removal.
    """
    if not stored.certificate.signed_by(public_keys):
        return ["the certificate was altered, or is signed by another key"]
    number = int(stored.certificate.environment.id)
    found = await deps.dbs.control.read(lambda tx: directory.numbered(tx, number))
    if found is None:
        return [f"the directory holds no environment of the id {number}"]
    places = await deps.dbs.control.read(lambda tx: directory.cells(tx, number))
    problems = _named(found, stored)
    problems += _covered(places, stored.certificate.cells)
    for place in places:
        if place.schema_name in await deps.dbs.schemas_on(place.server):
            problems.append(f"schema {place.schema_name} of cell {place.number} still exists")
    if found.certificate is None:
        return [*problems, "the environment is not removed: the directory holds no record of it"]
    if found.certificate != stored.sha256:
        problems.append(f"the record names another certificate, SHA-256 {found.certificate.hex()}")
    problems += await deps.dbs.control.read(lambda tx: _remains(tx, number))
    report = await seal_verify.verify(deps.dbs.control)
    problems += [
        f"the chain of the directory does not hold: {one.what} {one.table} ({one.key})"
        for one in report.findings
    ]
    return problems


def _named(found: Known, stored: Stored) -> list[str]:
    named = stored.certificate.environment
    if (named.tenant, named.mode) == (found.tenant, found.mode):
        return []
    return [f"the environment of this id is {found.name}, not {named.tenant}/{named.mode}"]


def _covered(places: Sequence[Place], ends: Sequence[CellEnd]) -> list[str]:
    """Whether the certificate names the cells that there were."""
    there = {(place.number, place.server, place.schema_name) for place in places}
    named = {(end.number, end.server, end.schema) for end in ends}
    return [
        *(f"the certificate does not name cell {one[0]}" for one in sorted(there - named)),
        *(f"cell {one[0]} was never the environment's" for one in sorted(named - there)),
    ]


async def _remains(tx: ControlRead, number: int) -> list[str]:
    left = await directory.left(tx, number)
    problems = [f"{count} rows of it are left in {name}" for name, count in left.items()]
    keys = await directory.good_keys(tx, number)
    problems += [f"{keys} of its keys are not revoked"] if keys else []
    if not await directory.sealed(tx, number):
        problems.append("the record is not in the hash chain yet: run `paymaster audit seal`")
    return problems
