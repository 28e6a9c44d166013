"""When the next file of an account leaves: payout windows as data.

    always    as soon as there is something to send
    manual    when an operator says so
    HH:MM     once a day at that time in the account's time zone

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

ALWAYS, MANUAL = "always", "manual"
NEVER = datetime(9999, 1, 1, tzinfo=UTC)
"""When a window that only a person closes is due."""

_DAILY = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]\Z", re.ASCII)


def window_fault(window: str, time_zone: str) -> Problem | None:
    """What is wrong with a window or its time zone."""
    try:
        ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return Problem("/time_zone", "Write an IANA name such as Europe/Berlin.")
    if window in {ALWAYS, MANUAL} or _DAILY.match(window):
        return None
    return Problem("/payout_window", "A window is always, manual, or a time of day such as 14:30.")


def next_close(window: str, time_zone: str, after: datetime) -> datetime:
    """When a window closes next, strictly after a moment, in UTC.

    A time that the clocks skip in spring closes as much later as they are put forward; one that
    they repeat in autumn closes the first time only.
    """
    if window == ALWAYS:
        return after
    if window == MANUAL:
        return NEVER
    zone, at = ZoneInfo(time_zone), time.fromisoformat(window)
    day = after.astimezone(zone).date()
    while True:
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
