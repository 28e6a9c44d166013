"""The pure values under random input: money, machines, retries."""

import importlib
import pkgutil
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import paymaster
from paymaster.kernel.clock import ManualClock
from paymaster.kernel.errors import Broken, Conflict, Refusal
from paymaster.kernel.machine import Machine, Move
from paymaster.kernel.money import EXPONENTS, MAX_MINOR, Money, exponent
from paymaster.kernel.retry import Backoff, Circuit

CURRENCIES = st.sampled_from(sorted(EXPONENTS))
MINORS = st.integers(-MAX_MINOR, MAX_MINOR)
SOME = st.builds(Money, MINORS, CURRENCIES)

# ------------------------------------------------------------------------------------ money


@given(money=SOME)
def test_money_comes_back_from_its_text(money: Money):
    # The text form goes up to 18 digits before the point.
    assume(len(money.text().lstrip("-").partition(".")[0]) <= 18)
    assert Money.parse(money.text(), money.currency) == money
    assert str(money) == f"{money.text()} {money.currency}"


@given(money=SOME)
def test_the_text_has_exactly_the_decimals_of_the_currency(money: Money):
    _, point, fraction = money.text().partition(".")
    assert len(fraction) == exponent(money.currency)
    assert bool(point) is bool(fraction)


@given(text=st.text(alphabet="0123456789.-+eE, _", max_size=24), currency=CURRENCIES)
def test_parsing_is_exact_or_a_refusal(text: str, currency: str):
    try:
        money = Money.parse(text, currency)
    except Refusal as refusal:
        known = {"amount-malformed", "amount-precision", "amount-too-large"}
        assert refusal.slug in known  # noqa: PT017
        return
    sign = -1 if text.startswith("-") else 1
    whole, _, fraction = text.lstrip("-").partition(".")
    decimals = exponent(currency)
    assert money.minor == sign * int(whole + fraction.ljust(decimals, "0"))


@pytest.mark.parametrize(
    "text", ["1e3", "١", "1_000", "1,00", " 1", "1 ", "01", "+1", ".5", "5.", "1\n", "NaN", "--1"]
)  # fmt: skip
def test_numbers_in_other_spellings_are_malformed(text: str):
    with pytest.raises(Refusal) as caught:
        Money.parse(text, "EUR")
    assert caught.value.slug == "amount-malformed"


@pytest.mark.parametrize("currency", ["", "eur", "EURO", "XBT", "EUR "])
def test_an_unknown_currency_is_refused(currency: str):
    with pytest.raises(Refusal) as caught:
        Money.parse("1", currency)
    assert caught.value.slug == "currency-unknown"


@given(left=MINORS, right=MINORS, currency=CURRENCIES)
def test_sums_are_those_of_the_minor_units_or_a_refusal(left: int, right: int, currency: str):
    for total, make in (
        (left + right, lambda: Money(left, currency) + Money(right, currency)),
        (left - right, lambda: Money(left, currency) - Money(right, currency)),
    ):
        if abs(total) <= MAX_MINOR:
            assert make() == Money(total, currency)
        else:
            with pytest.raises(Refusal, match="amount-too-large"):
                make()
    assert (-Money(left, currency)).minor == -left


@given(left=SOME, right=SOME)
def test_money_of_two_currencies_never_meets(left: Money, right: Money):
    assume(left.currency != right.currency)
    for mix in (
        lambda: left + right,
        lambda: left - right,
        lambda: left < right,
        lambda: left <= right,
        lambda: left > right,
        lambda: left >= right,
    ):
        with pytest.raises(Broken, match="currency-mixed"):
            mix()
    assert left != right


@given(left=MINORS, right=MINORS)
def test_money_is_ordered_as_its_minor_units(left: int, right: int):
    a, b = Money(left, "EUR"), Money(right, "EUR")
    assert (a < b, a <= b, a > b, a >= b, a == b) == (
        left < right,
        left <= right,
        left > right,
        left >= right,
        left == right,
    )
    assert bool(a) is (left != 0)


WEIGHTS = st.lists(st.integers(0, 10**9), min_size=1, max_size=40)


@given(money=SOME, weights=WEIGHTS)
def test_parts_add_up_and_are_within_one_unit_of_their_share(money: Money, weights: list[int]):
    assume(sum(weights) > 0)
    parts = money.allocate(weights)
    assert sum(part.minor for part in parts) == money.minor
    for part, weight in zip(parts, weights, strict=True):
        assert part.currency == money.currency
        assert abs(part.minor * sum(weights) - money.minor * weight) < sum(weights)
        assert part.minor * money.minor >= 0
        if weight == 0:
            assert part.minor == 0
    assert (-money).allocate(weights) == [-part for part in parts]


@pytest.mark.parametrize("weights", [[], [0], [0, 0], [-1, 2], [3, -1]])
def test_weights_that_are_no_shares_are_broken(weights: list[int]):
    with pytest.raises(Broken, match="allocation-weights"):
        Money(100, "EUR").allocate(weights)


def test_what_does_not_fit_into_a_balance_is_refused():
    for minor in (MAX_MINOR + 1, -MAX_MINOR - 1):
        with pytest.raises(Refusal, match="amount-too-large"):
            Money(minor, "EUR")
    with pytest.raises(Refusal, match="amount-too-large"):
        Money.parse("9" * 18, "KWD")


# ------------------------------------------------------------------------------------ machines


class Light(StrEnum):
    RED = "red"
    GREEN = "green"
    AMBER = "amber"
    OFF = "off"


class Switch(StrEnum):
    GO = "go"
    STOP = "stop"
    BREAK = "break"


@given(
    moves=st.dictionaries(
        st.tuples(st.sampled_from(Light), st.sampled_from(Switch)), st.sampled_from(Light)
    )
)
def test_a_machine_allows_its_table_and_nothing_else(moves: dict[tuple[Light, Switch], Light]):
    machine = Machine(
        "light",
        Light.RED,
        tuple(Move(source, event, target) for (source, event), target in moves.items()),
    )
    for source in Light:
        for event in Switch:
            legal = (source, event) in moves
            assert machine.allows(source, event) is legal
            assert (source.value in machine.sources(event)) is legal
            if legal:
                assert machine.find(source.value, event.value).target is moves[source, event]
            else:
                with pytest.raises(Conflict, match="illegal-move"):
                    machine.find(source, event)
    assert set(machine.rows()) == {
        ("light", source.value, event.value, target.value)
        for (source, event), target in moves.items()
    }
    assert machine.terminal() == machine.states() - {source.value for source, _ in moves}
    diagram = machine.mermaid()
    assert all(state in diagram for state in machine.states())
    assert diagram.count(": ") == len(moves)


def machines() -> list[Machine]:
    """Every machine of the project."""
    modules = [
        importlib.import_module(found.name)
        for found in pkgutil.walk_packages(paymaster.__path__, "paymaster.")
        if found.name.endswith(".machine") and found.name != "paymaster.kernel.machine"
    ]
    return [
        value for module in modules for value in vars(module).values() if isinstance(value, Machine)
    ]


@pytest.mark.parametrize("machine", machines(), ids=lambda machine: machine.name)
def test_the_projects_machines_are_whole(machine: Machine):
    asked = [(move.source, move.event) for move in machine.moves]
    assert len(set(asked)) == len(asked), "an event leads to two states"
    reached, before = {machine.initial.value}, set[str]()
    while reached != before:
        before = set(reached)
        reached |= {move.target.value for move in machine.moves if move.source.value in reached}
    assert reached == machine.states(), "a state cannot be reached"
    assert set(type(machine.initial)) == {type(machine.initial)(s) for s in machine.states()}


# ------------------------------------------------------------------------------------ retry


@given(
    tries=st.integers(-5, 10**6),
    seed=st.integers(0, 1000),
    first=st.timedeltas(timedelta(milliseconds=1), timedelta(days=30)),
    most=st.timedeltas(timedelta(milliseconds=1), timedelta(days=365)),
)
def test_a_delay_is_between_half_and_the_whole_step(
    tries: int, seed: int, first: timedelta, most: timedelta
):
    delay = Backoff(first, most).delay(tries, Random(seed))
    step = min(first.total_seconds() * 2.0 ** min(max(tries - 1, 0), 60), most.total_seconds())
    assert step * 0.4999 - 1e-5 <= delay.total_seconds() <= step * 1.0001 + 1e-5
    assert delay == Backoff(first, most).delay(tries, Random(seed))


@given(outcomes=st.lists(st.booleans(), max_size=40), threshold=st.integers(1, 6))
def test_a_circuit_opens_after_failures_in_a_row_and_one_success_closes_it(
    outcomes: list[bool], threshold: int
):
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    pause = timedelta(seconds=30)
    circuit, row = Circuit(threshold, pause), 0
    for success in outcomes:
        row = 0 if success else row + 1
        circuit = circuit.after(success=success, now=clock.now())
        assert circuit.allows(clock.now()) is (row < threshold)
        assert circuit.allows(clock.now() + pause)
        clock.advance(timedelta(seconds=1))
