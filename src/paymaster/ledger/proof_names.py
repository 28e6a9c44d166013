"""When the books do not come out: which account, which posting.

The sums of `proof_sum` say that something is wrong, not what. So everything is read again: first
each step into one of many buckets, then the steps of those buckets that do not cancel out, one by
one. What then stands alone is named: where an account's row and its history part, or one posting
and the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from paymaster.db.snapshots import Snapshots
from paymaster.db.tx import CellRead
from paymaster.ledger import proof_sql as sql
from paymaster.ledger.proof_pages import LAST_ID, MOST, Difference, Told, page_end
from paymaster.ledger.proof_sum import PIECE, Archived, Sight, head, spans

_BUCKETS_READ = 64
_STEPS_READ = 200_000
"""Steps looked at one by one, about: a bound on memory, whatever is wrong and however much."""

_Weights = Counter[tuple[Hashable, ...]]
Step = tuple[int, int, int, int, str]
"""Account, number, posting, balance, currency."""


@dataclass(frozen=True, slots=True)
class _Look:
    accounts: LiteralString
    postings: LiteralString
    late: LiteralString


_BUCKETS = _Look(sql.ACCOUNT_BUCKETS, sql.POSTING_BUCKETS, sql.LATE_BUCKETS)
_STEPS = _Look(sql.ACCOUNT_UNMATCHED, sql.POSTING_UNMATCHED, sql.LATE_UNMATCHED)


async def name_steps(
    snapshots: Snapshots, told: Told, gone: Archived, postings: int, piece: int = PIECE
) -> list[Difference]:
    """What of the accounts and their histories does not fit together; at most `MOST` accounts.

    `postings` is about how many there are. What goes back to a month in an archive (`gone`) is not
    named.
    """
    params: dict[str, Any] = {**gone.params(), "buckets": []}
    wrong = await _weigh(snapshots, told, _BUCKETS, params, piece)
    bucket_steps = max(2 * postings // (int(sql.LAST_BUCKET) + 1), 1)
    most = max(min(_STEPS_READ // bucket_steps, _BUCKETS_READ), 1)
    params["buckets"] = [key[0] for key in wrong][:most]
    if not wrong:
        return []
    steps = await _weigh(snapshots, told, _STEPS, params, piece)
    alone: dict[int, Counter[Step]] = {}
    for step, weight in steps.items():
        account, number, posting, balance, asset = step
        key = (int(str(account)), int(str(number)), int(str(posting)), int(str(balance)))
        alone.setdefault(key[0], Counter())[(*key, str(asset))] += weight
    ids = sorted(alone)[:MOST]
    rows = await snapshots.read(lambda tx: tx.tuples(_ROWS, (ids,)))
    stored: dict[int, Step] = {row[0]: (row[0], row[1], row[2], row[3], row[4]) for row in rows}
    return [one for account in ids for one in _name(account, alone[account], stored.get(account))]


_ROWS: LiteralString = (
    "SELECT id, postings, coalesce(last_posting_id, 0), balance, asset FROM account"
    " WHERE id = ANY(%s)"
)


async def _weigh(
    snapshots: Snapshots, told: Told, look: _Look, params: dict[str, Any], piece: int
) -> _Weights:
    """What is left of all steps when each one arrived at is set against the one left."""
    weights: _Weights = Counter()
    accounts, postings, start = Sight(), Sight(), 0
    looks: list[tuple[LiteralString, LiteralString, Sight]] = [
        (sql.ACCOUNT_BOUND, look.accounts, accounts),
        (sql.POSTING_BOUND, look.postings, postings),
    ]
    for bound, statement, sight in looks:
        low = 0
        while low != LAST_ID:
            low, seq, rows = await snapshots.read(_rows(bound, statement, low, piece, params))
            start = start or seq
            sight.add(low, seq)
            _add(weights, rows)
            told("naming", len(sight.ends) * piece)
    until = await snapshots.read(head)
    sights = {**accounts.params("account"), **postings.params("posting"), **params}
    async for limits in spans(snapshots, (start, until), piece):
        at = {**sights, **limits}
        _add(weights, await snapshots.read(lambda tx, to=at: tx.tuples(look.late, to)))
    return weights


def _add(weights: _Weights, rows: Iterable[Sequence[Any]]) -> None:
    for row in rows:
        key = tuple(row[:-1])
        weights[key] += int(row[-1])
        if not weights[key]:
            del weights[key]


def _rows(
    bound: LiteralString, statement: LiteralString, low: int, size: int, params: dict[str, Any]
) -> Callable[[CellRead], Awaitable[tuple[int, int, list[tuple[Any, ...]]]]]:
    async def work(tx: CellRead) -> tuple[int, int, list[tuple[Any, ...]]]:
        high = await page_end(tx, bound, low, size)
        limits = {**params, "low": low, "high": high}
        return high, await head(tx), await tx.tuples(statement, limits)

    return work


def _name(account: int, alone: Counter[Step], row: Step | None) -> list[Difference]:
    """Say what is wrong with one account, from the steps that found no partner."""
    arrived = {step for step, weight in alone.items() if weight > 0}
    left = {step for step, weight in alone.items() if weight < 0}
    if row is None:
        posting = max((step[2] for step in alone), default=0)
        return [
            Difference("account-missing", str(account), f"posting {posting}", "no such account")
        ]
    found = [
        Difference("currency", str(step[2] or account), step[4], row[4])
        for step in sorted(arrived | left)
        if step[4] != row[4]
    ]
    if row in left:
        left.discard(row)
        last = max(
            (step for step in arrived if step[4] == row[4]),
            key=lambda step: step[1],
            default=(account, 0, 0, 0, row[4]),
        )
        arrived.discard(last)
        found += _row_differs(row, last)
    found += _history(arrived, left)
    return found[:MOST]


def _row_differs(row: Step, last: Step) -> list[Difference]:
    """Where an account's row says other things than its last posting."""
    found: list[Difference] = []
    if row[3] != last[3]:
        found.append(Difference("balance", str(row[0]), str(row[3]), str(last[3])))
    if row[1:3] != last[1:3]:
        found.append(
            Difference(
                "posting-count",
                str(row[0]),
                f"{row[1]} ending {row[2]}",
                f"{last[1]} ending {last[2]}",
            )
        )
    return found


def _history(arrived: set[Step], left: set[Step]) -> list[Difference]:
    """Where one posting says other things about the one before than that one does itself."""
    before = {step[1]: step for step in sorted(arrived)}
    found = [
        Difference(
            "history",
            f"{step[0]}/{step[1] + 1}",
            f"{step[2]} -> {step[3]}",
            f"{before[step[1]][2]} -> {before[step[1]][3]}" if step[1] in before else "nothing",
        )
        for step in sorted(left)
    ]
    followed = {step[1] for step in left}
    found += [
        Difference("history", f"{step[0]}/{step[1]}", f"{step[2]} -> {step[3]}", "not followed")
        for step in sorted(arrived)
        if step[1] not in followed
    ]
    return found
