"""A lifecycle as a table: states, events, moves, and the ledger recipe that each move posts.

One `Machine` gives the code its guard, SQL its `legal_move` rows, the docs their diagram and the
tests their questions. Nothing else in the project decides what may follow what.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from paymaster.kernel.errors import Conflict


@dataclass(frozen=True, slots=True)
class Move:
    """From `source`, on `event`, to `target`; `recipe` names the posting made with it.

    `by` says who may make it, where the machine distinguishes that.
    """

    source: StrEnum
    event: StrEnum
    target: StrEnum
    recipe: str | None = None
    by: frozenset[StrEnum] = frozenset()


@dataclass(frozen=True, slots=True)
class Machine:
    """All moves of one kind of thing."""

    name: str
    initial: StrEnum
    moves: tuple[Move, ...]
    _found: dict[tuple[str, str], Move] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Of two moves under one name the first one counts.
        found = {(move.source, move.event): move for move in reversed(self.moves)}
        object.__setattr__(self, "_found", found)

    def find(self, source: str, event: str) -> Move:
        """The move of `event` out of `source`. Raises Conflict `illegal-move`."""
        move = self._found.get((source, event))
        if move is None:
            raise Conflict("illegal-move", f"The {self.name} is {source}: {event} is not possible.")
        return move

    def allows(self, source: str, event: str) -> bool:
        """Whether `event` may happen in `source`."""
        return (source, event) in self._found

    def sources(self, event: str) -> tuple[str, ...]:
        """The states in which `event` may happen."""
        return tuple(move.source.value for move in self.moves if move.event == event)

    def states(self) -> frozenset[str]:
        """Every state that the table names."""
        named = [self.initial, *(m.source for m in self.moves), *(m.target for m in self.moves)]
        return frozenset(state.value for state in named)

    def terminal(self) -> frozenset[str]:
        """States without a way out."""
        return self.states() - {move.source.value for move in self.moves}

    def rows(self) -> Iterable[tuple[str, str, str, str]]:
        """`(machine, source, event, target)` for the table of legal moves."""
        for move in self.moves:
            yield self.name, move.source.value, move.event.value, move.target.value

    def mermaid(self) -> str:
        """The diagram for the docs."""
        lines = ["stateDiagram-v2", f"    [*] --> {self.initial.value}"]
        for move in self.moves:
            money = f" / {move.recipe}" if move.recipe else ""
            lines.append(
                f"    {move.source.value} --> {move.target.value}: {move.event.value}{money}"
            )
        lines.extend(f"    {state} --> [*]" for state in sorted(self.terminal()))
        return "\n".join(lines)
