"""Days closed and signed, and the proof of the books."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, cast

from fastapi import APIRouter, Path

from paymaster.api.context import Operates, Reads
from paymaster.api.door import Door
from paymaster.api.models import Day, Nothing, Reply, listing
from paymaster.api.paging import Paged, next_cursor
from paymaster.api.shapes import Page
from paymaster.api.shapes_operate import DayOut, ProofOut
from paymaster.dispatch import accounts
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import NotFound
from paymaster.proof import prove_cells
from paymaster.reconcile import close_store
from paymaster.reconcile import day as days
from paymaster.reconcile.close_store import DayClose

router = APIRouter(route_class=Door, tags=["days"])
LIST = "/v1/days"
DayPath = Annotated[Day, Path()]


def _shown(row: DayClose) -> dict[str, Any]:
    return {
        "day": row.day.isoformat(),
        "closed_seq": row.closed_seq,
        "totals": row.totals,
        "digest": row.digest.hex(),
        "signature": row.signature.hex(),
        "key_id": row.key_id,
        "actor": row.actor,
        "closed_at": rfc3339(row.closed_at),
    }


@router.post("/v1/days/{day}/close", response_model=DayOut)
async def close_day(
    call: Operates,
    day: DayPath,
    body: Nothing | None = None,  # noqa: ARG001 - an empty object may come
) -> Reply:
    """Close and sign a day. `day-not-ready` names everything that stands in the way.

    Nothing can be booked into a closed day. A day that is closed already is shown as it is.
    """
    known = await accounts.load(call.deps.dbs, call.environment.id)
    row = await days.close_day(
        call.deps.dbs,
        call.environment.id,
        call.deps.secrets.signers,
        call.actor,
        call.trace_id,
        [account.rail for account in known.values() if account.active],
        date.fromisoformat(day),
    )
    return Reply(_shown(row))


@router.get("/v1/days/{day}", response_model=DayOut)
async def get_day(call: Reads, day: DayPath) -> Reply:
    """A closed day: the totals that were signed, and the signature."""
    row = await call.treasury.read(lambda tx: close_store.find(tx, date.fromisoformat(day)))
    if row is None:
        raise NotFound("day-open", "This day is not closed.")
    return Reply(_shown(row))


@router.get(LIST, response_model=Page[DayOut])
async def list_days(call: Reads, page: Paged) -> Reply:
    """Closed days, newest first."""
    position = page.after(call, LIST, {})
    before = date.fromisoformat(cast("str", position[0])) if position else None
    rows = await call.treasury.read(lambda tx: close_store.listing(tx, before, page.limit))
    last = (rows[-1].day.isoformat(),) if len(rows) == page.limit else None
    return listing([_shown(row) for row in rows], next_cursor(call, LIST, {}, last))


@router.post("/v1/proofs", response_model=ProofOut)
async def prove(
    call: Operates,
    body: Nothing | None = None,  # noqa: ARG001 - an empty object may come
) -> Reply:
    """Derive every balance and state again from the entries, in every cell; reads everything."""
    cells = call.deps.dbs.cells(call.environment.id)
    found = await prove_cells(call.deps.dbs, cells)
    return Reply(
        {"ok": not any(one.differences for one in found), "cells": [one.wire() for one in found]}
    )
