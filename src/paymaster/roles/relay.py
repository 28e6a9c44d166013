"""The relay: carries commands from cell to cell, in the order in which they were committed.

One relay works for a source cell at a time (a fenced lease). A command is carried out in its target
cell inside `inbox.once`, so it takes effect exactly once however often it is delivered; only then
does the cursor of the source cell move on. Messages without a target are events for subscribers.

A command that fails is tried again for about a minute, with all others waiting behind it; then it
is laid aside (`paymaster.db.aside`), with those that follow it under the same key, and the rest
goes on. `paymaster relay` shows what lies there and has it tried again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import groupby
from typing import Any

from paymaster.db import aside, inbox, lease, outbox
from paymaster.db.cells import Databases
from paymaster.db.outbox import Outgoing
from paymaster.db.pool import CellDb
from paymaster.db.tx import Actor, CellRead, CellTx
from paymaster.earn.commands import HANDLERS as EARN
from paymaster.kernel.errors import Broken, Busy, Conflict, PaymasterError
from paymaster.kernel.ids import new_trace_id
from paymaster.observe import get_logger
from paymaster.reconcile.commands import HANDLERS as RECONCILE

Handler = Callable[[CellTx, int, Outgoing], Awaitable[Mapping[str, Any]]]
HANDLERS: dict[str, Handler] = {**EARN, **RECONCILE}
"""What each command does in its target cell."""

ACTOR = Actor("role:relay")
NAME = "relay"
COMMITS, TOGETHER = 500, 100
MAX_TRIES = 10
"""A command that has failed so often in a row is laid aside."""

_MAX_DETAIL = 500
_log = get_logger(__name__)


class Relay:
    """Carries the commands of one source cell; one object a process and cell."""

    def __init__(self, dbs: Databases, source: CellDb, lease_length: timedelta) -> None:
        self._dbs = dbs
        self._source = source
        self._length = lease_length
        self._held: lease.Lease | None = None
        self._tries: dict[int, int] = {}

    async def step(self) -> int:
        """Carry what was committed since; how far that went, in places of `seq`.

        Raises Broken `command-unknown`, Conflict `lease-lost` when another process took over.
        """
        before = await self._source.read(_position)
        if (await self._waiting())[0] <= before and not await self._source.read(_due):
            return 0
        if not await self._lead():
            return 0
        again = await self._again()
        reached, messages = await self._waiting()
        blocked = await self._source.read(aside.blocked)
        for target, group in _runs([m for m in messages if m.target_cell is not None]):
            await self._pass_on(target, group, blocked)
        if reached > before:
            # Commits without a message are passed too, or the cursor would stay before them.
            await self._write(lambda tx: outbox.advance(tx, NAME, reached))
        return max(reached - before, 0) + again

    async def give_up(self) -> None:
        """Let a successor begin at once."""
        held = self._held
        if held is not None:
            await self._source.run(ACTOR, new_trace_id(), lambda tx: lease.release(tx, held))

    async def _waiting(self) -> tuple[int, list[Outgoing]]:
        async def work(tx: CellRead) -> tuple[int, list[Outgoing]]:
            return await outbox.after(tx, await outbox.position(tx, NAME), COMMITS)

        return await self._source.read(work)

    async def _lead(self) -> bool:
        held = self._held
        self._held = await self._source.run(
            ACTOR, new_trace_id(), lambda tx: lease.acquire(tx, NAME, self._length, held)
        )
        return self._held is not None

    async def _write(self, work: Callable[[CellTx], Awaitable[None]]) -> None:
        """Write to the source cell as its only relay. Raises Conflict `lease-lost`."""
        held = self._held
        if held is None:
            raise Conflict("lease-lost", "This process does not relay for the cell.")

        async def fenced(tx: CellTx) -> None:
            await lease.still_held(tx, held)
            await work(tx)

        await self._source.run(ACTOR, new_trace_id(), fenced)

    async def _pass_on(
        self, target: int, group: Sequence[Outgoing], blocked: set[tuple[int, str]]
    ) -> None:
        """Deliver a run of commands together; if that fails, each alone, in order."""
        free = [message for message in group if (target, message.key) not in blocked]
        if len(free) == len(group):
            try:
                await self._deliver(target, group)
            except Busy:
                raise
            except Exception as error:  # noqa: BLE001 - found out one by one below
                _log.warning("commands_failed_together", error=type(error).__name__, target=target)
            else:
                return
        for message in group:
            if (target, message.key) in blocked:
                await self._lay(message, 0, aside.BEHIND, "An earlier command of its key waits.")
            elif not await self._alone(target, message):
                blocked.add((target, message.key))

    async def _alone(self, target: int, message: Outgoing) -> bool:
        """Deliver one command; False when it has failed so often that it was laid aside."""
        try:
            await self._deliver(target, [message])
        except Busy:
            raise
        except Exception as error:
            slug, detail = _said(error)
            tries = self._tries[message.message_id] = self._tries.get(message.message_id, 0) + 1
            # An unknown command is not its own fault: this process is older than its sender.
            if tries < MAX_TRIES or slug == "command-unknown":
                raise
            _log.exception("command_laid_aside", topic=message.topic, slug=slug, tries=tries)
            await self._lay(message, tries, slug, detail)
            del self._tries[message.message_id]
            return False
        self._tries.pop(message.message_id, None)
        return True

    async def _lay(self, message: Outgoing, tries: int, slug: str, detail: str) -> None:
        await self._write(lambda tx: aside.lay(tx, [message], tries, slug, detail))

    async def _again(self) -> int:
        """Try what somebody wants tried again; how many succeeded."""
        succeeded = 0
        failed: set[tuple[int, str]] = set()
        for message in await self._source.read(_due):
            target = message.target_cell or 0
            if (target, message.key) in failed:
                continue
            try:
                await self._deliver(target, [message])
            except Busy:
                raise
            except Exception as error:  # noqa: BLE001 - it stays aside, with this reason
                slug, detail = _said(error)
                _log.warning("command_failed_again", topic=message.topic, slug=slug)
                failed.add((target, message.key))
                await self._write(
                    lambda tx, m=message, s=slug, d=detail: aside.failed_again(tx, m, s, d)
                )
                continue
            await self._write(lambda tx, m=message: aside.done(tx, m.message_id))
            succeeded += 1
        return succeeded

    async def _deliver(self, target: int, group: Sequence[Outgoing]) -> None:
        """One transaction for a run of commands of one trace."""

        async def work(tx: CellTx) -> None:
            for message in group:
                await carry_out(tx, self._source.number, message)

        await self._dbs.cell(target).run(ACTOR, group[0].trace_id, work)


async def _position(tx: CellRead) -> int:
    return await outbox.position(tx, NAME)


async def _due(tx: CellRead) -> list[Outgoing]:
    return await aside.due(tx, TOGETHER)


def _said(error: Exception) -> tuple[str, str]:
    """Slug and detail of a failure, fit to be kept."""
    if isinstance(error, PaymasterError):
        return error.slug, error.detail[:_MAX_DETAIL]
    return "command-failed", type(error).__name__


def _runs(commands: Sequence[Outgoing]) -> Iterator[tuple[int, list[Outgoing]]]:
    """Neighbours with the same target and trace, at most `TOGETHER` at once; order is kept."""
    for (target, _), run in groupby(commands, key=lambda m: (m.target_cell or 0, m.trace_id)):
        group = list(run)
        for start in range(0, len(group), TOGETHER):
            yield target, group[start : start + TOGETHER]


async def carry_out(tx: CellTx, source_cell: int, message: Outgoing) -> None:
    """Do what a command says, once. Raises Broken `command-unknown`."""
    handler = HANDLERS.get(message.topic)
    if handler is None:
        raise Broken("command-unknown", f"Nobody handles {message.topic!r}.")
    source, message_id = f"cell:{source_cell}", str(message.message_id)
    incoming = inbox.Incoming(
        source, message_id, message.topic, message.payload, None, message.trace_id
    )
    if await inbox.once(tx, incoming) is None:
        result = await handler(tx, source_cell, message)
        await inbox.done(tx, source, message_id, result)
