"""Fees and exchanges under random plans, amounts and rates, in every currency of ISO 4217."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from paymaster.kernel.money import EXPONENTS, MAX_MINOR, Money, exponent
from paymaster.withdraw import fees
from paymaster.withdraw.fees import PPM, Charge, Exchange, FeePlan, Tier

CURRENCIES = sorted(EXPONENTS)
AMOUNTS = st.one_of(st.integers(1, 10_000), st.integers(1, 10**12))
PPMS = st.one_of(st.integers(0, 100_000), st.integers(0, PPM))
FLATS = st.integers(0, 5_000)


@st.composite
def plans(draw: st.DrawFn, currency: str = "EUR", *, tiered: bool = True) -> FeePlan:
    sinces = sorted(draw(st.sets(st.integers(1, 20_000), max_size=3))) if tiered else []
    minimum = draw(st.none() | st.integers(0, 3_000))
    maximum = draw(st.none() | st.integers(minimum or 0, 10_000))
    return FeePlan(
        "normal",
        1,
        currency,
        draw(st.sampled_from(("sender", "receiver"))),
        flat=draw(FLATS),
        ppm=draw(PPMS),
        tiers=tuple(Tier(since, draw(FLATS), draw(PPMS)) for since in sinces),
        minimum=minimum,
        maximum=maximum,
        exchange=Exchange(draw(st.integers(0, PPM // 2)), ("ecb",)),
    )


@st.composite
def rates(draw: st.DrawFn) -> Fraction:
    """Decimal texts, and crosses of two."""
    one = Fraction(draw(st.integers(1, 10**9)), 10 ** draw(st.integers(0, 6)))
    other = Fraction(draw(st.integers(1, 10**9)), 10 ** draw(st.integers(0, 6)))
    return draw(st.sampled_from((one, one / other)))


def rounded(exact: Fraction) -> int:
    """Half to even, by another implementation."""
    with localcontext() as context:
        context.prec = 200
        # Sixty digits more than any bound of the inputs: what is no tie stays none.
        value = Decimal(exact.numerator) / Decimal(exact.denominator)
        return int(value.quantize(Decimal(1), rounding=ROUND_HALF_EVEN))


@given(numerator=st.integers(0, 10**30), denominator=st.integers(1, 10**12))
def test_rounding_is_half_to_even(numerator: int, denominator: int):
    found = fees.half_even(numerator, denominator)
    exact = Fraction(numerator, denominator)
    assert abs(found - exact) <= Fraction(1, 2)
    if abs(found - exact) == Fraction(1, 2):
        assert found % 2 == 0
    assert found == rounded(exact)


@given(plan=plans(), minor=AMOUNTS)
def test_what_is_taken_is_what_is_given_and_kept(plan: FeePlan, minor: int):
    found = fees.charge(plan, Money(minor, "EUR"))
    fee = fees.fee(plan, minor)
    assert sum(line.minor for line in fees.fee_lines(plan, minor)) == fee
    if plan.payer == "receiver" and fee >= minor:
        assert found == ("amount-below-fee", "The fee leaves nothing of this amount.")
        return
    assert isinstance(found, Charge)
    assert (found.fee, found.asked) == (fee, minor)
    gross = minor if plan.payer == "receiver" else minor + fee
    assert found.amount + found.fee == gross == found.total.minor
    assert (found.payout, found.payout_asset) == (found.amount, "EUR")


@given(plan=plans(), minor=AMOUNTS)
def test_the_fee_is_within_minimum_and_maximum(plan: FeePlan, minor: int):
    fee = fees.fee(plan, minor)
    assert fee >= (plan.minimum or 0)
    assert plan.maximum is None or fee <= plan.maximum


@given(plan=plans(), minor=AMOUNTS)
def test_the_percent_line_is_half_even_of_the_figures_in_force(plan: FeePlan, minor: int):
    flat, ppm = plan.flat, plan.ppm
    for tier in plan.tiers:
        if tier.since <= minor:
            flat, ppm = tier.flat, tier.ppm
    exact = flat + rounded(Fraction(minor * ppm, PPM))
    least = exact if plan.minimum is None else max(exact, plan.minimum)
    assert fees.fee(plan, minor) == (
        least if plan.maximum is None else min(least, max(plan.maximum, plan.minimum or 0))
    )


@given(plan=plans(), minor=AMOUNTS)
def test_one_unit_more_costs_one_unit_more_at_most(plan: FeePlan, minor: int):
    """Within a tier, whatever the bounds: neither the fee nor what is left ever falls."""
    assume(all(tier.since != minor + 1 for tier in plan.tiers))
    assert fees.fee(plan, minor + 1) - fees.fee(plan, minor) in (0, 1)


@given(plan=plans(tiered=False), minor=st.integers(1, 10**9))
def test_without_tiers_every_payout_can_be_reached_exactly(plan: FeePlan, minor: int):
    assume(plan.ppm < PPM)
    found = fees.charge_for(plan, Money(minor, "EUR"))
    assert isinstance(found, Charge)
    assert found.payout == minor


@given(plan=plans(), minor=st.integers(1, 40_000))
def test_a_payout_is_reached_exactly_and_with_the_least_amount(plan: FeePlan, minor: int):
    found = fees.charge_for(plan, Money(minor, "EUR"))
    if not isinstance(found, Charge):
        assert plan.payer == "receiver"
        assert found[0] == "payout-unreachable"
        assert not any(g - fees.fee(plan, g) == minor for g in range(minor, minor + 20_000))
        return
    assert found.payout == minor
    assert fees.charge(plan, Money(found.asked, "EUR")) == found
    if plan.payer == "receiver":
        below = range(max(minor, found.asked - 3_000), found.asked)
        assert not any(gross - fees.fee(plan, gross) == minor for gross in below)


@given(plan=plans(), minor=st.integers(1, 10**9))
def test_there_and_back_is_the_same_payout(plan: FeePlan, minor: int):
    there = fees.charge(plan, Money(minor, "EUR"))
    assume(isinstance(there, Charge))
    assert isinstance(there, Charge)
    back = fees.charge_for(plan, Money(there.payout, "EUR"))
    assert isinstance(back, Charge)
    assert back.payout == there.payout
    assert back.total.minor <= there.total.minor


@pytest.mark.parametrize("currency", CURRENCIES)
def test_every_currency_exchanges_into_every_other_one(currency: str):
    """With one rate and one amount: exact, rounded once at the scale of what it becomes."""
    rate = Fraction("1.23456")
    given_ = Money(123_457, currency)
    for other in CURRENCIES:
        if other != currency:
            shift = Fraction(10) ** (exponent(other) - exponent(currency))
            assert fees.exchanged(given_, rate, other) == rounded(given_.minor * rate * shift)


@settings(max_examples=300)
@given(data=st.data(), minor=AMOUNTS, mid=rates())
def test_an_exchange_neither_makes_nor_loses_a_unit(data: st.DataObject, minor: int, mid: Fraction):
    """In each currency what is taken is what is given, kept, or in the position."""
    given_, wanted = data.draw(
        st.lists(st.sampled_from(CURRENCIES), min_size=2, max_size=2, unique=True)
    )
    plan = data.draw(plans(given_))
    found = fees.exchange(plan, Money(minor, given_), wanted, mid)
    if not isinstance(found, Charge):
        assert found[0] in ("amount-below-fee", "amount-too-small", "insufficient-funds")
        return
    rate = Fraction(found.rate or "0")
    assert plan.exchange is not None
    assert rate == mid * (PPM - plan.exchange.markup_ppm) / PPM
    assert found.asked == minor
    books = {
        given_: [-found.total.minor, found.fee, found.amount],
        wanted: [-found.payout, found.payout],
    }
    assert all(sum(legs) == 0 for legs in books.values())
    shift = Fraction(10) ** (exponent(wanted) - exponent(given_))
    assert found.payout == rounded(found.amount * rate * shift)
    assert 0 < found.payout <= MAX_MINOR
    # The rounding leaves half a unit of what is paid out, at the most, in the position.
    assert abs(found.payout - found.amount * rate * shift) <= Fraction(1, 2)


@settings(max_examples=300)
@given(data=st.data(), minor=AMOUNTS, mid=rates())
def test_an_exchange_for_a_payout_pays_exactly_it(data: st.DataObject, minor: int, mid: Fraction):
    given_, wanted = data.draw(
        st.lists(st.sampled_from(CURRENCIES), min_size=2, max_size=2, unique=True)
    )
    plan = data.draw(plans(given_, tiered=False))
    assume(plan.ppm < PPM)
    found = fees.exchange_for(plan, Money(minor, wanted), mid)
    if not isinstance(found, Charge):
        assert found[0] in ("amount-too-small", "insufficient-funds")
        return
    assert (found.payout, found.payout_asset) == (minor, wanted)
    assert found.fee == fees.fee(plan, found.asked)
    shift = Fraction(10) ** (exponent(given_) - exponent(wanted))
    exact = minor / Fraction(found.rate or "0") * shift
    assert found.amount == rounded(exact)


@given(
    amount=st.integers(1, 10**9),
    mid=rates(),
    pair=st.lists(st.sampled_from(CURRENCIES), min_size=2, max_size=2, unique=True),
)
def test_there_and_back_loses_half_a_unit_of_each_at_most(
    amount: int, mid: Fraction, pair: list[str]
):
    one, other = pair
    there = fees.exchanged(Money(amount, one), mid, other)
    assume(0 < there <= MAX_MINOR)
    back = fees.exchanged(Money(there, other), 1 / mid, one)
    unit = Fraction(10) ** (exponent(one) - exponent(other)) / mid
    assert abs(back - amount) <= unit / 2 + Fraction(1, 2)


def test_the_closest_plan_is_chosen_then_the_first_by_name():
    kinds, payouts = frozenset({"iban"}), frozenset({"USD"})
    wide = FeePlan("b", 1, "EUR", "sender")
    bank = FeePlan("z", 1, "EUR", "sender", kinds=kinds)
    abroad = FeePlan("y", 1, "EUR", "sender", kinds=kinds, payouts=payouts,
                     exchange=Exchange(0, ("ecb",)))  # fmt: skip
    gone = FeePlan("a", 1, "EUR", "sender", retired=True)
    every = [wide, bank, abroad, gone]
    assert fees.choose(every, "iban", "EUR", "EUR") is bank
    assert fees.choose(every, "wallet", "EUR", "EUR") is wide
    assert fees.choose(every, "iban", "EUR", "USD") is abroad
    assert fees.choose(every, "iban", "EUR", "JPY") is None
    assert fees.choose(every, "iban", "USD", "USD") is None
    assert fees.choose([wide, FeePlan("a", 1, "EUR", "receiver")], "x", "EUR", "EUR") != wide


def some(names: str) -> st.SearchStrategy[frozenset[str] | None]:
    """A field of a plan: None for everything, or some names."""
    return st.none() | st.frozensets(st.sampled_from(names.split()), min_size=1)


@st.composite
def matching(draw: st.DrawFn) -> list[FeePlan]:
    """Plans that are for whatever; each has a fee of its own."""
    return [
        FeePlan(
            draw(st.sampled_from("abcdef")) + str(place),
            1,
            draw(st.sampled_from(("EUR", "USD"))),
            draw(st.sampled_from(("sender", "receiver"))),
            kinds=draw(some("iban wallet")),
            payouts=draw(some("EUR USD JPY")),
            flat=place,
            exchange=draw(st.none() | st.just(Exchange(0, ("ecb",)))),
            retired=draw(st.integers(0, 9)) == 0,
            rails=draw(some("file instant wallet")),
        )
        for place in range(draw(st.integers(1, 8)))
    ]


PLACES = st.tuples(
    st.sampled_from(("iban", "wallet")),
    st.sampled_from(("EUR", "USD")),
    st.sampled_from(("EUR", "USD", "JPY")),
    st.frozensets(st.sampled_from(("file", "instant", "wallet"))),
)


@settings(max_examples=500)
@given(made=matching(), place=PLACES, minor=AMOUNTS)
def test_of_plans_that_do_not_tie_one_is_the_closest_whatever_it_is_called(
    made: list[FeePlan], place: tuple[str, str, str, frozenset[str]], minor: int
):
    kept: list[FeePlan] = []
    for plan in made:
        if not any(plan.ties(other) for other in kept):
            kept.append(plan)
    fitting = [plan for plan in kept if plan.fits(*place)]
    found = fees.choose(kept, *place)
    assert found is fees.choose(kept[::-1], *place)
    if found is None:
        assert not fitting
        return
    assert found in fitting
    least = [plan for plan in fitting if plan.open_fields <= found.open_fields]
    assert least == [found], "never two that fit as closely"
    charge = fees.charge(found, Money(minor, place[1]))
    if isinstance(charge, Charge):
        assert charge.total.minor == charge.amount + charge.fee
        assert charge.asked == minor
        assert charge.plan == found.label


@settings(max_examples=500)
@given(made=matching(), place=PLACES)
def test_two_that_fit_as_closely_tie(
    made: list[FeePlan], place: tuple[str, str, str, frozenset[str]]
):
    """So that what is refused when a plan is entered is all that must be."""
    fitting = [plan for plan in made if plan.fits(*place)]
    for one in fitting:
        for other in fitting:
            tie = one.open_fields == other.open_fields
            assert one.ties(other) == other.ties(one) == tie


RAILS = ("file", "instant", "wallet")
EVERY_PLACE = [
    (kind, currency, payout, frozenset(rails))
    for kind in ("iban", "wallet")
    for currency in ("EUR", "USD")
    for payout in ("EUR", "USD", "JPY")
    for number in range(4)
    for rails in combinations(RAILS, number)
]


@given(made=matching())
def test_what_ties_fits_some_withdrawal_together(made: list[FeePlan]):
    """So that nothing is refused that never could be a choice between two."""
    for one in made:
        for other in made:
            if one.ties(other):
                assert any(one.fits(*place) and other.fits(*place) for place in EVERY_PLACE)


def test_a_plan_for_certain_rails_is_for_payments_that_no_other_one_could_make():
    wide = FeePlan("wide", 1, "EUR", "sender")
    file = FeePlan("file", 1, "EUR", "sender", rails=frozenset({"file"}))
    either = FeePlan("either", 1, "EUR", "sender", rails=frozenset({"file", "instant"}))
    bank = FeePlan("bank", 1, "EUR", "sender", kinds=frozenset({"iban"}), rails=file.rails)
    rails = frozenset

    def found(*plans: FeePlan, by: str = "") -> FeePlan | None:
        return fees.choose(plans, "iban", "EUR", "EUR", rails(by.split()))

    assert found(wide, file, by="file") is file
    assert found(wide, file, by="file instant") is wide, "it may go by the other one"
    assert found(wide, either, by="file instant") is either
    assert found(wide, file, by="") is wide, "no account could pay it now"
    assert found(wide, file, bank, by="file") is bank
    assert file.ties(either)
    assert not file.ties(bank)
    assert not file.ties(FeePlan("x", 1, "EUR", "sender", rails=rails({"instant"})))
    assert not file.ties(FeePlan("x", 1, "USD", "sender", rails=file.rails))


@pytest.mark.parametrize(
    ("asked", "ppm", "fee"),
    [(50, 10_000, 0), (150, 10_000, 2), (250, 10_000, 2), (350, 10_000, 4), (251, 10_000, 3)],
)
def test_a_half_goes_to_the_even_unit(asked: int, ppm: int, fee: int):
    plan = FeePlan("p", 1, "EUR", "sender", ppm=ppm)
    assert fees.fee(plan, asked) == fee


def test_the_bounds():
    plan = FeePlan("p", 1, "EUR", "sender", flat=1, tiers=(Tier(100, 2, 0),), minimum=1)
    assert [fees.fee(plan, minor) for minor in (99, 100, 101)] == [1, 2, 2]
    assert [line.name for line in fees.fee_lines(plan, 1)] == ["flat"]
    most = fees.charge(plan, Money(MAX_MINOR - 2, "EUR"))
    assert isinstance(most, Charge)
    assert most.total.minor == MAX_MINOR
    more = fees.charge(plan, Money(MAX_MINOR - 1, "EUR"))
    assert not isinstance(more, Charge)
    assert more[0] == "insufficient-funds"
    off = FeePlan("p", 1, "EUR", "receiver", flat=5)
    assert [isinstance(fees.charge(off, Money(m, "EUR")), Charge) for m in (5, 6)] == [False, True]


def test_without_a_plan_nothing_is_charged():
    found = fees.charge(None, Money(7, "EUR"))
    assert isinstance(found, Charge)
    assert (found.amount, found.fee, found.payout, found.plan) == (7, 0, 7, None)


def test_the_smallest_unit_can_be_exchanged_and_nothing_smaller():
    plan = FeePlan("p", 1, "EUR", "sender", exchange=Exchange(0, ("ecb",)))
    one = fees.exchange(plan, Money(1, "EUR"), "USD", Fraction(1))
    assert isinstance(one, Charge)
    assert one.payout == 1
    back = fees.exchange_for(plan, Money(1, "USD"), Fraction(1))
    assert isinstance(back, Charge)
    assert back.amount == 1
    # Half a unit goes to the even one, which is none.
    small = fees.exchange(plan, Money(1, "EUR"), "USD", Fraction(1, 2))
    assert not isinstance(small, Charge)
    assert small[0] == "amount-too-small"
    most = fees.exchange(plan, Money(MAX_MINOR, "EUR"), "USD", Fraction(2))
    assert not isinstance(most, Charge)
    assert most[0] == "insufficient-funds"
