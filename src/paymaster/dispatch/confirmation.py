"""What a payee needs to accept a payment in the provider's app: sealed, and for its owner only.

It is kept from the provider's answer until the order has its end. Asking the provider to take a
payment back is kept here too: the wish is a fact of ours, the end is the provider's alone, and it
is asked by the dispatcher, in its own time and again if need be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import msgspec

from paymaster.db import audit
from paymaster.db.tx import CellRead, CellTx
from paymaster.dispatch.machine import AttemptState
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import Conflict, NotFound
from paymaster.kernel.ids import text_id
from paymaster.rails.base import Confirmation
from paymaster.secrets.sealing import Sealer, place
from paymaster.withdraw import checks

NOT_AWAITING: Final = "not-awaiting"
TABLE: Final = "confirmation"


class _Sealed(msgspec.Struct):
    package: str
    public: dict[str, str] = {}


async def keep(tx: CellTx, sealer: Sealer, said: Mapping[int, Confirmation]) -> None:
    """Keep what came for attempts that are locked; a newer one takes the place of an older one."""
    if not said:
        return
    sealed = [
        sealer.seal_bytes(
            msgspec.json.encode(_Sealed(one.package, dict(one.public))),
            place(TABLE, tx.cell, attempt_id),
        )
        for attempt_id, one in said.items()
    ]
    await tx.execute(
        """
        INSERT INTO confirmation (attempt_id, sealed, expires_at, created_at)
        SELECT n.id, n.sealed, n.expires, %s
        FROM unnest(%s::bigint[], %s::bytea[], %s::timestamptz[]) AS n (id, sealed, expires)
        ON CONFLICT (attempt_id) DO UPDATE SET sealed = excluded.sealed,
            expires_at = excluded.expires_at
        """,
        (tx.now, list(said), sealed, [one.expires_at for one in said.values()]),
    )


async def drop(tx: CellTx, attempt_ids: Sequence[int]) -> None:
    """Forget what belongs to orders that have their end."""
    if attempt_ids:
        await tx.execute(
            "DELETE FROM confirmation WHERE attempt_id = ANY(%s)", (sorted(attempt_ids),)
        )


@dataclass(frozen=True, slots=True)
class _Row:
    attempt_id: int
    user_id: int
    state: str
    cancels: bool
    sealed: bytes | None
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Shown:
    """The way to the provider's page, for the payee."""

    withdrawal: str
    package: str = field(repr=False)
    expires_at: datetime
    public: Mapping[str, str]

    def wire(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "withdrawal": self.withdrawal,
            "package": self.package,
            "expires_at": rfc3339(self.expires_at),
            "public": dict(self.public),
        }


async def show(
    tx: CellRead, sealer: Sealer, withdrawal_id: int, *, user_id: int | None = None
) -> Shown:
    """What its payee needs to accept a payment; only if it is `user_id`'s, where given.

    Raises NotFound `not-found`, Conflict `not-awaiting` when nothing waits for the payee (any
    more), when it is being taken back, and when the provider has not given it yet.
    """
    found = await tx.maybe(
        """
        SELECT coalesce(a.id, 0) AS attempt_id, w.user_id, w.state, a.cancel_at IS NOT NULL
            AS cancels, c.sealed, c.expires_at
        FROM withdrawal w
            LEFT JOIN attempt a ON a.withdrawal_id = w.id AND a.state = 'awaiting_payee'
            LEFT JOIN confirmation c ON c.attempt_id = a.id
        WHERE w.id = %s
        """,
        (withdrawal_id,),
        _Row,
    )
    if found is None or user_id not in (None, found.user_id):
        raise NotFound("not-found", "There is no such withdrawal.")
    if found.state != AttemptState.AWAITING or not found.attempt_id:
        raise Conflict(NOT_AWAITING, f"It is {found.state}: nothing waits for the payee.")
    if found.cancels:
        raise Conflict(NOT_AWAITING, "It is being taken back.")
    if found.sealed is None or found.expires_at is None:
        raise Conflict(NOT_AWAITING, "The provider has not said yet how to accept it; try again.")
    plain = sealer.open_bytes(found.sealed, place(TABLE, tx.cell, found.attempt_id))
    opened = msgspec.json.decode(plain, type=_Sealed)
    name = text_id("wd", tx.cell, withdrawal_id)
    return Shown(name, opened.package, found.expires_at, opened.public)


async def take_back(
    tx: CellTx,
    user_id: int,
    withdrawal_id: int,
    can: Callable[[int], bool],
    reason: str | None = None,
) -> None:
    """Have the provider asked to take back what waits for its payee; the money stays set aside.

    `can` says whether the rail of an account can be asked. Wishing it twice changes nothing. Raises
    NotFound `not-found` (also for another user's), Conflict `not-awaiting`, `cancel-unsupported`
    or `held-by-order`.
    """
    rows = await tx.tuples(
        "SELECT a.id, a.rail_account_id, a.cancel_at, w.user_id FROM attempt a"
        " JOIN withdrawal w ON w.id = a.withdrawal_id"
        " WHERE w.id = %s AND a.state = 'awaiting_payee' FOR UPDATE OF a",
        (withdrawal_id,),
    )
    if not rows:
        raise Conflict(NOT_AWAITING, "Nothing waits for the payee: there is nothing to take back.")
    attempt_id, account_id, since, owner = rows[0]
    if owner != user_id:
        raise NotFound("not-found", "There is no such withdrawal.")
    if since is not None:
        return
    await checks.require_free(tx, [withdrawal_id])
    if not can(account_id):
        raise Conflict("cancel-unsupported", "This provider takes nothing back: let it expire.")
    await tx.execute(
        "UPDATE attempt SET cancel_at = %s, due_at = %s, tries = 0 WHERE id = %s",
        (tx.now, tx.now, attempt_id),
    )
    subject = text_id("wd", tx.cell, withdrawal_id)
    attempt = text_id("at", tx.cell, attempt_id)
    await audit.record(tx, [audit.Act("withdrawal.take_back", subject, reason, {"order": attempt})])
