"""APIv2: flat XML, read strictly, and the keyed digest over its fields."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final
from xml.parsers import expat
from xml.sax.saxutils import escape

from paymaster.rails.yuan import UnreadableError

MAX_BYTES: Final = 256 * 1024
_MAX_FIELDS: Final = 200
_LEAF: Final = 2


def digest(fields: Mapping[str, str], key: str, method: str = "MD5") -> str:
    """The `sign` over every filled field but itself: `MD5`, or `HMAC-SHA256`."""
    filled = sorted((name, words) for name, words in fields.items() if words and name != "sign")
    message = "&".join([f"{name}={words}" for name, words in filled] + [f"key={key}"]).encode()
    if method == "HMAC-SHA256":
        return hmac.new(key.encode(), message, hashlib.sha256).hexdigest().upper()
    # The provider admits nothing else in this product; the key in the message is the protection.
    return hashlib.md5(message, usedforsecurity=False).hexdigest().upper()


def write(fields: Mapping[str, str]) -> bytes:
    """The document that is sent."""
    inner = "".join(f"<{name}>{escape(words)}</{name}>" for name, words in fields.items())
    return f"<xml>{inner}</xml>".encode()


def read(body: bytes) -> dict[str, str]:
    """One level of fields under one root, each name once. Raises UnreadableError.

    A document type, an entity of its own or a deeper level is refused: nothing of this provider
    has them, and every trick with XML needs one.
    """
    if len(body) > MAX_BYTES:
        raise UnreadableError("the XML is too large")
    reader = _Reader()
    try:
        reader.parser.Parse(body, True)
    except expat.ExpatError as error:
        raise UnreadableError(f"it is not XML: {expat.errors.messages[error.code]}") from None
    except (LookupError, ValueError):
        raise UnreadableError("it says that it is in another encoding") from None
    return reader.found


class _Reader:
    """Collects the fields of a flat document."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self._path: list[str] = []
        self._words: list[str] = []
        self.parser = expat.ParserCreate()
        self.parser.StartDoctypeDeclHandler = self._doctype
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text

    def _doctype(self, *_: object) -> None:
        raise UnreadableError("it brings a document type")

    def _start(self, name: str, _attributes: Mapping[str, str]) -> None:
        self._path.append(name)
        self._words = []
        if len(self._path) > _LEAF:
            raise UnreadableError("it has fields within fields")
        if name in self.found or len(self.found) >= _MAX_FIELDS:
            raise UnreadableError("it has a field twice, or too many of them")

    def _text(self, words: str) -> None:
        self._words.append(words)

    def _end(self, name: str) -> None:
        if len(self._path) == _LEAF:
            self.found[name] = "".join(self._words).strip()
        self._path.pop()
