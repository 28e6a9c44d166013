"""Acts that may need a second person: done at once below the limit, above it proposed.

Each act says how it is made ready out of its stored body, so that approving it later does exactly
what asking for it would have done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from starlette.responses import Response

from paymaster.api.context import Call
from paymaster.api.idempotent import accepted
from paymaster.api.models import Reply
from paymaster.db.idempotency import Key
from paymaster.db.pool import CellDb
from paymaster.db.tx import CellTx, ControlRead
from paymaster.kernel.errors import Forbidden
from paymaster.kernel.money import Money
from paymaster.people import four_eyes, staff
from paymaster.people.four_eyes import Limits, Proposal, Waiting
from paymaster.people.four_eyes_store import Approval

WAITS, NOTHING = 202, 204
"""The status of an answer that says that a second person is needed; of one without words."""


@dataclass(frozen=True, slots=True)
class Ready:
    """An act made ready: where it happens, what is at stake, and what does it.

    `amount` is None, or no money at all, where the act may not happen as things stand: then `run`
    says why. Of several, one in each currency, any may be above its limit.
    """

    cell: CellDb
    amount: Callable[[CellTx], Awaitable[Money | Sequence[Money] | None]]
    run: Callable[[CellTx], Awaitable[Mapping[str, Any]]]


def in_currency_of(row: Approval, found: Money | Sequence[Money] | None) -> Money | None:
    """What is at stake by now, to be compared with what was proposed."""
    if found is None or isinstance(found, Money):
        return found
    same = [one for one in found if row.money is not None and one.currency == row.money.currency]
    return same[0] if same else None


Make = Callable[[Call, str, Mapping[str, Any]], Awaitable[Ready]]


@dataclass(frozen=True, slots=True)
class Act:
    """A kind of act. `make` takes the subject and the body, in the form in which they are stored.

    Network and the directory are for `make`; what it gives works in one transaction.
    """

    name: str
    make: Make
    scope: str = "operate"
    status: int = 200


async def limits_of(call: Call, *, deciding: bool = False) -> Limits:
    """The limits in force in the caller's environment.

    Raises Forbidden `person-needed`, where there are any or when `deciding` what waits, for the key
    of a person who has no role here any more.
    """
    person = call.principal.person_id

    async def look(tx: ControlRead) -> tuple[Limits, bool]:
        found = await four_eyes.limits(tx, call.environment.id)
        if person is None or not (found.rows or deciding):
            return found, True
        return found, await staff.stands(tx, call.environment.id, person)

    found, stands = await call.look(look)
    if not stands:
        raise Forbidden("person-needed", "The person whom this key belongs to has no role here.")
    return found


def lasting(call: Call) -> timedelta:
    """How long an act waits for a second person."""
    return timedelta(hours=call.deps.settings.staff.approval_hours)


async def perform(
    call: Call,
    tx: CellTx,
    limits: Limits,
    act: Act,
    ready: Ready,
    subject: str,
    body: Mapping[str, Any],
) -> Mapping[str, Any] | Waiting:
    """Do an act in this transaction, or let it wait for a second person. Raises as either does."""
    if limits.rows or limits.always:
        amount = _weightiest(act, limits, await ready.amount(tx))
        proposal = Proposal(act.name, subject, amount, body, str(body.get("reason") or ""))
        waiting = await four_eyes.guard(tx, call.principal, limits, proposal, lasting(call))
        if waiting is not None:
            return waiting
    return await ready.run(tx)


def _weightiest(act: Act, limits: Limits, found: Money | Sequence[Money] | None) -> Money | None:
    """Of several sums one that is above its limit, else any."""
    if found is None or isinstance(found, Money):
        return found
    above = [one for one in found if limits.apply_to(act.name, one)]
    return next(iter([*above, *found]), None)


async def guarded(call: Call, act: Act, subject: str, body: Mapping[str, Any]) -> Response:
    """The answer to a request for an act: done, or 202 with the approval that it waits for."""
    ready, limits = await act.make(call, subject, body), await limits_of(call)
    done = await call.write(
        ready.cell, lambda tx: perform(call, tx, limits, act, ready, subject, body)
    )
    return answer_of(act, done)


async def keyed(call: Call, act: Act, key: Key, subject: str, body: Mapping[str, Any]) -> Response:
    """The same for an act that is asked for under an idempotency key: each time it is another."""
    ready, limits = await act.make(call, subject, body), await limits_of(call)
    own = f"{subject}/{key.key_hash.hex()[:12]}"

    async def work(tx: CellTx) -> Mapping[str, Any]:
        done = await perform(call, tx, limits, act, ready, own, body)
        return done.wire() if isinstance(done, Waiting) else done

    return await accepted(call, ready.cell, key, work)


def answer_of(act: Act, done: Mapping[str, Any] | Waiting) -> Response:
    """What is told of an act that was done or waits."""
    if isinstance(done, Waiting):
        return Reply(done.wire(), WAITS)
    return Response(status_code=act.status) if act.status == NOTHING else Reply(done, act.status)
