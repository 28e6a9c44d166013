"""What users owe after late reversals: since when, for what; given up, and owed again.

A debt is a balance. What it is made of follows from the reversals that opened it: whatever is paid
back or given up ends the oldest first, so what is still owed is the newest of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from paymaster.db import audit, outbox
from paymaster.db.tx import CellRead, CellTx
from paymaster.earn import recall, reserve
from paymaster.earn.store import debts as store
from paymaster.earn.store.debts import DebtRow, OriginRow, WriteOffRow
from paymaster.earn.views import money
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import Broken, Conflict, NotFound, Unprocessable
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.chart import Account
from paymaster.ledger.entry import Entry, Verdict
from paymaster.ledger.post import post, post_on

MOST_ORIGINS = 1000
"""Reversals that are looked at for one debt; what is older is of unknown origin."""

UNDONE: Final = "undone"


@dataclass(frozen=True, slots=True)
class Origin:
    """Part of a debt and the reversal that made it."""

    amount: Money
    row: OriginRow


@dataclass(frozen=True, slots=True)
class Debt:
    """What a user owes in one currency, the newest origin first; `unknown` is of none."""

    user_id: int
    owed: Money
    origins: tuple[Origin, ...]
    unknown: Money

    @property
    def since(self) -> datetime | None:
        """How old it is; None when the oldest part is of unknown origin."""
        return None if self.unknown or not self.origins else self.origins[-1].row.opened_at

    def wire(self, cell: int, now: datetime) -> dict[str, Any]:
        """For JSON."""
        since = self.since
        return {
            "user": text_id("us", cell, self.user_id),
            "owed": money(self.owed),
            "since": None if since is None else rfc3339(since),
            "age_days": None if since is None else (now - since).days,
            "parts": [
                {
                    "amount": money(one.amount),
                    "reward": text_id("rw", cell, one.row.reward_id),
                    "campaign": text_id("cp", one.row.home_cell, one.row.campaign_id),
                    "bearer": one.row.bearer,
                    "reason": one.row.reason,
                    "opened_at": rfc3339(one.row.opened_at),
                }
                for one in self.origins
            ],
        }


async def listing(tx: CellRead, after: tuple[int, str] | None, limit: int) -> list[Debt]:
    """A page of all open debts here, by user and currency."""
    return await _with_origins(tx, await store.owing(tx, after, min(limit, 200)))


async def of_user(tx: CellRead, user_id: int) -> list[Debt]:
    """What one user owes."""
    return await _with_origins(tx, await store.of_user(tx, user_id))


async def _with_origins(tx: CellRead, rows: Sequence[DebtRow]) -> list[Debt]:
    found: dict[tuple[int, str], list[OriginRow]] = {}
    for origin in await store.origins(tx, rows, MOST_ORIGINS) if rows else []:
        found.setdefault((origin.user_id, origin.asset), []).append(origin)
    return [_debt(row, found.get((row.user_id, row.asset), [])) for row in rows]


def _debt(row: DebtRow, rows: Sequence[OriginRow]) -> Debt:
    left, parts = row.owed, list[Origin]()
    for origin in rows:
        part = min(left, origin.owed)
        if not part:
            break
        parts.append(Origin(Money(part, row.asset), origin))
        left -= part
    return Debt(row.user_id, Money(row.owed, row.asset), tuple(parts), Money(left, row.asset))


@dataclass(frozen=True, slots=True)
class WriteOff:
    """A debt, or part of one, that was given up."""

    rows: tuple[WriteOffRow, ...]

    @property
    def amount(self) -> Money:
        """How much in all."""
        return Money(sum(row.amount for row in self.rows), self.rows[0].asset)

    @property
    def undone(self) -> bool:
        """Whether it is owed again."""
        return self.rows[0].state == UNDONE

    def wire(self, cell: int) -> dict[str, Any]:
        """For JSON."""
        first = self.rows[0]
        return {
            "id": text_id("wo", cell, first.id),
            "user": text_id("us", cell, first.user_id),
            "amount": money(self.amount),
            "state": first.state,
            "reason": first.reason,
            "actor": first.actor,
            "written_off_at": rfc3339(first.written_off_at),
            "undone_reason": first.undone_reason,
            "undone_at": None if first.undone_at is None else rfc3339(first.undone_at),
            "borne_by": [
                {
                    "campaign": _campaign(row),
                    "amount": money(Money(row.amount, row.asset)),
                    "from_budget": money(Money(row.from_budget, row.asset)),
                }
                for row in self.rows
            ],
        }


def _campaign(row: WriteOffRow) -> str | None:
    if row.campaign_id is None or row.home_cell is None:
        return None
    return text_id("cp", row.home_cell, row.campaign_id)


async def write_off(tx: CellTx, user_id: int, amount: Money, reason: str) -> WriteOff:
    """Give up what a user owes, the oldest part first.

    Each part is borne by who the policy of its reward names; a sponsor bears it as far as the
    budget in this cell reaches. Raises Unprocessable `amount-not-positive` or `debt-smaller`,
    Conflict `debt-changed`.
    """
    if amount.minor <= 0:
        raise Unprocessable("amount-not-positive", "Write an amount above zero.")
    debts = {one.owed.currency: one for one in await of_user(tx, user_id)}
    debt = debts.get(amount.currency)
    if debt is None or debt.owed < amount:
        owed = debt.owed.text() if debt else "nothing"
        raise Unprocessable("debt-smaller", f"The user owes {owed} in this currency.")
    rows = _parts(tx, debt, amount, reason)
    subject = text_id("wo", tx.cell, rows[0].id)
    entries = [
        Entry(
            row.entry_id,
            "write_off",
            subject,
            recipes.write_off(user_id, Money(row.amount, row.asset), row.campaign_id),
            link=subject,
            evidence={"reason": reason},
        )
        for row in rows
    ]
    posted, accounts = await post_on(tx, entries)
    before = amount.minor - accounts[Account("debt", user_id, amount.currency)].balance
    if before != debt.owed.minor or any(one.verdict is not Verdict.POSTED for one in posted):
        raise Conflict("debt-changed", "The debt changed at this moment; look at it again.")
    for row, result in zip(rows, posted, strict=True):
        row.from_budget = 0 if row.campaign_id is None else result.moved[0]
    await store.insert(tx, rows)
    user = text_id("us", tx.cell, user_id)
    detail = {"user": user, "amount": money(amount)}
    await audit.record(tx, [audit.Act("debt.write_off", subject, reason, detail)])
    await outbox.put(
        tx, [outbox.Message("debt.written_off", user, {"write_off": subject} | detail)]
    )
    return WriteOff(tuple(rows))


def _parts(tx: CellTx, debt: Debt, amount: Money, reason: str) -> list[WriteOffRow]:
    """Who bears how much of it: the oldest parts of the debt come first."""
    left = amount.minor
    borne: dict[tuple[int, int] | None, int] = {}
    oldest: list[tuple[tuple[int, int] | None, int]] = [(None, debt.unknown.minor)]
    for one in reversed(debt.origins):
        row = one.row
        whose = (row.campaign_id, row.home_cell) if row.bearer == "sponsor" else None
        oldest.append((whose, one.amount.minor))
    for whose, minor in oldest:
        part = min(left, minor)
        if part:
            borne[whose] = borne.get(whose, 0) + part
            left -= part
    if left:
        raise Broken("debt-parts", "A debt has fewer parts than it is large.")
    number, *ids = tx.ids(1 + 2 * len(borne))
    return [
        WriteOffRow(
            number, place, debt.user_id, amount.currency, whose and whose[0], whose and whose[1],
            minor, 0, "written_off", ids[2 * place], ids[2 * place + 1], reason, tx.actor.name,
            tx.now, None, None, None, 1,
        )
        for place, (whose, minor) in enumerate(borne.items())
    ]  # fmt: skip


async def get(tx: CellTx, number: int) -> WriteOff:
    """One of them, locked. Raises NotFound `write-off-unknown`."""
    rows = await store.lock(tx, number)
    if not rows:
        raise NotFound("write-off-unknown", "There is no such write-off.")
    return WriteOff(tuple(rows))


async def undo(tx: CellTx, number: int, reason: str) -> WriteOff:
    """The money comes after all: it is owed again, and paid back from what the user has by now.

    Again changes nothing. Raises NotFound `write-off-unknown`.
    """
    found = await get(tx, number)
    if found.undone:
        return found
    rows = found.rows
    user_id, asset = rows[0].user_id, rows[0].asset
    away = {
        row.campaign_id: row.home_cell
        for row in rows
        if row.campaign_id and row.home_cell and row.from_budget and row.home_cell != tx.cell
    }
    await recall.tell_idle(tx, away)
    await reserve.lock(tx, [user_id])
    subject = text_id("wo", tx.cell, number)
    posted = await post(
        tx,
        [
            Entry(
                row.entry_undo,
                "write_off_undone",
                subject,
                recipes.write_off_undone(
                    user_id,
                    Money(row.amount, asset),
                    row.campaign_id,
                    Money(row.from_budget, asset),
                ),
                reverses_id=row.entry_id,
                evidence={"reason": reason},
                link=subject,
            )
            for row in rows
        ],
    )
    if any(one.verdict is not Verdict.POSTED for one in posted):
        raise Broken("write-off-refused", f"Write-off {number} was not undone: {posted}.")
    drawn = sum(one.moved[-1] for one in posted)
    await reserve.drain(tx, [((user_id, asset), drawn, 0)])
    await store.undone(tx, number, reason)
    user = text_id("us", tx.cell, user_id)
    detail = {"user": user, "amount": money(found.amount)}
    await audit.record(tx, [audit.Act("debt.reopen", subject, reason, detail)])
    await outbox.put(tx, [outbox.Message("debt.reopened", user, {"write_off": subject} | detail)])
    return await get(tx, number)


async def written_off(
    tx: CellRead, user_id: int, before: int | None = None, limit: int = 50
) -> list[WriteOff]:
    """A user's write-offs, newest first; `before` is the number of the last one seen."""
    found: dict[int, list[WriteOffRow]] = {}
    for row in await store.written_off(tx, user_id, before, min(limit, 200)):
        found.setdefault(row.id, []).append(row)
    return [WriteOff(tuple(rows)) for rows in found.values()]
