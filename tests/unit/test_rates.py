"""Rates: read from the central bank's file, picked by source and age, crossed exactly."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest

from paymaster.kernel.errors import Refusal
from paymaster.withdraw import rates_ecb
from paymaster.withdraw.rates import Found, Rate, fraction, pick

NOW = datetime(2026, 11, 20, 15, 0, tzinfo=UTC)
DAY = 86_400
AGES = {
    "ecb": timedelta(hours=96),
    "provider": timedelta(minutes=5),
    "operator": timedelta(hours=24),
}
XML = b"""<?xml version="1.0" encoding="UTF-8"?>
<gesmes:Envelope xmlns:gesmes="http://www.gesmes.org/xml/2002-08-01"
    xmlns="http://www.ecb.int/vocabulary/2002-08-01/eurofxref">
  <gesmes:subject>Reference rates</gesmes:subject>
  <Cube>
    <Cube time='2026-11-20'>
      <Cube currency='USD' rate='1.0823'/>
      <Cube currency='JPY' rate='162.37'/>
      <Cube currency='XYZ' rate='5'/>
    </Cube>
    <Cube time='2026-11-19'><Cube currency='USD' rate='1.0700'/></Cube>
  </Cube>
</gesmes:Envelope>"""
CSV = b"Date, USD, JPY, BGN, \n20 November 2026, 1.0823, 162.37, N/A, \n"
HISTORY = b"Date,USD,JPY,\n2026-11-19,1.0700,161,\n2026-11-20,1.0823,162.37,\n"


@pytest.mark.parametrize("body", [XML, CSV, HISTORY], ids=["xml", "daily csv", "history csv"])
def test_the_newest_day_of_the_file_is_read(body: bytes):
    found = rates_ecb.read(body, DAY)
    assert [(r.source, r.base, r.counter, r.rate) for r in found] == [
        ("ecb", "EUR", "USD", "1.0823"),
        ("ecb", "EUR", "JPY", "162.37"),
    ]
    # 16:00 in Frankfurt, in winter.
    assert {r.observed_at for r in found} == {NOW}
    assert found[0].valid_until == NOW + timedelta(days=1)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<a/>",
        b"<!DOCTYPE a [<!ENTITY b 'c'>]><a><Cube time='2026-11-20'/></a>",
        b"<Cube currency='USD' rate='1'/>",
        b"<Cube time='yesterday'><Cube currency='USD' rate='1'/></Cube>",
        b"<Cube time='2026-11-20'><Cube currency='USD' rate='1,0'/></Cube>",
        b"<Cube time='2026-11-20'><Cube currency='USD' rate='0'/></Cube>",
        b"<Cube time='2026-11-20'><Cube currency='USD' rate='1e3'/></Cube>",
        b"<C>" + b"<Cube time='2026-11-20' currency='USD' rate='1'/>" * 2 + b"</C>",
        b"Date,USD\n2026-11-20,1,2\n",
        b"Day,USD\n2026-11-20,1\n",
        b"Date,USD\n2026-11-20,N/A\n",
        b"\xff\xfe",
        b"x" * (rates_ecb.LARGEST_BYTES + 1),
    ],
)
def test_a_file_that_cannot_be_relied_on_is_refused(body: bytes):
    with pytest.raises(Refusal) as caught:
        rates_ecb.read(body, DAY)
    assert caught.value.slug in ("rates-malformed", "rate-invalid")


@pytest.mark.parametrize("text", ["", "0", "0.0", "-1", "1.", ".5", "1e3", "١", "NaN", "1" * 13])
def test_a_rate_is_a_decimal_text_above_zero(text: str):
    with pytest.raises(Refusal):
        fraction(text)


def test_a_rate_is_exact():
    assert fraction("0.1") == Fraction(1, 10)


def rate(source: str, base: str, counter: str, text: str, age: timedelta) -> Rate:
    return Rate(source, base, counter, text, NOW - age, DAY * 7)


HOUR = timedelta(hours=1)
ECB = [rate("ecb", "EUR", "USD", "1.25", HOUR), rate("ecb", "EUR", "JPY", "160", 2 * HOUR)]


def test_rates_of_the_central_bank_are_crossed_through_the_euro():
    def of(given: str, wanted: str) -> object:
        return pick(ECB, given, wanted, ["ecb"], AGES, NOW)

    assert of("EUR", "USD") == Found(Fraction(5, 4), "ecb", NOW - HOUR)
    assert of("USD", "EUR") == Found(Fraction(4, 5), "ecb", NOW - HOUR)
    assert of("USD", "JPY") == Found(Fraction(128), "ecb", NOW - 2 * HOUR)
    assert of("JPY", "USD") == Found(Fraction(1, 128), "ecb", NOW - 2 * HOUR)
    assert of("USD", "CHF") == "rate-missing"


def test_a_price_for_one_direction_is_none_for_the_other():
    known = [rate("provider", "EUR", "USD", "1.2", timedelta(0))]
    assert pick(known, "USD", "EUR", ["provider"], AGES, NOW) == "rate-missing"


def test_the_first_source_with_a_fresh_rate_is_taken():
    minute = timedelta(minutes=1)
    provider = rate("provider", "EUR", "USD", "1.2", 5 * minute)
    order = ["provider", "ecb"]
    assert pick([*ECB, provider], "EUR", "USD", order, AGES, NOW) == Found(
        Fraction(6, 5), "provider", NOW - 5 * minute
    )
    later = NOW + timedelta(microseconds=1)
    assert pick([*ECB, provider], "EUR", "USD", order, AGES, later) == Found(
        Fraction(5, 4), "ecb", NOW - HOUR
    )
    assert pick([provider], "EUR", "USD", order, AGES, later) == "rate-stale"


def test_a_rate_is_stale_at_the_end_of_what_it_was_given_for():
    short = Rate("operator", "EUR", "USD", "1.2", NOW - HOUR, 3600)
    before = NOW - timedelta(microseconds=1)
    assert isinstance(pick([short], "EUR", "USD", ["operator"], AGES, before), Found)
    assert pick([short], "EUR", "USD", ["operator"], AGES, NOW) == "rate-stale"
    old = rate("ecb", "EUR", "JPY", "160", timedelta(hours=97))
    assert pick([ECB[0], old], "USD", "JPY", ["ecb"], AGES, NOW) == "rate-stale"
