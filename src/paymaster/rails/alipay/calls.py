"""Signed calls over either interface, and one way to look at what came back.

The new interface signs time, nonce and body of each answer. The gateway signs the very characters
of the inner object, so they are cut out of the answer as they came and never written again.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from paymaster.rails import rsa
from paymaster.rails.alipay import prepare
from paymaster.rails.alipay.certificates import Keyring
from paymaster.rails.alipay.settings import App, app, mode
from paymaster.rails.base import RailAccount
from paymaster.rails.deps import RailDeps, setting
from paymaster.rails.http import Answer, call
from paymaster.rails.yuan import UnreadableError, an_object, beijing, members

SCHEME: Final = "ALIPAY-SHA256withRSA"
AGENT: Final = "paymaster"
MAX_AGE: Final = timedelta(seconds=300)
MAX_BYTES: Final = 8 * 1024 * 1024
_DONE: Final = "10000"
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
_OUTER: Final[Mapping[str, int]] = {"20000": 503, "20001": 401, "40005": 429, "40006": 403}


@dataclass(frozen=True, slots=True)
class Method:
    """One thing that can be asked for: its name at the gateway, and its place in the new one."""

    name: str
    verb: str

    @property
    def path(self) -> str:
        """Where it is in the new interface."""
        return (
            "/v3/"
            + self.name.removesuffix(".query").replace(".", "/")
            + ("/query" if self.name.endswith(".query") else "")
        )


TRANSFER: Final = Method("alipay.fund.trans.uni.transfer", "POST")
QUERY: Final = Method("alipay.fund.trans.common.query", "GET")
ACCOUNT_LOG: Final = Method("alipay.data.bill.accountlog.query", "GET")
DOWNLOAD_URL: Final = Method("alipay.data.dataservice.bill.downloadurl.query", "GET")
PRECREATE: Final = Method("alipay.trade.precreate", "POST")
PAGE_PAY: Final = Method("alipay.trade.page.pay", "GET")
TRADE_QUERY: Final = Method("alipay.trade.query", "POST")
TRADE_CLOSE: Final = Method("alipay.trade.close", "POST")
REFUND: Final = Method("alipay.trade.refund", "POST")
REFUND_QUERY: Final = Method("alipay.trade.fastpay.refund.query", "POST")


@dataclass(frozen=True, slots=True)
class Said:
    """An answer. `done`: what was asked for, and signed. `code` is the error's, in one spelling.

    `status` is the HTTP status, or what the gateway's outer code corresponds to.
    """

    status: int
    genuine: bool
    done: bool
    code: str | None
    found: Mapping[str, object] = field(repr=False)
    retry_after: str | None = None


async def ask(
    deps: RailDeps,
    account: RailAccount,
    method: Method,
    content: bytes,
    common: Mapping[str, str] = _NOTHING,
) -> Said:
    """Make one call; `content` is the JSON object of its parameters, and goes out as it is.

    `common` stands beside the content at the gateway, and within it in the new interface: where
    the provider is to tell of it. Raises what `http.call` raises.
    """
    who = app(deps, account)
    if mode(account) == "gateway":
        return await _gateway(deps, account, who, method, content, common)
    if common:
        content = prepare.canonical({**json.loads(content), **common})
    return await _rest(deps, account, who, method, content)


def page_address(
    deps: RailDeps,
    account: RailAccount,
    method: Method,
    content: bytes,
    common: Mapping[str, str],
) -> str:
    """A signed address at the gateway that a payer's browser opens; nothing is sent by us.

    Raises NeverSent `rail-account-invalid` or `rail-secret-missing`.
    """
    params = _signed(deps, app(deps, account), method, content, common)
    return f"{_gateway_of(account)}?{urlencode(params)}"


async def _rest(
    deps: RailDeps, account: RailAccount, who: App, method: Method, content: bytes
) -> Said:
    base = setting(account, "url").rstrip("/")
    target, body = method.path, content
    if method.verb == "GET":
        fields: Mapping[str, Any] = json.loads(content)
        target, body = f"{target}?{urlencode(fields, quote_via=quote)}", b""
    now = int(deps.clock.now().timestamp() * 1000)
    auth = (
        f"app_id={who.app_id},app_cert_sn={who.certificate},"
        f"nonce={secrets.token_hex(16)},timestamp={now}"
    )
    message = request_message(auth, method.verb, urlsplit(base).path + target, body)
    headers = {
        "accept": "application/json",
        "user-agent": AGENT,
        "alipay-root-cert-sn": who.root,
        "authorization": f"{SCHEME} {auth},sign={rsa.sign(who.key, message)}",
    } | ({"content-type": "application/json"} if body else {})
    answer = await call(
        deps.http, method.verb, base + target, headers=headers, body=body or None,
        max_bytes=MAX_BYTES,
    )  # fmt: skip
    return read_rest(who.keyring, answer, deps.clock.now())


def request_message(auth: str, verb: str, target: str, body: bytes) -> bytes:
    """What a request of the new interface signs."""
    return f"{auth}\n{verb}\n{target}\n".encode() + body + b"\n"


def read_rest(keyring: Keyring, answer: Answer, now: datetime) -> Said:
    """Judge an answer of the new interface by its signature, over the bytes as they came."""
    headers = answer.headers
    timestamp = headers.get("alipay-timestamp", "")
    message = f"{timestamp}\n{headers.get('alipay-nonce', '')}\n".encode() + answer.body + b"\n"
    genuine = is_fresh(timestamp, now) and keyring.genuine(
        headers.get("alipay-sn", ""), headers.get("alipay-signature", ""), message
    )
    found = an_object(answer.body)
    said = found.get("code")
    failed = answer.status >= 300 and isinstance(said, str) and said
    code = spelled(said) if failed and isinstance(said, str) else None
    done = genuine and answer.status == 200 and bool(found)
    return Said(answer.status, genuine, done, code, found, headers.get("retry-after"))


def is_fresh(timestamp: str, now: datetime, oldest: timedelta = MAX_AGE) -> bool:
    """Whether a signed time, in milliseconds, is near enough to ours, and no older than that."""
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 14):
        return False
    age = now - datetime.fromtimestamp(int(timestamp) // 1000, UTC)
    return -MAX_AGE < age < oldest


def spelled(code: str) -> str:
    """One spelling for both interfaces: `isv.invalid-signature` is INVALID_SIGNATURE."""
    head, dot, tail = code.partition(".")
    return tail.replace("-", "_").upper() if dot and head in {"isv", "isp"} else code


def _gateway_of(account: RailAccount) -> str:
    return setting(account, "url").rstrip("/") + "/gateway.do"


def _signed(
    deps: RailDeps, who: App, method: Method, content: bytes, common: Mapping[str, str]
) -> dict[str, str]:
    """The parameters of the gateway with their signature."""
    params = {
        **common,
        "app_id": who.app_id,
        "method": method.name,
        "format": "JSON",
        "charset": "utf-8",
        "sign_type": "RSA2",
        "timestamp": beijing(deps.clock.now()),
        "version": "1.0",
        "app_cert_sn": who.certificate,
        "alipay_root_cert_sn": who.root,
        "biz_content": content.decode(),
    }
    params["sign"] = rsa.sign(who.key, canonical(params, frozenset({"sign"})).encode())
    return params


async def _gateway(
    deps: RailDeps,
    account: RailAccount,
    who: App,
    method: Method,
    content: bytes,
    common: Mapping[str, str],
) -> Said:
    answer = await call(
        deps.http,
        "POST",
        _gateway_of(account),
        headers={
            "accept": "*/*",
            "user-agent": AGENT,
            "content-type": "application/x-www-form-urlencoded;charset=utf-8",
        },
        body=urlencode(_signed(deps, who, method, content, common)).encode(),
        max_bytes=MAX_BYTES,
    )
    return read_gateway(who.keyring, answer, method.name)


def canonical(params: Mapping[str, str], without: frozenset[str]) -> str:
    """Every parameter with a value, in order, as `name=value` joined by `&`."""
    return "&".join(
        f"{name}={params[name]}" for name in sorted(params) if params[name] and name not in without
    )


def read_gateway(keyring: Keyring, answer: Answer, method: str) -> Said:
    """Judge an answer of the gateway by its signature, over the inner object's characters."""
    unreadable = Said(answer.status, genuine=False, done=False, code=None, found={})
    if answer.status != 200:
        return unreadable
    try:
        raw = pieces(answer.body.decode())
    except (ValueError, RecursionError):
        return unreadable
    inner = raw.get(method.replace(".", "_") + "_response") or raw.get("error_response")
    if inner is None:
        return unreadable
    try:
        found = members(json.loads(inner), "the answer")
        serial, signature = (json.loads(raw.get(name, '""')) for name in ("alipay_cert_sn", "sign"))
    except (ValueError, RecursionError, UnreadableError):
        return unreadable
    signed = isinstance(serial, str) and isinstance(signature, str)
    genuine = signed and keyring.genuine(serial, signature, inner.encode())
    outer = found.get("code")
    if outer == _DONE:
        return Said(200, genuine, genuine, None, found)
    sub = found.get("sub_code") or outer
    code = spelled(sub) if isinstance(sub, str) and sub else None
    return Said(_OUTER.get(str(outer), 400), genuine, done=False, code=code, found=found)


def pieces(written: str) -> dict[str, str]:
    """The members of a JSON object as the very characters that stand there.

    Raises ValueError for what is no object, is not whole, or has a name twice.
    """
    decoder, found = json.JSONDecoder(), dict[str, str]()
    place = _skip(written, 0)
    if written[place : place + 1] != "{":
        raise ValueError("it is no object")
    place = _skip(written, place + 1)
    while written[place : place + 1] != "}":
        name, place = decoder.raw_decode(written, place)
        place = _skip(written, place)
        if not isinstance(name, str) or name in found or written[place : place + 1] != ":":
            raise ValueError("it is no object")
        start = _skip(written, place + 1)
        _, end = decoder.raw_decode(written, start)
        found[name] = written[start:end]
        place = _skip(written, end)
        if written[place : place + 1] == ",":
            place = _skip(written, place + 1)
            if written[place : place + 1] == "}":
                raise ValueError("it ends with a comma")
        elif written[place : place + 1] != "}":
            raise ValueError("it is not whole")
    if written[place + 1 :].strip():
        raise ValueError("something follows it")
    return found


def _skip(written: str, place: int) -> int:
    while place < len(written) and written[place] in " \t\r\n":
        place += 1
    return place
