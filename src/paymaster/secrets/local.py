"""Key encryption and signing in this process, with keys taken from a store."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets

from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
)

from paymaster.kernel.errors import Broken
from paymaster.secrets.port import SecretStore, Wrapped, key_check, require, require_all

KEY_BYTES = 32
_SALT_BYTES, _NONCE_BYTES, _TAG_BYTES = 16, 12, 16
_WRAP_VERSION = b"\x01"
_PURPOSE = b"paymaster wrap 1\0"


class LocalKek:
    """AES-256-GCM under a 32-byte key from the store; the newest version wraps, any unwraps.

    Each wrap derives its own key from a random salt, because plain AES-GCM with random nonces must
    stop after 2**32 messages (NIST SP 800-38D, 8.3) and every stored file and webhook is one.
    """

    def __init__(self, store: SecretStore, name: str = "kek") -> None:
        self._store = store
        self._name = name

    def wrap(self, key: bytes) -> Wrapped:
        """See Kek."""
        kek = exact_key(require(self._store, self._name).value, self._name)
        key_id = key_check(kek)
        salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
        sealed = AESGCM(_derived(kek, salt)).encrypt(nonce, key, key_id.encode())
        return Wrapped(key_id, _WRAP_VERSION + salt + nonce + sealed)

    def unwrap(self, wrapped: Wrapped) -> bytes:
        """See Kek."""
        kek = self._find(wrapped.key_id)
        blob, start = wrapped.blob, 1 + _SALT_BYTES + _NONCE_BYTES
        if blob[:1] != _WRAP_VERSION or len(blob) < start + _TAG_BYTES:
            raise Broken("sealed-damaged", "A wrapped key is not in a form known here.")
        salt, nonce = blob[1 : 1 + _SALT_BYTES], blob[1 + _SALT_BYTES : start]
        try:
            return AESGCM(_derived(kek, salt)).decrypt(nonce, blob[start:], wrapped.key_id.encode())
        except InvalidTag:
            raise Broken("sealed-damaged", "A wrapped key was altered.") from None

    def current_id(self) -> str:
        """See Kek."""
        return key_check(exact_key(require(self._store, self._name).value, self._name))

    def ids(self) -> list[str]:
        """See Kek."""
        versions = self._store.get(self._name)
        return [key_check(exact_key(version.value, self._name)) for version in versions]

    def _find(self, key_id: str) -> bytes:
        for version in self._store.get(self._name):
            kek = exact_key(version.value, self._name)
            if hmac.compare_digest(key_check(kek).encode(), key_id.encode()):
                return kek
        raise Broken(
            "kek-unknown",
            f"No version of {self._name!r} is the key {key_id[:40]!r}: it was removed before "
            "everything under it was wrapped anew, or it is in another store.",
        )


def exact_key(value: bytes, name: str) -> bytes:
    """A symmetric key of 32 bytes. Raises Broken `secret-malformed` for any other length."""
    if len(value) != KEY_BYTES:
        raise Broken(
            "secret-malformed",
            f"The key {name!r} has {len(value)} bytes; it must be {KEY_BYTES} random bytes, "
            "written as base64:...",
        )
    return value


def _derived(kek: bytes, salt: bytes) -> bytes:
    return hmac.digest(kek, _PURPOSE + salt, hashlib.sha256)


class HmacSigner:
    """HMAC-SHA256 with 32-byte keys from the store. `key_id` is the name of the secret."""

    def __init__(self, store: SecretStore) -> None:
        self._store = store

    def sign(self, key_id: str, message: bytes) -> bytes:
        """See Signer. 32 bytes."""
        key = exact_key(require(self._store, key_id).value, key_id)
        return hmac.digest(key, message, hashlib.sha256)

    def sign_all(self, key_id: str, message: bytes) -> list[bytes]:
        """Under every version, newest first: to find or verify what an older version made."""
        return [
            hmac.digest(exact_key(version.value, key_id), message, hashlib.sha256)
            for version in require_all(self._store, key_id)
        ]

    def current_id(self, key_id: str) -> str:
        """What recognises the version that signs now."""
        return key_check(exact_key(require(self._store, key_id).value, key_id))

    def verify(self, key_id: str, message: bytes, signature: bytes) -> bool:
        """Whether any version made this signature; it may be cut, to 16 bytes at least."""
        if not 16 <= len(signature) <= 32:
            return False
        matches = [
            hmac.compare_digest(made[: len(signature)], signature)
            for made in self.sign_all(key_id, message)
        ]
        return any(matches)


class Ed25519Signer:
    """Ed25519 with keys from the store: 32 raw bytes, or PKCS #8 in PEM without a passphrase."""

    def __init__(self, store: SecretStore) -> None:
        self._store = store

    def sign(self, key_id: str, message: bytes) -> bytes:
        """See Signer. 64 bytes."""
        return _ed25519(require(self._store, key_id).value, key_id).sign(message)

    def public_keys(self, key_id: str) -> list[bytes]:
        """The raw public keys of all versions, newest first: what others are given to verify."""
        return [
            _ed25519(version.value, key_id)
            .public_key()
            .public_bytes(Encoding.Raw, PublicFormat.Raw)
            for version in require_all(self._store, key_id)
        ]


def verify_ed25519(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the owner of a raw 32-byte public key signed the message."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def verify_signature(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the owner of a public key signed the message, wherever the private key lies.

    32 bytes are a raw Ed25519 key; anything else is a SubjectPublicKeyInfo in DER (RFC 5280) of an
    Ed25519, an ECDSA key (SHA-256, signature in DER) or an RSA key (PSS, SHA-256).
    """
    if len(public_key) == KEY_BYTES:
        return verify_ed25519(public_key, message, signature)
    try:
        key = load_der_public_key(public_key)
        if isinstance(key, Ed25519PublicKey):
            key.verify(signature, message)
        elif isinstance(key, EllipticCurvePublicKey):
            key.verify(signature, message, ECDSA(SHA256()))
        elif isinstance(key, RSAPublicKey):
            key.verify(signature, message, PSS(MGF1(SHA256()), PSS.AUTO), SHA256())
        else:
            return False
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        return False
    return True


def _ed25519(value: bytes, name: str) -> Ed25519PrivateKey:
    try:
        if not value.startswith(b"-----BEGIN"):
            return Ed25519PrivateKey.from_private_bytes(value)
        key = load_pem_private_key(value, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Broken("secret-malformed", f"The secret {name!r} is not a private key.") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise Broken("secret-malformed", f"The secret {name!r} is not an Ed25519 key.")
    return key


def new_key() -> bytes:
    """32 random bytes."""
    return secrets.token_bytes(KEY_BYTES)
