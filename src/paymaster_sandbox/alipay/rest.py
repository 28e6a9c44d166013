"""The new interface: an address for each method, requests and answers signed in their headers."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from starlette.requests import Request
from starlette.responses import Response

from paymaster_sandbox.alipay import trouble
from paymaster_sandbox.alipay.apps import App, Apps, Call
from paymaster_sandbox.alipay.desk import Desk, reordered
from paymaster_sandbox.alipay.gateway import Gateway, check_address
from paymaster_sandbox.alipay.ring import Ring
from paymaster_sandbox.alipay.signing import answer_message, request_message, verifies
from paymaster_sandbox.alipay.wire import ProblemError
from paymaster_sandbox.chassis.base import Chassis
from paymaster_sandbox.chassis.clock import SECOND
from paymaster_sandbox.chassis.store import Tx

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS alipay_nonce (
    app_id TEXT NOT NULL, nonce TEXT NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (app_id, nonce)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS alipay_nonce_at ON alipay_nonce (at);
"""

_SCHEME: Final = "ALIPAY-SHA256withRSA "
_MAX_BODY: Final = 256 * 1024
_NONCES: Final = 86_400
_STALE: Final = 3_600


class Rest:
    """`/v3/alipay/...`."""

    def __init__(
        self, chassis: Chassis, apps: Apps, ring: Ring, desk: Desk, gateway: Gateway
    ) -> None:
        self._chassis = chassis
        self._apps = apps
        self._ring = ring
        self._desk = desk
        self._gateway = gateway

    async def call(self, request: Request, method: str) -> Response:
        """Answer one call of a method."""
        envelope = _Envelope(self._chassis, self._ring)
        body = await request.body()
        try:
            call = self._verified(request, method, body)
        except ProblemError as problem:
            with self._chassis.tx() as tx:
                return envelope.problem(tx, problem, signed=problem.status != 401)
        return await self._desk.serve(request, call, envelope)

    def _verified(self, request: Request, method: str, body: bytes) -> Call:
        """The call, if its signature is right. Raises ProblemError."""
        auth, parts = _authorization(request)
        with self._chassis.tx() as tx:
            app = self._apps.find(tx, parts.get("app_id", ""))
            if app is None:
                raise _unauthorized("isv.invalid-app-id", "无效的AppID参数")
            self._check(tx, app, request, parts, auth, body)
        fields = _fields(request, body)
        notify_url, return_url = fields.pop("notify_url", ""), fields.pop("return_url", "")
        return Call(
            app=app, method=method, fields=fields, notify_url=str(notify_url),
            return_url=str(return_url), base_url=str(request.base_url).rstrip("/"),
        )  # fmt: skip

    def _check(
        self, tx: Tx, app: App, request: Request, parts: Mapping[str, str], auth: str, body: bytes
    ) -> None:
        """Raises ProblemError unless the request is the app's own, and new."""
        if not app.options.public_key_mode:
            root = request.headers.get("alipay-root-cert-sn", "")
            self._gateway.check_certificates(app, parts.get("app_cert_sn", ""), root)
        stamp = parts.get("timestamp", "")
        if not stamp.isdecimal() or len(stamp) > 14:
            raise _unauthorized("isv.invalid-timestamp", "非法的时间戳参数")
        if not self._gateway.fresh(tx, int(stamp) * 1000):
            raise _unauthorized("isv.invalid-timestamp", "非法的时间戳参数")
        nonce = parts.get("nonce", "")
        if not 8 <= len(nonce) <= 64:
            raise _unauthorized("isv.invalid-nonce", "随机串无效")
        query = request.scope["query_string"].decode("ascii")
        raw: bytes = request.scope.get("raw_path") or request.url.path.encode()
        uri = raw.decode("ascii").partition("?")[0] + (f"?{query}" if query else "")
        token = request.headers.get("alipay-app-auth-token", "")
        message = request_message(auth, request.method, uri, body, token)
        if not verifies(app.key, message, parts.get("sign", "")):
            raise _unauthorized("isv.invalid-signature", "验签出错")
        seconds = self._chassis.clock.transport_seconds()
        tx.run("DELETE FROM alipay_nonce WHERE at < ?", seconds - _NONCES)
        fresh = tx.run(
            "INSERT OR IGNORE INTO alipay_nonce (app_id, nonce, at) VALUES (?, ?, ?)",
            app.app_id, nonce, seconds,
        )  # fmt: skip
        if not fresh:
            raise _unauthorized("isv.nonce-replayed", "请求已被重放")
        check_address(app, request)


@dataclass(frozen=True, slots=True)
class _Envelope:
    """Answers of the new interface: the status says how it went, the headers prove it."""

    chassis: Chassis
    ring: Ring

    def success(self, tx: Tx, fields: Mapping[str, Any], flaw: str | None) -> Response:
        """A call that was done."""
        if flaw == "accepted":
            return self._sealed(tx, b"", 202, flaw)
        content = reordered(fields) if flaw == "reordered" else fields
        body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
        return self._sealed(tx, body, 200, flaw)

    def problem(self, tx: Tx, problem: ProblemError, *, signed: bool) -> Response:
        """A call that was refused."""
        content: dict[str, Any] = {
            "code": problem.rest_code,
            "message": problem.sub_msg,
            "details": [],
            "links": [],
        }
        body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
        return self._sealed(tx, body, problem.status, None if signed else "unsigned")

    def _sealed(self, tx: Tx, body: bytes, status: int, flaw: str | None) -> Response:
        seconds = self.chassis.clock.transport_seconds()
        seconds += trouble.setting(tx, "skew_seconds") // SECOND
        if flaw == "stale_timestamp":
            seconds -= _STALE
        timestamp, nonce = f"{seconds}000", secrets.token_hex(16)
        signed = body + b" " if flaw == "bad_signature" else body
        signature, serial = self.ring.sign(tx, answer_message(timestamp, nonce, signed))
        headers = {
            "alipay-trace-id": secrets.token_hex(16),
            "alipay-timestamp": timestamp,
            "alipay-nonce": nonce,
            "alipay-signature": signature,
            "alipay-sn": serial[::-1] if flaw == "unknown_serial" else serial,
        }
        if flaw == "unsigned":
            headers = {"alipay-trace-id": headers["alipay-trace-id"]}
        if flaw == "truncated":
            body = body[: len(body) // 2]
        if flaw == "garbled":
            body = b"<html><body><h1>502 Bad Gateway</h1></body></html>"
        return Response(body, status, headers, "application/json")


def _unauthorized(code: str, message: str) -> ProblemError:
    return ProblemError("40002", code, message, status=401)


def _authorization(request: Request) -> tuple[str, dict[str, str]]:
    """The signed part of the header, and all its parts. Raises ProblemError."""
    header = request.headers.get("authorization", "")
    if not header.startswith(_SCHEME) or ",sign=" not in header:
        raise _unauthorized("isv.missing-signature", "缺少签名参数")
    auth, _, signature = header.removeprefix(_SCHEME).rpartition(",sign=")
    parts = dict(part.split("=", 1) for part in auth.split(",") if "=" in part)
    return auth, {**parts, "sign": signature}


def _fields(request: Request, body: bytes) -> dict[str, Any]:
    """What is asked for: the query of a GET, the object of a POST. Raises ProblemError."""
    if request.method == "GET":
        return dict(request.query_params)
    if len(body) > _MAX_BODY:
        raise ProblemError("40002", "isv.invalid-parameter", "请求体过大")
    try:
        fields = json.loads(body or b"{}")
    except ValueError as error:
        raise ProblemError("40002", "isv.invalid-parameter", "请求体不是 JSON") from error
    if not isinstance(fields, dict):
        raise ProblemError("40002", "isv.invalid-parameter", "请求体不是对象")
    return cast("dict[str, Any]", fields)
