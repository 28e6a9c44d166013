"""Operators: they decide what waits for a person, stop payments, and find out what nobody knows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from paymaster.db.tx import Actor, CellTx
from paymaster.dispatch import accounts, decide, transfer
from paymaster.dispatch.accounts import PayoutAccount
from paymaster.dispatch.decide import Finding
from paymaster.earn import reversal
from paymaster.kernel.clock import milliseconds
from paymaster.kernel.ids import milliseconds_of, new_trace_id
from paymaster.kernel.money import Money
from paymaster.withdraw import holds, moves
from paymaster_sim import cast, terms
from paymaster_sim.checks import ENDS, WENT_OUT
from paymaster_sim.clients import Clients
from paymaster_sim.eye import Eye, Order, Seen
from paymaster_sim.mixes import Mix
from paymaster_sim.outside import Outside
from paymaster_sim.place import CELLS, ENVIRONMENT
from paymaster_sim.roles import told
from paymaster_sim.runtime import ProcessDied

PERSON = Actor("staff:sim")
REASON = "looked at"
SETTLED_AFTER = timedelta(hours=3)
"""A person says what became of a payment only when whoever sent it has certainly ended."""

BEFORE_THE_RAIL = ("requested", "screening", "in_review", "approved", "queued")
Decision = Callable[[CellTx, int, str], Awaitable[Any]]
_ACTS: dict[str, tuple[tuple[str, ...], Decision]] = {
    "approve": (("in_review",), moves.approve),
    "deny": ((*BEFORE_THE_RAIL, "held"), moves.deny),
    "hold": (BEFORE_THE_RAIL, moves.hold),
    "release": (("held",), moves.release),
}


@dataclass(frozen=True, slots=True)
class Staff:
    """Operators of a run. `pick` chooses among what there is, oldest first."""

    desk: Clients
    eye: Eye
    outside: Outside

    async def act(self, kind: str, pick: int) -> None:
        """Approve, deny, hold or release one that is in a state for it."""
        states, decision = _ACTS[kind]
        found = [one for one in self.eye.withdrawals() if one.state in states]
        if found:
            one = found[pick % len(found)]
            await self.desk.write(one.cell, PERSON, lambda tx: decision(tx, one.id, REASON))

    async def race(self, first: str, second: str, pick: int) -> None:
        """Two of them decide on the same one at the same moment."""
        found = [one for one in self.eye.withdrawals() if one.state in (*BEFORE_THE_RAIL, "held")]
        if found:
            one = found[pick % len(found)]
            decisions = [_ACTS[kind][1] for kind in (first, second)]
            await asyncio.gather(
                *(
                    self.desk.write(one.cell, PERSON, lambda tx, d=each: d(tx, one.id, REASON))
                    for each in decisions
                )
            )

    async def freeze(self, kind: str, pick: int, reference: str) -> None:
        """An authority orders that nothing of somebody, or of a payment, moves."""
        found = [one for one in self.eye.withdrawals() if one.state not in ENDS]
        if found:
            one = found[pick % len(found)]
            subject = {
                "user": one.user_id, "destination": one.destination_id, "withdrawal": one.id,
            }[kind]  # fmt: skip
            await self.desk.write(
                one.cell, PERSON, lambda tx: holds.place(tx, kind, subject, reference, REASON)
            )

    async def thaw(self, pick: int) -> None:
        """An authority lets go of one of them."""
        found = self.eye.legal_holds()
        if found:
            await self._lift(*found[pick % len(found)])

    async def _lift(self, cell: int, number: int) -> None:
        await self.desk.write(cell, PERSON, lambda tx: holds.lift(tx, number, REASON))

    async def reprice(self, mix: Mix, prices: int) -> None:
        """Other fees from now on."""
        api = self.desk.api
        try:
            await api.up()
            run = api.deps.dbs.control.run(
                PERSON, new_trace_id(), lambda tx: terms.put(tx, mix, prices)
            )
            await api.call(told(run, self.desk.refused))
        except ProcessDied:
            return

    async def decide_all(self) -> None:
        """Lift every hold, approve what waits for a person or deny it, release all that is held."""
        for cell, number in self.eye.legal_holds():
            await self._lift(cell, number)
        for one in self.eye.withdrawals():
            for kind in ("approve", "release"):
                states, decision = _ACTS[kind]
                if one.state in states and not await self._decided(one, decision):
                    # Its destination was closed when it was on its way there, and came back.
                    await self._decided(one, moves.deny)

    async def _decided(self, one: Seen, decision: Decision) -> bool:
        done = await self.desk.write(one.cell, PERSON, lambda tx: decision(tx, one.id, REASON))
        return done is not None

    async def reverse_payment(self, pick: int) -> None:
        """Book one that the provider shows as come back, and that is still paid here."""
        back = {one.reference for one in self.outside.paid() if one.state == "returned"}
        ours = {(o.cell, o.withdrawal_id) for o in self.eye.orders() if o.key in back}
        found = [
            one
            for one in self.eye.withdrawals()
            if one.state == "paid" and (one.cell, one.id) in ours
        ]
        if found:
            one = found[pick % len(found)]
            await self.desk.write(one.cell, PERSON, lambda tx: moves.reverse(tx, one.id, REASON))

    async def reverse_reward(self, pick: int) -> None:
        """A partner takes a reward back."""
        found = self.eye.rewards(["available", "vesting"])
        if found:
            cell, number, _ = found[pick % len(found)]
            command = reversal.Reverse(number, REASON)
            await self.desk.write(cell, PERSON, lambda tx: reversal.reverse(tx, [command]))

    async def find_out(self, pick: int) -> None:
        """Ask the provider's people about a payment of which nothing is known."""
        found = self._unknown()
        if found:
            await self._found_out(found[pick % len(found)])

    async def find_out_all(self) -> None:
        """Ask about all of them."""
        for one in self._unknown():
            await self._found_out(one)

    def _unknown(self) -> list[Order]:
        now = milliseconds(self.desk.api.deps.clock.now() - SETTLED_AFTER)
        return [
            one
            for one in self.eye.orders()
            if one.state == "unknown" and milliseconds_of(one.id) < now
        ]

    async def _found_out(self, one: Order) -> None:
        out_there = {each.reference: each.state for each in self.outside.paid()}
        if out_there.get(one.key) == "pending":
            return
        went = out_there.get(one.key) in WENT_OUT
        finding = Finding.PAID if went else Finding.NOT_PAID
        if finding is Finding.NOT_PAID and self._company(one.key, out_there):
            return

        async def work(tx: CellTx) -> Any:
            return await decide.decide(tx, one.id, finding, "asked by telephone")

        await self.desk.write(one.cell, PERSON, work)

    def _company(self, key: str, out_there: dict[str, str]) -> bool:
        """Whether another payment of the same order was made: then the order is not dead."""
        one = (
            "SELECT b.key FROM {s}.attempt a JOIN {s}.attempt b ON b.batch_id = a.batch_id"
            " WHERE a.key = %(key)s"
        )
        keys = {row[0] for n in CELLS for row in self.eye.rows(one.format(s=f"cell_{n}"), key=key)}
        return any(out_there.get(each) in WENT_OUT for each in keys)

    async def top_up(self, minor: int) -> None:
        """Move money from the bank to the wallet provider.

        WeChat Pay and Alipay are topped up from elsewhere, on their own pages.
        """
        if self.outside.yuan is not None:
            for name in self.desk.cast.accounts:
                if name != cast.BANK:
                    self.outside.yuan.top_up(name, minor)
            return
        deps, there = self.desk.api.deps, self.desk.cast.accounts
        known = await self._known()
        if known is None:
            return

        async def work(tx: CellTx) -> Any:
            order = transfer.Order(
                there[cast.BANK], there[cast.WALLET], Money(minor, self.desk.cast.currency), REASON
            )
            return await transfer.request(tx, known, deps.rails, [order])

        await self.desk.write(CELLS[0], PERSON, work)

    async def _known(self) -> dict[int, PayoutAccount] | None:
        try:
            await self.desk.api.up()
            load = accounts.load(self.desk.api.deps.dbs, ENVIRONMENT)
            return await self.desk.api.call(told(load, self.desk.refused))
        except ProcessDied:
            return None
