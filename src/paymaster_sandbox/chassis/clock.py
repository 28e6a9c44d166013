"""Virtual time: the machine's clock plus an offset that tests may move.

The business date is the virtual UTC date, but never a day whose books are closed: once a day has
been closed, whatever still happens on it belongs to the next.
"""

import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

from paymaster_sandbox.chassis.store import Tx

SCHEMA = """
CREATE TABLE IF NOT EXISTS clock (one INTEGER PRIMARY KEY CHECK (one = 1), offset INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS closed_day (date TEXT PRIMARY KEY, closed INTEGER NOT NULL);
"""

SECOND = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def machine_microseconds() -> int:
    """The machine's time in microseconds since 1970."""
    return time.time_ns() // 1000


def moment(microseconds: int) -> datetime:
    """Microseconds since 1970 as an aware UTC datetime."""
    return _EPOCH + timedelta(microseconds=microseconds)


def microseconds(at: datetime) -> int:
    """An aware datetime as microseconds since 1970."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def stamp(at: int) -> str:
    """Microseconds since 1970 as ISO 8601 with milliseconds and Z."""
    return moment(at).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Clock:
    """The virtual clock. `machine` may be replaced by a simulation's own source of time."""

    def __init__(self, machine: Callable[[], int]) -> None:
        self._machine = machine
        self._offset = 0

    def now(self) -> int:
        """Virtual time in microseconds since 1970."""
        return self._machine() + self._offset

    def transport_seconds(self) -> int:
        """The unadjusted time in seconds: what a receiver's freshness check compares with."""
        return self._machine() // SECOND

    def load(self, tx: Tx, start: date | None) -> None:
        """Take the stored offset; on the first start, begin on `start` at the real time of day."""
        row = tx.one("SELECT offset FROM clock")
        if row is None:
            days = (start - moment(self._machine()).date()).days if start else 0
            row = (days * 86_400 * SECOND,)
            tx.run("INSERT INTO clock (one, offset) VALUES (1, ?)", *row)
        self._offset = row[0]

    def jump(self, tx: Tx, to: int) -> int:
        """Set virtual time; the distance moved, negative if backwards."""
        moved = to - self.now()
        self._offset += moved
        tx.run("UPDATE clock SET offset = ?", self._offset)
        return moved


def last_closed(tx: Tx) -> date | None:
    """The newest day whose books are closed."""
    newest = tx.value("SELECT max(date) FROM closed_day")
    return None if newest is None else date.fromisoformat(newest)


def business_date(tx: Tx) -> date:
    """The day on which something that happens now is booked."""
    today = moment(tx.now).date()
    closed = last_closed(tx)
    return today if closed is None else max(today, closed + timedelta(days=1))


def booking_time(tx: Tx) -> int:
    """Now, or the first moment of the business date if the virtual date is already closed."""
    booked_on = business_date(tx)
    if moment(tx.now).date() == booked_on:
        return tx.now
    return microseconds(datetime(booked_on.year, booked_on.month, booked_on.day, tzinfo=UTC))
