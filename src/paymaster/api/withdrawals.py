"""Withdrawals: asked for, shown with their whole story, stopped, decided."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final, NamedTuple, cast

from fastapi import APIRouter, Path, Query, Request
from pydantic import Field
from starlette.responses import Response

from paymaster.api import awaiting
from paymaster.api.context import Call, Key, OwnReads, OwnWithdrawals
from paymaster.api.door import Door
from paymaster.api.factors import StepUpId, not_staff
from paymaster.api.idempotent import claim, replied
from paymaster.api.models import (
    Amount,
    Body,
    ExternalId,
    MaybeReasoned,
    Reply,
    Text,
    listing,
)
from paymaster.api.paging import Page as PageAsked
from paymaster.api.paging import Paged, next_cursor
from paymaster.api.shapes import Page, RequestedOut, StoryOut, WithdrawalOut
from paymaster.api.stepup import by
from paymaster.db.idempotency import Key as StoredKey
from paymaster.db.tx import CellTx, ControlRead
from paymaster.dispatch import confirmation
from paymaster.kernel.errors import Conflict, NotFound, Refusal
from paymaster.kernel.ids import Ref, parse_text_id
from paymaster.kernel.money import Money
from paymaster.people.factors import policy
from paymaster.people.factors.binding import Purpose
from paymaster.people.factors.policy import Policy
from paymaster.people.factors.proof import Shown
from paymaster.screen import challenge
from paymaster.withdraw import moves, view
from paymaster.withdraw.fee_plans import Plans
from paymaster.withdraw.machine import State
from paymaster.withdraw.refused import for_app, for_earner
from paymaster.withdraw.request import Limits, RequestWithdrawal
from paymaster.withdraw.request_keyed import Keyed

router = APIRouter(route_class=Door, tags=["withdrawals"])
LIST = "/v1/withdrawals"
REQUEST = "POST /v1/withdrawals"
NOBODYS: Final = 0
"""The number of what no user has."""
WithdrawalPath = Annotated[str, Path(max_length=40, description="`wd_...`")]


class AskWithdrawal(Body):
    """Pay an amount to one of the user's destinations."""

    user: ExternalId
    destination: Text
    amount: Amount
    quote: Annotated[
        Text | None,
        Field(max_length=40, description="`qt_...`: exactly its figures are charged, or nothing."),
    ] = None
    step_up: StepUpId | None = None


@router.post(LIST, status_code=202, response_model=RequestedOut)
async def ask_withdrawal(
    call: OwnWithdrawals, request_: Request, key: Key, body: AskWithdrawal
) -> Response:
    """Ask for a withdrawal: everything is checked and the money set aside at once.

    The same Idempotency-Key and body gets the same answer, byte for byte, also when it was a no.
    """
    amount = body.amount.money()
    ref = await call.user(body.user)

    async def rules(tx: ControlRead) -> tuple[Terms, Policy]:
        environment, hot = call.environment.id, call.hot
        terms = Terms(await hot.limits(tx, environment), await hot.plans(tx, environment))
        return terms, await policy.current(tx, environment)

    terms, steps = await call.look(rules)
    required = steps.requires(Purpose.WITHDRAWAL, by(call), amount.currency, amount.minor)
    shown = Shown(required, body.step_up)
    sent = await request_.body()
    wanted = Wanted(ref, body.destination, amount, body.quote, shown)
    return await asked(call, key, sent, wanted, terms)


class Terms(NamedTuple):
    """Limits by currency and fee plans, as they are in force."""

    limits: Mapping[str, Limits]
    plans: Plans


class Wanted(NamedTuple):
    """A request that reads well. `shown` None: it needs no second factor and came without one."""

    user: Ref
    destination: str
    amount: Money
    quote: str | None = None
    shown: Shown | None = None


async def asked(call: Call, key: str, sent: bytes, wanted: Wanted, terms: Terms) -> Response:
    """Carry out a request that reads well; `sent` are the bytes of its body."""
    cell = call.cell(wanted.user.cell).number
    stored = StoredKey.of(call.principal.caller_id, REQUEST, key, sent)
    await claim(call, stored)
    shown, quote = wanted.shown, wanted.quote
    command = RequestWithdrawal(
        wanted.user.id,
        _local("de", wanted.destination, cell),
        wanted.amount,
        actor=call.actor,
        trace_id=call.trace_id,
        shown=shown if shown is not None and shown.matters else None,
        quote_id=None if quote is None else _local("qt", quote, cell),
    )
    return replied(await call.hot.request(cell, Keyed(stored, command, terms.limits, terms.plans)))


def _local(prefix: str, text: str, cell: int) -> int:
    """The number of a destination or quote; one that nobody has when it is of another cell."""
    try:
        found = parse_text_id(prefix, text)
    except NotFound:
        return NOBODYS
    return found.id if found.cell == cell else NOBODYS


@router.get("/v1/withdrawals/{withdrawal}", response_model=StoryOut)
async def get_withdrawal(call: OwnReads, withdrawal: WithdrawalPath) -> Reply:
    """One withdrawal with its whole story: moves, attempts, verdicts, entries, acts.

    An earner sees the moves only, without who made them and why.
    """
    ref = _ref(call, withdrawal)
    story = await call.cell(ref.cell).read(lambda tx: view.story(tx, ref.id, user_id=call.mine))
    reads_holds = call.principal.reads_holds
    return Reply(story.wire(holds=reads_holds) if call.mine is None else story.wire_own())


def _ref(call: Call, withdrawal: str) -> Ref:
    """Where a withdrawal is. For an earner there are none outside his cell."""
    ref = call.ref("wd", withdrawal)
    own = call.principal.user
    if own is not None and own.cell != ref.cell:
        raise NotFound("not-found", "There is no such withdrawal.")
    return ref


def _shown(call: Call, one: view.Summary) -> dict[str, Any]:
    return one.wire() if call.mine is None else one.wire_own()


@router.get(LIST, response_model=Page[WithdrawalOut])
async def list_withdrawals(
    call: OwnReads,
    page: Paged,
    user: Annotated[Text | None, Query(max_length=128)] = None,
    state: Annotated[State | None, Query()] = None,
) -> Reply:
    """Withdrawals, newest first: of a user, or in a state, or all. Not of a user and a state.

    An earner gets his own.
    """
    if call.mine is not None:
        user = user or "me"
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
    return listing([_shown(call, one) for one in found], next_cursor(call, LIST, filters, last))


def seen_by(call: Call, error: Conflict) -> Conflict:
    """What an act of the user tells of what stood in its way, to who called."""
    if call.mine is not None:
        return for_earner(error)
    return error if call.principal.scopes & {"operate", "risk"} else for_app(error)


async def _act(call: Call, withdrawal: str, act: Callable[[CellTx, int], Awaitable[Any]]) -> Reply:
    """An act of the user. What stood in its way is told without names of the staff."""
    ref = _ref(call, withdrawal)

    async def work(tx: CellTx) -> dict[str, Any]:
        await act(tx, ref.id)
        return _shown(call, await view.one(tx, ref.id))

    try:
        return Reply(await call.write(call.cell(ref.cell), work))
    except Conflict as error:
        raise seen_by(call, error) from None


@router.post("/v1/withdrawals/{withdrawal}/cancel", response_model=WithdrawalOut)
async def cancel_withdrawal(
    call: OwnWithdrawals, withdrawal: WithdrawalPath, body: MaybeReasoned | None = None
) -> Reply:
    """Take it back before it is sent; the money is available again.

    One that waits for its payee is still `awaiting_payee` afterwards: its provider is asked to
    take it back, where it can, and its last word ends it. The same again by the same caller
    changes nothing. Who comes too late is told who was there before, and when.
    """
    takes_back = await awaiting.can_take_back(call)

    async def act(tx: CellTx, number: int) -> None:
        row, reason = (await view.one(tx, number, user_id=call.mine)).row, body and body.reason
        if row.state == State.AWAITING_PAYEE:
            await confirmation.take_back(tx, row.user_id, number, takes_back, reason)
        else:
            await moves.cancel(tx, row.user_id, number, reason)

    return await _act(call, withdrawal, act)


class AnswerChallenge(Body):
    """A verified step-up for a withdrawal of this amount to this destination."""

    step_up: StepUpId | None = None


@router.post("/v1/withdrawals/{withdrawal}/challenge", response_model=WithdrawalOut)
async def answer_challenge(
    call: OwnWithdrawals, withdrawal: WithdrawalPath, body: AnswerChallenge
) -> Reply:
    """Give the proof that a withdrawal in `challenged` waits for; then it is judged anew.

    Make a step-up for its `amount` and `destination`, verify it, and send it here: it is used up by
    this. What is not answered in time is denied, and the money is available again.
    """
    not_staff(call)
    return await _act(
        call,
        withdrawal,
        lambda tx, one: challenge.answer(tx, one, body.step_up, user_id=call.mine),
    )
