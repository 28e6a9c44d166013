"""SQL of what is offered (control): sponsors, campaigns, tasks, gold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

from paymaster.db.tx import ControlRead, ControlTx, json
from paymaster.earn.store.policies import IN_FORCE


@dataclass(frozen=True, slots=True)
class SponsorRow:
    """A row of `sponsor`."""

    id: int
    environment_id: int
    external_id: str
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class CampaignRow:
    """A row of `campaign`."""

    id: int
    environment_id: int
    sponsor_id: int
    home_cell: int
    external_id: str
    name: str
    currency: str
    starts_at: datetime
    ends_at: datetime | None
    state: str
    when_exhausted: str
    vesting_seconds: int
    targeting: dict[str, Any]
    funding_reference: str
    version: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A row of `task`."""

    id: int
    campaign_id: int
    external_id: str
    type: str
    title: str
    reward_minor: int
    verification: dict[str, Any]
    requirements: dict[str, Any]
    user_cap: int | None
    starts_at: datetime
    expires_at: datetime | None
    state: str
    version: int
    created_at: datetime


_CAMPAIGN: LiteralString = (
    "id, environment_id, sponsor_id, home_cell, external_id, name, currency, starts_at, ends_at,"
    " state, when_exhausted, vesting_seconds, targeting, funding_reference, version, created_at"
)
_TASK: LiteralString = (
    "id, campaign_id, external_id, type, title, reward_minor, verification, requirements,"
    " user_cap, starts_at, expires_at, state, version, created_at"
)


async def sponsor(tx: ControlRead, environment_id: int, external_id: str) -> SponsorRow | None:
    """A sponsor by the app's own id."""
    return await tx.maybe(
        "SELECT id, environment_id, external_id, name, created_at FROM sponsor"
        " WHERE environment_id = %s AND external_id = %s",
        (environment_id, external_id),
        SponsorRow,
    )


async def sponsors(
    tx: ControlRead, environment_id: int, after: int, limit: int
) -> list[SponsorRow]:
    """A page of sponsors by id."""
    return await tx.fetch(
        "SELECT id, environment_id, external_id, name, created_at FROM sponsor"
        " WHERE environment_id = %s AND id > %s ORDER BY id LIMIT %s",
        (environment_id, after, limit),
        SponsorRow,
    )


async def insert_sponsor(tx: ControlTx, row: SponsorRow) -> bool:
    """Store a sponsor; False when there is one of this external id."""
    return bool(
        await tx.execute(
            "INSERT INTO sponsor (id, environment_id, external_id, name, created_at)"
            " VALUES (%s, %s, %s, %s, %s) ON CONFLICT (environment_id, external_id) DO NOTHING",
            (row.id, row.environment_id, row.external_id, row.name, row.created_at),
        )
    )


async def rename_sponsor(tx: ControlTx, sponsor_id: int, name: str) -> None:
    """Write a new name."""
    await tx.execute("UPDATE sponsor SET name = %s WHERE id = %s", (name, sponsor_id))


async def campaign(tx: ControlRead, environment_id: int, external_id: str) -> CampaignRow | None:
    """A campaign by the app's own id."""
    return await tx.maybe(
        f"SELECT {_CAMPAIGN} FROM campaign WHERE environment_id = %s AND external_id = %s",
        (environment_id, external_id),
        CampaignRow,
    )


async def lock_campaign(tx: ControlTx, environment_id: int, external_id: str) -> CampaignRow | None:
    """The same, locked."""
    return await tx.maybe(
        f"SELECT {_CAMPAIGN} FROM campaign WHERE environment_id = %s AND external_id = %s"
        " FOR UPDATE",
        (environment_id, external_id),
        CampaignRow,
    )


async def campaigns(
    tx: ControlRead, environment_id: int, after: int, limit: int
) -> list[CampaignRow]:
    """A page of campaigns by id."""
    return await tx.fetch(
        f"SELECT {_CAMPAIGN} FROM campaign WHERE environment_id = %s AND id > %s"
        " ORDER BY id LIMIT %s",
        (environment_id, after, limit),
        CampaignRow,
    )


async def campaigns_by_id(tx: ControlRead, ids: Sequence[int]) -> list[CampaignRow]:
    """Campaigns by id."""
    return await tx.fetch(
        f"SELECT {_CAMPAIGN} FROM campaign WHERE id = ANY(%s)", (list(ids),), CampaignRow
    )


async def campaign_of_reference(
    tx: ControlRead, environment_id: int, funding_reference: str
) -> CampaignRow | None:
    """The campaign that a sponsor's payment names."""
    return await tx.maybe(
        f"SELECT {_CAMPAIGN} FROM campaign WHERE environment_id = %s AND funding_reference = %s",
        (environment_id, funding_reference),
        CampaignRow,
    )


async def funding_references(tx: ControlRead, environment_id: int) -> list[tuple[str, int, str]]:
    """`(funding reference, campaign, currency)` of every campaign."""
    rows = await tx.tuples(
        "SELECT funding_reference, id, currency FROM campaign WHERE environment_id = %s",
        (environment_id,),
    )
    return [(row[0], row[1], row[2]) for row in rows]


async def insert_campaign(tx: ControlTx, row: CampaignRow) -> bool:
    """Store a campaign; False when there is one of this external id."""
    return bool(
        await tx.execute(
            """
            INSERT INTO campaign (id, environment_id, sponsor_id, home_cell, external_id, name,
                currency, starts_at, ends_at, state, when_exhausted, vesting_seconds, targeting,
                funding_reference, version, created_at)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT (environment_id, external_id) DO NOTHING
            """,
            (
                row.id,
                row.environment_id,
                row.sponsor_id,
                row.home_cell,
                row.external_id,
                row.name,
                row.currency,
                row.starts_at,
                row.ends_at,
                row.state,
                row.when_exhausted,
                row.vesting_seconds,
                json(row.targeting),
                row.funding_reference,
                row.version,
                row.created_at,
            ),
        )
    )


async def update_campaign(tx: ControlTx, row: CampaignRow) -> None:
    """Write what may change."""
    await tx.execute(
        "UPDATE campaign SET name = %s, ends_at = %s, state = %s, when_exhausted = %s,"
        " vesting_seconds = %s, targeting = %s, version = version + 1 WHERE id = %s",
        (
            row.name,
            row.ends_at,
            row.state,
            row.when_exhausted,
            row.vesting_seconds,
            json(row.targeting),
            row.id,
        ),
    )


async def lock_task(tx: ControlTx, campaign_id: int, external_id: str) -> TaskRow | None:
    """A task by the app's own id, locked."""
    return await tx.maybe(
        f"SELECT {_TASK} FROM task WHERE campaign_id = %s AND external_id = %s FOR UPDATE",
        (campaign_id, external_id),
        TaskRow,
    )


async def tasks_of(tx: ControlRead, campaign_id: int, after: int, limit: int) -> list[TaskRow]:
    """A page of a campaign's tasks by id."""
    return await tx.fetch(
        f"SELECT {_TASK} FROM task WHERE campaign_id = %s AND id > %s ORDER BY id LIMIT %s",
        (campaign_id, after, limit),
        TaskRow,
    )


async def tasks_by_id(tx: ControlRead, environment_id: int, ids: Sequence[int]) -> list[TaskRow]:
    """Tasks of an environment by id."""
    return await tx.fetch(
        "SELECT t.* FROM task t JOIN campaign c ON c.id = t.campaign_id"
        " WHERE c.environment_id = %s AND t.id = ANY(%s)",
        (environment_id, list(ids)),
        TaskRow,
    )


async def tasks_by_name(
    tx: ControlRead, environment_id: int, names: Sequence[tuple[str, str]]
) -> list[TaskRow]:
    """Tasks by `(campaign, task)`, both the app's own ids."""
    return await tx.fetch(
        """
        SELECT t.* FROM unnest(%s::text[], %s::text[]) AS n (campaign, task)
        JOIN campaign c ON c.environment_id = %s AND c.external_id = n.campaign
        JOIN task t ON t.campaign_id = c.id AND t.external_id = n.task
        """,
        ([name[0] for name in names], [name[1] for name in names], environment_id),
        TaskRow,
    )


Parents = tuple[list[CampaignRow], list[Any]]
"""Campaigns, and the earning policies in force beside them."""


async def parents_named(tx: ControlRead, environment_id: int, names: Sequence[str]) -> Parents:
    """Campaigns by the app's own ids, with all policies in the same statement."""
    rows = await tx.tuples(
        f"SELECT {_CAMPAIGN}, {IN_FORCE} FROM campaign"
        " WHERE environment_id = %(environment)s AND external_id = ANY(%(names)s)",
        {"environment": environment_id, "names": list(names)},
    )
    return _parents(rows)


async def parents_by_id(tx: ControlRead, environment_id: int, ids: Sequence[int]) -> Parents:
    """Campaigns by id, with all policies of the environment in the same statement."""
    rows = await tx.tuples(
        f"SELECT {_CAMPAIGN}, {IN_FORCE} FROM campaign WHERE id = ANY(%(ids)s)",
        {"environment": environment_id, "ids": list(ids)},
    )
    return _parents(rows)


def _parents(rows: Sequence[Sequence[Any]]) -> Parents:
    return [CampaignRow(*row[:-1]) for row in rows], (rows[0][-1] or []) if rows else []


async def live_tasks(
    tx: ControlRead, environment_id: int, now: datetime, limit: int
) -> list[TaskRow]:
    """Tasks that are on offer now, oldest first."""
    return await tx.fetch(
        """
        SELECT t.* FROM task t JOIN campaign c ON c.id = t.campaign_id
        WHERE c.environment_id = %(environment)s AND c.state = 'active' AND t.state = 'active'
            AND c.starts_at <= %(now)s AND (c.ends_at IS NULL OR c.ends_at > %(now)s)
            AND t.starts_at <= %(now)s AND (t.expires_at IS NULL OR t.expires_at > %(now)s)
        ORDER BY t.id LIMIT %(limit)s
        """,
        {"environment": environment_id, "now": now, "limit": limit},
        TaskRow,
    )


async def insert_task(tx: ControlTx, row: TaskRow) -> bool:
    """Store a task; False when the campaign has one of this external id."""
    return bool(
        await tx.execute(
            """
            INSERT INTO task (id, campaign_id, external_id, type, title, reward_minor,
                verification, requirements, user_cap, starts_at, expires_at, state, version,
                created_at)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT (campaign_id, external_id) DO NOTHING
            """,
            (
                row.id,
                row.campaign_id,
                row.external_id,
                row.type,
                row.title,
                row.reward_minor,
                json(row.verification),
                json(row.requirements),
                row.user_cap,
                row.starts_at,
                row.expires_at,
                row.state,
                row.version,
                row.created_at,
            ),
        )
    )


async def update_task(tx: ControlTx, row: TaskRow) -> None:
    """Write what may change."""
    await tx.execute(
        "UPDATE task SET title = %s, reward_minor = %s, verification = %s, requirements = %s,"
        " user_cap = %s, expires_at = %s, state = %s, version = version + 1 WHERE id = %s",
        (
            row.title,
            row.reward_minor,
            json(row.verification),
            json(row.requirements),
            row.user_cap,
            row.expires_at,
            row.state,
            row.id,
        ),
    )


async def put_gold(tx: ControlTx, task_id: int, answers: Mapping[str, str]) -> int:
    """Store known answers, in place of other ones; how many rows changed."""
    items = sorted(answers)
    return await tx.execute(
        """
        INSERT INTO gold (task_id, item, answer)
        SELECT %s, i, a FROM unnest(%s::text[], %s::text[]) AS n (i, a) ORDER BY i
        ON CONFLICT (task_id, item) DO UPDATE SET answer = excluded.answer
            WHERE gold.answer <> excluded.answer
        """,
        (task_id, items, [answers[item] for item in items]),
    )


async def gold(tx: ControlRead, wanted: Sequence[tuple[int, str]]) -> dict[tuple[int, str], str]:
    """Known answers by `(task id, item)`."""
    rows = await tx.tuples(
        "SELECT g.task_id, g.item, g.answer"
        " FROM unnest(%s::bigint[], %s::text[]) AS n (task_id, item)"
        " JOIN gold g ON g.task_id = n.task_id AND g.item = n.item",
        ([one[0] for one in wanted], [one[1] for one in wanted]),
    )
    return {(row[0], row[1]): row[2] for row in rows}


async def count_gold(tx: ControlRead, task_id: int) -> int:
    """How many items of a task have a known answer."""
    return await tx.value("SELECT count(*) FROM gold WHERE task_id = %s", (task_id,)) or 0
