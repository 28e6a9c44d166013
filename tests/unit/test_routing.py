"""Which account pays and why; what a lane remembers of its calls."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.test_dispatch_choices import account, candidate

from paymaster.dispatch.lane import SEEN_LEAST, SEEN_MINUTES, Lane
from paymaster.dispatch.proof import ProofKind, kind_of
from paymaster.dispatch.route import Candidate, by_amount, pick
from paymaster.kernel.money import Money

NOW = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
SMALL, LARGE = Money(1_000, "EUR"), Money(100_000, "EUR")


def seen(number: int, name: str, share: int | None, **settings_: str) -> Candidate:
    found = candidate(account(number, name, **settings_))
    return Candidate(found.account, found.caps, found.healthy, share)


def test_a_percentage_decides_by_the_amount() -> None:
    flat = candidate(account(1, "flat", cost="35"))
    share = candidate(account(2, "share", cost_percent="0.25"))
    assert by_amount([flat, share])
    assert not by_amount([flat])
    cheap, dear = pick([flat, share], "iban", SMALL), pick([flat, share], "iban", LARGE)
    assert cheap is not None
    assert dear is not None
    assert (cheap.account.rail.name, dear.account.rail.name) == ("share", "flat")
    assert cheap.why == "of 2 that can pay it: costs 0.03, flat 0.35"


@pytest.mark.parametrize(
    ("written", "minor", "cost"),
    [("0.35", 10_000, 35), ("1", 10_000, 100), ("0.0001", 1, 1), ("99.9999", 100, 100),
     ("", 100, 0), ("-1", 100, 0), ("1,5", 100, 0), ("100", 100, 0), ("0.35", 1, 1)],
)  # fmt: skip
def test_a_percentage_is_read_and_rounded_up(written: str, minor: int, cost: int) -> None:
    assert account(1, "a", cost_percent=written).cost_of(Money(minor, "EUR")) == cost


def test_what_often_did_not_answer_goes_after_what_did() -> None:
    shaky = seen(1, "a", 79, cost="1")
    steady = seen(2, "b", 80, cost="9")
    few = seen(3, "c", None, cost="20")
    choice = pick([shaky, steady, few], "iban", SMALL)
    assert choice is not None
    assert choice.account.rail.name == "b"
    assert pick([shaky], "iban", SMALL) is not None, "it is still chosen when there is no other"
    tolerant = seen(4, "d", 79, cost="1", steady_percent="70")
    again = pick([shaky, tolerant, steady], "iban", SMALL)
    assert again is not None
    assert again.account.rail.name == "d"


def test_every_difference_is_a_reason() -> None:
    ok, sick = candidate(account(1, "ok")), candidate(account(2, "sick"), healthy=False)
    shaky, twin = seen(3, "shaky", 10), candidate(account(4, "pk"))

    def why(*candidates: Candidate) -> str:
        found = pick(candidates, "iban", SMALL)
        assert found is not None
        return found.why

    assert why(ok) == "the only account that can pay it"
    assert why(sick) == "the only account that can pay it, though sick"
    assert why(sick, ok) == "of 2 that can pay it: it works, sick is sick"
    assert why(shaky, ok) == "of 2 that can pay it: shaky answered 10 of 100 calls"
    assert why(twin, ok) == "of 2 that can pay it: equal to pk, first by name"


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.none() | st.integers(0, 100), st.integers(0, 50)),
        min_size=1,
        max_size=5,
    ),
    st.sets(st.integers(1, 5)),
)
def test_the_choice_is_never_one_that_is_left_out_and_never_depends_on_order(
    made: list[tuple[bool, int | None, int]], without: set[int]
) -> None:
    found = [
        Candidate(one.account, one.caps, healthy, share)
        for number, (healthy, share, cost) in enumerate(made, 1)
        for one in [candidate(account(number, f"n{number}", cost=str(cost)))]
    ]
    choice = pick(found, "iban", SMALL, frozenset(without))
    again = pick(found[::-1], "iban", SMALL, frozenset(without))
    assert choice == again
    left = [each for each in found if each.account.id not in without]
    assert (choice is None) == (not left)
    if choice is not None:
        assert choice.account.id not in without
        chosen = next(each for each in left if each.account.id == choice.account.id)
        assert chosen.healthy or not any(each.healthy for each in left)


def test_a_lane_remembers_ten_minutes_of_calls() -> None:
    lane = Lane()
    for number in range(SEEN_LEAST):
        assert lane.share(NOW) is None
        lane.record(success=number % 4 != 0, now=NOW)
    assert lane.share(NOW) == 75
    later = NOW + timedelta(minutes=SEEN_MINUTES - 1)
    assert lane.share(later) == 75
    assert lane.share(later + timedelta(minutes=1)) is None
    for _ in range(SEEN_LEAST):
        lane.record(success=True, now=later + timedelta(minutes=2))
    assert lane.share(later + timedelta(minutes=2)) == 100


@pytest.mark.parametrize(
    ("evidence", "kind"),
    [("send:never", "never_sent"), ("send:refused", "refused"), ("send:answered", "refused"),
     ("query", "refused"), ("query:absent", "not_found"), ("person:pe_1", "by_hand"),
     ("webhook:wallet#ev_1", "report"), ("file:bank#1", "report"), ("statement:sl_1", "report")],
)  # fmt: skip
def test_what_proves_what(evidence: str, kind: str) -> None:
    assert kind_of(evidence) is ProofKind(kind)
