"""Rows for COPY: for batches where nothing can conflict, twice as quick as INSERT from arrays.

A row is one line of PostgreSQL's text format: columns parted by tabs, `NULL` for nothing. Numbers,
ISO times and lower-case hexadecimal need no care; whatever else stands in a line goes through
`text`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

NULL: Final = "\\N"
"""Stands for SQL's NULL in a line."""

_SPECIAL = re.compile(r"[\\\t\n\r]")
_ESCAPED: Final = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_EMPTY: Final = "{}"


def text(value: str) -> str:
    """A text as it stands in a line."""
    if _SPECIAL.search(value) is None:
        return value
    return _SPECIAL.sub(lambda found: _ESCAPED[found[0]], value)


def escaping(*columns: Iterable[str]) -> Callable[[str], str]:
    """What to put the texts of these columns through: nearly always nothing at all."""
    if all(_is_plain("".join(column)) for column in columns):
        return str
    return text


def _is_plain(value: str) -> bool:
    # Four looks are quicker than one with a regular expression.
    return not any(special in value for special in _ESCAPED)


def hexadecimal(value: bytes) -> str:
    """A bytea as it stands in a line."""
    return f"\\\\x{value.hex()}"


def json(value: Mapping[str, Any]) -> str:
    """A jsonb as it stands in a line."""
    return text(msgspec.json.encode(value).decode()) if value else _EMPTY
