"""Fee plans as documents: every fault has its place, and a plan comes back from its data."""

from __future__ import annotations

from typing import Any

import pytest

from paymaster.kernel.errors import Unprocessable
from paymaster.withdraw import fee_plans, fees
from paymaster.withdraw.fees import PPM, Charge, Exchange, Tier

WHOLE: dict[str, Any] = {
    "currency": "EUR", "payer": "receiver", "destination_kinds": ["iban"],
    "payout_currencies": ["EUR", "USD"], "rails": ["iso20022"], "flat": "0.25", "percent_ppm": PPM,
    "tiers": [
        {"from": "0.01", "flat": "0"}, {"from": "1000.00", "flat": "1.00", "percent_ppm": 5000},
    ],
    "minimum": "0.50", "maximum": "0.50", "fee_on_return": "given_back",
    "exchange": {"markup_ppm": PPM // 2, "sources": ["ecb"]}, "retired": True,
}  # fmt: skip


def faults(**changed: Any) -> list[str]:
    with pytest.raises(Unprocessable) as refused:
        fee_plans.read("plan", 1, {**WHOLE, **changed})
    assert refused.value.slug == "fee-plan-invalid"
    return sorted({problem.pointer for problem in refused.value.problems})


def test_everything_that_a_plan_may_say() -> None:
    plan = fee_plans.read("p" * 40, 3, WHOLE)
    assert (plan.name, plan.version, plan.currency, plan.payer) == ("p" * 40, 3, "EUR", "receiver")
    assert (plan.kinds, plan.payouts) == (frozenset({"iban"}), frozenset({"EUR", "USD"}))
    assert plan.rails == frozenset({"iso20022"})
    assert (plan.flat, plan.ppm, plan.minimum, plan.maximum) == (25, PPM, 50, 50)
    assert plan.tiers == (Tier(1, 0, 0), Tier(100_000, 100, 5000))
    assert plan.exchange == Exchange(PPM // 2, ("ecb",))
    assert plan.gives_back
    assert plan.retired


def test_what_is_left_out_is_nothing() -> None:
    plan = fee_plans.read("p", 1, {"currency": "EUR"})
    assert plan == fees.FeePlan("p", 1, "EUR", "sender")
    assert not plan.gives_back
    assert not plan.retired


def test_a_plan_comes_back_from_its_data() -> None:
    for document in (WHOLE, {"currency": "JPY"}):
        plan = fee_plans.read("plan", 1, document)
        assert fee_plans.read("plan", 1, fee_plans.data(plan)) == plan


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("payer", "nobody"),
        ("fee_on_return", "half"),
        ("retired", "yes"),
        ("destination_kinds", []),
        ("destination_kinds", "iban"),
        ("destination_kinds", ["iban", "iban"]),
        ("destination_kinds", ["iban", 5]),
        ("destination_kinds", ["iban", "pigeon"]),
        ("payout_currencies", ["XXL"]),
        ("flat", "-0.01"),
        ("flat", "0.001"),
        ("flat", 1),
        ("minimum", "x"),
        ("percent_ppm", PPM + 1),
        ("percent_ppm", -1),
        ("percent_ppm", True),
        ("percent_ppm", "1"),
        ("tiers", {}),
        ("tiers", None),
        ("tiers", [{"from": f"{n}.00"} for n in range(1, fee_plans.MAX_TIERS + 2)]),
        ("exchange", {}),
        ("exchange", []),
        ("unknown", 1),
    ],
)
def test_a_fault_is_named_by_its_place(name: str, value: Any) -> None:
    assert faults(**{name: value}) == [f"/{name}"]


@pytest.mark.parametrize(
    ("changed", "places"),
    [
        ({"maximum": "0.49"}, ["/maximum"]),
        ({"tiers": [{"from": "0"}]}, ["/tiers/0/from"]),
        ({"tiers": [{"from": "2.00"}, {"from": "2.00"}]}, ["/tiers/1/from"]),
        ({"tiers": [{"from": "2.00", "more": 1}]}, ["/tiers/0"]),
        ({"tiers": ["2.00"]}, ["/tiers/0"]),
        ({"tiers": [{"from": "2.00", "percent_ppm": PPM + 1}]}, ["/tiers/0/percent_ppm"]),
        ({"exchange": {"markup_ppm": PPM // 2 + 1, "sources": ["ecb"]}}, ["/exchange/markup_ppm"]),
        ({"exchange": {"sources": ["ecb", "gossip"]}}, ["/exchange/sources"]),
        ({"exchange": {"markup_ppm": 1}}, ["/exchange/sources"]),
        ({"exchange": {"sources": ["ecb"], "more": 1}}, ["/exchange"]),
        ({"currency": "XXL"}, ["/currency"]),
        ({"currency": 5}, ["/currency"]),
        ({"payer": "nobody", "flat": "x"}, ["/flat", "/payer"]),
    ],
)
def test_faults_deeper_in_the_document(changed: dict[str, Any], places: list[str]) -> None:
    assert faults(**changed) == places


@pytest.mark.parametrize("name", ["", "P", "1plan", "plan_a", "p" * 41, "plan\n"])
def test_names_of_plans(name: str) -> None:
    with pytest.raises(Unprocessable) as refused:
        fee_plans.read(name, 1, WHOLE)
    assert [problem.pointer for problem in refused.value.problems] == ["path:name"]


def test_as_many_tiers_as_may_be() -> None:
    tiers = [{"from": f"{n}.00"} for n in range(1, fee_plans.MAX_TIERS + 1)]
    assert len(fee_plans.read("p", 1, {**WHOLE, "tiers": tiers}).tiers) == fee_plans.MAX_TIERS


def test_what_is_set_aside_and_what_was_asked_for() -> None:
    on_top = Charge(100, 7, "EUR", 100, "EUR")
    deducted = Charge(93, 7, "EUR", 93, "EUR", "receiver")
    assert (on_top.total.minor, on_top.asked, on_top.fee_back) == (107, 100, False)
    assert (deducted.total.minor, deducted.asked) == (100, 100)


def test_the_lines_of_a_fee() -> None:
    plan = fees.FeePlan("p", 1, "EUR", "sender", flat=10, ppm=10_000, minimum=15, maximum=50)
    assert fees.fee_lines(plan, 100) == (
        ("flat", 10, None), ("percent", 1, 10_000), ("minimum", 4, None),
    )  # fmt: skip
    assert fees.fee_lines(plan, 500) == (("flat", 10, None), ("percent", 5, 10_000))
    assert fees.fee_lines(plan, 4000) == (("flat", 10, None), ("percent", 40, 10_000))
    assert fees.fee_lines(plan, 4100) == (
        ("flat", 10, None), ("percent", 41, 10_000), ("maximum", -1, None),
    )  # fmt: skip
    free = fees.FeePlan("p", 1, "EUR", "sender")
    assert fees.fee_lines(free, 100) == ()
    assert fees.exchange_for(free, fees.Money(100, "USD"), fees.Fraction(2)) == Charge(
        50, 0, "EUR", 100, "USD", "sender", "p/1", rate="2/1"
    )


def test_which_tier_holds() -> None:
    tiers = (Tier(100, 2, 0), Tier(200, 3, 0))
    plan = fees.FeePlan("p", 1, "EUR", "receiver", flat=1, tiers=tiers)
    assert [fees.fee(plan, base) for base in (1, 99, 100, 199, 200, 10_000)] == [1, 1, 2, 2, 3, 3]
    assert fees.charge(plan, fees.Money(1, "EUR")) == (
        "amount-below-fee", "The fee leaves nothing of this amount.",
    )  # fmt: skip
    assert fees.charge_for(plan, fees.Money(1, "EUR")) == fees.charge(plan, fees.Money(2, "EUR"))
