"""Ids and time under random input."""

from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paymaster.kernel.clock import (
    ManualClock,
    business_day,
    milliseconds,
    parse_rfc3339,
    rfc3339,
    start_of_day,
)
from paymaster.kernel.errors import Broken, NotFound
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

MOMENTS = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001

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
