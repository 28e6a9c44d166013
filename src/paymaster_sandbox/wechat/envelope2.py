"""APIv2's envelope: XML with a keyed digest; some calls only with the merchant's certificate."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from paymaster_sandbox.chassis import journal
from paymaster_sandbox.chassis.clock import SECOND
from paymaster_sandbox.http import client_certificate, cut
from paymaster_sandbox.wechat import crypto, mishaps, parties, xml
from paymaster_sandbox.wechat.errors import V2Error
from paymaster_sandbox.wechat.mishaps import Mishap
from paymaster_sandbox.wechat.parties import Merchant

if TYPE_CHECKING:
    from paymaster_sandbox.chassis.base import Chassis
    from paymaster_sandbox.chassis.store import Tx

_METHODS: Final = ("MD5", "HMAC-SHA256")


@dataclass(frozen=True, slots=True)
class Call2:
    """A message that has been proven to be the merchant's."""

    merchant: Merchant
    fields: Mapping[str, str]
    method: str
    request: Request

    def text(self, name: str, most: int) -> str:
        """A field of 1 to `most` characters. Raises V2Error."""
        found = self.fields.get(name, "")
        if not 1 <= len(found) <= most:
            raise V2Error("PARAM_ERROR", f"参数错误: {name}")
        return found

    def maybe(self, name: str, most: int) -> str | None:
        """The same, where the field may be left out or empty."""
        return self.text(name, most) if self.fields.get(name) else None

    def fen(self, name: str) -> int:
        """An amount. Raises V2Error."""
        found = self.text(name, 13)
        if not found.isdecimal() or not found.isascii() or found.startswith("0"):
            raise V2Error("PARAM_ERROR", f"参数错误: {name}")
        return int(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a call demands and gives. `coded`: faults of the message itself have an err_code too."""

    certificate: bool = False
    signed_answer: bool = True
    methods: tuple[str, ...] = _METHODS
    mchid: str = "mch_id"
    coded: bool = False


@dataclass(frozen=True, slots=True)
class File:
    """An answer that is no message."""

    body: bytes
    headers: Mapping[str, str]


Handler2 = Callable[["Tx", Call2], Mapping[str, str] | File]


class Envelope2:
    """Opens messages and closes answers."""

    def __init__(self, chassis: Chassis) -> None:
        self._chassis = chassis

    def route(self, path: str, name: str, handler: Handler2, rules: Rules) -> Route:
        """A path of the API. A handler may answer with a file."""
        return Route(path, self._endpoint(name, handler, rules), methods=["POST"])

    def _endpoint(
        self, name: str, handler: Handler2, rules: Rules
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            body = await request.body()
            try:
                with self._chassis.tx() as tx:
                    call = _open(tx, request, body, rules)
                    mishap = mishaps.strike(
                        tx, self._chassis.seed, name, mishaps.BEFORE | mishaps.AFTER
                    )
            except V2Error as error:
                with self._chassis.tx() as tx:
                    journal.note(tx, f"wechat.{name}", refused=error.message)
                return _xml(_fault(error, rules))
            if mishap is not None and mishap.kind in mishaps.BEFORE:
                return await self._mishap(name, call, rules, mishap, {})
            return await self._mishap(name, call, rules, mishap, self._run(name, call, handler))

        return endpoint

    def _run(self, name: str, call: Call2, handler: Handler2) -> Mapping[str, str] | File:
        try:
            with self._chassis.tx() as tx:
                found = handler(tx, call)
                journal.note(tx, f"wechat.{name}", mchid=call.merchant.mchid)
        except V2Error as error:
            with self._chassis.tx() as tx:
                journal.note(tx, f"wechat.{name}", mchid=call.merchant.mchid, code=error.code)
            return _business(error)
        if isinstance(found, File):
            return found
        return {"return_code": "SUCCESS", "return_msg": "", "result_code": "SUCCESS", **found}

    async def _mishap(
        self, name: str, call: Call2, rules: Rules, mishap: Mishap | None,
        found: Mapping[str, str] | File,
    ) -> Response:  # fmt: skip
        """The answer, as far as the mishap lets it through."""
        kind = "" if mishap is None else mishap.kind
        if mishap is not None:
            with self._chassis.tx() as tx:
                journal.note(tx, "wechat.mishap", call=name, mishap=kind)
            if kind in ("cut_before", "cut_after"):
                return await cut(call.request)
            if kind == "slow":
                await asyncio.sleep(mishap.number / SECOND)
            if kind in ("error_before", "error_after") and mishap.number:
                return Response(b"<html>Bad Gateway</html>", mishap.number, media_type="text/html")
            if kind in ("accepted_before", "accepted_after"):
                return Response(b"", 202)
            code = _code(mishap)
            found = found if code is None else _business(V2Error(code, "请稍后重试"))
        if isinstance(found, File):
            return Response(found.body, 200, dict(found.headers), "text/plain")
        return _xml(_spoilt(kind, self._closed(call, rules, kind, found)))

    def _closed(
        self, call: Call2, rules: Rules, kind: str, found: Mapping[str, str]
    ) -> Mapping[str, str]:
        fields = dict(found)
        if kind == "extra_fields":
            fields["added_later"] = "1"
        if not rules.signed_answer or kind == "no_signature":
            return fields
        with self._chassis.tx() as tx:
            fields["nonce_str"] = self._chassis.seed.id(tx, "n")
        key = call.merchant.apiv2_key
        fields["sign"] = crypto.digest(fields, key, call.method)
        if kind == "bad_signature":
            fields["sign"] = crypto.digest(fields, key[::-1], call.method)
        return dict(reversed(fields.items())) if kind == "reordered" else fields


def _open(tx: Tx, request: Request, body: bytes, rules: Rules) -> Call2:
    try:
        fields = xml.read(body)
    except xml.NotXmlError as error:
        raise V2Error("XML_ERROR", "XML格式错误") from error
    merchant = parties.merchant(tx, fields.get(rules.mchid, ""))
    if merchant is None:
        raise V2Error("PARAM_ERROR", "商户号不存在")
    if rules.certificate and client_certificate(request) != _der(merchant):
        raise V2Error("CA_ERROR", "证书校验失败")
    method = fields.get("sign_type") or rules.methods[0]
    if method not in rules.methods:
        raise V2Error("SIGN_ERROR", "签名类型错误")
    right = crypto.digest(fields, merchant.apiv2_key, method)
    if not hmac.compare_digest(right.encode(), fields.get("sign", "").encode()):
        raise V2Error("SIGN_ERROR", "签名错误")
    if not 1 <= len(fields.get("nonce_str", "")) <= 32:
        raise V2Error("PARAM_ERROR", "参数错误: nonce_str")
    return Call2(merchant, fields, method, request)


def _der(merchant: Merchant) -> bytes:
    certificate = x509.load_pem_x509_certificate(merchant.certificate.encode())
    return certificate.public_bytes(Encoding.DER)


def _fault(error: V2Error, rules: Rules) -> bytes:
    """A message that was not taken at all."""
    if rules.coded:
        return xml.write(_business(error))
    return xml.write({"return_code": "FAIL", "return_msg": error.message})


def _business(error: V2Error) -> dict[str, str]:
    return {
        "return_code": "SUCCESS",
        "return_msg": error.message,
        "result_code": "FAIL",
        "err_code": error.code or "SYSTEMERROR",
        "err_code_des": error.message,
    }


def _code(mishap: Mishap) -> str | None:
    """The err_code that the caller sees instead of the truth."""
    by_kind = {"error": "SYSTEMERROR", "limited": "FREQ_LIMIT", "code": "NEVER_HEARD_OF"}
    family, _, when = mishap.kind.rpartition("_")
    if when not in ("before", "after") or family not in by_kind:
        return None
    return mishap.text or by_kind[family]


def _spoilt(kind: str, fields: Mapping[str, str]) -> bytes:
    body = xml.write(fields)
    if kind == "truncated":
        return body[: len(body) // 2]
    if kind == "garbled":
        return b"<html>\xff\xfe" + body[::-1]
    return body


def _xml(body: bytes) -> Response:
    return Response(body, 200, media_type="text/xml; charset=utf-8")
