"""What a user has linked, and the end of a link."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from paymaster.db import audit, outbox
from paymaster.db.cells import Databases
from paymaster.db.tx import Actor, CellRead, CellTx
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.ids import Ref, text_id
from paymaster.people.destinations import UNLINKED
from paymaster.people.links import store
from paymaster.people.links.finish import not_linked
from paymaster.people.links.store import LinkRow

Close = Callable[[CellTx, int, str], Awaitable[Any]]
"""Closes a destination, with what waits for it; see `paymaster.withdraw.pinned`."""


@dataclass(frozen=True, slots=True)
class LinkView:
    """A link that holds; the identity itself is shown masked only."""

    ref: Ref
    user_id: int
    provider: str
    destination_id: int
    mask: str
    destination_state: str
    linked_at: datetime
    usable_at: datetime

    @property
    def id(self) -> str:
        """The text id."""
        return text_id("ln", self.ref.cell, self.ref.id)

    def wire(self) -> dict[str, Any]:
        """For JSON."""
        cell = self.ref.cell
        return {
            "id": self.id,
            "user": text_id("us", cell, self.user_id),
            "provider": self.provider,
            "destination": text_id("de", cell, self.destination_id),
            "destination_state": self.destination_state,
            "mask": self.mask,
            "linked_at": rfc3339(self.linked_at),
            "usable_at": rfc3339(self.usable_at),
        }


def _view(tx: CellRead, row: LinkRow) -> LinkView:
    return LinkView(
        Ref(tx.cell, row.id),
        row.user_id,
        row.provider,
        row.destination_id,
        row.mask,
        row.destination_state,
        row.linked_at,
        row.usable_at,
    )


async def listing(tx: CellRead, user_id: int) -> list[LinkView]:
    """The links of a user, by provider."""
    return [_view(tx, row) for row in await store.links(tx, user_id)]


async def unlink(
    dbs: Databases,
    actor: Actor,
    trace_id: str,
    user: Ref,
    provider: str,
    reason: str,
    close: Close,
) -> LinkView:
    """End a link: nothing is paid there any more, and the identity is free for another user.

    First in the cell, then in the directory: in between the identity is nobody's to use. Raises
    NotFound `link-unknown`, and what `close` raises.
    """
    environment = dbs.environment_of(user.cell)

    async def work(tx: CellTx) -> LinkRow:
        row = await store.lock_link(tx, user.id, provider)
        if row is None:
            raise not_linked()
        await store.end_link(tx, row.id)
        await close(tx, row.destination_id, UNLINKED)
        name = text_id("us", tx.cell, user.id)
        destination = text_id("de", tx.cell, row.destination_id)
        detail = {"provider": provider, "destination": destination}
        await audit.record(tx, [audit.Act("link.remove", name, reason, detail)])
        told = {"user": name, "provider": provider, "destination": destination}
        await outbox.put(tx, [outbox.Message("link.removed", name, told)])
        return row

    row = await dbs.cell(user.cell).run(actor, trace_id, work)
    await dbs.control.run(
        actor,
        trace_id,
        lambda tx: store.disown(tx, environment.id, row.owner_id, row.owner_version),
    )
    return LinkView(
        Ref(user.cell, row.id),
        row.user_id,
        row.provider,
        row.destination_id,
        row.mask,
        "closed",
        row.linked_at,
        row.usable_at,
    )
