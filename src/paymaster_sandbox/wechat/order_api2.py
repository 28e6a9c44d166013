"""Pay-in under APIv2: the same orders and refunds, in XML."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from paymaster_sandbox.wechat import crypto, parties, xml
from paymaster_sandbox.wechat.envelope2 import Call2, Envelope2, Rules
from paymaster_sandbox.wechat.errors import V2Error
from paymaster_sandbox.wechat.order_api import PAY_NO, REFUND_NO
from paymaster_sandbox.wechat.orders import PREPAY_LASTS, Order, OrderError, Orders
from paymaster_sandbox.wechat.refunds import Refund, RefundError, Refunds
from paymaster_sandbox.wechat.times import from_packed, packed, plain

if TYPE_CHECKING:
    from starlette.routing import Route

    from paymaster_sandbox.chassis.base import Chassis
    from paymaster_sandbox.chassis.store import Tx
    from paymaster_sandbox.wechat.notices import Notices
    from paymaster_sandbox.wechat.parties import Merchant

_CHANNELS: Final = ("JSAPI", "NATIVE", "APP", "MWEB")
_ORDER_ERRORS: Final = {
    "differs": ("OUT_TRADE_NO_USED", "商户订单号重复"),
    "paid": ("ORDERPAID", "该订单已支付"),
    "closed": ("ORDERCLOSED", "该订单已关闭"),
    "missing": ("ORDERNOTEXIST", "订单不存在"),
}
_REFUND_ERRORS: Final = {
    "differs": ("ERROR", "订单金额或退款金额与之前请求不一致"),
    "unpaid": ("TRADE_STATE_ERROR", "订单状态错误"),
    "late": ("TRADE_OVERDUE", "订单已经超过退款期限"),
    "most": ("ERROR", "部分退款次数超过限制"),
    "quick": ("FREQUENCY_LIMITED", "频率限制"),
    "too_much": ("ERROR", "累计退款金额大于订单金额"),
    "money": ("NOTENOUGH", "余额不足"),
}


class OrderApi2:
    """The old face of `Orders` and `Refunds`."""

    def __init__(
        self, chassis: Chassis, orders: Orders, refunds: Refunds, notices: Notices
    ) -> None:
        self._chassis = chassis
        self._orders = orders
        self._refunds = refunds
        self._notices = notices
        orders.when_paid(2, self._tell_paid)
        refunds.when_done(2, self._tell_refunded)

    def routes(self, envelope: Envelope2) -> list[Route]:
        """The paths."""
        open_rules, closed = Rules(), Rules(certificate=True)
        return [
            envelope.route("/pay/unifiedorder", "order2.create", self._create, open_rules),
            envelope.route("/pay/orderquery", "order2.query", self._query, open_rules),
            envelope.route("/pay/closeorder", "order2.close", self._close, open_rules),
            envelope.route("/secapi/pay/refund", "refund2.create", self._refund, closed),
            envelope.route("/pay/refundquery", "refund2.query", self._refund_query, open_rules),
        ]

    def _create(self, tx: Tx, call: Call2) -> dict[str, str]:
        wanted = self._read(tx, call)
        try:
            order = self._orders.place(tx, wanted)
        except OrderError as error:
            raise V2Error(*_ORDER_ERRORS[error.reason]) from error
        found = {
            "appid": order.appid, "mch_id": order.mchid, "trade_type": order.channel,
            "prepay_id": order.prepay_id,
        }  # fmt: skip
        if order.channel == "NATIVE":
            found["code_url"] = f"weixin://wxpay/bizpayurl?pr={order.prepay_id[-11:]}"
        if order.channel == "MWEB":
            found["mweb_url"] = f"https://wx.tenpay.example/pay?prepay_id={order.prepay_id}"
        return found

    def _read(self, tx: Tx, call: Call2) -> Order:
        appid, channel = _own(tx, call), call.text("trade_type", 16)
        if channel not in _CHANNELS:
            raise V2Error("PARAM_ERROR", "参数错误: trade_type")
        out_no = call.text("out_trade_no", 32)
        if PAY_NO.fullmatch(out_no) is None:
            raise V2Error("PARAM_ERROR", "参数错误: out_trade_no")
        openid: str | None = None
        if channel == "JSAPI":
            openid = call.text("openid", 128)
            user = parties.user(tx, openid)
            if user is None or user.appid != appid:
                raise V2Error("PARAM_ERROR", "openid与appid不匹配")
        if channel == "NATIVE":
            call.text("product_id", 32)
        call.text("spbill_create_ip", 64)
        body, attach = call.text("body", 127), call.maybe("attach", 127)
        total, notify_url = call.fen("total_fee"), call.text("notify_url", 256)
        params = json.dumps(
            [appid, channel, openid, body, attach, total, notify_url], ensure_ascii=False
        )
        return Order(
            prepay_id=self._orders.new_prepay_id(tx), mchid=call.merchant.mchid, out_no=out_no,
            params=params, appid=appid, channel=channel, version=2, method=call.method,
            openid=openid, description=body, attach=attach, total=total, notify_url=notify_url,
            created=tx.now, expires=_expires(tx, call),
        )  # fmt: skip

    def _found(self, tx: Tx, call: Call2) -> Order:
        _own(tx, call)
        out_no, number = call.maybe("out_trade_no", 32), call.maybe("transaction_id", 32)
        order = self._orders.find(
            tx, call.merchant.mchid, out_no=out_no or "", transaction_id=number or ""
        )
        if order is None:
            raise V2Error(*_ORDER_ERRORS["missing"])
        return order

    def _query(self, tx: Tx, call: Call2) -> dict[str, str]:
        order = self._found(tx, call)
        return {**_described(order), "trade_state": order.state, "trade_state_desc": order.state}

    def _close(self, tx: Tx, call: Call2) -> dict[str, str]:
        order = self._found(tx, call)
        try:
            self._orders.close(tx, call.merchant, order.out_no)
        except OrderError as error:
            raise V2Error(*_ORDER_ERRORS[error.reason]) from error
        return {"appid": order.appid, "mch_id": order.mchid}

    def _refund(self, tx: Tx, call: Call2) -> dict[str, str]:
        order = self._found(tx, call)
        out_no = call.text("out_refund_no", 64)
        if REFUND_NO.fullmatch(out_no) is None:
            raise V2Error("PARAM_ERROR", "参数错误: out_refund_no")
        total, refund = call.fen("total_fee"), call.fen("refund_fee")
        notify_url, reason = call.maybe("notify_url", 256), call.maybe("refund_desc", 80)
        if total != order.total:
            raise V2Error("ERROR", "订单金额不一致")
        wanted = Refund(
            refund_id=self._refunds.new_id(tx), mchid=call.merchant.mchid, out_no=out_no,
            order_no=order.out_no, params=json.dumps([order.out_no, refund, reason, notify_url]),
            amount=refund, notify_url=notify_url, version=2, created=tx.now,
        )  # fmt: skip
        try:
            made = self._refunds.make(tx, order, wanted)
        except RefundError as error:
            raise V2Error(*_REFUND_ERRORS[error.reason]) from error
        return {
            "appid": order.appid, "mch_id": order.mchid, "out_trade_no": order.out_no,
            "transaction_id": order.transaction_id or "", "out_refund_no": made.out_no,
            "refund_id": made.refund_id, "refund_fee": str(made.amount),
            "total_fee": str(order.total), "cash_fee": str(order.total),
        }  # fmt: skip

    def _refund_query(self, tx: Tx, call: Call2) -> dict[str, str]:
        out_no = call.maybe("out_refund_no", 64)
        if out_no is None:
            order = self._found(tx, call)
            refunds = self._refunds.of(tx, order)
        else:
            _own(tx, call)
            one = self._refunds.find(tx, call.merchant.mchid, out_no)
            refunds = [] if one is None else [one]
        if not refunds:
            raise V2Error("REFUNDNOTEXIST", "退款订单查询失败")
        order = self._orders.find(tx, call.merchant.mchid, out_no=refunds[0].order_no)
        assert order is not None
        found = {**_described(order), "refund_count": str(len(refunds))}
        for place, refund in enumerate(refunds):
            found |= {
                f"out_refund_no_{place}": refund.out_no, f"refund_id_{place}": refund.refund_id,
                f"refund_fee_{place}": str(refund.amount),
                f"refund_status_{place}": _REFUND_STATES[refund.state],
            }  # fmt: skip
            if refund.done is not None and refund.state == "SUCCESS":
                found[f"refund_success_time_{place}"] = plain(refund.done)
        return found

    def _tell_paid(self, tx: Tx, merchant: Merchant, order: Order) -> None:
        fields = {
            "return_code": "SUCCESS", "result_code": "SUCCESS", **_described(order),
            "nonce_str": self._chassis.seed.id(tx, "n"),
        }  # fmt: skip
        if order.method != "MD5":
            fields["sign_type"] = order.method
        fields["sign"] = crypto.digest(fields, merchant.apiv2_key, order.method)
        self._notices.tell_v2(tx, merchant, order.notify_url, xml.write(fields))

    def _tell_refunded(self, tx: Tx, merchant: Merchant, order: Order, refund: Refund) -> None:
        """Unsigned outside; what counts is sealed inside."""
        url = refund.notify_url or merchant.notify_url
        if url is None:
            return
        inner = {
            "transaction_id": order.transaction_id or "", "out_trade_no": order.out_no,
            "refund_id": refund.refund_id, "out_refund_no": refund.out_no,
            "total_fee": str(order.total), "refund_fee": str(refund.amount),
            "settlement_refund_fee": str(refund.amount),
            "refund_status": _REFUND_STATES[refund.state],
            "success_time": "" if refund.done is None else plain(refund.done),
            "refund_recv_accout": "支付用户零钱", "refund_account": "REFUND_SOURCE_UNSETTLED_FUNDS",
            "refund_request_source": "API",
        }  # fmt: skip
        sealed = crypto.seal_refund(merchant.apiv2_key, xml.write(inner, "root"))
        outer = {
            "return_code": "SUCCESS", "appid": order.appid, "mch_id": order.mchid,
            "nonce_str": self._chassis.seed.id(tx, "n"), "req_info": sealed,
        }  # fmt: skip
        self._notices.tell_v2(tx, merchant, url, xml.write(outer))


_REFUND_STATES: Final = {
    "PROCESSING": "PROCESSING", "SUCCESS": "SUCCESS", "ABNORMAL": "CHANGE",
}  # fmt: skip


def _own(tx: Tx, call: Call2) -> str:
    appid = call.text("appid", 32)
    if not parties.bound(tx, appid, call.merchant.mchid):
        raise V2Error("APPID_MCHID_NOT_MATCH", "appid和mch_id不匹配")
    return appid


def _expires(tx: Tx, call: Call2) -> int:
    given = call.maybe("time_expire", 14)
    if given is None:
        return tx.now + PREPAY_LASTS
    at = from_packed(given)
    if at is None or at <= tx.now:
        raise V2Error("PARAM_ERROR", "参数错误: time_expire")
    return min(at, tx.now + PREPAY_LASTS)


def _described(order: Order) -> dict[str, str]:
    found = {
        "appid": order.appid, "mch_id": order.mchid, "out_trade_no": order.out_no,
        "total_fee": str(order.total), "fee_type": "CNY",
    }  # fmt: skip
    if order.attach is not None:
        found["attach"] = order.attach
    if order.paid is not None:
        found |= {
            "openid": order.payer or "", "is_subscribe": "N", "trade_type": order.channel,
            "bank_type": "OTHERS", "cash_fee": str(order.total),
            "transaction_id": order.transaction_id or "", "time_end": packed(order.paid),
        }  # fmt: skip
    return found
