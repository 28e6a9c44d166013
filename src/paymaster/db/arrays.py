"""Lists as PostgreSQL arrays, quickly.

Every batch statement passes its columns as arrays. The driver's own adapter asks a regular
expression about each element, which took a third of the time of a batch; here a list of one plain
type is written in one go. Whatever is not known here goes the driver's way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Any

import msgspec
from psycopg import AsyncConnection, DataError
from psycopg.abc import Buffer
from psycopg.adapt import PyFormat
from psycopg.types.array import ListDumper
from psycopg.types.json import Jsonb

_WIDE = 2**40
"""An int that the driver takes for bigint."""

_NOTHING = type(None)
_MARK = "\x01"


def _plain(items: Sequence[Any]) -> str:
    return str(items)[1:-1].replace("None", "NULL")


def _quoted(items: Sequence[Any]) -> str:
    if None in items:
        return ",".join(["NULL" if item is None else f'"{_escaped(item)}"' for item in items])
    # All in one go, with a mark between them that none of them holds.
    joined = _MARK.join(items)
    if joined.count(_MARK) != len(items) - 1:
        return ",".join([f'"{_escaped(item)}"' for item in items])
    return '"' + _escaped(joined).replace(_MARK, '","') + '"'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _bytes(items: Sequence[bytes | None]) -> str:
    return ",".join(["NULL" if item is None else f'"\\\\x{item.hex()}"' for item in items])


def _times(items: Sequence[date | None]) -> str:
    return ",".join(["NULL" if item is None else f'"{item.isoformat()}"' for item in items])


def _jsonb(items: Sequence[Jsonb | None]) -> str:
    return _quoted(
        [None if item is None else msgspec.json.encode(item.obj).decode() for item in items]
    )


_WRITERS: dict[type, Callable[[Sequence[Any]], str]] = {
    int: _plain,
    bool: _plain,
    str: _quoted,
    bytes: _bytes,
    datetime: _times,
    date: _times,
    Jsonb: _jsonb,
}


class ArrayDumper(ListDumper):
    """Writes a list of one plain type; a list of ints is an array of bigint, however small."""

    def _find_list_element(self, L: list[Any], format: PyFormat) -> Any:  # noqa: A002, N803
        kinds = set(map(type, L))
        kinds.discard(_NOTHING)
        if kinds == {int}:
            return _WIDE
        if not kinds:
            return None
        return super()._find_list_element(L, format)

    def dump(self, obj: list[Any]) -> Buffer | None:
        """The array's text."""
        found = written(obj)
        return super().dump(obj) if found is None else found[0]


_ARRAYS: dict[type, int] = {
    int: 1016,
    bool: 1000,
    str: 0,
    bytes: 1001,
    datetime: 1185,
    date: 1182,
    Jsonb: 3807,
}
"""PostgreSQL's numbers of the types of arrays, from its catalogue; 0 leaves it to the server."""


def written(items: list[Any]) -> tuple[bytes, int] | None:
    """An array's text and its type, without asking the driver; None for what is not known here.

    Raises DataError for a text with NUL in it.
    """
    kinds = set(map(type, items))
    kinds.discard(_NOTHING)
    if not kinds and items:
        return f"{{{','.join(['NULL'] * len(items))}}}".encode(), 0
    if len(kinds) != 1:
        return None
    [kind] = kinds
    write = _WRITERS.get(kind)
    if write is None or _special(items, write):
        return None
    text = write(items)
    if "\0" in text:
        raise DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
    return f"{{{text}}}".encode(), _ARRAYS[kind]


def _special(items: Sequence[Any], write: Callable[[Sequence[Any]], str]) -> bool:
    """JSON with an encoder of its own."""
    return write is _jsonb and any(item is not None and item.dumps for item in items)


async def configure(connection: AsyncConnection[Any]) -> None:
    """Make a new connection write its arrays so."""
    connection.adapters.register_dumper(list, ArrayDumper)
