"""The old transfers of APIv2: paid at once, without a word of its own afterwards.

A number pays once within a year of its success, and is then free again; asked again within two
natural days it gives the first answer, later SEND_FAILED. Nothing in the answers is signed: only
the TLS connection says who speaks.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from paymaster_sandbox.chassis import journal
from paymaster_sandbox.wechat import mishaps, parties
from paymaster_sandbox.wechat.envelope2 import Call2, Envelope2, Rules
from paymaster_sandbox.wechat.errors import V2Error
from paymaster_sandbox.wechat.fields import ORDER_NO
from paymaster_sandbox.wechat.payouts import Payout, Payouts
from paymaster_sandbox.wechat.times import day_of, plain
from paymaster_sandbox.wechat.transfers import DAY

if TYPE_CHECKING:
    from starlette.routing import Route

    from paymaster_sandbox.chassis.schedule import Schedule
    from paymaster_sandbox.chassis.store import Row, Tx
    from paymaster_sandbox.wechat.flow import Flow
    from paymaster_sandbox.wechat.parties import Merchant

SCHEMA = """
CREATE TABLE IF NOT EXISTS wechat_enterprise (
    payment_no TEXT PRIMARY KEY, mchid TEXT NOT NULL, order_no TEXT NOT NULL,
    params TEXT NOT NULL, openid TEXT NOT NULL, name TEXT, amount INTEGER NOT NULL,
    note TEXT NOT NULL, state TEXT NOT NULL, reason TEXT, created INTEGER NOT NULL,
    paid INTEGER, asked INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS wechat_enterprise_no ON wechat_enterprise (mchid, order_no);
"""

_FREE_AFTER: Final = 365 * DAY
_QUERY_DAYS: Final = 30
_COLUMNS: Final = (
    "payment_no, params, openid, name, amount, note, state, reason, created, paid, asked"
)
_CODES: Final = {
    "OPENID_INVALID": "OPENID_ERROR",
    "REAL_NAME_CHECK_FAIL": "V2_ACCOUNT_SIMPLE_BAN",
    "NAME_NOT_CORRECT": "NAME_MISMATCH",
    "TRANSFER_QUOTA_EXCEED": "SEND_MONEY_LIMIT",
    "DAY_RECEIVED_QUOTA_EXCEED": "RECEIVED_MONEY_LIMIT",
    "DAY_RECEIVED_COUNT_EXCEED": "SENDNUM_LIMIT",
    "PAYEE_ACCOUNT_ABNORMAL": "RECV_ACCOUNT_NOT_ALLOWED",
    "ACCOUNT_NOT_EXIST": "RECV_ACCOUNT_NOT_ALLOWED",
}
"""How the old interface calls what the newer ones call otherwise."""


class Enterprise:
    """The two calls."""

    def __init__(self, schedule: Schedule, flow: Flow) -> None:
        self._schedule = schedule
        self._flow = flow
        self._payouts = Payouts(flow)
        schedule.handle("wechat.enterprise.pay", self._finish)

    def routes(self, envelope: Envelope2) -> list[Route]:
        """The paths."""
        base = "/mmpaymkttransfers"
        pay = Rules(
            certificate=True, signed_answer=False, methods=("MD5",), mchid="mchid", coded=True
        )
        ask = Rules(certificate=True, signed_answer=False, methods=("MD5",), coded=True)
        return [
            envelope.route(f"{base}/promotion/transfers", "enterprise.pay", self._pay, pay),
            envelope.route(f"{base}/gettransferinfo", "enterprise.query", self._query, ask),
        ]

    def _pay(self, tx: Tx, call: Call2) -> dict[str, str]:
        merchant = call.merchant
        _allowed(call)
        order_no = call.text("partner_trade_no", 32)
        if ORDER_NO.fullmatch(order_no) is None:
            raise V2Error("PARAM_ERROR", "参数错误: partner_trade_no")
        payout, params = self._read(tx, call, order_no)
        known = self._latest(tx, merchant, order_no)
        if known is not None:
            again = self._again(tx, merchant, order_no, known, params)
            if again is not None:
                return again
        if payout.amount < merchant.least or payout.amount > merchant.most:
            raise V2Error("AMOUNT_LIMIT", "付款金额超出限制")
        if not self._payouts.covered(tx, merchant, payout.amount):
            raise V2Error("NOTENOUGH", "余额不足")
        after = mishaps.setting(tx, "paid_seconds")
        reason = None if after else self._payouts.objection(tx, payout)
        if reason is not None:
            return _failed(_CODES.get(reason, reason), "付款失败")
        self._payouts.lock(tx, payout)
        tx.run(
            f"INSERT INTO wechat_enterprise (mchid, order_no, {_COLUMNS})"  # noqa: S608 - constant
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'PROCESSING', NULL, ?, NULL, ?)",
            merchant.mchid, order_no, payout.bill_no, params, payout.openid, payout.name,
            payout.amount, payout.note, tx.now, tx.now,
        )  # fmt: skip
        if after:
            self._schedule.put(tx, "wechat.enterprise.pay", payout.bill_no, after)
        else:
            self._settle(tx, payout, None)
        made = self._latest(tx, merchant, order_no)
        assert made is not None
        return _answer(merchant, order_no, made)

    def _read(self, tx: Tx, call: Call2, order_no: str) -> tuple[Payout, str]:
        appid, openid = call.text("mch_appid", 128), call.text("openid", 64)
        if not parties.bound(tx, appid, call.merchant.mchid):
            raise V2Error("PARAM_ERROR", "mch_appid与商户号不匹配")
        user = parties.user(tx, openid)
        if user is None or user.appid != appid:
            raise V2Error("OPENID_ERROR", "openid与appid不匹配")
        check = call.text("check_name", 16)
        if check not in ("NO_CHECK", "FORCE_CHECK"):
            raise V2Error("PARAM_ERROR", "参数错误: check_name")
        name = call.maybe("re_user_name", 64)
        if check == "FORCE_CHECK" and name is None:
            raise V2Error("PARAM_ERROR", "参数错误: re_user_name")
        call.text("spbill_create_ip", 32)
        amount, note = call.fen("amount"), call.text("desc", 100)
        params = json.dumps([appid, openid, check, name, amount, note], ensure_ascii=False)
        payout = Payout(
            merchant=call.merchant, reference=order_no, bill_no=self._flow.number(tx, "1000"),
            openid=openid, name=name if check == "FORCE_CHECK" else None, amount=amount,
            product="enterprise", note=note,
        )  # fmt: skip
        return payout, params

    def _again(
        self, tx: Tx, merchant: Merchant, order_no: str, known: Row, params: str
    ) -> dict[str, str] | None:
        """The answer to a number that is in use; None if it may pay anew."""
        number, old, created, asked = known[0], known[1], known[8], known[10]
        if tx.now - created > _FREE_AFTER or known[6] == "FAILED":
            journal.note(tx, "wechat.enterprise.free", number=number)
            return None
        if old != params:
            raise V2Error("FATAL_ERROR", "两次请求参数不一致")
        if tx.now - asked < mishaps.setting(tx, "retry_interval_seconds"):
            raise V2Error("FREQ_LIMIT", "超过频率限制, 请稍后再试")
        tx.run("UPDATE wechat_enterprise SET asked = ? WHERE payment_no = ?", tx.now, number)
        if day_of(tx.now) - day_of(created) > timedelta(days=2):
            raise V2Error("SEND_FAILED", "付款错误, 请查单确认付款结果")
        return _answer(merchant, order_no, known)

    def _finish(self, tx: Tx, number: str) -> None:
        row = tx.one(
            "SELECT mchid, order_no, openid, name, amount, note FROM wechat_enterprise"
            " WHERE payment_no = ?",
            number,
        )
        assert row is not None
        merchant = parties.merchant(tx, row[0])
        assert merchant is not None
        payout = Payout(
            merchant=merchant, reference=row[1], bill_no=number, openid=row[2], name=row[3],
            amount=row[4], product="enterprise", note=row[5],
        )  # fmt: skip
        self._settle(tx, payout, self._payouts.objection(tx, payout))

    def _settle(self, tx: Tx, payout: Payout, reason: str | None) -> None:
        if reason is None:
            self._payouts.pay(tx, payout)
        else:
            self._payouts.give_back(tx, payout)
        tx.run(
            "UPDATE wechat_enterprise SET state = ?, reason = ?, paid = ? WHERE payment_no = ?",
            "SUCCESS" if reason is None else "FAILED", reason, tx.now, payout.bill_no,
        )  # fmt: skip

    def _query(self, tx: Tx, call: Call2) -> dict[str, str]:
        _allowed(call)
        call.text("appid", 128)
        order_no = call.text("partner_trade_no", 32)
        row = self._latest(tx, call.merchant, order_no)
        lag = mishaps.setting(tx, "not_found_lag_seconds")
        if row is None or row[8] > tx.now - lag or row[8] < tx.now - _QUERY_DAYS * DAY:
            raise V2Error("NOT_FOUND", "指定单号数据不存在")
        found = {
            "partner_trade_no": order_no,
            "appid": call.fields["appid"],
            "mch_id": call.merchant.mchid,
            "detail_id": row[0],
            "status": row[6],
            "openid": row[2],
            "transfer_name": row[3] or "",
            "payment_amount": str(row[4]),
            "transfer_time": plain(row[8]),
            "desc": row[5],
        }
        if row[6] == "SUCCESS":
            found["payment_time"] = plain(row[9])
        if row[7] is not None:
            found["reason"] = _CODES.get(row[7], row[7])
        return found

    def _latest(self, tx: Tx, merchant: Merchant, order_no: str) -> Row | None:
        return tx.one(
            f"SELECT {_COLUMNS} FROM wechat_enterprise WHERE mchid = ? AND order_no = ?"  # noqa: S608 - constant
            " ORDER BY created DESC, payment_no DESC LIMIT 1",
            merchant.mchid,
            order_no,
        )


def _allowed(call: Call2) -> None:
    if call.merchant.product != "transfers-v2":
        raise V2Error("NO_AUTH", "当前商户号接入升级版本功能, 暂不支持使用升级前功能")
    addresses, client = call.merchant.addresses, call.request.client
    if addresses is not None and (client is None or client.host not in addresses):
        raise V2Error("NO_AUTH", "此IP地址不允许调用接口")


def _answer(merchant: Merchant, order_no: str, row: Row) -> dict[str, str]:
    """What a payment is answered with; while it is on its way nobody knows more than this."""
    if row[6] != "SUCCESS":
        return _failed("SYSTEMERROR", "系统繁忙, 请稍后重试")
    return {
        "mch_appid": json.loads(row[1])[0],
        "mchid": merchant.mchid,
        "partner_trade_no": order_no,
        "payment_no": row[0],
        "payment_time": plain(row[9]),
    }


def _failed(code: str, message: str) -> dict[str, str]:
    """A refusal that leaves something behind: what was taken in, or a fate that has come true."""
    return {
        "return_msg": message, "result_code": "FAIL", "err_code": code, "err_code_des": message
    }  # fmt: skip
