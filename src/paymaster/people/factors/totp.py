"""Codes of authenticator apps (RFC 6238): HMAC-SHA-1, six digits, steps of 30 seconds.

SHA-1 because many apps ignore every other choice in the address; as an HMAC it is sound.
"""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from datetime import datetime

from pyotp.totp import TOTP

from paymaster.kernel.clock import milliseconds

SEED_BYTES = 20
"""160 bits, what RFC 4226 (R6) recommends."""

STEP_SECONDS = 30
DIGITS = 6
_NEAR = (-1, 0, 1)
"""Steps around the present one whose codes are taken, for clocks that differ and slow typing."""

_CODE = re.compile(r"[0-9]{6}\Z", re.ASCII)


def new_seed() -> bytes:
    """A seed for one app."""
    return secrets.token_bytes(SEED_BYTES)


def text(seed: bytes) -> str:
    """The seed as apps take it: base32 without padding."""
    return base64.b32encode(seed).decode()


def address(seed: bytes, account: str, issuer: str) -> str:
    """The `otpauth://` address that apps read from a QR code."""
    return _app(seed).provisioning_uri(name=account, issuer_name=issuer)


def step_of(moment: datetime) -> int:
    """The number of the 30 seconds that a moment is in, since 1970."""
    return milliseconds(moment) // (STEP_SECONDS * 1000)


def code_of(seed: bytes, step: int) -> str:
    """The code of a step."""
    return _app(seed).generate_otp(step)


def matching(seed: bytes, code: str, now: datetime, after: int) -> int | None:
    """The step of this code: the present one or one beside it, later than `after`; else None."""
    if not _CODE.match(code):
        return None
    present = step_of(now)
    steps = [present + near for near in _NEAR]
    found = [hmac.compare_digest(code_of(seed, step), code) for step in steps]
    later = [step for step, same in zip(steps, found, strict=True) if same and step > after]
    return min(later, default=None)


def _app(seed: bytes) -> TOTP:
    return TOTP(text(seed), digits=DIGITS, interval=STEP_SECONDS)
