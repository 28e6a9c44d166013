"""Dispatch at its edges: the first moment at which something holds, and the last before it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from tests.payouts import new_sealer
from tests.scripted_rails import AskableRail

from paymaster.dispatch.absence import Told, proof_at, proves_absence
from paymaster.dispatch.accounts import SETTLED_AFTER, PayoutAccount
from paymaster.dispatch.batch_store import Asked, BatchRow
from paymaster.dispatch.desk import Desk, Order, Pace, PayoutPolicy, Standing
from paymaster.dispatch.failover import may_leave
from paymaster.dispatch.failover_store import Payment
from paymaster.dispatch.lane import Lane
from paymaster.dispatch.outcome import ABOUT_THE_ACCOUNT
from paymaster.dispatch.resolve import _ask_next
from paymaster.dispatch.send import Answer, Sent
from paymaster.dispatch.window import window_fault
from paymaster.kernel.retry import Backoff
from paymaster.rails.base import Outcome, Prepared, RailAccount, RailCaps, Verdict

NOW = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
TICK = timedelta(microseconds=1)


def account(number: int = 1, rail: str = "first", **settings: Any) -> PayoutAccount:
    found = RailAccount(number, rail, rail, "EUR", settings)
    return PayoutAccount(found, 1, "UTC", "always", "active", 1)


def test_an_order_from_before_new_settings_had_settled_is_not_known_there() -> None:
    found = account()
    assert found.knows(NOW), "its settings were never changed"
    changed = replace(found, settings_at=NOW)
    assert not changed.knows(NOW + SETTLED_AFTER)
    assert changed.knows(NOW + SETTLED_AFTER + TICK)


def test_an_order_is_over_when_all_its_tries_have_ended_long_enough_ago() -> None:
    lag = timedelta(minutes=5)

    def row(ended: int, ended_at: datetime | None) -> BatchRow:
        order = (1, "k", 1, b"", b"", "unknown", 2, NOW, NOW)
        return BatchRow(*order, ended, ended_at, None, False, ["a"], 1, 0)

    assert row(2, NOW - lag).over_since(NOW, lag)
    assert not row(2, NOW - lag + TICK).over_since(NOW, lag)
    assert not row(1, NOW - lag).over_since(NOW, lag), "one may be on its way still"
    assert not row(2, None).over_since(NOW, lag)


def test_a_lane_keeps_one_row_for_a_minute() -> None:
    lane = Lane()
    for number in range(50):
        lane.record(success=number % 2 == 0, now=NOW)
    assert len(lane._seen) == 1
    lane.record(success=True, now=NOW + timedelta(minutes=1))
    assert len(lane._seen) == 2
    assert lane.share(NOW + timedelta(minutes=1)) == 50


def test_what_a_lane_forgets_it_forgets_whole() -> None:
    lane = Lane()
    for _ in range(20):
        lane.record(success=False, now=NOW)
    for _ in range(20):
        lane.record(success=True, now=NOW + timedelta(minutes=5))
    assert lane.share(NOW + timedelta(minutes=9)) == 50
    assert lane.share(NOW + timedelta(minutes=10)) == 100


def test_a_slow_lane_gains_one_call_at_a_time() -> None:
    lane = Lane(rate=1)
    assert lane.room(NOW) == 1
    lane.begin(1)
    lane.end()
    assert lane.room(NOW + timedelta(milliseconds=999)) == 0
    assert lane.room(NOW + timedelta(seconds=1)) == 1
    assert lane.room(NOW + timedelta(seconds=9)) == 1, "a second's worth at the most"


def test_what_was_not_called_is_given_back() -> None:
    lane = Lane(concurrency=3, rate=3)
    assert lane.room(NOW) == 3
    lane.begin(3)
    assert lane.room(NOW) == 0
    lane.give_back(2)
    assert (lane.busy, lane.room(NOW)) == (1, 2)
    lane.end()
    assert (lane.busy, lane.room(NOW)) == (0, 2), "one call has begun in this second"


@pytest.mark.parametrize(
    ("settings", "concurrency", "rate"),
    [({}, 8, 100), ({"concurrency": "0", "rate_per_second": "0"}, 1, 1),
     ({"concurrency": "2", "rate_per_second": "5"}, 2, 5)],
)  # fmt: skip
def test_a_lane_takes_over_settings(settings: dict[str, Any], concurrency: int, rate: int) -> None:
    lane = Lane()
    lane.configure(account(**settings))
    assert (lane.concurrency, lane.rate) == (concurrency, rate)


@pytest.mark.parametrize(
    ("window", "is_one"),
    [
        ("09:00 target", True),
        ("09:00,14:30 target", True),
        ("09:00,09:00 target", False),
        ("14:30,09:00 target", False),
        ("09:00,09:00", False),
        ("09:00 always", False),
    ],
)
def test_each_time_of_a_window_is_there_once_and_in_order(window: str, *, is_one: bool) -> None:
    assert (window_fault(window, "UTC") is None) == is_one


def payment(**changed: Any) -> Payment:
    given: dict[str, Any] = {
        "batch_id": 1, "key": "k", "attempt_id": 1, "withdrawal_id": 1, "number": 1,
        "state": "unknown", "kind": "iban", "payout_amount": 100, "payout_asset": "EUR",
    }  # fmt: skip
    return Payment(**{**given, **changed})


def test_whose_refusal_says_nothing_against_the_payee() -> None:
    assert {"funds", "ours", "provider"} == ABOUT_THE_ACCOUNT


@pytest.mark.parametrize(
    ("answer", "code", "healthy"),
    [
        (Answer.ANSWERED, None, True),
        (Answer.REFUSED, "AC04", True),
        (Answer.REFUSED, "AM04", False),
        (Answer.UNKNOWN, None, False),
        (Answer.NEVER, None, False),
        (Answer.LATE, None, False),
    ],
)
def test_which_answers_speak_for_a_provider(
    answer: Answer, code: str | None, *, healthy: bool
) -> None:
    order = Order(1, account(), Prepared("k", b"", ("k",)), 1, NOW, 1)
    assert Sent(order, answer, code=code).healthy is healthy


LAG = timedelta(minutes=10)
CAPS = RailCaps("first", frozenset({"iban"}), 1, None, LAG)


def not_found(**changed: Any) -> Told:
    given: dict[str, Any] = {
        "id": 1, "batch_id": 1, "key": "k", "state": "unknown", "tries": 1, "lease_token": 1,
        "sent_at": NOW, "ended_at": NOW + timedelta(seconds=5), "over": True,
        "cancels": False, "confirms": False,
    }  # fmt: skip
    verdict = changed.pop("verdict", Verdict.NOT_FOUND)
    return Told(Asked(**{**given, **changed}), Outcome("k", verdict), NOW)


def test_from_when_on_not_found_is_proof() -> None:
    pace = Pace()

    def proof(told: Told, caps: RailCaps = CAPS, found: PayoutAccount | None = None) -> object:
        return proof_at(found or account(), caps, told, pace)

    assert proof(not_found()) == NOW + timedelta(seconds=5) + LAG
    silent = NOW + pace.lease + pace.call + LAG
    assert proof(not_found(over=False)) == silent, "its sender may wake up until then"
    assert proof(not_found(ended_at=None)) == silent
    assert proof(not_found(sent_at=None)) is None
    assert proof(not_found(state="sent")) is None
    assert proof(not_found(verdict=Verdict.UNKNOWN)) is None
    assert proof(not_found(), replace(CAPS, not_found_is_proof_after=None)) is None
    assert proof(not_found(), found=replace(account(), settings_at=NOW)) is None


def test_a_not_found_before_its_time_proves_nothing() -> None:
    ended = NOW - LAG
    assert proves_absence(account(), CAPS, not_found(ended_at=ended), Pace())
    assert not proves_absence(account(), CAPS, not_found(ended_at=ended + TICK), Pace())


def test_it_is_asked_again_when_not_found_is_proof_and_no_later() -> None:
    pace, random = Pace(ask_again=Backoff(timedelta(hours=1), timedelta(hours=1))), Random(1)
    later = NOW + timedelta(seconds=5) + LAG
    assert _ask_next(account(), CAPS, not_found(), pace, NOW, random) == later
    over = later + TICK
    assert _ask_next(account(), CAPS, not_found(), pace, over, random) > over
    assert _ask_next(account(), None, not_found(), pace, NOW, random) > later


WELL, SICK, SHAKY = Standing(True, 100), Standing(False, 100), Standing(True, 0)


def leaves(other: Standing, *payments: Payment, failover: bool = True) -> bool:
    """Whether an order may leave its account for another one that works so."""
    first, second = account(), account(2, "second")
    desk = Desk(
        {1: first, 2: second},
        {name: AskableRail(name) for name in ("first", "second")},
        new_sealer(),
        policy=PayoutPolicy(failover=failover, most_orders=3),
        standing=lambda account_id: other if account_id == 2 else SICK,
    )
    return may_leave(desk, first, payments)


def test_an_order_leaves_only_for_an_account_that_works() -> None:
    assert leaves(WELL, payment())
    assert not leaves(SICK, payment())
    assert not leaves(SHAKY, payment())
    assert not leaves(WELL, payment(), failover=False)
    assert not leaves(WELL)


def test_an_order_leaves_only_when_each_of_its_payments_can() -> None:
    assert leaves(WELL, payment(), payment(key="l", number=2))
    assert not leaves(WELL, payment(), payment(key="l", number=3)), "it has been tried enough"
    assert not leaves(WELL, payment(), payment(key="l", kind=None))
    assert not leaves(WELL, payment(), payment(key="l", payout_amount=None, payout_asset=None))
    assert not leaves(WELL, payment(), payment(key="l", kind="pigeon"))
    assert not leaves(WELL, payment(), payment(key="l", payout_asset="USD"))
