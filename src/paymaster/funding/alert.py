"""Says once that users are owed more than there is, and once that it is there again."""

from __future__ import annotations

from paymaster.db import outbox
from paymaster.db.cells import Databases
from paymaster.db.outbox import Message
from paymaster.db.tx import Actor, CellTx
from paymaster.funding import store
from paymaster.funding.figures import Position
from paymaster.funding.look import Picture
from paymaster.kernel.ids import new_trace_id
from paymaster.kernel.money import Money
from paymaster.observe import get_logger

ACTOR = Actor("role:relay")
_log = get_logger(__name__)


async def tell(dbs: Databases, environment_id: int, picture: Picture) -> list[str]:
    """Write and tell which currencies have become short, or are no longer; which those are."""
    treasury = dbs.treasury(environment_id)
    known = await treasury.read(store.states)
    changed = [
        one
        for one in picture.positions.values()
        if known.get(one.asset, False) != (one.missing > 0)
    ]
    told: list[str] = []
    for one in changed:
        if await treasury.run(ACTOR, new_trace_id(), lambda tx, p=one: _change(tx, p)):
            told.append(one.asset)
            log = _log.error if one.missing else _log.info
            log("funding_short" if one.missing else "funding_covered", currency=one.asset)
    return told


async def _change(tx: CellTx, position: Position) -> bool:
    if not await store.change(tx, position.asset, short=position.missing > 0):
        return False
    payload = {
        "currency": position.asset,
        **{
            name: wire(minor, position.asset)
            for name, minor in (
                ("owed", position.owed),
                ("cover", position.cover),
                ("missing", position.missing),
            )
        },
    }
    if position.missing:
        await outbox.put(tx, [Message("funding.short", position.asset, payload)])
    else:
        await outbox.put(tx, [Message("funding.covered", position.asset, payload)])
    return True


def wire(minor: int, asset: str) -> dict[str, str]:
    """An amount as it is told."""
    return {"amount": Money(minor, asset).text(), "currency": asset}
