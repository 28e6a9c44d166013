"""Closing a day: what must hold, what is written, what is signed.

A day is ready when every active account has a statement of it whose balance the books reproduce (or
none at all, and the next statement begins where the last one ended: then nothing was booked on it),
no line and no break of it is open, every cell's books are proven, and what cells owe each other
nets to nothing. Then each cell is closed through the day, the treasury cell last and in the same
transaction as the totals that are to be signed. Signing may be a call to a key far away, so it is
done between transactions: a crash before it leaves a draft, which the next attempt signs first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from paymaster.db import audit, outbox
from paymaster.db.tx import CellRead, CellTx
from paymaster.kernel.clock import business_day
from paymaster.kernel.errors import Broken, Conflict, Problem, Unprocessable
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.ledger.chart import KINDS
from paymaster.ledger.proof import Difference
from paymaster.rails.base import RailAccount
from paymaster.reconcile import close_store, run_store
from paymaster.reconcile.close_store import DayClose, DayDraft, KindTotal
from paymaster.secrets.local import verify_signature

SIGNING_KEY = "day-close"
"""The signer's key for closed days, unless the caller names another one."""
FREEZE = "day.freeze"
"""The act by which each cell records its closing; its place in the order of commits counts."""
_LISTED = 20


@dataclass(frozen=True, slots=True)
class CellState:
    """One cell at one moment: what it owes others, its totals, and what its proof found."""

    cell: int
    closed_through: date | None
    intercell: Mapping[tuple[int, str], int]
    totals: Sequence[KindTotal]
    differences: Sequence[Difference] = field(default_factory=tuple[Difference, ...])


async def state(tx: CellRead, differences: Sequence[Difference] = ()) -> CellState:
    """Look at a cell. `differences` are the results of its proofs, run by the caller."""
    _, closed = await close_store.head(tx)
    return CellState(
        tx.cell,
        closed,
        await close_store.intercell(tx),
        await close_store.totals(tx),
        tuple(differences),
    )


async def blockers(
    tx: CellRead, day: date, accounts: Sequence[RailAccount], cells: Sequence[CellState]
) -> list[Problem]:
    """Everything that keeps the day open; none means that it is ready. In the treasury cell.

    `accounts` are the active ones of the environment, `cells` all of its cells.
    """
    problems: list[Problem] = []
    if day >= business_day(tx.now, tx.time_zone):
        problems.append(Problem("/day", f"{day.isoformat()} is not over yet."))
    for account in accounts:
        problems += await _account(tx, day, account)
    found = await close_store.open_breaks(tx, [a.id for a in accounts], day, _LISTED)
    for break_id, kind, subject in found:
        name = text_id("br", tx.cell, break_id)
        problems.append(Problem(f"/breaks/{name}", f"{kind} on {subject} is open."))
    problems += _cells(cells)
    return problems


async def _account(tx: CellRead, day: date, account: RailAccount) -> list[Problem]:
    pointer = f"/rail_accounts/{account.name}"
    if await run_store.bounds(tx, account.id, day) is None:
        if await run_store.quiet(tx, account.id, day) is not None:
            return []
        return [Problem(pointer, f"There is no statement of {day.isoformat()}.")]
    problems: list[Problem] = []
    open_lines = await run_store.unsettled(tx, account.id, day)
    if open_lines:
        problems.append(Problem(pointer, f"{open_lines} lines are not decided yet."))
    latest = await run_store.latest(tx, account.id, day)
    if latest is None:
        problems.append(Problem(pointer, "Its balance has not been proven: run it."))
    elif latest.difference:
        money = Money(latest.difference, latest.asset)
        problems.append(Problem(pointer, f"The statement differs from the books by {money}."))
    elif latest.outstanding and not open_lines:
        problems.append(Problem(pointer, "The last run was before all lines were decided."))
    elif await run_store.newer_statement(tx, account.id, day, latest.id):
        problems.append(Problem(pointer, "A statement has come since the last run: run it again."))
    return problems


def _cells(cells: Sequence[CellState]) -> list[Problem]:
    problems: list[Problem] = []
    for cell in cells:
        for difference in list(cell.differences)[:_LISTED]:
            detail = (
                f"{difference.check} of {difference.subject}: {difference.stored} in the books, "
                f"{difference.derived} derived."
            )
            problems.append(Problem(f"/cells/{cell.cell}", detail))
    by_number = {cell.cell: cell for cell in cells}
    pairs = {
        (min(cell.cell, other), max(cell.cell, other), asset)
        for cell in cells
        for other, asset in cell.intercell
    }
    for one, other, asset in sorted(pairs):
        balance = by_number[one].intercell.get((other, asset), 0)
        if one != other and other in by_number:
            balance += by_number[other].intercell.get((one, asset), 0)
        if balance:
            detail = f"{Money(balance, asset)} are on their way between the cells."
            problems.append(Problem(f"/intercell/{one}-{other}", detail))
    return problems


async def freeze(tx: CellTx, day: date) -> CellState:
    """Close one cell through a day and take its totals, all from behind the same lock."""
    if await close_store.close_through(tx, day):
        await audit.record(tx, [audit.Act(FREEZE, day.isoformat())])
    return await state(tx)


async def prepare(
    tx: CellTx,
    day: date,
    accounts: Sequence[RailAccount],
    cells: Sequence[CellState],
    frozen: Sequence[CellState],
) -> DayDraft | None:
    """Close the treasury cell and write down what is to be signed; None when the day is signed.

    `cells` are what the proofs saw, `frozen` the other cells as closed. A draft that is there is
    returned, of whichever day: it must be signed first. Raises Unprocessable `day-not-ready` with a
    problem for each blocker, `day-passed` when a later day is closed, Conflict `day-signing`.
    """
    if await close_store.find(tx, day) is not None:
        return None
    waiting = await close_store.draft(tx)
    if waiting is not None:
        return waiting
    mine = await freeze(tx, day)
    # Behind the lock of the head that `freeze` took: nobody else writes a draft now.
    waiting = await close_store.draft(tx)
    if waiting is not None and waiting.day != day:
        raise Conflict("day-signing", "Another day is being signed; close this one again.")
    if waiting is not None or await close_store.find(tx, day) is not None:
        return waiting
    if mine.closed_through is not None and mine.closed_through > day:
        raise Unprocessable(
            "day-passed", f"The books are closed through {mine.closed_through.isoformat()}."
        )
    refuse(await blockers(tx, day, accounts, cells))
    before = await close_store.last(tx)
    closed_seq, _ = await close_store.head(tx)
    totals = {
        "previous": None if before is None else before.digest.hex(),
        "cells": {str(each.cell): _totals(each) for each in sorted([*frozen, mine], key=_number)},
        "statements": await _statements(tx, day, accounts),
    }
    row = DayDraft(day, closed_seq, totals, tx.actor.name)
    await close_store.insert_draft(tx, row)
    return row


async def sign(
    tx: CellTx, draft: DayDraft, signature: bytes, *, key_id: str = SIGNING_KEY
) -> DayClose:
    """Write the signed day; the row that is there when somebody else was first."""
    if await close_store.lock_draft(tx) != draft:
        done = await close_store.find(tx, draft.day)
        if done is None:
            raise Broken("day-draft", f"What was signed of {draft.day.isoformat()} has changed.")
        return done
    message = signed_message(draft.day, draft.closed_seq, draft.totals)
    digest = hashlib.sha256(message).digest()
    row = DayClose(
        draft.day, draft.closed_seq, draft.totals, digest, signature, key_id, draft.actor, tx.now
    )
    await close_store.insert(tx, row)
    await close_store.drop_draft(tx)
    name = row.day.isoformat()
    await audit.record(tx, [audit.Act("day.close", name, None, {"digest": row.digest.hex()})])
    payload = {"day": name, "digest": row.digest.hex(), "closed_seq": str(row.closed_seq)}
    await outbox.put(tx, [outbox.Message("day.closed", name, payload)])
    return row


def refuse(problems: Sequence[Problem]) -> None:
    """Raises Unprocessable `day-not-ready` when there are any."""
    if problems:
        raise Unprocessable(
            "day-not-ready",
            f"The day cannot be closed yet: {len(problems)} things stand in the way.",
            problems=problems,
        )


def _number(cell: CellState) -> int:
    return cell.cell


def _totals(cell: CellState) -> dict[str, Any]:
    """A cell's balances by kind and currency, under the sign in which people see them."""
    accounts: dict[str, dict[str, str]] = {}
    for total in cell.totals:
        shown = Money(total.balance * KINDS[total.kind].shown, total.asset)
        accounts.setdefault(total.kind, {})[total.asset] = shown.text()
    seq = max((total.seq for total in cell.totals), default=0)
    return {"seq": str(seq), "accounts": accounts}


async def _statements(
    tx: CellRead, day: date, accounts: Sequence[RailAccount]
) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for account in accounts:
        bounds = await run_store.bounds(tx, account.id, day)
        balance = await run_store.quiet(tx, account.id, day) if bounds is None else bounds.closing
        if balance is not None:
            closing = Money(balance, account.currency)
            found[text_id("ra", tx.cell, account.id)] = {
                "closing": closing.text(),
                "currency": account.currency,
            }
    return found


def signed_message(day: date, closed_seq: int, totals: Mapping[str, Any]) -> bytes:
    """The exact bytes that are signed: JSON with sorted keys and no spaces."""
    body = {"day": day.isoformat(), "closed_seq": str(closed_seq), "totals": totals}
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def verify(row: DayClose, public_key: bytes) -> bool:
    """Whether a closed day is what the owner of a public key signed; see `verify_signature`."""
    message = signed_message(row.day, row.closed_seq, row.totals)
    if hashlib.sha256(message).digest() != row.digest:
        return False
    return verify_signature(public_key, message, row.signature)
