"""What providers told that could not be placed, and files of theirs that were refused.

People see why, have it tried again once the cause was put right, or end it with a reason. What a
provider wrote stays sealed: shown are ids, the reason, and references of our own form.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, cast

from fastapi import APIRouter, Path, Query

from paymaster.api.context import Call, Operates, Reads
from paymaster.api.door import Door
from paymaster.api.models import Reasoned, Reply, Text, listing
from paymaster.api.paging import Page, Paged, next_cursor
from paymaster.api.rails import find
from paymaster.api.shapes import Page as PageOut
from paymaster.api.shapes_operate import NoticeOut, RailFileOut
from paymaster.db.tx import CellRead, CellTx
from paymaster.dispatch import accounts
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import NotFound
from paymaster.kernel.ids import parse_reference, reference
from paymaster.settle import refused_files, unmatched
from paymaster.settle.refused_files import FileRow, FileState
from paymaster.settle.retry import Address, Retrying
from paymaster.settle.unmatched import Before, Kind, Unmatched, Wanted

router = APIRouter(route_class=Door, tags=["settlement"])
BASE: Final = "/v1/settlement"
NOTICES, FILES = f"{BASE}/notices", f"{BASE}/files"
_PREFIX, _CELL = "nt_", 2
AccountName = Annotated[Text, Query(max_length=40, description="Name of a rail account.")]
NoticePath = Annotated[str, Path(max_length=1200, description="`nt_...`")]
FilePath = Annotated[str, Path(max_length=40, description="`rf_...`")]


def notice_text(address: Address) -> str:
    """The id of a message: its cell, and the provider's own id of it."""
    named = f"{address.source}#{address.message_id}".encode()
    packed = base64.urlsafe_b64encode(named).rstrip(b"=").decode()
    return _PREFIX + reference(address.cell, 0)[:_CELL] + packed


def address_of(call: Call, text: str) -> Address:
    """The message of an id. Raises NotFound `not-found`."""
    head, packed = text[: len(_PREFIX) + _CELL], text[len(_PREFIX) + _CELL :]
    place = parse_reference(head.removeprefix(_PREFIX) + "0" * 13)
    try:
        named = base64.b64decode(packed + "=" * (-len(packed) % 4), b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        named = ""
    source, mark, message_id = named.partition("#")
    if place is None or not mark or "\x00" in named:
        raise NotFound("not-found", "There is nothing of this id.")
    found = Address(place.cell, source, message_id)
    if notice_text(found) != text:
        raise NotFound("not-found", "There is nothing of this id.")
    call.cell(found.cell)
    return found


async def _names(call: Call) -> dict[int, str]:
    known = await accounts.load(call.deps.dbs, call.environment.id)
    return {account.id: account.rail.name for account in known.values()}


def _notice(names: Mapping[int, str], cell: int, row: Unmatched) -> dict[str, Any]:
    account = row.rail_account_id
    moved_to = row.result.get("moved_to")
    here = Address(cell, row.source, row.message_id)
    return {
        "id": notice_text(here),
        "message": f"{row.source}#{row.message_id}",
        "rail_account": None if account is None else names.get(account),
        "kind": row.kind.value,
        "reference": row.reference,
        "state": row.state.value,
        "slug": row.result.get("slug") or row.result.get("closed"),
        "detail": row.result.get("detail"),
        "changed": row.result.get("changed"),
        "moved_to": None
        if moved_to is None
        else notice_text(Address(moved_to, row.source, row.message_id)),
        "tries": row.tries,
        "received_at": rfc3339(row.received_at),
        "trace_id": row.trace_id,
    }


def _retrying(call: Call) -> Retrying:
    return Retrying(call.deps.dbs, call.environment.id, call.actor, call.trace_id)


async def _shown(call: Call, address: Address, status: int = 200) -> Reply:
    row = await _retrying(call).look(address)
    return Reply(_notice(await _names(call), address.cell, row), status)


@router.get(NOTICES, response_model=PageOut[NoticeOut])
async def list_notices(
    call: Reads,
    page: Paged,
    rail_account: AccountName | None = None,
    kind: Annotated[Kind | None, Query()] = None,
    slug: Annotated[Text | None, Query(max_length=64, description="Why it was laid aside.")] = None,
) -> Reply:
    """Messages of providers that were laid aside, newest first."""
    filters = {"rail_account": rail_account, "kind": kind and kind.value, "slug": slug}
    before = _before(call, page, filters)
    account = (await find(call, rail_account)).id if rail_account is not None else None
    wanted = Wanted(account, kind, slug)

    async def work(tx: CellRead) -> list[tuple[int, Unmatched]]:
        found = await unmatched.listing(tx, page.limit, wanted, before)
        return [(tx.cell, row) for row in found]

    rows = [one for each in await call.everywhere(work) for one in each]
    rows.sort(key=lambda one: (one[1].received_at, one[0], one[1].digest), reverse=True)
    shown, names, last = rows[: page.limit], await _names(call), None
    if len(shown) == page.limit:
        cell, row = shown[-1]
        last = (row.received_at.isoformat(), cell, row.digest.hex())
    data = [_notice(names, cell, row) for cell, row in shown]
    return listing(data, next_cursor(call, NOTICES, filters, last))


def _before(call: Call, page: Page, filters: Mapping[str, str | None]) -> Before | None:
    position = page.after(call, NOTICES, filters)
    if position is None:
        return None
    at, cell, digest = cast("tuple[str, int, str]", position)
    return Before(datetime.fromisoformat(at), cell, bytes.fromhex(digest))


@router.get(f"{NOTICES}/{{notice}}", response_model=NoticeOut)
async def get_notice(call: Reads, notice: NoticePath) -> Reply:
    """One message, also one that was applied: what became of it."""
    return await _shown(call, address_of(call, notice))


@router.post(f"{NOTICES}/{{notice}}/retry", status_code=202, response_model=NoticeOut)
async def retry_notice(call: Operates, notice: NoticePath, body: Reasoned) -> Reply:
    """Have a message applied again, after its cause was put right; read it again for what follows.

    The rules are those of the first time. Raises Unprocessable `notice-foreign` where no try helps,
    Conflict `notice-applied`, `notice-waiting` or `notice-moved`, which say what happened.
    """
    address = await _retrying(call).again(address_of(call, notice), body.reason)
    return await _shown(call, address, 202)


@router.post(f"{NOTICES}/{{notice}}/close", response_model=NoticeOut)
async def close_notice(call: Operates, notice: NoticePath, body: Reasoned) -> Reply:
    """End a message that need not be applied. It changes nothing but that nobody has to look."""
    address = address_of(call, notice)
    await _retrying(call).close(address, body.reason)
    return await _shown(call, address)


def _file(call: Call, names: Mapping[int, str], row: FileRow) -> dict[str, Any]:
    return {
        "id": call.control_text("rf", row.id),
        "rail_account": names.get(row.rail_account_id),
        "name": row.name,
        "state": row.state,
        "slug": row.slug,
        "detail": row.detail,
        "received_at": rfc3339(row.received_at),
    }


@router.get(FILES, response_model=PageOut[RailFileOut])
async def list_files(
    call: Reads,
    page: Paged,
    rail_account: AccountName | None = None,
    state: Annotated[FileState | None, Query()] = None,
) -> Reply:
    """Files that providers left, newest first."""
    filters = {"rail_account": rail_account, "state": state and state.value}
    position = page.after(call, FILES, filters)
    before = cast("int", position[0]) if position else None
    account = (await find(call, rail_account)).id if rail_account is not None else None
    rows = await call.treasury.read(
        lambda tx: refused_files.listing(tx, account, state and state.value, before, page.limit)
    )
    names = await _names(call)
    last = (rows[-1].id,) if len(rows) == page.limit else None
    return listing(
        [_file(call, names, row) for row in rows], next_cursor(call, FILES, filters, last)
    )


@router.get(f"{FILES}/{{file}}", response_model=RailFileOut)
async def get_file(call: Reads, file: FilePath) -> Reply:
    """One file: how it stands. What is in it stays sealed."""
    number = call.control_id("rf", file)
    row = await call.treasury.read(lambda tx: refused_files.get(tx, number))
    return Reply(_file(call, await _names(call), row))


@router.post(f"{FILES}/{{file}}/read", status_code=202, response_model=RailFileOut)
async def read_file(call: Operates, file: FilePath, body: Reasoned) -> Reply:
    """Have a refused file read again, as it came, at the next visit to its account.

    Raises Conflict `file-read` or `file-waiting` where it is not refused any more.
    """
    number = call.control_id("rf", file)

    async def work(tx: CellTx) -> FileRow:
        return await refused_files.read_again(tx, number, body.reason)

    row = await call.write(call.treasury, work)
    return Reply(_file(call, await _names(call), row), 202)


@router.post(f"{FILES}/{{file}}/close", response_model=RailFileOut)
async def close_file(call: Operates, file: FilePath, body: Reasoned) -> Reply:
    """End a refused file that need not be read. Raises Conflict as reading it again does."""
    number = call.control_id("rf", file)

    async def work(tx: CellTx) -> FileRow:
        return await refused_files.close(tx, number, body.reason)

    row = await call.write(call.treasury, work)
    return Reply(_file(call, await _names(call), row))
