"""The calls about transfer bills: create, query by either number, cancel."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from paymaster_sandbox.wechat import crypto, mishaps, parties, scenes
from paymaster_sandbox.wechat.envelope import Call, Envelope, Reply
from paymaster_sandbox.wechat.errors import forbidden, refused, short_of_money, wrong
from paymaster_sandbox.wechat.fields import ORDER_NO, Fields
from paymaster_sandbox.wechat.keys import read_public
from paymaster_sandbox.wechat.times import beijing
from paymaster_sandbox.wechat.transfers import Bill, Transfers

if TYPE_CHECKING:
    from starlette.routing import Route

    from paymaster_sandbox.chassis.store import Tx
    from paymaster_sandbox.wechat.parties import Merchant
    from paymaster_sandbox.wechat.platform import Platform

BASE: Final = "/v3/fund-app/mch-transfer/transfer-bills"
_NAME_NEEDED: Final = 200_000
_NAME_NOT_ALLOWED: Final = 30
_RED_PACKET_MOST: Final = 20_000


class TransferApi:
    """The public face of `Transfers`."""

    def __init__(self, transfers: Transfers, platform: Platform) -> None:
        self._transfers = transfers
        self._platform = platform

    def routes(self, envelope: Envelope) -> list[Route]:
        """The paths."""
        by_out = f"{BASE}/out-bill-no/{{out_no}}"
        return [
            envelope.route("POST", BASE, "transfer.create", self._create),
            envelope.route("GET", by_out, "transfer.query", self._by_out_no),
            envelope.route("POST", f"{by_out}/cancel", "transfer.cancel", self._cancel),
            envelope.route(
                "GET", f"{BASE}/transfer-bill-no/{{bill_no}}", "transfer.query", self._by_bill_no
            ),
        ]

    def _create(self, tx: Tx, call: Call) -> Reply:
        check_payer(call, "transfer-bills")
        given = call.fields()
        bill = self.read(tx, call, given)
        given.done()
        return self.take(tx, call.merchant, bill)

    def take(self, tx: Tx, merchant: Merchant, bill: Bill) -> Reply:
        """Make the bill and say what became of it."""
        now_or_never = not mishaps.setting(tx, "accept_seconds")
        if now_or_never and not self._transfers.covered(tx, merchant, bill):
            raise short_of_money()
        made = self._transfers.create(tx, merchant, bill)
        content: dict[str, object] = {
            "out_bill_no": made.out_no,
            "transfer_bill_no": made.bill_no,
            "create_time": beijing(made.created),
            "state": made.state,
        }
        if made.state == "FAIL" and made.reason is not None:
            content["fail_reason"] = made.reason
        if made.state == "WAIT_USER_CONFIRM" and made.package is not None:
            content["package_info"] = made.package
        return Reply(content)

    def read(
        self, tx: Tx, call: Call, given: Fields, authorization: tuple[str, str] | None = None
    ) -> Bill:
        """The bill that the request describes; with an authorization, its app and user."""
        out_no = given.text("out_bill_no", 32, ORDER_NO)
        appid, openid = authorization or _payee(tx, call, given)
        scene = scenes.check_scene(given.text("transfer_scene_id", 36), call.merchant.scenes)
        name = self._name(tx, call, given)
        amount = _amount(call.merchant, given, name)
        remark = given.text("transfer_remark", 32)
        notify_url = given.maybe("notify_url", 256)
        perception = given.maybe("user_recv_perception", 32)
        scenes.check_perception(scene, perception)
        infos = [
            (info.text("info_type", 15), info.text("info_content", 32), info.done())[:2]
            for info in given.groups("transfer_scene_report_infos", 10)
        ]
        scenes.check_reports(scene, [kind for kind, _ in infos])
        style = _style(given, amount)
        params = json.dumps(
            [appid, openid, name, amount, remark, notify_url, perception, infos, style],
            ensure_ascii=False,
        )
        return Bill(
            bill_no=self._transfers.new_number(tx), mchid=call.merchant.mchid, out_no=out_no,
            params=params, appid=appid, openid=openid, name=name, amount=amount, remark=remark,
            notify_url=notify_url, state="ACCEPTED", reason=None, package=None,
            authorized=authorization is not None, locked=False, created=tx.now, updated=tx.now,
        )  # fmt: skip

    def _name(self, tx: Tx, call: Call, given: Fields) -> str | None:
        if not given.has("user_name"):
            return None
        sealed = given.text("user_name", 1024)
        return self._platform.decrypt(tx, call.merchant, call.serial, "user_name", sealed)

    def _by_out_no(self, tx: Tx, call: Call) -> Reply:
        return described(self._transfers.shown(tx, call.merchant, out_no=call.part("out_no")), call)

    def _by_bill_no(self, tx: Tx, call: Call) -> Reply:
        return described(
            self._transfers.shown(tx, call.merchant, bill_no=call.part("bill_no")), call
        )

    def _cancel(self, tx: Tx, call: Call) -> Reply:
        call.no_body()
        bill = self._transfers.cancel(tx, call.merchant, call.part("out_no"))
        return Reply(
            {
                "out_bill_no": bill.out_no,
                "transfer_bill_no": bill.bill_no,
                "state": bill.state,
                "update_time": beijing(bill.updated),
            }
        )


def check_payer(call: Call, *products: str) -> None:
    """Raises V3Error unless the merchant has the product and calls from where it said it would."""
    merchant = call.merchant
    if merchant.product not in products and not (
        products == ("transfer-bills",) and merchant.product == "authorised"
    ):
        raise forbidden("当前商户号接入升级版本功能, 暂不支持使用升级前功能, 请前往产品中心查看")
    client = call.request.client
    if merchant.addresses is not None and (client is None or client.host not in merchant.addresses):
        raise refused("此IP地址不允许调用该接口")


def _payee(tx: Tx, call: Call, given: Fields) -> tuple[str, str]:
    appid, openid = given.text("appid", 32), given.text("openid", 64)
    check_payee(tx, call.merchant, appid, openid)
    return appid, openid


def check_payee(tx: Tx, merchant: Merchant, appid: str, openid: str) -> None:
    """Raises V3Error unless the app is the merchant's and the openid the app's."""
    if not parties.bound(tx, appid, merchant.mchid):
        raise refused("APPID不存在或与商户号不匹配")
    user = parties.user(tx, openid)
    if user is None or user.appid != appid:
        raise refused("openid与appid不匹配")


def _amount(merchant: Merchant, given: Fields, name: str | None) -> int:
    amount = given.fen("transfer_amount")
    if amount > merchant.most:
        raise refused("超过单笔转账上下限")
    if amount >= _NAME_NEEDED and name is None:
        raise wrong("user_name", "转账金额大于等于2000元时必填")
    if amount < _NAME_NOT_ALLOWED and name is not None:
        raise wrong("user_name", "转账金额小于0.3元时不允许填写")
    return amount


def _style(given: Fields, amount: int) -> str:
    if not given.has("user_recv_style"):
        return "CONFIRM_PAGE"
    style = given.group("user_recv_style")
    kind = style.choice("type", ("CONFIRM_PAGE", "RED_PACKET"))
    style.done()
    if kind == "RED_PACKET" and amount > _RED_PACKET_MOST:
        raise wrong("user_recv_style", "红包样式单笔不超过200元")
    return kind


def described(bill: Bill, call: Call) -> Reply:
    """A bill as queries show it."""
    content: dict[str, object] = {
        "mch_id": bill.mchid,
        "out_bill_no": bill.out_no,
        "transfer_bill_no": bill.bill_no,
        "appid": bill.appid,
        "state": bill.state,
        "transfer_amount": bill.amount,
        "transfer_remark": bill.remark,
        "openid": bill.openid,
        "create_time": beijing(bill.created),
        "update_time": beijing(bill.updated),
    }
    if bill.state == "FAIL" and bill.reason is not None:
        content["fail_reason"] = bill.reason
    if bill.name is not None:
        public = read_public(call.merchant.public_key)
        content["user_name"] = crypto.encrypt_field(public, bill.name)
    return Reply(content)
