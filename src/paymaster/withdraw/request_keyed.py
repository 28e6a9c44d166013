"""Requests under callers' keys: the first answer is also every later one, byte for byte.

Key, request and stored answer are one transaction, whether the answer was a yes or a no.
`request_many` does this for a batch of several callers, `request_once` for one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from paymaster.db import idempotency
from paymaster.db.coalesce import Failed
from paymaster.db.idempotency import Answer, Key, Stored
from paymaster.db.tx import CellTx
from paymaster.kernel.errors import PaymasterError, Unprocessable
from paymaster.withdraw.fee_plans import NO_PLANS, Plans
from paymaster.withdraw.machine import WITHDRAWAL
from paymaster.withdraw.request import (
    Limits,
    Requested,
    RequestWithdrawal,
    ask,
    decide,
    moment,
    named,
    wired,
    write,
)


@dataclass(slots=True)
class Keyed:
    """A request under its caller's key; `limits` by currency and fee `plans` as in force."""

    key: Key
    command: RequestWithdrawal
    limits: Mapping[str, Limits] = field(default_factory=dict[str, Limits])
    plans: Plans = NO_PLANS


Render = Callable[[CellTx, Requested], Answer]
"""Makes the stored answer out of an outcome."""


def render(tx: CellTx, outcome: Requested, errors_url: str = "/docs/errors") -> Answer:
    """202 with the new withdrawal, or 422 problem+json; ids and amounts only, nothing personal."""
    command = outcome.command
    trace_id = command.trace_id or tx.trace_id
    row = outcome.row
    if row is None:
        problem = {
            "type": f"{errors_url}#{outcome.slug}",
            "title": Unprocessable.title,
            "status": Unprocessable.status,
            "detail": outcome.detail,
            "code": outcome.slug,
            "retryable": False,
            "trace_id": trace_id,
            **(outcome.extra or {}),
        }
        return Answer(Unprocessable.status, msgspec.json.encode(problem))
    body = {
        "id": named("wd", tx.cell, row.id),
        "user": named("us", tx.cell, command.user_id),
        "destination": named("de", tx.cell, command.destination_id),
        "amount": wired(row.amount, row.asset),
        "fee": wired(row.fee, row.asset),
        "fee_payer": row.fee_payer,
        "payout": wired(row.payout_amount, row.payout_asset),
        "quote": None if row.quote_id is None else named("qt", tx.cell, row.quote_id),
        "state": WITHDRAWAL.initial.value,
        "requested_at": moment(outcome.requested_at),
        "trace_id": trace_id,
    }
    return Answer(202, msgspec.json.encode(body))


async def request_once(
    tx: CellTx,
    key: Key,
    command: RequestWithdrawal,
    *,
    limits: Mapping[str, Limits] | None = None,
    plans: Plans = NO_PLANS,
    render: Render = render,
) -> Answer:
    """One request under a caller's key.

    Raises Unprocessable `idempotency-key-reused`, Conflict `in-progress`.
    """
    [answer] = await request_many(tx, [Keyed(key, command, limits or {}, plans)], render=render)
    if isinstance(answer, Failed):
        raise answer.error
    return answer


async def request_many(
    tx: CellTx, commands: Sequence[Keyed], *, render: Render = render
) -> list[Answer | Failed]:
    """Requests in order of arrival; each sees what those before it have set aside.

    A copy of a key, in this batch or another, gets the first one's answer; another body under the
    key is Failed with Unprocessable `idempotency-key-reused`. A copy that races its original in
    another transaction waits for it before it looks at anything, so it never sees the balance that
    the original has just set aside. Raises Conflict `in-progress` when that takes too long.
    """
    firsts: dict[tuple[int, str, bytes], Keyed] = {}
    for one in commands:
        firsts.setdefault(one.key.name(), one)
    all_ = list(firsts.values())
    looked = await idempotency.look(tx, [one.key for one in all_])
    asked = await ask(
        tx,
        [one.command for one in all_],
        [one.limits for one in all_],
        [one.plans for one in all_],
    )
    stored = await looked.stored()
    known = dict(zip(firsts, stored, strict=True))
    fresh = [place for place, before in enumerate(stored) if before is None]
    made: dict[tuple[int, str, bytes], Answer] = {}
    if fresh:
        decided = await decide(tx, asked, fresh)
        answers = [render(tx, outcome) for outcome in decided.results]
        pairs = [(all_[place].key, answer) for place, answer in zip(fresh, answers, strict=True)]
        async with tx.pipeline():
            await write(tx, decided)
            await idempotency.keep(tx, pairs)
        made = {key.name(): answer for key, answer in pairs}
    told: list[Answer | Failed] = []
    for one in commands:
        name = one.key.name()
        before = known[name]
        if before is None and one is firsts[name]:
            told.append(made[name])
            continue
        if before is None:
            before = Stored(firsts[name].key.body_hash, made[name].status, made[name].answer)
        found = before.answer_to(one.key)
        told.append(Failed(found) if isinstance(found, PaymasterError) else found)
    return told
