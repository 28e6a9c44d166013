"""The old interface: one address, parameters that are signed together, an answer in an envelope.

The answer's signature is over the very characters of the inner object, so it is built as text and
never written twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response

from paymaster_sandbox.alipay.apps import App, Apps, Call
from paymaster_sandbox.alipay.desk import Desk, reordered
from paymaster_sandbox.alipay.ring import Ring
from paymaster_sandbox.alipay.signing import canonical, verifies
from paymaster_sandbox.alipay.wire import ProblemError, from_beijing
from paymaster_sandbox.chassis.base import Chassis
from paymaster_sandbox.chassis.clock import SECOND
from paymaster_sandbox.chassis.store import Tx

_MAX_BODY: Final = 256 * 1024
_WINDOW: Final = 15 * 60 * SECOND
_CHARSETS: Final = {"utf-8": "utf-8", "gbk": "gbk", "gb2312": "gb2312"}
_FLAT: Final = frozenset({"alipay.system.oauth.token"})
"""Methods whose parameters stand beside the common ones."""
PAGE: Final = "alipay.trade.page.pay"
_UNSIGNED: Final = frozenset({"sign"})


class Gateway:
    """`/gateway.do`."""

    def __init__(self, chassis: Chassis, apps: Apps, ring: Ring, desk: Desk) -> None:
        self._chassis = chassis
        self._apps = apps
        self._ring = ring
        self._desk = desk

    async def call(self, request: Request) -> Response:
        """Answer one call."""
        try:
            params = await _params(request)
        except ValueError:
            envelope = _Envelope(self._ring, "error_response", "utf-8")
            problem = ProblemError("40002", "isv.invalid-charset", "字符集错误")
            with self._chassis.tx() as tx:
                return envelope.problem(tx, problem, signed=False)
        method = params.get("method", "")
        known = self._desk.knows(method)
        name = f"{method.replace('.', '_')}_response" if known else "error_response"
        envelope = _Envelope(self._ring, name, _charset(params))
        try:
            if not method:
                raise ProblemError("40001", "isv.missing-method", "缺少方法名参数")
            if not known:
                raise ProblemError("40002", "isv.invalid-method", "不存在的方法名")
            call = self.verified(request, params)
        except ProblemError as problem:
            with self._chassis.tx() as tx:
                return envelope.problem(tx, problem, signed=False)
        return await self._desk.serve(request, call, envelope)

    def verified(self, request: Request, params: Mapping[str, str]) -> Call:
        """The call, if its signature is right. Raises ProblemError."""
        with self._chassis.tx() as tx:
            app = self._app(tx, params)
            self._check(tx, app, params, request)
        method = params["method"]
        content = params.get("biz_content", "")
        fields: Any = dict(params) if method in _FLAT else {}
        if content:
            try:
                fields = json.loads(content)
            except ValueError as error:
                raise ProblemError(
                    "40002", "isv.invalid-parameter", "biz_content 不是 JSON"
                ) from error
        if not isinstance(fields, dict):
            raise ProblemError("40002", "isv.invalid-parameter", "biz_content 不是对象")
        return Call(
            app=app, method=method, fields=cast("dict[str, Any]", fields),
            notify_url=params.get("notify_url", ""), return_url=params.get("return_url", ""),
            charset=_charset(params), base_url=str(request.base_url).rstrip("/"),
        )  # fmt: skip

    def _app(self, tx: Tx, params: Mapping[str, str]) -> App:
        if not params.get("app_id"):
            raise ProblemError("40001", "isv.missing-app-id", "缺少应用ID参数")
        app = self._apps.find(tx, params["app_id"])
        if app is None:
            raise ProblemError("40002", "isv.invalid-app-id", "无效的AppID参数")
        return app

    def _check(self, tx: Tx, app: App, params: Mapping[str, str], request: Request) -> None:
        """Everything about the common parameters. Raises ProblemError."""
        for name, right in (("version", "1.0"), ("sign_type", "RSA2")):
            if params.get(name) != right:
                code = {"sign_type": "isv.invalid-signature-type"}.get(name, f"isv.invalid-{name}")
                raise ProblemError("40002", code, f"无效的{name}参数")
        if params.get("format", "JSON").upper() != "JSON":
            raise ProblemError("40002", "isv.invalid-format", "无效的数据格式")
        sent = params.get("timestamp", "")
        if not sent:
            raise ProblemError("40001", "isv.missing-timestamp", "缺少时间戳参数")
        if not self.fresh(tx, from_beijing(sent, "timestamp")):
            raise ProblemError("40002", "isv.invalid-timestamp", "非法的时间戳参数")
        if not app.options.public_key_mode:
            self.check_certificates(
                app, params.get("app_cert_sn", ""), params.get("alipay_root_cert_sn", "")
            )
        if not params.get("sign"):
            raise ProblemError("40001", "isv.missing-signature", "缺少签名参数")
        message = canonical(params, without=_UNSIGNED).encode(_charset(params))
        if not verifies(app.key, message, params["sign"]):
            raise ProblemError("40002", "isv.invalid-signature", "无效签名", status=401)
        check_address(app, request)

    def fresh(self, tx: Tx, sent: int) -> bool:
        """Whether a moment is near now, by the machine's clock or by the virtual one."""
        machine = self._chassis.clock.transport_seconds() * SECOND
        return min(abs(machine - sent), abs(tx.now - sent)) <= _WINDOW

    def check_certificates(self, app: App, app_sn: str, root_sn: str) -> None:
        """Raises ProblemError unless both serial numbers are the right ones."""
        if not app_sn:
            raise ProblemError("40001", "isv.missing-app-cert-sn", "缺少应用公钥证书SN", status=401)
        if app_sn != app.cert_sn:
            raise ProblemError("40002", "isv.app-cert-not-exist", "应用公钥证书不存在", status=401)
        if not root_sn:
            raise ProblemError(
                "40001", "isv.missing-alipay-root-cert-sn", "缺少支付宝根证书SN", status=401
            )
        if root_sn != self._ring.certificates.root_sn:
            raise ProblemError(
                "40002", "isv.invalid-alipay-root-cert-sn", "支付宝根证书SN错误", status=401
            )

    async def params(self, request: Request) -> dict[str, str]:
        """The parameters of a request. Raises ValueError."""
        return await _params(request)


@dataclass(frozen=True, slots=True)
class _Envelope:
    """The gateway's answers: HTTP 200, whatever happened."""

    ring: Ring
    name: str
    charset: str

    def success(self, tx: Tx, fields: Mapping[str, Any], flaw: str | None) -> Response:
        """A call that was done."""
        inner: Mapping[str, Any] = {"code": "10000", "msg": "Success", **fields}
        if flaw == "accepted":
            inner = {"code": "10003", "msg": "order success pay inprocess"}
        if flaw == "reordered":
            inner = reordered(inner)
        return self._sealed(tx, inner, flaw)

    def problem(self, tx: Tx, problem: ProblemError, *, signed: bool) -> Response:
        """A call that was refused."""
        inner = {
            "code": problem.code,
            "msg": problem.message,
            "sub_code": problem.sub_code,
            "sub_msg": problem.sub_msg,
        }
        return self._sealed(tx, inner, None if signed else "unsigned")

    def _sealed(self, tx: Tx, inner: Mapping[str, Any], flaw: str | None) -> Response:
        text = _written(inner)
        signed = text if flaw not in ("bad_signature", "stale_timestamp") else f"{text} "
        signature, serial = self.ring.sign(tx, signed.encode(self.charset))
        if flaw == "unknown_serial":
            serial = serial[::-1]
        whole = f'{{"{self.name}":{text}'
        if flaw != "unsigned":
            whole += f',"alipay_cert_sn":"{serial}","sign":"{signature}"'
        body = f"{whole}}}".encode(self.charset)
        if flaw == "truncated":
            body = body[: len(body) // 2]
        if flaw == "garbled":
            body = b"<html><body><h1>502 Bad Gateway</h1></body></html>"
        return Response(body, media_type=f"text/html;charset={self.charset}")


def check_address(app: App, request: Request) -> None:
    """Raises ProblemError if the customer may not call from there."""
    host = request.client.host if request.client else ""
    if app.options.ips and host not in app.options.ips:
        raise ProblemError("40006", "isv.insufficient-isv-permissions", "IP不在白名单中")


async def _params(request: Request) -> dict[str, str]:
    """Query and form together, decoded as they say they are. Raises ValueError."""
    body = await request.body()
    if len(body) > _MAX_BODY:
        raise ValueError("too long")
    query = request.scope["query_string"].decode("ascii")
    form = body.decode("ascii")
    first = dict(parse_qsl(f"{query}&{form}", keep_blank_values=True, errors="replace"))
    charset = _charset(first)
    pairs = [
        *parse_qsl(query, keep_blank_values=True, encoding=charset, errors="strict"),
        *parse_qsl(form, keep_blank_values=True, encoding=charset, errors="strict"),
    ]
    return dict(pairs)


def _charset(params: Mapping[str, str]) -> str:
    return _CHARSETS.get(params.get("charset", "utf-8").lower(), "utf-8")


def _written(inner: Mapping[str, Any]) -> str:
    """JSON as the gateway writes it: slashes escaped, Chinese not."""
    return json.dumps(inner, ensure_ascii=False, separators=(",", ":")).replace("/", "\\/")
