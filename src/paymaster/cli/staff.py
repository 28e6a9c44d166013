"""`paymaster staff`: persons, their roles and logins, four eyes, break-glass."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Annotated, Any, TypeVar

import typer

from paymaster.cli.opening import environment_of, existing
from paymaster.compose import Deps, build
from paymaster.db.cells import Environment
from paymaster.db.tx import Actor, ControlTx
from paymaster.kernel.errors import Refusal
from paymaster.kernel.ids import new_trace_id
from paymaster.kernel.money import Money
from paymaster.observe import configure_logs
from paymaster.people import break_glass, four_eyes, staff, staff_providers
from paymaster.people.principal import Principal
from paymaster.people.staff_roles import Role

T = TypeVar("T")
app = typer.Typer(help="Persons who work here, and what they may do.", no_args_is_help=True)
provider = typer.Typer(help="Where persons log in.", no_args_is_help=True)
limits = typer.Typer(help="Above how much an act needs a second person.", no_args_is_help=True)
app.add_typer(provider, name="provider")
app.add_typer(limits, name="limits")

Tenant = Annotated[str, typer.Option(help="Name of the app or legal entity.")]
Mode = Annotated[str, typer.Option(help="live or test")]
Reason = Annotated[str, typer.Option(help="Kept in the audit.")]
Person = Annotated[str, typer.Argument(help="E-mail address, or id (pe_...).")]
_ACTOR = "cli"

Work = Callable[[ControlTx, Environment, Deps], Awaitable[T]]


def _run(tenant: str, mode: str, work: Work[T]) -> T:
    settings = existing()
    configure_logs(settings.log.level, settings.log.format)

    async def inside() -> T:
        async with build(settings) as deps:
            environment = environment_of(deps, tenant, mode)
            return await deps.dbs.control.run(
                Actor(_ACTOR, None, environment.id),
                new_trace_id(),
                lambda tx: work(tx, environment, deps),
            )

    return asyncio.run(inside())


def _show(document: object) -> None:
    typer.echo(json.dumps(document))


@app.command("add")
def add(
    email: Annotated[str, typer.Argument(help="The address of the account to log in with.")],
    name: Annotated[str, typer.Argument(help="As others see it.")],
    role: Annotated[Role, typer.Option(help="What the person may do in this environment.")],
    reason: Reason = "invited by the operator of the installation",
    tenant: Tenant = "default",
    mode: Mode = "test",
) -> None:
    """Invite a person, or give one of the tenant a role in this environment as well."""
    made = _run(tenant, mode, lambda tx, e, _: staff.add(tx, e, email, name, role, reason))
    _show(made.wire())


@app.command("list")
def list_persons(tenant: Tenant = "default", mode: Mode = "test") -> None:
    """Everybody with a role in an environment, one JSON object a line."""
    for member in _run(tenant, mode, lambda tx, e, _: staff.listing(tx, e.id)):
        _show(member.wire())


@app.command("roles")
def set_role(
    person: Person,
    role: Annotated[str, typer.Argument(help=f"{', '.join(Role)}, or none.")],
    reason: Reason,
    tenant: Tenant = "default",
    mode: Mode = "test",
) -> None:
    """Change a person's role in an environment; the sessions there end."""
    if role not in {*Role, "none"}:
        raise typer.BadParameter(f"It is {', '.join(Role)}, or none.", param_hint="ROLE")

    async def work(tx: ControlTx, environment: Environment, _: Deps) -> None:
        number = await staff.find(tx, environment, person)
        if role == "none":
            await staff.remove_role(tx, environment, number, reason)
        else:
            await staff.set_role(tx, environment, number, Role(role), reason)

    _run(tenant, mode, work)
    typer.echo(f"{person}: {role} in {tenant}/{mode}")


@app.command("disable")
def disable(
    person: Person, reason: Reason, tenant: Tenant = "default", mode: Mode = "test"
) -> None:
    """End a person's access to all environments of the tenant, at once."""

    async def work(tx: ControlTx, environment: Environment, _: Deps) -> None:
        number = await staff.find(tx, environment, person)
        await staff.disable(tx, environment, number, reason, everywhere=True)

    _run(tenant, mode, work)
    typer.echo(f"{person} is disabled")


@app.command("enable")
def enable(person: Person, reason: Reason, tenant: Tenant = "default", mode: Mode = "test") -> None:
    """Let a disabled person log in again, with the roles as they were."""

    async def work(tx: ControlTx, environment: Environment, _: Deps) -> None:
        number = await staff.find(tx, environment, person)
        await staff.enable(tx, environment, number, reason, everywhere=True)

    _run(tenant, mode, work)
    typer.echo(f"{person} is enabled")


@app.command("unbind")
def unbind(person: Person, reason: Reason, tenant: Tenant = "default", mode: Mode = "test") -> None:
    """Forget by which accounts a person logs in: the next login by the address binds anew."""

    async def work(tx: ControlTx, environment: Environment, _: Deps) -> None:
        number = await staff.find(tx, environment, person)
        await staff.forget_logins(tx, environment, number, reason)

    _run(tenant, mode, work)
    typer.echo(f"{person} is unbound")


@app.command("break-glass")
def lend(
    person: Annotated[str, typer.Option(help="E-mail address, or id (pe_...).")],
    reason: Annotated[str, typer.Option(help="Everybody is told.")],
    minutes: Annotated[int, typer.Option(min=1, help="How long.")],
    role: Annotated[Role, typer.Option(help="What to lend.")] = Role.ADMIN,
    tenant: Tenant = "default",
    mode: Mode = "test",
) -> None:
    """Lend a person a role for a while. It ends by itself, and is told to everybody."""

    async def work(tx: ControlTx, environment: Environment, deps: Deps) -> dict[str, Any]:
        number = await staff.find(tx, environment, person)
        most = deps.settings.staff.break_glass_minutes
        lent = await break_glass.start(
            tx, environment, number, reason, minutes, role=role, most=most
        )
        return lent.wire()

    _show(_run(tenant, mode, work))


@provider.command("add")
def add_provider(
    issuer: Annotated[str, typer.Argument(help="Address of the OpenID provider.")],
    client_id: Annotated[str, typer.Argument(help="What it calls Paymaster.")],
    secret: Annotated[
        str | None, typer.Option(help="Name of the client's secret in the secret store.")
    ] = None,
    domain: Annotated[
        list[str] | None, typer.Option(help="Only addresses there; repeat for more.")
    ] = None,
    groups_claim: Annotated[
        str | None, typer.Option(help="Claim of the ID token that lists groups.")
    ] = None,
    group: Annotated[
        list[str] | None, typer.Option(help="GROUP=ROLE; repeat for more. Needs --groups-claim.")
    ] = None,
    everywhere: Annotated[
        bool, typer.Option("--everywhere", help="For all tenants of the installation.")
    ] = False,
    tenant: Tenant = "default",
    mode: Mode = "test",
) -> None:
    """Let a tenant's persons log in there; again changes it."""
    pairs = [one.rpartition("=") for one in group or []]
    if not all(name and role for name, _, role in pairs):
        raise Refusal("staff-options", "Write --group as GROUP=ROLE.")
    roles = {name: role for name, _, role in pairs}
    made = _run(
        tenant,
        mode,
        lambda tx, e, _: staff_providers.put(
            tx,
            None if everywhere else e.tenant,
            issuer,
            client_id,
            secret_name=secret,
            email_domains=domain or [],
            groups_claim=groups_claim,
            group_roles=roles,
        ),
    )
    _show(made.wire())


@provider.command("list")
def list_providers(tenant: Tenant = "default", mode: Mode = "test") -> None:
    """Where a tenant's persons log in, one JSON object a line."""
    for one in _run(tenant, mode, lambda tx, e, _: staff_providers.listing(tx, e.tenant)):
        _show(one.wire())


@provider.command("disable")
def disable_provider(
    provider_id: Annotated[str, typer.Argument(help="ip_...")],
    reason: Reason,
    tenant: Tenant = "default",
    mode: Mode = "test",
) -> None:
    """Nobody logs in there any more; sessions go on until they end."""
    number = staff_providers.provider_number(provider_id)
    _run(tenant, mode, lambda tx, _, __: staff_providers.disable(tx, number, reason))
    typer.echo(f"{provider_id} is disabled")


@limits.command("list")
def list_limits(tenant: Tenant = "default", mode: Mode = "test") -> None:
    """The limits in force, one JSON object a line."""
    for row in _run(tenant, mode, lambda tx, e, _: four_eyes.limits(tx, e.id)).rows:
        _show({"act": row.act, "limit": row.money.text(), "currency": row.currency})


Act = Annotated[str, typer.Argument(help=", ".join(four_eyes.ACTS))]
Currency = Annotated[str, typer.Argument(help="ISO 4217 code.")]
Proposer = Annotated[
    str | None,
    typer.Option("--person", help="Who proposes it; needed once there is any limit."),
]


@limits.command("set")
def set_limit(
    act: Act,
    currency: Currency,
    amount: Annotated[str, typer.Argument(help="Decimal, such as 1000.00.")],
    reason: Reason,
    person: Proposer = None,
    tenant: Tenant = "default",
    mode: Mode = "test",
) -> None:
    """Set a limit. From the first one on it is proposed, and another person approves it."""
    minor = Money.parse(amount, currency).minor
    _change(tenant, mode, act, currency, minor, reason, person)


@limits.command("remove")
def remove_limit(
    act: Act,
    currency: Currency,
    reason: Reason,
    person: Proposer = None,
    tenant: Tenant = "default",
    mode: Mode = "test",
) -> None:
    """Propose to remove a limit."""
    _change(tenant, mode, act, currency, None, reason, person)


def _change(
    tenant: str,
    mode: str,
    act: str,
    currency: str,
    minor: int | None,
    reason: str,
    person: str | None,
) -> None:
    async def work(tx: ControlTx, environment: Environment, deps: Deps) -> str:
        number = None if person is None else await staff.find(tx, environment, person)
        caller = Principal("server", environment.id, 0, _ACTOR, frozenset(), number)
        lasts = timedelta(hours=deps.settings.staff.approval_hours)
        waiting = await four_eyes.change_limit(tx, caller, act, currency, minor, reason, lasts)
        if waiting is None:
            return "set"
        return f"waits for another person: {waiting.wire()['approval']}"

    typer.echo(_run(tenant, mode, work))
