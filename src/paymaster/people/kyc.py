"""How well a user is known: levels with the evidence behind them, and when it expires.

Records are only ever added. What counts is the highest level of all evidence that has not expired
and was not taken back; a record of level `none` takes back everything before it. So evidence that
expires lowers the level to what the rest still proves. Documents stay with the provider: a record
holds its reference.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from paymaster.db import audit, outbox
from paymaster.db.tx import CellRead, CellTx
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import Conflict, Problem, Unprocessable
from paymaster.kernel.ids import text_id

LEVELS = ("none", "basic", "full")
"""From the least to the best."""

_COUNTRY = re.compile(r"[A-Z]{2}\Z", re.ASCII)
_PROVIDER = re.compile(r"[a-z][a-z0-9-]{0,39}\Z", re.ASCII)
_MOST_EVIDENCE = 128
MOST_RECORDS = 200
"""Of one user; what counts can be taken back beyond it, which it then is for good."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What somebody has found out. `reference` is the provider's, and its documents' key."""

    level: str
    provider: str
    reference: str
    jurisdiction: str | None = None
    expires_at: datetime | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What counts now. `jurisdiction` is that of the newest evidence which names one.

    `until` is when the level falls unless evidence is renewed.
    """

    level: str
    jurisdiction: str | None = None
    until: datetime | None = None

    def wire(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "level": self.level,
            "jurisdiction": self.jurisdiction,
            "expires_at": None if self.until is None else rfc3339(self.until),
        }


UNKNOWN = Known("none")
"""A user of whom nothing is known."""


@dataclass(frozen=True, slots=True)
class Record:
    """A row of `kyc_record`."""

    number: int
    level: str
    jurisdiction: str | None
    provider: str
    evidence: str
    reason: str | None
    expires_at: datetime | None
    recorded_at: datetime

    def wire(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "level": self.level,
            "jurisdiction": self.jurisdiction,
            "provider": self.provider,
            "reference": self.evidence,
            "expires_at": None if self.expires_at is None else rfc3339(self.expires_at),
            "recorded_at": rfc3339(self.recorded_at),
        }


async def record(tx: CellTx, user_id: int, found: Evidence) -> Known:
    """Add evidence; the same evidence again changes nothing. What counts from now on.

    Raises Unprocessable `kyc-invalid`, Conflict `kyc-evidence-used` (the reference stands for
    something else, or was taken back) or `kyc-full`.
    """
    _check(tx, found)
    await tx.value("SELECT id FROM app_user WHERE id = %s FOR UPDATE", (user_id,))
    before = (await known(tx, [user_id])).get(user_id, UNKNOWN)
    listed = await records(tx, user_id)
    if _again(listed, found):
        return before
    if len(listed) >= MOST_RECORDS and (found.level != LEVELS[0] or before == UNKNOWN):
        raise Conflict("kyc-full", f"At most {MOST_RECORDS} records are kept of a user.")
    await tx.execute(
        "INSERT INTO kyc_record (user_id, number, level, jurisdiction, provider, evidence, reason,"
        " expires_at, recorded_at, commit_id, ordinal)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (
            user_id,
            listed[0].number + 1 if listed else 1,
            found.level,
            found.jurisdiction,
            found.provider,
            found.reference,
            found.reason,
            found.expires_at,
            tx.now,
            tx.commit_id,
            tx.append(),
        ),
    )
    after = (await known(tx, [user_id])).get(user_id, UNKNOWN)
    user = text_id("us", tx.cell, user_id)
    detail = {"evidence": found.level, "provider": found.provider, "level": after.level}
    await audit.record(tx, [audit.Act("kyc.record", user, found.reason, detail=detail)])
    if after.level != before.level:
        told = {"user": user, "level": after.level, "before": before.level}
        await outbox.put(tx, [outbox.Message("user.kyc_level", user, told)])
    return after


def _again(listed: Sequence[Record], found: Evidence) -> bool:
    """Whether this evidence is recorded already. Raises Conflict `kyc-evidence-used`."""
    taken_back = False
    for row in listed:  # newest first
        if (row.provider, row.evidence, row.level) == (
            found.provider,
            found.reference,
            found.level,
        ):
            same = (row.jurisdiction, row.expires_at) == (found.jurisdiction, found.expires_at)
            if same and not taken_back:
                return True
            raise Conflict(
                "kyc-evidence-used",
                "This reference was taken back: what is found anew has a reference of its own."
                if same
                else "This reference is recorded with another jurisdiction or expiry.",
            )
        taken_back = taken_back or row.level == LEVELS[0] or found.level == LEVELS[0]
    return False


def _check(tx: CellTx, found: Evidence) -> None:
    problems: list[Problem] = []
    if found.level not in LEVELS:
        problems.append(Problem("/level", f"Levels are: {', '.join(LEVELS)}."))
    if _PROVIDER.match(found.provider) is None:
        problems.append(Problem("/provider", "Use at most 40 of a-z, 0-9 and -, a letter first."))
    if not 1 <= len(found.reference) <= _MOST_EVIDENCE or not found.reference.isprintable():
        problems.append(Problem("/reference", "Write 1 to 128 printable characters."))
    if found.jurisdiction is not None and _COUNTRY.match(found.jurisdiction) is None:
        problems.append(Problem("/jurisdiction", "Write two capital letters, such as DE."))
    if found.expires_at is not None and found.expires_at <= tx.now:
        problems.append(Problem("/expires_at", "Choose a moment in the future."))
    if found.level == LEVELS[0] and found.reason is None:
        problems.append(Problem("/reason", "Say why what was known no longer counts."))
    if problems:
        raise Unprocessable("kyc-invalid", "The evidence has faults.", problems=problems)


async def known(tx: CellRead, user_ids: Sequence[int]) -> dict[int, Known]:
    """What counts now, by user; users of whom nothing counts are missing."""
    rows = await tx.tuples(
        """
        SELECT k.user_id, k.level, k.jurisdiction, k.expires_at FROM kyc_record k
        WHERE k.user_id = ANY(%s) AND k.level <> 'none'
            AND (k.expires_at IS NULL OR k.expires_at > %s)
            AND NOT EXISTS (SELECT FROM kyc_record n
                WHERE n.user_id = k.user_id AND n.level = 'none' AND n.number > k.number)
        ORDER BY k.number
        """,
        (list(user_ids), tx.now),
    )
    found: dict[int, Known] = {}
    for user_id, level, jurisdiction, until in rows:
        before = found.get(user_id, UNKNOWN)
        better = LEVELS.index(level) - LEVELS.index(before.level)
        place = jurisdiction or before.jurisdiction
        if better > 0:
            found[user_id] = Known(level, place, until)
        elif better == 0:
            found[user_id] = Known(level, place, _later(before.until, until))
        else:
            found[user_id] = Known(before.level, place, before.until)
    return found


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    """Of two ends the later one; None is never."""
    return None if one is None or other is None else max(one, other)


async def records(tx: CellRead, user_id: int) -> list[Record]:
    """Everything that was recorded of a user, newest first."""
    return await tx.fetch(
        "SELECT number, level, jurisdiction, provider, evidence, reason, expires_at, recorded_at"
        " FROM kyc_record WHERE user_id = %s ORDER BY number DESC LIMIT %s",
        (user_id, MOST_RECORDS),
        Record,
    )
