"""Signatures after the Standard Webhooks specification (standardwebhooks.com, version 1).

    webhook-id         the event's id, the same at every try
    webhook-timestamp  seconds since 1970, of this try
    webhook-signature  one `v1,<base64>` for each secret that signs, separated by spaces

What is signed is `id.timestamp.body`, with HMAC-SHA256 under the bytes that a secret's base64 says.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from datetime import datetime

from paymaster.kernel.errors import Refusal

PREFIX = "whsec_"
_BYTES = 32
_LEAST_BYTES, _MOST_BYTES = 24, 64


def new_secret() -> str:
    """A secret of 32 random bytes, as it is shown once."""
    return PREFIX + base64.b64encode(secrets.token_bytes(_BYTES)).decode()


def key_of(secret: str) -> bytes:
    """The bytes of a secret. Raises Refusal `webhook-secret-malformed`."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(PREFIX) or not _LEAST_BYTES <= len(key) <= _MOST_BYTES:
        raise Refusal(
            "webhook-secret-malformed",
            f"A secret is `{PREFIX}` and the base64 of {_LEAST_BYTES} to {_MOST_BYTES} bytes.",
        )
    return key


def headers(keys: Sequence[bytes], event_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """The three headers, signed with each of the keys."""
    timestamp = str(int(at.timestamp()))
    signed = f"{event_id}.{timestamp}.".encode() + body
    signatures = [
        "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        for key in keys
    ]
    return {
        "webhook-id": event_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(signatures),
    }
