"""What `paymaster doctor` says of secrets and keys: ids, ages and places, never a value."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString

from rich.table import Column, Table

from paymaster.compose import Deps
from paymaster.db import seal, sealed
from paymaster.db.pool import CellDb
from paymaster.db.seal import Place
from paymaster.dispatch import accounts
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import PaymasterError
from paymaster.messages.mail import PASSWORD
from paymaster.secrets.generated import LOCAL_KEYS
from paymaster.secrets.hsm import SCHEME as HSM_SCHEME
from paymaster.secrets.opening import VAULT_TOKEN
from paymaster.secrets.port import SecretVersion, key_check
from paymaster.secrets.signers import STORE

_SOON = timedelta(days=14)
_LOGINS: LiteralString = (
    "SELECT DISTINCT secret_name FROM identity_provider"
    " WHERE secret_name IS NOT NULL AND state = 'active'"
)
_SPARE = frozenset({"day-close", "audit-head", "user-token"})
"""Missing ones are told and are no fault: they sign what not everybody wants signed."""
_PURPOSES = {
    "kek": "wraps data keys",
    "fingerprint": "recognises destinations",
    "cursor": "signs cursors",
    "day-close": "signs closed days",
    "audit-head": "signs chain heads",
    "user-token": "signs tokens",
}


@dataclass(frozen=True, slots=True)
class Secret:
    """One secret or key in use. `state` is ok, old, expires, missing or unusable."""

    name: str
    used_for: str
    state: str
    store: str = ""
    version: str = ""
    versions: int = 0
    key_id: str = ""
    created_at: datetime | None = None
    age_days: int | None = None
    expires_at: datetime | None = None
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether it can be used; an old one can."""
        return self.state not in ("missing", "unusable")

    def wire(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "used_for": self.used_for,
            "state": self.state,
            "store": self.store or None,
            "version": self.version or None,
            "versions": self.versions,
            "key_id": self.key_id or None,
            "created_at": self.created_at and rfc3339(self.created_at),
            "age_days": self.age_days,
            "expires_at": self.expires_at and rfc3339(self.expires_at),
            "note": self.note or None,
        }


@dataclass(frozen=True, slots=True)
class SealedCount:
    """How many values of a table are under a key. `state` is current, older or lost."""

    schema: str
    table: str
    key_id: str
    count: int
    state: str

    def wire(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "schema": self.schema,
            "table": self.table,
            "key_id": self.key_id,
            "count": self.count,
            "state": self.state,
        }


async def secrets_in_use(deps: Deps, now: datetime) -> list[Secret]:
    """Every secret that something here would ask for."""
    own = deps.settings.secrets
    wanted = dict[str, str]()
    for name in LOCAL_KEYS:
        places = own.kek if name == "kek" else own.signers.get(name, STORE)
        if STORE in places.split():
            wanted[name] = _PURPOSES.get(name, "")
    if "vault" in own.stores and deps.settings.vault.auth == "token":
        wanted[VAULT_TOKEN] = "opens Vault"
    if any(HSM_SCHEME in places for places in (own.kek, *own.signers.values())):
        wanted[deps.settings.hsm.pin] = "PIN of the token"
    if deps.settings.email.host and deps.settings.email.username:
        wanted[PASSWORD] = "sends mail"
    wanted |= dict.fromkeys(own.names, "named in the settings")
    for environment in deps.dbs.environments():
        name = f"{environment.tenant}/{environment.mode}"
        for account in (await accounts.load(deps.dbs, environment.id)).values():
            for purpose, secret in account.rail.secrets.items():
                wanted.setdefault(secret, f"rail {name} {account.rail.name}: {purpose}")
    for (secret,) in await deps.dbs.control.read(lambda tx: tx.tuples(_LOGINS)):
        wanted.setdefault(secret, "logs staff in")
    found = [_looked_at(deps, name, purpose, now) for name, purpose in sorted(wanted.items())]
    return found + await _elsewhere(deps)


def _looked_at(deps: Deps, name: str, purpose: str, now: datetime) -> Secret:
    store = deps.secrets.keys if name in LOCAL_KEYS else deps.secrets.store
    try:
        versions = store.get(name)
    except PaymasterError as error:
        return Secret(name, purpose, "unusable", note=f"{error.slug}: {error.detail}")
    if not versions:
        return Secret(name, purpose, "missing", note="no store has it")
    used = versions[0]
    state, note = _judged(used, now, timedelta(days=deps.settings.secrets.warn_age_days))
    settle = timedelta(seconds=deps.settings.secrets.settle_seconds)
    note = note or _settling(used, versions, settle)
    return Secret(
        name,
        purpose,
        state,
        used.store,
        used.id,
        len(versions),
        key_check(used.value) if name in LOCAL_KEYS else "",
        used.created_at,
        None if used.created_at is None else (now - used.created_at).days,
        used.expires_at,
        note,
    )


def _judged(used: SecretVersion, now: datetime, old: timedelta) -> tuple[str, str]:
    if used.expires_at is not None and used.expires_at - now < _SOON:
        return "expires", f"it ends {rfc3339(used.expires_at)}"
    if used.created_at is not None and now - used.created_at > old:
        return "old", f"older than {old.days} days: rotate it"
    return "ok", ""


def _settling(used: SecretVersion, versions: Sequence[SecretVersion], settle: timedelta) -> str:
    """What is said of a newer version that is not in use yet; the one in use comes first."""
    if used.created_at is None:
        return ""
    for one in versions:
        if one.created_at is not None and one.created_at > used.created_at:
            return f"version {one.id} is used from {rfc3339(one.created_at + settle)} on"
    return ""


async def _elsewhere(deps: Deps) -> list[Secret]:
    """Keys that lie in KMS or a token: whether they answer, and which they are."""
    own, found = deps.settings.secrets, list[Secret]()
    for where in own.kek.split():
        if where != STORE:
            found.append(_token_kek(deps, where))
    for key_id in sorted(own.signers):
        if own.signers[key_id].split() == [STORE]:
            continue
        purpose = _PURPOSES.get(key_id, "signs")
        place = own.signers[key_id].split()[0]
        kind, _, address = place.partition(":")
        try:
            keys = await deps.secrets.signers.public_keys(key_id)
        except PaymasterError as error:
            note = f"{error.slug}: {error.detail}"
            found.append(Secret(key_id, purpose, "unusable", kind, address, note=note))
            continue
        mark = hashlib.sha256(keys[0]).hexdigest()[:12]
        found.append(Secret(key_id, purpose, "ok", kind, address, len(keys), mark))
    return found


def _token_kek(deps: Deps, where: str) -> Secret:
    kind, _, address = where.partition(":")
    try:
        key_id = deps.secrets.kek_at(where).current_id()
    except PaymasterError as error:
        note = f"{error.slug}: {error.detail}"
        return Secret("kek", _PURPOSES["kek"], "unusable", kind, address, note=note)
    return Secret("kek", _PURPOSES["kek"], "ok", kind, address, 1, key_id)


async def sealed_counts(deps: Deps) -> list[SealedCount]:
    """How many values are under which key, and which of these keys are still here."""
    current, known = deps.secrets.kek.current_id(), set(deps.secrets.kek.ids())
    places: list[Place] = [deps.dbs.control]
    places += [deps.dbs.cell(cell.number) for cell in deps.dbs.cells()]
    found: list[SealedCount] = []
    for place in places:
        for column in sealed.columns("cell" if isinstance(place, CellDb) else "control"):
            counts = await place.read(lambda tx, c=column: sealed.counts(tx, c))
            for key_id, count in sorted(counts.items()):
                state = "current" if key_id == current else "older" if key_id in known else "lost"
                found.append(SealedCount(seal.chain_of(place), column.table, key_id, count, state))
    return found


def findings(
    secrets: Sequence[Secret], counts: Sequence[SealedCount]
) -> list[tuple[str, bool, str]]:
    """For the checks: what is missing, what cannot be opened, what may not be removed yet."""
    found = [
        (f"secret {s.name}", s.ok or (s.state == "missing" and s.name in _SPARE), s.note or s.state)
        for s in secrets
        if s.note or not s.ok
    ]
    for state, ok, what in (
        ("older", True, "do not remove the key until they are under the newest"),
        ("lost", False, "no key here opens them"),
    ):
        left: dict[str, int] = {}
        for one in counts:
            if one.state == state:
                left[one.key_id] = left.get(one.key_id, 0) + one.count
        found += [
            (f"sealed under {key_id}", ok, f"{count} values: {what}")
            for key_id, count in sorted(left.items())
        ]
    return found


def tables(secrets: Sequence[Secret], counts: Sequence[SealedCount]) -> list[Table]:
    """For a terminal."""
    names = ("secret", "used for", "", "store", "version", "of", "id", "age", "until")
    first = Table(*(Column(name, overflow="fold") for name in names))
    colours = {"ok": "green", "old": "yellow", "expires": "yellow"}
    for one in secrets:
        first.add_row(
            one.name,
            one.used_for,
            f"[{colours.get(one.state, 'red')}]{one.state}[/]",
            one.store,
            one.version,
            str(one.versions),
            one.key_id,
            "" if one.age_days is None else f"{one.age_days} d",
            "" if one.expires_at is None else rfc3339(one.expires_at),
        )
    second = Table("sealed values", "under", "", "")
    for row in counts:
        second.add_row(f"{row.schema} {row.table}", row.key_id, str(row.count), row.state)
    return [first, second]
