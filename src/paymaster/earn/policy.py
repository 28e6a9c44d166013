"""Earning policies put in force: each source has versions, which are only followed by others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from paymaster.db import audit
from paymaster.db.cells import Databases
from paymaster.db.tx import Actor, CellRead, CellTx, ControlRead, ControlTx
from paymaster.earn.store import policies as store
from paymaster.earn.store.policies import AppliedRow, PolicyRow
from paymaster.earn.terms import DEFAULT, KINDS, Policy, Terms, read
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import Conflict, NotFound, Unprocessable

MAX_NAME = 128


@dataclass(frozen=True, slots=True)
class PolicyView:
    """A version as people see it."""

    row: PolicyRow

    def wire(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "source": self.row.source,
            "version": self.row.version,
            "terms": msgspec.convert(self.row.terms, Terms).stored(),
            "reason": self.row.reason,
            "actor": self.row.actor,
            "created_at": rfc3339(self.row.created_at),
        }


@dataclass(frozen=True, slots=True)
class PutPolicy:
    """Put terms in force for a source; `based_on` is the version its author saw, 0 for none."""

    source: str
    based_on: int
    terms: Mapping[str, Any]
    reason: str


def check(command: PutPolicy) -> Terms:
    """What can be seen to be wrong with it alone.

    Raises Unprocessable `policy-source`, `policy-invalid`.
    """
    kind, _, name = command.source.partition(":")
    fits = command.source == DEFAULT or (
        kind in KINDS and 1 <= len(name) <= MAX_NAME and name.isprintable()
    )
    if not fits:
        raise Unprocessable(
            "policy-source",
            f"A source is {DEFAULT}, or one of {', '.join(KINDS)} with a colon and a name.",
        )
    return read(command.terms, command.source)


async def put(tx: ControlTx, environment_id: int, command: PutPolicy) -> PolicyView:
    """Put a new version in force, for rewards that are made from now on.

    Raises what `check` does, Unprocessable `campaign-unknown` or `sponsor-unknown` for a source
    that is not there, Conflict `policy-changed` when another version came into force since.
    """
    terms = check(command)
    subject = await _subject(tx, environment_id, command.source)
    known = await store.versions(tx, environment_id, command.source)
    before = known[0].version if known else 0
    row = PolicyRow(
        tx.id(),
        command.source,
        command.based_on + 1,
        subject,
        terms.stored(),
        command.reason,
        tx.actor.name,
        tx.now,
    )
    if before != command.based_on or not await store.insert(tx, environment_id, row):
        raise Conflict(
            "policy-changed",
            f"The newest version is {before} (0: there is none yet); look at it first."
            if before != command.based_on
            else "Another version came into force at the same moment; look at it first.",
        )
    detail = {"version": row.version, "terms": row.terms, audit.ENVIRONMENT: environment_id}
    await audit.record(tx, [audit.Act("earning_policy.put", row.source, row.reason, detail)])
    return PolicyView(row)


async def _subject(tx: ControlTx, environment_id: int, source: str) -> int | None:
    kind, _, name = source.partition(":")
    if kind == "campaign":
        found = await store.campaign_named(tx, environment_id, name)
        if found is None:
            raise Unprocessable("campaign-unknown", "There is no such campaign.")
        return found
    if kind == "partner":
        found = await store.sponsor_named(tx, environment_id, name)
        if found is None:
            raise Unprocessable("sponsor-unknown", "There is no sponsor of this external id.")
        return found
    return None


async def history(tx: ControlRead, environment_id: int, source: str) -> list[PolicyView]:
    """All versions, newest first. Raises NotFound `policy-unknown` when there never was one."""
    rows = await store.versions(tx, environment_id, source)
    if not rows:
        raise NotFound("policy-unknown", "Nobody has set a policy for this source.")
    return [PolicyView(row) for row in rows]


async def listing(tx: ControlRead, environment_id: int) -> list[PolicyView]:
    """The newest version of each source."""
    return [PolicyView(row) for row in await store.newest(tx, environment_id)]


async def note(tx: CellTx, found: Sequence[Policy]) -> None:
    """Keep policies beside the rewards that are about to be made under them."""
    await store.apply(
        tx, [AppliedRow(one.id, one.source, one.version, one.terms.stored()) for one in found]
    )


async def applied(tx: CellRead, ids: set[int | None]) -> dict[int, Policy]:
    """The policies that rewards here were made under."""
    wanted = sorted(number for number in ids if number is not None)
    if not wanted:
        return {}
    return {
        row.id: Policy(row.id, row.source, row.version, msgspec.convert(row.terms, Terms))
        for row in await store.applied(tx, wanted)
    }


async def spread(dbs: Databases, environment_id: int, actor: Actor, trace_id: str) -> int:
    """Tell the cells how long a first payout waits, where they do not know it; how many were told.

    It is asked for in the cells, in the statement that a request for a withdrawal asks anyway.
    """
    rows = await dbs.control.read(lambda tx: store.versions(tx, environment_id, DEFAULT))
    if not rows:
        return 0
    terms = msgspec.convert(rows[0].terms, Terms)
    said = terms.first_payout if terms.in_force else None
    seconds, since = (said.seconds, said.since) if said else (0, "first_earning")
    version, told = rows[0].version, 0
    for cell in dbs.cells(environment_id):
        known = await dbs.cell(cell.number).read(store.payout_wait)
        if known is None or known[2] < version:
            told += await dbs.cell(cell.number).run(
                actor,
                trace_id,
                lambda tx: store.set_payout_wait(tx, seconds, since, version),
            )
    return told
