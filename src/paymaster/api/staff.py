"""Persons of the staff: who has which role here, who may log in where, break-glass."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path
from pydantic import Field, StringConstraints

from paymaster.api.context import Call, Staff, scope
from paymaster.api.door import Door
from paymaster.api.models import Body, Reason, Reasoned, Reply, Text
from paymaster.api.shapes_staff import MemberOut, MembersOut, ProvidersOut
from paymaster.db.tx import ControlTx
from paymaster.people import break_glass, staff, staff_providers
from paymaster.people.staff import Member
from paymaster.people.staff_roles import SCOPES_OF, Role

router = APIRouter(route_class=Door, tags=["staff"])
LIST = "/v1/staff"
Audits = Annotated[Call, Depends(scope("audit"))]
PersonPath = Annotated[str, Path(max_length=40, description="`pe_...`")]


class AddPerson(Body):
    """Whom to invite: the first login with this verified address is the person's."""

    email: Annotated[Text, StringConstraints(min_length=3, max_length=254)]
    name: Annotated[Text, StringConstraints(min_length=1, max_length=100)]
    role: Annotated[Role, Field(strict=False)]
    reason: Reason


class SetRole(Body):
    """The role takes the place of the one before."""

    role: Annotated[Role, Field(strict=False)]
    reason: Reason


class BreakGlass(Body):
    """Lend a role for a while; everybody is told."""

    reason: Reason
    minutes: Annotated[int, Field(ge=1, le=24 * 60)]
    role: Annotated[Role, Field(strict=False)] = Role.ADMIN


@router.get(LIST, response_model=MembersOut)
async def list_staff(call: Audits) -> Reply:
    """Everybody with a role here, and what is lent to them."""
    found = await call.look(lambda tx: staff.listing(tx, call.environment.id))
    return Reply({"data": [one.wire() for one in found]})


@router.post(LIST, status_code=201, response_model=MemberOut)
async def add_person(call: Staff, body: AddPerson) -> Reply:
    """Invite a person, or give one of the tenant a role here as well.

    Nobody gives a role that can do more than they can.
    """
    _may_give(call, body.role)
    made = await call.control(
        lambda tx: staff.add(tx, call.environment, body.email, body.name, body.role, body.reason)
    )
    return Reply(made.wire(), 201)


def _may_give(call: Call, role: Role) -> None:
    """Raises Forbidden `scope-missing`: else a key for this alone would make itself an admin."""
    for scope_ in sorted(SCOPES_OF[role]):
        call.principal.require(scope_)


@router.get("/v1/staff/{person}", response_model=MemberOut)
async def get_person(call: Audits, person: PersonPath) -> Reply:
    """A person with a role here."""
    number = staff.person_number(person)
    found = await call.look(lambda tx: staff.get(tx, call.environment, number))
    return Reply(found.wire())


@router.post("/v1/staff/{person}/role", response_model=MemberOut)
async def set_role(call: Staff, person: PersonPath, body: SetRole) -> Reply:
    """Change what a person may do here; the sessions here end."""
    _may_give(call, body.role)
    number = staff.person_number(person)
    found = await call.control(
        lambda tx: staff.set_role(tx, call.environment, number, body.role, body.reason)
    )
    return Reply(found.wire())


@router.post("/v1/staff/{person}/remove", status_code=204)
async def remove_person(call: Staff, person: PersonPath, body: Reasoned) -> None:
    """Take the role here away; the sessions here end."""
    number = staff.person_number(person)
    await call.control(lambda tx: staff.remove_role(tx, call.environment, number, body.reason))


@router.post("/v1/staff/{person}/disable", response_model=MemberOut)
async def disable_person(call: Staff, person: PersonPath, body: Reasoned) -> Reply:
    """End a person's access to every environment of the tenant, at once."""
    number, by = staff.person_number(person), call.principal.person_id

    async def work(tx: ControlTx) -> Member:
        await staff.disable(tx, call.environment, number, body.reason, by=by)
        return await staff.get(tx, call.environment, number)

    return Reply((await call.control(work)).wire())


@router.post("/v1/staff/{person}/enable", response_model=MemberOut)
async def enable_person(call: Staff, person: PersonPath, body: Reasoned) -> Reply:
    """Let a disabled person log in again, with the roles as they were."""
    number, by = staff.person_number(person), call.principal.person_id

    async def work(tx: ControlTx) -> Member:
        await staff.enable(tx, call.environment, number, body.reason, by=by)
        return await staff.get(tx, call.environment, number)

    return Reply((await call.control(work)).wire())


@router.post("/v1/staff/{person}/break-glass", status_code=201, response_model=MemberOut)
async def lend_role(call: Staff, person: PersonPath, body: BreakGlass) -> Reply:
    """Lend a person a role for a while. It ends by itself, and is told to everybody."""
    number = staff.person_number(person)
    _may_give(call, body.role)
    most = call.deps.settings.staff.break_glass_minutes

    async def work(tx: ControlTx) -> Member:
        await staff.get(tx, call.environment, number)
        await break_glass.start(
            tx, call.environment, number, body.reason, body.minutes, role=body.role, most=most
        )
        return await staff.get(tx, call.environment, number)

    return Reply((await call.control(work)).wire(), 201)


@router.get("/v1/identity-providers", response_model=ProvidersOut)
async def list_providers(call: Audits) -> Reply:
    """Where persons of this environment log in. `paymaster staff provider` changes it."""
    found = await call.look(lambda tx: staff_providers.listing(tx, call.environment.tenant))
    return Reply({"data": [one.wire() for one in found]})
