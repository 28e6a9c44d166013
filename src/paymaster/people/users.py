"""Users by the app's own id: the directory row is claimed first, then the cell's row is made.

Both steps may be repeated without harm, so an upsert that was cut off between them is completed by
sending it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from paymaster.db import audit, outbox
from paymaster.db.cells import Databases
from paymaster.db.tx import Actor, CellRead, CellTx, ControlRead, ControlTx
from paymaster.kernel.errors import Broken, Busy, NotFound, Refusal, Unprocessable
from paymaster.kernel.ids import Ref, text_id
from paymaster.people import store
from paymaster.people.machine import TOWARDS, USER, Status
from paymaster.people.profile import Profile, check_external_id
from paymaster.people.views import UserView
from paymaster.secrets.sealing import DataKey, Sealer, place

PROFILE = "profile"
MAX_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Upsert:
    """Make a user or change one. What is None stays as it is; a new user is active."""

    external_id: str = field(repr=False)
    profile: Profile | None = field(default=None, repr=False)
    status: Status | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Upserted:
    """The user, or why not (`slug`, `detail`)."""

    view: UserView | None
    created: bool = False
    slug: str | None = None
    detail: str | None = None


async def upsert(
    dbs: Databases,
    sealer: Sealer,
    environment_id: int,
    actor: Actor,
    trace_id: str,
    external_id: str,
    profile: Profile | None = None,
    status: Status | None = None,
    reason: str | None = None,
) -> Upserted:
    """Make or change one user.

    Raises Refusal `external-id-malformed`, Unprocessable `user-closed` or `user-erased`.
    """
    command = Upsert(external_id, profile, status, reason)
    [outcome] = await upsert_many(dbs, sealer, environment_id, actor, trace_id, [command])
    if outcome.slug is not None:
        raise Unprocessable(outcome.slug, outcome.detail or "")
    return outcome


async def upsert_many(
    dbs: Databases,
    sealer: Sealer,
    environment_id: int,
    actor: Actor,
    trace_id: str,
    commands: Sequence[Upsert],
) -> list[Upserted]:
    """Make or change users, one transaction a cell; outcomes in the order of `commands`.

    Raises Refusal `external-id-malformed`, `batch-too-large` or `duplicate-in-batch`.
    """
    _check_batch(commands)
    refs = await _claimed(dbs, environment_id, actor, trace_id, [c.external_id for c in commands])
    outcomes: dict[str, Upserted] = {}
    for number in sorted({ref.cell for ref in refs.values()}):
        here = [c for c in commands if refs[c.external_id].cell == number]
        ids = [refs[c.external_id].id for c in here]

        async def work(
            tx: CellTx, here: list[Upsert] = here, ids: list[int] = ids
        ) -> list[Upserted]:
            return await put(tx, sealer, ids, here)

        done = await dbs.cell(number).run(actor, trace_id, work)
        outcomes.update(zip((c.external_id for c in here), done, strict=True))
    return [outcomes[command.external_id] for command in commands]


def _check_batch(commands: Sequence[Upsert]) -> None:
    if len(commands) > MAX_BATCH:
        raise Refusal("batch-too-large", f"At most {MAX_BATCH} users at once.")
    for command in commands:
        check_external_id(command.external_id)
    if len({command.external_id for command in commands}) != len(commands):
        raise Refusal("duplicate-in-batch", "The same external id occurs twice in the batch.")


async def _claimed(
    dbs: Databases, environment_id: int, actor: Actor, trace_id: str, external_ids: Sequence[str]
) -> dict[str, Ref]:
    """Where each user lives; new ones are given a cell that is open for users."""
    found = await find_many(dbs, environment_id, external_ids)
    missing = [one for one in external_ids if one not in found]
    if not missing:
        return found
    numbers = [cell.number for cell in dbs.cells(environment_id) if cell.open_for_users]
    if not numbers:
        raise Busy("no-open-cell", "No cell takes new users at the moment.")

    async def work(tx: ControlTx) -> dict[str, Ref]:
        rows = [
            store.DirectoryRow(one, numbers[_spread(one) % len(numbers)], user_id)
            for one, user_id in zip(missing, tx.ids(len(missing)), strict=True)
        ]
        await store.claim(tx, environment_id, rows)
        return await refs(tx, environment_id, missing)

    return found | await dbs.control.run(actor, trace_id, work)


def _spread(external_id: str) -> int:
    """A number that is the same on every machine, for an even spread over the cells."""
    return int.from_bytes(hashlib.blake2b(external_id.encode(), digest_size=8).digest(), "big")


async def refs(tx: ControlRead, environment_id: int, external_ids: Iterable[str]) -> dict[str, Ref]:
    """Where users live, by external id; unknown ones are missing."""
    rows = await store.directory(tx, environment_id, external_ids)
    return {external_id: Ref(cell, user_id) for external_id, cell, user_id in rows}


async def find(dbs: Databases, environment_id: int, external_id: str) -> Ref | None:
    """Where a user lives; None when there is none of this external id."""
    return (await find_many(dbs, environment_id, [external_id])).get(external_id)


async def find_many(
    dbs: Databases, environment_id: int, external_ids: Sequence[str]
) -> dict[str, Ref]:
    """Where users live, by external id; unknown ones are missing."""
    return await dbs.control.read(lambda tx: refs(tx, environment_id, external_ids))


async def put(
    tx: CellTx, sealer: Sealer, ids: Sequence[int], commands: Sequence[Upsert]
) -> list[Upserted]:
    """The cell's half of an upsert: `ids` are the users that the directory names."""
    created = await store.insert_users(tx, ids, [command.external_id for command in commands])
    rows = {row.id: row for row in await store.lock_users(tx, ids)}
    if created:
        made = [(user_id, *sealer.new_data_key()) for user_id in sorted(created)]
        await store.insert_keys(
            tx, [m[0] for m in made], [m[2] for m in made], [m[3] for m in made]
        )
    keys = await data_keys(tx, sealer, ids)
    refused: dict[int, tuple[str, str]] = {}
    for user_id, command in zip(ids, commands, strict=True):
        fault = _fault(rows[user_id], command, keys.get(user_id))
        if fault is not None:
            refused[user_id] = fault
    accepted = [
        (user_id, command)
        for user_id, command in zip(ids, commands, strict=True)
        if user_id not in refused
    ]
    await _seal_profiles(tx, sealer, keys, accepted)
    changed = await _change_status(tx, rows, accepted)
    await _tell(tx, created, changed, accepted)
    views = await views_of(tx, sealer, [user_id for user_id, _ in accepted])
    return [
        Upserted(None, False, *refused[user_id])
        if user_id in refused
        else Upserted(views[user_id], user_id in created)
        for user_id in ids
    ]


def _fault(row: store.UserRow, command: Upsert, key: DataKey | None) -> tuple[str, str] | None:
    if command.profile is not None and key is None:
        return "user-erased", "The personal data of this user was erased for good."
    if command.status is None or command.status == row.status:
        return None
    if not USER.allows(row.status, TOWARDS[command.status]):
        return "user-closed", f"A user that is {row.status} cannot become {command.status}."
    return None


async def _seal_profiles(
    tx: CellTx,
    sealer: Sealer,
    keys: Mapping[int, DataKey],
    accepted: Sequence[tuple[int, Upsert]],
) -> None:
    profiles = [(user_id, c.profile) for user_id, c in accepted if c.profile is not None]
    if not profiles:
        return
    sealed = [
        sealer.seal(keys[user_id], profile.encoded(), place("pii", user_id, PROFILE))
        for user_id, profile in profiles
    ]
    await store.put_sealed(tx, PROFILE, [user_id for user_id, _ in profiles], sealed)


async def _change_status(
    tx: CellTx, rows: Mapping[int, store.UserRow], accepted: Sequence[tuple[int, Upsert]]
) -> dict[int, Upsert]:
    changed = {
        user_id: command
        for user_id, command in accepted
        if command.status is not None and command.status != rows[user_id].status
    }
    if changed:
        await store.set_status(
            tx,
            list(changed),
            [str(command.status) for command in changed.values()],
            [command.reason for command in changed.values()],
        )
    return changed


async def _tell(
    tx: CellTx,
    created: set[int],
    changed: Mapping[int, Upsert],
    accepted: Sequence[tuple[int, Upsert]],
) -> None:
    """Audit and outbox: ids only, never the profile or the external id."""
    acts: list[audit.Act] = []
    messages: list[outbox.Message] = []
    for user_id, command in accepted:
        name = text_id("us", tx.cell, user_id)
        if user_id in created:
            acts.append(audit.Act("user.create", name))
            messages.append(outbox.Message("user.created", name, {"user": name}))
        if command.profile is not None and user_id not in created:
            acts.append(audit.Act("user.profile", name))
        if user_id in changed:
            acts.append(audit.Act(f"user.{command.status}", name, command.reason))
            messages.append(outbox.Message(f"user.{command.status}", name, {"user": name}))
    await audit.record(tx, acts)
    await outbox.put(tx, messages)


async def views_of(tx: CellRead, sealer: Sealer, ids: Sequence[int]) -> dict[int, UserView]:
    """Users of this cell by id; unknown ones are missing."""
    opened = await profiles(tx, sealer, ids)
    return {
        row.id: UserView(
            Ref(tx.cell, row.id),
            row.external_id,
            row.status,
            row.status_reason,
            opened.get(row.id),
            row.created_at,
            row.version,
        )
        for row in await store.users(tx, ids)
    }


async def get(tx: CellRead, sealer: Sealer, user_id: int) -> UserView:
    """One user. Raises NotFound `user-unknown`."""
    found = (await views_of(tx, sealer, [user_id])).get(user_id)
    if found is None:
        raise NotFound("user-unknown", "There is no such user.")
    return found


async def require_active(tx: CellRead, user_id: int) -> None:
    """Raises NotFound `user-unknown`, Unprocessable `user-suspended` or `user-closed`."""
    rows = await store.users(tx, [user_id])
    if not rows:
        raise NotFound("user-unknown", "There is no such user.")
    if rows[0].status != Status.ACTIVE:
        raise Unprocessable(f"user-{rows[0].status}", f"The user is {rows[0].status}.")


async def statuses(tx: CellRead, ids: Iterable[int]) -> dict[int, Status]:
    """The status of each user of this cell; unknown ones are missing."""
    return {row.id: Status(row.status) for row in await store.users(tx, ids)}


async def not_active(tx: CellRead, ids: Iterable[int]) -> dict[int, Status | None]:
    """Those of the users who are not active, with their status; None when there is no such user.

    Each is named once.
    """
    rows = await store.not_active(tx, list(ids))
    return {user_id: None if status is None else Status(status) for user_id, status in rows}


async def data_keys(tx: CellRead, sealer: Sealer, ids: Sequence[int]) -> dict[int, DataKey]:
    """The opened keys of users; those of erased users are missing."""
    rows = await store.keys_with(tx, ids, PROFILE)
    return {row.user_id: sealer.data_key(row.wrapped, row.kek_id) for row in rows}


async def profiles(tx: CellRead, sealer: Sealer, ids: Sequence[int]) -> dict[int, Profile]:
    """The profiles of users who have one."""
    opened: dict[int, Profile] = {}
    for row in await store.keys_with(tx, ids, PROFILE):
        if row.sealed is not None:
            key = sealer.data_key(row.wrapped, row.kek_id)
            data = sealer.open(key, row.sealed, place("pii", row.user_id, PROFILE))
            opened[row.user_id] = Profile.decoded(data)
    return opened


async def require_key(tx: CellRead, sealer: Sealer, user_id: int) -> DataKey:
    """A user's opened key. Raises Unprocessable `user-erased`."""
    keys = await data_keys(tx, sealer, [user_id])
    if user_id not in keys:
        raise Unprocessable("user-erased", "The personal data of this user was erased for good.")
    return keys[user_id]


def require_ref(found: Ref | None) -> Ref:
    """The place of a user that must exist. Raises NotFound `user-unknown`."""
    if found is None:
        raise NotFound("user-unknown", "There is no user of this external id.")
    return found


def check_cell(tx: CellRead, ref: Ref) -> int:
    """The user's id in this cell. Raises Broken when the user lives elsewhere."""
    if ref.cell != tx.cell:
        raise Broken("wrong-cell", f"A user of cell {ref.cell} was sought in cell {tx.cell}.")
    return ref.id
