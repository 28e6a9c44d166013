"""A provider calls about money that came in: verify, keep, acknowledge; see `webhook`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from paymaster.db.cells import Databases
from paymaster.db.tx import Actor
from paymaster.dispatch.accounts import PayoutAccount, find
from paymaster.kernel.errors import NotFound, PaymasterError, Refusal
from paymaster.observe import get_logger
from paymaster.payin.request import taker
from paymaster.rails.base import Rail, WebhookAnswer
from paymaster.rails.payin import TakesPayments
from paymaster.secrets.sealing import Sealer
from paymaster.settle.envelope import Evidence
from paymaster.settle.inboxes import Keep, put
from paymaster.settle.payin_notice import pack

ACTOR = Actor("role:hooks")
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Door:
    """What takes messages in for an environment. `keep` stores the messages of a cell durably."""

    dbs: Databases
    rails: Mapping[str, Rail]
    sealer: Sealer
    environment_id: int
    keep: Keep | None = None

    async def _rail(self, account_name: str) -> tuple[PayoutAccount, TakesPayments]:
        account = await find(self.dbs, self.environment_id, account_name)
        rail = taker(self.rails, account)
        if rail is None:
            raise NotFound("webhook-unsupported", "The rail of this account takes no payments.")
        return account, rail

    async def refusal(self, account_name: str, error: PaymasterError) -> WebhookAnswer | None:
        """What the provider wants to hear of a message that was refused; None: the problem."""
        if not isinstance(error, Refusal):
            return None
        try:
            return (await self._rail(account_name))[1].payin_answer(False)
        except NotFound:
            return None

    async def receive(
        self, account_name: str, headers: Mapping[str, str], body: bytes, trace_id: str
    ) -> WebhookAnswer:
        """Take a message in; what the provider wants to hear when it is durably kept.

        Raises Unauthenticated `webhook-signature` or `webhook-stale`, Refusal `webhook-malformed`,
        NotFound `rail-account-unknown` or `webhook-unsupported`, Busy when it could not be kept.
        """
        account, rail = await self._rail(account_name)
        lowered = {name.lower(): value for name, value in headers.items()}
        found = rail.read_payin_webhook(account.rail, lowered, body, self.dbs.clock.now())
        evidence, source = Evidence(lowered, body), f"payin:{account.rail.name}"
        messages = [
            (one.about.key, pack(self.sealer, source, account.id, one, evidence, trace_id))
            for one in found
        ]
        kept = await put(self.dbs, self.environment_id, ACTOR, messages, trace_id, self.keep)
        if kept.foreign:
            _log.warning("payin_unmatched", rail_account=account.rail.name, notices=kept.foreign)
        return rail.payin_answer(True)
