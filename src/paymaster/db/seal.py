"""The hash chain: blocks of whole commits, each holding the hash of the one before.

Sealing reads what was committed a moment ago and writes one row a block; it takes no lock that a
writer of the books waits for. A block's records are found and hashed by the database
(`seal_format`); what comes back is 36 bytes a record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import zip_longest

from paymaster.db import seal_format
from paymaster.db.pool import CellDb, ControlDb
from paymaster.db.seal_format import MARK_BYTES, MAX_OFFSET, Span
from paymaster.db.tx import CellRead, ReadTx, Writes
from paymaster.kernel.errors import Broken

Place = ControlDb | CellDb
"""A schema with a chain of its own."""

BLOCK_SEQS = 16_384
"""Places that a block has at most, unless one commit alone has more."""

_ROW = 36


@dataclass(frozen=True, slots=True)
class Part:
    """The records of one table in a block; `digest` is over the offsets and leaves of all."""

    table: str
    count: int
    digest: bytes
    marks: bytes


@dataclass(frozen=True, slots=True)
class Block:
    """A sealed block. `hash` is empty until it is computed."""

    number: int
    format: int
    first_seq: int
    last_seq: int
    parts: tuple[Part, ...]
    previous: bytes
    sealed_at: datetime
    hash: bytes = b""

    @property
    def records(self) -> int:
        """How many records it covers."""
        return sum(part.count for part in self.parts)


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a chain."""

    chain: str
    block: int
    format: int
    last_seq: int
    hash: bytes
    sealed_at: datetime


def chain_of(place: Place) -> str:
    """The name of a schema's chain: `control` or `cell:N`."""
    return f"cell:{place.number}" if isinstance(place, CellDb) else "control"


def kind_of(tx: ReadTx) -> str:
    """`cell` or `control`."""
    return "cell" if isinstance(tx, CellRead) else "control"


def origin(chain: str) -> bytes:
    """What stands before the first block, so that no chain can pass for another."""
    return hashlib.sha256(b"paymaster chain\0" + chain.encode()).digest()


def hash_of(block: Block) -> bytes:
    """The hash of a block: everything in its row but the hash itself, each behind its length."""
    fields = [
        b"paymaster seal",
        str(block.number).encode(),
        str(block.format).encode(),
        str(block.first_seq).encode(),
        str(block.last_seq).encode(),
        block.sealed_at.astimezone(UTC).isoformat(timespec="microseconds").encode(),
        block.previous,
    ]
    for part in block.parts:
        fields += [part.table.encode(), str(part.count).encode(), part.digest, part.marks]
    found = hashlib.sha256()
    for field in fields:
        found.update(len(field).to_bytes(4))
        found.update(field)
    return found.digest()


async def prepare(tx: ReadTx) -> None:
    """Plans for this transaction only: ranges of new rows, of which statistics know nothing yet.

    To who takes a thousand commits for three, going through them once a row looks cheap.
    """
    await tx.tuples(
        "SELECT set_config('plan_cache_mode', 'force_custom_plan', true),"
        " set_config('enable_seqscan', 'off', true), set_config('enable_material', 'off', true),"
        " set_config('jit', 'off', true)"
    )


async def span_of(tx: ReadTx, first: int, last: int) -> Span:
    """The ids that belong to whole commits from seq `first` to `last`."""
    low, high = (
        await tx.tuples(
            "SELECT coalesce(min(id), 0), coalesce(max(id), -1) FROM commit"
            " WHERE last_seq BETWEEN %s AND %s",
            (first, last),
        )
    )[0]
    postings = (0, -1)
    if kind_of(tx) == "cell":
        postings = (
            await tx.tuples(
                "SELECT coalesce(min(e.first_posting_id), 0), coalesce(max(e.last_posting_id), -1)"
                " FROM commit c JOIN entry e ON e.commit_id = c.id"
                " WHERE c.last_seq BETWEEN %s AND %s AND e.commit_id BETWEEN %s AND %s",
                (first, last, low, high),
            )
        )[0]
    return Span(first, last, low, high, *postings)


async def parts_of(tx: ReadTx, number: int, span: Span, *, legacy: bool) -> tuple[Part, ...]:
    """The records of a span by table, in the tables' order; tables without any are left out."""
    kind = kind_of(tx)
    statement = seal_format.records(number, kind, legacy=legacy)
    found = dict(await tx.tuples(statement, span.parameters()))
    names = [table.name for table in seal_format.tables(number, kind)]
    return tuple(_part(name, bytes(found[name])) for name in names if found[name])


def _part(table: str, rows: bytes) -> Part:
    """A mark is the low bytes of the offset and the first of the leaf: they stand together."""
    marks = b"".join([rows[at : at + MARK_BYTES] for at in range(1, len(rows), _ROW)])
    return Part(table, len(rows) // _ROW, hashlib.sha256(rows).digest(), marks)


@dataclass(frozen=True, slots=True)
class Waiting:
    """What is not sealed yet: the seq that the next block would reach, and since when."""

    after: Head | None
    reach: int | None
    committed: int
    oldest: datetime | None


async def waiting(tx: ReadTx, chain: str) -> Waiting:
    """What the next block would be; `reach` is None when nothing waits."""
    after = await head(tx, chain)
    sealed = after.last_seq if after else 0
    rows = await tx.tuples(
        """
        SELECT coalesce(
            (SELECT max(last_seq) FROM commit WHERE last_seq > %(sealed)s AND last_seq <= %(most)s),
            (SELECT min(last_seq) FROM commit WHERE last_seq > %(sealed)s)),
            (SELECT max(last_seq) FROM commit),
            (SELECT recorded_at FROM commit WHERE last_seq > %(sealed)s ORDER BY last_seq LIMIT 1)
        """,
        {"sealed": sealed, "most": sealed + BLOCK_SEQS},
    )
    reach, committed, oldest = rows[0]
    return Waiting(after, reach, committed or 0, oldest)


async def make(tx: ReadTx, chain: str, found: Waiting) -> Block:
    """The next block, computed on the snapshot of `tx`; block 0 when the chain is empty.

    Raises Broken `chain-gap` when commits are missing, `chain-block-size` for a commit of more
    places than a block can have.
    """
    after, legacy = found.after, found.after is None
    first, last = (after.last_seq + 1, found.reach or 0) if after else (0, 0)
    if last - first > MAX_OFFSET:
        raise Broken("chain-block-size", f"The commit that ends at {last} is too large to seal.")
    await prepare(tx)
    if not legacy:
        await _refuse_gap(tx, first, last)
    span = Span(0, 0, 0, -1, 0, -1) if legacy else await span_of(tx, first, last)
    number = 0 if after is None else after.block + 1
    block = Block(
        number,
        seal_format.NEWEST,
        first,
        last,
        await parts_of(tx, seal_format.NEWEST, span, legacy=legacy),
        after.hash if after else origin(chain),
        tx.now,
    )
    return replace(block, hash=hash_of(block))


async def _refuse_gap(tx: ReadTx, first: int, last: int) -> None:
    """Commits follow each other without a gap, or some were removed before they were sealed."""
    places, lowest = (
        await tx.tuples(
            "SELECT sum(last_seq - first_seq + 1), min(first_seq) FROM commit"
            " WHERE last_seq BETWEEN %s AND %s",
            (first, last),
        )
    )[0]
    if places != last - first + 1 or lowest != first:
        raise Broken("chain-gap", f"Commits are missing between seq {first} and {last}.")


async def recorded(tx: ReadTx) -> int:
    """The seq of everything committed. Raises Broken `chain-gap` when the newest of it is gone."""
    counted, newest = (
        await tx.tuples(
            "SELECT coalesce((SELECT seq FROM head WHERE id = 1), 0),"
            " coalesce((SELECT max(last_seq) FROM commit), 0)"
        )
    )[0]
    if counted != newest:
        low, high = sorted((counted, newest))
        raise Broken("chain-gap", f"Commits are missing between seq {low + 1} and {high}.")
    return counted


async def write(tx: Writes, block: Block) -> None:
    """Store a block; harmless to repeat. Raises Broken `chain-forked` if another is there."""
    await tx.execute(
        """
        INSERT INTO seal (block, format, first_seq, last_seq, tables, counts, digests, marks,
            previous, hash, sealed_at)
        VALUES (%s, %s, %s, %s, %s::text[], %s::integer[], %s::bytea[], %s, %s, %s, %s)
        ON CONFLICT (block) DO NOTHING
        """,
        (
            block.number,
            block.format,
            block.first_seq,
            block.last_seq,
            [part.table for part in block.parts],
            [part.count for part in block.parts],
            [part.digest for part in block.parts],
            b"".join(part.marks for part in block.parts),
            block.previous,
            block.hash,
            block.sealed_at,
        ),
    )
    stored = await tx.value("SELECT hash FROM seal WHERE block = %s", (block.number,))
    if stored is None or bytes(stored) != block.hash:
        raise Broken("chain-forked", f"Another block {block.number} is in the chain already.")


async def head(tx: ReadTx, chain: str) -> Head | None:
    """The newest block."""
    rows = await tx.tuples(
        "SELECT block, format, last_seq, hash, sealed_at FROM seal ORDER BY block DESC LIMIT 1"
    )
    if not rows:
        return None
    number, form, last_seq, value, sealed_at = rows[0]
    return Head(chain, number, form, last_seq, bytes(value), sealed_at)


async def load(tx: ReadTx, number: int) -> Block | None:
    """The first block from `number` on, as it is stored."""
    rows = await tx.tuples(
        "SELECT block, format, first_seq, last_seq, previous, sealed_at, hash, tables, counts,"
        " digests, marks FROM seal WHERE block >= %s ORDER BY block LIMIT 1",
        (number,),
    )
    if not rows:
        return None
    number, form, first, last, previous, sealed_at, value, tables, counts, digests, marks = rows[0]
    parts = _split(tables, counts, digests, bytes(marks))
    return Block(number, form, first, last, parts, bytes(previous), sealed_at, bytes(value))


def _split(
    tables: Sequence[str], counts: Sequence[int], digests: Sequence[bytes], marks: bytes
) -> tuple[Part, ...]:
    """The parts of a stored row. What does not fit together gives parts that hash differently."""
    found: list[Part] = []
    start = 0
    for table, count, digest in zip_longest(tables, counts, digests):
        end = start + (count or 0) * MARK_BYTES
        found.append(Part(table or "", count or 0, bytes(digest or b""), marks[start:end]))
        start = end
    if marks[start:]:
        found.append(Part("", 0, b"", marks[start:]))
    return tuple(found)


async def lag_seconds(tx: ReadTx, chain: str) -> float:
    """Age of the oldest commit that is not sealed."""
    found = await waiting(tx, chain)
    return 0.0 if found.oldest is None else max((tx.now - found.oldest).total_seconds(), 0.0)
