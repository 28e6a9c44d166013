"""A provider calls: verify on the raw bytes, keep, acknowledge; nothing is decided here.

What is not authentic or not fresh is refused and leaves no trace in the database. What is told
twice is kept once. An acknowledgement means that the message is durable in its cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from paymaster.db.cells import Databases
from paymaster.db.tx import Actor
from paymaster.dispatch.accounts import find
from paymaster.kernel.errors import NotFound, PaymasterError, Refusal
from paymaster.observe import get_logger
from paymaster.rails.base import AnswersWebhooks, Rail, ReadsWebhooks, WebhookAnswer
from paymaster.secrets.sealing import Sealer
from paymaster.settle import notice
from paymaster.settle.envelope import Evidence
from paymaster.settle.inboxes import Keep, put

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
    evidence, source = Evidence(lowered, body), f"webhook:{account.rail.name}"
    messages = [
        (notice.about(one), notice.pack(sealer, source, account.id, one, evidence, trace_id))
        for one in found
    ]
    kept = await put(dbs, environment_id, ACTOR, messages, trace_id, keep)
    if kept.foreign:
        _log.warning("notice_unmatched", rail_account=account.rail.name, notices=kept.foreign)
    again = len(found) - kept.new - kept.foreign
    return Received(kept.new, again, kept.foreign, _answer(rail, taken=True))
