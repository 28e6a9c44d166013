"""A cell with a long past: millions of valid postings by COPY, a million in about twelve seconds.

What `post` would have stored is worked out here in plain Python and copied in: accounts, commits,
entries with their digests, postings with links, numbers and balances after, marks of histories, and
`head`. `paymaster ledger prove` finds nothing to say about it. For measurements only: it
wants an empty cell and the owner's connection, and it takes no locks.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from queue import Queue
from random import Random
from threading import Thread
from typing import LiteralString

import psycopg
from psycopg import sql

from paymaster.db import partitions
from paymaster.kernel.clock import milliseconds
from paymaster.kernel.errors import Broken
from paymaster.kernel.ids import time_floor
from paymaster.kernel.money import exponent
from paymaster.ledger.chart import KINDS
from paymaster_bench.workload import (
    ASSET,
    EARNED_SHARE,
    SPONSORS,
    Accounts,
    Zipf,
)

BATCH = 1000
"""Entries of one commit; each has one posting."""
WORKER = 63
"""Under whose number the ids are made: nobody else's, as long as nobody leases the last one."""
MARKED = 64
"""Every so manyth posting of an account has a mark."""
_DRAWN = 100_000
_TRACE = "0" * 32
_WAITING = 64

_COPIES: dict[str, LiteralString] = {
    "entry": "COPY entry (id, commit_id, ordinal, kind, recipe_version, subject, postings,"
    " effective_at, effective_day, digest, evidence, reverses_id, trace_id, first_posting_id,"
    " last_posting_id) FROM STDIN",
    "posting": "COPY posting (id, entry_id, source_id, destination_id, amount, asset, requested,"
    " source_previous, source_number, source_balance, destination_previous, destination_number,"
    " destination_balance) FROM STDIN",
    "commit": "COPY commit (id, first_seq, last_seq, recorded_at, actor, trace_id) FROM STDIN",
    "account_mark": "COPY account_mark (account_id, number, posting_id) FROM STDIN",
}


@dataclass(frozen=True, slots=True)
class Preload:
    """How much past: `postings` in all, the accounts' openings among them, over so many `days`.

    `until` is when it ends (None: a minute ago).
    """

    postings: int
    users: int = 1_000_000
    days: int = 10
    until: datetime | None = None
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is there now."""

    accounts: Accounts
    postings: int
    commits: int
    first_posting_id: int
    last_posting_id: int
    seconds: float


@dataclass(slots=True)
class _Books:
    """The accounts in memory, by number, and the lines that they make."""

    accounts: Accounts
    ids: array[int]
    balance: array[int]
    number: array[int]
    last: array[int]
    named: list[str] = field(default_factory=list[str])


@dataclass(slots=True)
class _Lines:
    """One commit's rows, in COPY's text form."""

    entry: list[str] = field(default_factory=list[str])
    posting: list[str] = field(default_factory=list[str])
    account_mark: list[str] = field(default_factory=list[str])
    commit: list[str] = field(default_factory=list[str])


def preload(
    owner_dsn: str,
    wanted: Preload,
    *,
    schema: str = "cell_1",
    told: Callable[[int], None] | None = None,
) -> Loaded:
    """Fill the empty cell in `schema`. Raises Broken `preload-not-empty` when it is not empty.

    `told` hears the number of postings written so far, every 100,000. Business days are UTC's.
    """
    began = datetime.now(UTC)
    until = wanted.until or began - timedelta(minutes=1)
    start = until - timedelta(days=wanted.days)
    with psycopg.connect(owner_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(schema)))
        if connection.execute("SELECT EXISTS (SELECT FROM entry)").fetchone() != (False,):
            raise Broken("preload-not-empty", "The cell has entries already.")
        _partitions(connection, start, until)
    books, commits, ids = _new_books(wanted, start), 0, (0, 0)
    with _streams(owner_dsn, schema) as streams:
        for lines, first, last in _commits(books, wanted, start, until):
            commits += 1
            ids = (ids[0] or first, last)
            for table, stream in streams.items():
                text = "".join(getattr(lines, table))
                if text:
                    stream.put(text.encode())
            if told is not None and commits % (100_000 // BATCH) == 0:
                told(min(commits * BATCH, wanted.postings))
    with psycopg.connect(owner_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(schema)))
        _finish(connection, books, wanted.postings)
    seconds = (datetime.now(UTC) - began).total_seconds()
    return Loaded(books.accounts, wanted.postings, commits, *ids, seconds)


def _partitions(
    connection: psycopg.Connection[tuple[object, ...]], start: datetime, until: datetime
) -> None:
    month = partitions.month_after(start, 0)
    while month <= until:
        partitions.ensure(connection, month)
        month = partitions.month_after(month, 1)


def _new_books(wanted: Preload, start: datetime) -> _Books:
    accounts = Accounts(wanted.users)
    count = accounts.cash + 1
    if wanted.postings < accounts.clearing:
        raise Broken("preload-short", f"{accounts.clearing} accounts are opened by as many.")
    # Account ids lie before every other id: one worker, the hour before the first commit.
    floor = time_floor(milliseconds(start) - 3_600_000)
    per_ms = 50_000
    ids = array("q", (
        floor + (n // per_ms << 22) | WORKER << 16 | n % per_ms for n in range(count)
    ))  # fmt: skip
    zeros = array("q", bytes(8 * count))
    named: list[str] = []
    for number in range(count):
        account = accounts.account(number)
        named.append(f"{account.kind}:{account.owner_id}")
    return _Books(accounts, ids, zeros[:], zeros[:], zeros[:], named)


def _commits(
    books: _Books, wanted: Preload, start: datetime, until: datetime
) -> Generator[tuple[_Lines, int, int]]:
    """The rows of each commit, with its first and last posting id."""
    count = -(-wanted.postings // BATCH)
    begin = milliseconds(start)
    span = milliseconds(until) - begin
    if span < count:
        raise Broken("preload-crowded", "More than one commit in a millisecond.")
    done = 0
    moves = _moves(books.accounts, wanted)
    for index in range(count):
        ms = begin + span * index // count
        size = min(BATCH, wanted.postings - done)
        base = time_floor(ms) | WORKER << 16
        yield _commit(books, [next(moves) for _ in range(size)], base, done, ms)
        done += size


def _moves(accounts: Accounts, wanted: Preload) -> Generator[tuple[str, int, int, int]]:
    """Kind, source, destination, amount: all openings, then the traffic, for ever."""
    for number in range(accounts.clearing):
        yield "opening", accounts.cash, number, accounts.opening(number)
    random = Random(wanted.seed)
    users, sponsors = Zipf(accounts.users, random), Zipf(SPONSORS, random)
    clearing, chance, pick = accounts.clearing, random.random, random.randrange
    while True:
        for user, sponsor in zip(users.draw(_DRAWN), sponsors.draw(_DRAWN), strict=True):
            if chance() < EARNED_SHARE:
                yield "bench", accounts.budget(sponsor), user, 1 + pick(500)
            else:
                yield "bench", user, clearing, 1 + pick(100)


def _commit(
    books: _Books, moves: Sequence[tuple[str, int, int, int]], base: int, done: int, ms: int
) -> tuple[_Lines, int, int]:
    lines, size = _Lines(), len(moves)
    ids, balance, number, last = books.ids, books.balance, books.number, books.last
    moment = datetime.fromtimestamp(ms / 1000, UTC)
    at, day = moment.isoformat(), moment.date().isoformat()
    first_entry, first_posting = base + 1, base + 1 + size
    blake, named = hashlib.blake2b, books.named
    for place, (kind, source, target, amount) in enumerate(moves):
        entry_id, posting_id = first_entry + place, first_posting + place
        before_source, before_target = last[source] or "\\N", last[target] or "\\N"
        balance[source] -= amount
        balance[target] += amount
        number[source] += 1
        number[target] += 1
        last[source] = last[target] = posting_id
        lines.account_mark += [
            f"{ids[account]}\t{number[account]}\t{posting_id}\n"
            for account in (source, target)
            if number[account] % MARKED == 0
        ]
        digest = blake(
            f"{kind}\nmove-{entry_id}\n{named[source]}>{named[target]}={amount}{ASSET}/exact".encode(),
            digest_size=16,
        ).hexdigest()
        lines.entry.append(
            f"{entry_id}\t{base}\t{place}\t{kind}\t1\tmove-{entry_id}\t1\t{at}\t{day}\t\\\\x{digest}"
            f"\t{{}}\t\\N\t{_TRACE}\t{posting_id}\t{posting_id}\n"
        )
        lines.posting.append(
            f"{posting_id}\t{entry_id}\t{ids[source]}\t{ids[target]}\t{amount}\t{ASSET}\t{amount}"
            f"\t{before_source}\t{number[source]}\t{balance[source]}"
            f"\t{before_target}\t{number[target]}\t{balance[target]}\n"
        )
    lines.commit.append(f"{base}\t{done + 1}\t{done + size}\t{at}\tbench\t{_TRACE}\n")
    return lines, first_posting, first_posting + size - 1


@contextmanager
def _streams(owner_dsn: str, schema: str) -> Generator[dict[str, Queue[bytes | None]]]:
    """A COPY into each table, each over a connection and a thread of its own."""
    queues: dict[str, Queue[bytes | None]] = {table: Queue(_WAITING) for table in _COPIES}
    failed: list[BaseException] = []

    def write(table: str) -> None:
        queue = queues[table]
        try:
            with psycopg.connect(owner_dsn) as connection:
                connection.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(schema)))
                with connection.cursor().copy(_COPIES[table]) as copy:
                    while (block := queue.get()) is not None:
                        copy.write(block)
        except BaseException as error:  # noqa: BLE001 - raised below, in the caller's thread
            failed.append(error)
            while queue.get() is not None:
                continue

    threads = [Thread(target=write, args=(table,), daemon=True) for table in queues]
    for thread in threads:
        thread.start()
    try:
        yield queues
    finally:
        for queue in queues.values():
            queue.put(None)
        for thread in threads:
            thread.join()
    if failed:
        raise failed[0]


def _finish(connection: psycopg.Connection[tuple[object, ...]], books: _Books, seq: int) -> None:
    """The account rows as the last posting left them, and the head."""
    scale = exponent(ASSET)
    with connection.cursor().copy(
        "COPY account (id, kind, owner_id, asset, scale, balance, floor, ceiling, postings,"
        " last_posting_id) FROM STDIN"
    ) as copy:
        for number, name in enumerate(books.named):
            kind, owner = name.split(":")
            floor, ceiling = KINDS[kind].floor, KINDS[kind].ceiling
            last = books.last[number]
            row = (
                books.ids[number],
                kind,
                int(owner),
                ASSET,
                scale,
                books.balance[number],
                floor,
                ceiling,
                books.number[number],
                last or None,
            )
            copy.write_row(row)
    connection.execute(
        "UPDATE head SET seq = last_seq, recorded_at = c.recorded_at FROM commit c"
        " WHERE head.id = 1 AND c.last_seq = %s",
        (seq,),
    )
    connection.execute("VACUUM (FREEZE, ANALYZE)")
