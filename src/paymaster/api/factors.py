"""Second factors: added, confirmed, renamed, removed; recovery codes; the reset by staff."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import Field, StringConstraints

from paymaster.api.context import Call, Operates, OwnReads, OwnUsers
from paymaster.api.door import Door
from paymaster.api.models import Body, Reasoned, Reply, Text
from paymaster.api.shapes_stepup import (
    BegunOut,
    CodesOut,
    ConfirmedOut,
    FactorOut,
    FactorsOut,
    ResetOut,
)
from paymaster.api.users import UserPath
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import Forbidden, Unprocessable
from paymaster.kernel.ids import text_id
from paymaster.people.factors import enrol, manage
from paymaster.people.factors.passkeys import RelyingParty, party_of

router = APIRouter(route_class=Door, tags=["second factors"])

FactorPath = Annotated[str, Path(max_length=40, description="`fa_...`")]
FactorName = Annotated[
    Text,
    StringConstraints(min_length=1, max_length=60),
    Field(description="What the user calls it.", examples=["My phone"]),
]
StepUpId = Annotated[
    Text,
    StringConstraints(max_length=40),
    Field(description="A verified step-up, `su_...`.", examples=["su_0100000000000ZZ"]),
]
Code = Annotated[
    Text,
    StringConstraints(min_length=6, max_length=6, pattern="^[0-9]{6}$"),
    Field(description="Six digits of an authenticator app.", examples=["123456"]),
]
PasskeyAnswer = Annotated[
    dict[Text, Any],
    Field(description="What the browser gave, as `PublicKeyCredential.toJSON()` writes it."),
]


class AddFactor(Body):
    """`step_up`, for the act `add`, is needed unless this is the user's first factor."""

    kind: Literal["totp", "passkey"]
    name: FactorName
    step_up: StepUpId | None = None


class ConfirmFactor(Body):
    """The first code of an app, or the passkey that was made."""

    code: Code | None = None
    passkey: PasskeyAnswer | None = None


class RenameFactor(Body):
    """What the user calls it from now on."""

    name: FactorName


class NewCodes(Body):
    """`step_up` is for the act `recovery-codes`."""

    step_up: StepUpId | None = None


def party(call: Call) -> RelyingParty | None:
    """The relying party of the caller's environment."""
    return party_of(call.deps.settings.step_up, call.environment)


def not_staff(call: Call) -> None:
    """Raises Forbidden `not-for-staff`: nobody of the staff proves to be somebody else."""
    if call.principal.kind == "staff":
        raise Forbidden(
            "not-for-staff", "Only users, or their app's server for them, handle factors."
        )


@router.get("/v1/users/{user}/factors", response_model=FactorsOut)
async def list_factors(call: OwnReads, user: UserPath) -> Reply:
    """All factors of a user, how many recovery codes are left, and a cooling-off that lasts."""
    ref = await call.user(user)
    sealer = call.deps.secrets.sealer
    found = await call.cell(ref.cell).read(lambda tx: manage.listing(tx, sealer, ref.id))
    return Reply(found.wire())


@router.post("/v1/users/{user}/factors", response_model=BegunOut, status_code=201)
async def add_factor(call: OwnUsers, user: UserPath, body: AddFactor) -> Reply:
    """Begin a factor; it counts once it is confirmed, within five minutes.

    The first one of a user who has money or a destination moves no money until `cooling_off_until`.
    """
    not_staff(call)
    ref = await call.user(user)
    begun = await call.write(
        call.cell(ref.cell),
        lambda tx: enrol.begin(
            tx,
            call.deps.secrets.sealer,
            call.deps.settings.step_up,
            party(call),
            ref.id,
            body.kind,
            body.name,
            body.step_up,
        ),
    )
    return Reply(begun.wire(), 201)


@router.post("/v1/users/{user}/factors/{factor}/confirm", response_model=ConfirmedOut)
async def confirm_factor(
    call: OwnUsers, user: UserPath, factor: FactorPath, body: ConfirmFactor
) -> Reply:
    """Confirm a factor by its first use; with the first one come ten recovery codes."""
    not_staff(call)
    ref = await call.user(user)
    number = _factor(call, ref.cell, factor)
    done = await call.write(
        call.cell(ref.cell),
        lambda tx: enrol.confirm(
            tx,
            call.deps.secrets.sealer,
            call.deps.settings.step_up,
            party(call),
            ref.id,
            number,
            call.deps.clock.now(),
            code=body.code,
            passkey=body.passkey,
        ),
    )
    if isinstance(done, Unprocessable):
        raise done
    return Reply(done.wire())


def _factor(call: Call, cell: int, text: str) -> int:
    """The number of a factor; one that there never is when the name is of another cell."""
    found = call.ref("fa", text)
    return found.id if found.cell == cell else -1


@router.put("/v1/users/{user}/factors/{factor}", response_model=FactorOut)
async def rename_factor(
    call: OwnUsers, user: UserPath, factor: FactorPath, body: RenameFactor
) -> Reply:
    """Call a factor otherwise."""
    not_staff(call)
    ref = await call.user(user)
    number = _factor(call, ref.cell, factor)
    sealer = call.deps.secrets.sealer
    shown = await call.write(
        call.cell(ref.cell), lambda tx: manage.rename(tx, sealer, ref.id, number, body.name)
    )
    return Reply(shown.wire())


@router.delete("/v1/users/{user}/factors/{factor}", response_model=FactorOut)
async def remove_factor(
    call: OwnUsers,
    user: UserPath,
    factor: FactorPath,
    step_up: Annotated[
        Text | None, Query(max_length=40, description="A verified step-up for this removal.")
    ] = None,
) -> Reply:
    """Remove a factor; with the last one go the recovery codes."""
    not_staff(call)
    ref = await call.user(user)
    number = _factor(call, ref.cell, factor)
    sealer = call.deps.secrets.sealer
    shown = await call.write(
        call.cell(ref.cell), lambda tx: manage.remove(tx, sealer, ref.id, number, step_up)
    )
    return Reply(shown.wire())


@router.post("/v1/users/{user}/recovery-codes", response_model=CodesOut, status_code=201)
async def new_recovery_codes(call: OwnUsers, user: UserPath, body: NewCodes) -> Reply:
    """Ten recovery codes, shown once; all earlier ones are void."""
    not_staff(call)
    ref = await call.user(user)
    sealer = call.deps.secrets.sealer
    codes = await call.write(
        call.cell(ref.cell), lambda tx: manage.new_codes(tx, sealer, ref.id, body.step_up)
    )
    return Reply({"recovery_codes": codes}, 201)


@router.post("/v1/users/{user}/factors/reset", response_model=ResetOut)
async def reset_factors(call: Operates, user: UserPath, body: Reasoned) -> Reply:
    """Remove all factors of a user who lost them; a cooling-off begins."""
    ref = await call.user(user)
    rules = call.deps.settings.step_up
    until = await call.write(
        call.cell(ref.cell), lambda tx: manage.reset(tx, rules, ref.id, body.reason)
    )
    name = text_id("us", ref.cell, ref.id)
    return Reply({"user": name, "cooling_off_until": rfc3339(until)})
