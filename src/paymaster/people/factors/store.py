"""SQL of factors, recovery codes, step-ups and the guard row of each user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import errors

from paymaster.db.tx import CellRead, CellTx


@dataclass(frozen=True, slots=True)
class FactorRow:
    """A row of `factor`."""

    id: int
    user_id: int
    kind: str
    state: str
    sealed: bytes
    counter: int
    challenge: bytes | None
    authorised: bool
    expires_at: datetime | None
    created_at: datetime
    confirmed_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class StepUpRow:
    """A row of `step_up`."""

    id: int
    user_id: int
    purpose: str
    amount: int | None
    currency: str | None
    payee: str
    nonce: bytes
    state: str
    passkeys: bool
    method: str | None
    used_for: str | None
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class GuardRow:
    """A row of `factor_guard`."""

    user_id: int
    cooling_until: datetime | None


async def lock_guard(tx: CellTx, user_id: int) -> GuardRow:
    """The user's guard row, made if need be, and locked."""
    await tx.execute(
        "INSERT INTO factor_guard (user_id, version) VALUES (%s, 1)"
        " ON CONFLICT (user_id) DO NOTHING",
        (user_id,),
    )
    [row] = await tx.fetch(
        "SELECT user_id, cooling_until FROM factor_guard WHERE user_id = %s FOR UPDATE",
        (user_id,),
        GuardRow,
    )
    return row


async def cooling_until(tx: CellRead, user_id: int) -> datetime | None:
    """The end of the user's latest cooling-off, past or not."""
    return await tx.value("SELECT cooling_until FROM factor_guard WHERE user_id = %s", (user_id,))


async def cool(tx: CellTx, user_id: int, until: datetime) -> None:
    """Let a cooling-off last until then at least."""
    await tx.execute(
        "UPDATE factor_guard SET cooling_until = greatest(cooling_until, %s), version = version + 1"
        " WHERE user_id = %s",
        (until, user_id),
    )


async def insert_factor(tx: CellTx, row: FactorRow) -> None:
    """Store a pending factor."""
    await tx.execute(
        """
        INSERT INTO factor (id, user_id, kind, state, sealed, counter, challenge, authorised,
            expires_at, created_at, version)
        VALUES (%s, %s, %s, 'pending', %s, %s, %s, %s, %s, %s, 1)
        """,
        (
            row.id,
            row.user_id,
            row.kind,
            row.sealed,
            row.counter,
            row.challenge,
            row.authorised,
            row.expires_at,
            row.created_at,
        ),
    )


async def factors(tx: CellRead, user_id: int) -> list[FactorRow]:
    """All factors of a user, oldest first, pending ones too."""
    return await tx.fetch(
        "SELECT id, user_id, kind, state, sealed, counter, challenge, authorised, expires_at,"
        " created_at, confirmed_at, last_used_at FROM factor WHERE user_id = %s ORDER BY id",
        (user_id,),
        FactorRow,
    )


async def activate(
    tx: CellTx, factor_id: int, sealed: bytes, counter: int, credential_hash: bytes | None
) -> bool:
    """Make a pending factor an active one; False when its passkey is another factor's.

    After a False nothing more can be done in this transaction.
    """
    try:
        await tx.execute(
            """
            UPDATE factor SET state = 'active', sealed = %s, counter = %s, credential_hash = %s,
                challenge = NULL, expires_at = NULL, confirmed_at = %s, version = version + 1
            WHERE id = %s
            """,
            (sealed, counter, credential_hash, tx.now, factor_id),
        )
    except errors.UniqueViolation:
        return False
    return True


async def note_use(tx: CellTx, factor_id: int, counter: int) -> None:
    """A factor was used: its new counter (the time step of a code)."""
    await tx.execute(
        "UPDATE factor SET counter = %s, last_used_at = %s, version = version + 1 WHERE id = %s",
        (counter, tx.now, factor_id),
    )


async def spend_challenge(tx: CellTx, factor_id: int) -> None:
    """A pending passkey's challenge was answered; it is not asked again."""
    await tx.execute(
        "UPDATE factor SET challenge = NULL, version = version + 1 WHERE id = %s", (factor_id,)
    )


async def reseal(tx: CellTx, factor_id: int, sealed: bytes) -> None:
    """Write other sealed contents."""
    await tx.execute(
        "UPDATE factor SET sealed = %s, version = version + 1 WHERE id = %s", (sealed, factor_id)
    )


async def delete_factors(tx: CellTx, ids: Sequence[int]) -> None:
    """Remove factors."""
    await tx.execute("DELETE FROM factor WHERE id = ANY(%s)", (list(ids),))


async def forget_pending(tx: CellTx, before: datetime, limit: int) -> int:
    """Remove factors that were not confirmed by this moment; how many went."""
    return await tx.execute(
        """
        DELETE FROM factor WHERE id IN (
            SELECT id FROM factor WHERE state = 'pending' AND expires_at < %s
            ORDER BY expires_at LIMIT %s
        )
        """,
        (before, limit),
    )


async def replace_codes(tx: CellTx, user_id: int, hashes: Sequence[bytes]) -> None:
    """Put recovery codes in the place of all that there were."""
    await tx.execute("DELETE FROM recovery_code WHERE user_id = %s", (user_id,))
    await tx.execute(
        "INSERT INTO recovery_code (user_id, hash, made_at)"
        " SELECT %s, h, %s FROM unnest(%s::bytea[]) AS n (h)",
        (user_id, tx.now, list(hashes)),
    )


async def codes_left(tx: CellRead, user_id: int) -> int:
    """How many recovery codes were not used yet."""
    return await tx.value(
        "SELECT count(*) FROM recovery_code WHERE user_id = %s AND used_at IS NULL", (user_id,)
    )


async def use_code(tx: CellTx, user_id: int, code_hash: bytes) -> bool:
    """Use a recovery code up; False when there is none of this hash, or it was used."""
    return bool(
        await tx.execute(
            "UPDATE recovery_code SET used_at = %s WHERE user_id = %s AND hash = %s"
            " AND used_at IS NULL",
            (tx.now, user_id, code_hash),
        )
    )


async def insert_step_up(tx: CellTx, row: StepUpRow) -> None:
    """Store a step-up."""
    await tx.execute(
        """
        INSERT INTO step_up (id, user_id, purpose, amount, currency, payee, nonce, state, passkeys,
            created_at, expires_at, version)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 1)
        """,
        (
            row.id,
            row.user_id,
            row.purpose,
            row.amount,
            row.currency,
            row.payee,
            row.nonce,
            row.state,
            row.passkeys,
            row.created_at,
            row.expires_at,
        ),
    )


async def step_up(tx: CellRead, step_up_id: int) -> StepUpRow | None:
    """A step-up."""
    return await tx.maybe(
        "SELECT id, user_id, purpose, amount, currency, payee, nonce, state, passkeys, method,"
        " used_for, created_at, expires_at FROM step_up WHERE id = %s",
        (step_up_id,),
        StepUpRow,
    )


async def lock_step_up(tx: CellTx, step_up_id: int) -> StepUpRow | None:
    """A step-up, locked."""
    return await tx.maybe(
        "SELECT id, user_id, purpose, amount, currency, payee, nonce, state, passkeys, method,"
        " used_for, created_at, expires_at FROM step_up WHERE id = %s FOR UPDATE",
        (step_up_id,),
        StepUpRow,
    )


async def verified(
    tx: CellTx, step_up_id: int, method: str, factor_id: int | None, until: datetime
) -> None:
    """A step-up was proven; it may be used until then."""
    await tx.execute(
        "UPDATE step_up SET state = 'verified', method = %s, factor_id = %s, verified_at = %s,"
        " expires_at = %s, version = version + 1 WHERE id = %s",
        (method, factor_id, tx.now, until, step_up_id),
    )


async def spend_passkeys(tx: CellTx, step_up_id: int) -> None:
    """A passkey answered wrongly; the challenge is not taken again."""
    await tx.execute(
        "UPDATE step_up SET passkeys = false, version = version + 1 WHERE id = %s", (step_up_id,)
    )


async def used(tx: CellTx, step_up_id: int, subject: str) -> None:
    """A step-up was used up by an act."""
    await tx.execute(
        "UPDATE step_up SET state = 'used', used_for = %s, used_at = %s, version = version + 1"
        " WHERE id = %s",
        (subject, tx.now, step_up_id),
    )


async def void(tx: CellTx, user_id: int) -> None:
    """Take all step-ups of a user back that were not used."""
    await tx.execute(
        "UPDATE step_up SET state = 'void', version = version + 1"
        " WHERE user_id = %s AND state IN ('open', 'verified')",
        (user_id,),
    )


async def forget_step_ups(tx: CellTx, before: datetime, limit: int) -> int:
    """Remove step-ups that ended before this moment; how many went."""
    return await tx.execute(
        """
        DELETE FROM step_up WHERE id IN (
            SELECT id FROM step_up WHERE expires_at < %s ORDER BY expires_at LIMIT %s
        )
        """,
        (before, limit),
    )
