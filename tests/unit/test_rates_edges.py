"""Rates at their limits: the last one that is taken down, and the first one that is not."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from paymaster.kernel.errors import Refusal, Unprocessable
from paymaster.withdraw import rates_ecb, rates_record, rates_store
from paymaster.withdraw.rates import Rate, pick

NOW = datetime(2026, 11, 20, 15, 0, tzinfo=UTC)
MONTH = 31 * 24 * 3600


def rate(**changed: Any) -> Rate:
    given: dict[str, Any] = {
        "source": "provider", "base": "EUR", "counter": "USD", "rate": "1.1", "observed_at": NOW,
        "valid_seconds": 3600,
    }  # fmt: skip
    return Rate(**{**given, **changed})


@pytest.fixture(autouse=True)
def all_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """What passes is known already: nothing is written."""

    async def known(_tx: object, _environment_id: int, rates: Sequence[Rate]) -> set[int]:
        return set(range(len(rates)))

    monkeypatch.setattr(rates_store, "known", known)


async def faults(*rates: Rate) -> list[str]:
    tx: Any = SimpleNamespace(now=NOW)
    try:
        done = await rates_record.record(tx, 1, rates, 20, NOW)
        assert (done.new, done.known) == (0, len(rates))
    except Unprocessable as refused:
        return [problem.pointer for problem in refused.problems]
    return []


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ({"valid_seconds": 1}, None),
        ({"valid_seconds": 0}, "valid_seconds"),
        ({"valid_seconds": MONTH}, None),
        ({"valid_seconds": MONTH + 1}, "valid_seconds"),
        ({"observed_at": NOW + timedelta(minutes=5)}, None),
        ({"observed_at": NOW + timedelta(minutes=5, microseconds=1)}, "observed_at"),
        ({"counter": "EUR"}, "counter"),
        ({"source": "gossip"}, "source"),
        ({"rate": "0"}, "rate"),
        ({"rate": "1." + 12 * "1"}, None),
        ({"rate": "1." + 13 * "1"}, "rate"),
        ({"rate": 12 * "9"}, None),
    ],
)
async def test_what_is_taken_down_of_a_rate(changed: dict[str, Any], where: str | None) -> None:
    found = await faults(rate(), rate(**{"counter": "GBP", **changed}))
    assert found == ([] if where is None else [f"/rates/1/{where}"])


async def test_how_many_rates_are_taken_down_at_once() -> None:
    many = [rate(observed_at=NOW - timedelta(seconds=number)) for number in range(201)]
    assert await faults(*many[:200]) == []
    assert await faults(*many) == ["/rates"]
    assert await faults() == ["/rates"]


async def test_a_pair_is_taken_down_once_for_a_moment() -> None:
    assert await faults(rate(), rate()) == ["/rates/1"]
    assert await faults(rate(), rate(source="operator"), rate(counter="GBP")) == []


def test_a_file_of_four_mebibytes_is_read_and_no_larger_one() -> None:
    rates = b"<C><Cube time='2026-11-20'><Cube currency='USD' rate='1.1'/></Cube></C>"
    whole = rates + b" " * (4 * 1024 * 1024 - len(rates))
    assert [found.rate for found in rates_ecb.read(whole, 60)] == ["1.1"]
    with pytest.raises(Refusal, match="larger than 4194304 bytes"):
        rates_ecb.read(whole + b" ", 60)


def test_each_day_of_the_daily_file_is_understood() -> None:
    for month, name in enumerate(("January", "February", "June", "December")):
        number = (1, 2, 6, 12)[month]
        (found,) = rates_ecb.read(f"Date, USD\n3 {name} 2026, 1.1\n".encode(), 60)
        assert found.reference == f"ecb 2026-{number:02}-03"


def test_one_that_is_both_too_old_and_valid_is_stale() -> None:
    known = [rate(valid_seconds=MONTH, observed_at=NOW - timedelta(hours=1))]
    ages = {"provider": timedelta(hours=1)}
    assert not isinstance(pick(known, "EUR", "USD", ["provider"], ages, NOW), str)
    later = NOW + timedelta(microseconds=1)
    assert pick(known, "EUR", "USD", ["provider"], ages, later) == "rate-stale"


def test_lines_without_anything_in_them_are_passed_over() -> None:
    body = b"Date,USD\n\n,\n2026-11-19,1.1\n , \n2026-11-20,1.2\n\n"
    assert [found.rate for found in rates_ecb.read(body, 60)] == ["1.2"]


def test_of_a_day_only_what_has_a_rate_is_read() -> None:
    body = b"Date,USD,JPY,,CHF\n2026-11-20,N/A,160,,\n"
    assert [found.counter for found in rates_ecb.read(body, 60)] == ["JPY"]


def test_a_currency_without_a_rate_is_passed_over() -> None:
    body = b"<C><Cube currency='USD'/><Cube time='2026-11-20'><Cube currency='JPY'/>"
    body += b"<Cube currency='USD' rate='1.1'/></Cube></C>"
    assert [(found.counter, found.rate) for found in rates_ecb.read(body, 60)] == [("USD", "1.1")]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'Date,USD\n2026-11-20,"1"x\n', "neither XML nor CSV"),
        (b"Date,USD\n" + b"9" * 60 + b",1\n", f"{'9' * 40!r} is not a day"),
        (b"Date,USD\n3 Brumaire 2026,1\n", "'3 Brumaire 2026' is not a day"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(body: bytes, said: str) -> None:
    with pytest.raises(Refusal, match=said) as caught:
        rates_ecb.read(body, 60)
    assert caught.value.slug == "rates-malformed"
