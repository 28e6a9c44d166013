"""Recovery codes: made ten at a time, shown once, kept as hashes.

A code has 80 random bits, so a slow hash would protect nothing; the user's id in the hash keeps one
table of hashes from serving for all users.
"""

from __future__ import annotations

import hashlib
import secrets

from paymaster.secrets.sealing import place

CODES = 10
_GROUPS, _GROUP = 4, 4
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_READ_AS = str.maketrans("OIL", "011")
"""Letters that people read for digits (Crockford's base32)."""


def new_codes() -> list[str]:
    """Ten codes such as `7K2M-0Q9X-VT4B-C3HA`."""
    return ["-".join(_group() for _ in range(_GROUPS)) for _ in range(CODES)]


def _group() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(_GROUP))


def hashed(user_id: int, code: str) -> bytes:
    """What is kept of a code, however it was typed."""
    plain = "".join(code.upper().split()).replace("-", "").translate(_READ_AS)
    return hashlib.sha256(place("recovery-code", user_id, plain)).digest()
