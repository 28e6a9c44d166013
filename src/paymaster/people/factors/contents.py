"""What a factor holds, sealed under its user's key: name, seed, passkey."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from paymaster.db.tx import CellRead
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.ids import text_id
from paymaster.people import users
from paymaster.people.factors import store
from paymaster.people.factors.passkeys import Passkey
from paymaster.secrets.sealing import DataKey, Sealer, place

TOTP, PASSKEY, RECOVERY_CODE = "totp", "passkey", "recovery_code"
"""The kinds of answer. The first two are kinds of factor."""

ACTIVE, PENDING = "active", "pending"


class Contents(msgspec.Struct, frozen=True):
    """`name` is what the user calls the factor. A passkey is there once it was made."""

    name: str
    seed: bytes | None = None
    passkey: Passkey | None = None


@dataclass(frozen=True, slots=True)
class Factor:
    """A factor, opened. Keep it no longer than one piece of work takes."""

    row: store.FactorRow
    contents: Contents = field(repr=False)

    @property
    def active(self) -> bool:
        """Whether it was confirmed."""
        return self.row.state == ACTIVE


@dataclass(frozen=True, slots=True)
class FactorView:
    """A factor as the API shows it: nothing of it that proves anything."""

    cell: int
    row: store.FactorRow = field(repr=False)
    name: str = field(repr=False)

    @property
    def id(self) -> str:
        """The text id."""
        return text_id("fa", self.cell, self.row.id)

    def wire(self) -> dict[str, Any]:
        """For JSON."""
        row = self.row
        return {
            "id": self.id,
            "kind": row.kind,
            "name": self.name,
            "state": row.state,
            "created_at": rfc3339(row.created_at),
            "confirmed_at": _moment(row.confirmed_at),
            "last_used_at": _moment(row.last_used_at),
            "expires_at": _moment(row.expires_at),
        }


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)


def seal(sealer: Sealer, key: DataKey, factor_id: int, contents: Contents) -> bytes:
    """For the row of this id, and no other."""
    return sealer.seal(key, msgspec.json.encode(contents), place("factor", factor_id))


async def load(tx: CellRead, sealer: Sealer, key: DataKey, user_id: int) -> list[Factor]:
    """All factors of a user, oldest first, without those that were not confirmed in time."""
    return [
        Factor(row, _opened(sealer, key, row))
        for row in await store.factors(tx, user_id)
        if row.expires_at is None or row.expires_at > tx.now
    ]


async def opened(tx: CellRead, sealer: Sealer, user_id: int) -> list[Factor]:
    """As `load`, with the key looked up. Raises Unprocessable `user-erased`."""
    return await load(tx, sealer, await users.require_key(tx, sealer, user_id), user_id)


def _opened(sealer: Sealer, key: DataKey, row: store.FactorRow) -> Contents:
    data = sealer.open(key, row.sealed, place("factor", row.id))
    return msgspec.json.decode(data, type=Contents)


def view(tx: CellRead, factor: Factor) -> FactorView:
    """What is shown."""
    return FactorView(tx.cell, factor.row, factor.contents.name)


def own_passkeys(factors: Sequence[Factor]) -> list[Passkey]:
    """The passkeys among active factors."""
    return [
        one.contents.passkey for one in factors if one.active and one.contents.passkey is not None
    ]
