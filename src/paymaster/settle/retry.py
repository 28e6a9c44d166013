"""A person has a message that was laid aside tried again, or ends it.

What was put right decides whether that helps. A message about a payment is applied in its cell, by
the same rules as the first time: it is the provider's word, and no word of the person's is added to
it. One about no reference of ours has no place to be tried in, unless a cell was added after it
came: then it goes there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from paymaster.db import inbox
from paymaster.db.cells import Databases
from paymaster.db.inbox import Incoming
from paymaster.db.tx import Actor, CellTx
from paymaster.kernel.errors import Conflict, NotFound, PaymasterError, Unprocessable
from paymaster.settle import unmatched
from paymaster.settle.unmatched import SUFFIX, State, Unmatched


@dataclass(frozen=True, slots=True)
class Address:
    """Where a message lies."""

    cell: int
    source: str
    message_id: str


@dataclass(frozen=True, slots=True)
class Retrying:
    """Who lets messages of an environment be tried again."""

    dbs: Databases
    environment_id: int
    actor: Actor
    trace_id: str

    async def look(self, address: Address) -> Unmatched:
        """A message. Raises NotFound `not-found`."""
        found = await self.dbs.cell(address.cell).read(
            lambda tx: unmatched.find(tx, address.source, address.message_id)
        )
        if found is None:
            raise NotFound("not-found", "There is no such message.")
        return found

    async def again(self, address: Address, reason: str) -> Address:
        """Have a message tried again; where it lies from now on.

        Raises NotFound `not-found`, Unprocessable `notice-foreign` where no try can help, Conflict
        `notice-waiting`, `notice-applied` or `notice-moved` where somebody was quicker.
        """
        row = await self.look(address)
        if row.foreign:
            return await self._move(address, row, reason)

        async def work(tx: CellTx) -> None:
            if not await unmatched.again(tx, address.source, address.message_id, reason):
                raise await _quicker(tx, address)

        await self.dbs.cell(address.cell).run(self.actor, self.trace_id, work)
        return address

    async def close(self, address: Address, reason: str) -> None:
        """End a message that is laid aside, for good reasons.

        Raises NotFound `not-found`, Conflict `notice-closed`, and as `again`.
        """
        await self.look(address)

        async def work(tx: CellTx) -> None:
            if not await unmatched.close(tx, address.source, address.message_id, reason):
                raise await _quicker(tx, address)

        await self.dbs.cell(address.cell).run(self.actor, self.trace_id, work)

    async def _move(self, address: Address, row: Unmatched, reason: str) -> Address:
        """Give a foreign message to the cell of its reference, if there is one by now."""
        others = {cell.number for cell in self.dbs.cells(self.environment_id)} - {address.cell}
        if row.about is None or row.about.cell not in others:
            raise Unprocessable(
                "notice-foreign",
                "It names no reference that we can have given out, so no try can place it. Ask the"
                " provider what it is, then close it.",
            )
        if row.state not in {State.LAID_ASIDE, State.CLOSED}:
            raise _conflict(row)
        here, there = self.dbs.cell(address.cell), self.dbs.cell(row.about.cell)
        source, name = address.source, address.message_id
        sealed = await here.read(lambda tx: unmatched.sealed_of(tx, source, name))
        topic = row.topic.removesuffix(SUFFIX)
        message = Incoming(source, name, topic, row.payload, sealed, row.trace_id)
        # First there, then here: whoever comes in between finds it there and changes nothing.
        await there.run(self.actor, self.trace_id, lambda tx: inbox.receive(tx, [message]))

        async def work(tx: CellTx) -> None:
            if not await unmatched.move(tx, source, name, there.number, reason):
                raise await _quicker(tx, address)

        await here.run(self.actor, self.trace_id, work)
        return replace(address, cell=there.number)


async def _quicker(tx: CellTx, address: Address) -> PaymasterError:
    """Why there is nothing to be done about a message any more."""
    row = await unmatched.find(tx, address.source, address.message_id)
    return NotFound("not-found", "There is no such message.") if row is None else _conflict(row)


def _conflict(row: Unmatched) -> Conflict:
    match row.state:
        case State.WAITING:
            return Conflict("notice-waiting", f"It is tried by itself; {row.tries} tries so far.")
        case State.MOVED:
            number = row.result.get("moved_to")
            return Conflict(
                "notice-moved", f"It went to its own cell, {number}, and is tried there."
            )
        case State.LAID_ASIDE:
            return Conflict("notice-waiting", "It was tried just now, and is laid aside again.")
        case State.CLOSED:
            said = f"It was closed by a person; what stood against it was {row.result['closed']}."
            return Conflict("notice-closed", said)
        case State.APPLIED:
            return Conflict("notice-applied", f"It was applied: {_did(row)}")


def _did(row: Unmatched) -> str:
    changed = int(row.result.get("changed") or 0)
    if not changed:
        return "it changed nothing, because as much was known already."
    return "it changed one payment." if changed == 1 else f"it changed {changed} payments."
