"""The SQL of automatic payouts. Private to the package; one statement a function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString, NamedTuple

from paymaster.db.tx import CellRead, CellTx


@dataclass(frozen=True, slots=True)
class Row:
    """What is paid out by itself to a user in a currency, and what became of it last."""

    user_id: int
    asset: str
    mode: str
    destination_id: int | None
    minimum: int
    at_most: int | None
    every: str | None
    on_day: int | None
    own: bool
    proven: bool
    due_at: datetime | None
    last_at: datetime | None
    last_slug: str | None
    last_detail: str | None
    last_withdrawal_id: int | None
    version: int


async def of_user(tx: CellRead, user_id: int, asset: str | None = None) -> list[Row]:
    """All of a user, or the one of a currency."""
    return await tx.fetch(
        """
        SELECT user_id, asset, mode, destination_id, minimum, at_most, every, on_day, own, proven,
            due_at, last_at, last_slug, last_detail, last_withdrawal_id, version
        FROM automatic_payout WHERE user_id = %s AND (%s::text IS NULL OR asset = %s)
        ORDER BY asset
        """,
        (user_id, asset, asset),
        Row,
    )


class Wanted(NamedTuple):
    """What a row shall say."""

    user_id: int
    asset: str
    mode: str
    destination_id: int | None
    minimum: int
    at_most: int | None
    every: str | None
    on_day: int | None
    own: bool
    proven: bool
    due_at: datetime | None


async def put(tx: CellTx, one: Wanted) -> None:
    """Make a row, or let it say this."""
    await tx.execute(
        """
        INSERT INTO automatic_payout (user_id, asset, mode, destination_id, minimum, at_most, every,
            on_day, own, proven, due_at, changed_at, version)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 1)
        ON CONFLICT (user_id, asset) DO UPDATE SET mode = excluded.mode,
            destination_id = excluded.destination_id, minimum = excluded.minimum,
            at_most = excluded.at_most, every = excluded.every, on_day = excluded.on_day,
            own = excluded.own, proven = excluded.proven, due_at = excluded.due_at,
            changed_at = excluded.changed_at, version = automatic_payout.version + 1
        """,
        (*one, tx.now),
    )


@dataclass(frozen=True, slots=True)
class Due:
    """A locked row with what its payout needs. `destinations` are those that could be meant.

    `came_back`: the last two payments to the destination did.
    """

    user_id: int
    asset: str
    mode: str
    minimum: int
    at_most: int | None
    every: str | None
    on_day: int | None
    proven: bool
    due_at: datetime
    last_slug: str | None
    balance: int
    destination_id: int | None
    kind: str | None
    destinations: int
    came_back: bool


_DUE: LiteralString = """
    SELECT p.user_id, p.asset, p.mode, p.minimum, p.at_most, p.every, p.on_day, p.proven, p.due_at,
        p.last_slug, coalesce(a.balance, 0) AS balance,
        coalesce(p.destination_id, d.id) AS destination_id, coalesce(k.kind, d.kind) AS kind,
        CASE WHEN p.destination_id IS NULL THEN coalesce(d.there, 0) ELSE 1 END AS destinations,
        (SELECT count(*) = 2 FROM (SELECT w.state FROM withdrawal w
                WHERE w.destination_id = coalesce(p.destination_id, d.id)
                    AND w.state IN ('paid', 'returned') ORDER BY w.id DESC LIMIT 2) AS l
            WHERE l.state = 'returned') AS came_back
    FROM automatic_payout p
        LEFT JOIN account a
            ON a.kind = 'available' AND a.owner_id = p.user_id AND a.asset = p.asset
        LEFT JOIN destination k ON k.id = p.destination_id
        LEFT JOIN LATERAL (
            SELECT min(o.id) AS id, min(o.kind) AS kind, count(*) AS there FROM destination o
            WHERE p.destination_id IS NULL AND o.user_id = p.user_id AND o.currency = p.asset
                AND o.state = 'active'
        ) d ON true
"""


async def take_scheduled(tx: CellTx, limit: int) -> list[Due]:
    """Lock schedules that are due, oldest first; those that another worker has are left to it."""
    return await tx.fetch(
        _DUE + "WHERE p.mode = 'schedule' AND p.due_at <= %s"
        " ORDER BY p.due_at, p.user_id, p.asset LIMIT %s FOR UPDATE OF p SKIP LOCKED",
        (tx.now, limit),
        Due,
    )


async def take_reached(tx: CellTx, keys: Sequence[tuple[int, str]]) -> list[Due]:
    """Lock thresholds of these users and currencies that are reached now."""
    return await tx.fetch(
        _DUE + "JOIN unnest(%s::bigint[], %s::text[]) AS n (user_id, asset)"
        " ON n.user_id = p.user_id AND n.asset = p.asset"
        " WHERE p.mode = 'threshold' AND p.due_at <= %s AND a.balance >= p.minimum"
        " ORDER BY p.user_id, p.asset FOR UPDATE OF p SKIP LOCKED",
        ([user for user, _ in keys], [asset for _, asset in keys], tx.now),
        Due,
    )


async def look_at_thresholds(
    tx: CellRead, after: tuple[int, str], limit: int
) -> list[tuple[int, str, bool]]:
    """The next `limit` thresholds in order of user and currency, and whether each is reached."""
    rows = await tx.tuples(
        """
        SELECT p.user_id, p.asset, p.due_at <= %s AND coalesce(a.balance, 0) >= p.minimum
        FROM (SELECT user_id, asset, due_at, minimum FROM automatic_payout
                WHERE mode = 'threshold' AND (user_id, asset) > (%s, %s)
                ORDER BY user_id, asset LIMIT %s) AS p
            LEFT JOIN account a
                ON a.kind = 'available' AND a.owner_id = p.user_id AND a.asset = p.asset
        ORDER BY p.user_id, p.asset
        """,
        (tx.now, *after, limit),
    )
    return [(user, asset, reached) for user, asset, reached in rows]


async def made_before(tx: CellRead, keys: Sequence[str]) -> frozenset[str]:
    """Those of the keys under which there is a payout."""
    rows = await tx.tuples("SELECT key FROM automatic_run WHERE key = ANY(%s)", (list(keys),))
    return frozenset(row[0] for row in rows)


async def keep(tx: CellTx, made: Mapping[str, int]) -> None:
    """Payouts under their keys; the database refuses a second one under a key."""
    if not made:
        return
    first = tx.append(len(made))
    await tx.execute(
        """
        INSERT INTO automatic_run (key, withdrawal_id, commit_id, ordinal)
        SELECT k, w, %s, o FROM unnest(%s::text[], %s::bigint[], %s::int[]) AS n (k, w, o)
        """,
        (tx.commit_id, list(made), list(made.values()), list(range(first, first + len(made)))),
    )


class Note(NamedTuple):
    """What became of a due row, and when it is due again."""

    user_id: int
    asset: str
    due_at: datetime
    slug: str | None
    detail: str | None
    withdrawal_id: int | None


async def note(tx: CellTx, notes: Sequence[Note]) -> None:
    """Write what became of locked rows."""
    await tx.execute(
        """
        UPDATE automatic_payout p SET due_at = n.due, last_at = %s, last_slug = n.slug,
            last_detail = n.detail,
            last_withdrawal_id = coalesce(n.withdrawal, p.last_withdrawal_id),
            version = p.version + 1
        FROM unnest(%s::bigint[], %s::text[], %s::timestamptz[], %s::text[], %s::text[],
            %s::bigint[]) AS n (user_id, asset, due, slug, detail, withdrawal)
        WHERE p.user_id = n.user_id AND p.asset = n.asset
        """,
        (
            tx.now,
            [one.user_id for one in notes],
            [one.asset for one in notes],
            [one.due_at for one in notes],
            [one.slug for one in notes],
            [one.detail for one in notes],
            [one.withdrawal_id for one in notes],
        ),
    )


async def adopt(tx: CellTx, wanted: Wanted, after: int, limit: int) -> tuple[int, int]:
    """Give the default to the next users who have a balance and no row of their own.

    How many accounts were looked at, and the last owner.
    """
    rows = await tx.tuples(
        """
        WITH next AS (
            SELECT owner_id, balance FROM account
            WHERE kind = 'available' AND owner_id > %(after)s AND asset = %(asset)s
            ORDER BY owner_id LIMIT %(limit)s
        ), made AS (
            INSERT INTO automatic_payout (user_id, asset, mode, minimum, at_most, every, on_day,
                own, proven, due_at, changed_at, version)
            SELECT owner_id, %(asset)s, %(mode)s, %(minimum)s, %(at_most)s, %(every)s, %(on_day)s,
                false, false, %(due)s, %(now)s, 1
            FROM next WHERE balance > 0
            ON CONFLICT (user_id, asset) DO NOTHING
        )
        SELECT count(*), coalesce(max(owner_id), 0) FROM next
        """,
        {
            "after": after,
            "limit": limit,
            "asset": wanted.asset,
            "mode": wanted.mode,
            "minimum": wanted.minimum,
            "at_most": wanted.at_most,
            "every": wanted.every,
            "on_day": wanted.on_day,
            "due": wanted.due_at,
            "now": tx.now,
        },
    )
    return rows[0][0], rows[0][1]


async def conform(tx: CellTx, wanted: Wanted, limit: int) -> int:
    """Let rows that follow the default say what it says now; how many, at most `limit`."""
    return await tx.execute(
        """
        UPDATE automatic_payout p SET mode = %(mode)s, minimum = %(minimum)s,
            at_most = %(at_most)s, every = %(every)s, on_day = %(on_day)s, due_at = %(due)s,
            changed_at = %(now)s, version = p.version + 1
        WHERE (p.user_id, p.asset) IN (
            SELECT user_id, asset FROM automatic_payout
            WHERE NOT own AND asset = %(asset)s
                AND (mode, minimum, at_most, every, on_day) IS DISTINCT FROM
                    (%(mode)s, %(minimum)s::bigint, %(at_most)s::bigint, %(every)s::text,
                    %(on_day)s::int)
            ORDER BY user_id LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
        """,
        {
            "asset": wanted.asset,
            "mode": wanted.mode,
            "minimum": wanted.minimum,
            "at_most": wanted.at_most,
            "every": wanted.every,
            "on_day": wanted.on_day,
            "due": wanted.due_at,
            "now": tx.now,
            "limit": limit,
        },
    )


async def followers(tx: CellRead) -> list[str]:
    """The currencies in which rows follow a default that pays."""
    rows = await tx.tuples(
        "SELECT DISTINCT asset FROM automatic_payout WHERE NOT own AND mode <> 'off'"
    )
    return sorted(row[0] for row in rows)
