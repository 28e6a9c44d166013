"""A provider is asked while somebody waits for the answer: it answers, says no, or is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from paymaster.kernel.errors import Busy, Conflict, RailDoubted, RailError, RailPutOff, RailRefused
from paymaster.observe import get_logger

T = TypeVar("T")
_log = get_logger(__name__)
_AGAIN_SECONDS = 5


async def answered(
    call: Callable[[], Awaitable[T]], timeout_seconds: float, *, no_slug: str, away_slug: str
) -> T:
    """The provider's answer. No money moves by what is asked; not inside a transaction.

    Raises Conflict `no_slug` for its no, Busy `away_slug` when there is no answer.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            return await call()
    except RailPutOff as error:
        raise _away(away_slug, error) from None
    except (RailRefused, RailDoubted) as error:
        code = error.extra.get("code", error.slug)
        raise Conflict(no_slug, f"The provider refused: {code}.") from None
    except (RailError, TimeoutError) as error:
        raise _away(away_slug, error) from None


def _away(away_slug: str, error: Exception) -> Busy:
    slug = error.slug if isinstance(error, RailError) else "call-timeout"
    _log.warning(away_slug.replace("-", "_"), slug=slug)
    return Busy(away_slug, "The provider gave no answer.", retry_after_seconds=_AGAIN_SECONDS)
