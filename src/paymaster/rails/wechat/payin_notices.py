"""Notices about charges and refunds: proven first, then opened.

APIv3 signs and encrypts them. APIv2 signs a payment with the keyed digest; a refund it encrypts
only, block by block, which proves nobody: that notice says which refund to look up, and no more.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from paymaster.kernel.errors import NeverSent, Refusal, Unauthenticated
from paymaster.rails import rsa
from paymaster.rails.base import RailAccount, WebhookAnswer
from paymaster.rails.deps import RailDeps, secret
from paymaster.rails.payin import PayInNotice, RefundOutcome, RefundVerdict
from paymaster.rails.wechat import notices, payin_old, payin_wire, v2
from paymaster.rails.wechat.payin_settings import DIGESTS, Version, digest_method
from paymaster.rails.wechat.payin_settings import version as api_version
from paymaster.rails.yuan import UnreadableError, members, text

PAID: Final = "TRANSACTION.SUCCESS"
REFUNDED: Final = frozenset({"REFUND.SUCCESS", "REFUND.ABNORMAL", "REFUND.CLOSED"})


def read(
    deps: RailDeps, account: RailAccount, headers: Mapping[str, str], body: bytes, now: datetime
) -> Sequence[PayInNotice]:
    """See TakesPayments."""
    try:
        api = api_version(account)
    except NeverSent as error:
        raise Unauthenticated("webhook-signature", error.detail) from None
    try:
        if api is Version.V3:
            return _signed(account, body, notices.authentic(deps, account, headers, body, now))
        return _old(deps, account, body)
    except (UnreadableError, rsa.UnusableError, ValueError, RecursionError) as error:
        raise Refusal("webhook-malformed", f"The notice cannot be read: {error}") from None


def answer(*, taken: bool) -> WebhookAnswer:
    """See TakesPayments. APIv3 looks at the status alone, APIv2 reads these words."""
    code, words = ("SUCCESS", "OK") if taken else ("FAIL", "refused")
    said = (
        f"<xml><return_code><![CDATA[{code}]]></return_code>"
        f"<return_msg><![CDATA[{words}]]></return_msg></xml>"
    )
    return WebhookAnswer(200 if taken else 400, "text/xml", said.encode())


def _signed(account: RailAccount, body: bytes, key: str) -> list[PayInNotice]:
    envelope = members(json.loads(body), "the notice")
    event, number = text(envelope, "event_type"), text(envelope, "id")
    if event != PAID and event not in REFUNDED:
        return []
    found = notices.resource(account, envelope, key)
    if event == PAID:
        return [PayInNotice(number, payin_wire.transaction(found, account))]
    return [PayInNotice(number, payin_wire.refund_told(found))]


def _old(deps: RailDeps, account: RailAccount, body: bytes) -> list[PayInNotice]:
    if len(body) > notices.MAX_BYTES:
        raise UnreadableError(f"it is larger than {notices.MAX_BYTES} bytes")
    try:
        key, method = secret(deps, account, "apiv2_key").strip(), digest_method(account)
    except NeverSent as error:
        raise Unauthenticated("webhook-signature", error.detail) from None
    found = v2.read(body)
    if "req_info" in found:
        return [_old_refund(account, found, key)]
    # The digest that the account asks for, or the better one: never a weaker one.
    if not any(payin_old.genuine(found, key, each) for each in {method, DIGESTS[0]}):
        raise Unauthenticated("webhook-signature", "The digest does not match the body.")
    if found.get("return_code") != "SUCCESS" or found.get("result_code") != "SUCCESS":
        return []
    outcome = payin_wire.old_transaction(found, account, "SUCCESS")
    return [PayInNotice(f"pay-{text(found, 'transaction_id')}", outcome)]


def _old_refund(account: RailAccount, found: Mapping[str, str], key: str) -> PayInNotice:
    named = (found.get("mch_id"), found.get("appid"))
    if named != tuple(account.settings.get(name, "").strip() for name in ("mchid", "appid")):
        raise UnreadableError("it is about another merchant or app")
    try:
        inner = v2.read(opened(found["req_info"], key))
    except (UnreadableError, rsa.UnusableError):
        raise Unauthenticated("webhook-signature", "It is not encrypted with our key.") from None
    number, status = text(inner, "refund_id"), text(inner, "refund_status")
    outcome = RefundOutcome(
        key=text(inner, "out_refund_no"),
        verdict=RefundVerdict.UNKNOWN,
        provider_id=number,
        detail=f"{status[:20]} is said, and not signed: to be looked up",
    )
    return PayInNotice(f"refund-{number}-{status}", outcome)


def opened(sealed: str, key: str) -> bytes:
    """AES-256-ECB under the digest of our key, as APIv2 hides refunds. Raises UnusableError."""
    hidden = hashlib.md5(key.encode(), usedforsecurity=False).hexdigest().encode()
    try:
        raw = base64.b64decode(sealed, validate=True)
        # The provider's scheme: it hides what is inside, and no more is made of it.
        cipher = Cipher(algorithms.AES(hidden), modes.ECB()).decryptor()  # noqa: S305
        padded = cipher.update(raw) + cipher.finalize()
        unpadder = PKCS7(128).unpadder()
        return unpadder.update(padded) + unpadder.finalize()
    except (binascii.Error, ValueError):
        raise rsa.UnusableError("it is not encrypted with our APIv2 key") from None
