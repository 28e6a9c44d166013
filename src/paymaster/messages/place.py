"""Where events come from: each cell, and the directory. Each has its own order of commits."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from paymaster.db.cells import Databases
from paymaster.db.tx import Actor, ReadTx, Writes
from paymaster.kernel.errors import NotFound
from paymaster.kernel.ids import new_trace_id, parse_reference, parse_text_id, text_id

T = TypeVar("T")

CONTROL = "control"
_IN_CELL, _IN_CONTROL = "ev", "ec"
_TEXT_ID = re.compile(r"(?:[a-z-]+:)?[a-z]{2}_([0-9A-Z]{15})\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Place:
    """A schema with an outbox: a cell by its number, the directory without one."""

    dbs: Databases
    cell: int | None

    @property
    def name(self) -> str:
        """`control`, or the number of the cell."""
        return CONTROL if self.cell is None else str(self.cell)

    async def read(self, work: Callable[[ReadTx], Awaitable[T]]) -> T:
        """A snapshot of the schema."""
        if self.cell is None:
            return await self.dbs.control.read(work)
        return await self.dbs.cell(self.cell).read(work)

    async def run(self, actor: Actor, work: Callable[[Writes], Awaitable[T]]) -> T:
        """A transaction in the schema."""
        if self.cell is None:
            return await self.dbs.control.run(actor, new_trace_id(), work)
        return await self.dbs.cell(self.cell).run(actor, new_trace_id(), work)

    def environment_of(self, key: str, stated: str | int | None = None) -> int | None:
        """The environment that a message of this key belongs to.

        In the directory a payload may state it (`audit.ENVIRONMENT`), and the ids of things carry a
        cell of theirs; None for a message with neither, which is about the installation.
        """
        if self.cell is not None:
            return self.dbs.environment_of(self.cell).id
        if stated is not None:
            known = [one.id for one in self.dbs.environments() if str(one.id) == str(stated)]
            return known[0] if known else None
        found = _TEXT_ID.match(key)
        ref = parse_reference(found[1]) if found is not None else None
        if ref is None or all(cell.number != ref.cell for cell in self.dbs.cells()):
            return None
        return self.dbs.environment_of(ref.cell).id

    def event_id(self, environment_id: int, seq: int) -> str:
        """The id by which an event is known outside; the same for ever."""
        if self.cell is not None:
            return text_id(_IN_CELL, self.cell, seq)
        return text_id(_IN_CONTROL, self.dbs.treasury(environment_id).number, seq)


def places(dbs: Databases) -> list[Place]:
    """All of the installation."""
    return [Place(dbs, None), *(Place(dbs, cell.number) for cell in dbs.cells())]


def places_of(dbs: Databases, environment_id: int) -> list[Place]:
    """The directory and the cells of an environment."""
    cells = dbs.cells(environment_id)
    return [Place(dbs, None), *(Place(dbs, cell.number) for cell in cells)]


def locate(dbs: Databases, environment_id: int, event: str) -> tuple[Place, int]:
    """Where the event of a text id is. Raises NotFound for one of another environment."""
    prefix = _IN_CONTROL if event.startswith(_IN_CONTROL) else _IN_CELL
    ref = parse_text_id(prefix, event)
    treasury = dbs.treasury(environment_id).number
    if prefix == _IN_CONTROL and ref.cell == treasury:
        return Place(dbs, None), ref.id
    if prefix == _IN_CELL and any(ref.cell == cell.number for cell in dbs.cells(environment_id)):
        return Place(dbs, ref.cell), ref.id
    raise NotFound("not-found", "There is no such event.")
