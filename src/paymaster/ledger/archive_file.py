"""A month of the books as a file: everything of it, in text, compressed, and provable alone.

The file is gzip over UTF-8 lines: `#paymaster-archive 1`, then sections that begin with
`#table column:type ...` and hold rows as PostgreSQL's `COPY` writes them, then `#end`. `opening`
and `closing` say where each account's history enters the month and where it leaves it. The manifest
lies beside the file as JSON and carries its SHA-256.

Reading takes the same memory however large the month is: each posting arrives at one step of its
account's history (number, posting, balance) and leaves the one before. Hashes of the steps, added
and taken away, cancel out exactly when all postings chain from the openings to the closings.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from paymaster.kernel.errors import Refusal

FIRST_LINE = "#paymaster-archive 1"
LAST_LINE = "#end"
SECTIONS = ("account", "commit", "entry", "posting", "opening", "closing")
_LEVEL = 6
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a file holds. Sums are minor units by currency; ids are half open `[low_id, high_id)`.

    `last_seq` and `recorded_through` are the last place in the order of commits and the last moment
    of recording (RFC 3339) in it; `chain_sum` and `link_sum` are what `ledger prove` goes on with.
    """

    format: int
    cell: int
    month: str
    low_id: int
    high_id: int
    last_seq: int
    recorded_through: str
    made_at: str
    counts: Mapping[str, int]
    sums: Mapping[str, int]
    chain_sum: str
    link_sum: str
    sha256: str


def manifest_path(file: Path) -> Path:
    """Where the manifest of a file lies."""
    return file.with_suffix(".json")


def save_manifest(file: Path, manifest: Manifest) -> None:
    """Write the manifest beside its file, whole or not at all."""
    path = manifest_path(file)
    part = path.with_suffix(".json.part")
    with part.open("w") as out:
        json.dump(asdict(manifest), out, indent=1)
        out.write("\n")
        out.flush()
        os.fsync(out.fileno())
    part.replace(path)
    _settle(path.parent)


def load_manifest(file: Path) -> Manifest:
    """Read the manifest beside a file. Raises Refusal `archive-unreadable`."""
    if not file.is_file():
        raise Refusal("archive-unreadable", f"{file} is not a file.")
    try:
        return Manifest(**json.loads(manifest_path(file).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise _unreadable(manifest_path(file), error) from error


class Writer:
    """Writes a file under another name and gives it its own when it is complete."""

    def __init__(self, file: Path) -> None:
        self._file, self._part = file, file.with_suffix(".part")
        self._raw = self._part.open("wb")
        self._zip = gzip.GzipFile("", "wb", _LEVEL, self._raw, mtime=0)
        self._zip.write(f"{FIRST_LINE}\n".encode())

    def section(self, table: str, columns: Sequence[tuple[str, str]]) -> None:
        """Begin a section; columns are names and types."""
        names = " ".join(f"{name}:{kind.replace(' ', '_')}" for name, kind in columns)
        self._zip.write(f"#{table} {names}\n".encode())

    def rows(self, lines: bytes | bytearray | memoryview) -> None:
        """Rows of the section, as `COPY` gives them."""
        self._zip.write(lines)

    def finish(self) -> None:
        """Complete the file; it is on the disk when this returns."""
        self._zip.write(f"{LAST_LINE}\n".encode())
        self._zip.close()
        self._raw.flush()
        os.fsync(self._raw.fileno())
        self._raw.close()
        self._part.replace(self._file)
        _settle(self._file.parent)

    def abandon(self) -> None:
        """Leave nothing behind."""
        self._raw.close()
        self._part.unlink(missing_ok=True)


def _settle(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True, slots=True)
class Contents:
    """What reading a file found."""

    sha256: str
    counts: dict[str, int]
    sums: dict[str, int]


def read(file: Path, low_id: int, high_id: int) -> Contents:
    """Read a file and prove it in itself.

    Every posting lies in the range of ids and belongs to an entry of the file with as many postings
    as it says; every history chains without a gap from its opening to its closing, balances and
    numbers included. Raises Refusal `archive-unreadable`, `archive-altered`.
    """
    tally = _Tally(low_id, high_id)
    try:
        with file.open("rb") as raw, gzip.open(raw, "rt", encoding="utf-8", newline="\n") as text:
            _walk(text, tally)
        digest = _sha256(file)
    except (OSError, EOFError, ValueError, KeyError, IndexError) as error:
        raise _unreadable(file, error) from error
    tally.conclude()
    return Contents(digest, tally.counts, dict(tally.sums))


def verify(file: Path) -> Manifest:
    """Prove a file and that it is the one its manifest describes. Raises as `read`."""
    manifest = load_manifest(file)
    found = read(file, manifest.low_id, manifest.high_id)
    compared: tuple[tuple[str, object, object], ...] = (
        ("SHA-256", manifest.sha256, found.sha256),
        ("counts", dict(manifest.counts), found.counts),
        ("sums", dict(manifest.sums), found.sums),
    )
    for what, told, seen in compared:
        if told != seen:
            raise _altered(f"{what} {seen}, but the manifest says {told}")
    return manifest


class _Tally:
    """What is counted while a file is read."""

    def __init__(self, low_id: int, high_id: int) -> None:
        self._low, self._high = low_id, high_id
        self.counts: dict[str, int] = dict.fromkeys(SECTIONS, 0)
        self.sums: Counter[str] = Counter()
        self._steps = self._entries = 0
        self._newest = low_id - 1

    def row(self, table: str, row: Mapping[str, str]) -> None:
        """One row; nothing is kept of it but sums."""
        self.counts[table] += 1
        handle = _ROWS.get(table)
        if handle is not None:
            handle(self, row)

    def entry(self, row: Mapping[str, str]) -> None:
        place = row["commit_id"] if row["first_posting_id"] == "\\N" else row["first_posting_id"]
        if not self._low <= int(place) < self._high:
            raise _altered(f"entry {row['id']} belongs to another month")
        self._entries += int(row["postings"]) * _mark(row["id"])

    def posting(self, row: Mapping[str, str]) -> None:
        posting_id, amount = int(row["id"]), int(row["amount"])
        if not self._newest < posting_id < self._high:
            raise _altered(f"posting {posting_id} is out of order or of another month")
        self._newest = posting_id
        self._entries -= _mark(row["entry_id"])
        self.sums[row["asset"]] += amount
        for side, change in (("source", -amount), ("destination", amount)):
            account, number = row[f"{side}_id"], int(row[f"{side}_number"])
            balance = int(row[f"{side}_balance"])
            self._steps += _mark(account, number, posting_id, balance)
            self._steps -= _mark(account, number - 1, row[f"{side}_previous"], balance - change)

    def opening(self, row: Mapping[str, str]) -> None:
        self._steps += _mark(row["account_id"], row["number"], row["posting_id"], row["balance"])

    def closing(self, row: Mapping[str, str]) -> None:
        self._steps -= _mark(row["account_id"], row["number"], row["posting_id"], row["balance"])

    def conclude(self) -> None:
        """Raises Refusal `archive-altered` when the sums leave a remainder."""
        if self._entries:
            raise _altered("its entries and postings do not belong together")
        if self._steps:
            raise _altered("its histories do not chain from their openings to their closings")


_ROWS: dict[str, Callable[[_Tally, Mapping[str, str]], None]] = {
    "entry": _Tally.entry,
    "posting": _Tally.posting,
    "opening": _Tally.opening,
    "closing": _Tally.closing,
}


def _walk(lines: Iterator[str], tally: _Tally) -> None:
    first = next(lines, "").rstrip("\n")
    if first != FIRST_LINE:
        raise ValueError(f"it begins with {first[:40]!r}")
    table, names = "", list[str]()
    for line in lines:
        if not line.startswith("#"):
            tally.row(table, dict(zip(names, line.rstrip("\n").split("\t"), strict=True)))
            continue
        if line == f"{LAST_LINE}\n":
            if next(lines, None) is not None:
                raise ValueError("something follows its end")
            return
        table, *columns = line[1:].split()
        names = [column.partition(":")[0] for column in columns]
    raise ValueError("its end is missing")


def _mark(*parts: object) -> int:
    text = " ".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest())


def _sha256(file: Path) -> str:
    with file.open("rb") as raw:
        return _digest(raw)


def _digest(raw: IO[bytes]) -> str:
    found = hashlib.sha256()
    while block := raw.read(_BLOCK):
        found.update(block)
    return found.hexdigest()


def _unreadable(file: Path, error: Exception) -> Refusal:
    return Refusal("archive-unreadable", f"{file.name} cannot be read as an archive: {error}")


def _altered(what: str) -> Refusal:
    return Refusal("archive-altered", f"The archive is not what was written: {what}.")
