"""A provider calls: verify on the raw bytes, keep, acknowledge; nothing is decided here.

What is not authentic or not fresh is refused and leaves no trace in the database. What is told
twice is kept once. An acknowledgement means that the message is durable in its cell.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from paymaster.db import inbox
from paymaster.db.cells import Databases
from paymaster.db.inbox import Incoming
from paymaster.db.tx import Actor, CellTx
from paymaster.dispatch.accounts import PayoutAccount, find
from paymaster.kernel.errors import NotFound, PaymasterError, Refusal
from paymaster.observe import get_logger
from paymaster.rails.base import AnswersWebhooks, Notice, Rail, ReadsWebhooks, WebhookAnswer
from paymaster.secrets.sealing import Sealer
from paymaster.settle import notice as notices
from paymaster.settle import unmatched
from paymaster.settle.notice import Evidence

ACTOR = Actor("role:hooks")
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Received:
    """What came of a webhook: `new` messages kept, `again` known already, `unmatched` foreign.

    `answer` is what the provider wants to hear about it, where it wants certain words.
    """

    new: int
    again: int
    unmatched: int
    answer: WebhookAnswer | None = None


def _answer(rail: Rail | None, *, taken: bool) -> WebhookAnswer | None:
    return rail.webhook_answer(taken) if isinstance(rail, AnswersWebhooks) else None


async def refusal(
    dbs: Databases,
    rails: Mapping[str, Rail],
    environment_id: int,
    account_name: str,
    error: PaymasterError,
) -> WebhookAnswer | None:
    """What the provider wants to hear of a message that was refused.

    None where the usual problem will do, and where the fault was ours: it is sent again then.
    """
    if not isinstance(error, Refusal):
        return None
    try:
        account = await find(dbs, environment_id, account_name)
    except NotFound:
        return None
    return _answer(rails.get(account.rail.rail), taken=False)


Keep = Callable[[int, Sequence[Incoming]], Awaitable[int]]
"""Keeps messages in the inbox of a cell, durably; how many were new."""


async def receive(
    dbs: Databases,
    rails: Mapping[str, Rail],
    sealer: Sealer,
    environment_id: int,
    account_name: str,
    headers: Mapping[str, str],
    body: bytes,
    trace_id: str,
    keep: Keep | None = None,
) -> Received:
    """Take in a webhook for a rail account. Header names may have any case.

    `keep` stores the messages of a cell; without it each webhook has a transaction of its own.

    Raises Unauthenticated `webhook-signature` or `webhook-stale`, Refusal `webhook-malformed`,
    NotFound `rail-account-unknown` or `webhook-unsupported`, Busy when it could not be kept: the
    provider then sends it again.
    """
    account = await find(dbs, environment_id, account_name)
    rail = rails.get(account.rail.rail)
    if rail is None or not isinstance(rail, ReadsWebhooks):
        raise NotFound("webhook-unsupported", "The rail of this account sends no webhooks.")
    lowered = {name.lower(): value for name, value in headers.items()}
    found = rail.read_webhook(account.rail, lowered, body, dbs.clock.now())
    evidence = Evidence(lowered, body)
    source = f"webhook:{account.rail.name}"
    by_cell, foreign = notices.by_cell(dbs, environment_id, found)
    new = 0
    for cell, group in sorted(by_cell.items()):
        kept = [notices.pack(sealer, source, account.id, one, evidence, trace_id) for one in group]
        new += await (keep(cell, kept) if keep else _keep(dbs, cell, kept, trace_id))
    strange = await _keep_foreign(dbs, sealer, account, source, foreign, evidence, trace_id)
    return Received(new, len(found) - new - strange, strange, _answer(rail, taken=True))


async def _keep(dbs: Databases, cell: int, kept: list[Incoming], trace_id: str) -> int:
    async def work(tx: CellTx) -> int:
        return await inbox.receive(tx, kept)

    return await dbs.cell(cell).run(ACTOR, trace_id, work)


async def _keep_foreign(
    dbs: Databases,
    sealer: Sealer,
    account: PayoutAccount,
    source: str,
    foreign: list[Notice],
    evidence: Evidence,
    trace_id: str,
) -> int:
    """Authentic, but about no payment of ours: kept in the treasury cell for people to see."""
    if not foreign:
        return 0
    kept = [
        notices.pack(sealer, source, account.id, one, evidence, trace_id, topic=notices.UNMATCHED)
        for one in foreign
    ]
    treasury = dbs.treasury(account.environment_id)

    async def work(tx: CellTx) -> int:
        return await unmatched.keep(tx, kept, "notice-unmatched", "We have no such reference.")

    new = await treasury.run(ACTOR, trace_id, work)
    if new:
        _log.warning("notice_unmatched", rail_account=account.rail.name, notices=new)
    return new
