"""The provider's notices: signature and age first, on the bytes as they came; then opened."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from paymaster.kernel.errors import NeverSent, Refusal, Unauthenticated
from paymaster.rails import rsa
from paymaster.rails.base import Notice, Outcome, RailAccount, Verdict, WebhookAnswer
from paymaster.rails.deps import RailDeps
from paymaster.rails.wechat import crypto, wire
from paymaster.rails.wechat.settings import apiv3_key, keys
from paymaster.rails.yuan import UnreadableError, fen, from_beijing, members, some_text, text

MAX_BYTES: Final = 64 * 1024
BILL_FINISHED: Final = "MCHTRANSFER.BILL.FINISHED"
BATCH_FINISHED: Final = "MCHTRANSFER.BATCH.FINISHED"
BATCH_CLOSED: Final = "MCHTRANSFER.BATCH.CLOSED"
_ALGORITHM: Final = "AEAD_AES_256_GCM"


def read(
    deps: RailDeps, account: RailAccount, headers: Mapping[str, str], body: bytes, now: datetime
) -> Sequence[Notice]:
    """See ReadsWebhooks."""
    key = authentic(deps, account, headers, body, now)
    try:
        envelope = members(json.loads(body), "the notice")
        return _opened(account, envelope, key, now)
    except (UnreadableError, rsa.UnusableError, ValueError, RecursionError) as error:
        raise Refusal("webhook-malformed", f"The notice cannot be read: {error}") from None


def authentic(
    deps: RailDeps, account: RailAccount, headers: Mapping[str, str], body: bytes, now: datetime
) -> str:
    """The key that opens a notice of APIv3, once the provider is known to have signed it just now.

    Raises as `read_webhook`.
    """
    if len(body) > MAX_BYTES:
        raise Refusal("webhook-malformed", f"The notice is larger than {MAX_BYTES} bytes.")
    try:
        keyring, key = keys(deps, account), apiv3_key(deps, account)
    except NeverSent as error:
        raise Unauthenticated("webhook-signature", error.detail) from None
    timestamp = headers.get("wechatpay-timestamp", "")
    message = crypto.answer_message(timestamp, headers.get("wechatpay-nonce", ""), body)
    serial = headers.get("wechatpay-serial", "")
    kind = headers.get("wechatpay-signature-type", crypto.SCHEME)
    if kind != crypto.SCHEME or not keyring.genuine(
        serial, headers.get("wechatpay-signature", ""), message
    ):
        raise Unauthenticated("webhook-signature", "The signature does not match the body.")
    if not crypto.is_fresh(timestamp, now):
        raise Unauthenticated("webhook-stale", "The notice was not signed just now.")
    return key


def resource(
    account: RailAccount, envelope: Mapping[str, object], key: str
) -> Mapping[str, object]:
    """What a notice is about, opened. Raises UnreadableError, UnusableError or ValueError."""
    sealed = members(envelope.get("resource"), "resource")
    if text(sealed, "algorithm") != _ALGORITHM:
        raise UnreadableError("its cipher is another")
    associated = some_text(sealed, "associated_data") or ""
    plain = crypto.open_sealed(key, text(sealed, "nonce"), associated, text(sealed, "ciphertext"))
    found = members(json.loads(plain), "the resource")
    if text(found, "mchid") != account.settings.get("mchid"):
        raise UnreadableError("it is about another merchant")
    return found


def answer(*, taken: bool) -> WebhookAnswer:
    """See AnswersWebhooks: the status counts, within five seconds."""
    said = {"code": "SUCCESS", "message": "OK"} if taken else {"code": "FAIL", "message": "refused"}
    return WebhookAnswer(200 if taken else 400, "application/json", wire.canonical(said))


def _opened(
    account: RailAccount, envelope: Mapping[str, object], key: str, now: datetime
) -> list[Notice]:
    event, number = text(envelope, "event_type"), text(envelope, "id")
    if event not in {BILL_FINISHED, BATCH_FINISHED, BATCH_CLOSED}:
        return []
    found = resource(account, envelope, key)
    if event == BILL_FINISHED:
        return [Notice(number, wire.bill(found, account, confirms=False, now=now))]
    outcome = _batch(found, closed=event == BATCH_CLOSED)
    return [] if outcome is None else [Notice(number, outcome)]


def _batch(found: Mapping[str, object], *, closed: bool) -> Outcome | None:
    """A batch of one. Why its transfer failed is not said here: the number is asked about."""
    key, number = text(found, "out_batch_no"), some_text(found, "batch_id")
    at = from_beijing(some_text(found, "update_time"))
    if closed:
        code = some_text(found, "close_reason") or "CLOSED"
        return Outcome(key, Verdict.REJECTED, provider_id=number, code=code, occurred_at=at)
    if found.get("success_num") != 1 or found.get("total_num") != 1:
        return None
    amount = fen(found, "success_amount")
    return Outcome(key, Verdict.PAID, provider_id=number, amount=amount, occurred_at=at)
