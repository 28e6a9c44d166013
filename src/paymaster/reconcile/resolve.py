"""A person ends a break: with an entry out of suspense, with another try, or with a word.

    explain   the suspended money is moved to where it belongs; the line is matched by the break
    retry     the matching looks at the line again, with a corrected reference, or with the
              difference to our own amount accepted as the rail's fee
    dismiss   breaks without money in suspense: the reason is enough
    fill      a gap between statements that none will close becomes a line, which is then explained

Limits and four eyes are for whoever calls; every act is audited with its reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from paymaster.db import audit
from paymaster.db.tx import CellTx
from paymaster.kernel.errors import Conflict, NotFound, Unprocessable
from paymaster.kernel.ids import Ref, parse_text_id, text_id
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.chart import HOUSE, Account
from paymaster.ledger.entry import Entry
from paymaster.ledger.post import post
from paymaster.reconcile import breaks, gap, store
from paymaster.reconcile.breaks import Break, Kind
from paymaster.reconcile.store import Concluded, LineRow

TARGETS = frozenset({"budget", "rail_fees", "equity", "loss", "commission", "transit"})
"""Kinds of accounts that suspended money may be explained by."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where suspended money belongs; `campaign_id` only for a budget."""

    kind: str
    campaign_id: int | None = None


async def resolve(tx: CellTx, break_id: int, reason: str, target: Target | None = None) -> Break:
    """End a break.

    Raises NotFound `not-found`; Conflict `break-resolved`, `line-in-work`; Unprocessable
    `reason-missing`, `break-needs-entry`, `break-has-no-money`, `break-target`,
    `posting-refused`.
    """
    if not reason.strip():
        raise Unprocessable("reason-missing", "Say why the break is resolved.")
    known = await breaks.find(tx, break_id)
    line = await _line_of(tx, known.subject)
    if known.kind == Kind.STATEMENT_GAP:
        await store.lock_account(tx, known.rail_account_id)
    row = await breaks.lock(tx, break_id)
    if line is not None and line.state in {"open", "asked"}:
        raise Conflict("line-in-work", "The line is being matched again: look at it once more.")
    in_suspense = line is not None and line.state == "break" and line.amount != 0
    if target is None:
        if in_suspense:
            raise Unprocessable(
                "break-needs-entry",
                "The line's money lies in suspense: say where it belongs, or let it be retried.",
            )
        if line is not None and line.state == "break":
            await _conclude(tx, line, row)
        if row.kind == Kind.STATEMENT_GAP:
            await gap.fill(tx, row)
        return await breaks.close(tx, row, reason)
    if line is None or not in_suspense:
        raise Unprocessable("break-has-no-money", "There is no money in suspense for this break.")
    await _explain(tx, line, row, reason, target)
    return await breaks.close(tx, row, reason)


async def at_stake(tx: CellTx, break_id: int) -> Money | None:
    """The money in suspense that resolving a break would book; None when there is none.

    Raises NotFound `not-found`.
    """
    line = await _line_of(tx, (await breaks.find(tx, break_id)).subject)
    return line.money if line is not None and line.state == "break" and line.amount else None


async def line_money(tx: CellTx, line_id: int) -> Money | None:
    """What a line in doubt is about; None when there is nothing to retry.

    Where its amount differs from our own, the larger of the two: a cent that is accepted for a
    thousand books a thousand.
    """
    found = await store.lock_lines(tx, [line_id])
    if not found or found[0].state != "break":
        return None
    seen = await _difference(tx, found[0])
    expected = 0 if seen is None else abs(seen.expected or 0)
    return Money(max(abs(found[0].amount), expected), found[0].asset)


async def _difference(tx: CellTx, line: LineRow) -> Break | None:
    """The open break that says by how much a line differs; None when none does."""
    known = await breaks.of_subject(tx, text_id("sl", tx.cell, line.id))
    found = [one for one in known if one.state == "open" and one.kind == Kind.AMOUNT_DIFFERS]
    return found[0] if found else None


async def _line_of(tx: CellTx, subject: str) -> LineRow | None:
    """The statement line that a break is about, locked before the break as everywhere."""
    if not subject.startswith("sl_"):
        return None
    found = await store.lock_lines(tx, [parse_text_id("sl", subject).id])
    return found[0] if found else None


async def _explain(tx: CellTx, line: LineRow, row: Break, reason: str, target: Target) -> None:
    entry = Entry(
        tx.id(),
        "explain",
        text_id("sl", tx.cell, line.id),
        recipes.explain(line.rail_account_id, _account(line, target), line.money),
        evidence={"break": text_id("br", tx.cell, row.id), "reason": reason},
    )
    (posted,) = await post(tx, [entry])
    if not posted.done:
        raise Unprocessable(
            "posting-refused", f"The books refuse the entry: {posted.verdict.value}."
        )
    await _conclude(tx, line, row)


async def _conclude(tx: CellTx, line: LineRow, row: Break) -> None:
    name = text_id("br", tx.cell, row.id)
    posted_id = line.posted_id or line.entry_id
    await store.mark_concluded(tx, [Concluded(line.id, "matched", posted_id, name)])


def _account(line: LineRow, target: Target) -> Account:
    if target.kind not in TARGETS:
        raise Unprocessable(
            "break-target", f"Suspended money can only go to: {', '.join(sorted(TARGETS))}."
        )
    if (target.kind == "budget") != (target.campaign_id is not None):
        raise Unprocessable("break-target", "A budget needs its campaign, nothing else has one.")
    if target.campaign_id is not None:
        return Account("budget", target.campaign_id, line.asset)
    owner = line.rail_account_id if target.kind == "rail_fees" else HOUSE
    return Account(target.kind, owner, line.asset)


async def retry(
    tx: CellTx,
    line: Ref,
    reason: str,
    *,
    reference: str | None = None,
    accept_difference: bool = False,
) -> None:
    """Let the matching look again at a line in doubt; its break clears itself if it matches.

    Raises NotFound `not-found`, Conflict `line-in-work`, Unprocessable `reason-missing`, or
    `difference-unseen` for a difference that no break shows, or not with this reference.
    """
    if not reason.strip():
        raise Unprocessable("reason-missing", "Say why the line is looked at again.")
    found = await store.lock_lines(tx, [line.id])
    if not found:
        raise NotFound("not-found", "There is no statement line of this id.")
    if found[0].state != "break":
        raise Conflict("line-in-work", f"The line is {found[0].state}: nothing to retry.")
    if accept_difference and (reference is not None or await _difference(tx, found[0]) is None):
        raise Unprocessable(
            "difference-unseen", "Correct the reference first: then its break shows a difference."
        )
    await store.mark_retry(tx, line.id, reference, accepted=accept_difference)
    detail = {"reference": reference, "accept_difference": accept_difference}
    await audit.record(
        tx, [audit.Act("line.retry", text_id("sl", tx.cell, line.id), reason, detail)]
    )
