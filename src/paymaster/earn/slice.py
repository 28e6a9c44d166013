"""Slices of a campaign's budget for cells other than its home cell.

A cell that runs out asks the home cell, which grants what it has, at most what was asked and never
too little for the smallest reward that waits: such a rest would only travel to and fro. Nothing
means that the budget is exhausted for rewards of that size. The money crosses by two entries, each
in its own cell, tied by an outbox command that is carried out once. Spent + in slices + in transit
= funded, always.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import LiteralString

from paymaster.db import outbox
from paymaster.db.tx import CellRead, CellTx
from paymaster.earn import recall
from paymaster.earn.views import money
from paymaster.kernel.clock import milliseconds
from paymaster.kernel.errors import Broken
from paymaster.kernel.ids import text_id, time_floor
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.balance import account_balance
from paymaster.ledger.chart import Account
from paymaster.ledger.entry import Entry, Mode
from paymaster.ledger.post import post

ASK, GRANT, RETURN = "slice.ask", "slice.grant", "slice.return"
ASK_AGAIN = timedelta(minutes=5)
"""How long after "nothing left" the home cell is asked again."""


@dataclass(frozen=True, slots=True)
class Need:
    """What is missing for a campaign here, in minor units, and how much a slice usually is.

    `least` is the smallest reward that waits: less than that would help nobody.
    """

    campaign_id: int
    home_cell: int
    when_exhausted: str
    asset: str
    missing: int
    usual: int
    least: int


@dataclass(frozen=True, slots=True)
class SliceRow:
    """A row of `slice`."""

    id: int
    campaign_id: int
    asset: str
    home_cell: int
    when_exhausted: str
    amount: int
    least: int
    granted: int | None
    state: str
    asked_at: datetime
    answered_at: datetime | None

    @property
    def refuses(self) -> bool:
        """The home cell said that nothing is left, and rewards are refused then."""
        return self.state == "empty" and self.when_exhausted == "refuse"


_COLUMNS: LiteralString = (
    "id, campaign_id, asset, home_cell, when_exhausted, amount, least, granted, state,"
    " asked_at, answered_at"
)


async def ask(tx: CellTx, needs: Sequence[Need]) -> int:
    """Ask the home cells, unless an ask for the campaign is open; how many were asked."""
    if not needs:
        return 0
    numbers = tx.ids(len(needs))
    amounts = [max(need.missing, need.usual) for need in needs]
    rows = await tx.tuples(
        """
        INSERT INTO slice (id, campaign_id, asset, home_cell, when_exhausted, amount, least,
            state, asked_at)
        SELECT i, c, a, h, w, m, l, 'asked', %s
        FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::int[], %s::text[], %s::bigint[],
            %s::bigint[]) AS n (i, c, a, h, w, m, l)
        ORDER BY c
        ON CONFLICT (campaign_id) WHERE state = 'asked' DO NOTHING RETURNING id
        """,
        (
            tx.now,
            numbers,
            [need.campaign_id for need in needs],
            [need.asset for need in needs],
            [need.home_cell for need in needs],
            [need.when_exhausted for need in needs],
            amounts,
            [need.least for need in needs],
        ),
    )
    asked = {row[0] for row in rows}
    await outbox.put(
        tx,
        [
            _ask_message(tx, number, need, amount)
            for number, need, amount in zip(numbers, needs, amounts, strict=True)
            if number in asked
        ],
    )
    return len(asked)


def _ask_message(tx: CellTx, number: int, need: Need, amount: int) -> outbox.Message:
    asked = Money(amount, need.asset)
    message = _message(tx, ASK, number, need.campaign_id, need.home_cell, asked)
    least = money(Money(need.least, need.asset))
    return replace(message, payload={**message.payload, "least": least})


def _message(
    tx: CellTx, topic: str, slice_id: int, campaign_id: int, target: int, amount: Money
) -> outbox.Message:
    """A command: the slice's id is that of the asking cell, the campaign's that of its home."""
    asking = target if topic == GRANT else tx.cell
    home = tx.cell if topic == GRANT else target
    campaign = text_id("cp", home, campaign_id)
    payload = {
        "slice": text_id("sc", asking, slice_id),
        "campaign": campaign,
        "amount": money(amount),
    }
    return outbox.Message(topic, campaign, payload, target)


async def last(tx: CellRead, campaign_ids: Sequence[int]) -> dict[int, SliceRow]:
    """The newest ask for each campaign in this cell; those without one are missing."""
    rows = await tx.fetch(
        f"SELECT DISTINCT ON (campaign_id) {_COLUMNS} FROM slice"
        " WHERE campaign_id = ANY(%s) AND state <> 'returned' ORDER BY campaign_id, id DESC",
        (list(campaign_ids),),
        SliceRow,
    )
    return {row.campaign_id: row for row in rows}


def may_ask(before: SliceRow, least: int, now: datetime) -> bool:
    """Whether to ask anew: a while after "nothing left", at once after a grant.

    At once too for rewards smaller than what the home cell had nothing left for.
    """
    if before.state == "asked" or (before.refuses and least >= before.least):
        return False
    if before.refuses:
        return True
    if before.state == "empty" and before.answered_at is not None:
        return now >= before.answered_at + ASK_AGAIN
    return True


async def ask_again(tx: CellTx, before: SliceRow, missing: int, least: int) -> int:
    """Ask for what still waits, of which the smallest is `least`."""
    if missing <= 0:
        return 0
    need = Need(
        before.campaign_id,
        before.home_cell,
        before.when_exhausted,
        before.asset,
        missing,
        before.amount,
        least,
    )
    return await ask(tx, [need])


async def grant(tx: CellTx, campaign_id: int, ask: recall.Waiting) -> Money:
    """In the home cell: lease at most what was asked to a cell, and tell it; what was leased.

    While too little is here but other cells may hold some, it is recalled and the ask waits.
    Nothing is the answer only when everything is home.
    """
    granted = await _lease_out(tx, campaign_id, ask)
    if not granted and campaign_id in await recall.out(tx, [campaign_id]):
        await recall.recall(tx, [campaign_id])
        await recall.wait(tx, campaign_id, ask)
        return granted
    await outbox.put(tx, [_message(tx, GRANT, ask.slice_id, campaign_id, ask.cell, granted)])
    return granted


async def _lease_out(tx: CellTx, campaign_id: int, ask: recall.Waiting) -> Money:
    if await account_balance(tx, Account("budget", campaign_id, ask.asset)) < ask.least:
        return Money.zero(ask.asset)
    [posting] = recipes.lease_out(campaign_id, ask.cell, Money(ask.amount, ask.asset))
    granted = await _lease(tx, ask.cell, ask.slice_id, replace(posting, mode=Mode.UP_TO))
    if granted:
        await recall.note_grant(tx, campaign_id, ask.cell, ask.asset)
    return granted


async def serve(tx: CellTx, campaign_id: int) -> int:
    """In the home cell: grant waiting asks, oldest first, as far as it reaches; how many.

    When everything is home, those that nothing is left for are told so.
    """
    asks = await recall.waiting(tx, campaign_id)
    done = 0
    for ask in asks:
        granted = await _lease_out(tx, campaign_id, ask)
        if not granted and campaign_id in await recall.out(tx, [campaign_id]):
            await recall.recall(tx, [campaign_id])
            break
        message = _message(tx, GRANT, ask.slice_id, campaign_id, ask.cell, granted)
        await outbox.put(tx, [message])
        await recall.served(tx, ask)
        done += 1
    return done


async def _lease(tx: CellTx, cell: int, slice_id: int, posting: recipes.Posting) -> Money:
    entry = Entry(tx.id(), "lease", text_id("sc", cell, slice_id), (posting,))
    [result] = await post(tx, [entry])
    if not result.done:
        raise Broken("lease-refused", f"A slice was refused by the books: {result.verdict}.")
    return Money(sum(result.moved), posting.amount.currency)


async def receive(tx: CellTx, slice_id: int, granted: Money) -> SliceRow:
    """In the asking cell: take what the home cell granted. Raises Broken `slice-unknown`.

    The account is locked before the ask is answered, as everywhere else.
    """
    row = await tx.maybe(
        f"SELECT {_COLUMNS} FROM slice WHERE id = %s AND state = 'asked'", (slice_id,), SliceRow
    )
    if row is None or row.asset != granted.currency:
        raise Broken("slice-unknown", f"No open ask {slice_id} in cell {tx.cell}.")
    if granted:
        [posting] = recipes.lease_in(row.campaign_id, row.home_cell, granted)
        await _lease(tx, tx.cell, slice_id, posting)
    state = "granted" if granted else "empty"
    await tx.execute(
        "UPDATE slice SET granted = %s, state = %s, answered_at = %s WHERE id = %s",
        (granted.minor, state, tx.now, slice_id),
    )
    return replace(row, granted=granted.minor, state=state, answered_at=tx.now)


async def give_back(tx: CellTx, campaign_id: int, home_cell: int, asset: str) -> Money:
    """Return to the home cell what lies here for a campaign; how much that was."""
    number, returned = await part_with(tx, campaign_id, home_cell, asset)
    if returned:
        await outbox.put(tx, [_message(tx, RETURN, number, campaign_id, home_cell, returned)])
    return returned


async def part_with(tx: CellTx, campaign_id: int, home_cell: int, asset: str) -> tuple[int, Money]:
    """Post what lies here for a campaign to the home cell: the slice's number and how much."""
    number, nothing = tx.id(), Money.zero(asset)
    if home_cell == tx.cell:
        return number, nothing
    balance = await account_balance(tx, Account("budget", campaign_id, asset))
    if balance <= 0:
        return number, nothing
    [posting] = recipes.lease_out(campaign_id, home_cell, Money(balance, asset))
    returned = await _lease(tx, tx.cell, number, replace(posting, mode=Mode.UP_TO))
    if returned:
        await tx.execute(
            "INSERT INTO slice (id, campaign_id, asset, home_cell, when_exhausted, amount, least,"
            " granted, state, asked_at, answered_at) VALUES (%s, %s, %s, %s, 'wait', %s, 1, 0,"
            " 'returned', %s, %s)",
            (number, campaign_id, asset, home_cell, returned.minor, tx.now, tx.now),
        )
    return number, returned


async def take_back(tx: CellTx, cell: int, slice_id: int, campaign_id: int, amount: Money) -> None:
    """In the home cell: a slice comes back."""
    if not amount:
        return
    [posting] = recipes.lease_in(campaign_id, cell, amount)
    await _lease(tx, cell, slice_id, posting)


@dataclass(frozen=True, slots=True)
class _Idle:
    campaign_id: int
    home_cell: int
    asset: str


async def give_back_idle(tx: CellTx, idle_since: datetime, limit: int = 100) -> int:
    """Return slices of which nothing moved since a moment and for which nothing waits; how many."""
    rows = await tx.fetch(
        """
        SELECT DISTINCT s.campaign_id, s.home_cell, s.asset FROM slice s
        JOIN account a ON a.kind = 'budget' AND a.owner_id = s.campaign_id AND a.asset = s.asset
        WHERE a.balance > 0 AND a.last_posting_id < %s AND s.home_cell <> %s
            AND NOT EXISTS (SELECT 1 FROM slice o
                WHERE o.campaign_id = s.campaign_id AND o.state = 'asked')
            AND NOT EXISTS (SELECT 1 FROM reward r
                WHERE r.campaign_id = s.campaign_id AND r.state = 'awaiting_funds')
        ORDER BY s.campaign_id LIMIT %s
        """,
        (time_floor(milliseconds(idle_since)), tx.cell, limit),
        _Idle,
    )
    returned = [await give_back(tx, row.campaign_id, row.home_cell, row.asset) for row in rows]
    return sum(1 for amount in returned if amount)
