"""Valid test destinations, derived from the worker's name: the same at every run."""

from __future__ import annotations

import hashlib

_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_OPENID_DIGITS = 26
_TEST_BANK = "00000000"
OUR_IBAN_NUMBER = 1
PROVIDER_IBAN_NUMBER = 2


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def german_iban(account: int) -> str:
    """An IBAN with right check digits at a bank code that no bank has."""
    body = f"{_TEST_BANK}{account % 10**10:010d}"
    check = 98 - int(body + "131400") % 97
    return f"DE{check:02d}{body}"


def iban(worker: str) -> str:
    """A worker's bank account."""
    return german_iban(10_000 + _digest(f"iban/{worker}") % (10**10 - 10_000))


def wallet(worker: str) -> str:
    """A worker's wallet at the sandbox provider: nine characters and a check character."""
    number, body = _digest(f"wallet/{worker}"), ""
    for _ in range(9):
        number, digit = divmod(number, 36)
        body += _LETTERS[digit]
    check = sum((place + 1) * _LETTERS.index(c) for place, c in enumerate(body)) % 36
    return f"SW-{body}{_LETTERS[check]}"


def openid(worker: str) -> str:
    """A worker's account at the sandbox's WeChat, as the demo's app knows it."""
    digest = hashlib.sha256(f"wechat/{worker}".encode()).hexdigest()
    return f"oW{digest[:_OPENID_DIGITS]}"


def alipay_user(worker: str) -> str:
    """A worker's account at the sandbox's Alipay."""
    return f"2088{_digest(f'alipay/{worker}') % 10**12:012d}"
