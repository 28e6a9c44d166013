"""Every recipe, posting by posting: from where, to where, how much at the most."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.chart import KINDS, Account, reference
from paymaster.ledger.entry import Mode, Posting

RAIL, CAMPAIGN, USER, CELL = 1, 2, 3, 4
TEN, FOUR, ONE, NONE = (Money(minor, "EUR") for minor in (1000, 400, 100, 0))
YEN = Money(70, "JPY")


def told(postings: Iterable[Posting]) -> list[str]:
    """`cash:1 > budget:2 10.00`, with `<=` for up to and `rest` for what is left."""
    marks = {Mode.EXACT: "", Mode.UP_TO: "<= ", Mode.REST: "rest "}
    return [
        f"{one.source.kind}:{one.source.owner_id} > {one.destination.kind}"
        f":{one.destination.owner_id} {marks[one.mode]}{one.amount.text()}"
        for one in postings
    ]


def assets(postings: Iterable[Posting]) -> set[str]:
    return {account.asset for one in postings for account in (one.source, one.destination)}


@pytest.mark.parametrize(
    ("postings", "expected"),
    [
        (recipes.fund(RAIL, CAMPAIGN, TEN), ["cash:1 > budget:2 10.00"]),
        (recipes.opening(RAIL, TEN), ["cash:1 > equity:0 10.00"]),
        (recipes.opening(RAIL, -TEN), ["equity:0 > cash:1 10.00"]),
        (recipes.opening(RAIL, -Money(1, "EUR")), ["equity:0 > cash:1 0.01"]),
        (recipes.mature(USER, TEN, owes=False), ["vesting:3 > available:3 10.00"]),
        (
            recipes.mature(USER, TEN, owes=True),
            ["vesting:3 > available:3 10.00", "available:3 > debt:3 <= 10.00"],
        ),
        (recipes.reserve(USER, ONE), ["available:3 > reserve:3 <= 1.00"]),
        (recipes.reserve_release(USER, TEN, owes=False), ["reserve:3 > available:3 10.00"]),
        (
            recipes.reserve_release(USER, TEN, owes=True),
            ["reserve:3 > available:3 10.00", "available:3 > debt:3 <= 10.00"],
        ),
        (recipes.request(USER, TEN), ["available:3 > held:3 10.00"]),
        (recipes.release(USER, TEN), ["held:3 > available:3 10.00"]),
        (recipes.booked_out(RAIL, CELL, TEN), ["clearing:1 > intercell:4 10.00"]),
        (recipes.booked_cash(RAIL, CELL, TEN), ["intercell:4 > cash:1 10.00"]),
        (recipes.unbooked_out(RAIL, CELL, TEN), ["intercell:4 > clearing:1 10.00"]),
        (recipes.unbooked_cash(RAIL, CELL, TEN), ["cash:1 > intercell:4 10.00"]),
        (recipes.lease_out(CAMPAIGN, CELL, TEN), ["budget:2 > intercell:4 10.00"]),
        (recipes.lease_in(CAMPAIGN, CELL, TEN), ["intercell:4 > budget:2 10.00"]),
        (recipes.topup_out(RAIL, TEN), ["transit:0 > cash:1 10.00"]),
        (recipes.topup_in(RAIL, TEN), ["cash:1 > transit:0 10.00"]),
        (recipes.rail_fee(RAIL, ONE), ["rail_fees:1 > cash:1 1.00"]),
        (recipes.rail_fee_back(RAIL, ONE), ["cash:1 > rail_fees:1 1.00"]),
        (recipes.suspend(RAIL, TEN), ["cash:1 > suspense:1 10.00"]),
        (recipes.suspend(RAIL, -TEN), ["suspense:1 > cash:1 10.00"]),
        (recipes.suspend(RAIL, -Money(1, "EUR")), ["suspense:1 > cash:1 0.01"]),
        (recipes.suspend(RAIL, Money(1, "EUR")), ["cash:1 > suspense:1 0.01"]),
        (recipes.write_off(USER, TEN), ["loss:0 > debt:3 10.00"]),
        (
            recipes.write_off(USER, TEN, CAMPAIGN),
            ["budget:2 > debt:3 <= 10.00", "loss:0 > debt:3 rest 10.00"],
        ),
    ],
)
def test_what_a_fact_moves(postings: tuple[Posting, ...], expected: list[str]) -> None:
    assert told(postings) == expected
    assert assets(postings) == {"EUR"}


@pytest.mark.parametrize("minor", [1, -1, 1000, -1000])
def test_a_line_that_is_explained(minor: int) -> None:
    against = Account("equity", 0, "EUR")
    (one,) = recipes.explain(RAIL, against, Money(minor, "EUR"))
    suspense = Account("suspense", RAIL, "EUR")
    came_in = minor > 0
    assert (one.source, one.destination) == (
        (suspense, against) if came_in else (against, suspense)
    )
    assert one.amount.minor == abs(minor)


def test_a_reward_with_and_without_what_comes_with_it() -> None:
    def reward(*, vests: bool, owes: bool, commission: Money) -> list[str]:
        made = recipes.reward(CAMPAIGN, USER, TEN, vests=vests, owes=owes, commission=commission)
        assert assets(made) == {"EUR"}
        return told(made)

    share, back = "budget:2 > commission:0 1.00", "available:3 > debt:3 <= 10.00"
    at_once, later = "budget:2 > available:3 10.00", "budget:2 > vesting:3 10.00"
    assert reward(vests=False, owes=False, commission=NONE) == [at_once]
    assert reward(vests=False, owes=True, commission=NONE) == [at_once, back]
    assert reward(vests=False, owes=True, commission=ONE) == [at_once, share, back]
    assert reward(vests=True, owes=False, commission=NONE) == [later]
    assert reward(vests=True, owes=True, commission=ONE) == [later, share]


def test_a_reward_is_taken_back_from_what_vests_first() -> None:
    rest = [
        "available:3 > budget:2 <= 10.00",
        "reserve:3 > budget:2 <= 10.00",
        "debt:3 > budget:2 rest 10.00",
    ]
    assert told(recipes.reverse(CAMPAIGN, USER, TEN, NONE)) == rest
    assert told(recipes.reverse(CAMPAIGN, USER, TEN, FOUR)) == [
        "vesting:3 > budget:2 <= 4.00", *rest,
    ]  # fmt: skip
    assert told(recipes.reverse(CAMPAIGN, USER, TEN, TEN)) == ["vesting:3 > budget:2 <= 10.00"]


def test_a_payment_and_its_return_are_each_others_mirror() -> None:
    paid = recipes.paid(USER, RAIL, TEN, NONE)
    assert told(paid) == ["held:3 > clearing:1 10.00"]
    assert told(recipes.paid(USER, RAIL, TEN, ONE)) == [
        "held:3 > clearing:1 10.00", "held:3 > fee_revenue:0 1.00",
    ]  # fmt: skip
    assert recipes.paid(USER, RAIL, TEN, NONE, TEN) == paid
    assert told(recipes.returned(USER, RAIL, TEN)) == ["clearing:1 > available:3 10.00"]
    assert told(recipes.returned(USER, RAIL, TEN, None, ONE)) == [
        "clearing:1 > available:3 10.00", "fee_revenue:0 > available:3 1.00",
    ]  # fmt: skip


def test_an_exchange_goes_through_our_position_in_both_currencies() -> None:
    out = recipes.paid(USER, RAIL, TEN, ONE, YEN)
    assert told(out) == [
        "held:3 > fx:0 10.00", "fx:0 > clearing:1 70", "held:3 > fee_revenue:0 1.00",
    ]  # fmt: skip
    assert [one.source.asset for one in out] == ["EUR", "JPY", "EUR"]
    back = recipes.returned(USER, RAIL, TEN, YEN, ONE)
    assert told(back) == [
        "clearing:1 > fx:0 70", "fx:0 > available:3 10.00", "fee_revenue:0 > available:3 1.00",
    ]  # fmt: skip
    assert [one.destination.asset for one in back] == ["JPY", "EUR", "EUR"]


def test_what_was_given_up_is_owed_again_to_whoever_bore_it() -> None:
    def undone(campaign_id: int | None, from_budget: Money) -> list[str]:
        made = recipes.write_off_undone(USER, TEN, campaign_id, from_budget)
        assert told(made)[-2:] == ["available:3 > debt:3 <= 10.00", "reserve:3 > debt:3 <= 10.00"]
        return told(made)[:-2]

    assert undone(None, NONE) == ["debt:3 > loss:0 10.00"]
    assert undone(CAMPAIGN, NONE) == ["debt:3 > loss:0 10.00"]
    assert undone(CAMPAIGN, FOUR) == ["debt:3 > budget:2 4.00", "debt:3 > loss:0 6.00"]
    assert undone(CAMPAIGN, TEN) == ["debt:3 > budget:2 10.00"]


def test_the_table_of_accounts_has_a_line_for_each() -> None:
    lines = reference().splitlines()[2:]
    assert [line.split("`")[1] for line in lines] == [*KINDS]
