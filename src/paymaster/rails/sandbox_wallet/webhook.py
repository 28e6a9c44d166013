"""The provider's notifications: signature and age first, on the bytes as they came."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import cast

from paymaster.kernel.errors import Refusal, Unauthenticated
from paymaster.rails.base import Notice
from paymaster.rails.sandbox_wallet.wire import UnreadableError, outcome, text

MAX_AGE = timedelta(seconds=300)
"""How far the signed time may be from ours, in the past or in the future."""

MAX_BYTES = 64 * 1024
_KNOWN = frozenset({"payout.paid", "payout.failed", "payout.returned"})


def sign(secret: str, event_id: str, timestamp: str, body: bytes) -> str:
    """The provider's signature: HMAC-SHA256 over id, time and body, joined by full stops."""
    message = f"{event_id}.{timestamp}.".encode() + body
    return "v1=" + hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()


def read(
    secrets: Sequence[str], headers: Mapping[str, str], body: bytes, now: datetime
) -> list[Notice]:
    """See ReadsWebhooks. Several secrets are accepted while one is being replaced."""
    event_id, timestamp = headers.get("sandpay-id", ""), headers.get("sandpay-timestamp", "")
    signature = headers.get("sandpay-signature", "")
    if len(body) > MAX_BYTES:
        raise Refusal("webhook-malformed", f"The notification is larger than {MAX_BYTES} bytes.")
    # Every comparison is made, so that time does not tell which secret came close.
    matches = [
        hmac.compare_digest(signature.encode(), sign(each, event_id, timestamp, body).encode())
        for each in secrets
    ]
    if not event_id or not any(matches):
        raise Unauthenticated("webhook-signature", "The signature does not match the body.")
    _refuse_stale(timestamp, now)
    try:
        return _notices(json.loads(body), event_id)
    except (UnreadableError, ValueError, RecursionError) as error:
        raise Refusal("webhook-malformed", f"The notification cannot be read: {error}") from None


def _refuse_stale(timestamp: str, now: datetime) -> None:
    is_number = timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 11
    signed_at = datetime.fromtimestamp(int(timestamp), UTC) if is_number else None
    if signed_at is None or abs(now - signed_at) > MAX_AGE:
        raise Unauthenticated("webhook-stale", "The notification was not signed just now.")


def _notices(event: object, event_id: str) -> list[Notice]:
    if not isinstance(event, dict):
        raise UnreadableError("it is not an object")
    found = cast("Mapping[str, object]", event)
    if text(found, "id") != event_id:
        raise UnreadableError("its id is not the one that was signed")
    if text(found, "type") not in _KNOWN:
        return []
    return [Notice(event_id, outcome(found.get("data")))]
