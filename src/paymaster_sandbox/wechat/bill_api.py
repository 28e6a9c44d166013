"""The calls about daily files and receipts, of both versions of the API."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Final

from paymaster_sandbox.chassis.clock import SECOND
from paymaster_sandbox.wechat import bills
from paymaster_sandbox.wechat.bills import BillError, Bills
from paymaster_sandbox.wechat.envelope import Call, Envelope, Reply
from paymaster_sandbox.wechat.envelope2 import Call2, Envelope2, File, Rules
from paymaster_sandbox.wechat.errors import V3Error, wrong

if TYPE_CHECKING:
    from starlette.routing import Route

    from paymaster_sandbox.chassis.store import Tx

_DASHED: Final = len("2026-01-05")
_LASTS: Final = 300 * SECOND
_FILE: Final = "/v3/billdownload/file"
_ERRORS: Final = {
    "creating": ("STATEMENT_CREATING", "账单生成中"),
    "none": ("NO_STATEMENT_EXIST", "账单文件不存在"),
}
_OLD_ERRORS: Final = {
    "creating": ("BILL_CREATING", "账单生成中"),
    "none": ("NO_BILL_EXIST", "账单不存在"),
    "date": ("PARAM_ERROR", "参数错误: bill_date"),
}


class BillApi:
    """The public face of `Bills`."""

    def __init__(self, files: Bills) -> None:
        self._files = files

    def routes(self, envelope: Envelope, old: Envelope2) -> list[Route]:
        """The paths."""
        flow = Rules(certificate=True, methods=("HMAC-SHA256",), signed_answer=False)
        return [
            envelope.route("GET", "/v3/bill/tradebill", "bill.trade", self._trade),
            envelope.route("GET", "/v3/bill/fundflowbill", "bill.flow", self._flow),
            envelope.route("GET", _FILE, "bill.download", self._download),
            old.route("/pay/downloadbill", "bill2.trade", self._old_trade, Rules(
                signed_answer=False)),
            old.route("/pay/downloadfundflow", "bill2.flow", self._old_flow, flow),
        ]  # fmt: skip

    def _trade(self, tx: Tx, call: Call) -> Reply:
        return self._published(tx, call, _choice(call, "bill_type", bills.TRADES, "ALL"))

    def _flow(self, tx: Tx, call: Call) -> Reply:
        return self._published(tx, call, _choice(call, "account_type", bills.ACCOUNTS, "BASIC"))

    def _published(self, tx: Tx, call: Call, kind: str) -> Reply:
        """Where the file can be fetched for five minutes, and its sum."""
        asked = call.query("bill_date") or ""
        try:
            day = date.fromisoformat(asked if len(asked) == _DASHED else "")
        except ValueError as error:
            raise wrong("bill_date", "格式错误", "query") from error
        packing = _choice(call, "tar_type", ("GZIP", ""), "")
        try:
            body = self._files.file(tx, call.merchant, kind, day)
        except BillError as error:
            if error.reason == "date":
                raise wrong("bill_date", "日期不在可下载范围内", "query") from error
            code, message = _ERRORS[error.reason]
            return Reply({"code": code, "message": message}, 400)
        sent = bills.packed(body) if packing else body
        token = self._files.token(tx, call.merchant, sent, _LASTS)
        return Reply(
            {
                "hash_type": "SHA1",
                "hash_value": bills.sha1(body),
                "download_url": download_url(call, token),
            }
        )

    def _download(self, tx: Tx, call: Call) -> Reply:
        body = self._files.download(tx, call.merchant, call.query("token") or "")
        if body is None:
            raise V3Error(400, "INVALID_REQUEST", "下载链接已失效")
        return Reply(raw=body)

    def _old_trade(self, tx: Tx, call: Call2) -> dict[str, str] | File:
        call.text("appid", 32)
        kind = call.maybe("bill_type", 8) or "ALL"
        return self._old(tx, call, kind, bills.TRADES, coded=False)

    def _old_flow(self, tx: Tx, call: Call2) -> dict[str, str] | File:
        call.text("appid", 32)
        return self._old(
            tx, call, call.text("account_type", 16).upper(), bills.ACCOUNTS, coded=True
        )

    def _old(
        self, tx: Tx, call: Call2, kind: str, kinds: tuple[str, ...], *, coded: bool
    ) -> dict[str, str] | File:
        try:
            if kind not in kinds:
                raise BillError("date")
            day = date.fromisoformat(call.text("bill_date", 8))
            body = self._files.file(tx, call.merchant, kind, day)
        except ValueError:
            return _refusal("date", coded=coded)
        except BillError as error:
            return _refusal(error.reason, coded=coded)
        sent = bills.packed(body) if call.maybe("tar_type", 8) == "GZIP" else body
        return File(sent, {"Digest": f"SHA={bills.sha1(body)}"} if coded else {})


def download_url(call: Call, token: str) -> str:
    """An address at which the caller already reached us."""
    return f"{str(call.request.base_url).rstrip('/')}{_FILE}?token={token}"


def _refusal(reason: str, *, coded: bool) -> dict[str, str]:
    code, message = _OLD_ERRORS[reason]
    if coded:
        return {
            "return_msg": message, "result_code": "FAIL", "err_code": code,
            "err_code_des": message,
        }  # fmt: skip
    old = {"none": ("No Bill Exist", "20002"), "creating": ("Bill Creating", "20003")}
    text, number = old.get(reason, ("invalid bill_date", "20001"))
    return {
        "return_code": "FAIL", "return_msg": text, "error_code": number, "result_code": "FAIL"
    }  # fmt: skip


def _choice(call: Call, name: str, allowed: tuple[str, ...], default: str) -> str:
    found = call.query(name)
    if found is None:
        return default
    if found not in allowed:
        raise wrong(name, "枚举值错误", "query")
    return found
