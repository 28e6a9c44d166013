"""The one place where a statement line is posted: matched with what proves it, or suspended.

Either way the account's cash moves by exactly the line's amount and fee, so that the books equal
the statement whatever a line turns out to be. A line that was suspended and is proven later is
taken out of suspense and posted properly in one linked step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from paymaster.db.tx import CellTx
from paymaster.kernel.clock import start_of_day
from paymaster.kernel.errors import Broken
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.entry import Entry, Posted
from paymaster.ledger.post import post
from paymaster.reconcile import breaks, store
from paymaster.reconcile.breaks import Kind, NewBreak
from paymaster.reconcile.decide import Doubt
from paymaster.reconcile.store import Concluded, LineRow


@dataclass(frozen=True, slots=True)
class Proven:
    """A line with what it is. `postings` move the account's cash by the line's amount.

    `matched` is the text id of what it matches. `posted_id` is set when the entry was posted
    already, by the transfer that the line belongs to; then there are no postings.
    """

    line: LineRow
    kind: str
    postings: recipes.Postings
    matched: str
    evidence: Mapping[str, Any] = field(default_factory=dict[str, Any])
    posted_id: int | None = None


@dataclass(frozen=True, slots=True)
class Doubted:
    """A line that cannot be posted as what it says."""

    line: LineRow
    doubt: Doubt


async def conclude(
    tx: CellTx, proven: Sequence[Proven], doubted: Sequence[Doubted]
) -> frozenset[int]:
    """Post all lines and open or clear their breaks; the ids of those that are matched now.

    The lines are locked by the caller. What the books refuse becomes a doubt. Raises Broken
    `suspense-refused` when even suspense cannot take a line.
    """
    results = await _post(tx, proven)
    rows: list[Concluded] = []
    doubts = list(doubted)
    for item, entries in zip(proven, results, strict=True):
        refused = next((each for each in entries if not each.done), None)
        if refused is None:
            posted_id = item.posted_id or _main_id(item, entries)
            rows.append(Concluded(item.line.id, "matched", posted_id, item.matched))
        elif item.posted_id is not None:
            raise Broken("suspense-refused", f"Suspense keeps a line: {refused.verdict.value}.")
        else:
            detail = f"The books refuse to post it: {refused.verdict.value}."
            doubts.append(Doubted(item.line, Doubt(Kind.POSTING_REFUSED, detail)))
    matched = frozenset(row.line_id for row in rows)
    rows.extend(await _suspend(tx, doubts))
    await store.mark_concluded(tx, rows)
    names = [_name(tx, item.line) for item in proven if item.line.id in matched]
    await breaks.clear(tx, names, "The line was matched after all.")
    await _open_breaks(tx, doubts)
    return matched


def _name(tx: CellTx, line: LineRow) -> str:
    return text_id("sl", tx.cell, line.id)


def _main_id(item: Proven, entries: Sequence[Posted]) -> int:
    """The entry that moved the cash; a line that moves nothing keeps the id it would have used."""
    if not item.postings:
        return item.line.entry_id
    return entries[1].entry_id if item.line.suspended else entries[0].entry_id


async def _post(tx: CellTx, proven: Sequence[Proven]) -> list[list[Posted]]:
    """Post the entries of every line, all of a line or none."""
    groups = [_entries(tx, item) for item in proven]
    flat = await post(tx, [entry for group in groups for entry in group])
    results: list[list[Posted]] = []
    start = 0
    for group in groups:
        results.append(flat[start : start + len(group)])
        start += len(group)
    return results


def _entries(tx: CellTx, item: Proven) -> list[Entry]:
    line = item.line
    evidence = {
        "statement": text_id("st", tx.cell, line.statement_id),
        "line": line.line_id,
        "matched": item.matched,
        **item.evidence,
    }
    entries: list[Entry] = []
    if line.suspended and line.amount:
        back = recipes.suspend(line.rail_account_id, -line.money)
        undone = _entry(tx, tx.id(), "unsuspend", line, back, evidence, line.posted_id)
        entries.append(undone)
    if item.postings:
        entry_id = tx.id() if line.suspended else line.entry_id
        entries.append(_entry(tx, entry_id, item.kind, line, item.postings, evidence))
    entries.extend(_fee(tx, line, evidence))
    return entries


def _fee(tx: CellTx, line: LineRow, evidence: Mapping[str, Any]) -> list[Entry]:
    """The fee goes with every posting of its line; after the first one it is a duplicate."""
    if not line.fee:
        return []
    postings = recipes.rail_fee(line.rail_account_id, Money(line.fee, line.asset))
    return [_entry(tx, line.entry_fee, "rail_fee", line, postings, evidence)]


def _entry(
    tx: CellTx,
    entry_id: int,
    kind: str,
    line: LineRow,
    postings: recipes.Postings,
    evidence: Mapping[str, Any],
    reverses_id: int | None = None,
) -> Entry:
    return Entry(
        entry_id,
        kind,
        _name(tx, line),
        postings,
        effective_at=start_of_day(line.booked_on, tx.time_zone),
        evidence=evidence,
        reverses_id=reverses_id,
        link=_name(tx, line),
    )


async def _suspend(tx: CellTx, doubts: Sequence[Doubted]) -> list[Concluded]:
    entries: list[Entry] = []
    for item in doubts:
        line = item.line
        if line.posted_id is not None:
            continue
        evidence = {
            "statement": text_id("st", tx.cell, line.statement_id),
            "line": line.line_id,
            "break": item.doubt.kind.value,
        }
        if line.amount:
            postings = recipes.suspend(line.rail_account_id, line.money)
            entries.append(_entry(tx, line.entry_id, "suspend", line, postings, evidence))
        entries.extend(_fee(tx, line, evidence))
    for result in await post(tx, entries):
        if not result.done:
            raise Broken("suspense-refused", f"Suspense refused a line: {result.verdict.value}.")
    return [
        Concluded(item.line.id, "break", item.line.posted_id or item.line.entry_id, None)
        for item in doubts
    ]


async def _open_breaks(tx: CellTx, doubts: Sequence[Doubted]) -> None:
    """Each line in doubt has one open break: what was said of it before is cleared."""
    for kind in sorted({item.doubt.kind for item in doubts if item.line.suspended}):
        names = [_name(tx, each.line) for each in doubts if each.doubt.kind == kind]
        await breaks.clear(tx, names, f"It is {kind.value} now.", but=kind)
    await breaks.open_all(
        tx,
        [
            NewBreak(
                item.line.rail_account_id,
                item.line.day,
                item.doubt.kind,
                _name(tx, item.line),
                item.line.asset,
                item.doubt.detail,
                item.doubt.expected,
                item.line.amount,
            )
            for item in doubts
        ],
    )
