"""Files of providers as people see them, and what people do about one that was refused.

A file is read again as it came: that helps when the fault was ours, or in the settings of the
account. A file that is broken, or about another account, stays so; it is closed, and the provider
is asked for the right one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import LiteralString

from paymaster.db import audit
from paymaster.db.tx import CellRead, CellTx
from paymaster.kernel.errors import Conflict, NotFound
from paymaster.kernel.ids import text_id


class FileState(StrEnum):
    """How a file stands."""

    RECEIVED = "received"
    READ = "read"
    REFUSED = "refused"
    CLOSED = "closed"


# A file that a person has closed stays refused, without the slug that makes it a question.
_FILES: LiteralString = """
    SELECT * FROM (
        SELECT id, rail_account_id, name, slug, detail, received_at,
            CASE WHEN state = 'refused' AND slug IS NULL THEN 'closed' ELSE state END AS state
        FROM rail_file
    ) AS file
"""


@dataclass(frozen=True, slots=True)
class FileRow:
    """A file that a provider left, without what is in it."""

    id: int
    rail_account_id: int
    name: str
    slug: str | None
    detail: str | None
    received_at: datetime
    state: str


async def listing(
    tx: CellRead, rail_account_id: int | None, state: str | None, before: int | None, limit: int
) -> list[FileRow]:
    """Files of the treasury cell, newest first; `before` is the id of the last one shown."""
    return await tx.fetch(
        _FILES
        + """
        WHERE (%(account)s::bigint IS NULL OR rail_account_id = %(account)s)
            AND (%(state)s::text IS NULL OR state = %(state)s)
            AND (%(before)s::bigint IS NULL OR id < %(before)s)
        ORDER BY id DESC LIMIT %(limit)s
        """,
        {"account": rail_account_id, "state": state, "before": before, "limit": limit},
        FileRow,
    )


async def get(tx: CellRead, file_id: int) -> FileRow:
    """A file. Raises NotFound `not-found`."""
    found = await tx.maybe(_FILES + "WHERE id = %s", (file_id,), FileRow)
    if found is None:
        raise NotFound("not-found", "There is no such file.")
    return found


async def counts(tx: CellRead) -> dict[int, int]:
    """How many refused files wait for people, by rail account."""
    rows = await tx.tuples(
        "SELECT rail_account_id, count(*) FROM rail_file"
        " WHERE state = 'refused' AND slug IS NOT NULL GROUP BY rail_account_id"
    )
    return {row[0]: row[1] for row in rows}


async def read_again(tx: CellTx, file_id: int, reason: str) -> FileRow:
    """Have a refused file read once more, at the next visit; audited.

    Raises NotFound `not-found`, Conflict `file-waiting` or `file-read` where it is not refused.
    """
    touched = await tx.execute(
        "UPDATE rail_file SET state = 'received', slug = NULL, detail = NULL"
        " WHERE id = %s AND state = 'refused'",
        (file_id,),
    )
    return await _done(tx, touched, "rail_file.again", file_id, reason)


async def close(tx: CellTx, file_id: int, reason: str) -> FileRow:
    """End a refused file that need not be read; audited. Why it was refused stays with it.

    Raises NotFound `not-found`, Conflict `file-closed`, and as `read_again`.
    """
    touched = await tx.execute(
        "UPDATE rail_file SET slug = NULL,"
        " detail = left(slug || ': ' || coalesce(detail, ''), 1000)"
        " WHERE id = %s AND state = 'refused' AND slug IS NOT NULL",
        (file_id,),
    )
    return await _done(tx, touched, "rail_file.close", file_id, reason)


async def _done(tx: CellTx, touched: int, action: str, file_id: int, reason: str) -> FileRow:
    row = await get(tx, file_id)
    if touched:
        await audit.record(tx, [audit.Act(action, text_id("rf", tx.cell, file_id), reason)])
        return row
    match row.state:
        case FileState.RECEIVED:
            raise Conflict("file-waiting", "It is read at the next visit by itself.")
        case FileState.CLOSED:
            raise Conflict(
                "file-closed", f"It was closed by a person. It was refused: {row.detail}"
            )
        case FileState.REFUSED:
            raise Conflict("file-waiting", "It was read just now, and is refused again.")
        case _:
            raise Conflict("file-read", "It was read; what it says is with the reconciliation.")
