"""What a store of secrets, a key-encryption key and a signer are, whoever implements them.

All calls are synchronous and answer from memory or a local file: sealing happens inside database
transactions, where no network call is allowed. An implementation over a network holds a warm copy.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from paymaster.kernel.errors import Broken, Refusal

BASE64_PREFIX = b"base64:"
"""A stored value that begins so is decoded; every other value is taken as it is."""

MAX_SECRET_BYTES = 1 << 20

_NAME = re.compile(r"[a-z0-9]+(?:[-_][a-z0-9]+)*\Z", re.ASCII)
_MAX_NAME = 64


@dataclass(frozen=True, slots=True)
class SecretVersion:
    """One version of a secret. `id` is the store's own name for it; the value is never shown.

    `store` is the kind of store that answered; `expires_at` is set where the store knows it.
    """

    id: str
    value: bytes = field(repr=False)
    created_at: datetime | None = None
    expires_at: datetime | None = None
    store: str = ""

    def text(self) -> str:
        """The value as text. Raises Broken `secret-malformed` when it is not UTF-8."""
        try:
            return self.value.decode()
        except UnicodeDecodeError:
            raise Broken("secret-malformed", "A secret that must be text is not UTF-8.") from None


class SecretStore(Protocol):
    """Where secrets come from."""

    def get(self, name: str) -> Sequence[SecretVersion]:
        """All versions of a secret, newest first; empty when this store does not have it.

        Raises Refusal `secret-name` for what cannot be a name, Broken `secret-unsafe` or
        `secret-malformed` for one that must not or cannot be used, Busy `secret-store-down` when
        a store over a network was not heard of for too long.
        """
        ...


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A key encrypted under another: `key_id` says which one opens it."""

    key_id: str
    blob: bytes


class Kek(Protocol):
    """A key-encryption key: it never leaves its place, keys go to it to be wrapped."""

    def wrap(self, key: bytes) -> Wrapped:
        """Encrypt a key under the newest version."""
        ...

    def unwrap(self, wrapped: Wrapped) -> bytes:
        """Decrypt under whichever version wrapped it.

        Raises Broken `kek-unknown` (no such version here) or `sealed-damaged` (altered, or not
        under this key).
        """
        ...

    def current_id(self) -> str:
        """The `key_id` that `wrap` writes now; anything else in a table is due for rewrapping."""
        ...

    def ids(self) -> Sequence[str]:
        """Every `key_id` that `unwrap` opens now."""
        ...


class Signer(Protocol):
    """Signs with a key that only it knows, here and now."""

    def sign(self, key_id: str, message: bytes) -> bytes:
        """The signature of `message` by the newest version of a key.

        Raises Broken `secret-missing` or `secret-malformed`.
        """
        ...


class RemoteSigner(Protocol):
    """Signs with keys that may lie elsewhere: never to be called inside a transaction."""

    async def sign(self, key_id: str, message: bytes) -> bytes:
        """The signature of `message` by the newest version of a key.

        Raises what `Signer.sign` raises, Busy `signer-unreachable`, Broken `signer-refused` or
        `network-inside-transaction`.
        """
        ...

    async def public_keys(self, key_id: str) -> Sequence[bytes]:
        """The public keys of all versions, newest first: what `verify_signature` takes."""
        ...


def checked_name(name: str) -> str:
    """The name itself. Raises Refusal `secret-name`: it becomes part of a path or a variable."""
    if not is_name(name):
        raise Refusal(
            "secret-name",
            f"{name[:80]!r} cannot name a secret: use a-z and 0-9, joined by single - or _, "
            f"at most {_MAX_NAME} characters.",
        )
    return name


def is_name(name: str) -> bool:
    """Whether this can name a secret."""
    return len(name) <= _MAX_NAME and _NAME.match(name) is not None


def require(store: SecretStore, name: str) -> SecretVersion:
    """The newest version. Raises Broken `secret-missing` when the store has none."""
    return require_all(store, name)[0]


def require_all(store: SecretStore, name: str) -> Sequence[SecretVersion]:
    """All versions, at least one. Raises Broken `secret-missing` when the store has none."""
    versions = store.get(name)
    if not versions:
        raise Broken("secret-missing", f"No store has a secret named {name!r}.")
    return versions


def decoded(raw: bytes, name: str) -> bytes:
    """The value that stored bytes stand for: `base64:` is decoded, one final newline dropped.

    Raises Broken `secret-malformed` for bad base64, for an empty value and above 1 MiB.
    """
    if len(raw) > MAX_SECRET_BYTES:
        raise Broken("secret-malformed", f"The secret {name!r} is larger than 1 MiB.")
    if raw.startswith(BASE64_PREFIX):
        try:
            value = base64.b64decode(raw[len(BASE64_PREFIX) :].strip(), validate=True)
        except binascii.Error:
            raise Broken("secret-malformed", f"The secret {name!r} is not base64.") from None
    else:
        value = _without_newline(raw)
    if not value:
        raise Broken("secret-malformed", f"The secret {name!r} is empty.")
    return value


def _without_newline(raw: bytes) -> bytes:
    """Text loses the newline that editors add; binary values stay as they are."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        return raw
    return raw.removesuffix(b"\n").removesuffix(b"\r")


def key_check(key: bytes) -> str:
    """12 hex digits that recognise a key without telling it: the same in whichever store it lies.

    Only for keys of full entropy; of a password it would be a test for guesses.
    """
    return hashlib.sha256(b"paymaster key check\0" + key).hexdigest()[:12]
