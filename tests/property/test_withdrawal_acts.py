"""Everybody at once: users, operators, workers, the provider and an authority, in any order.

A random walk over all moves of the machine, with orders that freeze and destinations that are
closed in between. A model of a few lines knows who may do what. Whatever the way, the money of each
withdrawal is in exactly one place at every step, what is frozen is moved by facts only, and when
the orders are lifted and everything is brought to its end, each has been paid or given back once.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass, field
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
    insert_destination,
    new_earner,
    withdrawal_world,
)
from tests.world import PostgresServer, World

from paymaster.db.tx import CellTx
from paymaster.kernel.errors import Conflict
from paymaster.kernel.money import Money
from paymaster.withdraw import holds, machine, moves, pinned
from paymaster.withdraw.machine import FACTS, WAITING, WITHDRAWAL, Event, State, Who
from paymaster.withdraw.moves import Moved, Step, move
from paymaster.withdraw.request import request

T = TypeVar("T")
START = 50_00
OPERATORS: dict[Event, Callable[[CellTx, int, str], Awaitable[Moved]]] = {
    Event.APPROVE: moves.approve,
    Event.DENY: moves.deny,
    Event.REVIEW: moves.review,
    Event.CHALLENGE: moves.ask_proof,
    Event.HOLD: moves.hold,
    Event.RELEASE: moves.release,
    Event.RETURN: moves.reverse,
}
HOMEWARDS = (
    Event.SCREEN, Event.APPROVE, Event.RELEASE, Event.QUEUE, Event.SEND, Event.SETTLE, Event.DENY,
)  # fmt: skip
"""What brings everything to an end; the first that is possible, and not twice to the queue."""


@dataclass
class Line:
    """What the model knows of one withdrawal."""

    id: int
    destination: int
    total: int
    amount: int
    state: str = "requested"
    moved: int = 0
    orders: set[int] = field(default_factory=set[int])


class Everybody(RuleBasedStateMachine):
    runner: asyncio.Runner
    world: World

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def tx(self, work: Callable[[CellTx], Awaitable[T]]) -> T:
        return self.run(self.world.run(work))

    @initialize()
    def begin(self) -> None:
        self.earner: Earner = self.run(new_earner(self.world, Money(START, "EUR").text()))
        self.destination = self.earner.destination_id
        self.dead: set[int] = set()
        self.lines: list[Line] = []
        self.orders: dict[int, int] = {}
        """What is frozen, by the id of the order."""

    # ---------------------------------------------------------------- what the model says

    def frozen(self, line: Line) -> bool:
        return bool({line.id, line.destination, self.earner.user_id} & set(self.orders.values()))

    def judged(self, line: Line, event: Event, by: Who | None) -> tuple[str | None, str | None]:
        """The slug, and the state that it leads to."""
        if not WITHDRAWAL.allows(line.state, event):
            been = line.moved and machine.entered_by(line.state) == event
            return ("already" if been else "illegal-move"), None
        found = WITHDRAWAL.find(line.state, event)
        people = by in (Who.USER, Who.OPERATOR)
        if people and (line.state, event) in machine.LEASED:
            return "under-screening", None
        if by is not None and by not in found.by:
            return "illegal-move", None
        if self.frozen(line) and (people or Who.PROVIDER not in found.by):
            return "held-by-order", None
        if event in machine.TOWARDS_THE_RAIL and line.destination in self.dead:
            if not WITHDRAWAL.allows(line.state, Event.REVIEW):
                return "destination-closed", None
            return "destination-closed", State.IN_REVIEW.value
        return None, found.target.value

    def follow(self, line: Line, state: str | None) -> None:
        if state is not None:
            line.state, line.moved = state, line.moved + 1

    # ---------------------------------------------------------------------- what happens

    @rule(amount=st.integers(1, 2000), fee=st.integers(0, 50))
    def ask(self, amount: int, fee: int) -> None:
        earner = Earner(self.earner.user_id, self.destination)
        command = earner.asks(Money(amount, "EUR").text(), Money(fee, "EUR").text())
        (outcome,) = self.tx(lambda tx: request(tx, [command]))
        if {earner.user_id, self.destination} & set(self.orders.values()):
            assert outcome.slug == "account-under-review"
        elif amount + fee > self.free():
            assert outcome.slug == "insufficient-funds"
        else:
            assert outcome.withdrawal_id is not None, outcome
            self.lines.append(Line(outcome.withdrawal_id, self.destination, amount + fee, amount))

    @precondition(lambda self: self.lines)
    @rule(which=st.integers(0, 20), event=st.sampled_from(sorted(OPERATORS)))
    def an_operator_acts(self, which: int, event: Event) -> None:
        line = self.lines[which % len(self.lines)]
        slug, state = self.judged(line, event, Who.OPERATOR)
        self.act(line, slug, state, lambda tx: OPERATORS[event](tx, line.id, "because"))

    @precondition(lambda self: self.lines)
    @rule(which=st.integers(0, 20))
    def the_user_cancels(self, which: int) -> None:
        line = self.lines[which % len(self.lines)]
        slug, state = self.judged(line, Event.CANCEL, Who.USER)
        user = self.earner.user_id
        self.act(line, slug, state, lambda tx: moves.cancel(tx, user, line.id))

    def act(
        self,
        line: Line,
        slug: str | None,
        state: str | None,
        work: Callable[[CellTx], Awaitable[Moved]],
    ) -> None:
        if slug in (None, "already"):
            assert self.tx(work).slug == slug
            self.follow(line, state)
            return
        # What is raised undoes everything, the way to a person too.
        with pytest.raises(Conflict) as caught:
            self.tx(work)
        assert caught.value.slug == slug
        if slug == "illegal-move" and line.moved:
            assert caught.value.extra["state"] == line.state

    @precondition(lambda self: self.lines)
    @rule(which=st.integers(0, 20), data=st.data())
    def work_goes_on(self, which: int, data: st.DataObject) -> None:
        """A step of a worker or of the provider, with all that it needs."""
        line = self.lines[which % len(self.lines)]
        mine = frozenset({Who.WORKER, Who.PROVIDER})
        legal = [m for m in WITHDRAWAL.moves if m.source == line.state and m.by & mine]
        if not legal:
            return
        self.step(line, Event(data.draw(st.sampled_from(legal)).event))

    def step(self, line: Line, event: Event) -> Moved:
        rail = BANK if event in machine.CHOOSES_RAIL else None
        slug, state = self.judged(line, event, None)
        one = Step(line.id, event, "because", rail, lease_token=0)
        (moved,) = self.tx(lambda tx: move(tx, [one]))
        assert (moved.slug, moved.done) == (slug, slug is None), (line, event)
        assert moved.diverted == (slug is not None and state is not None)
        if self.frozen(line) and moved.done:
            assert event in FACTS | {Event.QUEUE}
        self.follow(line, state)
        return moved

    @rule(kind=st.sampled_from(("user", "destination", "withdrawal")), which=st.integers(0, 20))
    def an_order_comes(self, kind: str, which: int) -> None:
        line = self.lines[which % len(self.lines)] if self.lines else None
        subject = self.earner.user_id
        if kind != "user" and line is not None:
            subject = line.id if kind == "withdrawal" else line.destination
        elif kind != "user":
            return
        reference = f"{len(self.orders)} Gs {subject}"
        try:
            row = self.tx(lambda tx: holds.place(tx, kind, subject, reference, "served"))
        except Conflict as error:
            assert error.slug == "hold-placed-already"  # noqa: PT017 - one of the cases
        else:
            self.orders[row.id] = subject

    @precondition(lambda self: self.orders)
    @rule(which=st.integers(0, 5))
    def an_order_is_lifted(self, which: int) -> None:
        order = sorted(self.orders)[which % len(self.orders)]
        self.tx(lambda tx: holds.lift(tx, order, "over"))
        del self.orders[order]

    @rule(dead=st.booleans())
    def the_destination_is_closed(self, dead: bool) -> None:
        here, user = self.destination, self.earner.user_id
        waiting = [x for x in self.lines if x.destination == here and x.state in WAITING]
        if dead:
            self.tx(lambda tx: pinned.close_dead(tx, here, "AC04"))
            waiting = [line for line in waiting if not self.frozen(line)]
        elif any(map(self.frozen, waiting)) or {here, user} & set(self.orders.values()):
            with pytest.raises(Conflict, match="held-by-order"):
                self.tx(lambda tx: pinned.close(tx, here, "moved away"))
            return
        else:
            self.tx(lambda tx: pinned.close(tx, here, "moved away"))
        for line in waiting:
            self.follow(line, "cancelled")
        self.dead.add(here)
        self.destination = self.tx(lambda tx: insert_destination(tx, user))

    # ------------------------------------------------------------------- what always holds

    def free(self) -> int:
        """What should be available."""
        gone = sum(
            {"released": 0, "returned": line.total - line.amount}.get(self.place(line), line.total)
            for line in self.lines
        )
        return START - gone

    def place(self, line: Line) -> str:
        """Where the money of a withdrawal is, by its state alone."""
        posted = machine.posted(line.state)
        if "returned" in posted:
            return "returned"
        return "released" if "release" in posted else "paid" if "paid" in posted else "held"

    @invariant()
    def the_money_is_where_the_states_say(self) -> None:
        if not hasattr(self, "earner"):
            return
        held = sum(line.total for line in self.lines if self.place(line) == "held")
        wanted = Money(self.free(), "EUR").text(), Money(held, "EUR").text()
        assert self.run(available(self.world, self.earner)) == wanted

    def teardown(self) -> None:
        """Everything comes to an end, and then each was paid or given back, once."""
        if not hasattr(self, "earner"):
            return
        for order in list(self.orders):
            self.tx(lambda tx, o=order: holds.lift(tx, o, "over"))
            del self.orders[order]
        for line in self.lines:
            self.bring_home(line)
        assert {self.place(line) for line in self.lines} <= {"released", "paid", "returned"}
        self.the_money_is_where_the_states_say()
        self.run(assert_proven(self.world))

    def bring_home(self, line: Line) -> None:
        queued = False
        while self.place(line) == "held":
            events = [e for e in HOMEWARDS if WITHDRAWAL.allows(line.state, e)]
            event = next(e for e in events if e != Event.QUEUE or not queued)
            if event is Event.QUEUE and line.state in ("sending", "unknown", "sent"):
                event = Event.SETTLE
            queued |= event is Event.QUEUE
            if line.state == "awaiting_payee":
                event = Event.SETTLE
            moved = self.step(line, event)
            if not (moved.done or moved.diverted):
                self.step(line, Event.DENY)


@pytest.fixture(scope="module")
def everybody(postgres: PostgresServer) -> Generator[type[Everybody]]:
    with asyncio.Runner() as runner:
        context = withdrawal_world(postgres)
        Everybody.runner, Everybody.world = runner, runner.run(context.__aenter__())
        yield Everybody
        runner.run(context.__aexit__(None, None, None))


def play(everybody: type[Everybody], examples: int, steps: int) -> None:
    case = everybody.TestCase
    case.settings = settings(
        max_examples=examples,
        stateful_step_count=steps,
        suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]
    )
    case().runTest()


def test_every_way_ends_with_the_money_in_one_place(everybody: type[Everybody]):
    play(everybody, 15, 20)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_very_many_ways(everybody: type[Everybody]):
    play(everybody, int(os.environ.get("PAYMASTER_WALKS", "60")), 40)
