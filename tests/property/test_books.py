"""`post` against a plain model of the books: any batch, the same verdicts and balances."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

import pytest
from tests.world import PostgresServer, World, make_world

from paymaster.db.tx import CellTx
from paymaster.kernel.money import Money
from paymaster.ledger import balance, proof
from paymaster.ledger.chart import KINDS, Account
from paymaster.ledger.entry import Entry, Mode, Posted, Posting, Verdict
from paymaster.ledger.post import post


@dataclass
class Model:
    """The books as a dictionary, one entry at a time."""

    balances: dict[Account, int] = field(default_factory=dict)
    seen: dict[int, bytes] = field(default_factory=dict)

    def post(self, entry: Entry) -> Verdict:
        if entry.id in self.seen:
            same = self.seen[entry.id] == entry.digest()
            return Verdict.DUPLICATE if same else Verdict.CONFLICT
        trial = dict(self.balances)
        shared = 0
        for posting in entry.postings:
            source, destination = posting.source, posting.destination
            if not source.asset == destination.asset == posting.amount.currency:
                return Verdict.CURRENCY
            asked = posting.amount.minor
            if posting.mode is not Mode.EXACT:
                asked = max(0, asked - shared)
            floor, ceiling = KINDS[source.kind].floor, KINDS[destination.kind].ceiling
            out = None if floor is None else trial.get(source, 0) - floor
            room = None if ceiling is None else ceiling - trial.get(destination, 0)
            if posting.mode is Mode.UP_TO:
                asked = max(0, min(x for x in (asked, out, room) if x is not None))
            if out is not None and asked > out:
                return Verdict.INSUFFICIENT
            if room is not None and asked > room:
                return Verdict.CEILING
            if posting.mode is not Mode.EXACT:
                shared += asked
            trial[source] = trial.get(source, 0) - asked
            trial[destination] = trial.get(destination, 0) + asked
        self.balances, self.seen[entry.id] = trial, entry.digest()
        return Verdict.POSTED

    def post_batch(self, entries: list[Entry]) -> list[Verdict]:
        verdicts: list[Verdict] = []
        index = 0
        while index < len(entries):
            group = [entries[index]]
            while (
                group[0].link is not None
                and index + len(group) < len(entries)
                and entries[index + len(group)].link == group[0].link
            ):
                group.append(entries[index + len(group)])
            before = dict(self.balances), dict(self.seen)
            results = []
            for entry in group:
                results.append(self.post(entry))
                if results[-1] not in (Verdict.POSTED, Verdict.DUPLICATE):
                    self.balances, self.seen = before
                    results = [Verdict.LINKED] * len(group)
                    results[group.index(entry)] = self._alone(entry, before, group)
                    break
            verdicts += results
            index += len(group)
        return verdicts

    def _alone(
        self, entry: Entry, before: tuple[dict[Account, int], dict[int, bytes]], group: list[Entry]
    ) -> Verdict:
        probe = Model(dict(before[0]), dict(before[1]))
        for other in group:
            verdict = probe.post(other)
            if other is entry:
                return verdict
        raise AssertionError("the entry is not in its group")


USERS = range(1, 7)


def random_entry(rng: random.Random, entry_id: int, link: str | None) -> Entry:
    def account() -> Account:
        kind = rng.choice(["available", "available", "vesting", "debt", "cash", "budget", "equity"])
        owner = rng.choice(USERS) if kind not in ("cash", "equity") else 0
        return Account(kind, owner, rng.choice(["EUR"] * 9 + ["JPY"]))

    postings: list[Posting] = []
    while len(postings) < rng.choice([1, 1, 1, 2, 3]):
        source, destination = account(), account()
        if source == destination:
            continue
        money = Money(rng.choice([1, 5, 20, 100]), "EUR")
        postings.append(Posting(source, destination, money, rng.choice([*Mode, Mode.EXACT])))
    return Entry(entry_id, "test", f"s{entry_id % 3}", tuple(postings), link=link)


def random_batch(rng: random.Random, fresh: list[int], used: list[Entry]) -> list[Entry]:
    entries: list[Entry] = []
    link, left = None, 0
    for entry_id in fresh:
        if left == 0:
            left = rng.choice([0, 0, 0, 2, 3])
            link = f"l{entry_id}" if left else None
        if used and rng.random() < 0.08:
            entries.append(rng.choice(used) if rng.random() < 0.7 else None or rng.choice(used))
            left, link = 0, None
            continue
        if used and rng.random() < 0.03:
            old = rng.choice(used)
            entries.append(Entry(old.id, "other", old.subject, old.postings))
            left, link = 0, None
            continue
        entry = random_entry(rng, entry_id, link)
        used.append(entry)
        entries.append(entry)
        left = max(0, left - 1)
        if left == 0:
            link = None
    return _separated(entries)


def _separated(entries: list[Entry]) -> list[Entry]:
    """Replayed linked entries stand alone: a link must not appear in two places of one batch."""
    seen: set[str] = set()
    kept: list[Entry] = []
    for entry in entries:
        if entry.link in seen and (not kept or kept[-1].link != entry.link):
            continue
        if entry.link:
            seen.add(entry.link)
        kept.append(entry)
    return kept


async def test_random_batches_equal_the_model(postgres: PostgresServer) -> None:
    rng = random.Random(20261121)
    async with make_world(postgres, moves=[]) as world:
        model, used = Model(), list[Entry]()
        counted: dict[Verdict, int] = {}
        for _ in range(400):
            fresh = await world.run(lambda tx: _ids(tx, rng.randint(1, 25)))
            entries = random_batch(rng, fresh, used)
            results = await world.run(lambda tx, entries=entries: post(tx, entries))
            expected = model.post_batch(entries)
            assert [result.verdict for result in results] == expected
            for verdict in expected:
                counted[verdict] = counted.get(verdict, 0) + 1
        assert set(counted) >= set(Verdict) - {Verdict.CLOSED, Verdict.OVERFLOW, Verdict.HOLD}
        await _equal(world, model)


async def _equal(world: World, model: Model) -> None:
    for account, expected in model.balances.items():
        stored = await world.read(lambda tx, a=account: balance.account_balance(tx, a))
        assert stored == expected, account
    assert await world.read(proof.prove) == []


async def test_concurrent_writers_never_overdraw_and_never_post_twice(
    postgres: PostgresServer,
) -> None:
    """Eight writers replay overlapping entries; every entry lands once, the floor holds."""
    async with make_world(postgres, moves=[]) as world:
        user, cash = Account("available", 7, "EUR"), Account("cash", 1, "EUR")
        ids = await world.run(lambda tx: _ids(tx, 401))
        fund = Entry(ids[0], "fund", "x", (Posting(cash, user, Money(1000, "EUR")),))
        await world.run(lambda tx: post(tx, [fund]))
        spend = [
            Entry(i, "spend", "x", (Posting(user, Account("vesting", 7, "EUR"), Money(10, "EUR")),))
            for i in ids[1:]
        ]

        async def writer(seed: int) -> list[tuple[int, Verdict]]:
            rng = random.Random(seed)
            found: list[tuple[int, Verdict]] = []
            for _ in range(20):
                batch = rng.sample(spend, 20)
                results = await world.run(lambda tx, batch=batch: post(tx, batch))
                found += [(result.entry_id, result.verdict) for result in results]
            return found

        outcomes = [pair for run in await asyncio.gather(*map(writer, range(8))) for pair in run]
        posted = [entry_id for entry_id, verdict in outcomes if verdict is Verdict.POSTED]
        assert len(posted) == len(set(posted)) == 100
        duplicates = {entry_id for entry_id, verdict in outcomes if verdict is Verdict.DUPLICATE}
        assert duplicates <= set(posted)
        refused = {entry_id for entry_id, verdict in outcomes if verdict is Verdict.INSUFFICIENT}
        assert refused
        assert await world.read(lambda tx: balance.account_balance(tx, user)) == 0
        assert await world.read(proof.prove) == []


@pytest.mark.parametrize("alike", [True, False])
async def test_one_id_posted_twice_at_once_on_accounts_apart_is_told(
    postgres: PostgresServer, *, alike: bool
) -> None:
    """Nothing but the id makes them meet: whoever comes second is told as if it had come later."""
    async with make_world(postgres, moves=[]) as world:
        [number] = await world.run(lambda tx: _ids(tx, 1))
        wrote, ended = asyncio.Event(), asyncio.Event()

        def entry(owner: int) -> Entry:
            source, destination = Account("cash", owner, "EUR"), Account("suspense", owner, "EUR")
            return Entry(number, "move", "x", (Posting(source, destination, Money(5, "EUR")),))

        async def first(tx: CellTx) -> list[Posted]:
            posted = await post(tx, [entry(1)])
            wrote.set()
            await ended.wait()
            return posted

        winner = asyncio.create_task(world.run(first))
        await wrote.wait()
        other = asyncio.create_task(world.run(lambda tx: post(tx, [entry(1 if alike else 2)])))
        await asyncio.sleep(0.2)
        ended.set()
        assert [one.verdict for one in await winner] == [Verdict.POSTED]
        told = Verdict.DUPLICATE if alike else Verdict.CONFLICT
        assert [one.verdict for one in await other] == [told]
        assert await world.read(proof.prove) == []


async def _ids(tx: CellTx, count: int) -> list[int]:
    return tx.ids(count)
