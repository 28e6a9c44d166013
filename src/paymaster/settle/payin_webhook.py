"""A provider calls about money that came in: verify, keep, acknowledge; see `webhook`."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass

from paymaster.db import inbox
from paymaster.db.cells import Databases
from paymaster.db.inbox import Incoming
from paymaster.db.tx import Actor, CellTx
from paymaster.dispatch.accounts import PayoutAccount, find
from paymaster.kernel.errors import NotFound, PaymasterError, Refusal
from paymaster.observe import get_logger
from paymaster.payin.request import taker
from paymaster.rails.base import Rail, WebhookAnswer
from paymaster.rails.payin import PayInNotice, TakesPayments
from paymaster.secrets.sealing import Sealer
from paymaster.settle import payin_notice, unmatched
from paymaster.settle.notice import Evidence
from paymaster.settle.webhook import Keep

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
        by_cell, foreign = payin_notice.by_cell(self.dbs, self.environment_id, found)
        for cell, group in sorted(by_cell.items()):
            kept = payin_notice.pack(self.sealer, source, account.id, group, evidence, trace_id)
            await (self.keep(cell, kept) if self.keep else self._keep(cell, kept, trace_id))
        await self._keep_foreign(account, source, foreign, evidence, trace_id)
        return rail.payin_answer(True)

    def _keep(self, cell: int, kept: list[Incoming], trace_id: str) -> Awaitable[int]:
        return self.dbs.cell(cell).run(ACTOR, trace_id, lambda tx: inbox.receive(tx, kept))

    async def _keep_foreign(
        self,
        account: PayoutAccount,
        source: str,
        foreign: list[PayInNotice],
        evidence: Evidence,
        trace_id: str,
    ) -> None:
        """Authentic, but about nothing of ours: kept in the treasury cell for people to see."""
        if not foreign:
            return
        kept = payin_notice.pack(
            self.sealer,
            source,
            account.id,
            foreign,
            evidence,
            trace_id,
            topic=payin_notice.UNMATCHED,
        )

        async def work(tx: CellTx) -> int:
            return await unmatched.keep(tx, kept, "notice-unmatched", "We have no such reference.")

        if await self.dbs.treasury(self.environment_id).run(ACTOR, trace_id, work):
            _log.warning("payin_unmatched", rail_account=account.rail.name, notices=len(kept))
