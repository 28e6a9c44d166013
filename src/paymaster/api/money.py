"""A user's money: now, its history, and as it stood."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from fastapi import APIRouter, Query

from paymaster.api.context import Reads
from paymaster.api.door import Door
from paymaster.api.models import Moment, Reply, listing, wire
from paymaster.api.paging import Paged, next_cursor
from paymaster.api.shapes import BalanceAtOut, BalancesOut, Page, StatementLineOut
from paymaster.api.users import UserPath
from paymaster.db.tx import CellRead
from paymaster.earn import vesting
from paymaster.kernel.clock import parse_rfc3339, rfc3339
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money, exponent
from paymaster.ledger import balance, statement
from paymaster.ledger.chart import KINDS, Account

router = APIRouter(route_class=Door, tags=["money"])
Currency = Annotated[str, Query(max_length=12, description="ISO 4217 code.", examples=["EUR"])]
Kind = Annotated[
    Literal["available", "held", "vesting", "debt"], Query(description="Which of the accounts.")
]
STATEMENT = "/v1/users/{user}/statement"


@router.get("/v1/users/{user}/balances", response_model=BalancesOut)
async def get_balances(call: Reads, user: UserPath) -> Reply:
    """Everything a user has, by currency, from one snapshot.

    `withdrawable` is nothing while something is owed (`debt`).
    """
    ref = await call.user(user)

    async def work(tx: CellRead) -> list[dict[str, Any]]:
        found = await balance.balances(tx, ref.id)
        held = await balance.holds(tx, ref.id)
        maturing = await vesting.of_user(tx, ref.id)
        return [
            {
                "available": wire(one.available),
                "vesting": {
                    "total": wire(one.vesting),
                    "items": [
                        {"amount": wire(item.amount), "matures_at": rfc3339(item.matures_at)}
                        for item in maturing
                        if item.amount.currency == one.currency
                    ],
                },
                "held": [
                    {"amount": wire(hold.amount), "reason": hold.reason, "ref": hold.subject}
                    for hold in held
                    if hold.amount.currency == one.currency
                ],
                "debt": wire(one.debt),
                "withdrawable": wire(one.withdrawable),
                "as_of_seq": one.as_of_seq,
            }
            for one in found
        ]

    data = await call.cell(ref.cell).read(work)
    return Reply({"user": text_id("us", ref.cell, ref.id), "data": data})


@router.get(STATEMENT, response_model=Page[StatementLineOut])
async def get_statement(
    call: Reads, user: UserPath, currency: Currency, page: Paged, kind: Kind = "available"
) -> Reply:
    """The movements of one of a user's accounts, newest first, each with the balance after it."""
    ref = await call.user(user)
    exponent(currency)
    account = Account(kind, ref.id, currency)
    filters = {"cell": ref.cell, "user": ref.id, "currency": currency, "kind": kind}
    position = page.after(call, STATEMENT, filters)
    start = cast("int", position[0]) if position else None
    rows = await call.cell(ref.cell).read(lambda tx: statement.page(tx, account, start, page.limit))
    sign = KINDS[kind].shown
    data = [
        {
            "entry": text_id("en", ref.cell, row.entry_id),
            "kind": row.kind,
            "subject": row.subject,
            "counter_kind": row.counter_kind,
            "amount": wire(Money(sign * row.amount, currency)),
            "balance": wire(Money(sign * row.balance, currency)),
            "effective_at": rfc3339(row.effective_at),
            "recorded_at": rfc3339(row.recorded_at),
            "trace_id": row.trace_id,
        }
        for row in rows
    ]
    last = rows[-1].previous_id if len(rows) == page.limit else None
    cursor = next_cursor(call, STATEMENT, filters, None if last is None else (last,))
    return listing(data, cursor)


@router.get("/v1/users/{user}/balance-at", response_model=BalanceAtOut)
async def get_balance_at(
    call: Reads,
    user: UserPath,
    currency: Currency,
    at: Annotated[Moment, Query()],
    basis: Annotated[
        Literal["recorded", "effective"],
        Query(description="What was in the books by then, or what belongs to then."),
    ] = "recorded",
    kind: Kind = "available",
) -> Reply:
    """A balance as it stood at a moment."""
    ref = await call.user(user)
    exponent(currency)
    moment = parse_rfc3339(at)
    raw = await call.cell(ref.cell).read(
        lambda tx: statement.as_of(
            tx,
            Account(kind, ref.id, currency),
            moment,
            basis=basis,
            time_zone=call.environment.time_zone,
        )
    )
    return Reply(
        {
            "user": text_id("us", ref.cell, ref.id),
            "kind": kind,
            "balance": wire(Money(KINDS[kind].shown * raw, currency)),
            "at": rfc3339(moment),
            "basis": basis,
        }
    )
