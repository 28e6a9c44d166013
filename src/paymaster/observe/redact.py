"""Nothing that is secret or personal reaches a log, whoever wrote the line.

Code logs ids only. This is the net below it: fields are dropped by their name, and what looks like
a bank account, card, wallet, token or e-mail address is cut out of every text, also out of
tracebacks and of the lines of libraries.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

MASK = "[redacted]"
_MAX_DEPTH, _MAX_ITEMS, _MAX_TEXT = 6, 100, 20_000

_SECRET_WORDS = re.compile(
    r"(?i)secret|passw|passphrase|token|authorization|cookie|api_?key|private_?key|credential_value"
    r"|signature|iban|account_number|card_?number|email|phone|openid|external_id"
)
_HARMLESS_NAMES = frozenset({"secret_name", "secret_version", "lease_token"})
_IDS = frozenset({"trace_id", "span_id", "traceparent"})

_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}")
_ASSIGNED = re.compile(
    r"(?i)\b([a-z_-]*(?:token|secret|password|api_?key|signature)=|[?&]code=)[^\s&\"']+"
)
_URL_PASSWORD = re.compile(r"(://[^\s:/@]*):[^\s@]+@")
_JWT = re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*-----|\Z)", re.DOTALL)
_WALLET = re.compile(
    r"\b(?:0x[0-9a-fA-F]{40}|T[1-9A-HJ-NP-Za-km-z]{33}|(?:bc|tb)1[02-9ac-hj-np-z]{20,70})\b"
)
_EMAIL = re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+\b")
_IBAN = re.compile(r"(?<![\w-])[A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]){11,30}(?!\w)")
_IBAN_ANY_CASE = re.compile(r"(?i)(?<![\w-])[a-z]{2}[0-9]{2}(?:[ -]?[a-z0-9]){11,34}(?!\w)")
_CARD = re.compile(r"(?<![\w.-])[2-6](?:[ -]?[0-9]){12,15}(?![\w-])")


def redacted(text: str) -> str:
    """The text without what looks secret or personal."""
    if len(text) > _MAX_TEXT:
        text = text[:_MAX_TEXT] + "..."
    text = _PEM.sub(MASK, text)
    text = _URL_PASSWORD.sub(rf"\1:{MASK}@", text)
    text = _BEARER.sub(rf"\1 {MASK}", text)
    text = _ASSIGNED.sub(rf"\1{MASK}", text)
    for pattern in (_JWT, _WALLET, _EMAIL):
        text = pattern.sub(MASK, text)
    text = _IBAN.sub(_iban, text)
    text = _IBAN_ANY_CASE.sub(_iban_any_case, text)
    return _CARD.sub(_card, text)


def redact_event(_logger: object, _method: str, event: Mapping[str, Any]) -> dict[str, Any]:
    """The structlog processor: the last before the line is written."""
    return {name: _field(name, value) for name, value in event.items()}


def _field(name: str, value: object) -> object:
    if name in _IDS or value is None or isinstance(value, bool):
        return value
    if name not in _HARMLESS_NAMES and _SECRET_WORDS.search(name):
        return MASK
    return _cleaned(value, 0)


def _cleaned(value: object, depth: int) -> object:
    if isinstance(value, bool | int | float) or value is None:
        return value
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, bytes | bytearray):
        return f"<{len(value)} bytes>"
    if depth >= _MAX_DEPTH:
        return "..."
    if isinstance(value, Mapping):
        items = list(cast("Mapping[object, object]", value).items())[:_MAX_ITEMS]
        return {str(key): _inside(str(key), item, depth) for key, item in items}
    if isinstance(value, list | tuple | set | frozenset):
        many = list(cast("list[object]", value))[:_MAX_ITEMS]
        return [_cleaned(item, depth + 1) for item in many]
    return redacted(str(value))


def _inside(name: str, value: object, depth: int) -> object:
    if name not in _HARMLESS_NAMES and _SECRET_WORDS.search(name):
        return MASK
    return _cleaned(value, depth + 1)


def _iban(match: re.Match[str]) -> str:
    """In capitals it is taken for an IBAN by its form, so that a mistyped one is hidden as well.

    15 characters are an IBAN in Norway only, and otherwise the length of our payout references.
    """
    found = match.group()
    compact = re.sub("[ -]", "", found)
    return found if len(compact) == 15 and not compact.startswith("NO") else MASK


def _iban_any_case(match: re.Match[str]) -> str:
    """Otherwise only with the right check digits, or trace ids would vanish; words may follow."""
    parts = re.split("([ -])", match.group())
    for end in range(len(parts), 0, -2):
        compact = "".join(parts[:end:2]).upper()
        if 15 <= len(compact) <= 34 and _checks_out(compact):
            return MASK + "".join(parts[end:])
    return match.group()


def _checks_out(iban: str) -> bool:
    """ISO 13616: the rearranged number leaves 1 when divided by 97."""
    digits = "".join(str(int(letter, 36)) for letter in iban[4:] + iban[:4])
    return int(digits) % 97 == 1


def _card(match: re.Match[str]) -> str:
    """Mask it when its Luhn digit is right; amounts and times keep their digits."""
    digits = [int(letter) for letter in match.group() if letter.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return MASK if (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0 else match.group()
