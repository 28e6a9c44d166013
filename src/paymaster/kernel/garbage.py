"""Python's search for cycles, kept out of batches.

A batch makes some hundred thousand objects, hardly ever a cycle among them, and the collector looks
at them several times while they are needed: a tenth of the time of the process. So it waits until
the batch is over. Where batches overlap without end, it comes once for every so many of them: for
what is new mostly, now and then for everything, as what was once met alive is new no more.
"""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

AT_LEAST_EVERY: Final = 16
"""Batches after which the collector comes, although others are under way."""

FOR_ALL_EVERY: Final = 16
"""Comings of which one is for everything."""


class Calm:
    """Counts the batches under way in this process."""

    def __init__(self) -> None:
        self._under_way = 0
        self._ended = 0
        self._came = 0
        self._was_on = False

    @contextmanager
    def kept(self) -> Generator[None]:
        """No collection by itself inside."""
        if self._under_way == 0:
            self._was_on, self._ended = gc.isenabled(), 0
            gc.disable()
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            self._ended += 1
            if self._under_way == 0:
                if self._was_on:
                    gc.enable()
            elif self._ended >= AT_LEAST_EVERY:
                self._ended = 0
                self._came += 1
                gc.collect(1 if self._came % FOR_ALL_EVERY else 2)


CALM: Final = Calm()
"""This process has one collector."""
