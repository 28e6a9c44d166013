"""Heads of the chains as a document that leaves the installation, signed if wanted.

Whoever can write the whole database can compute all seals anew. A head that was exported before and
is kept where that person cannot reach it no longer fits then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from paymaster.db.seal import Head
from paymaster.kernel.errors import Refusal
from paymaster.secrets.generated import LOCAL_KEYS
from paymaster.secrets.local import verify_signature
from paymaster.secrets.port import RemoteSigner

VERSION = 1
SIGNING_KEY = "audit-head"
"""The signer's key for exported heads, unless another one is named."""

_HASH_BYTES = 32


class _Head(msgspec.Struct, forbid_unknown_fields=True):
    chain: str
    block: int
    format: int
    last_seq: str
    hash: str
    sealed_at: str


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    exported_at: str
    heads: list[_Head]
    key_id: str | None = None
    signature: str | None = None


@dataclass(frozen=True, slots=True)
class Exported:
    """Heads as they were exported; `signature` is over `message`."""

    heads: Sequence[Head]
    exported_at: datetime
    key_id: str | None
    signature: bytes | None
    message: bytes

    @property
    def signed(self) -> bool:
        """Whether there is a signature, by whomever."""
        return self.signature is not None and self.key_id is not None

    def signed_by(self, public_keys: Sequence[bytes]) -> bool:
        """Whether the owner of one of these public keys signed it; see `verify_signature`."""
        made = self.signature
        return made is not None and any(
            verify_signature(key, self.message, made) for key in public_keys
        )

    def of(self, chain: str) -> Head | None:
        """The head of a chain, if it is in the document."""
        return next((head for head in self.heads if head.chain == chain), None)


async def export(
    heads: Sequence[Head], now: datetime, signer: RemoteSigner | None, key_id: str = SIGNING_KEY
) -> str:
    """The document, as JSON; signed when there is a signer.

    Raises what `RemoteSigner.sign` raises.
    """
    body: dict[str, Any] = {
        "version": VERSION,
        "exported_at": _moment(now),
        "heads": [
            {
                "chain": head.chain,
                "block": head.block,
                "format": head.format,
                "last_seq": str(head.last_seq),
                "hash": head.hash.hex(),
                "sealed_at": _moment(head.sealed_at),
            }
            for head in heads
        ],
    }
    if signer is not None:
        body["key_id"] = key_id
        body["signature"] = (await signer.sign(key_id, message(body))).hex()
    return json.dumps(body, indent=2)


def read(text: str | bytes) -> Exported:
    """Read an exported document. Raises Refusal `audit-head-malformed`.

    One without a chain, with a place that no block can have, or with a chain twice is none.
    """
    try:
        found = msgspec.json.decode(text, type=_Document)
        if found.version != VERSION:
            raise Refusal("audit-head-malformed", f"Version {found.version} is not known here.")
        heads = [_head(head) for head in found.heads]
        exported_at = _read_moment(found.exported_at)
        signature = None if found.signature is None else bytes.fromhex(found.signature)
    except (msgspec.DecodeError, ValueError) as error:
        raise Refusal("audit-head-malformed", f"This is no exported head: {error}.") from error
    if not heads:
        raise Refusal("audit-head-malformed", "The head names no chain.")
    if len({head.chain for head in heads}) != len(heads):
        raise Refusal("audit-head-malformed", "The head names a chain twice.")
    signed = message(msgspec.to_builtins(found))
    return Exported(heads, exported_at, found.key_id, signature, signed)


def checked_key(name: str) -> str:
    """The name of a key for heads. Raises Refusal `audit-head-key` for a key of another purpose.

    In the environment `-` and `_` are the same, so they are here.
    """
    if name.replace("_", "-") in set(LOCAL_KEYS) - {SIGNING_KEY}:
        raise Refusal("audit-head-key", f"The key {name!r} has another purpose than heads.")
    return name


def _head(head: _Head) -> Head:
    """Raises ValueError for what cannot be the end of a chain."""
    last_seq, digest = int(head.last_seq), bytes.fromhex(head.hash)
    if head.block < 0 or last_seq < 0:
        raise ValueError(f"block {head.block} with seq {last_seq} of {head.chain} cannot be")
    if len(digest) != _HASH_BYTES:
        raise ValueError(f"a hash has {_HASH_BYTES} bytes")
    sealed_at = _read_moment(head.sealed_at)
    return Head(head.chain, head.block, head.format, last_seq, digest, sealed_at)


def _read_moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text} has no offset")
    return moment


def message(body: Mapping[str, Any]) -> bytes:
    """The exact bytes that are signed: JSON of all but the signature, keys sorted, no spaces."""
    kept = {k: v for k, v in body.items() if k != "signature" and v is not None}
    return json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
