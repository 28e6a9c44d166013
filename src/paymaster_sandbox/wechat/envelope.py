"""APIv3's envelope: a request counts only if the merchant signed exactly these bytes just now."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from paymaster_sandbox.chassis import journal
from paymaster_sandbox.chassis.clock import SECOND
from paymaster_sandbox.http import cut
from paymaster_sandbox.wechat import crypto, fields, mishaps, parties
from paymaster_sandbox.wechat.errors import V3Error, short_of_money
from paymaster_sandbox.wechat.keys import read_public
from paymaster_sandbox.wechat.mishaps import Mishap
from paymaster_sandbox.wechat.parties import Merchant

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import rsa

    from paymaster_sandbox.chassis.base import Chassis
    from paymaster_sandbox.chassis.store import Tx
    from paymaster_sandbox.wechat.platform import Platform

SCHEMA = """
CREATE TABLE IF NOT EXISTS wechat_nonce (
    mchid TEXT NOT NULL, nonce TEXT NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (mchid, nonce)
) WITHOUT ROWID;
"""

_SCHEME: Final = "WECHATPAY2-SHA256-RSA2048"
_PARAMETER: Final = re.compile(r'([a-z_]+)="([^"]*)"')
_FRESH_SECONDS: Final = 300
_MAX_BODY: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Call:
    """A request that has been proven to be the merchant's."""

    merchant: Merchant
    request: Request
    body: bytes
    serial: str

    def fields(self) -> fields.Fields:
        """The body as an object. Raises V3Error."""
        return fields.read(self.body)

    def part(self, name: str) -> str:
        """A part of the path."""
        return str(self.request.path_params[name])

    def query(self, name: str) -> str | None:
        """A parameter behind the question mark."""
        return self.request.query_params.get(name)

    def no_body(self) -> None:
        """Raises V3Error if something was sent where nothing belongs."""
        if self.body:
            raise V3Error(400, "PARAM_ERROR", "该接口不接受请求体")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a handler answers. `content` None: no body. `raw` bytes go out unsigned."""

    content: dict[str, object] | None = None
    status: int = 200
    raw: bytes | None = None


Handler = Callable[["Tx", Call], Reply]


class Envelope:
    """Opens requests and closes answers."""

    def __init__(self, chassis: Chassis, platform: Platform) -> None:
        self._chassis = chassis
        self._platform = platform

    def route(self, method: str, path: str, name: str, handler: Handler) -> Route:
        """A path of the API. `name` is what mishaps and the journal call it."""
        return Route(path, self._endpoint(name, handler), methods=[method])

    def _endpoint(self, name: str, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            body = await request.body()
            known: Merchant | None = None
            try:
                with self._chassis.tx() as tx:
                    known = self._sender(tx, request)
                with self._chassis.tx() as tx:
                    call = self._open(tx, request, body, known)
                    mishap = mishaps.strike(
                        tx, self._chassis.seed, name, mishaps.BEFORE | mishaps.AFTER
                    )
            except V3Error as error:
                return self._refuse(name, request, known, error)
            if mishap is not None and mishap.kind in mishaps.BEFORE:
                return await self._mishap(name, call, mishap, None)
            reply = self._run(name, call, handler)
            return await self._mishap(name, call, mishap, reply)

        return endpoint

    def _run(self, name: str, call: Call, handler: Handler) -> Reply:
        try:
            with self._chassis.tx() as tx:
                reply = handler(tx, call)
                journal.note(tx, f"wechat.{name}", mchid=call.merchant.mchid, status=reply.status)
        except V3Error as error:
            reply = Reply(error.content(), error.status)
            with self._chassis.tx() as tx:
                journal.note(
                    tx, f"wechat.{name}", mchid=call.merchant.mchid, status=error.status,
                    code=error.code, message=error.message,
                )  # fmt: skip
        return reply

    def _refuse(
        self, name: str, request: Request, known: Merchant | None, error: V3Error
    ) -> Response:
        with self._chassis.tx() as tx:
            journal.note(tx, f"wechat.{name}", status=error.status, code=error.code)
        content = _encode(error.content())
        if known is None:
            return Response(content, error.status, media_type="application/json")
        serial = request.headers.get("wechatpay-serial", "")
        return self._close(known, serial, Reply(error.content(), error.status), content, None)

    def _sender(self, tx: Tx, request: Request) -> Merchant:
        given = _authorization(request)
        found = parties.merchant(tx, given["mchid"])
        if found is None:
            raise V3Error(500, "SYSTEM_ERROR", "系统错误")
        return found

    def _open(self, tx: Tx, request: Request, body: bytes, sender: Merchant) -> Call:
        """Prove that the request is the merchant's, from now, and for the first time."""
        if len(body) > _MAX_BODY:
            raise V3Error(400, "PARAM_ERROR", "请求体过大")
        given = _authorization(request)
        if given["serial_no"].upper() != sender.serial:
            raise V3Error(401, "SIGN_ERROR", "商户证书序列号有误")
        now = self._platform.seconds(tx)
        if not given["timestamp"].isdecimal() or abs(now - int(given["timestamp"])) > (
            _FRESH_SECONDS
        ):
            raise V3Error(401, "SIGN_ERROR", "timestamp与发起请求的时间不得超过5分钟")
        target = _target(request)
        message = crypto.request_message(
            request.method, target, given["timestamp"], given["nonce_str"], body
        )
        if not crypto.verifies(_public(sender.public_key), message, given["signature"]):
            raise V3Error(
                401, "SIGN_ERROR", "签名错误", _explained(request.method, target, message)
            )
        tx.run("DELETE FROM wechat_nonce WHERE at < ?", now - 2 * _FRESH_SECONDS)
        fresh = tx.run(
            "INSERT OR IGNORE INTO wechat_nonce (mchid, nonce, at) VALUES (?, ?, ?)",
            sender.mchid, given["nonce_str"], now,
        )  # fmt: skip
        if not fresh:
            raise V3Error(401, "SIGN_ERROR", "nonce_str重复")
        _check_headers(request, body)
        return Call(sender, request, body, request.headers.get("wechatpay-serial", ""))

    async def _mishap(
        self, name: str, call: Call, mishap: Mishap | None, reply: Reply | None
    ) -> Response:
        """The answer, as far as the mishap lets it through."""
        if mishap is not None:
            with self._chassis.tx() as tx:
                journal.note(tx, "wechat.mishap", call=name, mishap=mishap.kind)
            if mishap.kind in ("cut_before", "cut_after"):
                return await cut(call.request)
            if mishap.kind == "slow":
                await asyncio.sleep(mishap.number / SECOND)
        reply = _distorted(mishap, reply)
        body = b"" if reply.content is None else _encode(reply.content)
        if reply.raw is not None:
            sent = _spoilt(mishap, reply.raw)
            return Response(sent, reply.status, media_type="application/octet-stream")
        return self._close(call.merchant, call.serial, reply, _spoilt(mishap, body), mishap)

    def _close(
        self, merchant: Merchant, asked: str, reply: Reply, body: bytes, mishap: Mishap | None
    ) -> Response:
        """Sign the answer with the key that the merchant expects."""
        with self._chassis.tx() as tx:
            headers = self._platform.answer_headers(tx, merchant, asked, body, mishap)
        media = "application/json" if body else None
        return Response(body, reply.status, headers, media)


def _authorization(request: Request) -> dict[str, str]:
    scheme, _, rest = request.headers.get("authorization", "").partition(" ")
    given = dict(_PARAMETER.findall(rest))
    wanted = {"mchid", "nonce_str", "timestamp", "serial_no", "signature"}
    if scheme != _SCHEME or set(given) != wanted or not all(given.values()):
        raise V3Error(401, "SIGN_ERROR", "Http头Authorization值格式错误")
    if len(given["nonce_str"]) > 32:
        raise V3Error(401, "SIGN_ERROR", "nonce_str过长")
    return given


def _target(request: Request) -> str:
    """Path and query exactly as they were sent."""
    path = request.scope["raw_path"].decode("ascii")
    query = request.scope["query_string"].decode("ascii")
    return f"{path}?{query}" if query else path


@lru_cache(maxsize=64)
def _public(pem: str) -> rsa.RSAPublicKey:
    return read_public(pem)


def _check_headers(request: Request, body: bytes) -> None:
    accept = request.headers.get("accept", "")
    if "application/json" not in accept and "*/*" not in accept:
        raise V3Error(400, "PARAM_ERROR", "Http头Accept须包含application/json")
    if not request.headers.get("user-agent"):
        raise V3Error(400, "PARAM_ERROR", "Http头缺少User-Agent")
    if body and not request.headers.get("content-type", "").startswith("application/json"):
        raise V3Error(400, "PARAM_ERROR", "Http头Content-Type须为application/json")


def _explained(method: str, target: str, message: bytes) -> dict[str, object]:
    text = message.decode(errors="replace")
    return {
        "field": "signature",
        "issue": "sign not match",
        "location": "authorization",
        "sign_information": {
            "method": method,
            "url": target,
            "sign_message_length": len(message),
            "truncated_sign_message": text if len(text) < 120 else f"{text[:60]}...{text[-60:]}",
        },
    }


def _encode(content: dict[str, object]) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def _distorted(mishap: Mishap | None, reply: Reply | None) -> Reply:
    """The reply, or another in its place."""
    kind = "" if mishap is None else mishap.kind
    text = "" if mishap is None else mishap.text
    if kind in ("error_before", "error_after"):
        status = mishap.number if mishap is not None and mishap.number else 500
        code = text or ("SYSTEM_ERROR" if status == 500 else "SERVICE_UNAVAILABLE")
        return Reply({"code": code, "message": "系统异常, 请稍后重试"}, status)
    if kind in ("limited_before", "limited_after"):
        return Reply({"code": text or "FREQUENCY_LIMITED", "message": "频率超限"}, 429)
    if kind in ("code_before", "code_after"):
        status = mishap.number if mishap is not None and mishap.number else 400
        return Reply({"code": text or "NEVER_HEARD_OF", "message": "未知错误"}, status)
    if kind == "lied_no":
        return Reply(V3Error(400, "PARAM_ERROR", "参数错误").content(), 400)
    if kind == "lied_short":
        return Reply(short_of_money().content(), 403)
    if kind in ("accepted_before", "accepted_after"):
        return Reply(None, 202)
    assert reply is not None
    if kind == "reordered" and reply.content is not None:
        return Reply(dict(reversed(reply.content.items())), reply.status)
    if kind == "extra_fields" and reply.content is not None:
        return Reply({"added_later": {"a": [1]}, **reply.content}, reply.status)
    return reply


def _spoilt(mishap: Mishap | None, body: bytes) -> bytes:
    if mishap is not None and mishap.kind == "truncated":
        return body[: len(body) // 2]
    if mishap is not None and mishap.kind == "garbled":
        return b"<html>\xff\xfe" + body[::-1]
    return body
