"""Refunds of paid orders: in parts or whole, each with a number of the customer's."""

from __future__ import annotations

from typing import Final

from paymaster_sandbox.alipay.apps import Apps, Call
from paymaster_sandbox.alipay.trades import CLOSED, FINISHED, SUCCESS, Trade, Trades, masked
from paymaster_sandbox.alipay.wire import amount, beijing, missing, refused, text, yuan
from paymaster_sandbox.chassis.store import Tx

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS alipay_refund (
    trade TEXT NOT NULL, request_no TEXT NOT NULL, amount INTEGER NOT NULL, at INTEGER NOT NULL,
    reason TEXT NOT NULL, PRIMARY KEY (trade, request_no)
) WITHOUT ROWID;
"""


class Refunds:
    """Gives money back to payers."""

    def __init__(self, apps: Apps, trades: Trades) -> None:
        self._apps = apps
        self._trades = trades

    def refund(self, tx: Tx, call: Call) -> dict[str, object]:
        """Give back some or all; the same number does it once (`alipay.trade.refund`)."""
        trade = self._trades.named(tx, call)
        if call.fields.get("refund_amount") is None:
            raise missing("refund_amount")
        minor = amount(call.fields["refund_amount"], "refund_amount")
        request_no = text(call.fields, "out_request_no", 64, needed=minor != trade.total)
        request_no = request_no or trade.out_trade_no
        known = self._known(tx, trade, request_no)
        if known is not None:
            if known[0] != minor:
                raise refused("ACQ.DISCORDANT_REPEAT_REQUEST", "请求信息不一致")
            return self._answer(tx, trade, "N")
        _check(trade, minor)
        if self._apps.balance(tx, trade.app_id) < minor:
            raise refused("ACQ.SELLER_BALANCE_NOT_ENOUGH", "商户的支付宝账户中无足够的资金进行退款")
        reason = text(call.fields, "refund_reason", 256, needed=False)
        tx.run(
            "INSERT INTO alipay_refund (trade, request_no, amount, at, reason)"
            " VALUES (?, ?, ?, ?, ?)",
            trade.token, request_no, minor, tx.now, reason,
        )  # fmt: skip
        return self._answer(tx, self._trades.give_back(tx, trade, minor, request_no), "Y")

    def query(self, tx: Tx, call: Call) -> dict[str, object]:
        """Whether a refund was done; an unknown one is no error (`...fastpay.refund.query`)."""
        trade = self._trades.named(tx, call)
        request_no = text(call.fields, "out_request_no", 64)
        known = self._known(tx, trade, request_no)
        about: dict[str, object] = {"trade_no": trade.trade_no, "out_trade_no": trade.out_trade_no}
        if known is None:
            return about
        return {
            **about,
            "out_request_no": request_no,
            "total_amount": yuan(trade.total),
            "refund_amount": yuan(known[0]),
            "refund_status": "REFUND_SUCCESS",
            "gmt_refund_pay": beijing(known[1]),
        }

    def _known(self, tx: Tx, trade: Trade, request_no: str) -> tuple[int, int] | None:
        row = tx.one(
            "SELECT amount, at FROM alipay_refund WHERE trade = ? AND request_no = ?",
            trade.token, request_no,
        )  # fmt: skip
        return None if row is None else (row[0], row[1])

    def _answer(self, tx: Tx, trade: Trade, change: str) -> dict[str, object]:
        buyer = None if trade.buyer is None else self._apps.user(tx, trade.buyer)
        return {
            "trade_no": trade.trade_no,
            "out_trade_no": trade.out_trade_no,
            "buyer_logon_id": "" if buyer is None else masked(buyer.logon_id),
            "fund_change": change,
            "refund_fee": yuan(trade.refunded),
            "gmt_refund_pay": beijing(tx.now),
        }


def _check(trade: Trade, minor: int) -> None:
    """Raises ProblemError unless so much of the order may be given back."""
    if trade.status == CLOSED:
        raise refused("ACQ.TRADE_HAS_CLOSE", "交易已关闭")
    if trade.status == FINISHED:
        raise refused("ACQ.TRADE_HAS_FINISHED", "交易已完结")
    if trade.status != SUCCESS:
        raise refused("ACQ.TRADE_STATUS_ERROR", "交易状态不合法")
    if minor < 1 or trade.refunded + minor > trade.total:
        raise refused("ACQ.REFUND_AMT_NOT_EQUAL_TOTAL", "退款金额超限")
