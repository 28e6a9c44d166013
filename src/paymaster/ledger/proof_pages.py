"""Checks that can be made row by row.

A table is walked in ranges of its key, each on a snapshot of its own. A row and what it is compared
with are written by one transaction, so every snapshot that shows one shows the other, and postings
going on meanwhile are never mistaken for a fault.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, LiteralString

from paymaster.db.snapshots import Snapshots
from paymaster.db.tx import CellRead

MOST = 100
"""Differences told of each check."""

LAST_ID = 2**63 - 1

Told = Callable[[str, int], None]
"""Hears what is being proven and how many rows of it are done."""

POSTINGS_OF_E: LiteralString = """
    entry_id = e.id AND id BETWEEN coalesce(e.first_posting_id, e.commit_id - 503316480000)
        AND coalesce(e.last_posting_id, e.commit_id + 503316480000)
"""
"""The postings of entry `e`, by their primary key. An entry without a range was written by an older
version: the ids of its postings and of its commit were made within two minutes of each other."""


@dataclass(frozen=True, slots=True)
class Difference:
    """`check` failed for `subject`: `stored` does not equal what was `derived`."""

    check: str
    subject: str
    stored: str
    derived: str


def silent(stage: str, rows: int) -> None:
    """Tell nobody."""


Check = Callable[[CellRead, dict[str, Any]], Awaitable[list[Difference]]]
"""Looks at the keys behind `low` up to `high`, both in the parameters that it is given."""


@dataclass(frozen=True, slots=True)
class Pages:
    """A table walked by a growing key.

    `bound` selects the key that ends a page of `%(size)s` rows behind `%(low)s`, or nothing when
    fewer are left. Each of `checks` looks at the keys in `(%(low)s, %(high)s]`: a statement that
    selects subject, stored, derived, or a function.
    """

    stage: str
    bound: LiteralString
    checks: Mapping[str, LiteralString | Check]
    size: int = 20_000
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])


async def page_end(tx: CellRead, bound: LiteralString, low: int, size: int) -> int:
    """The key that ends the page behind `low`; the largest of all when it is the last page."""
    found = await tx.value(bound, {"low": low, "size": size - 1})
    return LAST_ID if found is None else int(found)


async def walk(snapshots: Snapshots, pages: Pages, told: Told = silent) -> list[Difference]:
    """Run the checks over all pages; at most `MOST` differences of each."""
    found: dict[str, list[Difference]] = {check: [] for check in pages.checks}
    low, count = -1, 0
    while low != LAST_ID:
        wanted = [check for check, those in found.items() if len(those) < MOST]
        low, fresh = await snapshots.read(_page(pages, low, wanted))
        for check, those in fresh.items():
            found[check] = (found[check] + those)[:MOST]
        count += pages.size
        told(pages.stage, count)
    return [difference for those in found.values() for difference in those]


def _page(
    pages: Pages, low: int, wanted: Sequence[str]
) -> Callable[[CellRead], Awaitable[tuple[int, dict[str, list[Difference]]]]]:
    async def work(tx: CellRead) -> tuple[int, dict[str, list[Difference]]]:
        high = await page_end(tx, pages.bound, low, pages.size)
        limits = {**pages.params, "low": low, "high": high}
        return high, {
            name: await check(tx, limits)
            if callable(check)
            else differences(name, await tx.tuples(check, limits))
            for name, check in pages.checks.items()
            if name in wanted
        }

    return work


def differences(check: str, rows: Sequence[Sequence[Any]]) -> list[Difference]:
    """Rows of subject, stored, derived as differences."""
    return [Difference(check, str(row[0]), str(row[1]), str(row[2])) for row in rows]
