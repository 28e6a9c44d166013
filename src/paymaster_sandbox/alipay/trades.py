"""Money in: orders that people pay.

An order that was announced does not exist for the provider before somebody opened it: a query says
so, and closing it then closes nothing, while its page or QR code can still be paid.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any, Final

from paymaster_sandbox.alipay.apps import Apps, Call, User, number, user_name
from paymaster_sandbox.alipay.wire import (
    Fields,
    amount,
    beijing,
    from_beijing,
    invalid,
    missing,
    refused,
    text,
    yuan,
)
from paymaster_sandbox.chassis import journal
from paymaster_sandbox.chassis.base import Chassis
from paymaster_sandbox.chassis.clock import SECOND
from paymaster_sandbox.chassis.schedule import Schedule
from paymaster_sandbox.chassis.store import Tx

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS alipay_trade (
    seq INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, app_id TEXT NOT NULL,
    out_trade_no TEXT NOT NULL, trade_no TEXT NOT NULL UNIQUE, content TEXT NOT NULL,
    total INTEGER NOT NULL, subject TEXT NOT NULL, status TEXT NOT NULL, buyer TEXT,
    refunded INTEGER NOT NULL, created INTEGER NOT NULL, paid INTEGER, notify_url TEXT NOT NULL,
    return_url TEXT NOT NULL, charset TEXT NOT NULL, passback TEXT NOT NULL,
    UNIQUE (app_id, out_trade_no)
);
"""

ANNOUNCED: Final = "ANNOUNCED"
WAITING: Final = "WAIT_BUYER_PAY"
SUCCESS: Final = "TRADE_SUCCESS"
FINISHED: Final = "TRADE_FINISHED"
CLOSED: Final = "TRADE_CLOSED"
LAPSED: Final = "LAPSED"
_NOWHERE: Final = (ANNOUNCED, LAPSED)
_COLUMNS: Final = (
    "token, app_id, out_trade_no, trade_no, content, total, subject, status, buyer, refunded,"
    " created, paid, notify_url, return_url, charset, passback"
)
_MINUTE: Final = 60 * SECOND
_DAY: Final = 1440 * _MINUTE
_QR_LASTS: Final = 120 * _MINUTE
_PAGE_LASTS: Final = 15 * _DAY
_REFUNDABLE: Final = 365 * _DAY
_NUMBER: Final = re.compile(r"[0-9A-Za-z_|*-]{1,64}")
_EXPRESS: Final = re.compile(r"([1-9][0-9]{0,4})([mhd])")
_UNITS: Final = {"m": _MINUTE, "h": 60 * _MINUTE, "d": _DAY}


@dataclass(frozen=True, slots=True)
class Trade:
    """An order as the books have it."""

    token: str
    app_id: str
    out_trade_no: str
    trade_no: str
    content: str
    total: int
    subject: str
    status: str
    buyer: str | None
    refunded: int
    created: int
    paid: int | None
    notify_url: str
    return_url: str
    charset: str
    passback: str


Tell = Callable[[Tx, Trade, dict[str, str]], None]


class Trades:
    """Every change to orders. `tell` announces one whose state is new, with more to say of it."""

    def __init__(self, chassis: Chassis, schedule: Schedule, apps: Apps, tell: Tell) -> None:
        self._chassis = chassis
        self._schedule = schedule
        self._apps = apps
        self._tell = tell
        schedule.handle("alipay.expire", self._expire)
        schedule.handle("alipay.finish", self._finish)

    def precreate(self, tx: Tx, call: Call) -> dict[str, object]:
        """An order to be paid by QR code (`alipay.trade.precreate`)."""
        call.needs("precreate")
        trade = self._announce(tx, call, _QR_LASTS)
        return {"out_trade_no": trade.out_trade_no, "qr_code": f"{call.base_url}/qr/{trade.token}"}

    def page(self, tx: Tx, call: Call) -> Trade:
        """An order to be paid at the provider's page (`alipay.trade.page.pay`)."""
        call.needs("page-pay")
        if text(call.fields, "product_code", 64) != "FAST_INSTANT_TRADE_PAY":
            raise invalid("product_code")
        return self._announce(tx, call, _PAGE_LASTS)

    def query(self, tx: Tx, call: Call) -> dict[str, object]:
        """What became of an order (`alipay.trade.query`)."""
        return self._shown(tx, self.named(tx, call))

    def close(self, tx: Tx, call: Call) -> dict[str, object]:
        """Close an unpaid order (`alipay.trade.close`)."""
        trade = self.named(tx, call)
        if trade.status != WAITING:
            raise refused("ACQ.TRADE_STATUS_ERROR", "交易状态不合法")
        self._set(tx, trade, CLOSED)
        return {"trade_no": trade.trade_no, "out_trade_no": trade.out_trade_no}

    def open(self, tx: Tx, trade: Trade) -> Trade:
        """Somebody scans the code or logs in at the page: now the order exists."""
        if trade.status == ANNOUNCED:
            tx.run("UPDATE alipay_trade SET status = ? WHERE token = ?", WAITING, trade.token)
        return self.by_token(tx, trade.token) or trade

    def pay(self, tx: Tx, trade: Trade, user: User) -> bool:
        """The person pays; False if the order cannot be paid any more."""
        trade = self.open(tx, trade)
        app = self._apps.find(tx, trade.app_id)
        if trade.status != WAITING or app is None:
            return False
        self._apps.book(
            tx, trade.app_id, trade.total, "在线支付", user_name(user.user_id),
            order_no=trade.trade_no, merchant_no=trade.out_trade_no, shown=user.logon_id,
            title=trade.subject,
        )  # fmt: skip
        fee = (trade.total * app.options.pay_fee_basis_points + 5_000) // 10_000
        if fee:
            self._apps.book(
                tx, trade.app_id, -fee, "收费", f"alipay/{trade.app_id}/fees",
                order_no=trade.trade_no, merchant_no=trade.out_trade_no, title=trade.subject,
            )  # fmt: skip
        tx.run(
            "UPDATE alipay_trade SET buyer = ?, paid = ? WHERE token = ?",
            user.user_id, tx.now, trade.token,
        )  # fmt: skip
        self._set(tx, trade, SUCCESS)
        self._schedule.put(tx, "alipay.finish", trade.token, _REFUNDABLE)
        return True

    def give_back(self, tx: Tx, trade: Trade, minor: int, request_no: str) -> Trade:
        """Book a refund; the order as it is then."""
        assert trade.buyer is not None
        self._apps.book(
            tx, trade.app_id, -minor, "交易退款", user_name(trade.buyer), order_no=trade.trade_no,
            merchant_no=trade.out_trade_no, title=trade.subject, memo=request_no,
        )  # fmt: skip
        tx.run(
            "UPDATE alipay_trade SET refunded = refunded + ? WHERE token = ?", minor, trade.token
        )
        done = trade.refunded + minor
        more = {"refund_fee": yuan(done), "gmt_refund": beijing(tx.now), "out_biz_no": request_no}
        self._set(tx, trade, CLOSED if done == trade.total else SUCCESS, more)
        after = self.by_token(tx, trade.token)
        assert after is not None
        return after

    def named(self, tx: Tx, call: Call) -> Trade:
        """The customer's order that a call is about. Raises ProblemError."""
        fields = call.fields
        name = next((name for name in ("trade_no", "out_trade_no") if fields.get(name)), None)
        if name is None:
            raise missing("out_trade_no")
        row = tx.one(
            f"SELECT {_COLUMNS} FROM alipay_trade"  # noqa: S608 - one of two words
            f" WHERE app_id = ? AND {name} = ? AND status NOT IN (?, ?)",
            call.app.app_id, str(fields[name]), *_NOWHERE,
        )  # fmt: skip
        if row is None:
            raise refused("ACQ.TRADE_NOT_EXIST", "交易不存在")
        return Trade(*row)

    def by_token(self, tx: Tx, token: str) -> Trade | None:
        """The order behind a page or a QR code."""
        row = tx.one(f"SELECT {_COLUMNS} FROM alipay_trade WHERE token = ?", token)  # noqa: S608 - constant
        return None if row is None else Trade(*row)

    def find(self, tx: Tx, app_id: str, out_trade_no: str) -> Trade | None:
        """A customer's order, also one that nobody opened yet."""
        row = tx.one(
            f"SELECT {_COLUMNS} FROM alipay_trade WHERE app_id = ? AND out_trade_no = ?",  # noqa: S608 - constant
            app_id, out_trade_no,
        )  # fmt: skip
        return None if row is None else Trade(*row)

    def newest(self, tx: Tx, limit: int) -> list[Trade]:
        """The newest orders of all customers."""
        rows = tx.all(f"SELECT {_COLUMNS} FROM alipay_trade ORDER BY seq DESC LIMIT ?", limit)  # noqa: S608 - constant
        return [Trade(*row) for row in rows]

    def _announce(self, tx: Tx, call: Call, lasts: int) -> Trade:
        """Write an order down, or find it again. Raises ProblemError."""
        fields = call.fields
        out_trade_no = text(fields, "out_trade_no", 64)
        if _NUMBER.fullmatch(out_trade_no) is None:
            raise invalid("out_trade_no")
        if fields.get("total_amount") is None:
            raise missing("total_amount")
        total = amount(fields["total_amount"], "total_amount")
        if total < 1:
            raise invalid("total_amount")
        subject = text(fields, "subject", 256)
        content = json.dumps({**fields, "total_amount": total}, sort_keys=True)
        known = self.find(tx, call.app.app_id, out_trade_no)
        if known is not None:
            return _again(known, content)
        open_for = _lasts(tx, fields, lasts)
        made = Trade(
            self._chassis.seed.id(tx, "bax"), call.app.app_id, out_trade_no,
            number(tx, self._chassis, "trade"), content, total, subject, ANNOUNCED, None, 0,
            tx.now, None, call.notify_url, call.return_url, call.charset,
            text(fields, "passback_params", 512, needed=False),
        )  # fmt: skip
        values = astuple(made)
        marks = ", ".join("?" * len(values))
        tx.run(f"INSERT INTO alipay_trade ({_COLUMNS}) VALUES ({marks})", *values)  # noqa: S608 - constant
        self._schedule.put(tx, "alipay.expire", made.token, open_for)
        journal.note(tx, "alipay.order", trade=made.trade_no, out_trade_no=out_trade_no)
        return made

    def _expire(self, tx: Tx, token: str) -> None:
        """Nobody paid in time."""
        trade = self.by_token(tx, token)
        if trade is None:
            return
        if trade.status == ANNOUNCED:
            tx.run("UPDATE alipay_trade SET status = ? WHERE token = ?", LAPSED, token)
        elif trade.status == WAITING:
            self._set(tx, trade, CLOSED)

    def _finish(self, tx: Tx, token: str) -> None:
        """Too old to be refunded."""
        trade = self.by_token(tx, token)
        if trade is not None and trade.status == SUCCESS:
            self._set(tx, trade, FINISHED)

    def _set(self, tx: Tx, trade: Trade, status: str, more: dict[str, str] | None = None) -> None:
        tx.run("UPDATE alipay_trade SET status = ? WHERE token = ?", status, trade.token)
        changed = self.by_token(tx, trade.token)
        assert changed is not None
        self._tell(tx, changed, more or {})

    def _shown(self, tx: Tx, trade: Trade) -> dict[str, object]:
        shown: dict[str, Any] = {
            "trade_no": trade.trade_no,
            "out_trade_no": trade.out_trade_no,
            "trade_status": trade.status,
            "total_amount": yuan(trade.total),
        }
        buyer = None if trade.buyer is None else self._apps.user(tx, trade.buyer)
        if buyer is not None and trade.paid is not None:
            paid = yuan(trade.total)
            shown |= {
                "receipt_amount": paid,
                "buyer_pay_amount": paid,
                "send_pay_date": beijing(trade.paid),
                "buyer_logon_id": masked(buyer.logon_id),
                "buyer_open_id": self._apps.open_id(tx, trade.app_id, buyer.user_id),
                "fund_bill_list": [{"amount": paid, "fund_channel": "ALIPAYACCOUNT"}],
            }
        return shown


def masked(logon_id: str) -> str:
    """A login name as strangers see it."""
    return f"{logon_id[:3]}***{logon_id[-2:]}"


def _again(known: Trade, content: str) -> Trade:
    """The order of that number, if it is this one and may still be paid. Raises ProblemError."""
    if known.status in (CLOSED, LAPSED):
        raise refused("ACQ.TRADE_HAS_CLOSE", "交易已经关闭")
    if known.status in (SUCCESS, FINISHED):
        raise refused("ACQ.TRADE_HAS_SUCCESS", "交易已被支付")
    if known.content != content:
        raise refused("ACQ.CONTEXT_INCONSISTENT", "交易信息被篡改")
    return known


def _lasts(tx: Tx, fields: Fields, default: int) -> int:
    """How long the order may be paid, in microseconds. Raises ProblemError."""
    if fields.get("time_expire"):
        left = from_beijing(fields["time_expire"], "time_expire") - tx.now
        if left <= 0:
            raise refused("ACQ.NOW_TIME_AFTER_EXPIRE_TIME_ERROR", "当前时间已超过允许支付的时间")
        return left
    express = fields.get("timeout_express")
    if not express:
        return default
    found = _EXPRESS.fullmatch(str(express))
    if found is None or int(found[1]) * _UNITS[found[2]] > _PAGE_LASTS:
        raise invalid("timeout_express")
    return int(found[1]) * _UNITS[found[2]]
