from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from tests.withdrawals import PATHS

from paymaster.kernel.machine import Move
from paymaster.ledger import recipes
from paymaster.messages.catalogue import TYPES
from paymaster.withdraw import machine, machine_page
from paymaster.withdraw.machine import WITHDRAWAL, Event, State, Who, needs_reason, posted

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "withdrawal-machine.md"
ENDS = {"failed", "returned", "denied", "cancelled"}
AT_THE_RAIL = {"sending", "unknown", "sent", "awaiting_payee", "paid"}


def reachable(start: str) -> set[str]:
    found, waiting = {start}, [start]
    while waiting:
        state = waiting.pop()
        for move in WITHDRAWAL.moves:
            if move.source == state and move.target not in found:
                found.add(move.target.value)
                waiting.append(move.target.value)
    return found


def test_every_state_is_reachable():
    assert reachable("requested") == {state.value for state in State} == WITHDRAWAL.states()


def test_the_ends_are_the_ends():
    assert WITHDRAWAL.terminal() == ENDS


def test_every_state_leads_to_an_end():
    for state in State:
        assert reachable(state) & (ENDS | {"paid"}), state


def test_every_event_has_a_move_and_no_state_takes_one_event_in_two_ways():
    pairs = Counter((move.source, move.event) for move in WITHDRAWAL.moves)
    assert set(pairs.values()) == {1}
    assert {event for _, event in pairs} == set(Event)


def test_each_state_is_entered_by_one_event():
    for state in State:
        events = {move.event for move in WITHDRAWAL.moves if move.target == state}
        assert events == ({machine.entered_by(state)} if events else set())


def test_every_move_that_ends_a_hold_names_its_recipe_and_no_other_does():
    wanted = {
        "denied": "release",
        "cancelled": "release",
        "failed": "release",
        "paid": "paid",
        "returned": "returned",
    }
    for move in WITHDRAWAL.moves:
        assert move.recipe == wanted.get(move.target), move
        assert move.recipe is None or callable(getattr(recipes, move.recipe))


def test_no_way_through_the_machine_gives_the_money_away_twice():
    seen: set[tuple[str, ...]] = set()

    def walk(state: str, done: tuple[str, ...], passed: frozenset[Move]) -> None:
        seen.add(done)
        for move in WITHDRAWAL.moves:
            if move.source == state and move.recipe is not None and move not in passed:
                walk(move.target, (*done, move.recipe), passed | {move})

    for state in State:
        walk(state, tuple(sorted(posted(state))), frozenset())
    assert seen == {
        (), ("release",), ("paid",), ("paid", "returned"),
    }  # fmt: skip


def test_nobody_stops_what_is_with_the_rail():
    stopping = {Event.CANCEL, Event.DENY, Event.HOLD, Event.REVIEW}
    assert not [m for m in WITHDRAWAL.moves if m.source in AT_THE_RAIL and m.event in stopping]


def test_unknown_gives_nothing_back_without_a_reason():
    ways_back = [m for m in WITHDRAWAL.moves if m.source == State.UNKNOWN and m.recipe == "release"]
    assert [move.event for move in ways_back] == [Event.REJECT]
    for event in (Event.REJECT, Event.QUEUE):
        assert needs_reason(State.UNKNOWN, event)


def test_what_holds_money_has_posted_nothing():
    assert {s.value for s in State if machine.holds_money(s)} == set(State) - ENDS - {"paid"}


def test_the_sets_speak_of_moves_that_exist():
    for state, event in machine.PROVEN | machine.LEASED:
        assert WITHDRAWAL.allows(state, event)
    assert {s for s, e in machine.LEASED} == {State.SCREENING}
    assert not machine.BY_PEOPLE & {Event.SETTLE, Event.REJECT, Event.SEND, Event.ACCEPT}


@pytest.mark.parametrize("state", State)
def test_the_paths_of_the_tests_lead_where_they_say(state: State):
    at = WITHDRAWAL.initial
    for event in PATHS[state]:
        at = WITHDRAWAL.find(at, event).target
    assert at == state


def test_the_page_in_the_docs_is_the_machine():
    shown = machine_page.reference()
    assert PAGE.read_text(encoding="utf-8") == shown
    assert set(machine_page.STATES) == set(State)
    assert set(machine_page.EVENTS) == set(Event)
    assert set(machine_page.WHOM) == set(Who)
    assert {move.recipe for move in WITHDRAWAL.moves} | {"request"} == {None, *machine_page.MONEY}
    assert WITHDRAWAL.mermaid() in shown
    topics = {f"withdrawal.{move.target}" for move in WITHDRAWAL.moves}
    assert topics <= set(TYPES)


def test_every_move_says_who_may_make_it():
    assert all(move.by and move.by <= set(Who) for move in WITHDRAWAL.moves)
    for move in WITHDRAWAL.moves:
        if Who.USER in move.by:
            assert move.event is Event.CANCEL
        if move.source in AT_THE_RAIL:
            assert Who.USER not in move.by
            assert Who.PROVIDER in move.by, "what the provider says is never illegal"
        else:
            assert Who.PROVIDER not in move.by, "nothing was sent, so nothing is answered"
        if Who.OPERATOR in move.by and move.event not in machine.BY_PEOPLE:
            proven = {"unknown", "sent", "awaiting_payee"}
            never_left = move.source == "sending" and move.event in {Event.QUEUE, Event.REJECT}
            assert move.source in proven or never_left, "only with a proof"


def test_facts_are_what_only_the_rail_can_know():
    facts = {"accept", "await", "settle", "reject", "lose", "return"}
    assert {event.value for event in machine.FACTS} == facts
    assert set(machine.WAITING) == set(State) - AT_THE_RAIL - ENDS
