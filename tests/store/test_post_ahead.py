"""Large batches whose entries are written while they are decided, and when they are not.

What is stored must be the same either way, and whatever may be refused is decided first.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from tests.world import ACTOR, PostgresServer, World, make_world, owner_rows

from paymaster.db.tx import CellTx
from paymaster.kernel.clock import business_day, start_of_day
from paymaster.kernel.errors import Broken
from paymaster.kernel.ids import new_trace_id
from paymaster.kernel.money import MAX_MINOR, Money
from paymaster.ledger import post as posting
from paymaster.ledger import proof
from paymaster.ledger.accounts import Sums
from paymaster.ledger.chart import Account
from paymaster.ledger.entry import Entry, Posted, Posting, Verdict
from paymaster.ledger.post import post
from paymaster.ledger.store import find_account

pytestmark = pytest.mark.asyncio(loop_scope="module")

CASH, HOUSE = Account("cash", 7, "EUR"), Account("equity", 0, "EUR")
MANY = 320
"""Entries enough for COPY, also where statements are sent together."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with make_world(postgres, moves=[], connections=2) as made:
        yield made
        assert await made.read(proof.prove) == []


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many entries were written while they were decided, batch by batch."""
    found: list[int] = []
    written = posting.write_ahead

    async def watched(tx: CellTx, taken: Any, books: Any, entries: Any, *rest: Any) -> Any:
        found.append(len(entries))
        return await written(tx, taken, books, entries, *rest)

    monkeypatch.setattr(posting, "write_ahead", watched)
    return found


def user(number: int) -> Account:
    return Account("available", number, "EUR")


def entry(number: int, source: Account, destination: Account, minor: int) -> Entry:
    amount = Money(minor, "EUR")
    return Entry(number, "test", f"s\\{number}\t", (Posting(source, destination, amount),))


async def ids(world: World, count: int = MANY) -> list[int]:
    async def work(tx: CellTx) -> list[int]:
        return tx.ids(count)

    return await world.run(work)


async def posted(world: World, entries: Sequence[Entry], *, merged: bool = False) -> list[Verdict]:
    async def work(tx: CellTx) -> list[Posted]:
        return await post(tx, entries)

    told = await world.cell.run(ACTOR, new_trace_id(), work, merged=merged)
    assert [one.entry_id for one in told] == [one.id for one in entries]
    return [one.verdict for one in told]


async def fund(world: World, first: int, minor: int = 100) -> list[Entry]:
    """So many users from `first` on are given something."""
    made = [
        entry(number, CASH, user(first + at), minor) for at, number in enumerate(await ids(world))
    ]
    assert await posted(world, made) == [Verdict.POSTED] * MANY
    return made


async def balance(world: World, account: Account) -> tuple[int, int]:
    found = await world.read(lambda tx: find_account(tx, account))
    assert found is not None
    return found.balance, found.postings


def stored(world: World, entries: Sequence[Entry]) -> list[tuple[Any, ...]]:
    return owner_rows(
        world,
        "SELECT e.id, e.subject, e.effective_at, e.digest, c.last_seq - c.first_seq + 1, e.ordinal,"
        " e.postings, p.id = e.first_posting_id AND p.id = e.last_posting_id, p.amount"
        " FROM entry e JOIN commit c ON c.id = e.commit_id JOIN posting p ON p.entry_id = e.id"
        " WHERE e.id = ANY(%s) ORDER BY e.id",
        [one.id for one in entries],
    )


def expected(entries: Sequence[Entry], at: datetime) -> list[tuple[Any, ...]]:
    return [
        (
            one.id, one.subject, at, one.digest(), len(entries), place, 1, True,
            one.postings[0].amount.minor,
        )
        for place, one in enumerate(entries)
    ]  # fmt: skip


@pytest.mark.parametrize("merged", [False, True])
async def test_what_can_only_be_posted_is_written_while_it_is_decided(
    world: World, ahead: list[int], merged: bool
) -> None:
    first = 1000 + 1000 * merged
    await fund(world, first)
    spent = [
        entry(number, user(first + at), HOUSE, 40) for at, number in enumerate(await ids(world))
    ]
    assert await posted(world, spent, merged=merged) == [Verdict.POSTED] * MANY
    assert ahead == [MANY, MANY], "also where the accounts are new"
    assert stored(world, spent) == expected(spent, world.clock.now())
    assert await balance(world, user(first)) == (60, 2)
    assert await posted(world, spent, merged=merged) == [Verdict.DUPLICATE] * MANY
    assert await balance(world, user(first + 1)) == (60, 2)
    assert len(ahead) == 2


async def test_one_that_has_too_little_is_refused_and_the_others_are_posted(
    world: World, ahead: list[int]
) -> None:
    await fund(world, 3000)
    ahead.clear()
    spent = [
        entry(number, user(3000 + at), HOUSE, 101 if at == 5 else 100)
        for at, number in enumerate(await ids(world))
    ]
    told = await posted(world, spent)
    assert [at for at, one in enumerate(told) if one is Verdict.INSUFFICIENT] == [5]
    assert ahead == []
    kept = [one for at, one in enumerate(spent) if at != 5]
    assert stored(world, kept) == expected(kept, world.clock.now())
    assert await balance(world, user(3005)) == (100, 1)


async def test_one_that_gives_before_it_is_given_as_much_is_no_certain_case(
    world: World, ahead: list[int]
) -> None:
    """What is asked of the account comes to nothing; its balance is the same either way."""
    await fund(world, 4000)
    ahead.clear()
    numbers = await ids(world)
    made = [entry(number, user(4000 + at), HOUSE, 1) for at, number in enumerate(numbers)]
    made[10] = entry(numbers[10], user(4000), HOUSE, 500)
    made[20] = entry(numbers[20], CASH, user(4000), 501)
    told = await posted(world, made)
    assert [at for at, one in enumerate(told) if one is not Verdict.POSTED] == [10]
    assert ahead == []
    assert await balance(world, user(4000)) == (100 - 1 + 501, 3)


DEBT, MOST = Account("debt", 4500, "EUR"), Account("suspense", 4500, "EUR")
LEAST, SINK = Account("cash", 4501, "EUR"), Account("suspense", 4501, "EUR")
EDGE = MAX_MINOR - 100
Move = tuple[Account, Account, int]


@pytest.mark.parametrize(
    ("before", "one", "verdict"),
    [
        (None, (user(4999), HOUSE, 1), Verdict.INSUFFICIENT),
        (None, (CASH, Account("debt", 4999, "EUR"), 1), Verdict.CEILING),
        ((DEBT, HOUSE, 10), (CASH, DEBT, 11), Verdict.CEILING),
        ((Account("cash", 4502, "EUR"), MOST, EDGE), (CASH, MOST, 101), Verdict.OVERFLOW),
        ((LEAST, SINK, EDGE), (LEAST, HOUSE, 101), Verdict.OVERFLOW),
    ],
    ids=["new, without money", "new, without debt", "less debt", "the most", "the least"],
)
async def test_an_account_without_room_is_seen_before_anything_is_written(
    world: World, ahead: list[int], before: Move | None, one: Move, verdict: Verdict
) -> None:
    await fund(world, 4600)
    if before is not None:
        [number] = await ids(world, 1)
        assert await posted(world, [entry(number, *before)]) == [Verdict.POSTED]
    ahead.clear()
    numbers = await ids(world)
    made = [entry(number, user(4600 + at), HOUSE, 1) for at, number in enumerate(numbers)]
    made[5] = entry(numbers[5], *one)
    told = await posted(world, made)
    assert {at: found for at, found in enumerate(told) if found is not Verdict.POSTED} == {
        5: verdict
    }
    assert ahead == []
    kept = [each for at, each in enumerate(made) if at != 5]
    assert stored(world, kept) == expected(kept, world.clock.now())


async def test_what_depends_on_the_batch_itself_is_decided_first(
    world: World, ahead: list[int]
) -> None:
    await fund(world, 5000)
    ahead.clear()
    numbers = await ids(world)
    made = [entry(number, user(5000 + at), HOUSE, 1) for at, number in enumerate(numbers)]
    twice = [*made[:-1], made[0]]
    assert await posted(world, twice) == [Verdict.POSTED] * (MANY - 1) + [Verdict.DUPLICATE]
    other = [entry(number, user(5000 + at), HOUSE, 1) for at, number in enumerate(await ids(world))]
    dollars = Posting(user(5001), HOUSE, Money(1, "USD"))
    other[1] = replace(other[1], postings=(dollars,))
    told = await posted(world, other)
    assert [at for at, one in enumerate(told) if one is Verdict.CURRENCY] == [1]
    assert ahead == []


async def test_a_guess_that_does_not_come_true_is_never_committed(
    world: World, ahead: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    await fund(world, 6000)
    spent = [
        entry(number, user(6000 + at), HOUSE, 101 if at == 5 else 100)
        for at, number in enumerate(await ids(world))
    ]
    with monkeypatch.context() as patched:
        patched.setattr(Sums, "fit", lambda *_: True)
        with pytest.raises(Broken, match="post-foreseen"):
            await posted(world, spent)
    assert len(ahead) == 2
    assert stored(world, spent) == []
    assert await balance(world, user(6000)) == (100, 1)


async def test_entries_are_not_dated_before_what_is_recorded(
    world: World, ahead: list[int]
) -> None:
    """Another process' clock was ahead of ours: the guess was of another moment."""
    recorded = world.clock.now() + timedelta(hours=1)

    async def later(tx: CellTx) -> None:
        tx.now = recorded
        [one] = await post(tx, [entry(tx.id(), CASH, user(7000), 1)])
        assert one.verdict is Verdict.POSTED

    await world.run(later)
    made = await fund(world, 7000)
    assert ahead == []
    assert stored(world, made) == expected(made, recorded)
    world.clock.advance(timedelta(hours=2))
    own = [
        replace(one, effective_at=datetime(2026, 1, 1, tzinfo=UTC)) for one in await again(world)
    ]
    assert await posted(world, own) == [Verdict.POSTED] * MANY
    assert ahead == [MANY], "one with a date of its own keeps it"
    [(late,)] = owner_rows(
        world,
        "SELECT count(*) FROM late_leg l WHERE l.posting_id IN"
        " (SELECT first_posting_id FROM entry WHERE id = ANY(%s))",
        [one.id for one in own],
    )
    assert late == 2 * MANY


async def again(world: World) -> list[Entry]:
    return [entry(number, user(7000 + at), HOUSE, 1) for at, number in enumerate(await ids(world))]


async def test_entries_of_a_closed_day_are_dated_after_it(world: World, ahead: list[int]) -> None:
    await fund(world, 8000)
    zone = world.cell.time_zone
    today = business_day(world.clock.now(), zone)

    async def close(tx: CellTx) -> None:
        assert await tx.execute("UPDATE head SET closed_through = %s", (today,)) == 1

    await world.run(close)
    ahead.clear()
    made = await fund(world, 8000)
    assert ahead == []
    assert stored(world, made) == expected(made, start_of_day(today + timedelta(days=1), zone))
