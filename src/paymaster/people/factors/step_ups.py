"""A proof is asked for, then given: by a code of an app, a passkey or a recovery code."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from paymaster.db import audit, lockouts, outbox
from paymaster.db.cells import Databases
from paymaster.db.tx import Actor, CellRead, CellTx, ControlTx
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import NotFound, RateLimited, Unprocessable
from paymaster.kernel.ids import Ref, text_id
from paymaster.kernel.money import Money
from paymaster.people import users
from paymaster.people.factors import passkeys, proof, recovery, store, totp
from paymaster.people.factors.binding import NONCE_BYTES, Binding, Purpose, challenge
from paymaster.people.factors.contents import (
    PASSKEY,
    RECOVERY_CODE,
    TOTP,
    Factor,
    opened,
    own_passkeys,
)
from paymaster.people.factors.enrol import require_party, wrong_code, wrong_kind
from paymaster.people.factors.manage import no_factor
from paymaster.people.factors.passkeys import RelyingParty
from paymaster.secrets.sealing import Sealer
from paymaster.settings import StepUp

LOCK = "totp"
"""The kind under which wrong codes are counted, of apps and for recovery alike."""

KEPT = timedelta(days=30)
"""How long a step-up is kept after its end, so that a late use is told what it is."""


@dataclass(frozen=True, slots=True)
class StepUpView:
    """A step-up as the API shows it; `statement` is what its user agrees to."""

    ref: Ref
    row: store.StepUpRow = field(repr=False)
    state: str
    methods: Sequence[str]
    statement: str
    options: Mapping[str, Any] | None = None

    @property
    def id(self) -> str:
        """The text id."""
        return text_id("su", self.ref.cell, self.ref.id)

    def wire(self) -> dict[str, Any]:
        """For JSON."""
        row, amount = self.row, None
        if row.amount is not None and row.currency is not None:
            amount = Money(row.amount, row.currency)
        return {
            "id": self.id,
            "user": text_id("us", self.ref.cell, row.user_id),
            "purpose": row.purpose,
            "amount": amount and {"amount": amount.text(), "currency": amount.currency},
            "payee": row.payee,
            "state": self.state,
            "methods": list(self.methods),
            "method": row.method,
            "used_for": row.used_for,
            "created_at": rfc3339(row.created_at),
            "expires_at": rfc3339(row.expires_at),
            "statement": self.statement,
            "nonce": passkeys.base64url(row.nonce),
            "passkey": self.options,
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """What proves it: exactly one of them."""

    code: str | None = field(default=None, repr=False)
    recovery_code: str | None = field(default=None, repr=False)
    passkey: Mapping[str, Any] | None = field(default=None, repr=False)

    @property
    def typed(self) -> bool:
        """Whether it could be guessed."""
        return self.passkey is None

    def check(self) -> None:
        """Raises Unprocessable `answer-kind` unless there is exactly one."""
        if sum(one is not None for one in (self.code, self.recovery_code, self.passkey)) != 1:
            raise wrong_kind()


async def create(
    tx: CellTx,
    sealer: Sealer,
    rules: StepUp,
    party: RelyingParty | None,
    user_id: int,
    binding: Binding,
) -> StepUpView:
    """Ask for a proof.

    Raises Unprocessable `factor-missing`, `step-up-cooling-off`, `user-suspended`, `user-closed`
    or `user-erased`, NotFound `user-unknown`.
    """
    await users.require_active(tx, user_id)
    await store.lock_guard(tx, user_id)
    if binding.purpose is not Purpose.FACTOR:
        await proof.check_cooling(tx, user_id)
    known = await opened(tx, sealer, user_id)
    if not any(one.active for one in known):
        raise no_factor()
    kept = own_passkeys(known) if party is not None else []
    row = store.StepUpRow(
        id=tx.id(),
        user_id=user_id,
        purpose=binding.purpose.value,
        amount=None if binding.amount is None else binding.amount.minor,
        currency=None if binding.amount is None else binding.amount.currency,
        payee=binding.payee,
        nonce=secrets.token_bytes(NONCE_BYTES),
        state="open",
        passkeys=bool(kept),
        method=None,
        used_for=None,
        created_at=tx.now,
        expires_at=tx.now + timedelta(seconds=rules.challenge_seconds),
    )
    await store.insert_step_up(tx, row)
    shown = await _view(tx, row, known)
    if party is None or not kept:
        return shown
    options = passkeys.request_options(party, challenge(row.nonce, shown.statement), kept)
    return replace(shown, options=options)


async def _view(tx: CellRead, row: store.StepUpRow, known: Sequence[Factor]) -> StepUpView:
    methods: list[str] = []
    if row.state == "open":
        if any(one.active and one.row.kind == TOTP for one in known):
            methods.append(TOTP)
        if row.passkeys:
            methods.append(PASSKEY)
        if await store.codes_left(tx, row.user_id):
            methods.append(RECOVERY_CODE)
    ended = row.state in ("open", "verified") and row.expires_at <= tx.now
    state = "expired" if ended else row.state
    return StepUpView(Ref(tx.cell, row.id), row, state, methods, _statement(tx, row))


def _statement(tx: CellRead, row: store.StepUpRow) -> str:
    amount = None
    if row.amount is not None and row.currency is not None:
        amount = Money(row.amount, row.currency)
    binding = Binding(Purpose(row.purpose), row.payee, amount)
    return binding.statement(text_id("su", tx.cell, row.id), text_id("us", tx.cell, row.user_id))


async def forget(tx: CellTx, limit: int) -> int:
    """Remove step-ups long past and factors that were never confirmed, each `limit` at most.

    How many went of what there was most; the audit keeps what they did.
    """
    ended = await store.forget_step_ups(tx, tx.now - KEPT, limit)
    return max(ended, await store.forget_pending(tx, tx.now, limit))


async def get(tx: CellRead, sealer: Sealer, user_id: int, step_up_id: int) -> StepUpView:
    """One step-up of a user. Raises NotFound `step-up-unknown`, Unprocessable `user-erased`."""
    row = await store.step_up(tx, step_up_id)
    return await _view(tx, _theirs(row, user_id), await opened(tx, sealer, user_id))


def _theirs(row: store.StepUpRow | None, user_id: int) -> store.StepUpRow:
    if row is None or row.user_id != user_id:
        raise NotFound("step-up-unknown", "The user has no such step-up.")
    return row


async def verify(
    dbs: Databases,
    sealer: Sealer,
    rules: StepUp,
    party: RelyingParty | None,
    actor: Actor,
    trace_id: str,
    user: Ref,
    step_up_id: int,
    answer: Answer,
) -> StepUpView:
    """Hold an answer against a step-up.

    A code is counted before it is looked at, so that many at once are no more guesses than one
    after the other. Raises NotFound `step-up-unknown`, RateLimited `codes-locked`, Unprocessable
    `answer-kind`, `code-wrong`, `passkey-refused`, `passkey-copied`, `step-up-verified`,
    `step-up-used`, `step-up-expired`, `step-up-void`, and what `users.require_active` raises.
    """
    answer.check()
    cell, subject = dbs.cell(user.cell), text_id("us", user.cell, user.id)
    # What cannot be verified any more is no guess.
    await cell.read(lambda tx: _waiting(tx, user.id, step_up_id))
    window = timedelta(seconds=rules.lock_seconds)

    async def count(tx: ControlTx) -> datetime | None:
        return await lockouts.attempt(tx, LOCK, subject, limit=rules.wrong_codes, window=window)

    until = await dbs.control.run(actor, trace_id, count) if answer.typed else None
    if until is not None:
        raise _locked(until, dbs.clock.now())

    async def work(tx: CellTx) -> StepUpView | Unprocessable:
        return await _verified(
            tx, sealer, rules, party, user.id, step_up_id, answer, dbs.clock.now()
        )

    outcome = await cell.run(actor, trace_id, work)
    if isinstance(outcome, Unprocessable):
        raise outcome
    if answer.typed:
        await dbs.control.run(actor, trace_id, lambda tx: lockouts.succeeded(tx, LOCK, subject))
    return outcome


def _locked(until: datetime, now: datetime) -> RateLimited:
    seconds = max(1, -(-(until - now) // timedelta(seconds=1)))
    return RateLimited(
        "codes-locked",
        f"Too many wrong codes. Codes of this user are taken again from {rfc3339(until)} on; a "
        "passkey is taken now.",
        retry_after_seconds=seconds,
    )


async def _waiting(tx: CellRead, user_id: int, step_up_id: int) -> None:
    """Raises what stands against verifying it."""
    await users.require_active(tx, user_id)
    _check_open(_theirs(await store.step_up(tx, step_up_id), user_id), tx.now)


def _check_open(row: store.StepUpRow, now: datetime) -> None:
    if row.state == "verified" and row.expires_at > now:
        raise Unprocessable("step-up-verified", "The step-up was verified already; use it.")
    if row.state != "open" or row.expires_at <= now:
        proof.check_usable(row, now)


async def _verified(
    tx: CellTx,
    sealer: Sealer,
    rules: StepUp,
    party: RelyingParty | None,
    user_id: int,
    step_up_id: int,
    answer: Answer,
    machine_now: datetime,
) -> StepUpView | Unprocessable:
    """The cell's half. A refusal that is returned leaves a trace that must be committed.

    Phones know nothing of a test environment's clock, so codes go by the machine's time.
    """
    await store.lock_guard(tx, user_id)
    row = _theirs(await store.lock_step_up(tx, step_up_id), user_id)
    _check_open(row, tx.now)
    known = await opened(tx, sealer, user_id)
    if answer.passkey is not None:
        found = await _by_passkey(tx, party, row, known, answer.passkey)
    elif answer.code is not None:
        found = await _by_code(tx, known, answer.code, machine_now)
    else:
        found = await _by_recovery_code(tx, user_id, answer.recovery_code or "")
    name = text_id("su", tx.cell, row.id)
    user = text_id("us", tx.cell, user_id)
    if isinstance(found, Unprocessable):
        detail = {"user": user, "code": found.slug}
        await audit.record(tx, [audit.Act("step-up.refuse", name, detail=detail)])
        return found
    method, factor_id = found
    until = tx.now + timedelta(seconds=rules.challenge_seconds)
    await store.verified(tx, row.id, method, factor_id, until)
    factor = None if factor_id is None else text_id("fa", tx.cell, factor_id)
    detail = {"user": user, "purpose": row.purpose, "method": method, "factor": factor}
    await audit.record(tx, [audit.Act("step-up.verify", name, detail=detail)])
    row = replace(row, state="verified", method=method, expires_at=until)
    return await _view(tx, row, known)


_Found = tuple[str, int | None]
"""The kind of the answer, and the factor that gave it."""


async def _by_code(
    tx: CellTx, known: Sequence[Factor], code: str, machine_now: datetime
) -> _Found | Unprocessable:
    for one in known:
        if one.active and one.contents.seed is not None:
            step = totp.matching(one.contents.seed, code, machine_now, one.row.counter)
            if step is not None:
                await store.note_use(tx, one.row.id, step)
                return TOTP, one.row.id
    return wrong_code()


async def _by_recovery_code(tx: CellTx, user_id: int, code: str) -> _Found | Unprocessable:
    if not await store.use_code(tx, user_id, recovery.hashed(user_id, code)):
        return wrong_code()
    user = text_id("us", tx.cell, user_id)
    payload = {"user": user, "left": await store.codes_left(tx, user_id)}
    await outbox.put(tx, [outbox.Message("security.recovery_code_used", user, payload)])
    return RECOVERY_CODE, None


async def _by_passkey(
    tx: CellTx,
    party: RelyingParty | None,
    row: store.StepUpRow,
    known: Sequence[Factor],
    answer: Mapping[str, Any],
) -> _Found | Unprocessable:
    """The challenge is made anew from the row, and taken once, whatever comes of it."""
    party = require_party(party)
    if not row.passkeys:
        raise Unprocessable("challenge-spent", "The challenge was answered before; begin anew.")
    user = text_id("us", tx.cell, row.user_id)
    try:
        factor, passkey = _claimed(known, answer)
        asked = challenge(row.nonce, _statement(tx, row))
        counter = passkeys.asserted(party, asked, answer, passkey, user, factor.row.counter)
    except passkeys.Refused as refused:
        await store.spend_passkeys(tx, row.id)
        if refused.slug == "passkey-copied":
            payload = {"user": user}
            await outbox.put(tx, [outbox.Message("security.passkey_copied", user, payload)])
        return refused
    await store.note_use(tx, factor.row.id, counter)
    return PASSKEY, factor.row.id


def _claimed(known: Sequence[Factor], answer: Mapping[str, Any]) -> tuple[Factor, passkeys.Passkey]:
    """The user's own passkey that the answer names. Raises Refused `passkey-refused`."""
    wanted = passkeys.credential_id(answer)
    for one in known:
        passkey = one.contents.passkey
        if one.active and passkey is not None and hmac.compare_digest(passkey.id, wanted):
            return one, passkey
    raise passkeys.refused("user")
