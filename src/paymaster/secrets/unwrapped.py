"""Secrets that lie in their store wrapped under a key of AWS KMS.

KMS opens one by a network call, and keys are asked for inside transactions, where there must be
none. So the key that works is a local one: the store holds it wrapped (`aws-kms:<base64>`), it is
opened at the start and when a new version appears, and is held in memory. Who takes the store has
nothing; who may use the KMS key is decided, and recorded, by AWS. Having each data key wrapped by
KMS itself would cost a call for every user, file and webhook, and would have to happen ahead all
the same.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from paymaster.kernel.errors import Broken, Busy, PaymasterError
from paymaster.secrets.port import SecretStore, SecretVersion

PREFIX = b"aws-kms:"


class Opener(Protocol):
    """Opens what was wrapped for a name, over the network."""

    async def opened(self, wrapped: bytes, name: str) -> bytes:
        """The value. Raises Busy or Broken."""
        ...


class UnwrappedStore:
    """The same secrets, wrapped ones opened. What is not wrapped passes as it is."""

    kind = "aws-kms"

    def __init__(self, store: SecretStore, opener: Opener, *, names: Iterable[str] = ()) -> None:
        self._store = store
        self._opener = opener
        self._wanted = set(names)
        self._opened: dict[bytes, bytes] = {}
        self._waiting: set[str] = set()

    def get(self, name: str) -> Sequence[SecretVersion]:
        """See SecretStore. A version that was not opened yet is left out until it is.

        Raises Busy `secret-store-down` when that leaves none.
        """
        versions = self._store.get(name)
        if not any(version.value.startswith(PREFIX) for version in versions):
            return versions
        self._wanted.add(name)
        ready = [one for one in map(self._ready, versions) if one is not None]
        if len(ready) < len(versions):
            self._waiting.add(name)
        if not ready:
            raise Busy(
                "secret-store-down", f"KMS has not opened {name!r} yet.", retry_after_seconds=5
            )
        return ready

    def _ready(self, version: SecretVersion) -> SecretVersion | None:
        if not version.value.startswith(PREFIX):
            return version
        value = self._opened.get(hashlib.sha256(version.value).digest())
        store = f"{version.store}+{self.kind}"
        return None if value is None else replace(version, value=value, store=store)

    @property
    def waiting(self) -> bool:
        """Whether a wrapped version was seen that is not opened yet."""
        return bool(self._waiting)

    async def refresh(self) -> None:
        """Open what is not open, forget what is no longer there.

        Raises Busy or Broken, of the first name that fails, after all others were opened.
        """
        waited, self._waiting = self._waiting, set()
        failed: PaymasterError | None = None
        opened: dict[bytes, bytes] = {}
        for name in sorted(self._wanted):
            try:
                opened |= await self._open(name)
            except PaymasterError as error:
                self._waiting.add(name)
                failed = failed or error
            except BaseException:
                self._waiting |= waited
                raise
        if failed is not None:
            raise failed
        self._opened = opened

    async def _open(self, name: str) -> dict[bytes, bytes]:
        opened: dict[bytes, bytes] = {}
        for version in self._store.get(name):
            if version.value.startswith(PREFIX):
                mark = hashlib.sha256(version.value).digest()
                known = self._opened.get(mark)
                if known is None:
                    known = await self._opener.opened(blob(version.value, name), name)
                opened[mark] = self._opened[mark] = known
        return opened


def stored_form(wrapped: bytes) -> str:
    """What is put into the store."""
    return PREFIX.decode() + base64.b64encode(wrapped).decode()


def blob(value: bytes, name: str) -> bytes:
    """What KMS takes. Raises Broken `secret-malformed`."""
    try:
        return base64.b64decode(value[len(PREFIX) :].strip(), validate=True)
    except binascii.Error:
        raise Broken("secret-malformed", f"The wrapped secret {name!r} is not base64.") from None
