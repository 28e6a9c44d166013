"""Statements as the server reads them: `%s` and `%(name)s` are its `$1`, `$2`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

_PLACE = re.compile(r"%(?:(%)|s|\((\w+)\)s)")

Params = Sequence[Any] | dict[str, Any] | None


class Query(NamedTuple):
    """A statement as the server reads it, and the names of its parameters, if they have names."""

    text: bytes
    names: tuple[str, ...] | None


_queries: dict[str, Query] = {}


def query_of(sql: str) -> Query:
    """What is sent in the place of a statement with parameters."""
    found = _queries.get(sql)
    if found is None:
        names: list[str] = []
        count = 0

        def place(match: re.Match[str]) -> str:
            nonlocal count
            if match[1]:
                return "%"
            if match[2] is None:
                count += 1
                return f"${count}"
            if match[2] not in names:
                names.append(match[2])
            return f"${names.index(match[2]) + 1}"

        text = _PLACE.sub(place, sql)
        found = _queries[sql] = Query(text.encode(), tuple(names) if names else None)
    return found
