"""How an environment pays, as data that its operators change: failover, and what is automatic.

Kept in the directory, one row an environment; without a row the defaults hold. Every change is
audited with what there was before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from paymaster.db import audit
from paymaster.db.cells import Databases
from paymaster.db.tx import ControlRead, ControlTx, json

MOST_ORDERS = 50
"""More orders than this no withdrawal ever has, whatever an environment says."""


@dataclass(frozen=True, slots=True)
class PayoutPolicy:
    """What an environment wants.

    `failover`: another account may pay once every order is proven dead. `most_orders` for one
    withdrawal; then it fails. `tries_before_leaving`: after so many calls that reached nobody
    an order is given up for another account. `automatic` is read by `withdraw.automatic`.
    """

    failover: bool = True
    most_orders: int = MOST_ORDERS
    tries_before_leaving: int = 5
    automatic: Mapping[str, Any] = field(default_factory=dict[str, Any])
    version: int = 0

    def wire(self) -> dict[str, Any]:
        """For JSON and the audit."""
        return {
            "failover": self.failover,
            "most_orders": self.most_orders,
            "tries_before_leaving": self.tries_before_leaving,
            "automatic": dict(self.automatic),
        }


async def current(tx: ControlRead, environment_id: int) -> PayoutPolicy:
    """The policy in force."""
    found = await tx.maybe(
        "SELECT failover, most_orders, tries_before_leaving, automatic, version"
        " FROM payout_policy WHERE environment_id = %s",
        (environment_id,),
        PayoutPolicy,
    )
    return found or PayoutPolicy()


async def load(dbs: Databases, environment_id: int) -> PayoutPolicy:
    """The policy in force, read on its own."""
    return await dbs.control.read(lambda tx: current(tx, environment_id))


async def replace(
    tx: ControlTx, environment_id: int, wanted: PayoutPolicy, reason: str
) -> PayoutPolicy:
    """Put a policy in force, audited; the same one again changes nothing."""
    before = await current(tx, environment_id)
    if before.version and before.wire() == wanted.wire():
        return before
    await tx.execute(
        """
        INSERT INTO payout_policy (environment_id, failover, most_orders, tries_before_leaving,
            automatic, version, changed_at)
        VALUES (%s, %s, %s, %s, %s, 1, %s)
        ON CONFLICT (environment_id) DO UPDATE SET failover = excluded.failover,
            most_orders = excluded.most_orders,
            tries_before_leaving = excluded.tries_before_leaving,
            automatic = excluded.automatic, version = payout_policy.version + 1,
            changed_at = excluded.changed_at
        """,
        (
            environment_id,
            wanted.failover,
            wanted.most_orders,
            wanted.tries_before_leaving,
            json(dict(wanted.automatic)),
            tx.now,
        ),
    )
    detail = {"before": before.wire(), "after": wanted.wire()}
    subject = f"payout-policy:{environment_id}"
    await audit.record(tx, [audit.Act("payout-policy.change", subject, reason, detail)])
    return await current(tx, environment_id)
