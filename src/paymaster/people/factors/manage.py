"""Factors shown, renamed and removed; recovery codes made anew; everything reset by staff."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from paymaster.db import audit, outbox
from paymaster.db.tx import CellRead, CellTx
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import NotFound, Unprocessable
from paymaster.kernel.ids import text_id
from paymaster.people import users
from paymaster.people.factors import proof, store
from paymaster.people.factors.binding import RECOVERY_CODES, Purpose, removal
from paymaster.people.factors.contents import (
    Contents,
    Factor,
    FactorView,
    load,
    opened,
    seal,
    view,
)
from paymaster.people.factors.enrol import renew_codes, require_factor
from paymaster.secrets.sealing import Sealer
from paymaster.settings import StepUp


@dataclass(frozen=True, slots=True)
class FactorsView:
    """All factors of a user."""

    factors: Sequence[FactorView]
    codes_left: int
    cooling_until: datetime | None

    def wire(self) -> dict[str, Any]:
        """For JSON."""
        until = None if self.cooling_until is None else rfc3339(self.cooling_until)
        return {
            "data": [one.wire() for one in self.factors],
            "recovery_codes_left": self.codes_left,
            "cooling_off_until": until,
        }


async def listing(tx: CellRead, sealer: Sealer, user_id: int) -> FactorsView:
    """All factors of a user, pending ones too; none of an erased one."""
    keys = await users.data_keys(tx, sealer, [user_id])
    known = await load(tx, sealer, keys[user_id], user_id) if keys else []
    until = await store.cooling_until(tx, user_id)
    return FactorsView(
        [view(tx, one) for one in known],
        await store.codes_left(tx, user_id),
        until if until is not None and until > tx.now else None,
    )


async def rename(tx: CellTx, sealer: Sealer, user_id: int, factor_id: int, name: str) -> FactorView:
    """Call a factor otherwise. Raises NotFound `factor-unknown`, Unprocessable `user-erased`."""
    await store.lock_guard(tx, user_id)
    key = await users.require_key(tx, sealer, user_id)
    factor = require_factor(await load(tx, sealer, key, user_id), factor_id)
    contents = Contents(name, factor.contents.seed, factor.contents.passkey)
    await store.reseal(tx, factor_id, seal(sealer, key, factor_id, contents))
    shown = view(tx, replace(factor, contents=contents))
    detail = {"user": text_id("us", tx.cell, user_id)}
    await audit.record(tx, [audit.Act("factor.rename", shown.id, detail=detail)])
    return shown


async def remove(
    tx: CellTx, sealer: Sealer, user_id: int, factor_id: int, step_up: str | None
) -> FactorView:
    """Remove a factor, and with the last active one the recovery codes.

    A pending one needs no proof. Raises NotFound `factor-unknown`, Unprocessable
    `user-erased`, and what `proof.require` raises.
    """
    await store.lock_guard(tx, user_id)
    known = await opened(tx, sealer, user_id)
    factor = require_factor(known, factor_id)
    shown = view(tx, factor)
    act = proof.Act(Purpose.FACTOR, [removal(shown.id)])
    number = await proof.require(tx, user_id, act, proof.Shown(factor.active, step_up))
    await store.delete_factors(tx, [factor_id])
    await proof.use(tx, number, shown.id)
    if factor.active:
        if not any(one.active and one is not factor for one in known):
            await store.replace_codes(tx, user_id, [])
            await store.void(tx, user_id)
        await _told_removed(tx, user_id, factor)
    return shown


async def _told_removed(tx: CellTx, user_id: int, factor: Factor) -> None:
    user, name = text_id("us", tx.cell, user_id), text_id("fa", tx.cell, factor.row.id)
    detail = {"user": user, "kind": factor.row.kind}
    await audit.record(tx, [audit.Act("factor.remove", name, detail=detail)])
    payload = {"user": user, "factor": name, "kind": factor.row.kind}
    await outbox.put(tx, [outbox.Message("security.factor_removed", user, payload)])


async def new_codes(tx: CellTx, sealer: Sealer, user_id: int, step_up: str | None) -> list[str]:
    """Ten recovery codes, shown once; all earlier ones are void.

    Raises Unprocessable `factor-missing`, and what `proof.require` and `users.require_active`
    raise.
    """
    await users.require_active(tx, user_id)
    await store.lock_guard(tx, user_id)
    if not any(one.active for one in await opened(tx, sealer, user_id)):
        raise no_factor()
    act = proof.Act(Purpose.FACTOR, [RECOVERY_CODES])
    number = await proof.require(tx, user_id, act, proof.Shown(required=True, step_up=step_up))
    codes = await renew_codes(tx, user_id)
    await proof.use(tx, number, text_id("us", tx.cell, user_id))
    return codes


def no_factor() -> Unprocessable:
    """The refusal of what needs a factor, of a user who has none."""
    return Unprocessable("factor-missing", "The user has no factor yet; add one first.")


async def reset(tx: CellTx, rules: StepUp, user_id: int, reason: str) -> datetime:
    """Remove all that proves anything of a user who lost it; until when the cooling-off lasts.

    Step-ups that were not used are void. Raises NotFound `user-unknown`.
    """
    if user_id not in await users.statuses(tx, [user_id]):
        raise NotFound("user-unknown", "There is no such user.")
    await store.lock_guard(tx, user_id)
    rows = await store.factors(tx, user_id)
    await store.void(tx, user_id)
    await store.delete_factors(tx, [row.id for row in rows])
    await store.replace_codes(tx, user_id, [])
    until = tx.now + timedelta(seconds=rules.cooling_off_seconds)
    await store.cool(tx, user_id, until)
    user = text_id("us", tx.cell, user_id)
    removed = [text_id("fa", tx.cell, row.id) for row in rows]
    detail = {"factors": removed, "cooling_off_until": rfc3339(until)}
    await audit.record(tx, [audit.Act("factor.reset", user, reason, detail)])
    payload = {"user": user, "cooling_off_until": rfc3339(until)}
    await outbox.put(tx, [outbox.Message("security.factors_reset", user, payload)])
    return until
