"""Any steps in any order, by anybody: machine and model agree, and the books are proven.

Hypothesis chooses who asks for what and which step meets which withdrawal, legal or not, one at a
time or several in one transaction. A model of a few lines - state, available, held - says what must
have come of it. At the end of every run the proofs of withdrawals and books find no difference.
Some are asked for under a fee plan, some by a quote that is paid out in another currency: then the
house's position in both currencies is part of the model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.quoting import ask, position, quoted
from tests.withdrawals import (
    BANK,
    Earner,
    assert_proven,
    available,
    insert_destination,
    new_earner,
    withdrawal_world,
)
from tests.world import START, PostgresServer, World

from paymaster.kernel.errors import Unprocessable
from paymaster.kernel.money import Money
from paymaster.withdraw import fees, machine
from paymaster.withdraw.fees import Exchange, FeePlan
from paymaster.withdraw.machine import WITHDRAWAL, Event
from paymaster.withdraw.moves import Moved, Step, move
from paymaster.withdraw.rates import Found
from paymaster.withdraw.request import Requested, request

T = TypeVar("T")
OTHER_RAIL = 8
SMALL = {"amount-below-fee", "amount-too-small", "payout-unreachable", "amount-not-positive"}
"""Why some amounts cannot be quoted."""


def fee_plans() -> st.SearchStrategy[FeePlan]:
    return st.builds(
        FeePlan,
        st.just("any"),
        st.just(1),
        st.just("EUR"),
        st.sampled_from(("sender", "receiver")),
        flat=st.integers(0, 200),
        ppm=st.integers(0, 300_000),
        gives_back=st.booleans(),
        exchange=st.builds(Exchange, st.integers(0, 50_000), st.just(("ecb",))),
    )


@dataclass
class Line:
    """What the model knows of one withdrawal."""

    id: int
    owner: int
    total: int
    amount: int
    payout: Money
    fee_back: bool = False
    state: str = "requested"
    moved: int = 0
    rail: int | None = None


class Loop:
    """One event loop and one world for all runs; each run brings its own earners."""

    def __init__(self, postgres: PostgresServer) -> None:
        self.runner = asyncio.Runner()
        self._context = withdrawal_world(postgres)
        self.world: World = self.run(self._context.__aenter__())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def close(self) -> None:
        self.run(self._context.__aexit__(None, None, None))
        self.runner.close()


class Withdrawals(RuleBasedStateMachine):
    loop: Loop

    @initialize(
        balances=st.lists(st.integers(0, 5000), min_size=1, max_size=2),
        currency=st.sampled_from(("USD", "JPY", "KWD")),
    )
    def begin(self, balances: list[int], currency: str) -> None:
        self.earners: list[Earner] = [
            self.loop.run(new_earner(self.loop.world, Money(b, "EUR").text())) for b in balances
        ]
        self.abroad: list[Earner] = [
            replace(
                earner,
                destination_id=self.loop.run(
                    self.loop.world.run(
                        lambda tx, e=earner: insert_destination(tx, e.user_id, currency=currency)
                    )
                ),
            )
            for earner in self.earners
        ]
        self.currency = currency
        self.position = self.loop.run(position(self.loop.world))
        self.available = list(balances)
        self.held = [0] * len(balances)
        self.lines: list[Line] = []

    @rule(
        wishes=st.lists(
            st.tuples(st.integers(0, 1), st.integers(-1, 3000), st.integers(0, 50)),
            min_size=1,
            max_size=4,
        )
    )
    def ask(self, wishes: list[tuple[int, int, int]]) -> None:
        wishes = [(who % len(self.earners), amount, fee) for who, amount, fee in wishes]
        commands = [
            self.earners[who].asks(Money(a, "EUR").text(), Money(f, "EUR").text())
            for who, a, f in wishes
        ]
        outcomes: list[Requested] = self.loop.run(
            self.loop.world.run(lambda tx: request(tx, commands))
        )
        for (who, amount, fee), outcome in zip(wishes, outcomes, strict=True):
            if amount <= 0:
                assert outcome.slug == "amount-not-positive"
            elif amount + fee > self.available[who]:
                assert outcome.slug == "insufficient-funds"
            else:
                assert outcome.slug is None
                assert outcome.withdrawal_id is not None
                self.made(outcome, who, amount + fee, amount, Money(amount, "EUR"))

    def made(
        self,
        outcome: Requested,
        who: int,
        total: int,
        amount: int,
        payout: Money,
        fee_back: bool = False,
    ) -> None:
        """The model after a request that was taken."""
        assert outcome.withdrawal_id is not None
        self.available[who] -= total
        self.held[who] += total
        self.lines.append(Line(outcome.withdrawal_id, who, total, amount, payout, fee_back))

    @rule(who=st.integers(0, 1), amount=st.integers(1, 3000), plan=fee_plans())
    def ask_by_plan(self, who: int, amount: int, plan: FeePlan) -> None:
        who %= len(self.earners)
        command = self.earners[who].asks(Money(amount, "EUR").text())
        (outcome,) = self.loop.run(ask(self.loop.world, command, plan=plan))
        fee = fees.fee(plan, amount)
        gross = amount if plan.payer == "receiver" else amount + fee
        if gross <= fee:
            assert outcome.slug == "amount-below-fee"
        elif gross > self.available[who]:
            assert outcome.slug == "insufficient-funds"
        else:
            net = gross - fee
            self.made(outcome, who, gross, net, Money(net, "EUR"), plan.gives_back)

    @rule(
        who=st.integers(0, 1),
        amount=st.integers(1, 3000),
        plan=fee_plans(),
        rate=st.fractions(Fraction(1, 200), 200, max_denominator=1000),
        by_amount=st.booleans(),
        turns=st.integers(1, 2),
    )
    def ask_by_quote(
        self, who: int, amount: int, plan: FeePlan, rate: Fraction, by_amount: bool, turns: int
    ) -> None:
        who %= len(self.earners)
        side, currency = ("amount", "EUR") if by_amount else ("payout", self.currency)
        making = quoted(
            self.loop.world,
            self.abroad[who],
            Money(amount, currency).text(),
            plan=plan,
            rate=Found(rate, "ecb", START),
            side=side,
            currency=currency,
        )
        try:
            one = self.loop.run(making)
        except Unprocessable as refused:
            assert refused.slug in SMALL  # noqa: PT017 - one of the cases
            return
        quote = one.quote
        assert quote.asked == amount == (quote.request_amount if by_amount else quote.payout_amount)
        command = one.asks()
        outcomes = self.loop.run(ask(self.loop.world, *[command] * turns, plan=plan))
        if quote.total.minor > self.available[who]:
            assert outcomes[0].slug == "insufficient-funds"
            return
        assert [outcome.slug for outcome in outcomes] == [None, "quote-used"][:turns]
        payout = Money(quote.payout_amount, self.currency)
        total = quote.total.minor
        self.made(outcomes[0], who, total, quote.amount, payout, plan.gives_back)

    @precondition(lambda self: self.lines)
    @rule(
        wishes=st.lists(
            st.tuples(
                st.integers(0, 50),
                st.sampled_from(Event),
                st.sampled_from([None, "because"]),
                st.sampled_from([None, BANK, OTHER_RAIL]),
                st.booleans(),
            ),
            min_size=1,
            max_size=6,
        )
    )
    def steps(self, wishes: list[tuple[int, Event, str | None, int | None, bool]]) -> None:
        chosen = [self.lines[number % len(self.lines)] for number, *_ in wishes]
        steps = [
            Step(line.id, event, reason, rail, lease_token=0 if leased else None)
            for line, (_, event, reason, rail, leased) in zip(chosen, wishes, strict=True)
        ]
        results = self.loop.run(self.loop.world.run(lambda tx: move(tx, steps)))
        # The database works through the n-th step of each withdrawal at a time; per withdrawal
        # that is the order given here.
        for line, step, moved in zip(chosen, steps, results, strict=True):
            assert moved == self.expected(line, step), (line, step)

    @precondition(lambda self: self.lines)
    @rule(which=st.integers(0, 50), data=st.data())
    def go_on(self, which: int, data: st.DataObject) -> None:
        """A legal step with all that it needs, so that long lives are common."""
        line = self.lines[which % len(self.lines)]
        legal = [m for m in WITHDRAWAL.moves if m.source == line.state]
        if legal:
            chosen = data.draw(st.sampled_from(legal))
            rail = BANK if chosen.event in machine.CHOOSES_RAIL else None
            step = Step(line.id, Event(chosen.event), "because", rail, lease_token=0)
            (moved,) = self.loop.run(self.loop.world.run(lambda tx: move(tx, [step])))
            assert moved == self.expected(line, step)
            assert moved.done

    def expected(self, line: Line, step: Step) -> Moved:
        slug = self.refused(line, step)
        if slug is not None:
            return Moved(line.id, False, line.state, slug)
        found = WITHDRAWAL.find(line.state, step.event)
        line.state, line.moved = found.target.value, line.moved + 1
        if step.event in machine.CHOOSES_RAIL:
            line.rail = step.rail_account_id or line.rail
        if found.recipe in ("release", "paid"):
            self.held[line.owner] -= line.total
        if found.recipe == "release":
            self.available[line.owner] += line.total
        if found.recipe == "returned":
            self.available[line.owner] += line.total if line.fee_back else line.amount
        if found.recipe in ("paid", "returned") and line.payout.currency != "EUR":
            way = 1 if found.recipe == "paid" else -1
            for name, minor in (("EUR", line.amount), (line.payout.currency, -line.payout.minor)):
                self.position[name] = self.position.get(name, 0) + way * minor
        return Moved(line.id, True, line.state, None)

    def refused(self, line: Line, step: Step) -> str | None:
        if not WITHDRAWAL.allows(line.state, step.event):
            been = line.moved and machine.entered_by(line.state) == step.event
            return "already" if been else "illegal-move"
        if (line.state, step.event) in machine.LEASED and step.lease_token is None:
            return "under-screening"
        if machine.needs_reason(line.state, step.event) and step.reason is None:
            return "reason-missing"
        chooses = step.event in machine.CHOOSES_RAIL
        if not chooses and step.rail_account_id not in (None, line.rail):
            return "rail-account-differs"
        if step.event is Event.SEND and step.rail_account_id is None and line.rail is None:
            return "rail-account-missing"
        return None

    @invariant()
    def balances_are_the_model(self) -> None:
        for index, earner in enumerate(getattr(self, "earners", ())):
            shown = self.loop.run(available(self.loop.world, earner))
            wanted = Money(self.available[index], "EUR"), Money(self.held[index], "EUR")
            assert [Money.parse(text, "EUR") for text in shown] == list(wanted)

    @invariant()
    def the_position_is_the_model(self) -> None:
        if hasattr(self, "position"):
            assert self.loop.run(position(self.loop.world)) == self.position

    def teardown(self) -> None:
        self.loop.run(assert_proven(self.loop.world))


@pytest.fixture(scope="module")
def loop(postgres: PostgresServer) -> Generator[Loop]:
    made = Loop(postgres)
    yield made
    made.close()


def test_any_steps_in_any_order(loop: Loop):
    Withdrawals.loop = loop
    case = Withdrawals.TestCase
    case.settings = settings(
        max_examples=25,
        stateful_step_count=20,
        suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]
    )
    case().runTest()
