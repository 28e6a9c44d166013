"""Verifying the hash chain: every block is computed anew and compared with what was sealed.

One short snapshot a block, whatever the size of the books. A difference is traced to the first
record of the block, by the marks that were kept of each. Records that no block would look at,
because they belong to no commit, entry or event, are looked for as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from paymaster.db import seal, seal_format, seal_strays
from paymaster.db.seal import Block, Head, Part, Place, chain_of
from paymaster.db.seal_format import MARK_BYTES, OFFSET_BYTES, Span
from paymaster.db.seal_strays import Archived, Stray, Swept
from paymaster.db.seal_table import Table
from paymaster.db.tx import ReadTx

LISTED = 20
"""Findings after which verifying stops: one is enough to call for help."""

_LEGACY = Span(0, 0, 0, -1, 0, -1)


@dataclass(frozen=True, slots=True)
class Finding:
    """A record that is not as it was sealed.

    `key` names the record: its key columns; for one that is gone, where it was. `what` is
    `altered`, `missing`, `added` (is not covered by the block that it claims to be in), `stray`
    (belongs to nothing, or to an archive) or `rewritten` (not the chain that was exported).
    """

    chain: str
    block: int
    seq: int | None
    table: str
    key: str
    what: str

    def wire(self) -> dict[str, object]:
        """For JSON."""
        return {
            "chain": self.chain,
            "block": self.block,
            "seq": None if self.seq is None else str(self.seq),
            "table": self.table,
            "key": self.key,
            "what": self.what,
        }


@dataclass(slots=True)
class Report:
    """What was verified of one chain; `unsealed` counts places that no block covers yet."""

    chain: str
    blocks: int = 0
    records: int = 0
    sealed_seq: int = 0
    unsealed: int = 0
    findings: list[Finding] = field(default_factory=list[Finding])

    def wire(self) -> dict[str, object]:
        """For JSON."""
        return {
            "chain": self.chain,
            "blocks": self.blocks,
            "records": self.records,
            "sealed_seq": str(self.sealed_seq),
            "unsealed": self.unsealed,
            "findings": [finding.wire() for finding in self.findings],
        }


@dataclass(frozen=True, slots=True)
class _Difference:
    """The first difference of a table: `place` in the block, `nth` of the records there are."""

    place: int
    nth: int
    what: str


@dataclass(slots=True)
class _Run:
    """One run over a chain: the report, what was swept, and how many records archives may hold."""

    report: Report
    archived: Archived
    swept: Swept = field(default_factory=Swept)
    gone: Counter[str] = field(default_factory=Counter[str])

    @property
    def chain(self) -> str:
        return self.report.chain


async def verify(
    place: Place,
    exported: Head | None = None,
    progress: Callable[[Report], None] | None = None,
) -> Report:
    """Verify the chain of one schema, against an exported head if there is one.

    Nothing is raised for what is found; the report names it. `progress` is called after each block.
    """
    while True:
        run = _Run(Report(chain_of(place)), await place.read(seal_strays.archived))
        await _walk(place, run, exported, progress)
        await _finish(place, run)
        # A month that left meanwhile is no finding: look again.
        if not run.report.findings or run.archived == await place.read(seal_strays.archived):
            return run.report


async def _walk(
    place: Place,
    run: _Run,
    exported: Head | None,
    progress: Callable[[Report], None] | None,
) -> None:
    """All blocks, one after the other."""
    report = run.report
    before: Block | None = None
    while len(report.findings) < LISTED:
        gone, swept = run.gone.copy(), replace(run.swept)

        async def one(
            tx: ReadTx,
            before: Block | None = before,
            gone: Counter[str] = gone,
            swept: Swept = swept,
        ) -> tuple[Block | None, list[Finding]]:
            # It may be run again: from where the block before left it.
            run.gone, run.swept = gone.copy(), replace(swept)
            stored = await seal.load(tx, 0 if before is None else before.number + 1)
            return stored, [] if stored is None else await _check(tx, run, before, stored)

        stored, found = await place.read(one)
        if stored is None:
            break
        report.findings += found
        if exported is not None and stored.number == exported.block:
            report.findings += _compare(exported, stored)
        report.blocks, report.records = report.blocks + 1, report.records + stored.records
        report.sealed_seq, before = stored.last_seq, stored
        if progress is not None:
            progress(report)
    reached = -1 if before is None else before.number
    if exported is not None and reached < exported.block and len(report.findings) < LISTED:
        key = f"block={exported.block}, last_seq={exported.last_seq}"
        seq = exported.last_seq
        report.findings.append(Finding(report.chain, exported.block, seq, "seal", key, "missing"))


def _compare(exported: Head, stored: Block) -> list[Finding]:
    """The exported head was taken from this very block, or the chain is another one."""
    if (exported.hash, exported.last_seq) == (stored.hash, stored.last_seq):
        return []
    key = f"block={stored.number}"
    return [Finding(exported.chain, stored.number, stored.first_seq, "seal", key, "rewritten")]


async def _check(tx: ReadTx, run: _Run, before: Block | None, stored: Block) -> list[Finding]:
    """One block: its link, its own row, its records, and what lies between them unaccounted for."""
    await seal.prepare(tx)
    findings = _linked(run.chain, before, stored)
    if findings:
        return findings
    legacy = stored.number == 0
    span = _LEGACY if legacy else await seal.span_of(tx, stored.first_seq, stored.last_seq)
    parts = await seal.parts_of(tx, stored.format, span, legacy=legacy)
    first = await _first(tx, run, stored, parts, span)
    if first is not None:
        return [first]
    if legacy:
        return []
    strays = await seal_strays.between(tx, run.swept, span)
    return [_stray(run.chain, stored.number, stray) for stray in strays]


def _linked(chain: str, before: Block | None, stored: Block) -> list[Finding]:
    """What is wrong with the row itself: a block that is gone, or columns that were changed."""
    number = 0 if before is None else before.number + 1
    if stored.number != number:
        seq = before.last_seq + 1 if before else 0
        return [Finding(chain, number, seq, "seal", f"block={number}", "missing")]
    previous = seal.origin(chain) if before is None else before.hash
    expected = 0 if before is None else before.last_seq + 1
    same = stored.previous == previous and stored.first_seq == expected
    if same and seal.hash_of(stored) == stored.hash and stored.format in seal_format.FORMATS:
        return []
    return [Finding(chain, number, stored.first_seq, "seal", f"block={number}", "altered")]


async def _first(
    tx: ReadTx, run: _Run, stored: Block, parts: Sequence[Part], span: Span
) -> Finding | None:
    """The first record of a block that is not as it was sealed."""
    sealed = {part.table: part for part in stored.parts}
    found = {part.table: part for part in parts}
    nothing = Part("", 0, b"", b"")
    worst: tuple[_Difference, Table] | None = None
    for table in seal_format.tables(stored.format, seal.kind_of(tx)):
        one, other = sealed.get(table.name, nothing), found.get(table.name, nothing)
        if (one.count, one.digest) == (other.count, other.digest):
            continue
        may_lack = table.name in run.archived.tables and stored.first_seq <= run.archived.last_seq
        if may_lack and one.count != other.count:
            run.gone[table.name] += one.count - other.count
            difference = first_stranger(one.marks, other.marks)
        else:
            # With as many records as were sealed, none has left: the whole digest speaks.
            difference = first_difference(one.marks, other.marks)
        if difference and (worst is None or difference.place < worst[0].place):
            worst = difference, table
    if worst is None:
        return None
    difference, table = worst
    seq = stored.first_seq + difference.place
    if difference.what == "missing":
        key = await _lost(tx, table, seq)
    else:
        key = await _named(tx, table, span, difference.nth, legacy=stored.number == 0)
    return Finding(run.chain, stored.number, seq, table.name, key, difference.what)


def first_stranger(sealed: bytes, found: bytes) -> _Difference | None:
    """The first record that is there and was not sealed so; others may be in an archive."""
    at = 0
    for nth in range(len(found) // MARK_BYTES):
        mark = _mark(found, nth * MARK_BYTES)
        while at < len(sealed) and _mark(sealed, at) != mark:
            at += MARK_BYTES
        if at >= len(sealed):
            return _Difference(int.from_bytes(mark[:OFFSET_BYTES]), nth, "altered")
        at += MARK_BYTES
    return None


def first_difference(sealed: bytes, found: bytes) -> _Difference:
    """Where two lists of marks part, and whether a record was altered, removed or added there."""
    at = 0
    while at < min(len(sealed), len(found)) and _mark(sealed, at) == _mark(found, at):
        at += MARK_BYTES
    there, here = _place(sealed, at), _place(found, at)
    nth = at // MARK_BYTES
    if there is None and here is None:  # the marks agree, the digest does not: they were forged
        return _Difference(_place(found, 0) or 0, 0, "altered")
    if here is None or (there is not None and there < here):
        return _Difference(there or 0, nth, "missing")
    if there is None or here < there:
        return _Difference(here, nth, "added")
    old, new = _at_place(sealed, at, here), _at_place(found, at, here)
    gone = any(mark not in new for mark in old)
    come = next((place for place, mark in enumerate(new) if mark not in old), None)
    if come is None:
        return _Difference(here, nth, "missing")
    return _Difference(here, nth + come, "altered" if gone else "added")


def _mark(marks: bytes, at: int) -> bytes:
    return marks[at : at + MARK_BYTES]


def _place(marks: bytes, at: int) -> int | None:
    return int.from_bytes(marks[at : at + OFFSET_BYTES]) if at < len(marks) else None


def _at_place(marks: bytes, at: int, place: int) -> list[bytes]:
    """The marks from `at` on that have the same place."""
    found: list[bytes] = []
    while _place(marks, at) == place:
        found.append(_mark(marks, at))
        at += MARK_BYTES
    return found


async def _named(tx: ReadTx, table: Table, span: Span, nth: int, *, legacy: bool) -> str:
    parameters = {**span.parameters(), "skip": nth}
    rows = await tx.tuples(seal_format.nth_record(table, legacy=legacy), parameters)
    values = rows[0] if rows else ("",) * len(table.key)
    return ", ".join(f"{name}={value}" for name, value in zip(table.key, values, strict=True))


async def _lost(tx: ReadTx, table: Table, seq: int) -> str:
    """Where a record was that is gone: its commit and ordinal, or whose it was."""
    if table.name == "commit":
        return f"first_seq={seq}"
    rows = await tx.tuples(
        "SELECT id, first_seq FROM commit WHERE last_seq >= %s ORDER BY last_seq LIMIT 1", (seq,)
    )
    if not rows:
        return f"seq={seq}"
    commit_id, ordinal = rows[0][0], seq - rows[0][1]
    if not table.hangs:
        return f"commit_id={commit_id}, ordinal={ordinal}"
    return await seal_strays.lost_child(tx, table.name, commit_id, ordinal)


def _stray(chain: str, block: int, stray: Stray) -> Finding:
    return Finding(chain, block, None, stray.table, stray.key, "stray")


async def _finish(place: Place, run: _Run) -> None:
    """What is behind the last block, what archives hold, and what belongs to nothing."""
    report = run.report
    seq, gap = await place.read(lambda tx: _tail(tx, report.sealed_seq))
    report.unsealed = max(seq - report.sealed_seq, 0)
    if report.findings:
        return
    if gap is not None:
        key = f"before seq={gap}"
        report.findings.append(Finding(report.chain, report.blocks, gap, "commit", key, "missing"))
    strays = await place.read(lambda tx: seal_strays.beyond(tx, run.swept))
    for name in seal_strays.SWEPT if report.chain != "control" else ():
        after: seal_strays.Position | None = seal_strays.START
        while after is not None and not strays:
            after, strays = await place.read(
                lambda tx, name=name, after=after: seal_strays.sweep(tx, name, after)
            )
    report.findings += [_stray(report.chain, report.blocks, stray) for stray in strays]
    for table, count in run.archived.tables.items():
        if count is not None and run.gone[table] != count:
            key = f"{run.gone[table]} are gone, archives hold {count}"
            report.findings.append(Finding(report.chain, 0, None, table, key, "missing"))


async def _tail(tx: ReadTx, sealed: int) -> tuple[int, int | None]:
    """The seq of the schema, and where behind the last block a commit is missing."""
    gap = await tx.value(
        "SELECT min(before + 1) FROM (SELECT first_seq,"
        " coalesce(lag(last_seq) OVER (ORDER BY last_seq), %(sealed)s) AS before"
        " FROM commit WHERE last_seq > %(sealed)s) AS c WHERE first_seq <> before + 1",
        {"sealed": sealed},
    )
    newest = await tx.value("SELECT max(last_seq) FROM commit") or 0
    seq = await tx.value("SELECT seq FROM head WHERE id = 1") or 0
    if gap is None and newest != seq:
        gap = min(newest, seq) + 1
    return seq, gap
