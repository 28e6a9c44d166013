"""Who signs with which key: a key of the secret stores, a key of AWS KMS, a key of a token.

`secrets.signers` says for each key id where its versions lie, the newest first, for example
`pkcs11:token=paymaster;object=audit-head store`: the token signs, and what the key of the stores
signed before is still verified. A key id that is not named there lies in the stores.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from paymaster.kernel.errors import Refusal
from paymaster.kernel.guard import forbid_network
from paymaster.secrets.aws import Kms
from paymaster.secrets.hsm import SCHEME as HSM_SCHEME
from paymaster.secrets.hsm import Hsm, HsmSigner, parse_address
from paymaster.secrets.local import Ed25519Signer

STORE, KMS_SCHEME = "store", "aws-kms:"


class _Place(Protocol):
    """Where versions of one key lie."""

    async def sign(self, message: bytes) -> bytes: ...

    async def public_keys(self) -> Sequence[bytes]: ...


class _InStore:
    def __init__(self, local: Ed25519Signer, key_id: str) -> None:
        self._local, self._key_id = local, key_id

    async def sign(self, message: bytes) -> bytes:
        return self._local.sign(self._key_id, message)

    async def public_keys(self) -> Sequence[bytes]:
        return self._local.public_keys(self._key_id)


class _InKms:
    def __init__(self, kms: Kms, key: str) -> None:
        self._kms, self._key = kms, key

    async def sign(self, message: bytes) -> bytes:
        return await self._kms.sign(self._key, message)

    async def public_keys(self) -> Sequence[bytes]:
        return [await self._kms.public_key(self._key)]


class _InToken:
    def __init__(self, signer: HsmSigner) -> None:
        self._signer = signer

    async def sign(self, message: bytes) -> bytes:
        forbid_network()
        return await asyncio.to_thread(self._signer.sign, message)

    async def public_keys(self) -> Sequence[bytes]:
        return [await asyncio.to_thread(self._signer.public_key)]


class Signers:
    """All keys that sign for others to verify; see RemoteSigner."""

    def __init__(
        self,
        local: Ed25519Signer,
        places: Mapping[str, str] | None = None,
        *,
        kms: Kms | None = None,
        hsm: Hsm | None = None,
    ) -> None:
        self._local = local
        self._kms = kms
        self._hsm = hsm
        self._places = {
            key_id: [self._place(key_id, where) for where in text.split()]
            for key_id, text in (places or {}).items()
        }
        for key_id, found in self._places.items():
            if not found:
                raise Refusal("key-address", f"`secrets.signers` names no place for {key_id!r}.")

    async def sign(self, key_id: str, message: bytes) -> bytes:
        """See RemoteSigner."""
        return await self._of(key_id)[0].sign(message)

    async def public_keys(self, key_id: str) -> Sequence[bytes]:
        """See RemoteSigner."""
        return [key for place in self._of(key_id) for key in await place.public_keys()]

    def in_stores(self, key_id: str) -> bool:
        """Whether a version of the key is taken from the secret stores."""
        return any(isinstance(place, _InStore) for place in self._of(key_id))

    def _of(self, key_id: str) -> Sequence[_Place]:
        return self._places.get(key_id) or [_InStore(self._local, key_id)]

    def _place(self, key_id: str, where: str) -> _Place:
        if where == STORE:
            return _InStore(self._local, key_id)
        if where.startswith(KMS_SCHEME) and self._kms is not None:
            return _InKms(self._kms, where.removeprefix(KMS_SCHEME))
        if where.startswith(HSM_SCHEME) and self._hsm is not None:
            return _InToken(HsmSigner(self._hsm, parse_address(where)))
        raise Refusal(
            "key-address",
            f"{where!r} is no place for a key: write store, aws-kms:<key> or pkcs11:...",
        )
