"""The states of tasks in the hands of users, locked for one transaction, moved by the machine."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from operator import attrgetter

from paymaster.db import outbox_lines
from paymaster.db.tx import CellTx
from paymaster.earn.machine import TASK, TaskEvent
from paymaster.earn.store import states as state_store
from paymaster.earn.store.states import Counting, Fresh, MoveRow, Pair, StateRow
from paymaster.kernel.ids import text_id

Steps = Mapping[str, tuple[str, str]]
"""What an event is called and where it leads, by where the user stands."""

STEPS: Mapping[TaskEvent, Steps] = {
    event: {
        move.source.value: (move.event.value, move.target.value)
        for move in TASK.moves
        if move.event.value == event.value
    }
    for event in TaskEvent
}

_PAIR = attrgetter("user_id", "task_id")


class States:
    """Locked states; `move` changes them here, `write` stores what changed."""

    def __init__(
        self, rows: Mapping[Pair, StateRow], made: AbstractSet[Pair] = frozenset()
    ) -> None:
        self._rows = rows
        self._made = made
        self._moves: list[MoveRow] = []

    @classmethod
    async def lock(cls, tx: CellTx, wanted: Mapping[Pair, Fresh]) -> States:
        """Lock the states of `(user, task)` pairs; a missing one is made as given.

        What is said to count is counted by `write`, or has been by then.
        """
        if not wanted:
            return cls({})
        return cls(*await state_store.lock_states(tx, wanted, TASK.initial.value))

    @classmethod
    def of(cls, rows: list[StateRow]) -> States:
        """States that are locked already."""
        return cls({(row.user_id, row.task_id): row for row in rows})

    def begins(self, pair: Pair) -> bool:
        """Whether the state was made here: the user has no answers and no events yet."""
        return pair in self._made

    def row(self, pair: Pair) -> StateRow:
        """The row, to be read only."""
        return self._rows[pair]

    def count(self, pair: Pair, counting: Counting) -> None:
        """What counts and was not known to come when the state was locked."""
        row = self._rows[pair]
        row.more, row.changed = counting, True

    def rewards(self, pair: Pair) -> int:
        """How many rewards the user has had for the task."""
        return self._rows[pair].rewards

    def state(self, pair: Pair) -> str:
        """Where the user stands."""
        return self._rows[pair].state

    def add_reward(self, pair: Pair) -> None:
        """Count one more reward."""
        row = self._rows[pair]
        row.rewards += 1
        row.changed = True

    def move(self, pair: Pair, event: TaskEvent, reason: str | None = None) -> bool:
        """Move if the machine allows it from where the user stands; whether it did."""
        return self.step(pair, STEPS[event], reason)

    def step(self, pair: Pair, steps: Steps, reason: str | None = None) -> bool:
        """As `move`, for one of STEPS that was looked up before."""
        row = self._rows[pair]
        step = steps.get(row.state)
        if step is None:
            return False
        name, target = step
        row.number += 1
        self._moves.append(
            MoveRow(row.user_id, row.task_id, row.number, row.state, name, target, reason)
        )
        row.state, row.changed = target, True
        return True

    async def write(self, tx: CellTx) -> None:
        """Store changed states, their moves and a message for each move."""
        changed = [row for row in self._rows.values() if row.changed and not row.stands]
        if changed:
            await state_store.update_states(tx, sorted(changed, key=_PAIR))
        if self._moves:
            await state_store.write_moves(tx, TASK.name, self._moves)
            await outbox_lines.put(tx, self._messages(tx))

    def _messages(self, tx: CellTx) -> list[outbox_lines.Line]:
        tasks: dict[int, str] = {}
        told: list[outbox_lines.Line] = []
        for move in self._moves:
            task = tasks.get(move.task_id)
            if task is None:
                home_cell = self._rows[move.user_id, move.task_id].home_cell
                task = tasks[move.task_id] = text_id("tk", home_cell, move.task_id)
            user = text_id("us", tx.cell, move.user_id)
            payload = f'{{"user": "{user}", "task": "{task}", "state": "{move.target}"}}'
            told.append(outbox_lines.Line(f"user_task.{move.target}", user, payload))
        return told
