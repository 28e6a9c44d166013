"""What providers told about money that came in changes charges and refunds; as `apply` for payouts.

Each message has a transaction of its own: they are few, and one that cannot be applied stops no
other. It is tried again in growing intervals, then laid aside for people to look at.
"""

from __future__ import annotations

from random import Random

from paymaster.db import inbox
from paymaster.db.inbox import Due
from paymaster.db.pool import CellDb
from paymaster.db.tx import CellTx
from paymaster.kernel.errors import LEASE_LOST, Busy, Conflict
from paymaster.kernel.ids import new_trace_id
from paymaster.payin import outcome, refund
from paymaster.rails.payin import ChargeOutcome
from paymaster.secrets.sealing import Sealer
from paymaster.settle import payin_notice
from paymaster.settle.apply import ACTOR, LEASE, Applying, put_back

_REPORTED = outcome.BREAKS | refund.BREAKS


async def apply_due(db: CellDb, sealer: Sealer, random: Random, *, limit: int = 200) -> Applying:
    """One round in a cell. Raises Busy when the database cannot be reached."""

    async def claim(tx: CellTx) -> list[Due]:
        return await inbox.claim(tx, payin_notice.TOPIC, limit, tx.now + LEASE)

    claimed = await db.run(ACTOR, new_trace_id(), claim)
    changed = refused = 0
    for message in claimed:
        slug = await _one(db, sealer, message, random)
        changed, refused = changed + (slug is None), refused + (slug in _REPORTED)
    return Applying(len(claimed), changed, refused)


async def _one(db: CellDb, sealer: Sealer, message: Due, random: Random) -> str | None:
    """Apply one message: None when it changed something, otherwise why not."""
    try:
        opened = payin_notice.unpack(sealer, message)

        async def work(tx: CellTx) -> outcome.Applied:
            evidence = f"{message.source}#{message.message_id}"
            account, about = opened.rail_account_id, opened.about
            if isinstance(about, ChargeOutcome):
                (result,) = await outcome.apply(tx, account, [about], evidence=evidence)
            else:
                (result,) = await refund.apply(tx, account, [about], evidence=evidence)
            told: dict[str, object] = {"changed": int(result.done)}
            if result.slug in _REPORTED:
                told |= {"slug": result.slug, "detail": result.detail, "keys": [result.key]}
            token = message.lease_token
            if not await inbox.done(tx, message.source, message.message_id, told, token):
                raise Conflict(LEASE_LOST, "The message went to another process.")
            return result

        return (await db.run(ACTOR, message.trace_id, work)).slug
    except Busy:
        raise
    except Exception as error:  # noqa: BLE001 - one bad message stops no other
        return await put_back(db, message, random, error, "payin_notice_failed")
