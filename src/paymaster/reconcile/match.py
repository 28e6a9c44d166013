"""The loop over lines that nobody has looked at: claim, decide, and post or ask.

Everything of a batch is decided from a handful of queries, whatever its size. What this cell can
prove itself (fees, sponsors' payments, own transfers) is posted at once; lines that carry a
payout's reference are put to the cell of that payout, which answers by `line.booked`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from paymaster.db import outbox
from paymaster.db.tx import CellTx
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.reconcile import book_store, side_lines, store, wire
from paymaster.reconcile.breaks import Kind
from paymaster.reconcile.catalogue import Catalogue
from paymaster.reconcile.conclude import Doubted, Proven, conclude
from paymaster.reconcile.decide import Ask, Doubt, Fee, Fund, Own, Transfer, decide
from paymaster.reconcile.sealed import Note, open_note
from paymaster.reconcile.store import LineRow
from paymaster.reconcile.wire import Question
from paymaster.secrets.sealing import Sealer

BATCH_LIMIT = 2_000
"""Most lines in one call."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a call did; `claimed` less than the limit means that nothing is left."""

    claimed: int = 0
    asked: int = 0
    matched: int = 0
    in_doubt: int = 0


async def match_due(
    tx: CellTx,
    sealer: Sealer,
    catalogue: Catalogue,
    cells: frozenset[int],
    limit: int = 1_000,
) -> Progress:
    """Look at open lines, oldest first. In the treasury cell only; `cells` are its environment's.

    Runs again without harm: a line is decided under its lock and is not due afterwards.
    """
    lines = await store.claim_due(tx, min(limit, BATCH_LIMIT))
    if not lines:
        return Progress()
    transfers = await book_store.find_transfers(tx, _references(lines))
    repeated = await _repeated(tx, lines)
    asks: list[tuple[LineRow, Ask]] = []
    sides: list[tuple[LineRow, Transfer]] = []
    proven: list[Proven] = []
    doubted: list[Doubted] = []
    for line in lines:
        note = Note() if line.sealed is None else open_note(sealer, line)
        decision = decide(line, note.remittance, catalogue, cells, transfers)
        match decision:
            case Ask():
                asks.append((line, decision))
            case Transfer():
                sides.append((line, decision))
            case Fund() if line.id in repeated:
                doubted.append(Doubted(line, _REPEATED))
            case Fund(campaign_id):
                proven.append(_fund(tx, line, campaign_id))
            case Fee():
                proven.append(_fee(line))
            case Own():
                postings = recipes.own(line.rail_account_id, line.money)
                proven.append(Proven(line, "own", postings, "own"))
            case Doubt():
                doubted.append(Doubted(line, decision))
    for item in await side_lines.book(tx, sides):
        if isinstance(item, Proven):
            proven.append(item)
        else:
            doubted.append(item)
    await _ask(tx, asks)
    matched = await conclude(tx, proven, doubted)
    await _announce(tx, [item for item in proven if item.line.id in matched])
    in_doubt = len(proven) + len(doubted) - len(matched)
    return Progress(len(lines), len(asks), len(matched), in_doubt)


_REPEATED = Doubt(
    Kind.BOOKED_TWICE, "An earlier statement has the same line: no budget grows twice by it."
)


async def _repeated(tx: CellTx, lines: Sequence[LineRow]) -> set[int]:
    """Lines that came in, and that an earlier statement had: same number, day and amount.

    `statement` gives them a name that begins with the other's, and an @.
    """
    names = {
        line.id: [line.line_id[:at] for at, mark in enumerate(line.line_id) if mark == "@"]
        for line in lines
        if line.amount > 0
    }
    every = sorted({name for some in names.values() for name in some})
    if not every:
        return set()
    by_account: dict[int, dict[str, tuple[Any, ...]]] = {}
    for account in {line.rail_account_id for line in lines}:
        by_account[account] = await store.known_lines(tx, account, every)
    return {
        line.id
        for line in lines
        for name in names.get(line.id, ())
        if _same(by_account[line.rail_account_id].get(name), line)
    }


def _same(known: tuple[Any, ...] | None, line: LineRow) -> bool:
    """Whether what is stored under the earlier name is this line."""
    if known is None:
        return False
    _, kind, amount, fee, booked_on, *_ = known
    return (kind, amount, fee, booked_on) == (line.kind, line.amount, line.fee, line.booked_on)


def _references(lines: Sequence[LineRow]) -> list[str]:
    return [line.reference for line in lines if line.reference]


def _fund(tx: CellTx, line: LineRow, campaign_id: int) -> Proven:
    name = text_id("cp", tx.cell, campaign_id)
    postings = recipes.fund(line.rail_account_id, campaign_id, line.money)
    return Proven(line, "fund", postings, name)


def _fee(line: LineRow) -> Proven:
    """A charge, one that was given back, or a line that moves nothing but its fee."""
    postings: recipes.Postings = ()
    if line.amount < 0:
        postings = recipes.rail_fee(line.rail_account_id, -line.money)
    elif line.amount > 0:
        postings = recipes.rail_fee_back(line.rail_account_id, line.money)
    return Proven(line, "rail_fee", postings, "fee")


async def _ask(tx: CellTx, asks: Sequence[tuple[LineRow, Ask]]) -> None:
    """Put lines to the cells of their payouts, at most `CHUNK` of one statement in a command."""
    if not asks:
        return
    messages: list[outbox.Message] = []
    ordered = sorted(asks, key=lambda ask: (ask[1].cell, ask[0].statement_id, ask[0].id))
    for (cell, statement_id), run in groupby(
        ordered, key=lambda ask: (ask[1].cell, ask[0].statement_id)
    ):
        group = list(run)
        account = text_id("ra", tx.cell, group[0][0].rail_account_id)
        for start in range(0, len(group), wire.CHUNK):
            questions = [_question(tx, *ask) for ask in group[start : start + wire.CHUNK]]
            payload = {
                "rail_account": account,
                "statement": text_id("st", tx.cell, statement_id),
                "lines": [question.write() for question in questions],
            }
            messages.append(outbox.Message(wire.BOOK, account, payload, target_cell=cell))
    await outbox.put(tx, messages)
    await store.mark_asked(tx, [line.id for line, _ in asks])


def _question(tx: CellTx, line: LineRow, ask: Ask) -> Question:
    return Question(
        text_id("sl", tx.cell, line.id),
        ask.key,
        ask.kind,
        Money(abs(line.amount), line.asset),
        line.code,
        line.booked_on,
        line.accepted,
    )


async def _announce(tx: CellTx, matched: Sequence[Proven]) -> None:
    """A budget has grown: whoever waits for funds may look again."""
    await outbox.put(
        tx,
        [
            outbox.Message(
                "campaign.funded",
                item.matched,
                {
                    "campaign": item.matched,
                    "amount": {"amount": item.line.money.text(), "currency": item.line.asset},
                    "line": text_id("sl", tx.cell, item.line.id),
                },
            )
            for item in matched
            if item.kind == "fund"
        ],
    )
