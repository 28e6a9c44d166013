"""Our accounts at providers: taken on, paused, their windows closed, the money in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from pydantic import Field, StringConstraints

from paymaster.api.context import Call, Operates, Reads
from paymaster.api.door import Door
from paymaster.api.guarded import WAITS, lasting, limits_of
from paymaster.api.models import Body, MaybeReasoned, Reason, Reply, Text, listing, wire
from paymaster.api.shapes import Page
from paymaster.api.shapes_operate import FundsOut, RailAccountOut, WindowOut
from paymaster.api.shapes_staff import WAITING
from paymaster.db.tx import CellRead, CellTx, ControlTx
from paymaster.dispatch import accounts, window
from paymaster.dispatch.accounts import NewAccount, PayoutAccount
from paymaster.kernel.money import Money
from paymaster.ledger import balance
from paymaster.ledger.chart import KINDS
from paymaster.people import four_eyes
from paymaster.people.four_eyes import RAIL_ACCOUNT_ACT, Proposal, Waiting

router = APIRouter(route_class=Door, tags=["rail accounts"])
AccountPath = Annotated[
    str, Path(max_length=128, description="The account's name.", examples=["bank"])
]
_Value = Annotated[Text, StringConstraints(max_length=4000)]
_FUNDS = ("cash", "clearing", "suspense")
_HOUSE = ("transit", "fx")


class PutRailAccount(Body):
    """`settings` hold no secrets; `secrets` name them in the secret store."""

    rail: Annotated[Text, StringConstraints(max_length=40), Field(examples=["iso20022"])]
    currency: Annotated[Text, StringConstraints(max_length=12), Field(examples=["EUR"])]
    time_zone: Annotated[Text, StringConstraints(max_length=64)] = "UTC"
    payout_window: Annotated[
        Text,
        StringConstraints(max_length=100),
        Field(description="always, manual, or times such as 14:30 or 09:00,14:30 target."),
    ] = "always"
    settings: Annotated[dict[Text, _Value], Field(default_factory=dict, max_length=50)]
    secrets: Annotated[dict[Text, _Value], Field(default_factory=dict, max_length=20)]


class SetState(Body):
    """A paused account sends no new orders; it still gets its answers."""

    state: Literal["active", "paused"]
    reason: Reason


def shown(call: Call, account: PayoutAccount) -> dict[str, Any]:
    """For JSON."""
    return {
        "id": call.control_text("ra", account.id),
        "name": account.rail.name,
        "rail": account.rail.rail,
        "currency": account.rail.currency,
        "time_zone": account.time_zone,
        "settings": dict(account.rail.settings),
        "secrets": dict(account.rail.secrets),
        "payout_window": account.payout_window,
        "state": account.state,
        "version": account.version,
    }


async def find(call: Call, name: str) -> PayoutAccount:
    """An account of the caller's environment. Raises NotFound `rail-account-unknown`."""
    return await accounts.find(call.deps.dbs, call.environment.id, call.name(name))


@router.put(
    "/v1/rail-accounts/{name}",
    response_model=RailAccountOut,
    responses={201: {"model": RailAccountOut, "description": "Made."}, **WAITING},
)
async def put_rail_account(call: Operates, name: AccountPath, body: PutRailAccount) -> Reply:
    """Take an account on, or change how it is reached. Safe to repeat.

    Where acts need two persons above a limit, so does every change of an account.
    """
    limits, asked = await limits_of(call), body.model_dump(mode="json")
    proposal = Proposal(RAIL_ACCOUNT_ACT, name, None, asked, call.reason or "")

    async def work(tx: ControlTx) -> Waiting | tuple[PayoutAccount, bool]:
        new = _new(name, asked)
        if not await accounts.unchanged(tx, call.environment.id, new, call.deps.rails):
            waiting = await four_eyes.guard(tx, call.principal, limits, proposal, lasting(call))
            if waiting is not None:
                return waiting
        return await put_account(call, tx, name, asked)

    done = await call.control(work)
    if isinstance(done, Waiting):
        return Reply(done.wire(), WAITS)
    account, created = done
    return Reply(shown(call, account), 201 if created else 200)


async def put_account(
    call: Call, tx: ControlTx, name: str, asked: Mapping[str, Any]
) -> tuple[PayoutAccount, bool]:
    """Carry out what was asked for, at once or once it was approved; whether the account is new."""
    new = _new(name, asked)
    return await accounts.put(tx, call.environment.id, call.treasury.number, new, call.deps.rails)


def _new(name: str, asked: Mapping[str, Any]) -> NewAccount:
    return NewAccount(name=name, **asked)


@router.get("/v1/rail-accounts", response_model=Page[RailAccountOut])
async def list_rail_accounts(call: Reads) -> Reply:
    """All accounts, by name."""
    found = await accounts.load(call.deps.dbs, call.environment.id)
    return listing([shown(call, account) for account in found.values()])


@router.get("/v1/rail-accounts/{name}", response_model=RailAccountOut)
async def get_rail_account(call: Reads, name: AccountPath) -> Reply:
    """An account."""
    return Reply(shown(call, await find(call, name)))


@router.post("/v1/rail-accounts/{name}/state", response_model=RailAccountOut)
async def set_rail_account_state(call: Operates, name: AccountPath, body: SetState) -> Reply:
    """Pause an account, or take it up again."""
    account = await call.control(
        lambda tx: accounts.set_state(
            tx, call.environment.id, call.treasury.number, call.name(name), body.state, body.reason
        )
    )
    return Reply(shown(call, account))


@router.post("/v1/rail-accounts/{name}/close-window", response_model=WindowOut)
async def close_window(
    call: Operates, name: AccountPath, body: MaybeReasoned | None = None
) -> Reply:
    """Send what waits for the account's window now, from every cell."""
    account = await find(call, name)
    reason = (body.reason if body else None) or call.reason or "asked for"
    treasury = call.treasury.number

    async def work(tx: CellTx) -> None:
        await window.close_now(tx, account.id, treasury, reason)

    for cell in call.cells:
        await call.write(cell, work)
    return Reply({"rail_account": account.rail.name, "cells": [cell.number for cell in call.cells]})


@router.get("/v1/funds", response_model=FundsOut)
async def get_funds(call: Reads) -> Reply:
    """What the books say lies in each account, is on its way out, and cannot be explained yet."""
    known = await accounts.load(call.deps.dbs, call.environment.id)

    async def work(tx: CellRead) -> dict[str, list[tuple[int, Money]]]:
        return {kind: await balance.of_kind(tx, kind) for kind in (*_FUNDS, *_HOUSE)}

    sums: dict[tuple[str, int, str], Money] = {}
    for part in await call.everywhere(work):
        for kind, rows in part.items():
            for owner, money in rows:
                key = (kind, owner, money.currency)
                sums[key] = sums.get(key, Money.zero(money.currency)) + money
    lines: list[dict[str, Any]] = []
    for account in known.values():
        own = {currency for kind, owner, currency in sums if owner == account.id and kind in _FUNDS}
        for currency in sorted({account.rail.currency, *own}):
            line: dict[str, Any] = {"rail_account": account.rail.name, "currency": currency}
            for kind in _FUNDS:
                raw = sums.get((kind, account.id, currency), Money.zero(currency))
                line[kind] = wire(_seen(kind, raw))
            lines.append(line)
    house = {
        name: [wire(_seen(name, money)) for (kind, _, _), money in sums.items() if kind == name]
        for name in _HOUSE
    }
    return Reply({"data": lines, **house})


def _seen(kind: str, raw: Money) -> Money:
    """Under the sign in which people see it."""
    return Money(raw.minor * KINDS[kind].shown, raw.currency)
