"""Where a user's money goes: checked, sealed, shown masked, found when many users share one.

Adding one takes two steps: `claim` in the directory (which user uses which destination is a fact
of the whole environment), then `add` in the user's cell. Both are harmless to repeat.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import msgspec

from paymaster.db import audit, outbox
from paymaster.db.cells import Databases
from paymaster.db.tx import Actor, CellRead, CellTx, ControlRead, ControlTx
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import Conflict, NotFound, Unprocessable
from paymaster.kernel.ids import Ref, text_id
from paymaster.kernel.money import exponent
from paymaster.people import store, users
from paymaster.people.factors import proof
from paymaster.people.factors.binding import Purpose, new_accounts
from paymaster.people.factors.proof import Shown
from paymaster.people.links import store as links_store
from paymaster.people.machine import DESTINATION, Act, DestinationState
from paymaster.people.views import DestinationView
from paymaster.rails.base import Payee
from paymaster.rails.destinations import Checked, check
from paymaster.secrets.sealing import Sealer, place

REGISTRY = "destination"
COOLING_OFF = timedelta(hours=24)
"""How long a new destination must wait before money goes there, unless a setting says otherwise."""

UNLINKED = "unlinked"
"""Why a destination is closed whose link was ended."""

_NOTHING_ASKED = Shown(required=False)

_DETAILS = msgspec.json.Decoder(dict[str, str])


@dataclass(frozen=True, slots=True)
class Shared:
    """A destination and how many users of the environment use it."""

    destination_id: int
    users: int


async def register(
    dbs: Databases,
    sealer: Sealer,
    actor: Actor,
    trace_id: str,
    user: Ref,
    kind: str,
    currency: str,
    details: Mapping[str, str],
    *,
    cooling: timedelta = COOLING_OFF,
    shown: Shown = _NOTHING_ASKED,
) -> DestinationView:
    """Both steps at once. Raises what `claim` and `add` raise."""
    environment = dbs.environment_of(user.cell)
    cell = dbs.cell(user.cell)

    async def ahead(tx: CellTx) -> None:
        await _proven(tx, sealer, user.id, kind, currency, details, shown)

    if shown.matters:
        # Before the directory notes it: what is refused here shall leave nothing there.
        await cell.run(actor, trace_id, ahead)

    async def first(tx: ControlTx) -> int:
        return await claim(tx, sealer, environment.id, user, kind, currency, details)

    await dbs.control.run(actor, trace_id, first)

    async def second(tx: CellTx) -> DestinationView:
        return await add(tx, sealer, user.id, kind, currency, details, cooling=cooling, shown=shown)

    return await cell.run(actor, trace_id, second)


async def _proven(
    tx: CellTx,
    sealer: Sealer,
    user_id: int,
    kind: str,
    currency: str,
    details: Mapping[str, str],
    shown: Shown,
) -> int | None:
    """The step-up to use for a destination that is new; none is needed for one that is there."""
    if not shown.matters:
        return None
    if await _known(tx, sealer, user_id, kind, currency, details) is not None:
        return None
    payees = new_accounts(sealer, kind, currency, check(kind, details))
    return await proof.require(tx, user_id, proof.Act(Purpose.DESTINATION, payees), shown)


async def claim(
    tx: ControlTx,
    sealer: Sealer,
    environment_id: int,
    user: Ref,
    kind: str,
    currency: str,
    details: Mapping[str, str],
) -> int:
    """Register that the user uses this destination; how many users now do.

    Raises Unprocessable `destination-invalid`, Refusal `currency-unknown`.
    """
    exponent(currency)
    checked = check(kind, details)
    fingerprints = list(sealer.fingerprints(kind, checked.fingerprint_source))
    await store.register_fingerprints(
        tx, environment_id, REGISTRY, fingerprints, user.cell, user.id
    )
    [count] = await store.count_users(tx, environment_id, REGISTRY, [fingerprints])
    return count


async def add(
    tx: CellTx,
    sealer: Sealer,
    user_id: int,
    kind: str,
    currency: str,
    details: Mapping[str, str],
    *,
    cooling: timedelta = COOLING_OFF,
    shown: Shown = _NOTHING_ASKED,
) -> DestinationView:
    """Store a destination of a user; the same again returns the one that is there.

    Money may go there after `cooling`. `shown` is the proof of a second factor that a new one may
    need; it is used up here. Raises Unprocessable `destination-invalid`, `destination-closed` (it
    was closed once; a closed one is not opened again), `user-suspended`, `user-closed` or
    `user-erased` and what `proof.require` raises, NotFound `user-unknown`, Refusal
    `currency-unknown`.
    """
    exponent(currency)
    checked = check(kind, details)
    await users.require_active(tx, user_id)
    fingerprints = list(sealer.fingerprints(kind, checked.fingerprint_source))
    known = await store.same_destination(tx, user_id, kind, currency, fingerprints)
    if known is not None:
        return _again(tx, known)
    step_up = await _proven(tx, sealer, user_id, kind, currency, details, shown)
    row = store.DestinationRow(
        id=tx.id(),
        user_id=user_id,
        kind=kind,
        currency=currency,
        mask=checked.mask,
        fingerprint=fingerprints[0],
        state=DESTINATION.initial.value,
        closed_reason=None,
        usable_at=tx.now + cooling,
        created_at=tx.now,
        version=1,
    )
    if not await store.insert_destination(tx, row, await _sealed(tx, sealer, row, checked)):
        # Another transaction has just stored the same one and committed.
        known = await store.same_destination(tx, user_id, kind, currency, fingerprints)
        if known is not None:
            return _again(tx, known)
    view = _view(tx, row, created=True)
    await proof.use(tx, step_up, view.id)
    await audit.record(
        tx, [audit.Act("destination.add", view.id, detail={"kind": kind, "currency": currency})]
    )
    await _tell(tx, "destination.added", view)
    return view


async def linked(
    tx: CellTx,
    sealer: Sealer,
    user_id: int,
    kind: str,
    currency: str,
    details: Mapping[str, str],
    *,
    cooling: timedelta = COOLING_OFF,
) -> DestinationView:
    """`add` for an account that its owner has just linked: one that was unlinked opens again.

    It then waits for the cooling-off like a new one. Raises as `add` does.
    """
    known = await _known(tx, sealer, user_id, kind, currency, details)
    if known is None or (known.state, known.closed_reason) != (DestinationState.CLOSED, UNLINKED):
        return await add(tx, sealer, user_id, kind, currency, details, cooling=cooling)
    await users.require_active(tx, user_id)
    row = await store.lock_destination(tx, known.id)
    if row is None or not DESTINATION.allows(row.state, Act.LINK):
        raise Conflict("link-interrupted", "The destination has just changed: begin it again.")
    move = DESTINATION.find(row.state, Act.LINK)
    await links_store.reopen_destination(tx, row.id, move.target.value, tx.now + cooling)
    view = await get(tx, row.id)
    await audit.record(tx, [audit.Act("destination.link", view.id)])
    await _tell(tx, "destination.added", view)
    return view


async def _known(
    tx: CellRead,
    sealer: Sealer,
    user_id: int,
    kind: str,
    currency: str,
    details: Mapping[str, str],
) -> store.DestinationRow | None:
    """The user's destination of these details, if there is one."""
    exponent(currency)
    checked = check(kind, details)
    fingerprints = list(sealer.fingerprints(kind, checked.fingerprint_source))
    return await store.same_destination(tx, user_id, kind, currency, fingerprints)


async def known(
    tx: CellRead,
    sealer: Sealer,
    user_id: int,
    kind: str,
    currency: str,
    details: Mapping[str, str],
) -> int | None:
    """The id of the user's destination of these details, open or closed."""
    row = await _known(tx, sealer, user_id, kind, currency, details)
    return None if row is None else row.id


async def _sealed(tx: CellTx, sealer: Sealer, row: store.DestinationRow, checked: Checked) -> bytes:
    key = await users.require_key(tx, sealer, row.user_id)
    return sealer.seal(key, msgspec.json.encode(checked.details), place("destination", row.id))


def _again(tx: CellRead, row: store.DestinationRow) -> DestinationView:
    if row.state == DestinationState.CLOSED:
        raise Unprocessable(
            "destination-closed",
            f"This destination of the user was closed ({row.closed_reason}); use another one.",
        )
    return _view(tx, row)


def _view(tx: CellRead, row: store.DestinationRow, *, created: bool = False) -> DestinationView:
    return DestinationView(
        Ref(tx.cell, row.id),
        row.user_id,
        row.kind,
        row.currency,
        row.mask,
        row.state,
        row.closed_reason,
        row.usable_at,
        row.created_at,
        created,
        row.paused_code,
        row.paused_at,
    )


async def _tell(tx: CellTx, topic: str, view: DestinationView, **more: str | int) -> None:
    user = text_id("us", tx.cell, view.user_id)
    payload = {
        "destination": view.id,
        "user": user,
        "kind": view.kind,
        "currency": view.currency,
        "state": view.state,
        "usable_at": rfc3339(view.usable_at),
        **more,
    }
    await outbox.put(tx, [outbox.Message(topic, user, payload)])


async def listing(tx: CellRead, user_id: int) -> list[DestinationView]:
    """All destinations of a user, oldest first, closed ones too."""
    return [_view(tx, row) for row in await store.destinations_of(tx, user_id)]


async def get(tx: CellRead, destination_id: int) -> DestinationView:
    """One destination. Raises NotFound `destination-unknown`."""
    rows = await store.destinations(tx, [destination_id])
    if not rows:
        raise NotFound("destination-unknown", "There is no such destination.")
    return _view(tx, rows[0])


async def get_many(tx: CellRead, destination_ids: Iterable[int]) -> dict[int, DestinationView]:
    """Destinations by id; unknown ones are missing."""
    return {row.id: _view(tx, row) for row in await store.destinations(tx, destination_ids)}


async def close(
    tx: CellTx, destination_id: int, reason: str, *, user_id: int | None = None
) -> DestinationView:
    """Close for good, only if it is `user_id`'s, where given; a closed one stays as it is.

    Raises NotFound `destination-unknown`.
    """
    row = await store.lock_destination(tx, destination_id)
    if row is None or user_id not in (None, row.user_id):
        raise NotFound("destination-unknown", "There is no such destination.")
    if DESTINATION.allows(row.state, Act.CLOSE):
        move = DESTINATION.find(row.state, Act.CLOSE)
        await store.close_destination(tx, destination_id, move.target.value, reason)
        view = await get(tx, destination_id)
        await audit.record(tx, [audit.Act("destination.close", view.id, reason)])
        await _tell(tx, "destination.closed", view)
        return view
    return _view(tx, row)


async def pause(tx: CellTx, destination_id: int, code: str, failures: int) -> bool:
    """Pay nothing there for now, because payments keep failing; False where it was not active.

    `code` is that of the last failure, `failures` how many there were in a row. Audited, and told.
    """
    row = await store.lock_destination(tx, destination_id)
    if row is None or not DESTINATION.allows(row.state, Act.PAUSE):
        return False
    move = DESTINATION.find(row.state, Act.PAUSE)
    await store.pause_destination(tx, destination_id, move.target.value, code)
    view = await get(tx, destination_id)
    detail = {"code": code, "failures": failures}
    await audit.record(tx, [audit.Act("destination.pause", view.id, None, detail)])
    await _tell(tx, "destination.paused", view, code=code, failures=failures)
    return True


async def resume(tx: CellTx, destination_id: int, reason: str) -> DestinationView:
    """Let money go there again; what failed before counts no more. An active one stays as it is.

    Raises NotFound `destination-unknown`, Unprocessable `destination-closed`.
    """
    row = await store.lock_destination(tx, destination_id)
    if row is None:
        raise NotFound("destination-unknown", "There is no such destination.")
    if row.state == DestinationState.CLOSED:
        raise Unprocessable("destination-closed", "It was closed; a closed one is not opened.")
    if not DESTINATION.allows(row.state, Act.RESUME):
        return _view(tx, row)
    move = DESTINATION.find(row.state, Act.RESUME)
    await store.resume_destination(tx, destination_id, move.target.value)
    view = await get(tx, destination_id)
    await audit.record(tx, [audit.Act("destination.resume", view.id, reason)])
    await _tell(tx, "destination.resumed", view)
    return view


async def open_payees(
    tx: CellRead, sealer: Sealer, destination_ids: Iterable[int]
) -> dict[int, Payee]:
    """The opened destinations, to be paid to at once and never kept; erased ones are missing."""
    opened: dict[int, Payee] = {}
    for row in await store.payees(tx, destination_ids):
        key = sealer.data_key(row.wrapped, row.kek_id)
        details = _DETAILS.decode(sealer.open(key, row.sealed, place("destination", row.id)))
        opened[row.id] = Payee(row.kind, details)
    return opened


async def fingerprints_of(
    tx: CellRead, sealer: Sealer, destination_ids: Iterable[int]
) -> dict[int, list[bytes]]:
    """The fingerprints of destinations under every version of the key, for `shared_by`.

    As long as the key has one version only, those are the ones that are stored.
    """
    if len(sealer.fingerprints("", "")) == 1:
        rows = await store.destination_fingerprints(tx, destination_ids)
        return {destination_id: [fingerprint] for destination_id, fingerprint in rows}
    return {
        destination_id: list(
            sealer.fingerprints(payee.kind, check(payee.kind, payee.details).fingerprint_source)
        )
        for destination_id, payee in (await open_payees(tx, sealer, destination_ids)).items()
    }


async def shared_by(
    tx: ControlRead, environment_id: int, fingerprints: Mapping[int, Sequence[bytes]]
) -> dict[int, int]:
    """How many users of the environment use each destination, as `fingerprints_of` gave them."""
    ids = list(fingerprints)
    counts = await store.count_users(
        tx, environment_id, REGISTRY, [fingerprints[one] for one in ids]
    )
    return dict(zip(ids, counts, strict=True))
