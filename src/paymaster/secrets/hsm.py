"""Keys in a hardware security module, reached through PKCS #11: they work there and never leave.

A key is named by an address in the manner of RFC 7512, of which two attributes are known:
`pkcs11:token=paymaster;object=audit-head`. The library comes with the extra `hsm`. Its calls go to
a driver in this process, one at a time; a module that is reached over a network belongs behind
`secrets.signers`, which sign outside transactions, and not behind `secrets.kek`.
Source: PKCS #11 Specification 3.1 (OASIS).
"""

from __future__ import annotations

import hashlib
import importlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import unquote

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from paymaster.kernel.errors import Broken, Busy, PaymasterError, Refusal
from paymaster.secrets.port import Wrapped

T = TypeVar("T")
SCHEME = "pkcs11:"
_WRAP_VERSION = b"\x02"
_NONCE_BYTES, _TAG_BYTES, _TAG_BITS = 12, 16, 128
_BLOCK = b"paymaster key id"
_LOST = frozenset({
    "SessionHandleInvalid", "SessionClosed", "SessionCount", "DeviceRemoved", "DeviceError",
    "TokenNotPresent", "UserNotLoggedIn", "CryptokiNotInitialized", "GeneralError",
    "ObjectHandleInvalid", "KeyHandleInvalid", "NoSuchToken", "FunctionFailed",
})  # fmt: skip
_HALF = 32


@dataclass(frozen=True, slots=True)
class HsmKey:
    """Where a key lies: the label of its token and its own."""

    token: str
    label: str


def parse_address(text: str) -> HsmKey:
    """`pkcs11:token=...;object=...`. Raises Refusal `key-address`."""
    parts: dict[str, str] = {}
    for part in text.removeprefix(SCHEME).split(";"):
        name, found, value = part.partition("=")
        if not found or name not in ("token", "object") or not value:
            raise Refusal(
                "key-address", f"{text!r} is no key: write pkcs11:token=<label>;object=<label>."
            )
        parts[name] = unquote(value)
    if len(parts) != 2:
        raise Refusal(
            "key-address", f"{text!r} is no key: write pkcs11:token=<label>;object=<label>."
        )
    return HsmKey(parts["token"], parts["object"])


class Hsm:
    """One driver and the session it has with each of its tokens; safe to be used by threads.

    `pin` is asked for at every login, so that a new one is used without a restart. A session that
    was lost, because the device was away, is opened anew and the call made again, once.
    """

    def __init__(self, module: Path | None, pin: Callable[[], str]) -> None:
        self._module = module
        self._pin = pin
        self._lock = threading.RLock()
        self._sessions: dict[str, Any] = {}
        self._found: dict[tuple[HsmKey, str], Any] = {}
        self._wrong_pins: dict[str, str] = {}

    def use(self, key: HsmKey, kind: str, work: Callable[[Any, Any], T]) -> T:
        """Call `work(library, key object)`. `kind` is SECRET_KEY, PRIVATE_KEY or PUBLIC_KEY.

        Raises Broken `hsm-refused`, Busy `hsm-unreachable`, Refusal `extra-missing`.
        """
        library = _library()
        with self._lock:
            try:
                return work(library, self._object(library, key, kind))
            except library.exceptions.PKCS11Error as error:
                if type(error).__name__ not in _LOST:
                    raise _refused(key, error) from None
            self._forget()
            try:
                return work(library, self._object(library, key, kind))
            except library.exceptions.PKCS11Error as error:
                if type(error).__name__ not in _LOST:
                    raise _refused(key, error) from None
                self._forget()
                raise Busy(
                    "hsm-unreachable",
                    f"The token {key.token!r} does not answer: {type(error).__name__}.",
                    retry_after_seconds=5,
                ) from None

    def _object(self, library: Any, key: HsmKey, kind: str) -> Any:
        known = self._found.get((key, kind))
        if known is not None:
            return known
        session = self._sessions.get(key.token)
        if session is None:
            session = self._sessions[key.token] = self._open(library, key.token)
        constants = library.constants
        try:
            found = session.get_key(
                object_class=getattr(constants.ObjectClass, kind), label=key.label
            )
        except (library.exceptions.NoSuchKey, library.exceptions.MultipleObjectsReturned) as error:
            raise _refused(key, error) from None
        self._found[(key, kind)] = found
        return found

    def _open(self, library: Any, token: str) -> Any:
        if self._module is None:
            raise Refusal("key-address", "A key is in a token, but `hsm.module` names no driver.")
        faults = library.exceptions
        try:
            driver = library.lib(str(self._module))
        except (faults.PKCS11Error, RuntimeError, OSError) as error:
            raise Broken(
                "hsm-refused", f"The driver {self._module} cannot be used: {type(error).__name__}."
            ) from None
        if self._sessions == {}:
            # A driver that saw its device come back lists its tokens anew only then.
            driver.reinitialize()
        found, pin = driver.get_token(token_label=token), self._pin()
        if pin == self._wrong_pins.get(token):
            # A token locks itself after a few wrong ones.
            raise Broken("hsm-refused", f"The token {token!r} refused this PIN before.")
        try:
            return found.open(user_pin=pin)
        except faults.UserAlreadyLoggedIn:
            return found.open()
        except (faults.PinIncorrect, faults.PinLocked):
            self._wrong_pins[token] = pin
            raise

    def _forget(self) -> None:
        """All of them: a driver loses its sessions together."""
        self._found.clear()
        for session in self._sessions.values():
            _closed(session)
        self._sessions.clear()

    def close(self) -> None:
        """Log out."""
        with self._lock:
            self._forget()


def _closed(session: Any) -> bool:
    """Close a session that may be gone already; whether it was still there."""
    try:
        session.close()
    except RuntimeError:
        return False
    return True


def _library() -> Any:
    try:
        library = importlib.import_module("pkcs11")
        importlib.import_module("pkcs11.util.ec")
        importlib.import_module("pkcs11.util.rsa")
    except ImportError:
        raise Refusal(
            "extra-missing",
            "The library python-pkcs11 is not installed: install Paymaster as `paymaster[hsm]`.",
        ) from None
    return cast("Any", library)


def _refused(key: HsmKey, error: Exception) -> PaymasterError:
    return Broken(
        "hsm-refused",
        f"The token {key.token!r} refused the key {key.label!r}: {type(error).__name__}.",
    )


class HsmKek:
    """An AES-256 key of a token that wraps data keys by AES-GCM inside it.

    The nonce is random, so one key may wrap 2**32 times at most (NIST SP 800-38D, 8.3): rotate
    before. `key_id` is made from the key itself: what it encrypts a constant block to.
    """

    def __init__(self, hsm: Hsm, key: HsmKey) -> None:
        self._hsm = hsm
        self._key = key
        self._id: str | None = None

    def wrap(self, key: bytes) -> Wrapped:
        """See Kek. Raises what `Hsm.use` raises too."""
        key_id, nonce = self.current_id(), os.urandom(_NONCE_BYTES)

        def work(library: Any, found: Any) -> bytes:
            given = library.GCMParams(nonce, key_id.encode(), _TAG_BITS)
            mechanism = library.Mechanism.AES_GCM
            return bytes(found.encrypt(key, mechanism=mechanism, mechanism_param=given))

        sealed = self._hsm.use(self._key, "SECRET_KEY", work)
        return Wrapped(key_id, _WRAP_VERSION + nonce + sealed)

    def unwrap(self, wrapped: Wrapped) -> bytes:
        """See Kek. Raises what `Hsm.use` raises too."""
        if wrapped.key_id != self.current_id():
            raise Broken("kek-unknown", f"The token's key is not {wrapped.key_id[:40]!r}.")
        blob = wrapped.blob
        if blob[:1] != _WRAP_VERSION or len(blob) < 1 + _NONCE_BYTES + _TAG_BYTES:
            raise Broken("sealed-damaged", "A wrapped key is not in a form known here.")
        nonce, sealed = blob[1 : 1 + _NONCE_BYTES], blob[1 + _NONCE_BYTES :]

        def work(library: Any, found: Any) -> bytes | None:
            given = library.GCMParams(nonce, wrapped.key_id.encode(), _TAG_BITS)
            mechanism = library.Mechanism.AES_GCM
            faults = library.exceptions
            try:
                return bytes(found.decrypt(sealed, mechanism=mechanism, mechanism_param=given))
            except (faults.EncryptedDataInvalid, faults.EncryptedDataLenRange):
                return None
            except (faults.GeneralError, faults.FunctionFailed):
                # How some drivers say that the tag is wrong, and how some say that they are ill.
                if self._answers(library, found):
                    return None
                raise

        opened = self._hsm.use(self._key, "SECRET_KEY", work)
        if opened is None:
            raise Broken("sealed-damaged", "A wrapped key was altered.")
        return opened

    def _answers(self, library: Any, found: Any) -> bool:
        return bool(found.encrypt(_BLOCK, mechanism=library.Mechanism.AES_ECB))

    def current_id(self) -> str:
        """See Kek."""
        if self._id is None:

            def work(library: Any, found: Any) -> bytes:
                return bytes(found.encrypt(_BLOCK, mechanism=library.Mechanism.AES_ECB))

            made = self._hsm.use(self._key, "SECRET_KEY", work)
            self._id = "hsm-" + hashlib.sha256(b"paymaster hsm key\0" + made).hexdigest()[:12]
        return self._id

    def ids(self) -> list[str]:
        """See Kek."""
        return [self.current_id()]


class HsmSigner:
    """A private key of a token: Ed25519, ECDSA on P-256 or RSA, whichever it is."""

    def __init__(self, hsm: Hsm, key: HsmKey) -> None:
        self._hsm = hsm
        self._key = key

    def sign(self, message: bytes) -> bytes:
        """A signature as `verify_signature` takes it. Raises what `Hsm.use` raises."""

        def work(library: Any, found: Any) -> bytes:
            kinds, mechanisms = library.KeyType, library.Mechanism
            if found.key_type == kinds.EC_EDWARDS:
                return bytes(found.sign(message, mechanism=mechanisms.EDDSA))
            if found.key_type == kinds.EC:
                digest = hashlib.sha256(message).digest()
                return _in_der(bytes(found.sign(digest, mechanism=mechanisms.ECDSA)))
            if found.key_type == kinds.RSA:
                salted = (mechanisms.SHA256, library.MGF.SHA256, 32)
                mechanism = mechanisms.SHA256_RSA_PKCS_PSS
                return bytes(found.sign(message, mechanism=mechanism, mechanism_param=salted))
            raise Broken("hsm-refused", f"The key {self._key.label!r} is of no kind used here.")

        return self._hsm.use(self._key, "PRIVATE_KEY", work)

    def public_key(self) -> bytes:
        """The public key in DER, from the object of the same label. Raises as `sign`."""

        def work(library: Any, found: Any) -> bytes:
            kinds, util = library.KeyType, library.util
            if found.key_type == kinds.RSA:
                return _spki_of_rsa(library, found)
            if found.key_type == kinds.EC_EDWARDS:
                return _ED25519_HEAD + bytes(found[library.Attribute.EC_POINT])[-_HALF:]
            return bytes(util.ec.encode_ec_public_key(found))

        return self._hsm.use(self._key, "PUBLIC_KEY", work)


_ED25519_HEAD = bytes.fromhex("302a300506032b6570032100")
"""What stands before the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410)."""


def _in_der(both: bytes) -> bytes:
    """PKCS #11 gives r and s side by side; elsewhere a signature is a sequence in DER."""
    half = len(both) // 2
    return encode_dss_signature(
        int.from_bytes(both[:half], "big"), int.from_bytes(both[half:], "big")
    )


def _spki_of_rsa(library: Any, found: Any) -> bytes:
    key = load_der_public_key(bytes(library.util.rsa.encode_rsa_public_key(found)))
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
