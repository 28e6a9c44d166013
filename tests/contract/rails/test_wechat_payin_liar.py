"""A server that signs rightly and answers wrongly: what it says is not taken for another thing."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from tests.contract.http_server import Answering, Asked, Reply
from tests.contract.keys import key_pair
from tests.contract.wechat_world import APPID

from paymaster.kernel.clock import WallClock, milliseconds
from paymaster.kernel.errors import RailUnknown
from paymaster.kernel.ids import reference, time_floor
from paymaster.kernel.money import Money
from paymaster.rails.base import RailAccount
from paymaster.rails.deps import RailDeps
from paymaster.rails.http import new_client
from paymaster.rails.payin import Charge, ChargeVerdict, RefundOrder, RefundVerdict
from paymaster.rails.wechat import v2
from paymaster.rails.wechat.rail import WeChatPayRail

MCHID = "1900000001"
AT = time_floor(milliseconds(WallClock().now()))
OURS, OTHER, BACK = (reference(1, AT + number) for number in (1, 2, 3))
ORDER = RefundOrder(BACK, OURS, Money(1000, "CNY"), Money(400, "CNY"), "closed")
Content = Mapping[str, Any]


@dataclass
class Liar:
    """A provider whose answers are written by the test, and signed as they should be."""

    rail: WeChatPayRail
    account: RailAccount
    private: str
    apiv2_key: str
    kept: dict[str, str]
    answers: dict[str, tuple[int, Content | None]] = field(
        default_factory=dict[str, tuple[int, Content | None]]
    )
    signs: bool = True
    takes_away: str = ""

    def reply(self, asked: Asked) -> Reply:
        """The answer of the first path that this one begins with."""
        self.kept.pop(self.takes_away, None)
        path = next(path for path in self.answers if asked.path.startswith(path))
        status, content = self.answers[path]
        if path.startswith("/v3"):
            return self._v3(status, b"" if content is None else json.dumps(content).encode())
        fields = {name: str(value) for name, value in (content or {}).items()}
        signed = {**fields, "sign": v2.digest(fields, self.apiv2_key, "HMAC-SHA256")}
        return Reply(status, v2.write(signed if self.signs else fields))

    def _v3(self, status: int, body: bytes) -> Reply:
        if not self.signs:
            return Reply(status, body)
        key = serialization.load_pem_private_key(self.private.encode(), None)
        assert isinstance(key, RSAPrivateKey)
        stamp = str(int(WallClock().now().timestamp()))
        message = f"{stamp}\nNONCE\n".encode() + body + b"\n"
        raw = key.sign(message, padding.PKCS1v15(), hashes.SHA256())
        headers = {
            "Wechatpay-Timestamp": stamp, "Wechatpay-Nonce": "NONCE",
            "Wechatpay-Serial": "PUB_KEY_ID_01",
            "Wechatpay-Signature": base64.b64encode(raw).decode(),
        }  # fmt: skip
        return Reply(status, body, headers)


@asynccontextmanager
async def lying(payin: str) -> AsyncGenerator[Liar]:
    """One that our rail calls."""
    (ours, _), (theirs, public) = key_pair("ours"), key_pair("theirs")
    apiv2_key = secrets.token_hex(16)
    kept = {
        "private_key": ours, "apiv3_key": secrets.token_hex(16), "apiv2_key": apiv2_key,
        "platform_keys": json.dumps({"PUB_KEY_ID_01": public}), "client_identity": "unused",
    }  # fmt: skip
    async with new_client() as client:
        deps = RailDeps(client, kept.__getitem__, WallClock(), lambda _: new_client())
        async with Answering(lambda _: Reply(500)).running() as server:
            settings = {
                "product": "none", "payin": payin, "url": server.url, "url_tls": server.url,
                "mchid": MCHID, "appid": APPID, "merchant_serial": "AB12",
                "notify_url": server.url, "bill_account": "BASIC",
            }  # fmt: skip
            account = RailAccount(
                1, "till", "wechat-pay", "CNY", settings, {name: name for name in kept}
            )
            liar = Liar(WeChatPayRail(deps), account, theirs, apiv2_key, kept)
            server.answer = liar.reply
            yield liar


TRADES = "/v3/pay/transactions"
REFUNDS = "/v3/refund/domestic/refunds"
PAID = {
    "appid": APPID, "mchid": MCHID, "out_trade_no": OURS, "trade_state": "SUCCESS",
    "transaction_id": "42", "amount": {"total": 1000, "currency": "CNY"},
}  # fmt: skip
OLD_PAID = {
    "return_code": "SUCCESS", "result_code": "SUCCESS", "appid": APPID, "mch_id": MCHID,
    "out_trade_no": OURS, "trade_state": "SUCCESS", "total_fee": "1000", "transaction_id": "42",
}  # fmt: skip


async def test_a_rightly_signed_truth_is_believed() -> None:
    async with lying("v3") as liar:
        liar.answers = {TRADES: (200, PAID)}
        said = await liar.rail.find_charge(liar.account, OURS)
        assert (said.verdict, said.amount) == (ChargeVerdict.PAID, Money(1000, "CNY"))
    async with lying("v2") as liar:
        liar.answers = {"/pay": (200, OLD_PAID)}
        said = await liar.rail.find_charge(liar.account, OURS)
        assert (said.verdict, said.amount) == (ChargeVerdict.PAID, Money(1000, "CNY"))


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (200, {**PAID, "out_trade_no": OTHER}),
        (200, {**PAID, "mchid": "1900000002"}),
        (200, {**PAID, "appid": "wxffffffffffffffff"}),
        (200, {"code": "ORDER_NOT_EXIST", "message": "?"}),
        (200, None),
        (202, PAID),
        (204, None),
        (301, PAID),
        (400, {"code": "ORDER_NOT_EXIST", "message": "?"}),
        (404, {"code": "NOT_FOUND", "message": "?"}),
        (404, None),
        (500, PAID),
    ],
)
async def test_no_look_up_says_what_it_does_not(status: int, content: Content | None) -> None:
    async with lying("v3") as liar:
        liar.answers = {TRADES: (status, content)}
        said = await liar.rail.find_charge(liar.account, OURS)
        assert said.verdict is ChargeVerdict.UNKNOWN


@pytest.mark.parametrize(
    "change",
    [
        {"out_trade_no": OTHER},
        {"mch_id": "1900000002"},
        {"appid": "wxffffffffffffffff"},
        {"return_code": "FAIL"},
        {"result_code": ""},
        {"result_code": "FAIL", "err_code": "SYSTEMERROR"},
        {"trade_state": ""},
    ],
)
async def test_no_old_look_up_says_what_it_does_not(change: dict[str, str]) -> None:
    async with lying("v2") as liar:
        liar.answers = {"/pay": (200, {**OLD_PAID, **change})}
        said = await liar.rail.find_charge(liar.account, OURS)
        assert said.verdict is ChargeVerdict.UNKNOWN


async def test_what_is_not_signed_says_nothing() -> None:
    missing = {"code": "ORDER_NOT_EXIST", "message": "?"}
    for status, content in ((200, PAID), (404, missing)):
        async with lying("v3") as liar:
            liar.answers, liar.signs = {TRADES: (status, content)}, False
            said = await liar.rail.find_charge(liar.account, OURS)
            assert said.verdict is ChargeVerdict.UNKNOWN
    gone = {"return_code": "SUCCESS", "result_code": "FAIL", "err_code": "ORDERNOTEXIST"}
    for content in (OLD_PAID, gone):
        async with lying("v2") as liar:
            liar.answers, liar.signs = {"/pay": (200, content)}, False
            said = await liar.rail.find_charge(liar.account, OURS)
            assert said.verdict is ChargeVerdict.UNKNOWN


async def test_no_order_is_taken_as_made_without_a_signature() -> None:
    async with lying("v3") as liar:
        liar.answers = {TRADES: (200, {"code_url": "weixin://x"}), REFUNDS: (200, REFUNDED)}
        assert (await liar.rail.open_charge(liar.account, charge())).content == "weixin://x"
        liar.signs = False
        with pytest.raises(RailUnknown):
            await liar.rail.open_charge(liar.account, charge())
        with pytest.raises(RailUnknown):
            await liar.rail.refund(liar.account, ORDER)
    async with lying("v2") as liar:
        liar.answers, liar.signs = {"/pay": (200, OPENED), "/sec": (200, OLD_REFUNDED)}, False
        with pytest.raises(RailUnknown):
            await liar.rail.open_charge(liar.account, charge())
        with pytest.raises(RailUnknown):
            await liar.rail.refund(liar.account, ORDER)


async def test_who_is_asked_to_come_again_is_told_so() -> None:
    async with lying("v3") as liar:
        liar.answers = {TRADES: (202, {"code": "USERPAYING"}), REFUNDS: (202, None)}
        with pytest.raises(RailUnknown) as caught:
            await liar.rail.refund(liar.account, ORDER)
        assert caught.value.extra["code"] == "202"
        said = await liar.rail.find_charge(liar.account, OURS)
        assert (said.verdict, said.code) == (ChargeVerdict.UNKNOWN, "202")


async def test_a_secret_that_goes_while_the_order_is_away_does_not_undo_it() -> None:
    async with lying("v3") as liar:
        liar.answers, liar.takes_away = {TRADES: (200, {"prepay_id": "wx1"})}, "private_key"
        with pytest.raises(RailUnknown) as caught:
            await liar.rail.open_charge(liar.account, charge("wechat-app"))
        assert caught.value.slug == "rail-secret-missing"
    async with lying("v2") as liar:
        opened = {**OPENED, "trade_type": "APP"}
        liar.answers, liar.takes_away = {"/pay": (200, opened)}, "apiv2_key"
        with pytest.raises(RailUnknown):
            await liar.rail.open_charge(liar.account, charge("wechat-app"))
    async with lying("v2") as liar:
        liar.answers, liar.takes_away = {"/sec": (200, OLD_REFUNDED)}, "apiv2_key"
        said = await liar.rail.refund(liar.account, ORDER)
        assert said.verdict is RefundVerdict.PROCESSING


async def test_closing_says_nothing_by_itself() -> None:
    """Merchants have got 204 for numbers that never were, and for such as were paid later."""
    missing = {"code": "ORDER_NOT_EXIST", "message": "?"}
    waits = {**PAID, "trade_state": "NOTPAY"}
    for (status, content), verdict in (
        ((404, missing), ChargeVerdict.NOT_FOUND),
        ((200, waits), ChargeVerdict.OPEN),
        ((200, PAID), ChargeVerdict.PAID),
        ((500, None), ChargeVerdict.UNKNOWN),
    ):
        async with lying("v3") as liar:
            close = f"{TRADES}/out-trade-no/{OURS}/close"
            liar.answers = {close: (204, None), TRADES: (status, content)}
            said = await liar.rail.close_charge(liar.account, OURS)
            assert said.verdict is verdict


async def test_what_closing_met_with_is_told() -> None:
    async with lying("v3") as liar:
        close, waits = f"{TRADES}/out-trade-no/{OURS}/close", {**PAID, "trade_state": "NOTPAY"}
        liar.answers = {close: (400, {"code": "RULE_LIMIT"}), TRADES: (200, waits)}
        said = await liar.rail.close_charge(liar.account, OURS)
        assert (said.verdict, said.code) == (ChargeVerdict.OPEN, "RULE_LIMIT")


def charge(method: str = "wechat-native") -> Charge:
    now = WallClock().now()
    until = now + timedelta(minutes=30)
    return Charge(OURS, Money(1000, "CNY"), method, "Budget", now, until, payer="oX")


@pytest.mark.parametrize(
    "content",
    [None, {}, {"code_url": ""}, {"code_url": 7}, {"prepay_id": "wx1"}, {"code": "ORDER_PAID"}],
)
async def test_an_opening_without_a_code_is_unknown(content: Content | None) -> None:
    async with lying("v3") as liar:
        liar.answers = {TRADES: (200, content)}
        with pytest.raises(RailUnknown) as caught:
            await liar.rail.open_charge(liar.account, charge())
        assert caught.value.slug == "provider-answer-malformed"


OPENED = {
    "return_code": "SUCCESS", "result_code": "SUCCESS", "appid": APPID, "mch_id": MCHID,
    "trade_type": "NATIVE", "prepay_id": "wx1", "code_url": "weixin://x",
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"trade_type": "JSAPI"},
        {"code_url": ""},
        {"mch_id": "1900000002"},
        {"appid": "wxffffffffffffffff"},
        {"return_code": "FAIL"},
        {"result_code": "FAIL", "err_code": "NO_AUTH"},
    ],
)
async def test_an_old_opening_that_is_another_is_unknown(change: dict[str, str]) -> None:
    async with lying("v2") as liar:
        liar.answers = {"/pay": (200, OPENED)}
        shown = await liar.rail.open_charge(liar.account, charge())
        assert shown.content == "weixin://x"
        liar.answers = {"/pay": (200, {**OPENED, **change})}
        with pytest.raises(RailUnknown):
            await liar.rail.open_charge(liar.account, charge())


REFUNDED = {
    "out_refund_no": BACK, "out_trade_no": OURS, "refund_id": "50", "status": "SUCCESS",
    "amount": {"total": 1000, "refund": 400, "currency": "CNY"},
}  # fmt: skip


@pytest.mark.parametrize("status", ["SUCCESS", "CLOSED", "ABNORMAL", "PROCESSING", "NEWER"])
async def test_the_answer_to_a_refund_is_no_end(status: str) -> None:
    async with lying("v3") as liar:
        liar.answers = {REFUNDS: (200, {**REFUNDED, "status": status})}
        said = await liar.rail.refund(liar.account, ORDER)
        assert (said.verdict, said.code) == (RefundVerdict.PROCESSING, None)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"out_refund_no": OTHER}, 200),
        ({"out_trade_no": OTHER}, 200),
        ({"amount": {"total": 1000, "refund": 1, "currency": "CNY"}}, 200),
        ({"code": "NOT_ENOUGH"}, 403),
        ({"code": "FREQUENCY_LIMITED"}, 429),
        ({"code": "PARAM_ERROR"}, 400),
        ({"code": "SIGN_ERROR"}, 401),
        ({}, 202),
    ],
)
async def test_a_refund_that_is_another_or_refused_is_unknown(
    change: dict[str, Any], status: int
) -> None:
    async with lying("v3") as liar:
        liar.answers = {REFUNDS: (status, {**REFUNDED, **change})}
        with pytest.raises(RailUnknown):
            await liar.rail.refund(liar.account, ORDER)
        said = await liar.rail.find_refund(liar.account, ORDER)
        assert said.verdict is RefundVerdict.UNKNOWN


OLD_REFUNDED = {
    "return_code": "SUCCESS", "result_code": "SUCCESS", "appid": APPID, "mch_id": MCHID,
    "out_trade_no": OURS, "out_refund_no": BACK, "total_fee": "1000", "refund_fee": "400",
    "refund_id": "50",
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"out_refund_no": OTHER},
        {"out_trade_no": OTHER},
        {"refund_fee": "1"},
        {"total_fee": "1"},
        {"refund_id": ""},
        {"mch_id": "1900000002"},
        {"result_code": "FAIL", "err_code": "NOTENOUGH"},
    ],
)
async def test_an_old_refund_that_is_another_is_unknown(change: dict[str, str]) -> None:
    async with lying("v2") as liar:
        liar.answers = {"/secapi": (200, OLD_REFUNDED)}
        said = await liar.rail.refund(liar.account, ORDER)
        assert (said.verdict, said.provider_id) == (RefundVerdict.PROCESSING, "50")
        liar.answers = {"/secapi": (200, {**OLD_REFUNDED, **change})}
        with pytest.raises(RailUnknown):
            await liar.rail.refund(liar.account, ORDER)
