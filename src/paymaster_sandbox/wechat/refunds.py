"""Refunds of paid orders, whole or in parts: PROCESSING -> SUCCESS | ABNORMAL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from paymaster_sandbox.chassis import journal, oracle
from paymaster_sandbox.chassis.clock import SECOND
from paymaster_sandbox.wechat import mishaps, parties
from paymaster_sandbox.wechat.flow import Flow, Movement
from paymaster_sandbox.wechat.transfers import DAY

if TYPE_CHECKING:
    from paymaster_sandbox.chassis.schedule import Schedule
    from paymaster_sandbox.chassis.store import Tx
    from paymaster_sandbox.wechat.orders import Order, Orders
    from paymaster_sandbox.wechat.parties import Merchant

SCHEMA = """
CREATE TABLE IF NOT EXISTS wechat_refund (
    refund_id TEXT PRIMARY KEY, mchid TEXT NOT NULL, out_no TEXT NOT NULL,
    order_no TEXT NOT NULL, params TEXT NOT NULL, amount INTEGER NOT NULL,
    notify_url TEXT, version INTEGER NOT NULL, state TEXT NOT NULL, created INTEGER NOT NULL,
    done INTEGER, fee INTEGER NOT NULL, UNIQUE (mchid, out_no)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS wechat_refund_order ON wechat_refund (mchid, order_no);
"""

_WITHIN: Final = 365 * DAY
_MOST: Final = 50
_BETWEEN: Final = 60 * SECOND


class RefundError(Exception):
    """It cannot be refunded. `reason`: differs, unpaid, late, most, quick, too_much, money."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    """One refund. `order_no` is the merchant's number of the order."""

    refund_id: str
    mchid: str
    out_no: str
    order_no: str
    params: str
    amount: int
    notify_url: str | None
    version: int
    state: str = "PROCESSING"
    created: int
    done: int | None = None
    fee: int = 0


_COLUMNS: Final = tuple(field.name for field in fields(Refund))
Told = Callable[["Tx", "Merchant", "Order", Refund], None]


class Refunds:
    """Every change of a refund."""

    def __init__(self, schedule: Schedule, flow: Flow, orders: Orders) -> None:
        self._schedule = schedule
        self._flow = flow
        self._orders = orders
        self._told: dict[int, Told] = {}
        schedule.handle("wechat.refund.done", self._done)

    def when_done(self, version: int, told: Told) -> None:
        """Name the function that tells merchants about refunds of one version of the API."""
        self._told[version] = told

    def new_id(self, tx: Tx) -> str:
        """A number for a refund that is to be made."""
        return self._flow.number(tx, "5030")

    def make(self, tx: Tx, order: Order, wanted: Refund) -> Refund:
        """Give money back, or find that this number did so before.

        Raises:
            RefundError: the number was used for something else, or it cannot be refunded.
        """
        known = self.find(tx, wanted.mchid, wanted.out_no)
        if known is not None:
            if known.params != wanted.params:
                raise RefundError("differs")
            return known
        self._check(tx, order, wanted)
        fee = order.fee * wanted.amount // order.total
        self._book(tx, order, wanted, "refund", -wanted.amount, f"wechat/user/{order.payer}")
        if fee:
            self._book(tx, order, wanted, "fee-back", fee, "wechat/fees")
        tx.run(
            f"INSERT INTO wechat_refund ({', '.join(_COLUMNS)})"  # noqa: S608 - constant
            f" VALUES ({', '.join('?' * len(_COLUMNS))})",
            *[fee if name == "fee" else getattr(wanted, name) for name in _COLUMNS],
        )
        tx.run("UPDATE wechat_order SET state = 'REFUND' WHERE prepay_id = ?", order.prepay_id)
        after = mishaps.setting(tx, "refund_seconds")
        self._schedule.put(tx, "wechat.refund.done", wanted.refund_id, after)
        return self.get(tx, wanted.refund_id)

    def _check(self, tx: Tx, order: Order, wanted: Refund) -> None:
        if order.paid is None:
            raise RefundError("unpaid")
        if tx.now - order.paid > _WITHIN:
            raise RefundError("late")
        before = self.of(tx, order)
        if len(before) >= _MOST:
            raise RefundError("most")
        if before and tx.now - max(one.created for one in before) < _BETWEEN:
            raise RefundError("quick")
        if sum(one.amount for one in before) + wanted.amount > order.total:
            raise RefundError("too_much")
        if parties.balance(tx, order.mchid, "BASIC") < wanted.amount:
            raise RefundError("money")

    def of(self, tx: Tx, order: Order) -> list[Refund]:
        """An order's refunds, oldest first."""
        rows = tx.all(
            "SELECT refund_id FROM wechat_refund WHERE mchid = ? AND order_no = ?"
            " ORDER BY created, refund_id",
            order.mchid, order.out_no,
        )  # fmt: skip
        return [self.get(tx, number) for (number,) in rows]

    def find(self, tx: Tx, mchid: str, out_no: str) -> Refund | None:
        """The merchant's refund of its own number."""
        row = tx.one(
            "SELECT refund_id FROM wechat_refund WHERE mchid = ? AND out_no = ?", mchid, out_no
        )
        return None if row is None else self.get(tx, row[0])

    def get(self, tx: Tx, refund_id: str) -> Refund:
        """A refund that exists."""
        row = tx.one(
            f"SELECT {', '.join(_COLUMNS)} FROM wechat_refund WHERE refund_id = ?",  # noqa: S608 - constant
            refund_id,
        )
        assert row is not None
        found: dict[str, Any] = dict(zip(_COLUMNS, row, strict=True))
        return Refund(**found)

    def _done(self, tx: Tx, refund_id: str) -> None:
        """The money has reached the payer; or it could not, and somebody has to look."""
        refund = self.get(tx, refund_id)
        order = self._orders.find(tx, refund.mchid, out_no=refund.order_no)
        assert order is not None
        payer = order.payer or ""
        stuck = "fail" in oracle.ask(tx, payer)
        if stuck:
            oracle.fulfil(tx, payer, "fail")
        tx.run(
            "UPDATE wechat_refund SET state = ?, done = ? WHERE refund_id = ?",
            "ABNORMAL" if stuck else "SUCCESS", tx.now, refund_id,
        )  # fmt: skip
        journal.note(tx, "wechat.refund", out_no=refund.out_no, stuck=stuck)
        merchant = parties.merchant(tx, refund.mchid)
        assert merchant is not None
        self._told[refund.version](tx, merchant, order, self.get(tx, refund_id))

    def _book(
        self, tx: Tx, order: Order, refund: Refund, kind: str, amount: int, other: str
    ) -> None:
        movement = Movement(
            mchid=order.mchid, account="BASIC", amount=amount, kind=kind,
            business_no=refund.refund_id, voucher=refund.out_no, note=order.description,
        )  # fmt: skip
        self._flow.book(tx, movement, other)
