"""Cursors of lists whose rows are in several schemas: one place in each.

They hide nothing and are not signed: a position can only say from where in the caller's own events
to go on.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
from fastapi import Depends, Query, Request

from paymaster.api.context import Call, deps_of
from paymaster.api.paging import Limit
from paymaster.kernel.errors import Refusal
from paymaster.messages import listing

_Cursor = Annotated[str | None, Query(max_length=2048, description="From the page before.")]
_LIST = msgspec.json.Decoder(list[Annotated[int, msgspec.Meta(ge=-1, le=2**62)]])


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the caller asked for."""

    cursor: str | None
    limit: int


def _asked(request: Request, cursor: _Cursor = None, limit: Limit = None) -> _Asked:
    most = deps_of(request).settings.api.page_limit
    return _Asked(cursor, min(limit or most, most))


Positions = Annotated[_Asked, Depends(_asked)]


def positions(call: Call, asked: _Asked) -> list[int]:
    """Where to go on. Raises Refusal `cursor-invalid`."""
    given = None if asked.cursor is None else _read(asked.cursor)
    return listing.start(call.deps.dbs, call.environment.id, given)


def next_position(position: Sequence[int] | None) -> str | None:
    """The cursor of a position; None when there is nothing further."""
    if position is None:
        return None
    raw = msgspec.json.encode(list(position))
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _read(cursor: str) -> list[int]:
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        return _LIST.decode(raw)
    except (binascii.Error, ValueError, msgspec.DecodeError):
        raise Refusal("cursor-invalid", "Start again without a cursor.") from None
