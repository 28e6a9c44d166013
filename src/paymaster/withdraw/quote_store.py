"""The SQL of quotes. Private to the package; one statement a function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, LiteralString, NamedTuple, cast

from paymaster.db.tx import Asked, CellRead, CellTx, json
from paymaster.kernel.money import Money
from paymaster.withdraw.fees import Charge, Payer


class Quote(NamedTuple):
    """A quote as it is stored; amounts are minor units. `withdrawal_id` is what used it.

    `side` says whether `asked` is the amount to withdraw or what the payee shall get; `rate` is the
    one charged, `mid_rate` the one it was made from.
    """

    id: int
    user_id: int
    destination_id: int
    side: str
    asked: int
    amount: int
    fee: int
    asset: str
    payout_amount: int
    payout_asset: str
    fee_payer: str
    fee_plan: str | None
    fee_back: bool
    fee_lines: list[dict[str, Any]]
    rate: str | None
    mid_rate: str | None
    markup_ppm: int | None
    rate_source: str | None
    rate_observed_at: datetime | None
    created_at: datetime
    expires_at: datetime
    created_by: str
    trace_id: str
    withdrawal_id: int | None

    @property
    def charge(self) -> Charge:
        """What is charged."""
        return Charge(
            self.amount,
            self.fee,
            self.asset,
            self.payout_amount,
            self.payout_asset,
            cast("Payer", self.fee_payer),
            self.fee_plan,
            self.fee_back,
            self.rate,
        )

    @property
    def request_amount(self) -> int:
        """The amount that the request must name: without a fee on top, with a fee deducted."""
        return self.charge.asked

    @property
    def total(self) -> Money:
        """What is set aside."""
        return self.charge.total


_COLUMNS: LiteralString = ", ".join(cast("tuple[LiteralString, ...]", Quote._fields))


async def insert(tx: CellTx, quote: Quote) -> None:
    """Store a quote."""
    row: Mapping[str, Any] = {**quote._asdict(), "fee_lines": json(quote.fee_lines)}
    await tx.execute(
        """
        INSERT INTO quote (id, user_id, destination_id, side, asked, amount, fee, asset,
            payout_amount, payout_asset, fee_payer, fee_plan, fee_back, fee_lines, rate, mid_rate,
            markup_ppm, rate_source, rate_observed_at, created_at, expires_at, created_by, trace_id,
            withdrawal_id)
        VALUES (%(id)s, %(user_id)s, %(destination_id)s, %(side)s, %(asked)s, %(amount)s, %(fee)s,
            %(asset)s, %(payout_amount)s, %(payout_asset)s, %(fee_payer)s, %(fee_plan)s,
            %(fee_back)s, %(fee_lines)s, %(rate)s, %(mid_rate)s, %(markup_ppm)s, %(rate_source)s,
            %(rate_observed_at)s, %(created_at)s, %(expires_at)s, %(created_by)s, %(trace_id)s,
            %(withdrawal_id)s)
        """,
        row,
    )


async def find(tx: CellRead, quote_id: int) -> Quote | None:
    """One quote."""
    rows = await tx.tuples(f"SELECT {_COLUMNS} FROM quote WHERE id = %s", (quote_id,))
    return Quote._make(rows[0]) if rows else None


async def room_at(tx: CellTx, user_id: int, most: int) -> datetime | None:
    """When a user may have a further quote, where `most` or more are open now; None: at once.

    The user is locked, so that of several quotes at once each sees those before it.
    """
    await tx.tuples("SELECT id FROM app_user WHERE id = %s FOR NO KEY UPDATE", (user_id,))
    return await tx.value(
        "SELECT expires_at FROM quote"
        " WHERE user_id = %s AND withdrawal_id IS NULL AND expires_at > %s"
        " ORDER BY expires_at DESC OFFSET %s LIMIT 1",
        (user_id, tx.now, most - 1),
    )


async def ask_locked(tx: CellTx, quote_ids: Sequence[int]) -> Asked:
    """Ask to lock quotes, in order of id: whoever else wants one of them waits, then sees it used.

    The lock is what makes a quote serve once; a unique index stands behind it.
    """
    return await tx.ask(
        f"SELECT {_COLUMNS} FROM quote WHERE id = ANY(%s) ORDER BY id FOR UPDATE",
        (sorted(set(quote_ids)),),
    )


async def locked(asked: Asked | None) -> dict[int, Quote]:
    """What `ask_locked` has asked for."""
    if asked is None:
        return {}
    return {row[0]: Quote._make(row) for row in await asked.rows()}


async def use(tx: CellTx, used: Sequence[tuple[int, int]]) -> None:
    """Write which withdrawals have used which locked quotes: `(quote, withdrawal)`."""
    await tx.send(
        """
        UPDATE quote q SET withdrawal_id = u.withdrawal
        FROM unnest(%s::bigint[], %s::bigint[]) AS u (id, withdrawal)
        WHERE q.id = u.id AND q.withdrawal_id IS NULL
        """,
        ([quote for quote, _ in used], [withdrawal for _, withdrawal in used]),
    )


async def forget(tx: CellTx, before: datetime, limit: int) -> int:
    """Remove quotes that expired before this moment and that nobody used; how many went."""
    return await tx.execute(
        """
        DELETE FROM quote WHERE id IN (
            SELECT id FROM quote WHERE withdrawal_id IS NULL AND expires_at < %s
            ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED
        )
        """,
        (before, limit),
    )
