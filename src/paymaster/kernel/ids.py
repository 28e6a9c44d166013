"""Ids: 63 bits, time-ordered, made by the application; text only at the edge.

    41 bits  milliseconds since 2025-01-01 UTC
     6 bits  worker (a leased, fenced row of the cell)
    16 bits  sequence within the millisecond

An id is unique within its cell. The text form carries the cell, so that a reference that comes
back from the outside finds its cell without a look-up:

    wd_0A1ZC4R7M2K9T0V        prefix, 2 characters of cell, 13 characters of id (Crockford base32)

The 15 characters behind the prefix are the payout reference: they fit into every rail's field
(NACHA 15, WeChat 32, EndToEndId 35).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from paymaster.kernel.errors import Broken, NotFound
from paymaster.kernel.sources import SOURCES

EPOCH_MS = 1_735_689_600_000
"""2025-01-01T00:00:00Z in milliseconds since 1970."""

MAX_CELL = 32 * 32 - 1
_WORKER_BITS, _SEQUENCE_BITS = 6, 16
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_DIGITS = dict.fromkeys(range(128), "z") | {
    ord(letter): "0123456789abcdefghijklmnopqrstuv"[value] for value, letter in enumerate(_ALPHABET)
}
"""Our letters as Python writes numbers of base 32; all others as what is no such digit."""
_MAX_ID = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Ref:
    """A cell and an id in it."""

    cell: int
    id: int


def reference(cell: int, number: int) -> str:
    """The 15 characters [0-9A-Z] by which the outside knows this id."""
    return _head(cell, number >> 20) + _PAIRS[number >> 10 & 1023] + _PAIRS[number & 1023]


@lru_cache(maxsize=8192)
def _head(cell: int, high: int) -> str:
    """All but the last four letters: ids that were made together have them in common."""
    if not 0 <= cell <= MAX_CELL or not 0 <= high <= _MAX_ID >> 20:
        raise Broken("id-range", f"Cell {cell}, id {high << 20} cannot be written.")
    return (
        _PAIRS[cell]
        + _ALPHABET[high >> 40]
        + _PAIRS[high >> 30 & 1023]
        + _PAIRS[high >> 20 & 1023]
        + _PAIRS[high >> 10 & 1023]
        + _PAIRS[high & 1023]
    )


def parse_reference(text: str) -> Ref | None:
    """Read a reference; None when it is not one of ours by its form."""
    if len(text) != 15 or not text.isascii():
        return None
    digits = text.translate(_DIGITS)
    try:
        cell, number = int(digits[:2], 32), int(digits[2:], 32)
    except ValueError:
        return None
    return Ref(cell, number) if number <= _MAX_ID else None


def text_id(prefix: str, cell: int, number: int) -> str:
    """The id as it stands in URLs and JSON, for example `wd_0A1ZC4R7M2K9T0V`."""
    return f"{prefix}_{reference(cell, number)}"


def parse_text_id(prefix: str, text: str) -> Ref:
    """Read a text id. Raises NotFound `not-found`: a malformed id names nothing."""
    head, _, tail = text.partition("_")
    found = parse_reference(tail) if head == prefix else None
    if found is None:
        raise NotFound("not-found", f"There is no {prefix}_ id of this form.")
    return found


def time_floor(milliseconds: int) -> int:
    """The smallest id of a moment (milliseconds since 1970); for ranges and partitions."""
    return max(milliseconds - EPOCH_MS, 0) << (_WORKER_BITS + _SEQUENCE_BITS)


def milliseconds_of(number: int) -> int:
    """The moment in an id, in milliseconds since 1970; the other way round of `time_floor`."""
    return (number >> (_WORKER_BITS + _SEQUENCE_BITS)) + EPOCH_MS


class IdMaker:
    """Makes the ids of one worker in one cell; never the same twice, always growing.

    `now_ms` gives milliseconds since 1970; `last_ms` is the highest already issued under this
    worker number. A clock that runs behind it is not used: ids go on from `last_ms`. `limit_ms`
    is how far the worker's row in the database allows to issue; the holder of the lease raises it.
    """

    def __init__(self, worker: int, last_ms: int, now_ms: Callable[[], int]) -> None:
        if not 0 <= worker < 2**_WORKER_BITS:
            raise Broken("id-worker", f"Worker {worker} is out of range.")
        self._worker = worker
        self._now_ms = now_ms
        self._ms = max(last_ms + 1, EPOCH_MS)
        self._sequence = -1
        self.limit_ms: int | None = None

    def next(self, count: int = 1) -> list[int]:
        """`count` new ids in growing order."""
        now = self._now_ms()
        if now > self._ms:
            self._ms, self._sequence = now, -1
        ids: list[int] = []
        while len(ids) < count:
            if self._sequence == 2**_SEQUENCE_BITS - 1:
                self._ms, self._sequence = self._ms + 1, -1
            taken = min(count - len(ids), 2**_SEQUENCE_BITS - 1 - self._sequence)
            first = (
                (
                    (self._ms - EPOCH_MS) << (_WORKER_BITS + _SEQUENCE_BITS)
                    | self._worker << _SEQUENCE_BITS
                )
                + self._sequence
                + 1
            )
            ids.extend(range(first, first + taken))
            self._sequence += taken
        if self.limit_ms is not None and self._ms > self.limit_ms:
            raise Broken("id-lease", "The worker number's lease does not reach this far.")
        return ids

    @property
    def last_ms(self) -> int:
        """The highest millisecond issued so far."""
        return self._ms


def new_trace_id() -> str:
    """32 hex digits, the trace-id of W3C Trace Context; random, never a key of a table."""
    return SOURCES.get().trace_id()
