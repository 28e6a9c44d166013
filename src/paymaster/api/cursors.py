"""Cursors of pages: opaque, signed, and good only for the list that made them.

A cursor carries the position after which the next page starts. The signature covers the route and
the filter too, so that a cursor cannot be carried to another list, another user or another filter,
nor be made up. It hides nothing: a position holds ids, never personal data.

    base64url( 0x01 | position as JSON | 16 bytes of HMAC-SHA256 )
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence

import msgspec

from paymaster.kernel.errors import Refusal
from paymaster.secrets.local import HmacSigner

CURSOR_KEY = "cursor"
MAX_CURSOR_CHARACTERS = 512
_VERSION = b"\x01"
_SIGNATURE_BYTES = 16

Part = str | int | None


class Cursors:
    """Makes and reads cursors. A rotated key's older versions go on being read."""

    def __init__(self, signer: HmacSigner) -> None:
        self._signer = signer

    def make(self, route: str, filters: Mapping[str, Part], position: Sequence[Part]) -> str:
        """The cursor after `position`, the sort key of the last row shown.

        `route` names the list; `filters` is everything else that decides what is in it: the
        environment, the user, the states asked for. Not the page size.
        """
        payload = msgspec.json.encode(list(position))
        signature = self._signer.sign(CURSOR_KEY, _bound(route, filters, payload))
        raw = _VERSION + payload + signature[:_SIGNATURE_BYTES]
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    def read(self, route: str, filters: Mapping[str, Part], cursor: str) -> tuple[Part, ...]:
        """The position. Raises Refusal `cursor-invalid` if `make` did not make it for this list."""
        raw = _decoded(cursor)
        payload, signature = raw[1:-_SIGNATURE_BYTES], raw[-_SIGNATURE_BYTES:]
        if raw[:1] != _VERSION or not self._signer.verify(
            CURSOR_KEY, _bound(route, filters, payload), signature
        ):
            raise _invalid()
        return tuple(msgspec.json.decode(payload, type=list[Part]))


def _bound(route: str, filters: Mapping[str, Part], payload: bytes) -> bytes:
    """What is signed: unambiguous, because it is JSON."""
    place = msgspec.json.encode([route, dict(filters)], order="sorted")
    return b"paymaster cursor 1\0" + place + b"\0" + payload


def _decoded(cursor: str) -> bytes:
    """The bytes; the one spelling of them only, so that no second text means the same cursor."""
    if not cursor or len(cursor) > MAX_CURSOR_CHARACTERS:
        raise _invalid()
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise _invalid() from None
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != cursor:
        raise _invalid()
    return raw


def _invalid() -> Refusal:
    return Refusal(
        "cursor-invalid",
        "This cursor does not belong to this list and filter. Start again without a cursor.",
    )
