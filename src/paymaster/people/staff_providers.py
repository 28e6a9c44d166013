"""Where persons of the staff log in: OpenID providers of a tenant, or of the whole installation."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

import httpx

from paymaster.db import audit
from paymaster.db.tx import ControlRead, ControlTx, json
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import NotFound, Problem, Refusal, Unprocessable
from paymaster.kernel.ids import parse_text_id, text_id
from paymaster.people.oidc_keys import is_loopback, url_fault
from paymaster.people.staff_roles import Role

_SECRET = re.compile(r"[a-z0-9]+(?:[-_][a-z0-9]+)*\Z", re.ASCII)
_DOMAIN = re.compile(r"[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})+\Z", re.ASCII)
_RANK = (Role.ADMIN, Role.FINANCE, Role.RISK, Role.SUPPORT, Role.AUDITOR)
"""Whose groups are several gets the first of their roles."""


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider. `secret_name` None: a public client, which PKCE alone protects.

    With `email_domains` only addresses there may log in. With `groups_claim` the role is what
    `group_roles` says about the groups in that claim of the ID token, at every login anew.
    """

    id: int
    tenant: str | None
    issuer: str
    client_id: str
    secret_name: str | None
    email_domains: list[str]
    groups_claim: str | None
    group_roles: dict[str, str]
    state: str
    version: int
    created_at: datetime

    @property
    def text(self) -> str:
        """The text id."""
        return text_id("ip", 0, self.id)

    def role_of(self, claims: Mapping[str, Any]) -> Role | None:
        """The role that the groups of a person give; None when they give none."""
        groups: object = claims.get(self.groups_claim or "")
        named = cast("list[object]", groups) if isinstance(groups, list) else [groups]
        given = {role for group, role in self.group_roles.items() if group in named}
        return next((role for role in _RANK if role.value in given), None)

    def takes(self, email: str) -> bool:
        """Whether persons of this address may log in."""
        return not self.email_domains or email.rpartition("@")[2] in self.email_domains

    def wire(self) -> dict[str, Any]:
        """For JSON; the secret goes by its name."""
        return {
            "id": self.text,
            "tenant": self.tenant,
            "issuer": self.issuer,
            "client_id": self.client_id,
            "secret_name": self.secret_name,
            "email_domains": self.email_domains,
            "groups_claim": self.groups_claim,
            "group_roles": self.group_roles,
            "state": self.state,
            "created_at": rfc3339(self.created_at),
        }


def provider_number(text: str) -> int:
    """The id of a provider. Raises NotFound `not-found`."""
    found = parse_text_id("ip", text)
    if found.cell != 0:
        raise NotFound("not-found", "There is nothing of this id.")
    return found.id


def _faults(
    issuer: str,
    client_id: str,
    secret_name: str | None,
    email_domains: Sequence[str],
    groups_claim: str | None,
    group_roles: Mapping[str, str],
) -> list[Problem]:
    problems: list[Problem] = []
    fault = url_fault(issuer, plain=True)
    if fault is None and issuer.startswith("http:") and not is_loopback(httpx.URL(issuer).host):
        fault = "Only a provider on this machine may go without https."
    if fault is not None:
        problems.append(Problem("/issuer", fault))
    if not 1 <= len(client_id) <= 255 or not client_id.isprintable():
        problems.append(Problem("/client_id", "Write 1 to 255 printable characters."))
    if secret_name is not None and not _SECRET.match(secret_name):
        problems.append(Problem("/secret_name", "Name a secret of the store, such as staff-login."))
    if not all(_DOMAIN.match(domain) for domain in email_domains):
        problems.append(Problem("/email_domains", "Write domains such as example.com."))
    if group_roles and not groups_claim:
        problems.append(Problem("/groups_claim", "Name the claim that lists the groups."))
    if groups_claim and not group_roles:
        problems.append(Problem("/group_roles", "Say which role each group gives."))
    if not all(role in set(Role) for role in group_roles.values()):
        problems.append(Problem("/group_roles", f"Roles are: {', '.join(Role)}."))
    return problems


async def put(
    tx: ControlTx,
    tenant: str | None,
    issuer: str,
    client_id: str,
    *,
    secret_name: str | None = None,
    email_domains: Sequence[str] = (),
    groups_claim: str | None = None,
    group_roles: Mapping[str, str] | None = None,
) -> Provider:
    """Add a provider, or change that of this tenant, issuer and client.

    Raises Unprocessable `identity-provider-invalid`.
    """
    domains = [domain.lower() for domain in email_domains]
    roles = dict(group_roles or {})
    problems = _faults(issuer, client_id, secret_name, domains, groups_claim, roles)
    if problems:
        raise Unprocessable(
            "identity-provider-invalid", "Nobody can log in there.", problems=problems
        )
    await tx.execute(
        """
        INSERT INTO identity_provider (id, tenant, issuer, client_id, secret_name, email_domains,
            groups_claim, group_roles, state, version, created_at)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, 'active', 1, %s)
        ON CONFLICT (coalesce(tenant, ''), issuer, client_id) DO UPDATE SET
            secret_name = excluded.secret_name, email_domains = excluded.email_domains,
            groups_claim = excluded.groups_claim, group_roles = excluded.group_roles,
            state = 'active', version = identity_provider.version + 1
        """,
        (
            tx.id(),
            tenant,
            issuer,
            client_id,
            secret_name,
            domains,
            groups_claim,
            json(roles),
            tx.now,
        ),
    )
    found = next(
        one
        for one in await listing(tx, tenant)
        if (one.tenant, one.issuer, one.client_id) == (tenant, issuer, client_id)
    )
    detail = {"issuer": issuer, "client_id": client_id, "domains": domains, "roles": roles}
    await audit.record(tx, [audit.Act("identity_provider.put", found.text, detail=detail)])
    return found


async def disable(tx: ControlTx, provider_id: int, reason: str) -> None:
    """Nobody logs in there any more; sessions go on. Raises NotFound `not-found`."""
    count = await tx.execute(
        "UPDATE identity_provider SET state = 'disabled', version = version + 1 WHERE id = %s",
        (provider_id,),
    )
    if not count:
        raise NotFound("not-found", "There is no provider of this id.")
    subject = text_id("ip", 0, provider_id)
    await audit.record(tx, [audit.Act("identity_provider.disable", subject, reason)])


async def listing(tx: ControlRead, tenant: str | None) -> list[Provider]:
    """The providers by which a tenant's persons may log in: its own first."""
    return await tx.fetch(
        """
        SELECT id, tenant, issuer, client_id, secret_name, email_domains, groups_claim,
            group_roles, state, version, created_at
        FROM identity_provider WHERE tenant IS NULL OR tenant = %s ORDER BY tenant IS NULL, id
        """,
        (tenant,),
        Provider,
    )


async def choose(tx: ControlRead, tenant: str, named: int | None) -> Provider:
    """Where to log in: as named, else the tenant's only one, else the installation's only one.

    Raises NotFound `login-not-set-up`, Refusal `login-provider-ambiguous`.
    """
    usable = [one for one in await listing(tx, tenant) if one.state == "active"]
    if named is not None:
        usable = [one for one in usable if one.id == named]
    own = [one for one in usable if one.tenant is not None] or usable
    if not own:
        raise NotFound(
            "login-not-set-up", "No identity provider is set up: `paymaster staff provider add`."
        )
    if len(own) > 1:
        raise Refusal(
            "login-provider-ambiguous",
            "Name one: " + ", ".join(f"provider={one.text}" for one in own) + ".",
        )
    return own[0]
