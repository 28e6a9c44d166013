"""What is due, by its name, against a plain model and against what the claims then take.

A kind of work that is left out where a claim would find something is money that waits for ever; one
that is told where none does keeps a dispatcher busy for nothing.
"""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, Final, LiteralString

import psycopg
from tests.payouts import Payouts, approved, new_payee, payout_world
from tests.scripted_rails import AskableRail
from tests.world import PostgresServer

from paymaster.db.tx import CellRead, CellTx
from paymaster.dispatch import batch_store, failover_store, store, transfer_store, window
from paymaster.dispatch.machine import AttemptState, TransferState
from paymaster.withdraw import store as withdrawals
from paymaster.withdraw.machine import State

SEED = os.environ.get("PAYMASTER_SEED", "20261121")
ROUNDS = 150
BATCHES = ("prepared", "sending", "sent", "unknown", "refused", "answered")
EMPTY: Final = 77
"""An account that has no rows, and does not need to be known either."""

Told = set[tuple[str, int]]


class _Undone(Exception):
    """Nothing of a claim is to stay."""


async def money(payouts: Payouts) -> None:
    """Rows of every kind: eight withdrawals, orders and attempts, five transfers, a window each."""
    for number in range(1, 9):
        await approved(payouts, await new_payee(payouts, number), "1.00")
    assert len(await payouts.claim()) == 8
    world = payouts.world
    first, second = (payouts.accounts[name].id for name in ("wallet", "other"))
    with psycopg.connect(world.owner_dsn, autocommit=True) as owner:
        owner.execute("SET search_path TO cell_1")
        for number in range(1, 6):
            owner.execute(
                "INSERT INTO transfer (id, from_account_id, to_account_id, amount, asset,"
                " entry_out, entry_in, entry_back, reason, state, number, due_at, lease_token,"
                " created_at, actor, trace_id, version)"
                " VALUES (%s, %s, %s, 1, 'EUR', %s, %s, %s, 'x', 'requested', 0, %s, 0, %s, 'x',"
                " 'x', 1)",
                (number, first, second, 10 * number, 10 * number + 1, 10 * number + 2,
                 world.clock.now(), world.clock.now()),
            )  # fmt: skip
        for account in (first, second):
            owner.execute(
                "INSERT INTO payout_window VALUES (%s, %s, 0, 1)", (account, world.clock.now())
            )


def shuffle(payouts: Payouts, rng: random.Random) -> Told:
    """Give all rows states and times at random; what is due then, by the model."""
    now = payouts.world.clock.now()
    known = [account.id for account in payouts.accounts.values()]
    told: Told = set()

    def moment(*, none: bool = True) -> datetime | None:
        if none and rng.random() < 0.3:
            return None
        micro, hour = timedelta(microseconds=1), timedelta(hours=1)
        return now + rng.choice([-hour, -micro, timedelta(), micro, hour, hour, hour, hour])

    with psycopg.connect(payouts.world.owner_dsn, autocommit=True) as owner:
        owner.execute("SET search_path TO cell_1")

        def each(table: LiteralString, states: Iterable[str], names: dict[str, str]) -> None:
            column: LiteralString = "from_account_id" if table == "transfer" else "rail_account_id"
            for (number,) in owner.execute("SELECT id FROM " + table).fetchall():
                state = str(rng.choice([*states]))
                if rng.random() < 0.4:
                    state = rng.choice(sorted(names))
                at, account = moment(), rng.choice(known)
                owner.execute(
                    "UPDATE " + table + " SET state = %s, due_at = %s, " + column + " = %s"
                    " WHERE id = %s",
                    (state, at, account, number),
                )
                if at is not None and at <= now and state in names:
                    told.add((names[state], 0 if state == "approved" else account))

        each("withdrawal", State, {"approved": "approved", "queued": "queued"})
        each("transfer", TransferState, {"requested": "transfer"})
        each("batch", BATCHES, {"sending": "silent", "prepared": "prepared", "unknown": "doubted"})
        each(
            "attempt",
            AttemptState,
            {"rejected": "dead", "unknown": "asked", "sent": "asked", "awaiting_payee": "asked"},
        )
        for account in known:
            at = moment(none=False)
            owner.execute(
                "UPDATE payout_window SET due_at = %s WHERE rail_account_id = %s", (at, account)
            )
            if at is not None and at <= now:
                told.add(("window", account))
    return told


Claim = Callable[[CellTx, int], Awaitable[Any]]
CLAIMS: Final[dict[str, Claim]] = {
    "queued": lambda tx, account: withdrawals.take_queued(tx, account, 1),
    "window": window.take_due,
    "transfer": lambda tx, account: transfer_store.take_requested(tx, account, 1),
    "silent": lambda tx, account: batch_store.take_due(tx, account, "sending", 1),
    "prepared": lambda tx, account: batch_store.take_due(tx, account, "prepared", 1),
    "doubted": lambda tx, account: batch_store.take_due(tx, account, "unknown", 1),
    "dead": lambda tx, account: failover_store.take_dead(tx, account, 1),
    "asked": lambda tx, account: batch_store.claim_attempts(tx, account, 1, tx.id(), tx.now),
}


async def taken(payouts: Payouts) -> Told:
    """The kinds of work for which the claims find something."""
    found: Told = set()

    async def work(tx: CellTx) -> None:
        if await withdrawals.take_due(tx, "approved", 1):
            found.add(("approved", 0))
        for account in payouts.accounts.values():
            for name, claim in CLAIMS.items():
                if await claim(tx, account.id):
                    found.add((name, account.id))
        raise _Undone

    try:
        await payouts.world.run(work)
    except _Undone:
        return found
    raise AssertionError("what was claimed has stayed")


async def due(payouts: Payouts) -> list[tuple[str, int]]:
    ids = [EMPTY, *(account.id for account in payouts.accounts.values())]

    async def work(tx: CellRead) -> list[store.Due]:
        return await store.due(tx, ids)

    return [(one.work, one.rail_account_id) for one in await payouts.world.read(work)]


async def test_what_is_due_is_what_the_claims_take(postgres: PostgresServer) -> None:
    rails = [AskableRail(name, kinds=frozenset({"iban"})) for name in ("wallet", "other")]
    met = set[str]()
    async with payout_world(postgres, *rails) as payouts:
        await money(payouts)
        for number in range(ROUNDS):
            wanted = shuffle(payouts, random.Random(f"{SEED}/{number}"))
            told = await due(payouts)
            assert len(told) == len(set(told))
            assert set(told) == wanted, f"PAYMASTER_SEED={SEED}, round {number}"
            assert set(told) == await taken(payouts), f"PAYMASTER_SEED={SEED}, round {number}"
            met |= {name for name, _ in told}
    assert met == {"approved", *CLAIMS}
