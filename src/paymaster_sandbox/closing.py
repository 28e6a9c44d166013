"""The end of a day, at both providers at once."""

from datetime import UTC, date, datetime, timedelta

from paymaster_sandbox.bank.reports import Reports
from paymaster_sandbox.chassis.clock import (
    Clock,
    business_date,
    last_closed,
    microseconds,
)
from paymaster_sandbox.chassis.store import Tx
from paymaster_sandbox.wallet.settlement import Settlement


class NotYetError(Exception):
    """The day is still to come."""


def close_day(
    tx: Tx, clock: Clock, reports: Reports, settlement: Settlement, day: date | None, *,
    advance: bool,
) -> dict[str, object]:  # fmt: skip
    """Close a day, by default the present business date, and days with entries before it.

    A day that is closed already is issued again with the same bytes. With `advance` the virtual
    clock goes to the start of the next day, unless it is there already.

    Raises:
        NotYetError: the day lies after the present business date.
    """
    today = business_date(tx)
    day = day or today
    if day > today:
        raise NotYetError(f"{day} is after the business date {today}")
    closed = last_closed(tx)
    if closed is not None and day <= closed:
        reports.issue_again(tx, day)
    else:
        for due in _open_days(tx, day):
            reports.close(tx, due)
            settlement.close(tx, due)
            tx.run("INSERT INTO closed_day (date, closed) VALUES (?, ?)", due.isoformat(), tx.now)
    following = day + timedelta(days=1)
    start = microseconds(datetime(following.year, following.month, following.day, tzinfo=UTC))
    if advance and clock.now() < start:
        clock.jump(tx, start)
    return {
        "date": day.isoformat(),
        "statements": reports.statements(tx, day),
        "settlements": settlement.listed(tx, day),
    }


def _open_days(tx: Tx, day: date) -> list[date]:
    """The day, and every earlier day that has entries and is not closed."""
    rows = tx.all(
        "SELECT booked_on FROM bank_entry WHERE booked_on < ?1 UNION"
        " SELECT date FROM wallet_line WHERE date < ?1",
        day.isoformat(),
    )
    closed = last_closed(tx)
    days = {date.fromisoformat(text) for (text,) in rows}
    return sorted({found for found in days if closed is None or found > closed} | {day})
