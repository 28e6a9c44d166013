"""Pages: `limit` and `cursor`, bound to the list and its filter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Query, Request

from paymaster.api.context import Call, deps_of
from paymaster.api.cursors import Part

Cursor = Annotated[str | None, Query(max_length=512, description="From the page before.")]
Limit = Annotated[int | None, Query(ge=1, le=200, description="Most items of the page.")]


@dataclass(frozen=True, slots=True)
class Page:
    """What the caller asked for."""

    cursor: str | None
    limit: int

    def after(self, call: Call, route: str, filters: Mapping[str, Part]) -> tuple[Part, ...] | None:
        """The position after which to go on. Raises Refusal `cursor-invalid`."""
        if self.cursor is None:
            return None
        return call.cursors.read(route, _bound(call, filters), self.cursor)


def page(request: Request, cursor: Cursor = None, limit: Limit = None) -> Page:
    """The dependency of a list route."""
    most = deps_of(request).settings.api.page_limit
    return Page(cursor, min(limit or most, most))


def next_cursor(
    call: Call, route: str, filters: Mapping[str, Part], position: tuple[Part, ...] | None
) -> str | None:
    """The cursor of the next page; None when there is none."""
    if position is None:
        return None
    return call.cursors.make(route, _bound(call, filters), position)


def _bound(call: Call, filters: Mapping[str, Part]) -> dict[str, Part]:
    return {**filters, "environment": call.environment.id}


Paged = Annotated[Page, Depends(page)]
