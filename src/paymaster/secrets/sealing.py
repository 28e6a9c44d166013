"""Personal data, bank details and provider traffic under lock; fingerprints of what is locked.

Data of a person is sealed under that person's own key, so that forgetting the key forgets the
person (crypto-shredding). Bodies that belong to no one person (orders, files, webhooks) carry a
key of their own. Either is AES-256-GCM, bound by its associated data to the row it belongs to: a
sealed value copied into another row does not open.

    seal        0x01 | nonce 12 | ciphertext | tag 16
    seal_bytes  0x02 | length of key id 1 | key id | length of wrapped key 2 | wrapped key | seal
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from paymaster.kernel.errors import Broken
from paymaster.secrets.local import KEY_BYTES, HmacSigner, new_key
from paymaster.secrets.port import Kek, Wrapped

FINGERPRINT_KEY = "fingerprint"
_WITH_KEY, _ALONE = b"\x01", b"\x02"
_NONCE_BYTES, _TAG_BYTES = 12, 16


@dataclass(frozen=True, slots=True)
class DataKey:
    """The opened key of one subject. Keep it no longer than one piece of work takes."""

    value: bytes = field(repr=False)


def place(table: str, *row: str | int) -> bytes:
    """Associated data that names a place: table, then what identifies the row in it.

    Each part is written with its length, so that no two places look alike.
    """
    parts = [part.encode() for part in (table, *map(str, row))]
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


class Sealer:
    """Seals and opens. Holds no key: it asks the KEK and the signer at every use."""

    def __init__(self, kek: Kek, signer: HmacSigner) -> None:
        self._kek = kek
        self._signer = signer

    def new_data_key(self) -> tuple[DataKey, bytes, str]:
        """A key for a new subject: the key, its wrapped form and the id of the KEK, to store."""
        key = new_key()
        wrapped = self._kek.wrap(key)
        return DataKey(key), wrapped.blob, wrapped.key_id

    def data_key(self, wrapped: bytes, key_id: str) -> DataKey:
        """Open a stored key. Raises Broken `kek-unknown` or `sealed-damaged`."""
        key = self._kek.unwrap(Wrapped(key_id, wrapped))
        if len(key) != KEY_BYTES:
            raise Broken("sealed-damaged", "A data key has the wrong length.")
        return DataKey(key)

    def rewrap(self, wrapped: bytes, key_id: str) -> tuple[bytes, str] | None:
        """The same key under the newest KEK, to store; None when it already is."""
        if key_id == self._kek.current_id():
            return None
        anew = self._kek.wrap(self._kek.unwrap(Wrapped(key_id, wrapped)))
        return anew.blob, anew.key_id

    def seal(self, data_key: DataKey, plaintext: bytes, context: bytes) -> bytes:
        """Encrypt under a subject's key. `context` comes from `place`."""
        nonce = os.urandom(_NONCE_BYTES)
        return _WITH_KEY + nonce + AESGCM(data_key.value).encrypt(nonce, plaintext, context)

    def open(self, data_key: DataKey, sealed: bytes, context: bytes) -> bytes:
        """Decrypt. Raises Broken `sealed-damaged`: altered, another key, or another row's."""
        if sealed[:1] != _WITH_KEY or len(sealed) < 1 + _NONCE_BYTES + _TAG_BYTES:
            raise Broken("sealed-damaged", "A sealed value is not in a form known here.")
        nonce, body = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            return AESGCM(data_key.value).decrypt(nonce, body, context)
        except InvalidTag:
            raise Broken(
                "sealed-damaged", "A sealed value was altered, or belongs to another row."
            ) from None

    def seal_bytes(self, plaintext: bytes, context: bytes) -> bytes:
        """Encrypt under a key of its own, which travels with it, wrapped."""
        key, wrapped, key_id = self.new_data_key()
        return _joined(wrapped, key_id, self.seal(key, plaintext, context))

    def seal_many(self, bodies: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        """Encrypt `(plaintext, context)` pairs made together as `seal_bytes` does, under one key.

        Each value carries the wrapped key and opens alone, with `open_bytes`.
        """
        key, wrapped, key_id = self.new_data_key()
        cipher, head = AESGCM(key.value), _head(wrapped, key_id)
        sealed: list[bytes] = []
        for plaintext, context in bodies:
            nonce = os.urandom(_NONCE_BYTES)
            sealed.append(head + nonce + cipher.encrypt(nonce, plaintext, context))
        return sealed

    def open_bytes(self, sealed: bytes, context: bytes, key: Wrapped | None = None) -> bytes:
        """Decrypt what `seal_bytes` made. Raises Broken `kek-unknown` or `sealed-damaged`.

        `key` stands in for the wrapped key in the value, where that was wrapped anew beside it.
        """
        within, body = _split(sealed)
        wrapped = key or within
        return self.open(self.data_key(wrapped.blob, wrapped.key_id), body, context)

    def rewrap_bytes(self, sealed: bytes) -> bytes | None:
        """The same value with its key under the newest KEK, to store; None when it already is."""
        wrapped, body = _split(sealed)
        anew = self.rewrap(wrapped.blob, wrapped.key_id)
        return None if anew is None else _joined(*anew, body)

    def key_of(self, sealed: bytes) -> Wrapped:
        """The wrapped key in what `seal_bytes` made. Raises Broken `sealed-damaged`."""
        return _split(sealed)[0]

    def current_id(self) -> str:
        """The id of the KEK that wraps now."""
        return self._kek.current_id()

    def fingerprint_key_id(self) -> str:
        """An id of the key that makes fingerprints now."""
        return self._signer.current_id(FINGERPRINT_KEY)

    def fingerprint(self, kind: str, normalised: str) -> bytes:
        """32 bytes that recognise a value without telling it, for example an IBAN.

        The caller normalises: the same destination must give the same text.
        """
        return self._signer.sign(FINGERPRINT_KEY, place("fingerprint", kind, normalised))

    def fingerprints(self, kind: str, normalised: str) -> Sequence[bytes]:
        """Under every version of the key, newest first: look all of them up after a rotation."""
        return self._signer.sign_all(FINGERPRINT_KEY, place("fingerprint", kind, normalised))


def _joined(wrapped: bytes, key_id: str, body: bytes) -> bytes:
    name = key_id.encode()
    head = _ALONE + len(name).to_bytes(1, "big") + name
    return head + len(wrapped).to_bytes(2, "big") + wrapped + body


def _head(wrapped: bytes, key_id: str) -> bytes:
    """What stands before nonce and ciphertext in a value that carries its key."""
    return _joined(wrapped, key_id, _WITH_KEY)


def _split(sealed: bytes) -> tuple[Wrapped, bytes]:
    """The wrapped key and the sealed body. Raises Broken `sealed-damaged`."""
    damaged = Broken("sealed-damaged", "A sealed body is not in a form known here.")
    if sealed[:1] != _ALONE or len(sealed) < 2:
        raise damaged
    after_name = 2 + sealed[1]
    start = after_name + 2
    after_key = start + int.from_bytes(sealed[after_name:start], "big")
    try:
        name = sealed[2:after_name].decode("ascii")
    except UnicodeDecodeError:
        raise damaged from None
    if len(sealed) < after_key or not name:
        raise damaged
    return Wrapped(name, sealed[start:after_key]), sealed[after_key:]
