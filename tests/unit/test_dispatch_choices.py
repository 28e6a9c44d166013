"""Routes, windows, lanes and failure codes: choices without a database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from paymaster.dispatch.accounts import PayoutAccount
from paymaster.dispatch.failures import find, waits_for_funds
from paymaster.dispatch.lane import Lane
from paymaster.dispatch.machine import ATTEMPT, MACHINES, TRANSFER
from paymaster.dispatch.route import Candidate, pick
from paymaster.dispatch.window import NEVER, next_close, window_fault
from paymaster.kernel.machine import Machine
from paymaster.kernel.money import Money
from paymaster.kernel.retry import Circuit
from paymaster.rails.base import RailAccount, RailCaps
from paymaster.withdraw.machine import WITHDRAWAL

NOW = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)


def account(
    number: int, name: str, *, state: str = "active", currency: str = "EUR", **settings: str
) -> PayoutAccount:
    rail = RailAccount(number, name, "bank", currency, settings)
    return PayoutAccount(rail, 1, "UTC", "always", state, 1)


def candidate(found: PayoutAccount, *, kind: str = "iban", healthy: bool = True) -> Candidate:
    return Candidate(found, RailCaps("bank", frozenset({kind}), 1, None, None), healthy)


def choose(candidates: Sequence[Candidate], kind: str, currency: str) -> PayoutAccount | None:
    found = pick(candidates, kind, Money.zero(currency))
    return None if found is None else found.account


# -------------------------------------------------------------------------------- routes


def test_an_account_must_be_active_in_the_currency_and_reach_the_destination() -> None:
    candidates = [
        candidate(account(1, "paused", state="paused")),
        candidate(account(2, "dollars", currency="USD")),
        candidate(account(3, "wallets"), kind="sandbox-wallet"),
    ]
    assert choose(candidates, "iban", "EUR") is None
    fit = account(4, "fit")
    assert choose([*candidates, candidate(fit)], "iban", "EUR") is fit


def test_a_rail_may_be_limited_to_currencies() -> None:
    caps = RailCaps("bank", frozenset({"iban"}), 1, None, None, frozenset({"CHF"}))
    assert choose([Candidate(account(1, "one"), caps, healthy=True)], "iban", "EUR") is None


def test_health_then_cost_then_name_decide() -> None:
    sick = candidate(account(1, "a", cost="1"), healthy=False)
    dear = candidate(account(2, "b", cost="20"))
    cheap = candidate(account(3, "d", cost="5"))
    same = candidate(account(4, "c", cost="5"))
    assert choose([sick, dear, cheap, same], "iban", "EUR") is same.account
    assert choose([sick, dear], "iban", "EUR") is dear.account
    assert choose([sick], "iban", "EUR") is sick.account


def test_the_choice_does_not_depend_on_the_order_of_the_candidates() -> None:
    found = [candidate(account(n, name, cost=str(n % 2))) for n, name in enumerate("dbca")]
    assert choose(found, "iban", "EUR") is choose(found[::-1], "iban", "EUR")


@pytest.mark.parametrize("written", ["", "-1", "1.5", "many", "٣"])
def test_a_setting_that_is_no_number_counts_as_missing(written: str) -> None:
    assert account(1, "a", cost=written).cost == 0


# -------------------------------------------------------------------------------- windows


def test_windows_that_always_or_never_close_by_themselves() -> None:
    assert next_close("always", "UTC", NOW) == NOW
    assert next_close("manual", "UTC", NOW) == NEVER


@pytest.mark.parametrize(
    ("window", "zone", "after", "expected"),
    [
        ("10:00", "UTC", "2026-11-20T09:00+00:00", "2026-11-20T10:00+00:00"),
        ("10:00", "UTC", "2026-11-20T10:00+00:00", "2026-11-21T10:00+00:00"),
        ("02:00", "Europe/Berlin", "2026-11-20T09:00+00:00", "2026-11-21T01:00+00:00"),
        ("02:00", "Asia/Shanghai", "2026-11-20T09:00+00:00", "2026-11-20T18:00+00:00"),
        # Clocks go from 02:00 to 03:00: the time does not exist and is an hour later by the wall.
        ("02:30", "Europe/Berlin", "2026-03-29T00:00+00:00", "2026-03-29T01:30+00:00"),
        # Clocks go from 03:00 back to 02:00: it closes once, the first time.
        ("02:30", "Europe/Berlin", "2026-10-25T00:00+00:00", "2026-10-25T00:30+00:00"),
        ("02:30", "Europe/Berlin", "2026-10-25T00:30+00:00", "2026-10-26T01:30+00:00"),
        # Several times a day, and the days of a calendar: Friday, then Monday; Easter 2027.
        ("09:00,14:30", "UTC", "2026-11-20T08:59+00:00", "2026-11-20T09:00+00:00"),
        ("09:00,14:30", "UTC", "2026-11-20T09:00+00:00", "2026-11-20T14:30+00:00"),
        ("09:00,14:30", "UTC", "2026-11-20T14:30+00:00", "2026-11-21T09:00+00:00"),
        ("09:00,14:30 weekdays", "UTC", "2026-11-20T14:30+00:00", "2026-11-23T09:00+00:00"),
        ("15:00 target", "UTC", "2027-03-25T16:00+00:00", "2027-03-30T15:00+00:00"),
    ],
)
def test_a_daily_window_closes_in_the_accounts_time_zone(
    window: str, zone: str, after: str, expected: str
) -> None:
    found = next_close(window, zone, datetime.fromisoformat(after))
    assert found == datetime.fromisoformat(expected)


@pytest.mark.parametrize(
    "window",
    [
        "",
        "24:00",
        "9:00",
        "10:60",
        "10:00:00",
        "hourly",
        "10:00,",
        "10:00,09:00",
        "10:00,10:00",
        "10:00 moon",
        "10:00  target",
        "always target",
        "10:00, 11:00",
    ],
)
def test_what_is_no_window_is_refused(window: str) -> None:
    fault = window_fault(window, "UTC")
    assert fault is not None
    assert fault.pointer == "/payout_window"
    assert window_fault("09:00,14:30 target", "UTC") is None


@pytest.mark.parametrize("zone", ["", "Mars/Base", "../etc/passwd"])
def test_what_is_no_time_zone_is_refused(zone: str) -> None:
    fault = window_fault("10:00", zone)
    assert fault is not None
    assert fault.pointer == "/time_zone"


# ---------------------------------------------------------------------------------- lanes


def test_a_lane_limits_what_runs_at_once() -> None:
    lane = Lane(concurrency=3)
    assert lane.room(NOW) == 3
    lane.begin(2)
    assert lane.room(NOW) == 1
    lane.end(2)
    assert lane.room(NOW) == 3


def test_a_lane_limits_how_many_begin_in_a_second() -> None:
    lane = Lane(concurrency=100, rate=10)
    lane.begin(lane.room(NOW))
    lane.end(10)
    assert lane.room(NOW) == 0
    begun = 0
    # However often it is asked, never more than ten a second.
    for step in range(1, 1001):
        room = lane.room(NOW + timedelta(milliseconds=step))
        lane.begin(room)
        lane.end(room)
        begun += room
    assert begun == 10
    assert lane.room(NOW + timedelta(hours=1)) == 10


def test_a_lane_opens_after_failures_in_a_row_and_tries_one_after_the_pause() -> None:
    lane = Lane(circuit=Circuit(threshold=3, pause=timedelta(seconds=30)))
    for _ in range(2):
        lane.record(success=False, now=NOW)
    lane.record(success=True, now=NOW)
    for _ in range(3):
        assert lane.room(NOW) > 0
        lane.record(success=False, now=NOW)
    assert lane.room(NOW) == 0
    assert not lane.healthy(NOW)
    after = NOW + timedelta(seconds=30)
    assert lane.room(after) == 1
    lane.begin(1)
    assert lane.room(after) == 0
    lane.end()
    lane.record(success=False, now=after)
    assert lane.room(after + timedelta(seconds=29)) == 0
    lane.record(success=True, now=after + timedelta(seconds=30))
    assert lane.room(after + timedelta(seconds=30)) == lane.concurrency


# ------------------------------------------------------------------------------- failures


def test_a_reason_with_its_detail_is_the_code() -> None:
    assert find("AC04: closed account").code == "AC04"
    assert waits_for_funds("insufficient_funds")
    assert not waits_for_funds("AC04")
    assert not waits_for_funds(None)


# ------------------------------------------------------------------------------- machines


def test_an_attempt_can_always_become_known() -> None:
    for state in ("sending", "unknown", "sent", "awaiting_payee"):
        assert ATTEMPT.allows(state, "pay")
        assert ATTEMPT.allows(state, "reject")
    assert ATTEMPT.terminal() == {"rejected", "returned"}


def test_nothing_becomes_unknown_again_that_was_known() -> None:
    assert ATTEMPT.sources("lose") == ("sending",)


def test_a_withdrawal_can_follow_every_move_of_its_attempt() -> None:
    follows = {
        "lose": "lose",
        "accept": "accept",
        "await": "await",
        "pay": "settle",
        "reject": "reject",
        "return": "return",
    }
    same = {"rejected": "failed"}
    for move in ATTEMPT.moves:
        followed = WITHDRAWAL.find(move.source.value, follows[move.event.value])
        assert followed.target.value == same.get(move.target.value, move.target.value)


def test_a_transfer_is_booked_on_both_sides_in_either_order() -> None:
    for first, second in (("book_out", "book_in"), ("book_in", "book_out")):
        state = TRANSFER.find("sent", first).target
        assert TRANSFER.find(state, second).target == "done"
    assert TRANSFER.terminal() == {"done", "failed", "cancelled"}


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_the_page_shows_the_machines_as_they_are(machine: Machine) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "concepts" / "dispatch.md"
    assert machine.mermaid() in page.read_text()
