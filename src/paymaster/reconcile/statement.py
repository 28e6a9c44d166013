"""A provider's statement of a day, kept once: the same again changes nothing.

    repeated    the same statement under the same or another name: nothing to do
    restated    the same day again with all the old lines and more: the new lines are added
    changed     the same again, but something of it is different: not taken over, a break
    early       from before the account's books begin: already inside the opening balance, a break
    stored      everything else; a break when it does not begin where the one before ended

The first statement of an account opens its books: what was on it is the owner's money.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from paymaster.db import outbox
from paymaster.db.tx import CellTx
from paymaster.dispatch.accounts import PayoutAccount
from paymaster.kernel.errors import Refusal
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.rails.base import RailAccount, Statement
from paymaster.reconcile import breaks, chain, content, store
from paymaster.reconcile.breaks import Kind, NewBreak
from paymaster.reconcile.store import NewLine, NewStatement, StatementRow
from paymaster.secrets.sealing import Sealer

Outcome = Literal["stored", "restated", "repeated", "changed", "early"]


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of a statement: its id here, and how many lines were new."""

    name: str
    outcome: Outcome
    id: int | None
    lines: int = 0


async def store_all(
    tx: CellTx,
    sealer: Sealer,
    account: RailAccount,
    file_id: int,
    statements: Sequence[Statement],
) -> list[Stored]:
    """Keep the statements of one file, oldest first. In the treasury cell only.

    Raises Refusal `statement-foreign` (not in the account's currency) or `statement-malformed`
    (it does not add up); then nothing of the file is kept.
    """
    await store.lock_account(tx, account.id)
    for statement in statements:
        _check(account, statement)
    ordered = sorted(statements, key=lambda statement: statement.day)
    return [await _store(tx, sealer, account, file_id, each) for each in ordered]


async def on_statements(
    tx: CellTx,
    sealer: Sealer,
    account: PayoutAccount,
    file_id: int,
    statements: Sequence[Statement],
) -> None:
    """What `settle.files.poll` is given: keep the statements of a file that was read."""
    await store_all(tx, sealer, account.rail, file_id, statements)


def _check(account: RailAccount, statement: Statement) -> None:
    amounts = [statement.opening, statement.closing]
    amounts += [money for line in statement.lines for money in (line.amount, line.fee)]
    if any(money.currency != account.currency for money in amounts):
        raise Refusal("statement-foreign", f"The statement is not in {account.currency} alone.")
    moved = sum(line.amount.minor - line.fee.minor for line in statement.lines)
    if statement.opening.minor + moved != statement.closing.minor:
        raise Refusal("statement-malformed", "Opening balance and lines do not give the closing.")
    if any(line.fee.minor < 0 for line in statement.lines):
        raise Refusal("statement-malformed", "A line has a negative fee.")


async def _store(
    tx: CellTx, sealer: Sealer, account: RailAccount, file_id: int, statement: Statement
) -> Stored:
    digest = content.digest(statement)
    known = await store.find_statement(tx, account.id, statement.statement_id)
    if known is not None:
        if known.digest == digest:
            return Stored(statement.statement_id, "repeated", known.id)
        return await _changed(tx, account, known, statement)
    first = await store.first(tx, account.id)
    if first is not None and statement.day < first.day:
        return await _early(tx, account, first, statement)
    before = await store.last_until(tx, account.id, statement.day)
    if before is not None and before.day == statement.day:
        if before.digest == digest:
            return Stored(statement.statement_id, "repeated", before.id)
        if before.opening == statement.opening.minor:
            return await _restate(tx, sealer, account, file_id, before, statement)
    return await _keep(tx, sealer, account, file_id, before, statement)


async def _keep(
    tx: CellTx,
    sealer: Sealer,
    account: RailAccount,
    file_id: int,
    before: StatementRow | None,
    statement: Statement,
) -> Stored:
    row = await _insert(tx, account, file_id, statement, len(statement.lines), None)
    for piece in content.chunks(statement):
        known = await store.known_lines(tx, account.id, [name for name, _ in piece])
        # A line that an earlier statement had counts a second time in this one's balances.
        again = f"@{statement.statement_id}"
        named = [(name + again if name in known else name, line) for name, line in piece]
        new = content.rows(sealer, account.id, named)
        await store.insert_lines(tx, row.id, account.id, account.currency, new)
    if before is None:
        await chain.open_books(tx, account, row.id, row.entry_opening, statement)
    await chain.check(tx, account, row.id, before, statement)
    await _announce(tx, account, row.id, statement, row.lines)
    return Stored(statement.statement_id, "stored", row.id, row.lines)


async def _restate(
    tx: CellTx,
    sealer: Sealer,
    account: RailAccount,
    file_id: int,
    before: StatementRow,
    statement: Statement,
) -> Stored:
    """The day came again: take over what is new if all that was there still is, as it was."""
    seen = 0
    new: list[NewLine] = []
    for piece in content.chunks(statement):
        known = await store.known_lines(tx, account.id, [name for name, _ in piece])
        for name, line in piece:
            if name in known and known[name] != (statement.day, *content.content(line)):
                return await _changed(tx, account, before, statement)
        seen += len(known)
        fresh = [pair for pair in piece if pair[0] not in known]
        new.extend(content.rows(sealer, account.id, fresh))
    if seen != await store.count_lines(tx, account.id, statement.day):
        return await _changed(tx, account, before, statement)
    row = await _insert(tx, account, file_id, statement, len(new), before.id)
    for start in range(0, len(new), content.CHUNK):
        part = new[start : start + content.CHUNK]
        await store.insert_lines(tx, row.id, account.id, account.currency, part)
    await chain.check_next(tx, account, statement)
    await _announce(tx, account, row.id, statement, row.lines)
    return Stored(statement.statement_id, "restated", row.id, row.lines)


async def _changed(
    tx: CellTx, account: RailAccount, known: StatementRow, statement: Statement
) -> Stored:
    closing = Money(known.closing, account.currency)
    found = NewBreak(
        account.id,
        known.day,
        Kind.STATEMENT_CHANGED,
        text_id("st", tx.cell, known.id),
        account.currency,
        f"{statement.statement_id[:80]} of {statement.day} came with other content than kept: "
        f"{len(statement.lines)} lines closing at {statement.closing}, kept is {closing}.",
        known.closing,
        statement.closing.minor,
    )
    await breaks.open_all(tx, [found])
    return Stored(statement.statement_id, "changed", known.id)


async def _early(
    tx: CellTx, account: RailAccount, first: StatementRow, statement: Statement
) -> Stored:
    subject = f"{text_id('ra', tx.cell, account.id)}/{statement.statement_id[:80]}"
    found = NewBreak(
        account.id,
        first.day,
        Kind.STATEMENT_EARLY,
        subject,
        account.currency,
        f"A statement of {statement.day} came; the account's books begin on {first.day}, with all "
        "that was booked before.",
        first.opening,
        statement.closing.minor,
    )
    await breaks.open_all(tx, [found])
    return Stored(statement.statement_id, "early", None)


async def _insert(
    tx: CellTx,
    account: RailAccount,
    file_id: int,
    statement: Statement,
    lines: int,
    restates_id: int | None,
) -> NewStatement:
    row_id, entry_id = tx.ids(2)
    row = NewStatement(
        row_id,
        account.id,
        statement.statement_id,
        statement.day,
        statement.opening.minor,
        statement.closing.minor,
        account.currency,
        lines,
        content.digest(statement),
        restates_id,
        file_id,
        entry_id,
    )
    await store.insert_statement(tx, row)
    return row


async def _announce(
    tx: CellTx, account: RailAccount, row_id: int, statement: Statement, lines: int
) -> None:
    payload = {
        "statement": text_id("st", tx.cell, row_id),
        "rail_account": text_id("ra", tx.cell, account.id),
        "day": statement.day.isoformat(),
        "lines": lines,
        "closing": {"amount": statement.closing.text(), "currency": account.currency},
    }
    key = text_id("ra", tx.cell, account.id)
    await outbox.put(tx, [outbox.Message("statement.stored", key, payload)])
