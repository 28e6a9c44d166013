"""`prove` while posting goes on: no false alarm, and whatever was altered is named."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TypeVar

import psycopg
import pytest
from tests.prove_faults import FAULTS, PICKED
from tests.world import ACTOR, PostgresServer, World, make_world, owner_rows

from paymaster.db.snapshots import OneSnapshot, Pieces
from paymaster.db.tx import CellRead
from paymaster.kernel.errors import Broken
from paymaster.kernel.ids import new_trace_id
from paymaster.kernel.money import Money
from paymaster.ledger import proof, proof_sql, proof_store, proof_sum, recipes
from paymaster.ledger.chart import Account
from paymaster.ledger.entry import Entry, Posting
from paymaster.ledger.hold import Reserve, reserve
from paymaster.ledger.post import post
from paymaster.ledger.proof import BooksProof, Difference, prove_books, silent
from paymaster.ledger.proof_store import Checkpoint
from paymaster.proof import prove_kept

T = TypeVar("T")
USERS = 80
ONE, TWO = Money(1, "EUR"), Money(2, "EUR")
EQUITY = Account("equity", 0, "EUR")


@pytest.fixture
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with make_world(postgres, connections=10) as made:
        await fill(made, random.Random(1), 50)
        yield made


def user(number: int) -> Account:
    return Account("available", number, "EUR")


def some(rng: random.Random) -> tuple[Posting, ...]:
    """One to three postings among the users, or out of the owner's money."""
    postings: list[Posting] = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        first, second = rng.sample(range(1, USERS + 1), 2)
        source = EQUITY if rng.random() < 0.7 else user(first)
        postings.append(Posting(source, user(second), Money(rng.randint(1, 90), "EUR")))
    return tuple(postings)


async def fill(world: World, rng: random.Random, rounds: int) -> int:
    """Post batches; how many entries went through."""
    done = 0
    for _ in range(rounds):

        async def work(tx) -> int:
            entries = [Entry(i, "test", "x", some(rng)) for i in tx.ids(rng.randint(1, 12))]
            return sum(result.done for result in await post(tx, entries))

        done += await world.run(work)
    return done


async def hold(world: World) -> None:
    async def work(tx) -> None:
        hold_id, fund, request = tx.ids(3)
        ten = Money(1000, "EUR")
        await post(tx, [Entry(fund, "fund", "x", (Posting(EQUITY, user(1), ten),))])
        entry = Entry(request, "request", "x", recipes.request(1, ten))
        (result,) = await reserve(tx, [Reserve(hold_id, entry, "other", "x")])
        assert result.done

    await world.run(work)


async def date_back(world: World) -> None:
    """An entry that took effect before the one recorded last."""

    async def work(tx) -> None:
        postings = (Posting(EQUITY, user(3), Money(5, "EUR")),)
        earlier = tx.now - timedelta(hours=5)
        await post(tx, [Entry(tx.id(), "test", "x", postings, effective_at=earlier)])

    await world.run(work)


async def look(world: World, since: BooksProof | None = None, piece: int = 90) -> BooksProof:
    """Prove the books in pieces of few rows, each on a snapshot of its own."""
    point = None
    if since is not None:
        point = Checkpoint(since.seq, since.at_seq, since.postings, world.clock.now())
    return await prove_books(Pieces(world.cell), silent, point, piece)


def damage(world: World, *statements: str) -> None:
    """Past every right and every check of the tables."""
    with psycopg.connect(world.owner_dsn, autocommit=True) as connection:
        connection.execute("SET search_path TO cell_1")
        connection.execute("SET session_replication_role TO replica")
        for statement in statements:
            assert connection.execute(statement.encode()).rowcount > 0, statement


UNCHECKED = (
    "ALTER TABLE account DROP CONSTRAINT account_check",
    "ALTER TABLE account DROP CONSTRAINT account_check1",
)


async def test_a_commit_that_was_overtaken_needs_no_late_legs(world: World) -> None:
    """Its own postings follow each other, and are recorded later than they are dated."""

    async def overtaking(tx) -> None:
        await post(tx, [Entry(tx.id(), "test", "x", (Posting(user(3), EQUITY, ONE),))])

    async def work(tx) -> None:
        both = tuple(Posting(user(1), user(number), ONE) for number in (2, 4))
        fund = Entry(tx.id(), "test", "x", (Posting(Account("equity", 1, "EUR"), user(1), TWO),))
        assert all(one.done for one in await post(tx, [fund, Entry(tx.id(), "test", "x", both)]))
        world.clock.advance(timedelta(seconds=1))
        await asyncio.create_task(world.run(overtaking), context=contextvars.Context())

    await world.run(work)
    dated = "SELECT count(*) FROM entry e JOIN commit c ON c.id = e.commit_id"
    assert owner_rows(world, f"{dated} WHERE e.effective_at < c.recorded_at")[0][0] == 2
    assert (await look(world)).differences == []


async def found_after(world: World, statements: Sequence[str], piece: int) -> list[Difference]:
    """What is found on a snapshot with some damage, past every right, that is never committed."""
    async with await psycopg.AsyncConnection.connect(world.owner_dsn) as owner:
        await owner.execute("SET search_path TO cell_1")
        await owner.execute("SET session_replication_role TO replica")
        for statement in (*UNCHECKED, *statements):
            done = await owner.execute(statement.encode())
            assert done.rowcount != 0, statement
        tx = CellRead(owner, world.clock.now(), 1, "Europe/Berlin")
        found = (await prove_books(OneSnapshot(tx), silent, None, piece)).differences
        await owner.rollback()
    return found


async def test_what_was_altered_is_named(world: World) -> None:
    await hold(world)
    await date_back(world)
    sound = await look(world)
    assert sound.differences == []
    assert sound.postings == owner_rows(world, "SELECT count(*) FROM posting")[0][0]
    assert await found_after(world, [], 90) == []
    for name, (statements, check) in FAULTS.items():
        found = await found_after(world, statements, 90)
        assert check in {each.check for each in found}, (name, found)
    assert {check for _, check in FAULTS.values()} == set(proof.CHECKS) - {"sum-of-balances"}
    assert await world.read(proof.prove) == []


async def test_what_is_told_of_a_fault(world: World) -> None:
    (row,) = owner_rows(
        world, "SELECT id, balance, postings, last_posting_id FROM account WHERE owner_id = 3"
    )
    damage(world, "UPDATE account SET balance = balance + 7 WHERE owner_id = 3")
    found = (await look(world)).differences
    assert Difference("balance", str(row[0]), str(row[1] + 7), str(row[1])) in found
    assert Difference("sum-of-balances", "EUR", "7", "0") in found
    assert len(found) == 2


async def busy(world: World, stop: asyncio.Event, seed: int) -> int:
    """Post until told to stop."""
    rng, done = random.Random(seed), 0
    while not stop.is_set():
        done += await fill(world, rng, 1)
        await asyncio.sleep(0.02)
    return done


async def test_no_false_alarm_while_several_connections_post(world: World) -> None:
    stop = asyncio.Event()
    writers = [asyncio.create_task(busy(world, stop, seed)) for seed in range(4)]
    try:
        last: BooksProof | None = None
        for piece in (13, 170):
            full = await look(world, piece=piece)
            assert full.differences == []
            gone_on = await look(world, last)
            assert gone_on.differences == []
            assert gone_on.seq >= full.seq > (last.seq if last else 0)
            last = gone_on
    finally:
        stop.set()
        done = await asyncio.gather(*writers)
    assert min(done) > 0
    still = await look(world)
    again = await look(world, last)
    assert still.differences == again.differences == []
    assert still.at_seq == again.at_seq
    assert await world.read(proof.prove) == []


class Interrupted(Pieces):
    """Before each piece is read, something is posted."""

    def __init__(self, world: World, seed: int) -> None:
        super().__init__(world.cell)
        self.world, self.rng, self.posted = world, random.Random(seed), 0

    async def read(self, work: Callable[[CellRead], Awaitable[T]]) -> T:
        self.posted += await fill(self.world, self.rng, 1)
        return await super().read(work)


async def test_whatever_is_posted_between_two_pieces_is_no_difference(world: World) -> None:
    point: Checkpoint | None = None
    for seed in range(2):
        pieces = Interrupted(world, seed)
        found = await prove_books(pieces, silent, None, 97)
        assert found.differences == []
        gone_on = await prove_books(pieces, silent, point, 97)
        assert gone_on.differences == []
        assert pieces.posted > 50
        assert gone_on.seq > found.seq
        point = Checkpoint(gone_on.seq, gone_on.at_seq, gone_on.postings, world.clock.now())


@pytest.mark.parametrize("name", ["account balance", "balance after", "posting gone", "amount"])
async def test_a_fault_that_happens_under_load_is_named(world: World, name: str) -> None:
    stop = asyncio.Event()
    writers = [asyncio.create_task(busy(world, stop, seed)) for seed in range(3)]
    statements, check = FAULTS[name]
    try:
        assert (await look(world)).differences == []
        # In a thread: it may have to wait for a writer of this very loop.
        await asyncio.to_thread(damage, world, *statements)
        found = (await look(world)).differences
    finally:
        stop.set()
        await asyncio.gather(*writers)
    # Where the account moved on from a wrong row, its history is what is wrong now.
    assert {check, "history"} & {each.check for each in found}, found


async def test_a_later_proof_reads_only_what_is_new(world: World) -> None:
    db = world.cell

    async def prove(*, full: bool = False):
        return await prove_kept(db, ACTOR, new_trace_id(), full=full)

    first = await prove()
    assert (first.since_seq, first.differences) == (0, [])
    await fill(world, random.Random(2), 5)
    second = await prove()
    assert (second.since_seq, second.differences) == (first.as_of_seq, [])
    assert 0 < second.postings < first.postings
    assert [row[0] for row in owner_rows(world, "SELECT seq FROM proof ORDER BY seq")] == [
        first.as_of_seq,
        second.as_of_seq,
    ]
    assert (await look(world)).at_seq == second.at_seq
    # An old posting is only read again when asked to; an account's row is always.
    damage(world, f"UPDATE posting SET requested = 1, amount = amount + 1 WHERE id = {PICKED}")
    assert (await prove()).differences == []
    found = await prove(full=True)
    assert "history" in {each.check for each in found.differences}
    damage(world, "UPDATE account SET balance = balance + 1 WHERE owner_id = 5")
    assert "balance" in {each.check for each in (await prove()).differences}
    kept = await world.read(proof_store.last)
    assert kept is not None
    assert kept.seq == second.as_of_seq


async def test_new_entries_are_counted_when_going_on(world: World) -> None:
    first = await look(world)
    await fill(world, random.Random(3), 3)
    damage(world, "UPDATE entry SET postings = 9 WHERE commit_id = (SELECT max(id) FROM commit)")
    found = (await look(world, first)).differences
    assert {each.check for each in found} == {"entry-postings"}


async def test_an_archived_month_leaves_its_sums(world: World) -> None:
    before = await look(world)
    await fill(world, random.Random(4), 5)
    (split,) = owner_rows(
        world,
        "SELECT min(first_posting_id) FROM entry e JOIN commit c ON c.id = e.commit_id"
        " WHERE c.last_seq > %s AND postings > 0",
        before.seq,
    )[0]
    left = await world.read(lambda tx: proof_sum.of_range(tx, 0, split))
    everything = await look(world)
    damage(
        world,
        "INSERT INTO archive (month, low_id, high_id, entries, postings, last_seq,"
        " recorded_through, chain_sum, link_sum, file, sha256, actor, archived_at, commit_id,"
        f" ordinal) VALUES ('2026-10-01', 0, {split}, 1, 1, 1, now(), {left.chain},"
        f" {left.links}, 'x', '', 'x', now(), 1, 0)",
        f"DELETE FROM entry WHERE coalesce(first_posting_id, commit_id) < {split}",
        f"DELETE FROM posting WHERE id < {split}",
    )
    archived = await look(world)
    assert archived.differences == []
    assert archived.at_seq == everything.at_seq
    assert 0 < archived.postings < everything.postings
    assert (await look(world, before)).differences == []
    damage(
        world,
        "UPDATE posting SET destination_balance = destination_balance + 1"
        " WHERE id = (SELECT max(id) FROM posting)",
    )
    assert "history" in {each.check for each in (await look(world)).differences}


async def test_a_server_with_other_hash_functions_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof_sql, "KNOWN_MARK", 1)
    with pytest.raises(Broken, match="proof-marks"):
        await look(world)
