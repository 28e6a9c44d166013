"""Whatever is told, in whatever order, and wherever a process dies: credited once or not at all.

Hypothesis chooses what happens next to a few charges: the loop runs, or dies at some call; the
payer pays, a notice comes, twice, late or wrong; a bill shows it; it is closed; money is given
back. What the provider's own books say in the end is what the budget holds, and every proof holds.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.collecting import CAMPAIGN, Collecting, collecting_world
from tests.world import PostgresServer

from paymaster.kernel.errors import Conflict, NeverSent, RailUnknown, Unprocessable
from paymaster.kernel.money import Money
from paymaster.payin import booking, outcome, request
from paymaster.payin.booking import BillLine
from paymaster.payin.store import ChargeRow
from paymaster.rails.payin import ChargeOutcome, ChargeVerdict, RefundVerdict

MINUTE = timedelta(minutes=1)
REFUSED = {"topup-paid", "topup-not-paid", "refund-too-much", "refund-insufficient"}
"""Why some acts are not possible when they are tried."""

ACTS = (
    "loop", "loop", "wait", "long", "die", "never", "lose-before", "lose-after", "pay", "pay",
    "notice", "twice", "wrong", "bare", "closed", "bill", "close", "refund", "refund-done",
)  # fmt: skip


@pytest.fixture(scope="module")
def server(postgres: PostgresServer) -> PostgresServer:
    return postgres


class Play:
    """What happens, and what must have come of it."""

    def __init__(self, till: Collecting, rows: list[ChargeRow]) -> None:
        self.till = till
        self.rows = rows
        self.notices = 0
        self.lines = 0
        self.slugs = set[str]()

    async def act(self, what: str, which: int) -> None:
        till, row = self.till, self.rows[which % len(self.rows)]
        match what:
            case "loop":
                await till.round(rounds=2)
            case "wait":
                await till.later(MINUTE)
            case "long":
                await till.later(20 * MINUTE)
            case "die":
                await till.collector.tick(1)
                for _ in range(which % 7):
                    await asyncio.sleep(0)
                await till.collector.stop()
            case "never":
                till.rail.before.append(NeverSent("transport-unreachable", "away"))
            case "lose-before":
                till.rail.before.append(RailUnknown("provider-silent", "no answer"))
            case "lose-after":
                till.rail.after.append(RailUnknown("provider-silent", "no answer"))
            case "close":
                await self._close(row)
            case "refund":
                await self._refund(row, which)
            case "refund-done":
                till.rail.refund_verdict = RefundVerdict.DONE
            case _:
                await self._about(what, row)

    async def _about(self, what: str, row: ChargeRow) -> None:
        """Something that takes a charge which the provider knows."""
        known = self.till.rail.known.get(row.key)
        if known is None:
            return
        if what == "pay" and known.verdict is not ChargeVerdict.CLOSED:
            known.verdict, known.paid = ChargeVerdict.PAID, known.charge.amount
        elif what == "wrong":
            await self._hear(row, ChargeVerdict.PAID, Money(1, "EUR"))
        elif what == "closed" and known.verdict is ChargeVerdict.CLOSED:
            await self._hear(row, ChargeVerdict.CLOSED, None)
        elif known.verdict is ChargeVerdict.PAID and what in {"notice", "twice", "bare"}:
            for _ in range(2 if what == "twice" else 1):
                amount = None if what == "bare" else row.money
                await self._hear(row, ChargeVerdict.PAID, amount)
        elif known.verdict is ChargeVerdict.PAID and what == "bill":
            self.lines += 1
            day = self.till.world.clock.now().date()
            line = BillLine(f"sl_{self.lines}", row.key, row.money, True, day, False)
            await self.till.world.run(
                lambda tx: booking.book(tx, self.till.account.id, 1, "st", [line])
            )

    async def _hear(self, row: ChargeRow, verdict: ChargeVerdict, amount: Money | None) -> None:
        said = [ChargeOutcome(row.key, verdict, amount=amount)]
        await self.till.world.run(
            lambda tx: outcome.apply(tx, self.till.account.id, said, evidence="notice")
        )

    async def _close(self, row: ChargeRow) -> None:
        try:
            await self.till.world.run(lambda tx: request.close(tx, row.id))
        except Conflict as error:
            self.slugs.add(error.slug)

    async def _refund(self, row: ChargeRow, which: int) -> None:
        try:
            await self.till.back(row, Money(100 * (which % 4 + 1), "EUR"))
        except (Conflict, Unprocessable) as error:
            self.slugs.add(error.slug)

    async def end(self) -> None:
        """All is asked in the end; then the books are held against the provider's."""
        till = self.till
        till.rail.before, till.rail.after = [], []
        till.rail.refund_verdict = RefundVerdict.DONE
        for _ in range(12):
            await till.later(20 * MINUTE)
        assert self.slugs <= REFUSED
        paid = given = 0
        for row in self.rows:
            seen, known = await till.see(row), till.rail.known.get(row.key)
            truly = known is not None and known.verdict is ChargeVerdict.PAID
            assert (seen.state == "paid") == truly, (seen, known)
            paid += row.amount if truly else 0
        for order in till.rail.refunds.values():
            given += order.amount.minor
        states = await till.world.read(
            lambda tx: tx.tuples("SELECT DISTINCT state FROM charge_refund")
        )
        assert {state for (state,) in states} <= {"done"}
        assert await till.balance("budget", CAMPAIGN) == paid - given
        entries = await till.world.read(
            lambda tx: tx.tuples(
                "SELECT subject, count(*) FROM entry WHERE kind = 'paid_in' GROUP BY 1"
            )
        )
        assert all(count == 1 for _, count in entries)
        await till.assert_proven()


@settings(
    max_examples=40,
    suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]
)
@given(acts=st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, 11)), min_size=5, max_size=30))
def test_credited_once_or_not_at_all(server: PostgresServer, acts: list[tuple[str, int]]) -> None:
    async def run() -> None:
        async with collecting_world(server) as till:
            play = Play(till, [await till.new(amount=Money(minor, "EUR")) for minor in (500, 900)])
            for what, which in acts:
                await play.act(what, which)
            await play.end()

    asyncio.run(run())
