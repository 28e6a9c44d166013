"""Step-ups: a proof is asked for, given, and sent along with the act; and who must give one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from pydantic import Field, StringConstraints

from paymaster.api.context import Call, Operates, OwnReads, OwnUsers, Reads
from paymaster.api.door import Door
from paymaster.api.factors import Code, PasskeyAnswer, not_staff, party
from paymaster.api.guarded import WAITS, lasting, limits_of
from paymaster.api.models import Amount, Body, Reason, Reply, Text
from paymaster.api.shapes_staff import WAITING
from paymaster.api.shapes_stepup import PolicyOut, StepUpOut
from paymaster.api.users import UserPath
from paymaster.db.tx import CellTx, ControlTx
from paymaster.kernel.errors import NotFound, Problem, Refusal, Unprocessable
from paymaster.kernel.ids import Ref
from paymaster.kernel.money import exponent
from paymaster.people import destinations, four_eyes
from paymaster.people.factors import policy, step_ups
from paymaster.people.factors.binding import (
    ADD,
    RECOVERY_CODES,
    Binding,
    Purpose,
    linking,
    new_accounts,
    removal,
)
from paymaster.people.factors.policy import By, Policy, Rule
from paymaster.people.factors.step_ups import Answer
from paymaster.people.four_eyes import STEP_UP_ACT, Proposal, Waiting
from paymaster.rails.destinations import check

router = APIRouter(route_class=Door, tags=["second factors"])
StepUpPath = Annotated[str, Path(max_length=40, description="`su_...`")]


class NewAccount(Body):
    """A destination that is to be added, with the very details that will be sent then."""

    kind: Annotated[Text, StringConstraints(max_length=40), Field(examples=["iban"])]
    currency: Annotated[Text, StringConstraints(max_length=12), Field(examples=["EUR"])]
    details: Annotated[
        dict[Text, Annotated[Text, StringConstraints(max_length=500)]], Field(max_length=20)
    ]


class AskStepUp(Body):
    """What shall be done: exactly the fields that the purpose needs.

    `withdrawal`: amount and destination. `destination`: account, or the provider of which an
    account is to be linked. `factor`: act, and for `remove` the factor.
    """

    purpose: Purpose = Field(strict=False)
    amount: Amount | None = None
    destination: Annotated[Text, StringConstraints(max_length=40)] | None = None
    account: NewAccount | None = None
    link: Literal["wechat", "alipay"] | None = None
    act: Literal["add", "remove", "recovery-codes"] | None = None
    factor: Annotated[Text, StringConstraints(max_length=40)] | None = None


class GiveProof(Body):
    """One of the three."""

    code: Code | None = None
    recovery_code: Annotated[Text, StringConstraints(min_length=1, max_length=40)] | None = None
    passkey: PasskeyAnswer | None = None


class AskedRule(Body):
    """A withdrawal above so much, or (with `above` null) in every currency; a new destination."""

    purpose: Literal["withdrawal", "destination"]
    above: Amount | None = None
    applies_to: Literal["users", "servers", "both"] = "both"


class PutPolicy(Body):
    """All rules; what is not among them is not asked any more."""

    rules: Annotated[list[AskedRule], Field(max_length=policy.MAX_RULES)]
    reason: Reason


@router.post("/v1/users/{user}/step-ups", response_model=StepUpOut, status_code=201)
async def ask_step_up(call: OwnUsers, user: UserPath, body: AskStepUp) -> Reply:
    """Ask for a proof of one act. It is answered by one of `methods`, within five minutes.

    With a passkey: give `passkey` to `navigator.credentials.get`. Its challenge is the SHA-256 over
    `nonce` and `statement`, so the passkey signs this amount and payee and no other.
    """
    not_staff(call)
    ref = await call.user(user)

    async def work(tx: CellTx) -> step_ups.StepUpView:
        return await step_ups.create(
            tx,
            call.deps.secrets.sealer,
            call.deps.settings.step_up,
            party(call),
            ref.id,
            await _binding(call, tx, ref, body),
        )

    return Reply((await call.write(call.cell(ref.cell), work)).wire(), 201)


_FIELDS: dict[Purpose, tuple[tuple[str, ...], ...]] = {
    Purpose.WITHDRAWAL: (("amount", "destination"),),
    Purpose.DESTINATION: (("account",), ("link",)),
    Purpose.FACTOR: (("act",), ("act", "factor")),
}
"""What each purpose needs."""


async def _binding(call: Call, tx: CellTx, ref: Ref, body: AskStepUp) -> Binding:
    """What the proof shall be for. Raises Refusal, Unprocessable, NotFound."""
    given = tuple(
        name
        for name in ("amount", "destination", "account", "link", "act", "factor")
        if getattr(body, name) is not None
    )
    if given not in _FIELDS[body.purpose]:
        needed = " or ".join(", ".join(names) for names in _FIELDS[body.purpose])
        raise Refusal("request-invalid", f"A {body.purpose.value} needs: {needed}.")
    if body.amount is not None and body.destination is not None:
        amount = body.amount.money()
        if amount.minor <= 0:
            raise Unprocessable("amount-not-positive", "Ask for an amount above zero.")
        return Binding(body.purpose, await _own(tx, ref, body.destination), amount)
    if body.account is not None:
        account = body.account
        exponent(account.currency)
        checked = check(account.kind, account.details)
        sealer = call.deps.secrets.sealer
        return Binding(
            body.purpose, new_accounts(sealer, account.kind, account.currency, checked)[0]
        )
    if body.link is not None:
        return Binding(body.purpose, linking(body.link))
    if (body.act == "remove") != (body.factor is not None):
        raise Refusal("request-invalid", "Name the factor to remove, and only then.")
    if body.factor is not None:
        return Binding(body.purpose, removal(body.factor))
    return Binding(body.purpose, ADD if body.act == "add" else RECOVERY_CODES)


async def _own(tx: CellTx, ref: Ref, text: str) -> str:
    """The id of a destination of the user. Raises NotFound `destination-unknown`."""
    found = {view.id for view in await destinations.listing(tx, ref.id)}
    if text not in found:
        raise NotFound("destination-unknown", "The user has no such destination.")
    return text


@router.get("/v1/users/{user}/step-ups/{step_up}", response_model=StepUpOut)
async def get_step_up(call: OwnReads, user: UserPath, step_up: StepUpPath) -> Reply:
    """What became of a step-up."""
    ref = await call.user(user)
    number, sealer = _number(call, ref, step_up), call.deps.secrets.sealer
    view = await call.cell(ref.cell).read(lambda tx: step_ups.get(tx, sealer, ref.id, number))
    return Reply(view.wire())


def _number(call: Call, ref: Ref, text: str) -> int:
    found = call.ref("su", text)
    return found.id if found.cell == ref.cell else -1


@router.post("/v1/users/{user}/step-ups/{step_up}/verify", response_model=StepUpOut)
async def verify_step_up(
    call: OwnUsers, user: UserPath, step_up: StepUpPath, body: GiveProof
) -> Reply:
    """Give the proof. A verified step-up serves once, for its act, within five minutes."""
    not_staff(call)
    ref = await call.user(user)
    view = await step_ups.verify(
        call.deps.dbs,
        call.deps.secrets.sealer,
        call.deps.settings.step_up,
        party(call),
        call.actor,
        call.trace_id,
        ref,
        _number(call, ref, step_up),
        Answer(body.code, body.recovery_code, body.passkey),
    )
    return Reply(view.wire())


@router.get("/v1/step-up-policy", response_model=PolicyOut)
async def get_policy(call: Reads) -> Reply:
    """Which acts need a step-up."""
    return _shown(await call.look(lambda tx: policy.current(tx, call.environment.id)))


@router.put("/v1/step-up-policy", response_model=PolicyOut, responses=WAITING)
async def put_policy(call: Operates, body: PutPolicy) -> Reply:
    """Replace the rules. They count for the next request; the audit keeps the old ones.

    Where withdrawals are approved by two persons, this needs two as well.
    """
    limits = await limits_of(call)
    for index, rule in enumerate(body.rules):
        _rule(index, rule)
    asked = body.model_dump()
    proposal = Proposal(STEP_UP_ACT, "step-up-policy", None, asked, body.reason)

    async def work(tx: ControlTx) -> Waiting | Policy:
        waiting = await four_eyes.guard(tx, call.principal, limits, proposal, lasting(call))
        return waiting or await replace_policy(tx, call.environment.id, asked)

    done = await call.control(work)
    return Reply(done.wire(), WAITS) if isinstance(done, Waiting) else _shown(done)


async def replace_policy(tx: ControlTx, environment_id: int, asked: Mapping[str, Any]) -> Policy:
    """Carry out what was asked for, at once or once it was approved."""
    body = PutPolicy.model_validate(asked)
    rules = [_rule(index, rule) for index, rule in enumerate(body.rules)]
    return await policy.replace(tx, environment_id, rules, body.reason)


def _rule(index: int, asked: AskedRule) -> Rule:
    if asked.above is None:
        return Rule(Purpose(asked.purpose), applies_to=asked.applies_to)
    if asked.purpose == "destination":
        problem = Problem(f"/rules/{index}/above", "A destination has no amount.")
        raise Refusal("request-invalid", "A rule has a fault.", problems=[problem])
    above = asked.above.money()
    return Rule(Purpose(asked.purpose), above.currency, above.minor, asked.applies_to)


def _shown(found: Policy) -> Reply:
    rules: Sequence[object] = [rule.wire() for rule in found.rules]
    return Reply({"rules": rules})


def by(call: Call) -> By:
    """For whom a rule applies to this caller."""
    return "users" if call.principal.kind == "user" else "servers"
