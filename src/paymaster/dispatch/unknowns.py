"""Payments that nobody can tell about for too long: warned about, and shown with what comes next.

A warning is a line in the log, a gauge and an event, once for each time that was set. It changes
nothing about the payment: only proof does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from paymaster.db import outbox_lines
from paymaster.db.outbox_lines import Line
from paymaster.db.tx import CellRead, CellTx
from paymaster.dispatch import absence
from paymaster.dispatch.accounts import PayoutAccount
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.observe import get_logger
from paymaster.rails.base import Queries, Rail, RailCaps

_log = get_logger(__name__)
_ENCODER = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Unknown:
    """A payment without proof either way; `state` is `sent` when its provider took it in.

    `asked` and `sent` count calls, about it and of its order; `asks_at` and `looks_at` are when
    either is looked at again by itself. `spoilt`: its order is never sent again. `doubted_no` is
    what the provider said no with to its last try, `put_off` whether that was only "not now".
    """

    id: int
    withdrawal_id: int | None
    transfer_id: int | None
    rail_account_id: int
    key: str
    state: str
    amount: int
    asset: str
    code: str | None
    created_at: datetime
    alerted: int
    asked: int
    asks_at: datetime | None
    sent: int
    sent_at: datetime | None
    looks_at: datetime | None
    order_state: str
    spoilt: bool
    doubted_no: str | None
    put_off: bool

    @property
    def money(self) -> Money:
        """What was ordered."""
        return Money(self.amount, self.asset)

    def subject(self, cell: int) -> str:
        """What it pays."""
        if self.withdrawal_id is not None:
            return text_id("wd", cell, self.withdrawal_id)
        return text_id("tr", cell, self.transfer_id or 0)


async def listing(
    tx: CellRead, before: datetime, silent_before: datetime, limit: int
) -> list[Unknown]:
    """Those ordered before a moment, oldest first.

    And those that were taken in, ordered before another one, which nobody can be asked about; and
    those that have waited for their payee for so long that somebody was warned.
    """
    return await tx.fetch(
        """
        SELECT a.id, a.withdrawal_id, a.transfer_id, a.rail_account_id, a.key, a.state, a.amount,
            a.asset, a.code, a.created_at, a.alerted, a.tries AS asked, a.due_at AS asks_at,
            b.tries AS sent, b.sent_at, b.due_at AS looks_at, b.state AS order_state,
            b.doubted_no, b.put_off,
            EXISTS (SELECT FROM attempt o WHERE o.batch_id = b.id
                AND (o.state = 'rejected' OR o.code = 'decided-by-hand')) AS spoilt
        FROM attempt a JOIN batch b ON b.id = a.batch_id
        WHERE (a.state = 'unknown' AND a.created_at <= %s)
            OR (a.state = 'sent' AND a.due_at IS NULL AND a.created_at <= %s)
            OR (a.state = 'awaiting_payee' AND a.alerted > 0)
        ORDER BY a.created_at, a.id LIMIT %s
        """,
        (before, silent_before, limit),
        Unknown,
    )


async def counts(tx: CellRead, before: Sequence[datetime]) -> dict[tuple[int, int], int]:
    """How many are older than each moment, by rail account and the moment's place."""
    rows = await tx.tuples(
        """
        SELECT a.rail_account_id, t.place::int - 1, count(*)
        FROM unnest(%s::timestamptz[]) WITH ORDINALITY AS t (moment, place)
            JOIN attempt a ON a.state = 'unknown' AND a.created_at <= t.moment
        GROUP BY 1, 2
        """,
        (list(before),),
    )
    return {(account, place): count for account, place, count in rows}


class PutOff(NamedTuple):
    """Orders of an account that its provider puts off, for one reason; the oldest is of `since`."""

    rail_account_id: int
    code: str
    orders: int
    since: datetime


async def put_off(tx: CellRead, before: datetime) -> list[PutOff]:
    """Orders from before a moment that wait because their provider says "not now"."""
    rows = await tx.tuples(
        """
        SELECT rail_account_id, coalesce(doubted_no, ''), count(*), min(created_at) FROM batch
        WHERE put_off AND state IN ('unknown', 'sending') AND due_at IS NOT NULL
            AND created_at <= %s
        GROUP BY 1, 2 ORDER BY 1, 2
        """,
        (before,),
    )
    return [PutOff._make(row) for row in rows]


async def warn(tx: CellTx, after: Sequence[timedelta], limit: int) -> int:
    """Warn of payments that have been unknown for longer than a time of `after` (growing).

    Once for each time; one that has passed several is warned about for the longest. How many.
    """
    if not after:
        return 0
    rows = await tx.tuples(
        """
        WITH late AS (
            SELECT a.id, (SELECT count(*) FROM unnest(%(moments)s::timestamptz[]) AS t (moment)
                WHERE a.created_at <= t.moment)::int AS level
            FROM attempt a
            WHERE a.state = 'unknown' AND a.created_at <= %(first)s
                AND a.alerted < (SELECT count(*)
                    FROM unnest(%(moments)s::timestamptz[]) AS t (moment)
                    WHERE a.created_at <= t.moment)
            ORDER BY a.created_at, a.id LIMIT %(limit)s FOR UPDATE OF a SKIP LOCKED
        )
        UPDATE attempt a SET alerted = late.level FROM late WHERE a.id = late.id
        RETURNING a.id, a.withdrawal_id, a.transfer_id, a.rail_account_id, a.key, a.created_at,
            a.tries, coalesce(
                (SELECT b.doubted_no FROM batch b WHERE b.id = a.batch_id), a.code), late.level
        """,
        {
            "moments": [tx.now - each for each in after],
            "first": tx.now - after[0],
            "limit": limit,
        },
    )
    return await _tell(tx, "attempt.unknown_old", rows, after)


async def warn_silent(tx: CellTx, after: timedelta, limit: int) -> int:
    """Warn, once, of orders that were taken in so long ago and of which nothing was heard since.

    Only of those that nobody can be asked about: the others are asked about. How many.
    """
    rows = await tx.tuples(
        """
        WITH silent AS (
            SELECT id FROM attempt
            WHERE state = 'sent' AND due_at IS NULL AND alerted = 0 AND created_at <= %s
            ORDER BY created_at, id LIMIT %s FOR UPDATE SKIP LOCKED
        )
        UPDATE attempt a SET alerted = 1 FROM silent WHERE a.id = silent.id
        RETURNING a.id, a.withdrawal_id, a.transfer_id, a.rail_account_id, a.key, a.created_at,
            a.tries, a.code, 1
        """,
        (tx.now - after, limit),
    )
    return await _tell(tx, "attempt.unknown_old", rows, [after])


async def warn_awaiting(tx: CellTx, after: timedelta, limit: int) -> int:
    """Warn, once, of orders that still wait for their payee although their time should be over.

    Nothing is given back by our own clock: the provider may close them late, and be paid till then.
    How many.
    """
    rows = await tx.tuples(
        """
        WITH late AS (
            SELECT id FROM attempt
            WHERE state = 'awaiting_payee' AND alerted = 0 AND created_at <= %s
            ORDER BY created_at, id LIMIT %s FOR UPDATE SKIP LOCKED
        )
        UPDATE attempt a SET alerted = 1 FROM late WHERE a.id = late.id
        RETURNING a.id, a.withdrawal_id, a.transfer_id, a.rail_account_id, a.key, a.created_at,
            a.tries, a.code, 1
        """,
        (tx.now - after, limit),
    )
    return await _tell(tx, "attempt.awaiting_old", rows, [after])


async def _tell(tx: CellTx, topic: str, rows: Sequence[Any], after: Sequence[timedelta]) -> int:
    """A line in the log and an event for each; the last value of a row is its place in `after`."""
    lines: list[Line] = []
    for row in sorted(rows, key=lambda each: each[0]):
        attempt, withdrawal, transfer, account, key, since, asked, code, level = row
        number, prefix = (transfer, "tr") if withdrawal is None else (withdrawal, "wd")
        subject = text_id(prefix, tx.cell, number)
        minutes = after[int(level) - 1] // timedelta(minutes=1)
        said: dict[str, Any] = {
            "id": text_id("at", tx.cell, attempt),
            "subject": subject,
            "since": rfc3339(since),
            "minutes": minutes,
            "asked": asked,
            "code": code,
        }
        lines.append(Line(topic, subject, _ENCODER.encode(said).decode()))
        _log.warning(
            topic.replace(".", "_"),
            key=key,
            rail_account=account,
            minutes=minutes,
            asked=asked,
            code=code,
        )
    await outbox_lines.put(tx, lines)
    return len(lines)


@dataclass(frozen=True, slots=True)
class Next:
    """What happens next with an unknown payment: `what` as a slug, `words`, and when, if known."""

    what: str
    words: str
    at: datetime | None = None

    def wire(self) -> dict[str, Any]:
        """For JSON."""
        at = None if self.at is None else rfc3339(self.at)
        return {"what": self.what, "words": self.words, "at": at}


def next_of(
    one: Unknown,
    accounts: Mapping[int, PayoutAccount],
    rails: Mapping[str, Rail],
    now: datetime,
) -> Next:
    """What this process or any other will do about it, without anybody's help."""
    account = accounts.get(one.rail_account_id)
    rail = None if account is None else rails.get(account.rail.rail)
    if account is None or rail is None:
        return Next("nobody", "Its rail is not installed here: nobody asks or sends.")
    if one.state == "awaiting_payee":
        return Next("ask", "The payee has not accepted it; the provider is asked.", one.asks_at)
    if one.state == "sent":
        return Next("report", "It was taken in: only a report or statement tells, or a person.")
    if one.order_state == "sending":
        return Next("wait", "Its order is on the wire at this moment.", one.looks_at)
    window = rail.caps.replay_window
    open_window = window is not None and now < one.created_at + window
    known = account.knows(one.created_at)
    replays = open_window and known and account.active and not one.spoilt
    if isinstance(rail, Queries):
        words = _asked_words(one, rail.caps, account, replays=replays)
        return Next("ask", words, one.asks_at)
    if replays:
        return Next("replay", "The same bytes are sent under the same key.", one.looks_at)
    return Next("report", "Only the provider's report or statement tells, or a person decides.")


def _asked_words(one: Unknown, caps: RailCaps, account: PayoutAccount, *, replays: bool) -> str:
    """What comes of asking about a payment."""
    if not account.knows(one.sent_at or one.created_at):
        return (
            "The account's settings were changed since: that the provider does not know it proves"
            " nothing any more. Unless it is found, a person decides."
        )
    until = absence.keeps_trying_until(caps, one.created_at) if one.put_off else None
    if until is not None and not one.spoilt:
        end = rfc3339(until)
        if not account.active:
            return (
                f"The provider put it off ({one.doubted_no}), and its account is paused: after"
                f" the pause the same bytes go, until {end}; then it is dead."
            )
        return (
            f"The provider put it off ({one.doubted_no}). Once it is proven not to know it, the"
            f" same bytes go, again and again until {end}; then it is dead."
        )
    if one.doubted_no is not None:
        said = f"The provider said no ({one.doubted_no}) and is asked"
        return f"{said}; it is dead once it is proven not to know it."
    if replays:
        return "The provider is asked; if it is proven not to know it, the same bytes go."
    return "The provider is asked; its bytes are not sent again."
