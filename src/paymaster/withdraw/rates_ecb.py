"""The European Central Bank's file of daily reference rates, as XML or as CSV.

XML: `eurofxref-daily.xml` and its 90-day and historical sisters: nested `Cube` elements, one with a
`time` for each day, inside it one with `currency` and `rate` for each currency. CSV:
`eurofxref.csv` and `eurofxref-hist.csv`: a line of currencies after `Date`, then a line for each
day; `N/A` where there is no rate. One euro is so many units of the currency. The rates of a day are
those of about 14:10 in Frankfurt and are published at about 16:00, which is the time they get here.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from zoneinfo import ZoneInfo

from paymaster.kernel.errors import Refusal
from paymaster.kernel.money import EXPONENTS
from paymaster.rails.iso20022 import xmlread
from paymaster.withdraw.rates import PIVOT, Rate, fraction

LARGEST_BYTES = 4 << 20
_PUBLISHED, _FRANKFURT = time(16), ZoneInfo("Europe/Berlin")
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september",
    "october", "november", "december",
)  # fmt: skip

Written = tuple[date, str, str]


def read(body: bytes, valid_seconds: int) -> list[Rate]:
    """The rates of the newest day in a file; currencies that are none of ours are left out.

    Raises Refusal `rates-malformed`, Unprocessable `rate-invalid`.
    """
    if len(body) > LARGEST_BYTES:
        raise _malformed(f"The file is larger than {LARGEST_BYTES} bytes.")
    written = list(_xml(body) if body.lstrip()[:1] == b"<" else _csv(body))
    days = [day for day, _, _ in written]
    if not days:
        raise _malformed("There is no rate in the file.")
    newest = max(days)
    observed_at = datetime.combine(newest, _PUBLISHED, _FRANKFURT).astimezone(UTC)
    found: dict[str, Rate] = {}
    for day, currency, rate in written:
        if day == newest and currency in EXPONENTS and currency != PIVOT:
            fraction(rate)
            if currency in found:
                raise _malformed(f"{currency} is there twice for {newest}.")
            found[currency] = Rate(
                "ecb", PIVOT, currency, rate, observed_at, valid_seconds, f"ecb {newest}"
            )
    if not found:
        raise _malformed(f"There is no rate of a known currency for {newest}.")
    return list(found.values())


def _xml(body: bytes) -> Iterator[Written]:
    day: date | None = None
    try:
        for event, _, cube in xmlread.elements(body, frozenset({"Cube"})):
            if event != "start":
                continue
            if (at := cube.get("time")) is not None:
                day = _day(at)
            currency, rate = cube.get("currency"), cube.get("rate")
            if currency is not None and rate is not None:
                if day is None:
                    raise _malformed("A rate stands outside of a day.")
                yield day, currency, rate
    except Refusal as refused:
        raise _malformed(refused.detail) from None


def _csv(body: bytes) -> Iterator[Written]:
    try:
        lines = list(csv.reader(io.StringIO(body.decode("utf-8-sig")), strict=True))
    except (UnicodeDecodeError, csv.Error):
        raise _malformed("It is neither XML nor CSV in UTF-8.") from None
    head = [name.strip() for name in lines[0]] if lines else []
    if head[:1] != ["Date"]:
        raise _malformed("The first line of the CSV does not begin with Date.")
    for line in lines[1:]:
        cells = [cell.strip() for cell in line]
        if not any(cells):
            continue
        if len(cells) != len(head):
            raise _malformed("A line of the CSV has another number of columns than the first.")
        for currency, rate in zip(head[1:], cells[1:], strict=True):
            if currency and rate not in ("", "N/A"):
                yield _day(cells[0]), currency, rate


def _day(text: str) -> date:
    """`2026-11-20`, or in the daily CSV `20 November 2026`."""
    words = text.split()
    try:
        if len(words) == 3 and words[1].lower() in _MONTHS:
            return date(int(words[2]), _MONTHS.index(words[1].lower()) + 1, int(words[0]))
        return date.fromisoformat(text)
    except ValueError:
        raise _malformed(f"{text[:40]!r} is not a day.") from None


def _malformed(detail: str) -> Refusal:
    return Refusal("rates-malformed", detail)
