"""When the next file of an account leaves: payout windows as data.

    always    as soon as there is something to send
    manual    when an operator says so
    HH:MM     at that time of each day, in the account's time zone; several with commas between
              them; with the name of a calendar (`target`, `weekdays`) behind them, on its days only

Only rails that send many payments in one order use windows. Each cell keeps its own row of when an
account's window closes next; an operator may close it now.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from paymaster.db import audit
from paymaster.db.tx import CellTx
from paymaster.kernel.errors import Problem
from paymaster.kernel.ids import text_id
from paymaster.rails.calendar import CALENDARS

ALWAYS, MANUAL = "always", "manual"
NEVER = datetime(9999, 1, 1, tzinfo=UTC)
"""When a window that only a person closes is due."""

_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIMES = re.compile(rf"({_TIME}(?:,{_TIME}){{0,11}})(?: ([a-z-]+))?\Z", re.ASCII)


def window_fault(window: str, time_zone: str) -> Problem | None:
    """What is wrong with a window or its time zone."""
    try:
        ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return Problem("/time_zone", "Write an IANA name such as Europe/Berlin.")
    if window in {ALWAYS, MANUAL}:
        return None
    found = _TIMES.match(window)
    if found is None:
        said = "A window is always, manual, or times of day such as 14:30 or 09:00,14:30 target."
        return Problem("/payout_window", said)
    times = found[1].split(",")
    if times != sorted(set(times)):
        return Problem("/payout_window", "Write each time once, the earlier one first.")
    if found[2] is not None and found[2] not in CALENDARS:
        known = ", ".join(sorted(CALENDARS))
        return Problem("/payout_window", f"Calendars are {known}.")
    return None


def next_close(window: str, time_zone: str, after: datetime) -> datetime:
    """When a window closes next, strictly after a moment, in UTC.

    A time that the clocks skip in spring closes as much later as they are put forward; one that
    they repeat in autumn closes the first time only.
    """
    if window == ALWAYS:
        return after
    if window == MANUAL:
        return NEVER
    zone = ZoneInfo(time_zone)
    written, _, calendar = window.partition(" ")
    times, is_open = written.split(","), CALENDARS[calendar or "every-day"]
    day = after.astimezone(zone).date()
    while True:
        for at in map(time.fromisoformat, times) if is_open(day) else ():
            moment = datetime.combine(day, at, zone).astimezone(UTC)
            if moment > after:
                return moment
        day += timedelta(days=1)


async def ensure(tx: CellTx, rail_account_id: int, window: str, time_zone: str) -> datetime:
    """When the account's window closes next in this cell; the row is made when it is missing.

    A window that was changed to close earlier does so; one that was changed to close later, or by
    hand, closes once more at the time that was set before.
    """
    await tx.execute(
        """
        INSERT INTO payout_window (rail_account_id, due_at, lease_token, version)
        VALUES (%s, %s, 0, 1)
        ON CONFLICT (rail_account_id) DO UPDATE SET due_at = excluded.due_at,
            version = payout_window.version + 1
        WHERE payout_window.due_at > excluded.due_at
        """,
        (rail_account_id, next_close(window, time_zone, tx.now)),
    )
    due_at: datetime = await tx.value(
        "SELECT due_at FROM payout_window WHERE rail_account_id = %s", (rail_account_id,)
    )
    return due_at


async def take_due(tx: CellTx, rail_account_id: int) -> bool:
    """Whether the window has closed; if so, its row is locked until the transaction ends."""
    found = await tx.value(
        "SELECT 1 FROM payout_window WHERE rail_account_id = %s AND due_at <= %s"
        " FOR UPDATE SKIP LOCKED",
        (rail_account_id, tx.now),
    )
    return found is not None


async def move_on(tx: CellTx, rail_account_id: int, window: str, time_zone: str) -> None:
    """The window has been emptied: it opens again until the next time."""
    await tx.execute(
        "UPDATE payout_window SET due_at = %s, version = version + 1 WHERE rail_account_id = %s",
        (next_close(window, time_zone, tx.now), rail_account_id),
    )


async def close_now(tx: CellTx, rail_account_id: int, treasury_cell: int, reason: str) -> None:
    """Close the account's window in this cell now: what waits for it leaves at once. Audited."""
    await tx.execute(
        """
        INSERT INTO payout_window (rail_account_id, due_at, lease_token, version)
        VALUES (%s, %s, 0, 1)
        ON CONFLICT (rail_account_id) DO UPDATE SET due_at = excluded.due_at,
            version = payout_window.version + 1
        WHERE payout_window.due_at > excluded.due_at
        """,
        (rail_account_id, tx.now),
    )
    subject = text_id("ra", treasury_cell, rail_account_id)
    await audit.record(tx, [audit.Act("payout_window.close", subject, reason)])
