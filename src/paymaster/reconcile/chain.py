"""The chain of an account's statements: each begins where the one before ended.

The first one opens the account's books. A gap is a break that closes itself when the missing
statement comes.
"""

from __future__ import annotations

from datetime import date

from paymaster.db.tx import CellTx
from paymaster.kernel.clock import start_of_day
from paymaster.kernel.errors import Broken
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.entry import Entry
from paymaster.ledger.post import post
from paymaster.rails.base import RailAccount, Statement
from paymaster.reconcile import breaks, store
from paymaster.reconcile.breaks import Kind, NewBreak
from paymaster.reconcile.store import StatementRow


async def open_books(
    tx: CellTx, account: RailAccount, row_id: int, entry_id: int, statement: Statement
) -> None:
    """What was on the account before its first statement is the owner's money."""
    if not statement.opening:
        return
    name = text_id("st", tx.cell, row_id)
    entry = Entry(
        entry_id,
        "opening",
        name,
        recipes.opening(account.id, statement.opening),
        effective_at=start_of_day(statement.day, tx.time_zone),
        evidence={"statement": name},
    )
    (posted,) = await post(tx, [entry])
    if not posted.done:
        raise Broken("opening-refused", f"The books refuse the opening: {posted.verdict.value}.")


async def check(
    tx: CellTx,
    account: RailAccount,
    row_id: int,
    before: StatementRow | None,
    statement: Statement,
) -> None:
    """Compare a new statement with the one before it and the one after."""
    if before is not None and before.closing != statement.opening.minor:
        closing = Money(before.closing, account.currency)
        gap = _gap(tx, account, row_id, closing, statement.opening, statement.day)
        await breaks.open_all(tx, [gap])
    await check_next(tx, account, statement)


async def check_next(tx: CellTx, account: RailAccount, statement: Statement) -> None:
    """This statement may be the one that a later one lacked."""
    later = await store.next_after(tx, account.id, statement.day)
    if later is None:
        return
    if later.opening == statement.closing.minor:
        name = text_id("st", tx.cell, later.id)
        reason = "The statement before it has come."
        await breaks.clear(tx, [name], reason, kinds=[Kind.STATEMENT_GAP])
        return
    opening = Money(later.opening, account.currency)
    gap = _gap(tx, account, later.id, statement.closing, opening, later.day)
    await breaks.open_all(tx, [gap])


def _gap(
    tx: CellTx, account: RailAccount, row_id: int, closing: Money, opening: Money, day: date
) -> NewBreak:
    return NewBreak(
        account.id,
        day,
        Kind.STATEMENT_GAP,
        text_id("st", tx.cell, row_id),
        account.currency,
        f"It opens with {opening}; the one before closed with {closing}.",
        closing.minor,
        opening.minor,
    )
