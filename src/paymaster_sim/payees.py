"""Those who must confirm what WeChat Pay offers them: they do, sooner or later, refuse, or forget.

Who confirms in our app has what opens the provider's page from us: it is asked for as any client
asks, and must be the very one that the provider gave out for this transfer. The provider's own
message leads to the same page without us.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from paymaster.kernel.clock import Clock
from paymaster_sim.checks import Violation
from paymaster_sim.clients import Clients
from paymaster_sim.eye import Eye
from paymaster_sim.place import CELLS
from paymaster_sim.yuan import Waiting, Yuan

AGAIN = timedelta(minutes=10)
"""So much later a payee looks again who was not shown how to confirm."""

PATIENCE = timedelta(hours=26)
_WHOSE = " UNION ALL ".join(
    f"SELECT {n}, w.id, w.user_id FROM cell_{n}.attempt a"  # noqa: S608 - names of ours
    f" JOIN cell_{n}.withdrawal w ON w.id = a.withdrawal_id WHERE a.key = %(key)s"
    for n in CELLS
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What somebody means to do with the next transfer: `confirm`, `refuse` or `forget`.

    `message`: from the provider's message, past our app.
    """

    act: str = "confirm"
    after: float = 60.0
    message: bool = False


@dataclass(slots=True)
class _Meant:
    at: datetime
    until: datetime
    bill: Waiting
    plan: Plan


@dataclass(slots=True)
class Payees:
    """All of them. Without yuan there is nothing to do."""

    yuan: Yuan | None
    clients: Clients
    eye: Eye
    clock: Clock
    _plans: dict[str, deque[Plan]] = field(default_factory=lambda: defaultdict(deque))
    _meant: dict[str, _Meant] = field(default_factory=dict[str, _Meant])
    _known: set[str] = field(default_factory=set[str])

    def expect(self, openid: str, plan: Mapping[str, Any], *, first: bool = False) -> None:
        """Somebody will do so with the next transfer, or the one after those already planned."""
        plans = self._plans[openid]
        (plans.appendleft if first else plans.append)(Plan(**plan))

    def next_due(self) -> datetime | None:
        """When somebody means to do something."""
        return min((one.at for one in self._meant.values()), default=None)

    async def act(self) -> int:
        """Do what is due now; how much was tried."""
        if self.yuan is None:
            return 0
        waiting = {one.bill_no: one for one in self.yuan.waiting()}
        now = self.clock.now()
        for bill_no, bill in waiting.items():
            if bill_no not in self._known:
                self._known.add(bill_no)
                plans = self._plans[bill.openid]
                plan = plans.popleft() if plans else Plan()
                if plan.act != "forget":
                    at = now + timedelta(seconds=plan.after)
                    self._meant[bill_no] = _Meant(at, at + PATIENCE, bill, plan)
        due = [one for one in self._meant.values() if one.at <= now]
        for one in due:
            await self._do(self.yuan, one, waits=one.bill.bill_no in waiting)
        return len(due)

    async def _do(self, yuan: Yuan, one: _Meant, *, waits: bool) -> None:
        number = one.bill.bill_no
        if waits and one.plan.act == "confirm" and not one.plan.message:
            package = await self._shown(one.bill.reference)
            if package is None and self.clock.now() < one.until:
                one.at = self.clock.now() + AGAIN
                return
            if package not in {None, one.bill.package}:
                raise Violation(
                    "package-differs",
                    f"{one.bill.reference} is shown another package than the provider gave out",
                )
        del self._meant[number]
        yuan.act(number, one.plan.act)

    async def _shown(self, reference: str) -> str | None:
        """What our app shows the payee."""
        for row in self.eye.rows(_WHOSE, key=reference):
            return await self.clients.package(*row)
        return None
