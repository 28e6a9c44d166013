"""Bills by day: which days are asked for, and what becomes of those that cannot be had today.

A day whose bill is broken must not keep back the days after it: it is asked for again at every
visit, as long as it is recent. A provider that fails for a second day is left alone until then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Sequence
from datetime import date, datetime, timedelta
from typing import Final

from paymaster.kernel.errors import RailError
from paymaster.observe import get_logger
from paymaster.rails.base import RemoteFile
from paymaster.rails.yuan import BEIJING

LOOK_BACK_DAYS: Final = 10
"""How far back days without a file are asked for; the providers keep months."""

_log = get_logger(__name__)


def recent(now: datetime, ready_hour: int) -> list[date]:
    """Days whose bill is ready, oldest first: the last one once it is that late in Beijing."""
    local = now.astimezone(BEIJING)
    last = local.date() - timedelta(days=1 if local.hour >= ready_hour else 2)
    return [last - timedelta(days=back) for back in reversed(range(LOOK_BACK_DAYS))]


async def fetch(
    account: str,
    days: Sequence[date],
    known: Container[date],
    get: Callable[[date], Awaitable[RemoteFile | None]],
) -> list[RemoteFile]:
    """The files of the days that are not known; `get` gives None where there is none yet.

    Raises the RailError of the first day that could not be had, if no other day could.
    """
    found: list[RemoteFile] = []
    failed: RailError | None = None
    for day in days:
        if day in known:
            continue
        try:
            file = await get(day)
        except RailError as error:
            if failed is not None:
                break
            failed = error
            continue
        if file is not None:
            found.append(file)
    if failed is not None and not found:
        raise failed
    if failed is not None:
        _log.warning("bill_failed", rail_account=account, slug=failed.slug, detail=failed.detail)
    return found
