"""What lies in an inbox changes attempts - later, at our pace, in any order.

Messages are claimed under a lease and applied together; if that fails, each alone, so that one
that cannot be applied stops no other. It is tried again a few times, in growing intervals, then
laid aside with its reason for people to look at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from random import Random

from paymaster.db import inbox
from paymaster.db.inbox import Due
from paymaster.db.pool import CellDb
from paymaster.db.tx import Actor, CellTx
from paymaster.dispatch import outcome
from paymaster.dispatch.outcome import Applied
from paymaster.kernel.errors import LEASE_LOST, Busy, Conflict, PaymasterError
from paymaster.kernel.ids import new_trace_id
from paymaster.kernel.retry import Backoff
from paymaster.observe import get_logger
from paymaster.rails.base import Outcome
from paymaster.secrets.sealing import Sealer
from paymaster.settle.notice import TOPIC, Opened, unpack

MAX_TRIES = 8
"""After so many failures a message is laid aside."""

LEASE = timedelta(seconds=60)
ACTOR = Actor("role:settle")
_AGAIN = Backoff(timedelta(seconds=1), timedelta(minutes=10))
_REPORTED = outcome.BREAKS | {"attempt-unknown"}
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Applying:
    """What one round did: messages claimed, changes made, set aside for people."""

    claimed: int
    changed: int
    refused: int


async def apply_due(db: CellDb, sealer: Sealer, random: Random, *, limit: int = 200) -> Applying:
    """One round in a cell. Raises Busy when the database cannot be reached."""

    async def claim(tx: CellTx) -> list[Due]:
        return await inbox.claim(tx, TOPIC, limit, tx.now + LEASE)

    claimed = await db.run(ACTOR, new_trace_id(), claim)
    if not claimed:
        return Applying(0, 0, 0)
    try:
        changed, refused = await _apply(db, sealer, claimed)
    except Busy:
        raise
    except Exception as error:  # noqa: BLE001 - found out one by one below
        _log.warning("notices_failed_together", error=type(error).__name__, notices=len(claimed))
        changed = refused = 0
        for message in claimed:
            one_changed, one_refused = await _alone(db, sealer, message, random)
            changed, refused = changed + one_changed, refused + one_refused
    return Applying(len(claimed), changed, refused)


async def _alone(db: CellDb, sealer: Sealer, message: Due, random: Random) -> tuple[int, int]:
    try:
        return await _apply(db, sealer, [message])
    except Busy:
        raise
    except Exception as error:  # noqa: BLE001 - one bad message stops no other
        slug = await put_back(db, message, random, error, "notice_failed")
        return 0, int(slug != LEASE_LOST and message.tries >= MAX_TRIES)


async def put_back(db: CellDb, message: Due, random: Random, error: Exception, event: str) -> str:
    """Try a message again later, or lay it aside, and log `event`: the slug of what failed.

    One that another process has by now is left to it.
    """
    slug = error.slug if isinstance(error, PaymasterError) else "notice-poisoned"
    if slug == LEASE_LOST:
        _log.warning(event, source=message.source, slug=slug)
        return slug
    _log.exception(event, source=message.source, slug=slug, tries=message.tries)
    detail = error.detail if isinstance(error, PaymasterError) else type(error).__name__

    async def work(tx: CellTx) -> None:
        if message.tries >= MAX_TRIES:
            result = {"slug": slug, "detail": detail}
            await inbox.done(tx, message.source, message.message_id, result, message.lease_token)
        else:
            await inbox.postpone(tx, message, tx.now + _AGAIN.delay(message.tries, random))

    await db.run(ACTOR, message.trace_id, work)
    return slug


async def _apply(db: CellDb, sealer: Sealer, messages: Sequence[Due]) -> tuple[int, int]:
    """Apply messages in one transaction: how many changed something, how many were refused."""
    opened = [unpack(sealer, message) for message in messages]
    trace_id = messages[0].trace_id if len(messages) == 1 else new_trace_id()

    async def work(tx: CellTx) -> tuple[int, int]:
        results = await _tell(tx, sealer, messages, opened)
        changed = refused = 0
        for message, found in zip(messages, results, strict=True):
            done = sum(result.done for result in found)
            bad = [result for result in found if result.slug in _REPORTED]
            changed, refused = changed + done, refused + bool(bad)
            still_ours = await inbox.done(
                tx, message.source, message.message_id, _result(done, bad), message.lease_token
            )
            if not still_ours:
                raise Conflict("lease-lost", "The message went to another process.")
        return changed, refused

    return await db.run(ACTOR, trace_id, work)


async def _tell(
    tx: CellTx, sealer: Sealer, messages: Sequence[Due], opened: Sequence[Opened]
) -> list[list[Applied]]:
    """Apply all notices, those of one account together; the results of each message."""
    results: list[list[Applied]] = [[] for _ in messages]
    told: dict[int, list[tuple[int, Outcome]]] = {}
    for index, one in enumerate(opened):
        known = await _outcomes(tx, one)
        if known is None:
            name = one.notice.batch_key or one.notice.outcome.key
            results[index] = [Applied(name, False, None, "attempt-unknown", "No such order.")]
            continue
        told.setdefault(one.rail_account_id, []).extend((index, said) for said in known)
    for account_id, said in sorted(told.items()):
        evidence = [f"{messages[i].source}#{messages[i].message_id}" for i, _ in said]
        applied = await outcome.apply(
            tx, account_id, [each for _, each in said], evidence=evidence, sealer=sealer
        )
        for (index, _), result in zip(said, applied, strict=True):
            results[index].append(result)
    return results


async def _outcomes(tx: CellTx, one: Opened) -> list[Outcome] | None:
    """A notice about an order holds for all its payments but those it names apart.

    None when there is no such order.
    """
    said = one.notice.outcome
    if one.notice.batch_key is None:
        return [said]
    keys = await outcome.payments_of(tx, one.notice.batch_key)
    if not keys:
        return None
    return [
        Outcome(key, said.verdict, None, said.code, said.detail, None, said.occurred_at)
        for key in keys
        if key not in one.notice.but_not
    ]


def _result(done: int, bad: Sequence[Applied]) -> dict[str, object]:
    if not bad:
        return {"changed": done}
    return {
        "changed": done,
        "slug": bad[0].slug,
        "detail": bad[0].detail,
        "keys": [result.key for result in bad[:20]],
    }
