"""Any steps in any order, by anybody: machine and model agree, and the books are proven.

Hypothesis chooses who asks for what and which step meets which withdrawal, legal or not, one at a
time or several in one transaction. A model of a few lines - state, available, held - says what must
have come of it. At the end of every run the proofs of withdrawals and books find no difference.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.withdrawals import (
    BANK,
    Earner,
    assert_proven,
    available,
    new_earner,
    withdrawal_world,
)
from tests.world import PostgresServer, World

from paymaster.kernel.money import Money
from paymaster.withdraw import machine
from paymaster.withdraw.machine import WITHDRAWAL, Event
from paymaster.withdraw.moves import Moved, Step, move
from paymaster.withdraw.request import Requested, request

T = TypeVar("T")
OTHER_RAIL = 8


@dataclass
class Line:
    """What the model knows of one withdrawal."""

    id: int
    owner: int
    total: int
    amount: int
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

    @initialize(balances=st.lists(st.integers(0, 5000), min_size=1, max_size=2))
    def begin(self, balances: list[int]) -> None:
        self.earners: list[Earner] = [
            self.loop.run(new_earner(self.loop.world, Money(b, "EUR").text())) for b in balances
        ]
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
                self.available[who] -= amount + fee
                self.held[who] += amount + fee
                self.lines.append(Line(outcome.withdrawal_id, who, amount + fee, amount))

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
        chosen = [(self.lines[n % len(self.lines)], *rest) for n, *rest in wishes]
        steps = [
            Step(line.id, event, reason, rail, lease_token=0 if leased else None)
            for line, event, reason, rail, leased in chosen
        ]
        results = self.loop.run(self.loop.world.run(lambda tx: move(tx, steps)))
        # The database works through the n-th step of each withdrawal at a time; per withdrawal
        # that is the order given here.
        for (line, *_), step, moved in zip(chosen, steps, results, strict=True):
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
            self.available[line.owner] += line.amount
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
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    case().runTest()
