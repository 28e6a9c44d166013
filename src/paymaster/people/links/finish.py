"""The browser comes back: one exchange for each way, and then the link.

    claim      tx in the user's cell: the way is ours for a while, or somebody else's, or over
    exchange   the network, outside any transaction
    bind       the directory notes whose the identity is; then, in one tx of the cell, the
               destination, the link, and the end of the way

Browsers open such an address twice. The second one waits for what the first one gets, and gets the
same; a code that is good once is sent once. A way keeps to the first code that came by it.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from paymaster.db import audit, outbox
from paymaster.db.cells import Databases
from paymaster.db.tx import Actor, CellTx, ControlRead, ControlTx
from paymaster.kernel.errors import (
    Busy,
    Conflict,
    NotFound,
    PaymasterError,
    Refusal,
    Unprocessable,
)
from paymaster.kernel.ids import Ref, text_id
from paymaster.people import destinations
from paymaster.people.links import exchange, providers, store
from paymaster.people.links.begin import digest, parse_state
from paymaster.people.links.exchange import Exchanger, Identity
from paymaster.people.links.providers import LinkProvider
from paymaster.people.links.store import OwnerRow, WayRow
from paymaster.secrets.sealing import Sealer

LEASE: Final = timedelta(seconds=30)
FINGERPRINT: Final = "link"
_LOOK_AGAIN_SECONDS: Final = 0.1
_LOOKS: Final = 150

_ENDS: Final[dict[str, Callable[[], PaymasterError]]] = {
    "link-code-refused": exchange.code_refused,
    "link-snapshot-user": exchange.snapshot_user,
    "link-already-bound": lambda: Conflict(
        "link-already-bound", "This account is linked to another user already."
    ),
    "link-exists": lambda: Conflict(
        "link-exists", "The user has linked another account there; unlink that one first."
    ),
    "link-denied": lambda: Unprocessable("link-denied", "The user did not agree."),
    "link-interrupted": lambda: Conflict(
        "link-interrupted", "The link was broken off in the middle: begin it again."
    ),
}
"""How a way can end without a link, to be told again to who comes with the same code."""


@dataclass(frozen=True, slots=True)
class Back:
    """What the browser brought. `code` None: the user did not agree."""

    provider: str
    state: str
    code: str | None
    nonce: str


@dataclass(frozen=True, slots=True)
class Came:
    """Where a way has come to: `ours` to go on, or over with `error` or `link_id`, or neither."""

    way: WayRow
    ours: bool = False
    error: PaymasterError | None = None
    link_id: int | None = None


@dataclass(frozen=True, slots=True)
class Finish:
    """Everything that coming back works with."""

    dbs: Databases
    sealer: Sealer
    exchanger: Exchanger
    cooling: timedelta
    trace_id: str
    origin: str | None = None

    def actor(self, ref: Ref, user_id: int) -> Actor:
        """The user: the browser has shown that it is the one in which he began."""
        environment = self.dbs.environment_of(ref.cell)
        return Actor(f"user:{text_id('us', ref.cell, user_id)}", self.origin, environment.id)

    async def come_back(self, back: Back) -> tuple[WayRow, int]:
        """The way, and the link that came of it.

        Raises Refusal `link-state-invalid` (not ours, of another browser, or too old),
        `link-state-used`, what `_ENDS` names, and Busy `link-provider-unavailable`: come again with
        the same code.
        """
        ref = self._ref(back)
        for _ in range(_LOOKS):
            came = await self._claim(ref, back)
            if came.error is not None:
                raise came.error
            if came.link_id is not None:
                return came.way, came.link_id
            if came.ours:
                return came.way, await self._go(ref, back, came.way)
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        raise Busy("link-provider-unavailable", "The provider has not answered yet: come again.")

    async def way_of(self, back: Back) -> WayRow | None:
        """The way that a browser came by, where it is that browser's; for where to send it."""
        try:
            ref = self._ref(back)
        except Refusal:
            return None
        row = await self.dbs.cell(ref.cell).read(lambda tx: store.way(tx, ref.id))
        return row if row is not None and _fits(row, back) else None

    def _ref(self, back: Back) -> Ref:
        parsed = parse_state(back.state)
        if parsed is None or all(cell.number != parsed[0].cell for cell in self.dbs.cells()):
            raise _invalid()
        return parsed[0]

    async def _claim(self, ref: Ref, back: Back) -> Came:
        async def work(tx: CellTx) -> Came:
            row = await store.lock_way(tx, ref.id)
            if row is None or not _fits(row, back):
                raise _invalid()
            return await _judge(tx, row, back.code)

        return await self.dbs.cell(ref.cell).run(Actor("role:links"), self.trace_id, work)

    async def _go(self, ref: Ref, back: Back, way: WayRow) -> int:
        """Exchange and bind; whatever comes of it is written down, for who comes after us."""
        assert back.code is not None
        environment = self.dbs.environment_of(ref.cell)

        async def find(tx: ControlRead) -> LinkProvider:
            return await providers.usable(tx, environment.id, way.provider)

        try:
            provider = await self.dbs.control.read(find)
            identity = await self.exchanger.identify(provider, back.code)
        except Busy as error:
            # Nothing is known to have come of it: the same code may come again.
            await self._leave(ref, way, "open", None)
            raise error from None
        except PaymasterError as error:
            await self._leave(ref, way, "failed", error.slug)
            raise
        try:
            return await self._bind(ref, way, provider, identity)
        except Busy:
            await self._leave(ref, way, "failed", "link-interrupted")
            raise
        except PaymasterError as error:
            await self._leave(ref, way, "failed", error.slug)
            raise

    async def _leave(self, ref: Ref, way: WayRow, state: str, slug: str | None) -> None:
        """End our turn, if it is still ours. A refusal of a person is audited."""

        async def work(tx: CellTx) -> None:
            row = await store.lock_way(tx, way.id)
            if row is None or row.version != way.version:
                return
            await store.write_way(tx, row, state, slug=slug)
            if slug is not None:
                user = text_id("us", tx.cell, way.user_id)
                detail = {"provider": way.provider, "slug": slug}
                await audit.record(tx, [audit.Act("link.refuse", user, detail=detail)])

        actor = self.actor(ref, way.user_id)
        await self.dbs.cell(ref.cell).run(actor, self.trace_id, work)

    async def _bind(self, ref: Ref, way: WayRow, provider: LinkProvider, identity: Identity) -> int:
        actor, environment_id = self.actor(ref, way.user_id), provider.environment_id
        owner = await self._own(actor, ref, way, provider, identity)
        control = self.dbs.control
        user, kind, currency = Ref(ref.cell, way.user_id), identity.kind, provider.currency

        async def claim(tx: ControlTx) -> int:
            return await destinations.claim(
                tx, self.sealer, environment_id, user, kind, currency, identity.details
            )

        async def link(tx: CellTx) -> int:
            return await _link(tx, self.sealer, way, currency, identity, owner, self.cooling)

        try:
            await control.run(actor, self.trace_id, claim)
            return await self.dbs.cell(ref.cell).run(actor, self.trace_id, link)
        except PaymasterError:
            if owner.version == 1:
                await control.run(
                    actor,
                    self.trace_id,
                    lambda tx: store.disown(tx, environment_id, owner.owner_id, owner.version),
                )
            raise

    async def _own(
        self, actor: Actor, ref: Ref, way: WayRow, provider: LinkProvider, identity: Identity
    ) -> OwnerRow:
        """Note whose the identity is. Raises Conflict `link-already-bound`.

        What another user's link left behind, when it was broken off, is taken over.
        """
        environment_id, name = provider.environment_id, provider.provider
        marks = self.sealer.fingerprints(FINGERPRINT, f"{name}\0{identity.subject}")

        async def own(tx: ControlTx) -> tuple[OwnerRow, bool]:
            row = await store.own(tx, environment_id, name, marks, ref.cell, way.user_id, way.id)
            return row, row.bound_at < tx.now - 2 * LEASE

        row, old = await self.dbs.control.run(actor, self.trace_id, own)
        if (row.cell, row.user_id) == (ref.cell, way.user_id):
            return row
        held = not old or await self.dbs.cell(row.cell).read(
            lambda tx: store.holds(tx, row.user_id, row.owner_id)
        )
        if not held and await self.dbs.control.run(
            actor,
            self.trace_id,
            lambda tx: store.take_over(
                tx, environment_id, name, row, ref.cell, way.user_id, way.id
            ),
        ):
            row, _ = await self.dbs.control.run(actor, self.trace_id, own)
            return row
        raise _ended("link-already-bound")


def _invalid() -> Refusal:
    return Refusal(
        "link-state-invalid", "This link was not begun in this browser, or too long ago."
    )


def _fits(row: WayRow, back: Back) -> bool:
    """Whether the browser is the one that began, by this very state."""
    parsed = parse_state(back.state)
    if parsed is None or row.provider != back.provider:
        return False
    secret = hmac.compare_digest(row.secret_hash, digest(parsed[1]))
    return hmac.compare_digest(row.nonce_hash, digest(back.nonce)) and secret


async def _judge(tx: CellTx, row: WayRow, code: str | None) -> Came:
    """What to do about a locked way. Raises Refusal."""
    brought = digest(code or "")
    if row.code_hash is not None and not hmac.compare_digest(row.code_hash, brought):
        raise Refusal("link-state-used", "This link was gone already: begin another one.")
    if row.state == "done":
        return Came(row, link_id=row.link_id)
    if row.state == "failed":
        return Came(row, error=_ended(row.slug or ""))
    if row.state == "exchanging":
        if row.lease_until is not None and row.lease_until > tx.now:
            return Came(row)
        # Its process has ended, and the code may be used up.
        await store.write_way(tx, row, "failed", slug="link-interrupted")
        return Came(row, error=_ended("link-interrupted"))
    if row.expires_at <= tx.now:
        raise _invalid()
    if code is None:
        await store.write_way(tx, row, "failed", code_hash=brought, slug="link-denied")
        return Came(row, error=_ended("link-denied"))
    await store.write_way(tx, row, "exchanging", code_hash=brought, lease_until=tx.now + LEASE)
    changed = await store.way(tx, row.id)
    assert changed is not None
    return Came(changed, ours=True)


def _ended(slug: str) -> PaymasterError:
    """The error that a way ended with, told again."""
    known = _ENDS.get(slug)
    return known() if known else Unprocessable(slug, "The link did not come about: begin it again.")


async def _link(
    tx: CellTx,
    sealer: Sealer,
    way: WayRow,
    currency: str,
    identity: Identity,
    owner: OwnerRow,
    cooling: timedelta,
) -> int:
    """The destination, the link and the end of the way. Raises Conflict `link-exists`."""
    row = await store.lock_way(tx, way.id)
    if row is None or row.version != way.version:
        raise _ended("link-interrupted")
    user_id, kind, details = way.user_id, identity.kind, identity.details
    before = await store.lock_link(tx, user_id, way.provider)
    if before is not None:
        if (
            await destinations.known(tx, sealer, user_id, kind, currency, details)
            != before.destination_id
        ):
            raise _ended("link-exists")
        await store.own_link(tx, before.id, owner)
        await store.write_way(tx, row, "done", link_id=before.id)
        return before.id
    view = await destinations.linked(tx, sealer, user_id, kind, currency, details, cooling=cooling)
    link_id = tx.id()
    if not await store.insert_link(tx, link_id, user_id, way.provider, view.ref.id, owner):
        raise _ended("link-interrupted")
    await store.write_way(tx, row, "done", link_id=link_id)
    user = text_id("us", tx.cell, user_id)
    detail = {"provider": way.provider, "destination": view.id}
    await audit.record(tx, [audit.Act("link.add", user, detail=detail)])
    told = {"user": user, "provider": way.provider, "destination": view.id}
    await outbox.put(tx, [outbox.Message("link.added", user, told)])
    return link_id


def not_linked() -> NotFound:
    """The user has no such link."""
    return NotFound("link-unknown", "The user has linked no account there.")
