"""Fees at the edges: which of several plans, what cannot be reached, rates as people read them."""

from __future__ import annotations

from fractions import Fraction

import pytest

from paymaster.kernel.errors import Unprocessable
from paymaster.kernel.money import MAX_MINOR, Money
from paymaster.withdraw import fee_plans, fees
from paymaster.withdraw.fees import Charge, Exchange, FeePlan, Tier


def plan(name: str, *, kinds: bool = False, payouts: bool = False) -> FeePlan:
    return FeePlan(
        name,
        1,
        "EUR",
        "sender",
        kinds=frozenset({"iban"}) if kinds else None,
        payouts=frozenset({"EUR"}) if payouts else None,
    )


def test_the_plan_that_leaves_the_least_open_is_taken() -> None:
    for_all = plan("a")
    for_kind = plan("b", kinds=True)
    for_payout = plan("c", payouts=True)
    for_both = plan("d", kinds=True, payouts=True)
    plans = [for_all, for_payout, for_kind, for_both]
    assert fees.choose(plans, "iban", "EUR", "EUR") == for_both
    assert fees.choose(plans[:3], "iban", "EUR", "EUR") == for_kind, "the first by name"
    assert fees.choose(plans[:2], "iban", "EUR", "EUR") == for_payout
    assert fees.choose(plans[:1], "iban", "EUR", "EUR") == for_all
    assert fees.choose(plans, "card", "EUR", "EUR") == for_payout
    assert fees.choose([], "iban", "EUR", "EUR") is None


LEAPING = FeePlan(
    "p",
    1,
    "EUR",
    "receiver",
    tiers=(Tier(100, 50, 0), Tier(300, 0, 0)),
    exchange=Exchange(0, ("ecb",)),
)
"""From 3.00 on nothing is taken, below that 0.50: nothing leaves between 2.49 and 3.00."""


def test_what_no_amount_leaves_is_told_of() -> None:
    for minor, amount in ((99, 99), (249, 299), (300, 300)):
        found = fees.charge_for(LEAPING, Money(minor, "EUR"))
        assert isinstance(found, Charge)
        assert (found.payout, found.amount + found.fee) == (minor, amount)
    for minor in (250, 299):
        for reached in (
            fees.charge_for(LEAPING, Money(minor, "EUR")),
            fees.exchange_for(LEAPING, Money(minor, "USD"), Fraction(1)),
        ):
            assert not isinstance(reached, Charge)
            assert reached[0] == "payout-unreachable"


def test_the_fault_of_a_fee_is_that_of_the_exchange() -> None:
    dear = FeePlan("p", 1, "EUR", "receiver", flat=100, exchange=Exchange(0, ("ecb",)))
    for minor, slug in ((100, "amount-below-fee"), (101, None)):
        found = fees.exchange(dear, Money(minor, "EUR"), "USD", Fraction(1))
        assert (found[0] if not isinstance(found, Charge) else None) == slug


@pytest.mark.parametrize("payer", ["sender", "receiver"])
def test_the_most_that_can_be_withdrawn(payer: fees.Payer) -> None:
    costly = FeePlan("p", 1, "EUR", payer, flat=1)
    most = MAX_MINOR if payer == "receiver" else MAX_MINOR - 1
    found = fees.charge(costly, Money(most, "EUR"))
    assert isinstance(found, Charge)
    assert found.total.minor == MAX_MINOR
    if payer == "sender":
        assert fees.charge(costly, Money(MAX_MINOR, "EUR")) == (
            "insufficient-funds", "The available balance does not cover this.",
        )  # fmt: skip


def test_what_is_exchanged_stays_within_what_can_be_paid() -> None:
    free = FeePlan("p", 1, "EUR", "sender", exchange=Exchange(0, ("ecb",)))
    one, most = Money(1, "EUR"), Money(MAX_MINOR, "EUR")
    for money, rate, slug in (
        (one, Fraction(1, 2), "amount-too-small"),
        (one, Fraction(51, 100), None),
        (most, Fraction(1), None),
        (most, Fraction(2), "insufficient-funds"),
    ):
        found = fees.exchange(free, money, "USD", rate)
        assert (found[0] if not isinstance(found, Charge) else None) == slug
    for money, rate, slug in (
        (Money(1, "USD"), Fraction(2), "amount-too-small"),
        (Money(MAX_MINOR, "USD"), Fraction(1), None),
        (Money(MAX_MINOR, "USD"), Fraction(1, 2), "insufficient-funds"),
    ):
        found = fees.exchange_for(free, money, rate)
        assert (found[0] if not isinstance(found, Charge) else None) == slug


def test_a_markup_is_taken_off_the_rate() -> None:
    marked = FeePlan("p", 1, "EUR", "sender", exchange=Exchange(20_000, ("ecb",)))
    found = fees.exchange(marked, Money(10_000, "EUR"), "USD", Fraction(3, 2))
    assert isinstance(found, Charge)
    assert (found.payout, found.rate) == (14_700, "147/100")


@pytest.mark.parametrize(
    ("rate", "read"),
    [
        ("2/1", "2.00000000"),
        ("1/10", "0.10000000"),
        ("1/100000000", "0.00000001"),
        ("1/1000000000", "0.00000000"),
        ("2/3", "0.66666667"),
        ("12345678901/10", "1234567890.10000000"),
    ],
)
def test_a_rate_as_people_read_it(rate: str, read: str) -> None:
    assert fees.readable(rate) == read


def test_a_rate_in_fewer_decimals() -> None:
    assert fees.readable("1/8", 2) == "0.12", "half to even"
    assert fees.readable("3/8", 2) == "0.38"
    assert fees.readable("1/8", 4) == "0.1250"


def test_the_lines_of_a_fee_as_json() -> None:
    both = FeePlan("p", 1, "JPY", "sender", flat=25, ppm=10_000)
    assert fees.wire_lines(fees.fee_lines(both, 1000), "JPY") == [
        {"line": "flat", "amount": {"amount": "25", "currency": "JPY"}, "ppm": None},
        {"line": "percent", "amount": {"amount": "10", "currency": "JPY"}, "ppm": 10_000},
    ]
    assert fees.wire_lines((), "EUR") == []


def test_every_bad_tier_is_named() -> None:
    tiers = ["1.00", {"from": "2.00"}, {"more": 1}, {"from": "3.00"}, {"from": "2.50"}]
    with pytest.raises(Unprocessable) as refused:
        fee_plans.read("plan", 1, {"currency": "EUR", "tiers": tiers})
    assert [problem.pointer for problem in refused.value.problems] == [
        "/tiers/0", "/tiers/2", "/tiers/4/from",
    ]  # fmt: skip


def test_an_unknown_field_is_named_and_a_long_one_in_part() -> None:
    with pytest.raises(Unprocessable) as refused:
        fee_plans.read("plan", 1, {"currency": "EUR", "x" * 41: 1, "y" * 40: 1})
    assert [problem.pointer for problem in refused.value.problems] == [
        "/" + "x" * 40, "/" + "y" * 40,
    ]  # fmt: skip


def test_an_exchange_without_a_markup_takes_none() -> None:
    found = fee_plans.read("p", 1, {"currency": "EUR", "exchange": {"sources": ["ecb"]}})
    assert found.exchange == Exchange(0, ("ecb",))


def test_fifty_tiers_and_no_more() -> None:
    tiers = [{"from": f"{number}.00"} for number in range(1, 52)]
    assert len(fee_plans.read("p", 1, {"currency": "EUR", "tiers": tiers[:50]}).tiers) == 50
    with pytest.raises(Unprocessable):
        fee_plans.read("p", 1, {"currency": "EUR", "tiers": tiers})
