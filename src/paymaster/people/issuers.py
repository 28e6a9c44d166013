"""Whose word is taken for who an earner is: OpenID issuers, as data of an environment.

An audience of an issuer belongs to one environment of the installation, so that issuer and audience
of a token lead to the environment that it is for, and to no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx

from paymaster.db import audit
from paymaster.db.cells import Environment
from paymaster.db.tx import ControlRead, ControlTx
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import NotFound, Problem, Unprocessable
from paymaster.kernel.ids import parse_text_id, text_id
from paymaster.people.oidc_keys import is_loopback, url_fault
from paymaster.people.oidc_token import ALGORITHMS

MAX_AUDIENCES = 20
MAX_ISSUERS = 50
DIRECTORY = 0
"""Stands in ids for the cell: issuers are of the installation's directory."""


@dataclass(frozen=True, slots=True)
class NewIssuer:
    """An issuer to be trusted. `plain_http` allows an address without TLS, on the test side only.

    The app's own id of a user is `user_prefix` and then what `subject_claim` says.
    """

    url: str
    audiences: Sequence[str]
    algorithms: Sequence[str] = tuple(ALGORITHMS)
    subject_claim: str = "sub"
    user_prefix: str = ""
    plain_http: bool = False


@dataclass(frozen=True, slots=True)
class Issuer:
    """A trusted issuer."""

    id: int
    environment_id: int
    url: str
    audiences: list[str]
    algorithms: list[str]
    subject_claim: str
    user_prefix: str
    enabled: bool
    created_at: datetime

    def wire(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "id": issuer_id(self.id),
            "url": self.url,
            "audiences": self.audiences,
            "algorithms": self.algorithms,
            "subject_claim": self.subject_claim,
            "user_prefix": self.user_prefix,
            "enabled": self.enabled,
            "created_at": rfc3339(self.created_at),
        }


def issuer_id(number: int) -> str:
    """The text id of an issuer."""
    return text_id("is", DIRECTORY, number)


def issuer_number(text: str) -> int:
    """The id of an issuer. Raises NotFound `issuer-unknown`."""
    found = parse_text_id("is", text)
    if found.cell != DIRECTORY:
        raise _unknown()
    return found.id


def _unknown() -> NotFound:
    return NotFound("issuer-unknown", "There is no such issuer.")


async def add(tx: ControlTx, environment: Environment, new: NewIssuer) -> Issuer:
    """Trust an issuer from now on.

    Raises Unprocessable `issuer-invalid`, `issuer-exists` (this environment has it, or one with the
    same prefix of users, or where one prefix begins with the other) or `issuer-audience-taken`.
    """
    _check(environment, new)
    row = Issuer(
        tx.id(),
        environment.id,
        new.url,
        sorted(set(new.audiences)),
        sorted(set(new.algorithms)),
        new.subject_claim,
        new.user_prefix,
        True,
        tx.now,
    )
    if await tx.value(_COUNT, (environment.id,)) >= MAX_ISSUERS:
        raise Unprocessable("issuer-invalid", f"An environment has {MAX_ISSUERS} issuers at most.")
    if await tx.value(_OVERLAPPING, {"environment": environment.id, "prefix": row.user_prefix}):
        raise Unprocessable(
            "issuer-exists",
            "An issuer of the environment has a prefix that is the beginning of this one, or goes"
            " on from it: each could name the other's users.",
        )
    made = await tx.execute(
        """
        INSERT INTO issuer (id, environment_id, url, audiences, algorithms, subject_claim,
            user_prefix, enabled, created_at)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
        ON CONFLICT DO NOTHING
        """,
        (
            row.id,
            row.environment_id,
            row.url,
            row.audiences,
            row.algorithms,
            row.subject_claim,
            row.user_prefix,
            row.enabled,
            row.created_at,
        ),
    )
    if not made:
        raise Unprocessable(
            "issuer-exists",
            "The environment trusts this issuer already, or one whose users have the same prefix.",
        )
    await _take_audiences(tx, row)
    detail = {"audiences": row.audiences, "algorithms": row.algorithms}
    subject = issuer_id(row.id)
    await audit.record(tx, [audit.Act("issuer.add", subject, detail={**detail, "url": row.url})])
    return row


_COUNT = "SELECT count(*) FROM issuer WHERE environment_id = %s AND removed_at IS NULL"
_OVERLAPPING = """
    SELECT count(*) FROM issuer WHERE environment_id = %(environment)s AND removed_at IS NULL
        AND user_prefix <> %(prefix)s::text AND user_prefix <> '' AND %(prefix)s <> ''
        AND (starts_with(user_prefix, %(prefix)s) OR starts_with(%(prefix)s, user_prefix))
"""


async def _take_audiences(tx: ControlTx, row: Issuer) -> None:
    taken = await tx.execute(
        """
        INSERT INTO issuer_audience (url, audience, issuer_id)
        SELECT %s, a, %s FROM unnest(%s::text[]) AS u (a)
        ON CONFLICT (url, audience) DO NOTHING
        """,
        (row.url, row.id, row.audiences),
    )
    if taken != len(row.audiences):
        raise Unprocessable(
            "issuer-audience-taken",
            "Tokens of this issuer for one of these audiences belong to another environment.",
        )


def _check(environment: Environment, new: NewIssuer) -> None:
    problems: list[Problem] = []
    plain = _is_local(new.url) or (new.plain_http and environment.mode == "test")
    fault = url_fault(new.url, plain=plain)
    if fault is not None:
        problems.append(Problem("/url", fault))
    if not 1 <= len(new.audiences) <= MAX_AUDIENCES or not all(map(_usable, new.audiences)):
        problems.append(Problem("/audiences", f"Name 1 to {MAX_AUDIENCES} audiences."))
    if not new.algorithms or not set(new.algorithms) <= ALGORITHMS.keys():
        problems.append(Problem("/algorithms", f"Algorithms are: {', '.join(ALGORITHMS)}."))
    if not _usable(new.subject_claim):
        problems.append(Problem("/subject_claim", "Name a claim, such as sub."))
    if new.user_prefix and not (_usable(new.user_prefix) and len(new.user_prefix) <= 40):
        problems.append(Problem("/user_prefix", "Use at most 40 printable characters."))
    if problems:
        raise Unprocessable("issuer-invalid", "The issuer has faults.", problems=problems)


def _is_local(url: str) -> bool:
    try:
        return is_loopback(httpx.URL(url).host)
    except (httpx.InvalidURL, ValueError):
        return False


def _usable(text: str) -> bool:
    return 1 <= len(text) <= 200 and text.isprintable()


async def listing(tx: ControlRead, environment_id: int) -> list[Issuer]:
    """All trusted issuers of an environment, oldest first."""
    return await tx.fetch(
        "SELECT id, environment_id, url, audiences, algorithms, subject_claim, user_prefix,"
        " enabled, created_at FROM issuer WHERE environment_id = %s AND removed_at IS NULL"
        " ORDER BY id",
        (environment_id,),
        Issuer,
    )


async def trusted(tx: ControlRead, url: str, audiences: Sequence[str]) -> Issuer | None:
    """The issuer of a token; None when nobody trusts it, or when it is for two environments."""
    rows = await tx.fetch(
        """
        SELECT i.id, i.environment_id, i.url, i.audiences, i.algorithms, i.subject_claim,
            i.user_prefix, i.enabled, i.created_at
        FROM issuer_audience a JOIN issuer i ON i.id = a.issuer_id
        WHERE a.url = %s AND a.audience = ANY(%s)
        """,
        (url, list(audiences)),
        Issuer,
    )
    found = {row.id: row for row in rows}
    one = next(iter(found.values())) if len(found) == 1 else None
    return one if one is not None and one.enabled else None


async def enable(
    tx: ControlTx,
    environment_id: int,
    number: int,
    *,
    enabled: bool,
    reason: str,
) -> Issuer:
    """Take tokens of an issuer, or refuse them from now on. Raises NotFound `issuer-unknown`."""
    row = await _lock(tx, environment_id, number)
    if row.enabled != enabled:
        await tx.execute("UPDATE issuer SET enabled = %s WHERE id = %s", (enabled, number))
        subject = issuer_id(number)
        act = "issuer.enable" if enabled else "issuer.disable"
        await audit.record(tx, [audit.Act(act, subject, reason)])
        row = await _lock(tx, environment_id, number)
    return row


async def remove(tx: ControlTx, environment_id: int, number: int, reason: str) -> Issuer:
    """Trust an issuer no longer; its audiences are free. Raises NotFound `issuer-unknown`."""
    row = await _lock(tx, environment_id, number)
    await tx.execute("DELETE FROM issuer_audience WHERE issuer_id = %s", (number,))
    await tx.execute(
        "UPDATE issuer SET enabled = false, removed_at = %s WHERE id = %s", (tx.now, number)
    )
    act = audit.Act("issuer.remove", issuer_id(number), reason, {"url": row.url})
    await audit.record(tx, [act])
    return row


async def _lock(tx: ControlTx, environment_id: int, number: int) -> Issuer:
    row = await tx.maybe(
        "SELECT id, environment_id, url, audiences, algorithms, subject_claim, user_prefix,"
        " enabled, created_at FROM issuer"
        " WHERE environment_id = %s AND id = %s AND removed_at IS NULL FOR UPDATE",
        (environment_id, number),
        Issuer,
    )
    if row is None:
        raise _unknown()
    return row
