"""Signed calls: APIv3 over the shared client, APIv2 over a connection with our certificate.

An answer is `genuine` when it is signed by the provider, now, over the bytes that came. APIv2 signs
no answers to payments; there the connection alone says who speaks.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from paymaster.kernel.errors import RailUnknown, Refusal
from paymaster.rails import meaning
from paymaster.rails.base import RailAccount
from paymaster.rails.deps import RailDeps, secret, setting
from paymaster.rails.http import CERTIFICATE_REFUSED, Answer, call
from paymaster.rails.meaning import Kind
from paymaster.rails.wechat import crypto, v2
from paymaster.rails.wechat.settings import Merchant, merchant
from paymaster.rails.yuan import UnreadableError, an_object

AGENT: Final = "paymaster"
MAX_BILL_BYTES: Final = 64 * 1024 * 1024
_XML_HEADERS: Final = {"content-type": "text/xml", "accept": "*/*", "user-agent": AGENT}


@dataclass(frozen=True, slots=True)
class Said:
    """An answer of APIv3. `found` is empty where there is no readable JSON object."""

    status: int
    genuine: bool
    found: Mapping[str, object] = field(repr=False)
    retry_after: str | None = None

    @property
    def code(self) -> str | None:
        """The provider's error code; None if this is not one of its errors."""
        code = self.found.get("code")
        return code if self.status >= 300 and isinstance(code, str) and code else None

    @property
    def good(self) -> bool:
        """Whether it is what was asked for, and signed. 202 asks to come again."""
        return self.status in {200, 204} and self.genuine


async def ask(
    deps: RailDeps,
    account: RailAccount,
    method: str,
    target: str,
    body: bytes = b"",
    *,
    who: Merchant | None = None,
) -> Said:
    """Make one call of APIv3; `target` is path and query. Raises what `http.call` raises."""
    who = who or merchant(deps, account)
    headers = _headers(who, method, setting(account, "url"), target, body, deps.clock.now())
    url = setting(account, "url").rstrip("/") + target
    answer = await call(deps.http, method, url, headers=headers, body=body or None)
    return said(who.keyring, answer, deps.clock.now())


async def download(deps: RailDeps, account: RailAccount, url: str) -> Answer:
    """Get a bill, whose address the provider has just signed for. The answer is not signed.

    Raises RailUnknown `provider-answer-malformed` for an address elsewhere.
    """
    who = merchant(deps, account)
    ours, theirs = urlsplit(setting(account, "url")), urlsplit(url)
    if (ours.scheme, ours.netloc) != (theirs.scheme, theirs.netloc):
        raise meaning.error(Kind.MALFORMED, "The bill is said to lie at another address.")
    target = theirs.path + (f"?{theirs.query}" if theirs.query else "")
    root = f"{ours.scheme}://{ours.netloc}"
    headers = _headers(who, "GET", root, target, b"", deps.clock.now())
    return await call(deps.http, "GET", url, headers=headers, max_bytes=MAX_BILL_BYTES)


def said(keyring: crypto.Keyring, answer: Answer, now: datetime) -> Said:
    """Judge an answer by its signature, over the bytes as they came."""
    timestamp = answer.headers.get("wechatpay-timestamp", "")
    message = crypto.answer_message(
        timestamp, answer.headers.get("wechatpay-nonce", ""), answer.body
    )
    genuine = crypto.is_fresh(timestamp, now) and keyring.genuine(
        answer.headers.get("wechatpay-serial", ""),
        answer.headers.get("wechatpay-signature", ""),
        message,
    )
    found = an_object(answer.body)
    return Said(answer.status, genuine, found, answer.headers.get("retry-after"))


def _headers(
    who: Merchant, method: str, base: str, target: str, body: bytes, now: datetime
) -> dict[str, str]:
    path = urlsplit(base.rstrip("/")).path + target
    headers = {
        "accept": "application/json",
        "user-agent": AGENT,
        "wechatpay-serial": who.keyring.preferred,
        "authorization": crypto.authorization(
            who.key, who.mchid, who.serial, method, path, body, int(now.timestamp())
        ),
    }
    return headers | ({"content-type": "application/json"} if body else {})


async def ask_v2(
    deps: RailDeps,
    account: RailAccount,
    path: str,
    fields: Mapping[str, str],
    *,
    method: str = "MD5",
    certified: bool = True,
) -> dict[str, str]:
    """Make one call of APIv2; nonce and digest are made here.

    `certified`: with our client certificate, at the address that asks for one. Raises what
    `http.call` raises, and RailUnknown for an answer that is not the provider's.
    """
    key = secret(deps, account, "apiv2_key").strip()
    whole = {**fields, "nonce_str": secrets.token_hex(16)}
    whole["sign"] = v2.digest(whole, key, method)
    body = v2.write(whole)
    if certified:
        answer = await _certified(deps, account, path, body)
    else:
        url = setting(account, "url").rstrip("/") + path
        answer = await call(deps.http, "POST", url, headers=_XML_HEADERS, body=body)
    if answer.status != 200:
        kind = meaning.of_status(answer.status, explained=False)
        # A door that turns us away without a word of the provider's proves nothing.
        unproven = Kind.UNEXPLAINED if kind is Kind.TURNED_AWAY else kind
        raise meaning.error(unproven, f"The provider answered {answer.status}.")
    try:
        return v2.read(answer.body)
    except UnreadableError as error:
        raise meaning.error(Kind.MALFORMED, f"The answer cannot be read: {error}.") from None


async def _certified(deps: RailDeps, account: RailAccount, path: str, body: bytes) -> Answer:
    identity = secret(deps, account, "client_identity")
    url = setting(account, "url_tls").rstrip("/") + path
    try:
        client = deps.client_with(identity)
    except Refusal as error:
        raise meaning.error(Kind.SECRET, error.detail) from None
    try:
        async with client:
            return await call(client, "POST", url, headers=_XML_HEADERS, body=body)
    except RailUnknown:
        if not await deps.refuses(identity, url):
            raise
        # What was written may have been read all the same: the words change, not the meaning.
        extra = {"code": CERTIFICATE_REFUSED}
        raise meaning.error(Kind.CUT_OFF, "Our client certificate is refused.", extra) from None
