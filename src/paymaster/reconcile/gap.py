"""A gap that no statement will close: a person says so, and it becomes a line to be explained.

Between two statements money moved that neither shows: the provider left a row out, or showed one
that moved nothing. The difference is kept as the one line of a statement of ours between the two,
on the day before the later one. From then on it is a line like all others: nothing explains it, so
its money lies in suspense, until it is told which payment it was, or where it belongs.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta

from paymaster.db import outbox
from paymaster.db.tx import CellTx
from paymaster.kernel.ids import parse_text_id, text_id
from paymaster.kernel.money import Money
from paymaster.rails.base import LineKind
from paymaster.reconcile import store
from paymaster.reconcile.breaks import Break
from paymaster.reconcile.store import Gap, NewLine, NewStatement


async def fill(tx: CellTx, row: Break) -> None:
    """Put the line of a gap between its statements; nothing if they meet by now.

    The account's lock is held. Two statements of one day have no day between them: the word alone
    must do there.
    """
    found = await store.find_gap(tx, parse_text_id("st", row.subject).id)
    if found is None:
        return
    day = found.day - timedelta(days=1)
    name = f"gap-{row.subject}"
    statement_id, entry_id = tx.ids(2)
    await store.insert_statement(
        tx,
        NewStatement(
            statement_id,
            found.rail_account_id,
            name,
            day,
            found.closing,
            found.opening,
            found.asset,
            1,
            hashlib.sha256(name.encode()).digest(),
            None,
            found.file_id,
            entry_id,
        ),
    )
    moved = found.opening - found.closing
    line = NewLine(name, LineKind.OTHER.value, moved, 0, day, None, None, None)
    await store.insert_lines(tx, statement_id, found.rail_account_id, found.asset, [line])
    await _announce(tx, found, statement_id, day.isoformat())


async def _announce(tx: CellTx, found: Gap, statement_id: int, day: str) -> None:
    account = text_id("ra", tx.cell, found.rail_account_id)
    payload = {
        "statement": text_id("st", tx.cell, statement_id),
        "rail_account": account,
        "day": day,
        "lines": 1,
        "closing": {
            "amount": Money(found.opening, found.asset).text(),
            "currency": found.asset,
        },
    }
    await outbox.put(tx, [outbox.Message("statement.stored", account, payload)])
