"""Earners who come with a token of an issuer: verified, and made users at first sight."""

from __future__ import annotations

from dataclasses import dataclass

from paymaster.db.cells import Databases
from paymaster.db.tx import Actor, ControlRead
from paymaster.kernel.errors import Forbidden
from paymaster.kernel.ids import Ref, text_id
from paymaster.people import issuers, users
from paymaster.people.issuers import Issuer, issuer_id
from paymaster.people.machine import Status
from paymaster.people.oidc_keys import IssuerKeys
from paymaster.people.oidc_token import (
    TYPES,
    Token,
    check_signature,
    check_times,
    check_type,
    invalid,
)
from paymaster.people.principal import Principal
from paymaster.secrets.sealing import Sealer

MAX_ID_CHARACTERS = 128


@dataclass(frozen=True, slots=True)
class _Found:
    """What one look at the directory says of a token nobody has verified yet."""

    issuer: Issuer
    external_id: str
    ref: Ref | None


async def log_in(
    dbs: Databases,
    sealer: Sealer,
    keys: IssuerKeys,
    token: Token,
    origin: str | None,
    trace_id: str,
) -> Principal:
    """The earner of a token of an issuer that an environment trusts.

    The user is made when there is none of this id yet, as `PUT /v1/users/{user}` does.

    Raises Unauthenticated `token-invalid` or `token-expired`, Forbidden `user-suspended` or
    `user-closed`, Busy `issuer-unavailable`.
    """
    check_type(token, TYPES)
    found = await dbs.control.read(lambda tx: _look(tx, token))
    issuer = found.issuer
    if token.algorithm not in issuer.algorithms:
        raise invalid("The token is signed by an algorithm that is not accepted.")
    key = await keys.key(issuer.url, token.algorithm, token.kid)
    check_signature(token, key, token.algorithm)
    check_times(token, dbs.clock.now())
    ref = found.ref
    if ref is not None and await is_there(dbs, ref):
        return of_user(issuer.environment_id, ref)
    made = await users.upsert(
        dbs,
        sealer,
        issuer.environment_id,
        Actor(f"issuer:{issuer_id(issuer.id)}", origin, issuer.environment_id),
        trace_id,
        found.external_id,
    )
    if made.view is None:
        raise invalid("No user can be made of this token.")
    refuse_unless_active(Status(made.view.status))
    return of_user(issuer.environment_id, made.view.ref)


async def _look(tx: ControlRead, token: Token) -> _Found:
    issuer = await issuers.trusted(tx, token.issuer, token.audiences)
    if issuer is None:
        raise invalid("No environment takes tokens of this issuer for this audience.")
    external_id = _external_id(issuer, token.text_claim(issuer.subject_claim))
    known = await users.refs(tx, issuer.environment_id, [external_id])
    return _Found(issuer, external_id, known.get(external_id))


def _external_id(issuer: Issuer, subject: str) -> str:
    """The app's own id of the user.

    One that looks like an id of ours is refused: a person who may choose a name would be found
    under the id of another.
    """
    made = issuer.user_prefix + subject
    if len(made) > MAX_ID_CHARACTERS or not made.isprintable() or made.startswith("us_"):
        raise invalid(f"The claim {issuer.subject_claim!r} cannot be the id of a user.")
    return made


async def is_there(dbs: Databases, ref: Ref) -> bool:
    """Whether the cell has the user, too. Raises Forbidden `user-suspended` or `user-closed`."""
    found = await dbs.cell(ref.cell).read(lambda tx: users.statuses(tx, [ref.id]))
    if ref.id not in found:
        return False
    refuse_unless_active(found[ref.id])
    return True


def refuse_unless_active(status: Status) -> None:
    """Raises Forbidden `user-suspended` or `user-closed`."""
    if status is not Status.ACTIVE:
        raise Forbidden(f"user-{status.value}", f"The user is {status.value}.")


def of_user(environment_id: int, ref: Ref, within: frozenset[str] | None = None) -> Principal:
    """The earner, who has no scopes: routes say themselves what is his.

    `within` are those of the key that had the token made, if one did.
    """
    actor = f"user:{text_id('us', ref.cell, ref.id)}"
    return Principal("user", environment_id, -ref.id, actor, frozenset(), user=ref, within=within)
