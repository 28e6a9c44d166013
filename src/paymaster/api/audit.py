"""The audit trail: who did what to which thing, why, and from where."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import APIRouter, Query

from paymaster.api.door import Door
from paymaster.api.models import Moment, Reply, Text, listing, moment
from paymaster.api.paging import Paged, next_cursor
from paymaster.api.shapes import Page
from paymaster.api.shapes_staff import ActOut
from paymaster.api.staff import Audits
from paymaster.db import audit_list
from paymaster.db.audit_list import Place, Wanted

router = APIRouter(route_class=Door, tags=["audit"])
LIST = "/v1/audit"
_Filter = Annotated[Text | None, Query(max_length=200)]
_Time = Annotated[Moment | None, Query()]


@router.get(LIST, response_model=Page[ActOut])
async def list_acts(
    call: Audits,
    page: Paged,
    actor: _Filter = None,
    subject: _Filter = None,
    action: _Filter = None,
    since: _Time = None,
    until: _Time = None,
) -> Reply:
    """Acts in this environment, newest first. Both times narrow what has to be read."""
    filters = {
        "actor": actor,
        "subject": subject,
        "action": action,
        "since": since,
        "until": until,
    }
    position = page.after(call, LIST, filters)
    before = Place(*cast("tuple[int, int, int]", position)) if position else None
    wanted = Wanted(actor, subject, action, moment(since), moment(until))
    cells = [cell.number for cell in call.cells]
    parts = [
        await call.look(
            lambda tx: audit_list.in_directory(
                tx, call.environment.id, cells, wanted, before, page.limit
            )
        ),
        *await call.everywhere(lambda tx: audit_list.in_cell(tx, wanted, before, page.limit)),
    ]
    rows = audit_list.merged(parts, page.limit)
    last = rows[-1].place if len(rows) == page.limit else None
    after = None if last is None else (last.commit_id, last.cell, last.ordinal)
    return listing([row.wire() for row in rows], next_cursor(call, LIST, filters, after))
