"""Where an app wants to be told: made, changed, given new secrets, switched off and on.

An endpoint's secret is shown once, when it is made; what is kept is sealed. What happens while an
endpoint is disabled is not sent later by itself: ask for a replay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from paymaster.db import audit, outbox
from paymaster.db.cells import Databases
from paymaster.db.tx import Actor, ControlRead, ControlTx, ReadTx
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import Broken, Conflict, NotFound, Problem, Unprocessable
from paymaster.kernel.ids import text_id
from paymaster.messages import catalogue, signing
from paymaster.messages.place import places_of
from paymaster.messages.store import deliveries, events
from paymaster.messages.store import endpoints as store
from paymaster.messages.store.endpoints import EndpointRow
from paymaster.observe import get_logger
from paymaster.secrets.sealing import Sealer, place

_log = get_logger(__name__)

MAX_OVERLAP: Final = timedelta(days=7)
MAX_SECRETS: Final = 5
"""Most secrets of one endpoint that sign at the same time."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an app says about an endpoint."""

    url: str = field(repr=False)
    types: Sequence[str]
    description: str = ""


@dataclass(frozen=True, slots=True)
class EndpointView:
    """An endpoint as the API shows it."""

    id: str
    row: EndpointRow

    def wire(self) -> dict[str, Any]:
        """For JSON."""
        row = self.row
        return {
            "id": self.id,
            "url": row.url,
            "description": row.description,
            "types": row.types,
            "ordered": row.ordered,
            "state": row.state,
            "disabled_reason": row.disabled_reason,
            "failing_since": _moment(row.failing_since),
            "created_at": rfc3339(row.created_at),
            "version": row.version,
        }


def _moment(at: datetime | None) -> str | None:
    return None if at is None else rfc3339(at)


def name_of(dbs: Databases, environment_id: int, endpoint_id: int) -> str:
    """The text id, which carries the environment's treasury cell."""
    return text_id("we", dbs.treasury(environment_id).number, endpoint_id)


async def heads(dbs: Databases, environment_id: int) -> dict[str, int]:
    """How far each of the environment's orders of commits has come, by the name of the place."""
    return {one.name: await one.read(events.head) for one in places_of(dbs, environment_id)}


async def create(
    tx: ControlTx,
    dbs: Databases,
    sealer: Sealer,
    environment_id: int,
    wanted: Wanted,
    starts_after: Mapping[str, int],
    *,
    ordered: bool,
    most: int,
) -> tuple[EndpointView, str]:
    """A new endpoint and its secret, which cannot be seen again.

    `starts_after` are the `heads` from before this transaction; the URL was judged by `Targets`.
    Raises Unprocessable `webhook-types-unknown` or `webhook-endpoints-exhausted`.
    """
    check_types(wanted.types)
    # Makers of endpoints of one environment come one after the other, or they would all be counted
    # as the last one; ids of environments and endpoints are never the same.
    await deliveries.lock_order(tx, [environment_id])
    if await store.count(tx, environment_id) >= most:
        raise Unprocessable(
            "webhook-endpoints-exhausted", f"There are {most} endpoints; delete one of them."
        )
    row = EndpointRow(
        tx.id(),
        environment_id,
        wanted.url,
        wanted.description,
        sorted(set(wanted.types)),
        ordered,
        "enabled",
        None,
        dict(starts_after),
        None,
        tx.now,
        1,
    )
    await store.insert(tx, row)
    secret = await _new_secret(tx, sealer, row.id)
    view = EndpointView(name_of(dbs, environment_id, row.id), row)
    await _acted(tx, view, "create", {"types": row.types, "ordered": ordered})
    return view, secret


async def _acted(tx: ControlTx, view: EndpointView, what: str, detail: Mapping[str, Any]) -> None:
    told = {**detail, audit.ENVIRONMENT: view.row.environment_id}
    await audit.record(tx, [audit.Act(f"webhook_endpoint.{what}", view.id, detail=told)])


def check_types(types: Sequence[str]) -> None:
    """Raises Unprocessable `webhook-types-unknown`."""
    problems = [
        Problem(f"/types/{index}", "No such type; see GET /v1/webhook-event-types.")
        for index, name in enumerate(types)
        if not catalogue.is_subscription(name)
    ]
    if not types:
        problems.append(Problem("/types", "Name at least one type, or `*`."))
    if problems:
        raise Unprocessable(
            "webhook-types-unknown", "An endpoint asks for types.", problems=problems
        )


async def listing(tx: ControlRead, dbs: Databases, environment_id: int) -> list[EndpointView]:
    """All endpoints of an environment, oldest first."""
    rows = await store.of_environment(tx, environment_id)
    return [EndpointView(name_of(dbs, environment_id, row.id), row) for row in rows]


async def get(tx: ReadTx, dbs: Databases, environment_id: int, endpoint_id: int) -> EndpointView:
    """One endpoint. Raises NotFound `webhook-endpoint-unknown`."""
    row = await store.find(tx, environment_id, endpoint_id)
    if row is None:
        raise NotFound("webhook-endpoint-unknown", "There is no such endpoint.")
    return EndpointView(name_of(dbs, environment_id, row.id), row)


async def locked(
    tx: ControlTx, dbs: Databases, environment_id: int, endpoint_id: int
) -> EndpointView:
    """The same, locked."""
    await store.lock(tx, endpoint_id)
    return await get(tx, dbs, environment_id, endpoint_id)


async def change(
    tx: ControlTx, dbs: Databases, environment_id: int, endpoint_id: int, wanted: Wanted
) -> EndpointView:
    """Another URL, description or types. Raises what `get` raises and `webhook-types-unknown`."""
    check_types(wanted.types)
    view = await locked(tx, dbs, environment_id, endpoint_id)
    types = sorted(set(wanted.types))
    same = (view.row.url, view.row.description, view.row.types)
    if same == (wanted.url, wanted.description, types):
        return view
    await store.change(tx, endpoint_id, wanted.url, wanted.description, types)
    detail = {"types": types, "url_changed": view.row.url != wanted.url}
    await _acted(tx, view, "change", detail)
    return await get(tx, dbs, environment_id, endpoint_id)


async def rotate(
    tx: ControlTx,
    dbs: Databases,
    sealer: Sealer,
    environment_id: int,
    endpoint_id: int,
    overlap: timedelta,
) -> tuple[EndpointView, str]:
    """A new secret; those before it sign beside it until `overlap` is over.

    Raises what `get` raises, Conflict `webhook-secrets-exhausted` when too many sign already.
    """
    view = await locked(tx, dbs, environment_id, endpoint_id)
    await store.expire_secrets(tx, endpoint_id, tx.now + overlap)
    if len(await store.secrets(tx, [endpoint_id])) >= MAX_SECRETS:
        raise Conflict(
            "webhook-secrets-exhausted",
            f"{MAX_SECRETS} secrets sign already; rotate with an overlap of 0 to end them.",
        )
    secret = await _new_secret(tx, sealer, endpoint_id)
    await _acted(tx, view, "rotate", {"overlap_seconds": int(overlap.total_seconds())})
    return view, secret


async def _new_secret(tx: ControlTx, sealer: Sealer, endpoint_id: int) -> str:
    secret, secret_id = signing.new_secret(), tx.id()
    sealed = sealer.seal_bytes(secret.encode(), _seal_place(secret_id))
    await store.add_secret(tx, secret_id, endpoint_id, sealed)
    return secret


def _seal_place(secret_id: int) -> bytes:
    return place("webhook_secret", secret_id)


async def keys(tx: ReadTx, sealer: Sealer, endpoint_ids: Sequence[int]) -> dict[int, list[bytes]]:
    """The opened keys that sign now, by endpoint, newest first.

    One that does not open is logged and left out: other endpoints go on.
    """
    found: dict[int, list[bytes]] = {}
    for row in await store.secrets(tx, endpoint_ids):
        try:
            secret = sealer.open_bytes(row.sealed, _seal_place(row.id)).decode()
        except Broken as error:
            _log.error("webhook_secret_unusable", endpoint=row.endpoint_id, slug=error.slug)
            continue
        found.setdefault(row.endpoint_id, []).append(signing.key_of(secret))
    return found


async def enable(
    tx: ControlTx, dbs: Databases, environment_id: int, endpoint_id: int
) -> EndpointView:
    """Tell it again, of what happens from now on and of what still waits."""
    view = await locked(tx, dbs, environment_id, endpoint_id)
    if await store.set_state(tx, endpoint_id, "enabled", None):
        await _acted(tx, view, "enable", {})
    return await get(tx, dbs, environment_id, endpoint_id)


async def disable(
    tx: ControlTx, dbs: Databases, environment_id: int, endpoint_id: int, reason: str
) -> EndpointView:
    """Tell it no more. `reason` is `asked`, `failing` or `gone`; audited, and an event."""
    view = await locked(tx, dbs, environment_id, endpoint_id)
    failing = view.row.failing_since
    if await store.set_state(tx, endpoint_id, "disabled", reason):
        detail = {"reason": reason, "failing_since": _moment(failing)}
        await _acted(tx, view, "disable", detail)
        told = {"endpoint": view.id, **detail}
        await outbox.put(tx, [outbox.Message("webhook_endpoint.disabled", view.id, told)])
    return await get(tx, dbs, environment_id, endpoint_id)


async def delete(tx: ControlTx, dbs: Databases, environment_id: int, endpoint_id: int) -> None:
    """Forget its secrets for good; its deliveries stay listed until their time is over."""
    view = await locked(tx, dbs, environment_id, endpoint_id)
    await store.set_state(tx, endpoint_id, "deleted", None)
    await store.expire_secrets(tx, endpoint_id, tx.now)
    await _acted(tx, view, "delete", {})


async def cancel_all(dbs: Databases, actor: Actor, environment_id: int, endpoint_id: int) -> None:
    """What waits for a deleted endpoint is not sent; without it, it would wait until forgotten."""
    for one in places_of(dbs, environment_id):
        await one.run(actor, lambda tx: deliveries.cancel(tx, endpoint_id))


async def test(
    tx: ControlTx, dbs: Databases, environment_id: int, endpoint_id: int
) -> EndpointView:
    """Send it an event of its own. Raises Conflict `webhook-endpoint-disabled`."""
    view = await get(tx, dbs, environment_id, endpoint_id)
    require_enabled(view)
    await outbox.put(tx, [outbox.Message(catalogue.TEST, view.id, {"endpoint": view.id})])
    return view


def require_enabled(view: EndpointView) -> None:
    """Raises Conflict `webhook-endpoint-disabled`."""
    if view.row.state != "enabled":
        raise Conflict("webhook-endpoint-disabled", "The endpoint is disabled; enable it first.")


async def note_replay(tx: ControlTx, view: EndpointView, since: datetime) -> None:
    """Somebody asked for old events again: audited. Raises Conflict `webhook-endpoint-disabled`."""
    require_enabled(view)
    await _acted(tx, view, "resend", {"since": rfc3339(since)})


async def note_failing(tx: ControlTx, endpoint_id: int, since: datetime | None) -> None:
    """Since when nothing has arrived there; None: something has."""
    await store.set_failing(tx, endpoint_id, since)


async def enabled(tx: ReadTx, environment_ids: Sequence[int]) -> list[EndpointRow]:
    """The endpoints of some environments that are to be told."""
    return await store.enabled(tx, environment_ids)
