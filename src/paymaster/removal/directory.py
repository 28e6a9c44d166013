"""What the directory holds of an environment: which rows go with it, which stay and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

from paymaster.db.tx import ControlTx, ReadTx

GOES: Mapping[str, LiteralString] = {
    "idempotency": "DELETE FROM idempotency WHERE credential_id IN"
    " (SELECT id FROM credential WHERE environment_id = %(environment)s)",
    "webhook_delivery": "DELETE FROM webhook_delivery WHERE endpoint_id IN"
    " (SELECT id FROM webhook_endpoint WHERE environment_id = %(environment)s)",
    "webhook_replay": "DELETE FROM webhook_replay WHERE endpoint_id IN"
    " (SELECT id FROM webhook_endpoint WHERE environment_id = %(environment)s)",
    "webhook_order": "DELETE FROM webhook_order WHERE endpoint_id = %(environment)s OR endpoint_id"
    " IN (SELECT id FROM webhook_endpoint WHERE environment_id = %(environment)s)",
    "webhook_secret": "DELETE FROM webhook_secret WHERE endpoint_id IN"
    " (SELECT id FROM webhook_endpoint WHERE environment_id = %(environment)s)",
    "webhook_endpoint": "DELETE FROM webhook_endpoint WHERE environment_id = %(environment)s",
    "issuer_audience": "DELETE FROM issuer_audience WHERE issuer_id IN"
    " (SELECT id FROM issuer WHERE environment_id = %(environment)s)",
    "issuer": "DELETE FROM issuer WHERE environment_id = %(environment)s",
    "staff_session": "DELETE FROM staff_session WHERE environment_id = %(environment)s",
    "break_glass": "DELETE FROM break_glass WHERE environment_id = %(environment)s",
    "person_role": "DELETE FROM person_role WHERE environment_id = %(environment)s",
    "four_eyes_limit": "DELETE FROM four_eyes_limit WHERE environment_id = %(environment)s",
    "step_up_policy": "DELETE FROM step_up_policy WHERE environment_id = %(environment)s",
    "approval": "DELETE FROM approval WHERE environment_id = %(environment)s",
    "gold": "DELETE FROM gold WHERE task_id IN (SELECT t.id FROM task t"
    " JOIN campaign c ON c.id = t.campaign_id WHERE c.environment_id = %(environment)s)",
    "task": "DELETE FROM task WHERE campaign_id IN"
    " (SELECT id FROM campaign WHERE environment_id = %(environment)s)",
    "campaign": "DELETE FROM campaign WHERE environment_id = %(environment)s",
    "sponsor": "DELETE FROM sponsor WHERE environment_id = %(environment)s",
    "payout_policy": "DELETE FROM payout_policy WHERE environment_id = %(environment)s",
    "link_owner": "DELETE FROM link_owner WHERE environment_id = %(environment)s",
    "link_provider": "DELETE FROM link_provider WHERE environment_id = %(environment)s",
    "rail_account": "DELETE FROM rail_account WHERE environment_id = %(environment)s",
}
"""What deletes its rows, by table, in an order that foreign keys allow."""

STAYS: Mapping[str, LiteralString] = {
    "credential": "SELECT count(*) FROM credential WHERE environment_id = %(environment)s",
    "directory": "SELECT count(*) FROM directory WHERE environment_id = %(environment)s",
    "earning_policy": "SELECT count(*) FROM earning_policy WHERE environment_id = %(environment)s",
    "fee_plan": "SELECT count(*) FROM fee_plan WHERE environment_id = %(environment)s",
    "fx_rate": "SELECT count(*) FROM fx_rate WHERE environment_id = %(environment)s",
    "registry": "SELECT count(*) FROM registry WHERE environment_id = %(environment)s",
    "rule_set": "SELECT count(*) FROM rule_set WHERE environment_id = %(environment)s",
}
"""What counts its rows that stay, by table: in the hash chain; keys are revoked and name actors."""

SHARED: Mapping[str, str] = {
    "audit": "of all environments, and in the hash chain",
    "broker_aside": "of the schema",
    "cell": "in the hash chain: numbers are never used again",
    "commit": "in the hash chain",
    "cursor": "of the readers of the directory",
    "environment": "in the hash chain: names are never used again",
    "environment_removal": "that it was removed",
    "head": "of the schema",
    "identity_provider": "of the tenant, whose other environment may be there",
    "inbox": "of the schema",
    "lease": "of the schema",
    "lockout": "of addresses and subjects; rows go after a week",
    "login_used": "rows go after a day",
    "mail": "letters about security; rows go after their time",
    "outbox": "of all environments, and in the hash chain",
    "permit": "of the schema",
    "person": "of the tenant, and named by the audit trail",
    "person_identity": "of the tenant",
    "rate_bucket": "rows go when nobody has asked for an hour",
    "rewrap": "of the schema",
    "schema_version": "of the schema",
    "seal": "the hash chain",
    "trace_commit": "an index over commits",
    "worker": "of the schema",
}
"""All other tables of the directory, and whose their rows are."""


@dataclass(frozen=True, slots=True)
class Known:
    """An environment in the directory, there or removed."""

    id: int
    tenant: str
    mode: str
    time_zone: str
    created_at: datetime
    cells: int
    users: int
    removed_at: datetime | None
    certificate: bytes | None
    reason: str | None

    @property
    def name(self) -> str:
        """As it is confirmed."""
        return f"{self.tenant}/{self.mode}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a cell is, or was."""

    number: int
    server: str
    schema_name: str
    treasury: bool


_KNOWN: LiteralString = """
    SELECT e.id, e.tenant, e.mode, e.time_zone, e.created_at,
        (SELECT count(*) FROM cell c WHERE c.environment_id = e.id) AS cells,
        (SELECT count(*) FROM directory d WHERE d.environment_id = e.id) AS users,
        r.removed_at, r.certificate, r.reason
    FROM environment e LEFT JOIN environment_removal r ON r.environment_id = e.id
"""


async def known(tx: ReadTx) -> list[Known]:
    """All environments that there ever were."""
    return await tx.fetch(_KNOWN + " ORDER BY e.tenant, e.mode", None, Known)


async def named(tx: ReadTx, tenant: str, mode: str) -> Known | None:
    """An environment by its names."""
    return await tx.maybe(_KNOWN + " WHERE e.tenant = %s AND e.mode = %s", (tenant, mode), Known)


async def numbered(tx: ReadTx, environment_id: int) -> Known | None:
    """An environment by its id."""
    return await tx.maybe(_KNOWN + " WHERE e.id = %s", (environment_id,), Known)


async def cells(tx: ReadTx, environment_id: int) -> list[Place]:
    """Its cells, in order of number."""
    return await tx.fetch(
        "SELECT number, server, schema_name, treasury FROM cell WHERE environment_id = %s"
        " ORDER BY number",
        (environment_id,),
        Place,
    )


async def removed_cells(tx: ReadTx) -> set[int]:
    """The numbers of all cells of environments that were removed."""
    rows = await tx.tuples(
        "SELECT c.number FROM cell c"
        " JOIN environment_removal r ON r.environment_id = c.environment_id"
    )
    return {row[0] for row in rows}


async def left(tx: ReadTx, environment_id: int) -> dict[str, int]:
    """Rows that go with the environment, by table; tables without any are left out."""
    found = {
        name: await tx.value(_counting(statement), {"environment": environment_id})
        for name, statement in GOES.items()
    }
    return {name: count for name, count in found.items() if count}


async def staying(tx: ReadTx, environment_id: int) -> dict[str, int]:
    """Rows that stay, by table."""
    return {
        name: await tx.value(statement, {"environment": environment_id})
        for name, statement in STAYS.items()
    }


def _counting(statement: LiteralString) -> LiteralString:
    return statement.replace("DELETE", "SELECT count(*)", 1)


async def good_keys(tx: ReadTx, environment_id: int) -> int:
    """Keys that were not revoked."""
    return await tx.value(
        "SELECT count(*) FROM credential WHERE environment_id = %s AND revoked_at IS NULL",
        (environment_id,),
    )


async def secret_names(tx: ReadTx, environment_id: int) -> list[str]:
    """The names of secrets that its rail accounts use."""
    rows = await tx.tuples(
        "SELECT DISTINCT s.value FROM rail_account a, jsonb_each_text(a.secrets) s"
        " WHERE a.environment_id = %s ORDER BY 1",
        (environment_id,),
    )
    return [row[0] for row in rows]


async def empty(tx: ControlTx, environment_id: int) -> None:
    """Revoke its keys and delete what goes with it."""
    await tx.execute(
        "UPDATE credential SET revoked_at = %s WHERE environment_id = %s AND revoked_at IS NULL",
        (tx.now, environment_id),
    )
    for statement in GOES.values():
        await tx.execute(statement, {"environment": environment_id})


async def record(tx: ControlTx, environment_id: int, certificate: bytes, reason: str) -> None:
    """Record the removal; `certificate` is its SHA-256."""
    await tx.execute(
        "INSERT INTO environment_removal (environment_id, certificate, reason, removed_at,"
        " commit_id, ordinal) VALUES (%s, %s, %s, %s, %s, %s)",
        (environment_id, certificate, reason, tx.now, tx.commit_id, tx.append()),
    )


async def sealed(tx: ReadTx, environment_id: int) -> bool:
    """Whether the record of the removal is in a block of the hash chain."""
    return bool(
        await tx.value(
            "SELECT c.last_seq <= (SELECT coalesce(max(last_seq), 0) FROM seal)"
            " FROM environment_removal r JOIN commit c ON c.id = r.commit_id"
            " WHERE r.environment_id = %s",
            (environment_id,),
        )
    )
