"""Users with money and a destination each, as withdrawals need them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import msgspec

from paymaster.db.cells import Databases
from paymaster.db.tx import CellTx, ControlTx
from paymaster.kernel.errors import Broken
from paymaster.kernel.ids import new_trace_id
from paymaster.kernel.money import Money
from paymaster.ledger.chart import Account
from paymaster.ledger.entry import Entry, Posting
from paymaster.ledger.post import post
from paymaster.people import users
from paymaster.people.destinations import REGISTRY
from paymaster.people.users import Upsert
from paymaster.rails.destinations import check, wallet_check_character
from paymaster.secrets.sealing import Sealer, place
from paymaster_bench.workload import ASSET, RAIL_ACCOUNT
from paymaster_bench.world import ACTOR, CELL, ENVIRONMENT

OPENING = Money(10**9, ASSET)
"""What each has."""

KIND = "sandbox-wallet"
_AT_ONCE = 1000
_AGE = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Person:
    """A user of the cell."""

    external_id: str
    user_id: int
    destination_id: int


async def make_people(dbs: Databases, sealer: Sealer, count: int) -> list[Person]:
    """So many users, each with a sealed wallet that is a month old and with `OPENING`."""
    people: list[Person] = []
    for start in range(0, count, _AT_ONCE):
        numbers = range(start, min(start + _AT_ONCE, count))
        made = await users.upsert_many(
            dbs, sealer, ENVIRONMENT, ACTOR, new_trace_id(), [Upsert(f"user-{n}") for n in numbers]
        )
        views = [outcome.view for outcome in made if outcome.view is not None]
        ids = [view.ref.id for view in views]
        people += await _equip(dbs, sealer, ids, list(numbers))
    return people


async def _equip(
    dbs: Databases, sealer: Sealer, ids: list[int], numbers: list[int]
) -> list[Person]:
    """Destinations in the cell, their fingerprints in the directory, and money."""
    wallets = [_wallet(number) for number in numbers]
    prints = [sealer.fingerprints(KIND, source)[0] for _, source in wallets]

    async def inside(tx: CellTx) -> list[int]:
        keys = await users.data_keys(tx, sealer, ids)
        made = tx.ids(len(ids))
        sealed = [
            sealer.seal(keys[user], details, place("destination", destination))
            for user, destination, (details, _) in zip(ids, made, wallets, strict=True)
        ]
        await tx.execute(
            """
            INSERT INTO destination (id, user_id, kind, currency, mask, fingerprint, sealed, state,
                usable_at, created_at, version)
            SELECT i, u, %s, %s, 'SW-***', f, s, 'active', %s, %s, 1
            FROM unnest(%s::bigint[], %s::bigint[], %s::bytea[], %s::bytea[]) AS x (i, u, f, s)
            """,
            (KIND, ASSET, tx.now - _AGE, tx.now - _AGE, made, ids, prints, sealed),
        )
        await _fund(tx, ids)
        return made

    async def outside(tx: ControlTx) -> None:
        first = tx.append(len(ids))
        await tx.execute(
            """
            INSERT INTO registry (environment_id, kind, fingerprint, cell, user_id, claimed_at,
                commit_id, ordinal)
            SELECT %s, %s, f, %s, u, %s, %s, o
            FROM unnest(%s::bytea[], %s::bigint[], %s::int[]) AS x (f, u, o)
            """,
            (
                ENVIRONMENT,
                REGISTRY,
                CELL,
                tx.now,
                tx.commit_id,
                prints,
                ids,
                [first + place for place in range(len(ids))],
            ),
        )

    await dbs.control.run(ACTOR, new_trace_id(), outside)
    destinations = await dbs.cell(CELL).run(ACTOR, new_trace_id(), inside)
    return [
        Person(f"user-{number}", user, destination)
        for number, user, destination in zip(numbers, ids, destinations, strict=True)
    ]


def _wallet(number: int) -> tuple[bytes, str]:
    """Details to seal, and what the fingerprint is made of."""
    nine = f"{number:09d}"
    checked = check(KIND, {"wallet": f"SW-{nine}{wallet_check_character(nine)}"})
    return msgspec.json.encode(checked.details), checked.fingerprint_source


async def _fund(tx: CellTx, ids: list[int]) -> None:
    """An opening, from the cash account: no event and no reward stands behind it."""
    cash = Account("cash", RAIL_ACCOUNT, ASSET)
    entries = [
        Entry(
            entry_id,
            "opening",
            "bench",
            (Posting(cash, Account("available", user, ASSET), OPENING),),
        )
        for entry_id, user in zip(tx.ids(len(ids)), ids, strict=True)
    ]
    if not all(result.done for result in await post(tx, entries)):
        raise Broken("bench-opening", "An opening posting was refused.")
