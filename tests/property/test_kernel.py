"""The pure values under random input: money, ids, machines, retries, time."""

import importlib
import pkgutil
from datetime import UTC, date, datetime, timedelta, timezone
from enum import StrEnum
from random import Random
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import paymaster
from paymaster.kernel.clock import (
    ManualClock,
    business_day,
    milliseconds,
    parse_rfc3339,
    rfc3339,
    start_of_day,
)
from paymaster.kernel.errors import Broken, Conflict, NotFound, Refusal
from paymaster.kernel.ids import (
    EPOCH_MS,
    MAX_CELL,
    IdMaker,
    Ref,
    parse_reference,
    parse_text_id,
    reference,
    text_id,
    time_floor,
)
from paymaster.kernel.machine import Machine, Move
from paymaster.kernel.money import EXPONENTS, MAX_MINOR, Money, exponent
from paymaster.kernel.retry import Backoff, Circuit

CURRENCIES = st.sampled_from(sorted(EXPONENTS))
MINORS = st.integers(-MAX_MINOR, MAX_MINOR)
SOME = st.builds(Money, MINORS, CURRENCIES)
MOMENTS = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001

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


@pytest.mark.parametrize("currency", ["", "eur", "EURO", "XXX", "EUR "])
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


# ------------------------------------------------------------------------------------ ids

CELLS, NUMBERS = st.integers(0, MAX_CELL), st.integers(0, 2**63 - 1)


@given(cell=CELLS, number=NUMBERS)
def test_ids_come_back_from_their_text(cell: int, number: int):
    written = reference(cell, number)
    assert len(written) == 15
    assert written.isascii()
    assert written.isalnum()
    assert written == written.upper()
    assert parse_reference(written) == Ref(cell, number)
    assert parse_text_id("wd", text_id("wd", cell, number)) == Ref(cell, number)
    with pytest.raises(NotFound):
        parse_text_id("us", text_id("wd", cell, number))


@given(cell=CELLS, low=NUMBERS, high=NUMBERS)
def test_references_of_a_cell_sort_as_their_ids(cell: int, low: int, high: int):
    assert (low < high) is (reference(cell, low) < reference(cell, high))


@given(text=st.one_of(st.text(max_size=20), st.text("0123456789ABCZ", min_size=15, max_size=15)))
def test_a_reference_has_one_spelling(text: str):
    found = parse_reference(text)
    assert found is None or reference(found.cell, found.id) == text


@pytest.mark.parametrize(("cell", "number"), [(-1, 0), (1024, 0), (0, -1), (0, 2**63)])
def test_what_does_not_fit_is_not_written(cell: int, number: int):
    with pytest.raises(Broken, match="id-range"):
        reference(cell, number)


@given(
    worker=st.integers(0, 63),
    steps=st.lists(st.tuples(st.integers(-50, 50), st.integers(0, 300)), max_size=30),
    start=st.integers(-1000, 10**10),
)
def test_ids_grow_whatever_the_clock_does(worker: int, steps: list[tuple[int, int]], start: int):
    now = EPOCH_MS + start
    maker = IdMaker(worker, last_ms=EPOCH_MS + 5, now_ms=lambda: now)
    made: list[int] = []
    for move, count in steps:
        now += move
        made += maker.next(count)
    assert made == sorted(set(made))
    assert all(number >> 16 & 63 == worker for number in made)
    assert all(time_floor(EPOCH_MS + 6) <= number < 2**63 for number in made)


def test_more_ids_than_a_millisecond_holds_borrow_from_the_next():
    maker = IdMaker(1, last_ms=0, now_ms=lambda: EPOCH_MS + 10)
    made = maker.next(2**16 + 5)
    assert len(set(made)) == 2**16 + 5
    assert maker.last_ms == EPOCH_MS + 11
    assert maker.next()[0] > made[-1]


def test_two_workers_never_make_the_same_id():
    makers = [IdMaker(worker, last_ms=0, now_ms=lambda: EPOCH_MS + 1) for worker in range(64)]
    made = [number for maker in makers for number in maker.next(100)]
    assert len(set(made)) == len(made)


def test_a_successor_of_a_worker_goes_on_above_it():
    first = IdMaker(7, last_ms=0, now_ms=lambda: EPOCH_MS + 1000)
    before = first.next(10)
    second = IdMaker(7, last_ms=first.last_ms, now_ms=lambda: EPOCH_MS + 3)
    assert min(second.next(10)) > max(before)


def test_no_id_is_made_beyond_the_lease():
    now = EPOCH_MS + 100
    maker = IdMaker(0, last_ms=0, now_ms=lambda: now)
    maker.limit_ms = EPOCH_MS + 100
    assert len(maker.next(3)) == 3
    now += 1
    with pytest.raises(Broken, match="id-lease"):
        maker.next()
    with pytest.raises(Broken, match="id-worker"):
        IdMaker(64, last_ms=0, now_ms=lambda: now)


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


# ------------------------------------------------------------------------------------ time


@given(moment=MOMENTS, offset=st.integers(-14 * 60, 14 * 60))
def test_times_come_back_from_their_text(moment: datetime, offset: int):
    local = moment.astimezone(timezone(timedelta(minutes=offset)))
    assert parse_rfc3339(rfc3339(local)) == moment.replace(
        microsecond=moment.microsecond // 1000 * 1000
    )
    assert parse_rfc3339(local.isoformat()) == moment
    assert milliseconds(local) == milliseconds(moment)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-01-01",
        "2026-01-01T00:00:00",
        "2026-13-01T00:00:00Z",
        "yesterday",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
    ],
)
def test_what_is_no_moment_is_a_value_error(text: str):
    with pytest.raises(ValueError, match=r"."):
        parse_rfc3339(text)


# Havana, Santiago, Beirut and Cairo change their clocks at midnight.
ZONES = ["UTC", "Europe/Berlin", "Asia/Shanghai", "America/New_York", "America/Havana",
         "America/Santiago", "Asia/Beirut", "Africa/Cairo", "Asia/Kolkata", "Pacific/Kiritimati",
         "Australia/Lord_Howe"]  # fmt: skip


@given(day=st.dates(date(2000, 1, 1), date(2037, 1, 1)), zone=st.sampled_from(ZONES))
def test_a_day_begins_at_its_first_moment(day: date, zone: str):
    start = start_of_day(day, zone)
    assert business_day(start, zone) == day
    assert business_day(start - timedelta(microseconds=1), zone) == day - timedelta(days=1)


@pytest.mark.parametrize("zone", ZONES)
def test_days_at_every_change_of_the_clock(zone: str):
    known, day = ZoneInfo(zone), date(2015, 1, 1)
    changes = 0
    while day < date(2026, 1, 1):
        start, after = start_of_day(day, zone), start_of_day(day + timedelta(days=1), zone)
        changes += after - start != timedelta(days=1)
        assert business_day(start, zone) == business_day(after - timedelta(microseconds=1), zone)
        assert start.astimezone(known).date() == day
        day += timedelta(days=1)
    assert changes > 0 or zone in {"UTC", "Asia/Shanghai", "Asia/Kolkata", "Pacific/Kiritimati"}


def test_a_clock_does_not_run_backwards():
    with pytest.raises(ValueError, match="backwards"):
        ManualClock(datetime(2026, 1, 1, tzinfo=UTC)).advance(timedelta(seconds=-1))
