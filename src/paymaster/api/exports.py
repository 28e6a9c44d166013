"""Statements as files."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.responses import Response

from paymaster.api.context import OwnReads
from paymaster.api.door import Door
from paymaster.api.money import Currency, Kind, Since, Until
from paymaster.api.users import UserPath
from paymaster.kernel.clock import parse_rfc3339
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import exponent
from paymaster.ledger import export
from paymaster.ledger.chart import Account

router = APIRouter(route_class=Door, tags=["money"])
_FILE = {"schema": {"type": "string", "format": "binary"}}
_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file.",
        "content": {"text/csv": _FILE, "application/pdf": _FILE},
    }
}


@router.get("/v1/users/{user}/statement/export", response_class=Response, responses=_ANSWER)
async def export_statement(
    call: OwnReads,
    user: UserPath,
    currency: Currency,
    file: Annotated[Literal["csv", "pdf"], Query(alias="format")] = "csv",
    kind: Kind = "available",
    since: Since = None,
    until: Until = None,
) -> Response:
    """The history of one of a user's accounts, oldest first, with running balance.

    An account with more than 10,000 movements is exported by parts of its time.
    """
    ref = await call.user(user)
    exponent(currency)
    owner = text_id("us", ref.cell, ref.id)
    span = [None if moment is None else parse_rfc3339(moment) for moment in (since, until)]
    found = await call.cell(ref.cell).read(
        lambda tx: export.gather(tx, owner, Account(kind, ref.id, currency), *span)
    )
    make = export.as_csv if file == "csv" else export.as_pdf
    body = await asyncio.to_thread(make, found)
    name = f"statement-{owner}-{kind}-{currency}.{file}"
    return Response(
        body,
        media_type="text/csv; charset=utf-8" if file == "csv" else "application/pdf",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )
