"""Orders that users pay: placed, paid or not, closed; under both versions of the API.

    NOTPAY -> SUCCESS -> REFUND, or NOTPAY -> CLOSED

What was paid is on the merchant's basic account at once, less the fee. An order that nobody paid in
time stays NOTPAY until it is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from paymaster_sandbox.chassis import journal
from paymaster_sandbox.chassis.clock import SECOND
from paymaster_sandbox.wechat import parties
from paymaster_sandbox.wechat.flow import Flow, Movement

if TYPE_CHECKING:
    from paymaster_sandbox.chassis.base import Chassis
    from paymaster_sandbox.chassis.store import Tx
    from paymaster_sandbox.wechat.parties import Merchant

SCHEMA = """
CREATE TABLE IF NOT EXISTS wechat_order (
    prepay_id TEXT PRIMARY KEY, mchid TEXT NOT NULL, out_no TEXT NOT NULL, params TEXT NOT NULL,
    appid TEXT NOT NULL, channel TEXT NOT NULL, version INTEGER NOT NULL, method TEXT NOT NULL,
    openid TEXT, description TEXT NOT NULL, attach TEXT, total INTEGER NOT NULL,
    notify_url TEXT NOT NULL, state TEXT NOT NULL, created INTEGER NOT NULL,
    expires INTEGER NOT NULL, transaction_id TEXT UNIQUE, payer TEXT, paid INTEGER,
    fee INTEGER NOT NULL, UNIQUE (mchid, out_no)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS wechat_order_paid ON wechat_order (mchid, paid);
"""

PREPAY_LASTS: Final = 7200 * SECOND
_FEE_PER_10000: Final = 60


class OrderError(Exception):
    """An order is in no state for that. `reason`: differs, paid, closed, missing."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One order. `version` is that of the API it came by; `method` signs its notices in the old."""

    prepay_id: str
    mchid: str
    out_no: str
    params: str
    appid: str
    channel: str
    version: int
    method: str
    openid: str | None
    description: str
    attach: str | None
    total: int
    notify_url: str
    state: str = "NOTPAY"
    created: int
    expires: int
    transaction_id: str | None = None
    payer: str | None = None
    paid: int | None = None
    fee: int = 0


_COLUMNS: Final = tuple(field.name for field in fields(Order))
Told = Callable[["Tx", "Merchant", Order], None]


class Orders:
    """Every change of an order."""

    def __init__(self, chassis: Chassis, flow: Flow) -> None:
        self._chassis = chassis
        self._flow = flow
        self._paid: dict[int, Told] = {}

    def when_paid(self, version: int, told: Told) -> None:
        """Name the function that tells merchants about orders of one version of the API."""
        self._paid[version] = told

    def new_prepay_id(self, tx: Tx) -> str:
        """A number for an order that is to be placed."""
        return self._flow.number(tx, "wx")

    def place(self, tx: Tx, wanted: Order) -> Order:
        """Place an order, or find the one that the number stands for.

        Raises:
            OrderError: the number is that of another order, or of one that is paid or closed.
        """
        known = self.find(tx, wanted.mchid, out_no=wanted.out_no)
        if known is not None:
            if known.state != "NOTPAY":
                raise OrderError("closed" if known.state == "CLOSED" else "paid")
            if known.params != wanted.params:
                raise OrderError("differs")
            return known
        values = [getattr(wanted, name) for name in _COLUMNS]
        tx.run(
            f"INSERT INTO wechat_order ({', '.join(_COLUMNS)})"  # noqa: S608 - constant
            f" VALUES ({', '.join('?' * len(_COLUMNS))})",
            *values,
        )
        return wanted

    def find(
        self, tx: Tx, mchid: str, *, out_no: str = "", transaction_id: str = ""
    ) -> Order | None:
        """The merchant's order of one of its numbers."""
        where = "out_no = ?" if out_no else "transaction_id = ?"
        return self._one(tx, f"mchid = ? AND {where}", mchid, out_no or transaction_id)

    def waiting(self, tx: Tx) -> list[Order]:
        """Orders that can still be paid, oldest first."""
        rows = tx.all(
            "SELECT prepay_id FROM wechat_order WHERE state = 'NOTPAY' AND expires > ?"
            " ORDER BY created",
            tx.now,
        )
        found = [self._one(tx, "prepay_id = ?", number) for (number,) in rows]
        return [order for order in found if order is not None]

    def pay(self, tx: Tx, prepay_id: str, openid: str | None) -> Order:
        """Somebody pays. Raises OrderError if it cannot be paid (any more)."""
        order = self._one(tx, "prepay_id = ?", prepay_id)
        if order is None:
            raise OrderError("missing")
        if order.state != "NOTPAY" or tx.now > order.expires:
            raise OrderError("paid" if order.state in ("SUCCESS", "REFUND") else "closed")
        payer = order.openid or openid or "oSOMEBODY"
        number = self._flow.number(tx, "4200")
        fee = (order.total * _FEE_PER_10000 + 5000) // 10_000
        tx.run(
            "UPDATE wechat_order SET state = 'SUCCESS', transaction_id = ?, payer = ?, paid = ?,"
            " fee = ? WHERE prepay_id = ?",
            number, payer, tx.now, fee, prepay_id,
        )  # fmt: skip
        self._book(tx, order, "pay", order.total, number, f"wechat/user/{payer}")
        if fee:
            self._book(tx, order, "fee", -fee, number, "wechat/fees")
        journal.note(tx, "wechat.paid", out_no=order.out_no, transaction=number)
        merchant = parties.merchant(tx, order.mchid)
        done = self._one(tx, "prepay_id = ?", prepay_id)
        assert merchant is not None
        assert done is not None
        self._paid[order.version](tx, merchant, done)
        return done

    def close(self, tx: Tx, merchant: Merchant, out_no: str) -> None:
        """The merchant wants it no more. Raises OrderError."""
        order = self.find(tx, merchant.mchid, out_no=out_no)
        if order is None:
            raise OrderError("missing")
        if order.state in ("SUCCESS", "REFUND"):
            raise OrderError("paid")
        tx.run("UPDATE wechat_order SET state = 'CLOSED' WHERE prepay_id = ?", order.prepay_id)

    def _book(self, tx: Tx, order: Order, kind: str, amount: int, number: str, other: str) -> None:
        movement = Movement(
            mchid=order.mchid, account="BASIC", amount=amount, kind=kind, business_no=number,
            voucher=order.out_no, note=order.description,
        )  # fmt: skip
        self._flow.book(tx, movement, other)

    def _one(self, tx: Tx, condition: str, *values: str) -> Order | None:
        row = tx.one(
            f"SELECT {', '.join(_COLUMNS)} FROM wechat_order WHERE {condition}",  # noqa: S608 - constant
            *values,
        )
        if row is None:
            return None
        found: dict[str, Any] = dict(zip(_COLUMNS, row, strict=True))
        return Order(**found)
