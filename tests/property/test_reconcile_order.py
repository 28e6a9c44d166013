"""Whatever the order, however often: the same statements and answers make the same books."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from random import Random

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.statements import BANK, Office, Payout, came_back, later, line, office, paid, sheet
from tests.world import PostgresServer

from paymaster.dispatch import outcome
from paymaster.kernel.money import Money
from paymaster.rails.base import LineKind, Outcome, RailAccount, Statement, Verdict
from paymaster.reconcile import match
from paymaster.reconcile.catalogue import Catalogue, Funding

_numbers = itertools.count(100)
Act = Callable[[], Awaitable[object]]


@dataclass
class Trial:
    """One account with its own payments and campaign, worked on in some order."""

    desk: Office
    account: RailAccount
    campaign: int
    payouts: list[Payout]
    statements: list[Statement]

    @classmethod
    async def begin(cls, desk: Office) -> Trial:
        number = next(_numbers)
        account = replace(BANK, id=number, name=f"bank-{number}")
        payouts = await desk.payouts(["10.00", "20.00", "30.00"], account=account)
        payouts += await desk.payouts(["40.00", "50.00", "60.00"], cell=2, account=account)
        payouts += await desk.payouts(["70.00"], cell=2, account=account, state="rejected")
        a, b, c, d, e, f, g = payouts
        tag = f"{number}/"
        days = [
            sheet(
                "1000.00",
                paid(a, tag + "a"),
                paid(d, tag + "d"),
                line(tag + "fee", "-1.00", kind=LineKind.FEE),
            ),
            sheet(
                "949.00",
                came_back(b, tag + "rb"),
                paid(e, tag + "e"),
                paid(e, tag + "e again"),
                line(
                    tag + "in",
                    "5.00",
                    kind=LineKind.INCOMING,
                    remittance=f"for CAMPAIGN{number} thanks",
                ),
                day=later(1),
            ),
            sheet(
                "874.00",
                paid(b, tag + "b"),
                paid(c, tag + "c", "30.01"),
                came_back(d, tag + "rd"),
                paid(f, tag + "f"),
                paid(g, tag + "g"),
                line(tag + "?", "-3.00", fee="0.20"),
                day=later(2),
            ),
        ]
        return cls(desk, account, number, payouts, days)

    async def store(self, statement: Statement) -> None:
        await self.desk.store(statement, account=self.account)

    async def match(self, random: Random) -> None:
        """Look at a few lines, in an order that time alone would not give."""
        await self.desk.world.run(
            lambda tx: tx.execute(
                "UPDATE statement_line SET due_at = %s - make_interval(secs => id %% %s)"
                " WHERE due_at IS NOT NULL",
                (tx.now, random.randint(2, 13)),
            )
        )
        catalogue = Catalogue({f"CAMPAIGN{self.campaign}": Funding(self.campaign, "EUR")})
        limit = random.randint(1, 4)
        await self.desk.world.run(
            lambda tx: match.match_due(tx, self.desk.sealer, catalogue, self.desk.cells, limit)
        )

    async def ask_again(self) -> None:
        """The question or its answer was lost: it is asked under a new message."""
        await self.desk.world.run(
            lambda tx: tx.execute(
                "UPDATE statement_line SET state = 'open', due_at = %s WHERE state = 'asked'",
                (tx.now,),
            )
        )

    async def told(self, payout: Payout, verdict: Verdict) -> None:
        """The provider says so by another way than the statement."""
        said = Outcome(payout.key, verdict, amount=payout.amount)
        await self.desk.world.run(
            lambda tx: outcome.apply(tx, self.account.id, [said], evidence="webhook:1"),
            payout.cell,
        )

    def acts(self, random: Random) -> list[Act]:
        desk = self.desk
        a, b, _, d, e, _, _ = self.payouts
        acts: list[Act] = [lambda s=s: self.store(s) for s in self.statements[1:] * 2]
        acts += [lambda: self.match(random)] * random.randint(4, 10)
        acts += [self.ask_again] * random.randint(0, 2)
        acts += [lambda: desk.deliver(only=1)] * random.randint(0, 3)
        acts += [lambda: desk.deliver(only=2)] * random.randint(0, 3)
        acts += [lambda: desk.deliver(lose_position=True)] * random.randint(0, 2)
        acts += [lambda p=p: self.told(p, Verdict.PAID) for p in (a, b, e)]
        acts += [lambda p=p: self.told(p, Verdict.RETURNED) for p in (b, d)]
        random.shuffle(acts)
        return [lambda: self.store(self.statements[0]), *acts]

    async def finish(self, random: Random) -> dict[str, object]:
        """Come to rest, then everything that the books and the states say."""
        for _ in range(60):
            await self.match(random)
            moved = await self.desk.deliver()
            if not moved and not await self._waiting():
                return await self._result()
        raise AssertionError("reconciliation does not come to rest")

    async def _waiting(self) -> int:
        return await self.desk.world.read(
            lambda tx: tx.value(
                "SELECT count(*) FROM statement_line WHERE state IN ('open', 'asked')"
            )
        )

    async def _result(self) -> dict[str, object]:
        desk, account = self.desk, self.account.id
        rows = await desk.world.read(
            lambda tx: tx.tuples(
                "SELECT kind FROM break WHERE rail_account_id = %s AND state = 'open' ORDER BY 1",
                (account,),
            )
        )
        return {
            "cash": await desk.cash(self.account),
            "suspense": await desk.balance("suspense", account),
            "fees": await desk.balance("rail_fees", account),
            "clearing": [await desk.balance("clearing", account, cell) for cell in (1, 2)],
            "budget": await desk.balance("budget", self.campaign),
            "states": [await desk.withdrawal(payout) for payout in self.payouts],
            "breaks": [row[0] for row in rows],
        }


EXPECTED = {
    "cash": "730.79",
    "suspense": Money(-15301, "EUR"),
    "fees": Money(-120, "EUR"),
    "clearing": [Money(0, "EUR")] * 2,
    "budget": Money(500, "EUR"),
    "states": ["paid", "returned", "sent", "returned", "paid", "paid", "failed"],
    "breaks": ["amount-differs", "attempt-contradicts", "booked-twice", "unknown-line"],
}


async def _trial(desk: Office, random: Random) -> None:
    trial = await Trial.begin(desk)
    for act in trial.acts(random):
        await act()
    assert await trial.finish(random) == EXPECTED
    await desk.assert_proven()


def test_any_order_and_repetition_gives_the_same_books(postgres: PostgresServer) -> None:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        desk = runner.run(stack.enter_async_context(office(postgres, cells=2)))

        @settings(
            max_examples=8,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=[HealthCheck.too_slow],
        )
        @given(st.integers(0, 2**32))
        def check(seed: int) -> None:
            runner.run(_trial(desk, Random(seed)))

        try:
            check()
        finally:
            runner.run(stack.aclose())
