"""SQL of earning policies: versions in the directory, and what of them was applied in a cell."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

import msgspec

from paymaster.db.tx import CellRead, CellTx, ControlRead, ControlTx, json

IN_FORCE: LiteralString = """
    (SELECT jsonb_agg(jsonb_build_array(p.id, p.source, p.subject_id, p.version, p.terms))
    FROM earning_policy p WHERE p.environment_id = %(environment)s AND NOT EXISTS (
        SELECT FROM earning_policy n WHERE n.environment_id = p.environment_id
            AND n.source = p.source AND n.version > p.version))
"""
"""All policies of an environment in force as one value; NULL when there never was one."""


class PolicyRow(NamedTuple):
    """A row of `earning_policy`."""

    id: int
    source: str
    version: int
    subject_id: int | None
    terms: dict[str, Any]
    reason: str
    actor: str
    created_at: datetime


_COLUMNS: LiteralString = "id, source, version, subject_id, terms, reason, actor, created_at"


async def versions(tx: ControlRead, environment_id: int, source: str) -> list[PolicyRow]:
    """All versions of a source's policy, newest first."""
    rows = await tx.tuples(
        f"SELECT {_COLUMNS} FROM earning_policy WHERE environment_id = %s AND source = %s"
        " ORDER BY version DESC LIMIT 1000",
        (environment_id, source),
    )
    return [PolicyRow._make(row) for row in rows]


async def newest(tx: ControlRead, environment_id: int) -> list[PolicyRow]:
    """The newest version of each source, in the order of their names."""
    rows = await tx.tuples(
        f"SELECT DISTINCT ON (source) {_COLUMNS} FROM earning_policy WHERE environment_id = %s"
        " ORDER BY source, version DESC",
        (environment_id,),
    )
    return [PolicyRow._make(row) for row in rows]


async def insert(tx: ControlTx, environment_id: int, row: PolicyRow) -> bool:
    """Store a version; False when there is one of this number."""
    return bool(
        await tx.execute(
            """
            INSERT INTO earning_policy (id, environment_id, source, version, subject_id, terms,
                reason, actor, created_at, commit_id, ordinal)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT (environment_id, source, version) DO NOTHING
            """,
            (
                row.id,
                environment_id,
                row.source,
                row.version,
                row.subject_id,
                json(row.terms),
                row.reason,
                row.actor,
                row.created_at,
                tx.commit_id,
                tx.append(),
            ),
        )
    )


async def campaign_named(tx: ControlRead, environment_id: int, external_id: str) -> int | None:
    """The number of a campaign."""
    return await tx.value(
        "SELECT id FROM campaign WHERE environment_id = %s AND external_id = %s",
        (environment_id, external_id),
    )


async def sponsor_named(tx: ControlRead, environment_id: int, external_id: str) -> int | None:
    """The number of a sponsor."""
    return await tx.value(
        "SELECT id FROM sponsor WHERE environment_id = %s AND external_id = %s",
        (environment_id, external_id),
    )


class AppliedRow(NamedTuple):
    """A row of `applied_policy`."""

    id: int
    source: str
    version: int
    terms: dict[str, Any]


async def apply(tx: CellTx, rows: Sequence[AppliedRow]) -> None:
    """Keep policies beside the rewards that are made under them; known ones stay as they are."""
    first = tx.append(len(rows))
    await tx.send(
        """
        INSERT INTO applied_policy (id, source, version, terms, commit_id, ordinal)
        SELECT i, s, v, t::jsonb, %s, o
        FROM unnest(%s::bigint[], %s::text[], %s::int[], %s::text[], %s::int[])
            AS n (i, s, v, t, o)
        ON CONFLICT (id) DO NOTHING
        """,
        (
            tx.commit_id,
            [row.id for row in rows],
            [row.source for row in rows],
            [row.version for row in rows],
            [msgspec.json.encode(row.terms).decode() for row in rows],
            list(range(first, first + len(rows))),
        ),
    )


async def applied(tx: CellRead, ids: Sequence[int]) -> list[AppliedRow]:
    """Policies that rewards here were made under."""
    rows = await tx.tuples(
        "SELECT id, source, version, terms FROM applied_policy WHERE id = ANY(%s)", (list(ids),)
    )
    return [AppliedRow._make(row) for row in rows]


async def payout_wait(tx: CellRead) -> tuple[int, str, int] | None:
    """How long the first payout waits here, since when, and which version said so."""
    rows = await tx.tuples("SELECT seconds, since, version FROM payout_wait WHERE id = 1")
    return (rows[0][0], rows[0][1], rows[0][2]) if rows else None


async def set_payout_wait(tx: CellTx, seconds: int, since: str, version: int) -> int:
    """Let the first payout wait so long; a version from before the known one changes nothing."""
    return await tx.execute(
        "INSERT INTO payout_wait (id, seconds, since, version) VALUES (1, %s, %s, %s)"
        " ON CONFLICT (id) DO UPDATE SET seconds = excluded.seconds, since = excluded.since,"
        " version = excluded.version WHERE payout_wait.version < excluded.version",
        (seconds, since, version),
    )
