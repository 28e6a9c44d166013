"""The money of moves: what the table names is posted, all of a batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from paymaster.db.tx import CellTx
from paymaster.kernel.errors import Broken
from paymaster.kernel.ids import text_id
from paymaster.kernel.machine import Move
from paymaster.ledger import recipes
from paymaster.ledger.balance import owing
from paymaster.ledger.entry import Entry
from paymaster.ledger.hold import Settle, settle
from paymaster.ledger.post import post
from paymaster.withdraw.store import Withdrawal

if TYPE_CHECKING:
    from paymaster.withdraw.moves import Step


class Plan(NamedTuple):
    """A step that the table allows; `slug` is set when it was turned into a review."""

    place: int
    row: Withdrawal
    step: Step
    move: Move
    reason: str | None
    slug: str | None = None


async def book(tx: CellTx, plans: Sequence[Plan]) -> dict[int, bool]:
    """Post the money of each plan that has some: whether the books took it, by index."""
    out_of_hold: list[tuple[int, Settle]] = []
    back: list[tuple[int, Entry]] = []
    for plan in plans:
        row, index = plan.row, plan.place
        match plan.move.recipe:
            case "release":
                postings = recipes.release(row.user_id, row.total)
                entry = _entry(tx, plan, row.entry_release, postings)
                out_of_hold.append((index, Settle(row.hold_id, entry, row.total, "released")))
            case "paid":
                postings = recipes.paid(row.user_id, _rail(row), row.given, row.fees, row.net)
                entry = _entry(tx, plan, row.entry_paid, postings)
                out_of_hold.append((index, Settle(row.hold_id, entry, row.total, "captured")))
            case "returned":
                back_too = row.fees if row.fee_back else None
                postings = recipes.returned(row.user_id, _rail(row), row.given, row.net, back_too)
                back.append((index, _entry(tx, plan, row.entry_returned, postings)))
            case None:
                pass
            case other:
                raise Broken("recipe-unknown", f"No withdrawal posts {other!r}.")
    verdicts = await settle(tx, [command for _, command in out_of_hold])
    verdicts += await post(tx, [entry for _, entry in back])
    indexes = [index for index, _ in out_of_hold] + [index for index, _ in back]
    done = {index: posted.done for index, posted in zip(indexes, verdicts, strict=True)}
    await _recover(tx, [plan for plan in plans if done.get(plan.place)])
    return done


async def _recover(tx: CellTx, plans: Sequence[Plan]) -> None:
    """Money that is available again first pays back what was owed since it was set aside.

    The look-up comes after the postings: their locks keep a reversal from getting in between.
    """
    back = [plan for plan in plans if plan.move.recipe in ("release", "returned")]
    owed: set[tuple[int, str]] = set()
    for asset in sorted({plan.row.asset for plan in back}):
        users = sorted({plan.row.user_id for plan in back if plan.row.asset == asset})
        owed |= {(user, asset) for user in await owing(tx, users, asset)}
    entries: list[Entry] = []
    for plan in back:
        row = plan.row
        if (row.user_id, row.asset) in owed:
            whole = plan.move.recipe == "release" or row.fee_back
            most = row.total if whole else row.given
            subject = text_id("wd", tx.cell, row.id)
            posting = recipes.recover(row.user_id, most)
            entries.append(Entry(tx.id(), "recover", subject, (posting,)))
    for posted in await post(tx, entries):
        if not posted.done:
            raise Broken("books-refused", f"Debt was not paid back: {posted.verdict}.")


def _entry(tx: CellTx, plan: Plan, entry_id: int, postings: recipes.Postings) -> Entry:
    return Entry(
        entry_id,
        plan.move.recipe or "",
        text_id("wd", tx.cell, plan.row.id),
        postings,
        evidence={
            "event": plan.move.event.value,
            "reason": plan.reason,
            "trace_id": plan.row.trace_id,
            **_exchange(tx, plan.row),
        },
    )


def _exchange(tx: CellTx, row: Withdrawal) -> dict[str, str]:
    """At which rate, by which quote: whole units of the payout for one of what was given, `n/d`."""
    if row.rate is None or row.quote_id is None:
        return {}
    return {"rate": row.rate, "quote": text_id("qt", tx.cell, row.quote_id)}


def _rail(row: Withdrawal) -> int:
    """The rail account that was chosen. Raises Broken when a paid withdrawal has none."""
    if row.rail_account_id is None:
        raise Broken("rail-account-missing", f"Withdrawal {row.id} was sent without an account.")
    return row.rail_account_id
