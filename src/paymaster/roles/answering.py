"""The head of an answer, written quickly.

Uvicorn examines each header of each answer with two expressions, which takes longer than anything
else it does. Most of ours are always the same: what was examined once is kept as a ready line.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

_MOST_LINES = 256
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_NOT_IN_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_KEPT = frozenset({
    b"cache-control", b"content-security-policy", b"content-type", b"cross-origin-opener-policy",
    b"cross-origin-resource-policy", b"date", b"permissions-policy", b"ratelimit-policy",
    b"referrer-policy", b"strict-transport-security", b"x-content-type-options",
})  # fmt: skip

_lines: dict[tuple[bytes, bytes], bytes] = {}


class Answering(RequestResponseCycle):
    """An answer under way; `Connection` makes uvicorn's into this."""

    async def send(self, message: Any) -> None:
        """Write the head of a plain answer; all else is uvicorn's."""
        if (
            self.response_started
            or self.flow.write_paused
            or self.disconnected
            or message["type"] != "http.response.start"
        ):
            await super().send(message)
            return
        plain = self._head(cast("MutableMapping[str, Any]", message))
        if plain is None:
            await super().send(message)
            return
        self.response_started = True
        self.waiting_for_100_continue = False
        self.transport.write(plain)

    def _head(self, message: MutableMapping[str, Any]) -> bytes | None:
        """Status line and headers, if the length is known and nothing is said of the connection."""
        length: int | None = None
        content = [STATUS_LINE[message["status"]]]
        for pair in (*self.default_headers, *message["headers"]):
            line = _lines.get(pair)
            if line is None:
                name, value = pair
                if name == b"content-length":
                    length = int(value)
                elif name in (b"connection", b"transfer-encoding"):
                    return None
                line = _line(name, value)
                if line is None:
                    return None
            content.append(line)
        if length is None:
            return None
        self.expected_content_length, self.chunked_encoding = length, False
        content.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        return b"".join(content)


def _line(name: bytes, value: bytes) -> bytes | None:
    """A header as it is sent; None for one that uvicorn shall refuse."""
    if _NAME.match(name) is None or _NOT_IN_VALUE.search(value) is not None:
        return None
    line = b"%b: %b\r\n" % (name.lower(), value)
    if name in _KEPT:
        if len(_lines) >= _MOST_LINES:
            _lines.clear()
        _lines[name, value] = line
    return line
