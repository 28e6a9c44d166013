"""Pay-in under APIv3: order, query, close, refund, and what the merchant is told."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import TYPE_CHECKING, Final

from paymaster_sandbox.chassis.clock import microseconds
from paymaster_sandbox.wechat import mishaps, parties
from paymaster_sandbox.wechat.envelope import Call, Envelope, Reply
from paymaster_sandbox.wechat.errors import V3Error, refused, wrong
from paymaster_sandbox.wechat.notices import PAY, Notices
from paymaster_sandbox.wechat.orders import PREPAY_LASTS, Order, OrderError, Orders
from paymaster_sandbox.wechat.refunds import Refund, RefundError, Refunds
from paymaster_sandbox.wechat.times import beijing

if TYPE_CHECKING:
    from starlette.routing import Route

    from paymaster_sandbox.chassis.store import Tx
    from paymaster_sandbox.wechat.fields import Fields
    from paymaster_sandbox.wechat.parties import Merchant

PAY_NO: Final = re.compile(r"[0-9A-Za-z_\-|*]{6,32}")
REFUND_NO: Final = re.compile(r"[0-9A-Za-z_\-|*@]{1,64}")
_PAY: Final = "/v3/pay/transactions"
_REFUND: Final = "/v3/refund/domestic/refunds"
_CHANNELS: Final = {"jsapi": "JSAPI", "native": "NATIVE", "app": "APP", "h5": "MWEB"}
_STATES: Final = {
    "NOTPAY": "订单未支付", "SUCCESS": "支付成功", "REFUND": "转入退款", "CLOSED": "订单已关闭",
}  # fmt: skip
_ORDER_ERRORS: Final = {
    "differs": (400, "INVALID_REQUEST", "请求重入时, 参数与首次请求时不一致"),
    "paid": (400, "ORDER_PAID", "该订单已支付"),
    "closed": (400, "ORDER_CLOSED", "该订单已关闭"),
    "missing": (404, "ORDER_NOT_EXIST", "订单不存在"),
}
_REFUND_ERRORS: Final = {
    "differs": (400, "INVALID_REQUEST", "订单金额或退款金额与之前请求不一致"),
    "unpaid": (400, "INVALID_REQUEST", "订单未支付"),
    "late": (400, "INVALID_REQUEST", "订单已超过退款有效期"),
    "most": (400, "INVALID_REQUEST", "部分退款次数超过限制"),
    "quick": (429, "FREQUENCY_LIMITED", "同一订单的退款请求过于频繁"),
    "too_much": (400, "INVALID_REQUEST", "累计退款金额大于订单金额"),
    "money": (403, "NOT_ENOUGH", "基本账户余额不足"),
}


class OrderApi:
    """The public face of `Orders` and `Refunds`."""

    def __init__(self, orders: Orders, refunds: Refunds, notices: Notices) -> None:
        self._orders = orders
        self._refunds = refunds
        self._notices = notices
        orders.when_paid(3, self._tell_paid)
        refunds.when_done(3, self._tell_refunded)

    def routes(self, envelope: Envelope) -> list[Route]:
        """The paths."""
        by_out = f"{_PAY}/out-trade-no/{{out_no}}"
        return [
            *(
                envelope.route("POST", f"{_PAY}/{name}", "order.create", self._create)
                for name in _CHANNELS
            ),
            envelope.route("GET", by_out, "order.query", self._query),
            envelope.route("GET", f"{_PAY}/id/{{transaction_id}}", "order.query", self._query),
            envelope.route("POST", f"{by_out}/close", "order.close", self._close),
            envelope.route("POST", _REFUND, "refund.create", self._refund),
            envelope.route("GET", f"{_REFUND}/{{out_no}}", "refund.query", self._refund_query),
        ]

    def _create(self, tx: Tx, call: Call) -> Reply:
        name = call.request.url.path.rpartition("/")[2]
        wanted = self._read(tx, call, _CHANNELS[name])
        try:
            order = self._orders.place(tx, wanted)
        except OrderError as error:
            raise V3Error(*_ORDER_ERRORS[error.reason]) from error
        if name == "native":
            return Reply({"code_url": f"weixin://wxpay/bizpayurl?pr={order.prepay_id[-11:]}"})
        if name == "h5":
            return Reply({"h5_url": f"https://wx.tenpay.example/pay?prepay_id={order.prepay_id}"})
        return Reply({"prepay_id": order.prepay_id})

    def _read(self, tx: Tx, call: Call, channel: str) -> Order:
        given = call.fields()
        appid = _own(tx, call, given)
        out_no = given.text("out_trade_no", 32, PAY_NO)
        description, attach = given.text("description", 127), given.maybe("attach", 128)
        notify_url = given.text("notify_url", 256)
        expires = _expires(tx, given)
        amount = given.group("amount")
        total = amount.fen("total")
        amount.choice("currency", ("CNY",), "CNY")
        amount.done()
        openid: str | None = None
        if channel == "JSAPI":
            payer = given.group("payer")
            openid = payer.text("openid", 128)
            payer.done()
            user = parties.user(tx, openid)
            if user is None or user.appid != appid:
                raise wrong("payer/openid", "与appid不匹配")
        if channel == "MWEB":
            _h5_scene(given)
        for unused in ("goods_tag", "support_fapiao"):
            if unused == "goods_tag":
                given.maybe(unused, 32)
            else:
                given.flag(unused)
        given.done()
        params = json.dumps(
            [appid, channel, openid, description, attach, total, notify_url], ensure_ascii=False
        )
        return Order(
            prepay_id=self._orders.new_prepay_id(tx), mchid=call.merchant.mchid, out_no=out_no,
            params=params, appid=appid, channel=channel, version=3, method="RSA", openid=openid,
            description=description, attach=attach, total=total, notify_url=notify_url,
            created=tx.now, expires=expires,
        )  # fmt: skip

    def _shown(self, tx: Tx, call: Call) -> Order:
        if call.query("mchid") != call.merchant.mchid:
            raise wrong("mchid", "与商户号不一致", "query")
        order = (
            self._orders.find(tx, call.merchant.mchid, out_no=call.part("out_no"))
            if "out_no" in call.request.path_params
            else self._orders.find(
                tx, call.merchant.mchid, transaction_id=call.part("transaction_id")
            )
        )
        lag = mishaps.setting(tx, "not_found_lag_seconds")
        if order is None or order.created > tx.now - lag:
            raise V3Error(*_ORDER_ERRORS["missing"])
        return order

    def _query(self, tx: Tx, call: Call) -> Reply:
        return Reply(_described(self._shown(tx, call)))

    def _close(self, tx: Tx, call: Call) -> Reply:
        given = call.fields()
        if given.text("mchid", 32) != call.merchant.mchid:
            raise wrong("mchid", "与商户号不一致")
        given.done()
        try:
            self._orders.close(tx, call.merchant, call.part("out_no"))
        except OrderError as error:
            raise V3Error(*_ORDER_ERRORS[error.reason]) from error
        return Reply(None, 204)

    def _refund(self, tx: Tx, call: Call) -> Reply:
        given = call.fields()
        transaction_id, order_no = (
            given.maybe("transaction_id", 32),
            given.maybe("out_trade_no", 32),
        )
        if (transaction_id is None) == (order_no is None):
            raise wrong("transaction_id", "与out_trade_no二选一")
        out_no = given.text("out_refund_no", 64, REFUND_NO)
        reason, notify_url = given.maybe("reason", 80), given.maybe("notify_url", 256)
        amount = given.group("amount")
        refund, total = amount.fen("refund"), amount.fen("total")
        amount.choice("currency", ("CNY",))
        amount.done()
        given.done()
        order = self._orders.find(
            tx, call.merchant.mchid, out_no=order_no or "", transaction_id=transaction_id or ""
        )
        if order is None:
            raise V3Error(404, "RESOURCE_NOT_EXISTS", "订单不存在")
        if order.total != total:
            raise refused("订单金额不一致")
        wanted = Refund(
            refund_id=self._refunds.new_id(tx), mchid=call.merchant.mchid, out_no=out_no,
            order_no=order.out_no, params=json.dumps([order.out_no, refund, reason, notify_url]),
            amount=refund, notify_url=notify_url, version=3, created=tx.now,
        )  # fmt: skip
        try:
            made = self._refunds.make(tx, order, wanted)
        except RefundError as error:
            raise V3Error(*_REFUND_ERRORS[error.reason]) from error
        return Reply(_refund_described(order, made))

    def _refund_query(self, tx: Tx, call: Call) -> Reply:
        found = self._refunds.find(tx, call.merchant.mchid, call.part("out_no"))
        if found is None:
            raise V3Error(404, "RESOURCE_NOT_EXISTS", "退款单不存在")
        order = self._orders.find(tx, call.merchant.mchid, out_no=found.order_no)
        assert order is not None
        return Reply(_refund_described(order, found))

    def _tell_paid(self, tx: Tx, merchant: Merchant, order: Order) -> None:
        self._notices.tell(
            tx, merchant, order.notify_url, "TRANSACTION.SUCCESS", "transaction",
            _described(order), PAY,
        )  # fmt: skip

    def _tell_refunded(self, tx: Tx, merchant: Merchant, order: Order, refund: Refund) -> None:
        facts: dict[str, object] = {
            "mchid": refund.mchid, "out_trade_no": order.out_no,
            "transaction_id": order.transaction_id, "out_refund_no": refund.out_no,
            "refund_id": refund.refund_id, "refund_status": refund.state,
            "user_received_account": "支付用户零钱",
            "amount": {
                "total": order.total, "refund": refund.amount, "payer_total": order.total,
                "payer_refund": refund.amount,
            },
        }  # fmt: skip
        if refund.state == "SUCCESS" and refund.done is not None:
            facts["success_time"] = beijing(refund.done)
        event = f"REFUND.{refund.state}"
        self._notices.tell(tx, merchant, refund.notify_url, event, "refund", facts, PAY)


def _own(tx: Tx, call: Call, given: Fields) -> str:
    """The app of the request, which must be the merchant's, as the number in it must be."""
    appid = given.text("appid", 32)
    if given.text("mchid", 32) != call.merchant.mchid:
        raise wrong("mchid", "与商户号不一致")
    if not parties.bound(tx, appid, call.merchant.mchid):
        raise V3Error(400, "APPID_MCHID_NOT_MATCH", "appid和mch_id不匹配")
    return appid


def _expires(tx: Tx, given: Fields) -> int:
    if not given.has("time_expire"):
        return tx.now + PREPAY_LASTS
    try:
        at = datetime.fromisoformat(given.text("time_expire", 64))
    except ValueError as error:
        raise wrong("time_expire", "格式错误") from error
    if at.tzinfo is None or microseconds(at) <= tx.now:
        raise wrong("time_expire", "须晚于当前时间并含时区")
    return min(microseconds(at), tx.now + PREPAY_LASTS)


def _h5_scene(given: Fields) -> None:
    scene = given.group("scene_info")
    scene.text("payer_client_ip", 45)
    info = scene.group("h5_info")
    info.text("type", 32)
    info.done()
    scene.done()


def _described(order: Order) -> dict[str, object]:
    content: dict[str, object] = {
        "appid": order.appid, "mchid": order.mchid, "out_trade_no": order.out_no,
        "trade_state": order.state, "trade_state_desc": _STATES[order.state],
        "amount": {"total": order.total, "currency": "CNY"},
    }  # fmt: skip
    if order.attach is not None:
        content["attach"] = order.attach
    if order.paid is not None:
        content |= {
            "transaction_id": order.transaction_id, "trade_type": order.channel,
            "bank_type": "OTHERS", "success_time": beijing(order.paid),
            "payer": {"openid": order.payer},
            "amount": {
                "total": order.total, "payer_total": order.total, "currency": "CNY",
                "payer_currency": "CNY",
            },
        }  # fmt: skip
    return content


def _refund_described(order: Order, refund: Refund) -> dict[str, object]:
    content: dict[str, object] = {
        "refund_id": refund.refund_id, "out_refund_no": refund.out_no,
        "transaction_id": order.transaction_id, "out_trade_no": order.out_no,
        "channel": "ORIGINAL", "user_received_account": "支付用户零钱",
        "create_time": beijing(refund.created), "status": refund.state,
        "funds_account": "AVAILABLE",
        "amount": {
            "total": order.total, "refund": refund.amount, "payer_total": order.total,
            "payer_refund": refund.amount, "settlement_refund": refund.amount,
            "settlement_total": order.total, "discount_refund": 0, "currency": "CNY",
        },
    }  # fmt: skip
    if refund.state == "SUCCESS" and refund.done is not None:
        content["success_time"] = beijing(refund.done)
    return content
