"""What WeChat Pay really did with everybody's money, read from its books."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paymaster_sandbox.chassis import ledger
from paymaster_sandbox.wechat import parties

if TYPE_CHECKING:
    from paymaster_sandbox.chassis.store import Tx

PAID = "SELECT openid, reference, 'CNY', amount, 0 FROM wechat_paid"
"""One row for each time that a user was given money, in the shape of `truth.books`."""


_MOVING = "state IN ('ACCEPTED', 'PROCESSING', 'TRANSFERING', 'CANCELING')"


def pending(tx: Tx) -> int:
    """How many payouts go on by themselves; those that wait for a user do not."""
    bills = int(tx.value(f"SELECT count(*) FROM wechat_bill WHERE {_MOVING}"))  # noqa: S608 - constant
    moving = "SELECT count(*) FROM wechat_batch WHERE state IN ('ACCEPTED', 'PROCESSING')"
    old = "SELECT count(*) FROM wechat_enterprise WHERE state = 'PROCESSING'"
    return bills + int(tx.value(moving)) + int(tx.value(old))


def books(tx: Tx) -> dict[str, object]:
    """Merchants' accounts, what each payee and each reference was paid, and what is still open."""
    payees = tx.all(
        "SELECT openid, count(*), sum(amount) FROM wechat_paid GROUP BY openid ORDER BY openid"
    )
    references = tx.all("SELECT reference, count(*) FROM wechat_paid GROUP BY reference")
    return {
        "merchants": merchants(tx),
        "payees": {openid: {"paid": count, "paid_fen": fen} for openid, count, fen in payees},
        "references": dict(references),
        "duplicates": sorted(reference for reference, count in references if count > 1),
        "proven": ledger.proven(tx),
    }


def merchants(tx: Tx) -> dict[str, object]:
    """What each merchant has, has paid out, and how far its transfers are."""
    rows = tx.all("SELECT mchid FROM wechat_merchant ORDER BY mchid")
    return {mchid: _merchant(tx, mchid) for (mchid,) in rows}


def _merchant(tx: Tx, mchid: str) -> dict[str, object]:
    paid = tx.one(
        "SELECT count(*), coalesce(sum(amount), 0) FROM wechat_paid WHERE mchid = ?", mchid
    )
    assert paid is not None
    states = tx.all("SELECT state, count(*) FROM wechat_bill WHERE mchid = ? GROUP BY state", mchid)
    return {
        **{f"{account}_fen": parties.balance(tx, mchid, account) for account in parties.ACCOUNTS},
        "held_fen": parties.balance(tx, mchid, "held"),
        "paid": paid[0],
        "paid_fen": paid[1],
        "bills": dict(states),
    }
