"""Where a user's money is: all of it, from one snapshot, so that the parts sum to the books.

    available    may be withdrawn
    maturing     earned, available later
    reserve      matured, kept aside until its date
    held         set aside here: for a withdrawal that has not left, or for something else
    sent         with a bank or wallet, and set aside until that is known to be paid
    in transit   paid, and not on a statement yet; no longer the user's, but not proven either
    debt         owed; what is earned next pays it back

`held` and `sent` together are the account of what is held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from paymaster.db.tx import CellRead
from paymaster.earn import reserve, vesting
from paymaster.earn.reserve import Kept
from paymaster.earn.vesting import Maturing
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.ids import Ref, text_id
from paymaster.kernel.language import Language
from paymaster.kernel.money import Money
from paymaster.ledger import balance
from paymaster.ledger.balance import Balance, Held
from paymaster.withdraw import holds, view_store, words
from paymaster.withdraw import whereabouts_store as store
from paymaster.withdraw.explain import Expected, Explained
from paymaster.withdraw.machine import State
from paymaster.withdraw.view import Summary

LATELY: Final = timedelta(days=30)
"""How long something that came back is listed."""

Expects = Callable[[Explained], Expected]
Rails = Callable[[int | None], str | None]


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """All that is known of a user's money."""

    user: Ref
    balances: Sequence[Balance]
    maturing: Sequence[Maturing]
    kept: Sequence[Kept]
    other_holds: Sequence[Held]
    under_way: Sequence[Explained]
    came_back: Sequence[Explained]
    in_transit: Mapping[str, int]

    def wire(self, language: Language, expects: Expects, rails: Rails) -> dict[str, Any]:
        """For JSON, in the earner's words."""
        return {
            "user": text_id("us", self.user.cell, self.user.id),
            "as_of_seq": max((one.as_of_seq for one in self.balances), default=0),
            "data": [self._currency(one, language, expects, rails) for one in self.balances],
        }

    def _currency(
        self, one: Balance, language: Language, expects: Expects, rails: Rails
    ) -> dict[str, Any]:
        asset = one.currency
        mine = [each for each in self.under_way if each.summary.amount.currency == asset]
        here = [each for each in mine if each.stands.money == "set-aside"]
        gone = [each for each in mine if each.stands.money != "set-aside"]
        sent = sum(
            each.summary.total.minor for each in gone if each.summary.row.state != State.PAID
        )
        shown = [_held(each, language, expects(each), each.next(None)) for each in here]
        other = [each for each in self.other_holds if each.amount.currency == asset]
        return {
            "currency": asset,
            "available": _money(one.available),
            "withdrawable": _money(one.withdrawable),
            "maturing": {
                "total": _money(one.vesting),
                "items": [
                    {"amount": _money(each.amount), "matures_at": rfc3339(each.matures_at)}
                    for each in self.maturing
                    if each.amount.currency == asset
                ],
            },
            "reserve": {
                "total": _money(one.reserve),
                "items": [
                    {"amount": _money(each.amount), "releases_at": rfc3339(each.releases_at)}
                    for each in self.kept
                    if each.amount.currency == asset
                ],
            },
            "held": {
                "total": _money(one.held - Money(sent, asset)),
                "items": [*shown, *(_other(each, language) for each in other)],
            },
            "sent": {
                "total": _money(Money(sent, asset)),
                "items": [_sent(each, language, expects(each)) for each in gone],
            },
            "in_transit": _money(Money(self.in_transit.get(asset, 0), asset)),
            "returned": {
                "items": [
                    _back(each, language, rails(each.summary.row.rail_account_id))
                    for each in self.came_back
                    if each.summary.amount.currency == asset
                ]
            },
            "debt": {
                "total": _money(one.debt),
                "message": words.common("debt", "by").text(language) if one.debt else None,
            },
        }


def _held(one: Explained, language: Language, expected: Expected, who: str) -> dict[str, Any]:
    return {
        "amount": _money(one.summary.total),
        "reason": "withdrawal",
        "ref": one.summary.id,
        "stage": one.stands.stage,
        "message": one.stands.now.text(language),
        "next": who,
        "expected": expected.wire(language),
    }


def _other(one: Held, language: Language) -> dict[str, Any]:
    """A hold that is for no withdrawal: a reservation of the app's."""
    return {
        "amount": _money(one.amount),
        "reason": one.reason,
        "ref": one.subject,
        "stage": "held",
        "message": words.common("held", "other").text(language),
        "next": "operator",
        "expected": None,
    }


def _sent(one: Explained, language: Language, expected: Expected) -> dict[str, Any]:
    paid = one.summary.row.state == State.PAID
    return {
        "amount": _money(one.summary.amount),
        "payout": _money(one.summary.payout),
        "total": _money(one.summary.total),
        "ref": one.summary.id,
        "stage": one.stands.stage,
        "message": one.now(language),
        "next": one.next(None),
        "paid": paid,
        "expected": None if paid else expected.wire(language),
    }


def _back(one: Explained, language: Language, rail: str | None) -> dict[str, Any]:
    failure, summary = one.failure(rail), one.summary
    came_back = summary.came_back if summary.row.state == State.RETURNED else summary.total
    return {
        "amount": _money(came_back),
        "repaid": _money(one.repaid) if one.repaid else None,
        "ref": summary.id,
        "stage": one.stands.stage,
        "at": rfc3339(one.moves[-1].moved_at),
        "message": one.stands.now.text(language),
        "failure": None if failure is None else failure.wire(language),
    }


def _money(money: Money) -> dict[str, str]:
    return {"amount": money.text(), "currency": money.currency}


async def gather(tx: CellRead, user_id: int) -> Whereabouts:
    """Everything, from the snapshot of `tx`."""
    found = await balance.balances(tx, user_id)
    open_ids = await store.under_way(tx, user_id)
    back_ids = await store.came_back(tx, user_id, tx.now - LATELY)
    rows = await view_store.shown(tx, [*open_ids, *back_ids])
    frozen = await holds.frozen(tx, [row for row in rows if row.id in set(open_ids)])
    attempts = await store.latest_attempts(tx, [row.id for row in rows])
    moves = await store.latest_moves(tx, [row.id for row in rows])
    repaid = await view_store.repayments(tx, back_ids)
    explained = {
        row.id: Explained(
            Summary(Ref(tx.cell, row.id), row),
            [moves[row.id]] if row.id in moves else [],
            [attempts[row.id]] if row.id in attempts else [],
            frozen.get(row.id),
            repaid.get(row.id),
        )
        for row in rows
    }
    subjects = {one.summary.id for one in explained.values()}
    return Whereabouts(
        Ref(tx.cell, user_id),
        found,
        await vesting.of_user(tx, user_id),
        await reserve.of_user(tx, user_id),
        [one for one in await balance.holds(tx, user_id) if one.subject not in subjects],
        [explained[one] for one in open_ids],
        [explained[one] for one in back_ids],
        await in_transit(tx, user_id),
    )


async def in_transit(tx: CellRead, user_id: int) -> dict[str, int]:
    """What was paid to a user and is on no statement yet, in minor units by currency."""
    return await store.in_transit(tx, user_id)
