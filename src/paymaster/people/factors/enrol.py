"""A factor is begun, and confirmed by its first use.

The first factor of a user needs no proof, for there is none to give; a thief who has nothing but
the user's session could add it as well. So a first factor moves no money until a cooling-off is
over, in which the user is told of it and staff can reset it - unless the user has nothing yet that
could be taken. Every further factor needs a proof by one that is there.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from paymaster.db import audit, outbox
from paymaster.db.tx import CellTx
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import NotFound, Unprocessable
from paymaster.kernel.ids import text_id
from paymaster.ledger.balance import balances
from paymaster.people import store as people_store
from paymaster.people import users
from paymaster.people.factors import passkeys, proof, recovery, store, totp
from paymaster.people.factors.binding import ADD, Purpose
from paymaster.people.factors.contents import (
    ACTIVE,
    PASSKEY,
    TOTP,
    Contents,
    Factor,
    FactorView,
    load,
    seal,
    view,
)
from paymaster.people.factors.passkeys import RelyingParty
from paymaster.secrets.sealing import DataKey, Sealer
from paymaster.settings import StepUp

PENDING_FOR = timedelta(minutes=5)
"""How long a factor may be confirmed; a passkey's challenge lives as long."""

MAX_FACTORS, MAX_APPS = 10, 2
"""Factors of a user. Each further app is a further code that a guess may hit."""

_CHALLENGE_BYTES = 32


@dataclass(frozen=True, slots=True)
class Begun:
    """A pending factor, and what its app or browser needs, shown once."""

    view: FactorView
    secret: str | None = field(default=None, repr=False)
    address: str | None = field(default=None, repr=False)
    options: Mapping[str, Any] | None = None

    def wire(self) -> dict[str, Any]:
        """For JSON."""
        app = None if self.secret is None else {"secret": self.secret, "address": self.address}
        return {**self.view.wire(), "totp": app, "passkey": self.options}


@dataclass(frozen=True, slots=True)
class Confirmed:
    """An active factor; with the first one the recovery codes, shown once."""

    view: FactorView
    codes: Sequence[str] | None = field(repr=False)
    cooling_until: datetime | None

    def wire(self) -> dict[str, Any]:
        """For JSON."""
        until = None if self.cooling_until is None else rfc3339(self.cooling_until)
        return {**self.view.wire(), "recovery_codes": self.codes, "cooling_off_until": until}


async def begin(
    tx: CellTx,
    sealer: Sealer,
    rules: StepUp,
    party: RelyingParty | None,
    user_id: int,
    kind: Literal["totp", "passkey"],
    name: str,
    step_up: str | None = None,
) -> Begun:
    """Make a pending factor.

    Raises Unprocessable `factors-too-many`, `passkeys-not-offered`, what `proof.require` raises
    when the user has a factor, and what `users.require_active` and `require_key` raise.
    """
    await users.require_active(tx, user_id)
    await store.lock_guard(tx, user_id)
    key = await users.require_key(tx, sealer, user_id)
    known = await load(tx, sealer, key, user_id)
    apps = sum(1 for one in known if one.row.kind == TOTP)
    if len(known) >= MAX_FACTORS or (kind == TOTP and apps >= MAX_APPS):
        raise Unprocessable(
            "factors-too-many", f"At most {MAX_FACTORS} factors, {MAX_APPS} of them apps."
        )
    has_one = any(one.active for one in known)
    act = proof.Act(Purpose.FACTOR, [ADD])
    number = await proof.require(tx, user_id, act, proof.Shown(has_one, step_up))
    contents = Contents(name, totp.new_seed() if kind == TOTP else None)
    factor = _pending(tx, sealer, key, user_id, kind, contents, authorised=number is not None)
    begun = await _begun(tx, rules, party, factor, known)
    await store.insert_factor(tx, factor.row)
    await proof.use(tx, number, begun.view.id)
    detail = {"user": text_id("us", tx.cell, user_id), "kind": kind}
    await audit.record(tx, [audit.Act("factor.begin", begun.view.id, detail=detail)])
    return begun


def _pending(
    tx: CellTx,
    sealer: Sealer,
    key: DataKey,
    user_id: int,
    kind: str,
    contents: Contents,
    *,
    authorised: bool,
) -> Factor:
    factor_id = tx.id()
    row = store.FactorRow(
        id=factor_id,
        user_id=user_id,
        kind=kind,
        state="pending",
        sealed=seal(sealer, key, factor_id, contents),
        counter=0,
        challenge=secrets.token_bytes(_CHALLENGE_BYTES) if kind == PASSKEY else None,
        authorised=authorised,
        expires_at=tx.now + PENDING_FOR,
        created_at=tx.now,
        confirmed_at=None,
        last_used_at=None,
    )
    return Factor(row, contents)


async def _begun(
    tx: CellTx,
    rules: StepUp,
    party: RelyingParty | None,
    factor: Factor,
    known: Sequence[Factor],
) -> Begun:
    [user] = await people_store.users(tx, [factor.row.user_id])
    seed, challenge = factor.contents.seed, factor.row.challenge
    shown = view(tx, factor)
    if seed is not None:
        return Begun(shown, totp.text(seed), totp.address(seed, user.external_id, rules.name))
    kept = [one.contents.passkey for one in known if one.contents.passkey is not None]
    options = passkeys.creation_options(
        require_party(party),
        text_id("us", tx.cell, user.id),
        user.external_id,
        challenge or b"",
        kept,
    )
    return Begun(shown, options=options)


def require_party(party: RelyingParty | None) -> RelyingParty:
    """The relying party. Raises Unprocessable `passkeys-not-offered`."""
    if party is None:
        raise Unprocessable(
            "passkeys-not-offered",
            "This environment has no relying party: see the settings `step_up.relying_parties`.",
        )
    return party


async def confirm(
    tx: CellTx,
    sealer: Sealer,
    rules: StepUp,
    party: RelyingParty | None,
    user_id: int,
    factor_id: int,
    machine_now: datetime,
    *,
    code: str | None = None,
    passkey: Mapping[str, Any] | None = None,
) -> Confirmed | Unprocessable:
    """Make a pending factor an active one, by its first code or by the passkey that was made.

    Phones know nothing of a test environment's clock, so codes go by the machine's time.
    An Unprocessable that is returned, not raised, belongs to a change that must be committed: the
    challenge was answered wrongly and is spent. Raises NotFound `factor-unknown`, Unprocessable
    `factor-confirmed`, `code-wrong`, `answer-kind`, and what `begin` raises.
    """
    await users.require_active(tx, user_id)
    guard = await store.lock_guard(tx, user_id)
    key = await users.require_key(tx, sealer, user_id)
    known = await load(tx, sealer, key, user_id)
    factor = require_factor(known, factor_id)
    if factor.active:
        raise Unprocessable("factor-confirmed", "The factor was confirmed already.")
    first = not any(one.active for one in known)
    if not first and not factor.row.authorised:
        # It was begun when there was no factor to ask for; now there is one.
        raise await proof.missing(tx, user_id, Purpose.FACTOR)
    proven = (
        _by_code(factor, code, machine_now)
        if factor.row.kind == TOTP
        else await _by_passkey(tx, party, factor, passkey)
    )
    if isinstance(proven, Unprocessable):
        return proven
    sealed = seal(sealer, key, factor_id, proven.contents)
    if not await store.activate(tx, factor_id, sealed, proven.counter, proven.credential_hash):
        raise Unprocessable("passkey-known", "This passkey is in use already.")
    until = await _cool_first(tx, rules, user_id) if first else guard.cooling_until
    codes = await renew_codes(tx, user_id) if first else None
    await _tell(tx, user_id, factor)
    row = replace(factor.row, state=ACTIVE, confirmed_at=tx.now, expires_at=None)
    return Confirmed(view(tx, Factor(row, proven.contents)), codes, _future(until, tx.now))


@dataclass(frozen=True, slots=True)
class _Proven:
    """What a factor's first use adds to its row."""

    contents: Contents
    counter: int
    credential_hash: bytes | None = None


def _by_code(factor: Factor, code: str | None, now: datetime) -> _Proven:
    if code is None:
        raise wrong_kind()
    step = totp.matching(factor.contents.seed or b"", code, now, after=0)
    if step is None:
        raise wrong_code()
    return _Proven(factor.contents, step)


async def _by_passkey(
    tx: CellTx, party: RelyingParty | None, factor: Factor, answer: Mapping[str, Any] | None
) -> _Proven | Unprocessable:
    if answer is None:
        raise wrong_kind()
    if factor.row.challenge is None:
        raise Unprocessable("challenge-spent", "The challenge was answered before; begin anew.")
    try:
        made = passkeys.registered(require_party(party), factor.row.challenge, answer)
    except passkeys.Refused as refused:
        await store.spend_challenge(tx, factor.row.id)
        return refused
    contents = Contents(factor.contents.name, passkey=made.passkey)
    return _Proven(contents, made.counter, hashlib.sha256(made.passkey.id).digest())


def _future(until: datetime | None, now: datetime) -> datetime | None:
    return until if until is not None and until > now else None


def require_factor(known: Sequence[Factor], factor_id: int) -> Factor:
    """One of them. Raises NotFound `factor-unknown`."""
    found = next((one for one in known if one.row.id == factor_id), None)
    if found is None:
        raise NotFound("factor-unknown", "The user has no such factor, or it was not confirmed.")
    return found


def wrong_kind() -> Unprocessable:
    """The refusal of an answer of a kind that was not asked for."""
    return Unprocessable("answer-kind", "Send the kind of answer that was asked for, and only one.")


def wrong_code() -> Unprocessable:
    """The refusal of a code."""
    return Unprocessable("code-wrong", "The code is wrong, too old, or was used already.")


async def _cool_first(tx: CellTx, rules: StepUp, user_id: int) -> datetime | None:
    """Start the cooling-off of a first factor, unless there is nothing to take."""
    if await balances(tx, user_id) or await people_store.destinations_of(tx, user_id):
        await store.cool(tx, user_id, tx.now + timedelta(seconds=rules.cooling_off_seconds))
    return await store.cooling_until(tx, user_id)


async def renew_codes(tx: CellTx, user_id: int) -> list[str]:
    """Ten new recovery codes in the place of all that there were."""
    codes = recovery.new_codes()
    await store.replace_codes(tx, user_id, [recovery.hashed(user_id, one) for one in codes])
    user = text_id("us", tx.cell, user_id)
    await audit.record(tx, [audit.Act("recovery-codes.make", user, detail={"codes": len(codes)})])
    message = outbox.Message("security.recovery_codes_made", user, {"user": user})
    await outbox.put(tx, [message])
    return codes


async def _tell(tx: CellTx, user_id: int, factor: Factor) -> None:
    user, name = text_id("us", tx.cell, user_id), text_id("fa", tx.cell, factor.row.id)
    detail = {"user": user, "kind": factor.row.kind}
    await audit.record(tx, [audit.Act("factor.confirm", name, detail=detail)])
    payload = {"user": user, "factor": name, "kind": factor.row.kind}
    await outbox.put(tx, [outbox.Message("security.factor_added", user, payload)])
