"""Withdrawals: asked for, shown with their whole story, stopped, decided."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, cast

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from paymaster.api.context import Call, Key, Operates, Reads, Withdrawals
from paymaster.api.door import Door
from paymaster.api.idempotent import claim, replied
from paymaster.api.models import (
    Amount,
    Body,
    ExternalId,
    MaybeReasoned,
    Reasoned,
    Reply,
    Text,
    listing,
)
from paymaster.api.paging import Page as PageAsked
from paymaster.api.paging import Paged, next_cursor
from paymaster.api.shapes import Page, RequestedOut, StoryOut, WithdrawalOut
from paymaster.db.idempotency import Key as StoredKey
from paymaster.db.tx import CellTx
from paymaster.kernel.errors import NotFound, Refusal
from paymaster.kernel.ids import Ref, parse_text_id
from paymaster.kernel.money import Money
from paymaster.withdraw import moves, view
from paymaster.withdraw.machine import State
from paymaster.withdraw.request import Limits, RequestWithdrawal
from paymaster.withdraw.request_keyed import Keyed

router = APIRouter(route_class=Door, tags=["withdrawals"])
LIST = "/v1/withdrawals"
REQUEST = "POST /v1/withdrawals"
WithdrawalPath = Annotated[str, Path(max_length=40, description="`wd_...`")]


class AskWithdrawal(Body):
    """Pay an amount to one of the user's destinations."""

    user: ExternalId
    destination: Text
    amount: Amount


@router.post(LIST, status_code=202, response_model=RequestedOut)
async def ask_withdrawal(
    call: Withdrawals, request_: Request, key: Key, body: AskWithdrawal
) -> Response:
    """Ask for a withdrawal: everything is checked and the money set aside at once.

    The same Idempotency-Key and body gets the same answer, byte for byte, also when it was a no.
    """
    amount = body.amount.money()
    ref = await call.user(body.user)
    limits = await call.look(lambda tx: call.hot.limits(tx, call.environment.id))
    sent = await request_.body()
    return await asked(call, key, sent, ref, limits, body.destination, amount)


async def asked(
    call: Call,
    key: str,
    sent: bytes,
    ref: Ref,
    limits: Mapping[str, Limits],
    destination: str,
    amount: Money,
) -> Response:
    """Carry out a request that reads well; `sent` are the bytes of its body."""
    cell = call.cell(ref.cell).number
    stored = StoredKey.of(call.credential.id, REQUEST, key, sent)
    await claim(call, stored)
    command = RequestWithdrawal(
        ref.id,
        _destination(destination, cell),
        amount,
        actor=call.actor,
        trace_id=call.trace_id,
    )
    return replied(await call.hot.request(cell, Keyed(stored, command, limits)))


def _destination(text: str, cell: int) -> int:
    """The number of a destination; one that no user has when the id is not of the user's cell."""
    try:
        found = parse_text_id("de", text)
    except NotFound:
        return 0
    return found.id if found.cell == cell else 0


@router.get("/v1/withdrawals/{withdrawal}", response_model=StoryOut)
async def get_withdrawal(call: Reads, withdrawal: WithdrawalPath) -> Reply:
    """One withdrawal with its whole story: moves, attempts, verdicts, entries, acts."""
    ref = call.ref("wd", withdrawal)
    story = await call.cell(ref.cell).read(lambda tx: view.story(tx, ref.id))
    return Reply(story.wire())


@router.get(LIST, response_model=Page[WithdrawalOut])
async def list_withdrawals(
    call: Reads,
    page: Paged,
    user: Annotated[Text | None, Query(max_length=128)] = None,
    state: Annotated[State | None, Query()] = None,
) -> Reply:
    """Withdrawals, newest first: of a user, or in a state, or all. Not of a user and a state."""
    if user is not None and state is not None:
        raise Refusal("filters-exclusive", "Filter by user or by state, not by both.")
    if user is not None:
        return await _of_user(call, page, user)
    filters = {"state": state.value if state else None}
    position = page.after(call, LIST, filters)
    before = Ref(cast("int", position[1]), cast("int", position[0])) if position else None
    pages = await call.everywhere(
        lambda tx: view.in_state(tx, state, before=before, limit=page.limit)
    )
    found = view.merge(pages, page.limit)
    last = (found[-1].ref.id, found[-1].ref.cell) if len(found) == page.limit else None
    return listing([one.wire() for one in found], next_cursor(call, LIST, filters, last))


async def _of_user(call: Call, page: PageAsked, user: str) -> Reply:
    ref = await call.user(user)
    filters = {"user": ref.id, "cell": ref.cell}
    position = page.after(call, LIST, filters)
    before = cast("int", position[0]) if position else None
    found = await call.cell(ref.cell).read(
        lambda tx: view.of_user(tx, ref.id, before=before, limit=page.limit)
    )
    last = (found[-1].ref.id,) if len(found) == page.limit else None
    return listing([one.wire() for one in found], next_cursor(call, LIST, filters, last))


Act = Callable[[CellTx, int], Awaitable[Any]]


async def _act(call: Call, withdrawal: str, act: Act) -> Reply:
    ref = call.ref("wd", withdrawal)

    async def work(tx: CellTx) -> dict[str, Any]:
        await act(tx, ref.id)
        return (await view.one(tx, ref.id)).wire()

    return Reply(await call.write(call.cell(ref.cell), work))


@router.post("/v1/withdrawals/{withdrawal}/cancel", response_model=WithdrawalOut)
async def cancel_withdrawal(
    call: Withdrawals, withdrawal: WithdrawalPath, body: MaybeReasoned | None = None
) -> Reply:
    """Take it back before it is sent; the money is available again."""

    async def act(tx: CellTx, number: int) -> None:
        owner = (await view.one(tx, number)).row.user_id
        await moves.cancel(tx, owner, number, body.reason if body else None)

    return await _act(call, withdrawal, act)


@router.post("/v1/withdrawals/{withdrawal}/approve", response_model=WithdrawalOut)
async def approve_withdrawal(call: Operates, withdrawal: WithdrawalPath, body: Reasoned) -> Reply:
    """Let one in review go to the rail."""
    return await _act(call, withdrawal, lambda tx, one: moves.approve(tx, one, body.reason))


@router.post("/v1/withdrawals/{withdrawal}/deny", response_model=WithdrawalOut)
async def deny_withdrawal(call: Operates, withdrawal: WithdrawalPath, body: Reasoned) -> Reply:
    """Refuse it before it is sent; the money is available again."""
    return await _act(call, withdrawal, lambda tx, one: moves.deny(tx, one, body.reason))


@router.post("/v1/withdrawals/{withdrawal}/hold", response_model=WithdrawalOut)
async def hold_withdrawal(call: Operates, withdrawal: WithdrawalPath, body: Reasoned) -> Reply:
    """Freeze it before it is sent."""
    return await _act(call, withdrawal, lambda tx, one: moves.hold(tx, one, body.reason))


@router.post("/v1/withdrawals/{withdrawal}/release", response_model=WithdrawalOut)
async def release_withdrawal(call: Operates, withdrawal: WithdrawalPath, body: Reasoned) -> Reply:
    """Lift a hold; it is judged anew."""
    return await _act(call, withdrawal, lambda tx, one: moves.release(tx, one, body.reason))


@router.post("/v1/withdrawals/{withdrawal}/reverse", response_model=WithdrawalOut)
async def reverse_withdrawal(call: Operates, withdrawal: WithdrawalPath, body: Reasoned) -> Reply:
    """Book a paid one as come back, on the evidence named in the reason."""
    return await _act(call, withdrawal, lambda tx, one: moves.reverse(tx, one, body.reason))
