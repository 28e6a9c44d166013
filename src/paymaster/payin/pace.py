"""How much at once, how long, and how soon again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from paymaster.kernel.retry import Backoff

LAG: Final = timedelta(minutes=10)
"""So long after a charge could be paid last, that a provider does not know it is proof."""

GIVES_UP: Final = timedelta(days=7)
"""So long after a charge expired its provider is asked; whoever still pays is credited anyway."""


_SEND_AGAIN: Final = Backoff(timedelta(seconds=1), timedelta(minutes=5))
_ASK_AGAIN: Final = Backoff(timedelta(seconds=2), timedelta(minutes=5))
_WATCH: Final = Backoff(timedelta(seconds=10), timedelta(minutes=10))
_SETTLE: Final = Backoff(timedelta(seconds=30), timedelta(hours=6))


@dataclass(frozen=True, slots=True)
class Pace:
    """`lease` must be longer than `call`, or a holder loses to the clock what it is still doing.

    `watch` is for charges that may be paid at any moment: a payer waits for the answer, and a
    notice may have been lost. `settle` is for refunds that the provider has taken in.
    """

    items: int = 100
    lease: timedelta = timedelta(seconds=60)
    call: timedelta = timedelta(seconds=25)
    send_again: Backoff = _SEND_AGAIN
    ask_again: Backoff = _ASK_AGAIN
    watch: Backoff = _WATCH
    settle: Backoff = _SETTLE
    paused: timedelta = timedelta(seconds=30)
    unreadable: timedelta = timedelta(hours=1)
