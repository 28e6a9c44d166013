"""What cells tell each other about budgets. The relay carries each command out once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from paymaster.db import outbox
from paymaster.db.outbox import Outgoing
from paymaster.db.tx import CellTx
from paymaster.earn import recall, reward
from paymaster.earn import slice as slices
from paymaster.kernel.ids import parse_text_id
from paymaster.kernel.money import Money

Handler = Callable[[CellTx, int, Outgoing], Awaitable[dict[str, Any]]]


def _read(message: Outgoing) -> tuple[int, int, Money]:
    payload = message.payload
    amount = payload["amount"]
    return (
        parse_text_id("sc", payload["slice"]).id,
        parse_text_id("cp", payload["campaign"]).id,
        Money.parse(amount["amount"], amount["currency"]),
    )


async def on_ask(tx: CellTx, source_cell: int, message: Outgoing) -> dict[str, Any]:
    """In the home cell: a cell asks for a slices."""
    slice_id, campaign_id, asked = _read(message)
    said = message.payload["least"]
    least = Money.parse(said["amount"], said["currency"])
    ask = recall.Waiting(source_cell, slice_id, asked.currency, asked.minor, least.minor)
    granted = await slices.grant(tx, campaign_id, ask)
    return {"granted": granted.text()}


async def on_grant(tx: CellTx, source_cell: int, message: Outgoing) -> dict[str, Any]:
    """In the asking cell: the answer. Rewards that wait for it are credited by the next retry."""
    slice_id, _, granted = _read(message)
    row = await slices.receive(tx, slice_id, granted)
    return {"state": row.state, "home": source_cell}


async def on_return(tx: CellTx, source_cell: int, message: Outgoing) -> dict[str, Any]:
    """In the home cell: a cell gives back what it did not need."""
    slice_id, campaign_id, amount = _read(message)
    await slices.take_back(tx, source_cell, slice_id, campaign_id, amount)
    await slices.serve(tx, campaign_id)
    return {"returned": amount.text()}


async def on_recall(tx: CellTx, source_cell: int, message: Outgoing) -> dict[str, Any]:
    """In a cell with a slice: what waits here is credited first, the rest goes home."""
    campaign_id = parse_text_id("cp", message.payload["campaign"]).id
    await reward.retry_awaiting(tx, campaign_id=campaign_id)
    slice_id, amount = await slices.part_with(
        tx, campaign_id, source_cell, message.payload["currency"]
    )
    await outbox.put(tx, [recall.answer(tx, message, source_cell, slice_id, amount)])
    return {"given_back": amount.text()}


async def on_recalled(tx: CellTx, source_cell: int, message: Outgoing) -> dict[str, Any]:
    """In the home cell: the answer. What waits here comes first, then the asks in order."""
    slice_id, campaign_id, amount = _read(message)
    await slices.take_back(tx, source_cell, slice_id, campaign_id, amount)
    await recall.note_answer(tx, campaign_id, source_cell, message.payload["grants"])
    moved = await reward.retry_awaiting(tx, campaign_id=campaign_id)
    served = await slices.serve(tx, campaign_id)
    return {"returned": amount.text(), "moved": moved, "served": served}


async def on_idle(tx: CellTx, source_cell: int, message: Outgoing) -> dict[str, Any]:
    """In the home cell: a reversal brought money back in a cell that had given all of it home."""
    campaign_id = parse_text_id("cp", message.payload["campaign"]).id
    return {"noted": await recall.note_idle(tx, campaign_id, source_cell)}


HANDLERS: dict[str, Handler] = {
    slices.ASK: on_ask,
    slices.GRANT: on_grant,
    slices.RETURN: on_return,
    recall.RECALL: on_recall,
    recall.RECALLED: on_recalled,
    recall.IDLE: on_idle,
}
"""By topic."""
