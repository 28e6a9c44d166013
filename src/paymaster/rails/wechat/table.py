"""The provider's bill files: read row by row, by the names in their header, never by place.

A byte order mark, a header without backticks, rows whose every value begins with one, then another
header and a row of sums. Free text may hold commas, so rows are divided at comma and backtick;
where it holds these two together, what is too much is the text's. Old accounts have other headers:
what is asked for is asked for by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from paymaster.rails.transport import MAX_FILE_BYTES, malformed

Row = Mapping[str, str]
_MARK: Final = "`"
_BETWEEN: Final = ",`"
_BOM: Final = "\ufeff"
_NARROW: Final = str.maketrans({"\uff08": "(", "\uff09": ")", "\uff0b": "+", "\uff0d": "-"})


def column(name: str) -> str:
    """A name in a header, whatever width its brackets have."""
    return name.strip().lstrip(_MARK).translate(_NARROW)


class Table:
    """The rows of a bill, and after the last of them its sums.

    `free` is the column in which a person may have written anything.
    Iterating raises Refusal `statement-malformed` where the file is cut off or not such a file.
    """

    def __init__(self, body: bytes, needed: Sequence[str], counted: str, free: str) -> None:
        if len(body) > MAX_FILE_BYTES:
            raise malformed(f"The bill is larger than {MAX_FILE_BYTES} bytes.")
        if not body.endswith(b"\n"):
            raise malformed("The bill is cut off: its last line has no end.")
        self._lines = _lines(body)
        self._needed = needed
        self._counted = counted
        self._free = free
        self.sums: Row = {}

    def __iter__(self) -> Iterator[Row]:
        header = [column(name) for name in next(self._lines, "").removeprefix(_BOM).split(",")]
        missing = [name for name in self._needed if name not in header]
        if missing:
            raise malformed(f"The bill has no column {', '.join(missing)}.")
        for count, line in enumerate(self._lines):
            if not line.startswith(_MARK):
                self._end(line, count)
                return
            values = self._whole(header, line[len(_MARK) :].split(_BETWEEN))
            if len(values) != len(header):
                raise malformed(f"Row {count + 1} has {len(values)} fields, not {len(header)}.")
            yield dict(zip(header, values, strict=True))
        raise malformed("The bill is cut off: it has no sums.")

    def _whole(self, header: Sequence[str], parts: Sequence[str]) -> list[str]:
        """The values of a row: parts beyond the number of columns belong to the free text."""
        more = len(parts) - len(header)
        if more > 0 and self._free in header:
            at = header.index(self._free)
            text = _BETWEEN.join(parts[at : at + more + 1])
            parts = [*parts[:at], text, *parts[at + more + 1 :]]
        return [value.strip() for value in parts]

    def _end(self, line: str, count: int) -> None:
        names = [column(name) for name in line.split(",")]
        values = next(self._lines, "")
        if not values.startswith(_MARK) or next(self._lines, None) is not None:
            raise malformed("The bill does not end with its sums.")
        found = [value.strip() for value in values[len(_MARK) :].split(_BETWEEN)]
        if len(names) != len(found) or self._counted not in names:
            raise malformed("The sums of the bill cannot be read.")
        self.sums = dict(zip(names, found, strict=True))
        if number(self.sums[self._counted]) != count:
            raise malformed("The bill has another number of rows than it says.")


def number(written: str) -> int:
    """A count, which is printed as `45.0`."""
    whole, _, rest = written.partition(".")
    if not (whole.isascii() and whole.isdigit() and len(whole) < 12) or rest.strip("0"):
        raise malformed(f"{written[:20]!r} is no count.")
    return int(whole)


def _lines(body: bytes) -> Iterator[str]:
    """One line after the other, without a second copy of the file."""
    start = 0
    while start < len(body):
        end = body.index(b"\n", start)
        try:
            yield body[start:end].decode("utf-8").rstrip("\r")
        except UnicodeDecodeError:
            raise malformed("The bill is not UTF-8.") from None
        start = end + 1
