"""SQL of funding: sums over the few accounts that are nobody's earnings, and what is under way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date

from paymaster.db.tx import CellRead, CellTx, ReadTx
from paymaster.funding.figures import Flow, Sum


async def head(tx: ReadTx) -> int:
    """How far the order of commits has come."""
    return await tx.value("SELECT seq FROM head WHERE id = 1") or 0


async def sums(tx: CellRead, kinds: Sequence[str], by_owner: Sequence[str]) -> list[Sum]:
    """By kind and currency, those of `by_owner` also by owner. Reads the index of these kinds."""
    return await tx.fetch(
        """
        SELECT kind, owner_id, asset, sum(balance)::bigint AS balance FROM (
            SELECT kind, asset, balance,
                CASE WHEN kind = ANY(%(by_owner)s) THEN owner_id ELSE 0 END AS owner_id
            FROM account WHERE kind = ANY(%(kinds)s) AND balance <> 0
        ) AS found GROUP BY kind, owner_id, asset
        """,
        {"kinds": list(kinds), "by_owner": list(by_owner)},
        Sum,
    )


async def under_way(tx: CellRead) -> list[Flow]:
    """Orders that left, or may have left, and are not paid in the books."""
    return await tx.fetch(
        """
        SELECT rail_account_id, asset, sum(amount)::bigint AS amount, count(*) AS payments,
            min(created_at) AS since
        FROM attempt WHERE state IN ('sending', 'unknown', 'sent', 'awaiting_payee')
        GROUP BY rail_account_id, asset
        """,
        None,
        Flow,
    )


async def queued(tx: CellRead) -> list[Flow]:
    """Withdrawals that wait for an account."""
    return await tx.fetch(
        """
        SELECT rail_account_id, payout_asset AS asset, sum(payout_amount)::bigint AS amount,
            count(*) AS payments, min(requested_at) AS since
        FROM withdrawal WHERE state = 'queued' AND rail_account_id IS NOT NULL
        GROUP BY rail_account_id, payout_asset
        """,
        None,
        Flow,
    )


async def asked(tx: CellRead) -> list[Flow]:
    """Statement lines of money that went out, while the cell of the payment is asked."""
    return await tx.fetch(
        """
        SELECT rail_account_id, asset, sum(-amount)::bigint AS amount, count(*) AS payments
        FROM statement_line WHERE state = 'asked' AND amount < 0 GROUP BY rail_account_id, asset
        """,
        None,
        Flow,
    )


async def awaiting(tx: CellRead) -> dict[str, int]:
    """By currency, rewards that wait for their sponsor's money."""
    return dict(
        await tx.tuples(
            "SELECT asset, sum(amount)::bigint FROM reward WHERE state = 'awaiting_funds'"
            " GROUP BY asset"
        )
    )


async def spare(tx: CellRead, rail_account_id: int, asset: str) -> int:
    """A cell's part of what may still leave an account; as `figures.Float.free`."""
    return await tx.value(
        """
        SELECT (
            SELECT coalesce(-sum(CASE WHEN kind = 'incoming' THEN greatest(balance, 0)
                ELSE balance END), 0) FROM account
            WHERE kind IN ('cash', 'clearing', 'incoming', 'refunds') AND owner_id = %(id)s
                AND asset = %(asset)s
        ) - (
            SELECT coalesce(sum(amount), 0) FROM attempt WHERE rail_account_id = %(id)s
                AND asset = %(asset)s
                AND state IN ('sending', 'unknown', 'sent', 'awaiting_payee')
        ) - (
            SELECT coalesce(sum(-amount), 0) FROM statement_line WHERE rail_account_id = %(id)s
                AND asset = %(asset)s AND state = 'asked' AND amount < 0
        )
        """,
        {"id": rail_account_id, "asset": asset},
    )


async def split(tx: CellRead, kinds: Sequence[str]) -> dict[tuple[str, str], int]:
    """By currency and kind, what users have. Reads all their accounts."""
    rows = await tx.tuples(
        "SELECT asset, kind, sum(balance)::bigint FROM account WHERE kind = ANY(%s)"
        " GROUP BY asset, kind",
        (list(kinds),),
    )
    return {(row[0], row[1]): row[2] for row in rows}


async def raise_fence(tx: CellTx, rail_account_id: int, token: int) -> None:
    """Whoever let payments out under a lower token may not any more."""
    await tx.execute(
        "INSERT INTO float_fence (rail_account_id, token) VALUES (%s, %s)"
        " ON CONFLICT (rail_account_id) DO UPDATE SET token = excluded.token"
        " WHERE float_fence.token < excluded.token",
        (rail_account_id, token),
    )


async def is_counted(tx: ReadTx, day: date) -> bool:
    """Whether what left on a day has been counted."""
    return bool(await tx.value("SELECT EXISTS (SELECT FROM rail_outflow WHERE day = %s)", (day,)))


async def outflow(tx: ReadTx, first_id: int, end_id: int) -> list[Flow]:
    """What left by orders whose ids are in [first, end): those that were not refused."""
    return await tx.fetch(
        """
        SELECT rail_account_id, asset, sum(amount)::bigint AS amount, count(*) AS payments
        FROM attempt WHERE id >= %s AND id < %s AND state <> 'rejected'
            AND withdrawal_id IS NOT NULL
        GROUP BY rail_account_id, asset
        """,
        (first_id, end_id),
        Flow,
    )


async def keep_outflow(tx: CellTx, day: date, flows: Sequence[Flow]) -> None:
    """Write down what left on a day."""
    await tx.execute(
        """
        INSERT INTO rail_outflow (rail_account_id, day, asset, amount, payments)
        SELECT r, %s, a, m, p
        FROM unnest(%s::bigint[], %s::text[], %s::bigint[], %s::bigint[]) AS u (r, a, m, p)
        ON CONFLICT (rail_account_id, day, asset) DO NOTHING
        """,
        (
            day,
            [one.rail_account_id for one in flows],
            [one.asset for one in flows],
            [one.amount for one in flows],
            [one.payments for one in flows],
        ),
    )


async def history(tx: ReadTx, since: date) -> dict[tuple[int, str, date], int]:
    """By account, currency and day, what left."""
    rows = await tx.tuples(
        "SELECT rail_account_id, asset, day, amount FROM rail_outflow WHERE day >= %s", (since,)
    )
    return {(row[0], row[1], row[2]): row[3] for row in rows}


async def states(tx: ReadTx) -> Mapping[str, bool]:
    """By currency, whether it was short when it was looked at last."""
    return dict(await tx.tuples("SELECT asset, short FROM funding_state"))


async def change(tx: CellTx, asset: str, *, short: bool) -> bool:
    """Write that it is short, or is not; whether that is news."""
    return bool(
        await tx.execute(
            """
            INSERT INTO funding_state (asset, short, changed_at) VALUES (%s, %s, %s)
            ON CONFLICT (asset) DO UPDATE
                SET short = excluded.short, changed_at = excluded.changed_at
            WHERE funding_state.short <> excluded.short
            """,
            (asset, short, tx.now),
        )
    )
