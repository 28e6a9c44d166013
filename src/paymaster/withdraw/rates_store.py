"""The SQL of fee plans and rates, in the directory. Private to the package; one a function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from paymaster.db.tx import ControlRead, ControlTx, json
from paymaster.withdraw.rates import PIVOT, SOURCES, Rate


async def newest_revision(tx: ControlRead, environment_id: int) -> int | None:
    """The count of all versions of an environment's plans."""
    return await tx.value(
        "SELECT max(revision) FROM fee_plan WHERE environment_id = %s", (environment_id,)
    )


async def newest_plans(
    tx: ControlRead, environment_id: int
) -> list[tuple[str, int, int, Mapping[str, Any]]]:
    """Name, version, revision and document of each plan's newest version."""
    return await tx.tuples(
        "SELECT DISTINCT ON (name) name, version, revision, plan FROM fee_plan"
        " WHERE environment_id = %s ORDER BY name, version DESC",
        (environment_id,),
    )


async def versions(
    tx: ControlRead, environment_id: int, name: str
) -> list[tuple[int, Mapping[str, Any]]]:
    """Version and document of all versions of a plan, newest first."""
    return await tx.tuples(
        "SELECT version, plan FROM fee_plan WHERE environment_id = %s AND name = %s"
        " ORDER BY version DESC",
        (environment_id, name),
    )


async def insert_plan(
    tx: ControlTx,
    environment_id: int,
    name: str,
    version: int,
    revision: int,
    plan: Mapping[str, Any],
) -> bool:
    """Store a version; False when it exists, or another change has come first."""
    return bool(
        await tx.execute(
            "INSERT INTO fee_plan (environment_id, name, version, revision, plan, created_at,"
            " commit_id, ordinal) VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            (
                environment_id,
                name,
                version,
                revision,
                json(dict(plan)),
                tx.now,
                tx.commit_id,
                tx.append(),
            ),
        )
    )


async def insert_rates(
    tx: ControlTx, environment_id: int, rates: Sequence[Rate], actor: str
) -> int:
    """Store rates that are not `known`; how many, fewer when somebody else has just stored one."""
    first = tx.append(len(rates))
    return await tx.execute(
        """
        INSERT INTO fx_rate (id, environment_id, source, base, counter, rate, observed_at,
            valid_seconds, reference, actor, recorded_at, commit_id, ordinal)
        SELECT i, %s, s, b, c, r, o, v, f, %s, %s, %s, n
        FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[],
            %s::timestamptz[], %s::integer[], %s::text[], %s::integer[])
            AS u (i, s, b, c, r, o, v, f, n)
        ON CONFLICT (environment_id, base, counter, source, observed_at, rate) DO NOTHING
        """,
        (
            environment_id,
            actor,
            tx.now,
            tx.commit_id,
            tx.ids(len(rates)),
            [rate.source for rate in rates],
            [rate.base for rate in rates],
            [rate.counter for rate in rates],
            [rate.rate for rate in rates],
            [rate.observed_at for rate in rates],
            [rate.valid_seconds for rate in rates],
            [rate.reference for rate in rates],
            [*range(first, first + len(rates))],
        ),
    )


async def known(tx: ControlRead, environment_id: int, rates: Sequence[Rate]) -> set[int]:
    """The places of those of these rates that are stored already."""
    rows = await tx.tuples(
        """
        SELECT u.place FROM unnest(%s::text[], %s::text[], %s::text[], %s::timestamptz[],
            %s::text[]) WITH ORDINALITY AS u (base, counter, source, observed_at, rate, place)
            JOIN fx_rate r ON r.environment_id = %s AND r.base = u.base AND r.counter = u.counter
                AND r.source = u.source AND r.observed_at = u.observed_at AND r.rate = u.rate
        """,
        (
            [rate.base for rate in rates],
            [rate.counter for rate in rates],
            [rate.source for rate in rates],
            [rate.observed_at for rate in rates],
            [rate.rate for rate in rates],
            environment_id,
        ),
    )
    return {int(row[0]) - 1 for row in rows}


async def newest_rates(
    tx: ControlRead, environment_id: int, pairs: Sequence[tuple[str, str]]
) -> list[Rate]:
    """The newest rate of each source for each of these pairs."""
    return await tx.fetch(
        """
        SELECT DISTINCT ON (r.base, r.counter, r.source) r.source, r.base, r.counter, r.rate,
            r.observed_at, r.valid_seconds, r.reference
        FROM fx_rate r JOIN (
            SELECT DISTINCT base, counter FROM unnest(%s::text[], %s::text[]) AS u (base, counter)
        ) AS p ON p.base = r.base AND p.counter = r.counter
        WHERE r.environment_id = %s
        ORDER BY r.base, r.counter, r.source, r.observed_at DESC, r.id DESC
        """,
        ([base for base, _ in pairs], [counter for _, counter in pairs], environment_id),
        Rate,
    )


async def settled_rates(
    tx: ControlRead, environment_id: int, pairs: Sequence[tuple[str, str]], before: datetime
) -> list[Rate]:
    """For each of these pairs the newest rate that was known by then, or that a person entered.

    Of several the one that was recorded last; of a pair that has none the first one there was.
    """
    return await tx.fetch(
        """
        SELECT a.source, a.base, a.counter, a.rate, a.observed_at, a.valid_seconds, a.reference
        FROM (
            SELECT DISTINCT base, counter
            FROM unnest(%(bases)s::text[], %(counters)s::text[]) AS u (base, counter)
        ) AS p CROSS JOIN LATERAL (
            SELECT * FROM (
                SELECT 0 AS rank, c.* FROM unnest(%(sources)s::text[]) AS s (source)
                CROSS JOIN LATERAL (
                    SELECT r.* FROM fx_rate r
                    WHERE r.environment_id = %(environment)s AND r.base = p.base
                        AND r.counter = p.counter AND r.source = s.source
                        AND (r.source = 'operator' OR r.recorded_at <= %(before)s)
                    ORDER BY r.observed_at DESC, r.id DESC LIMIT 1
                ) AS c
                UNION ALL
                (SELECT 1, r.* FROM fx_rate r
                WHERE r.environment_id = %(environment)s AND r.base = p.base
                    AND r.counter = p.counter
                ORDER BY r.observed_at, r.id LIMIT 1)
            ) AS found ORDER BY rank, recorded_at DESC, id DESC LIMIT 1
        ) AS a
        """,
        {
            "bases": [base for base, _ in pairs],
            "counters": [counter for _, counter in pairs],
            "sources": list(SOURCES),
            "environment": environment_id,
            "before": before,
        },
        Rate,
    )


async def all_newest(tx: ControlRead, environment_id: int) -> list[Rate]:
    """The newest rate of each source and pair."""
    return await tx.fetch(
        """
        SELECT DISTINCT ON (base, counter, source) source, base, counter, rate, observed_at,
            valid_seconds, reference
        FROM fx_rate WHERE environment_id = %s
        ORDER BY base, counter, source, observed_at DESC, id DESC
        """,
        (environment_id,),
        Rate,
    )


def pairs_between(given: str, wanted: str) -> list[tuple[str, str]]:
    """The pairs that a rate between two currencies can be made from."""
    return [(given, wanted), (PIVOT, given), (PIVOT, wanted)]
