"""A user's money: now, its history, and as it stood."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from fastapi import APIRouter, Query

from paymaster.api.context import Call, OwnReads
from paymaster.api.door import Door
from paymaster.api.explain import Accepted, Accounts, in_language, language_for, own_user
from paymaster.api.models import Moment, Reply, wire
from paymaster.api.paging import Paged, next_cursor
from paymaster.api.shapes import BalanceAtOut, BalancesOut, StatementOut
from paymaster.api.shapes_status import MoneyWhereOut
from paymaster.api.users import UserPath
from paymaster.db.tx import CellRead
from paymaster.earn import reserve, vesting
from paymaster.kernel.clock import parse_rfc3339, rfc3339
from paymaster.kernel.ids import Ref, text_id
from paymaster.kernel.money import Money, exponent
from paymaster.ledger import balance, statement
from paymaster.ledger.chart import KINDS, Account
from paymaster.withdraw import whereabouts

router = APIRouter(route_class=Door, tags=["money"])
Currency = Annotated[str, Query(max_length=12, description="ISO 4217 code.", examples=["EUR"])]
Kind = Annotated[
    Literal["available", "held", "vesting", "reserve", "debt"],
    Query(description="Which of the accounts."),
]
Since = Annotated[
    Moment | None, Query(alias="from", description="Nothing that was recorded before it.")
]
Until = Annotated[Moment | None, Query(description="Nothing that was recorded after it.")]
STATEMENT = "/v1/users/{user}/statement"


@router.get("/v1/users/{user}/balances", response_model=BalancesOut)
async def get_balances(call: OwnReads, user: UserPath) -> Reply:
    """Everything a user has, by currency, from one snapshot.

    `withdrawable` is nothing while something is owed (`debt`). `in_transit` was paid and is on no
    statement yet; what is with a bank or wallet and not known to be paid is in `held`.
    """
    ref = await call.user(user)

    async def work(tx: CellRead) -> list[dict[str, Any]]:
        found = await balance.balances(tx, ref.id)
        # What the totals say is nothing need not be asked for item by item.
        held = await balance.holds(tx, ref.id) if any(one.held for one in found) else []
        maturing = await vesting.of_user(tx, ref.id) if any(one.vesting for one in found) else []
        kept = await reserve.of_user(tx, ref.id) if any(one.reserve for one in found) else []
        moving = await whereabouts.in_transit(tx, ref.id)
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
                "reserve": {
                    "total": wire(one.reserve),
                    "items": [
                        {"amount": wire(item.amount), "releases_at": rfc3339(item.releases_at)}
                        for item in kept
                        if item.amount.currency == one.currency
                    ],
                },
                "in_transit": wire(Money(moving.get(one.currency, 0), one.currency)),
                "debt": wire(one.debt),
                "withdrawable": wire(one.withdrawable),
                "as_of_seq": one.as_of_seq,
            }
            for one in found
        ]

    data = await call.cell(ref.cell).read(work)
    return Reply({"user": text_id("us", ref.cell, ref.id), "data": data})


@router.get("/v1/users/{user}/money", response_model=MoneyWhereOut)
async def get_money(call: OwnReads, user: UserPath, language: Accepted = None) -> Reply:
    """Where a user's money is: available, maturing, in reserve, held, sent, returned, owed.

    From one snapshot, with who acts next and by when, in the language of `Accept-Language` or of
    the user's profile.
    """
    return await _whereabouts(call, await call.user(user), language)


@router.get("/v1/me/money", response_model=MoneyWhereOut)
async def get_my_money(call: OwnReads, language: Accepted = None) -> Reply:
    """The same for the earner who calls."""
    return await _whereabouts(call, own_user(call), language)


async def _whereabouts(call: Call, ref: Ref, header: str | None) -> Reply:
    await call.now()
    found = await call.cell(ref.cell).read(lambda tx: whereabouts.gather(tx, ref.id))
    tongue = await language_for(call, ref, header)
    known = await Accounts.load(call)
    return in_language(tongue, found.wire(tongue, known.expected, known.rail))


@router.get(STATEMENT, response_model=StatementOut)
async def get_statement(
    call: OwnReads,
    user: UserPath,
    currency: Currency,
    page: Paged,
    kind: Kind = "available",
    since: Since = None,
    until: Until = None,
) -> Reply:
    """The movements of one of a user's accounts, newest first, each with the balance after it.

    `archived` is set on the last page when older movements have been archived.
    """
    ref = await call.user(user)
    exponent(currency)
    account = Account(kind, ref.id, currency)
    filters = {"cell": ref.cell, "user": ref.id, "currency": currency, "kind": kind}
    filters |= {"from": since or "", "until": until or ""}
    position = page.after(call, STATEMENT, filters)
    start = cast("int", position[0]) if position else None
    oldest = parse_rfc3339(since) if since else None

    async def work(tx: CellRead) -> statement.Page:
        if until and start is None:
            newest = parse_rfc3339(until)
            return await statement.page_until(tx, account, newest, page.limit, since=oldest)
        return await statement.page(tx, account, start, page.limit, since=oldest)

    found = await call.cell(ref.cell).read(work)
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
        for row in found.rows
    ]
    after = None if found.next_id is None else (found.next_id,)
    gone = found.archived
    return Reply(
        {
            "data": data,
            "next_cursor": next_cursor(call, STATEMENT, filters, after),
            "archived": gone and {"month": f"{gone.month:%Y-%m}", "sha256": gone.sha256},
        }
    )


@router.get("/v1/users/{user}/balance-at", response_model=BalanceAtOut)
async def get_balance_at(
    call: OwnReads,
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
