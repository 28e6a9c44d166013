"""What may follow what, told a second time: a row that is lost or altered is found here.

The withdrawal, and what is dispatched, are drawn on pages of their own, which other tests compare.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import pytest

from paymaster.earn import machine as earning
from paymaster.kernel.machine import Machine
from paymaster.people import four_eyes_machine, machine

# event: from -> to / how the money goes
OFFERS = """
    pause: active -> paused
    resume: paused -> active
    end: active paused -> ended
"""
TASKS = """
    start: offered -> started
    progress: offered started -> in_progress
    submit: offered started in_progress expired rejected -> submitted
    verify: offered started in_progress submitted expired reversed -> verified
    reward: offered started in_progress submitted expired verified reversed -> rewarded
    reject: submitted verified -> rejected
    expire: offered started in_progress -> expired
    reverse: verified rewarded -> reversed
"""
REWARDS = """
    fund: due awaiting_funds -> vesting / reward
    credit: due awaiting_funds -> credited / reward
    wait: due -> awaiting_funds
    refuse: due awaiting_funds -> refused
    mature: vesting -> credited / mature
    reduce: vesting -> vesting / reverse
    reduce: credited -> credited / reverse
    reverse: awaiting_funds -> reversed
    reverse: vesting credited -> reversed / reverse
"""
USERS = """
    suspend: active -> suspended
    resume: suspended -> active
    close: active suspended -> closed
"""
DESTINATIONS = """
    pause: active -> paused
    resume: paused -> active
    close: active paused -> closed
    link: closed -> active
"""
APPROVALS = """
    approve: proposed -> approved
    refuse: proposed -> refused
    withdraw: proposed -> withdrawn
    expire: proposed -> expired
"""

Row = tuple[str, str, str, str | None]


def rows(table: str) -> list[Row]:
    found: list[Row] = []
    for line in table.strip().splitlines():
        event, _, rest = line.strip().partition(": ")
        sources, _, rest = rest.partition(" -> ")
        target, _, recipe = rest.partition(" / ")
        found += [(source, event, target, recipe or None) for source in sources.split()]
    return found


@pytest.mark.parametrize(
    ("machine", "initial", "table"),
    [
        (earning.CAMPAIGN, "active", OFFERS),
        (earning.OFFER, "active", OFFERS),
        (earning.TASK, "offered", TASKS),
        (earning.REWARD, "due", REWARDS),
        (machine.USER, "active", USERS),
        (machine.DESTINATION, "active", DESTINATIONS),
        (four_eyes_machine.APPROVAL, "proposed", APPROVALS),
    ],
    ids=lambda value: value.name if isinstance(value, Machine) else "",
)
def test_a_machine_has_these_moves_and_no_others(
    machine: Machine, initial: str, table: str
) -> None:
    assert machine.initial == initial
    found = [(m.source.value, m.event.value, m.target.value, m.recipe) for m in machine.moves]
    assert sorted(found, key=str) == sorted(rows(table), key=str)


@pytest.mark.parametrize(
    ("found", "towards"),
    [(earning.OFFER, earning.TOWARDS), (machine.USER, machine.TOWARDS)],
    ids=["offer", "user"],
)
def test_the_event_towards_a_state_leads_there(found: Machine, towards: dict[Any, StrEnum]) -> None:
    assert {state.value for state in towards} == found.states()
    for state, event in towards.items():
        assert {move.target for move in found.moves if move.event == event} == {state}
