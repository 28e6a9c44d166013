"""What a step of a charge and a step of a refund have in common: the call, and the next try."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import Any, TypeVar

from paymaster.db.tx import CellTx
from paymaster.kernel.errors import NeverSent, RailError
from paymaster.observe import get_logger
from paymaster.payin.pace import Pace
from paymaster.payin.refund_store import RefundRow
from paymaster.payin.store import ChargeRow

T = TypeVar("T")
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Lost:
    """A call that brought no proof: whether nothing left, and what is known of it."""

    never_sent: bool
    code: str | None
    detail: str


async def called(
    call: Callable[[], Coroutine[Any, Any, T]], row: ChargeRow | RefundRow, pace: Pace
) -> T | Lost:
    """What a call brought; never raises but for being cancelled. Not inside a transaction."""
    try:
        async with asyncio.timeout(pace.call.total_seconds()):
            return await call()
    except NeverSent as error:
        return _lost(row.key, error, never_sent=True)
    except (RailError, TimeoutError) as error:
        return _lost(row.key, error)
    except Exception as error:  # noqa: BLE001 - what a call that fails has done is not known
        _log.exception("payin_call_broke", key=row.key, error=type(error).__name__)
        return _lost(row.key, error)


def _lost(key: str, error: Exception, *, never_sent: bool = False) -> Lost:
    extra: object = getattr(error, "extra", None)
    code: object = extra.get("code") if isinstance(extra, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    slug: object = getattr(error, "slug", None)
    name = slug if isinstance(slug, str) else type(error).__name__
    _log.warning("payin_call_failed", key=key, slug=name)
    return Lost(never_sent, code if isinstance(code, str) else name, f"{name}: no proof.")


@dataclass(frozen=True, slots=True)
class NextTry:
    """The next try of what was not seen to arrive. `maybe_there`: it may have, so ask first."""

    maybe_there: bool
    tries: int
    due_at: datetime


def next_try(
    tx: CellTx, row: ChargeRow | RefundRow, pace: Pace, random: Random, *, never_sent: bool
) -> NextTry:
    """It may be there only if this try, or one before it, may have arrived."""
    maybe_there, tries = row.maybe_there or not never_sent, row.tries + 1
    pause = pace.ask_again if maybe_there else pace.send_again
    return NextTry(maybe_there, tries, tx.now + pause.delay(tries, random))
