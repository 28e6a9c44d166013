"""The certificate of a removal: a signed document that says what an environment was at its end.

It is signed as exported heads of the hash chain are: Ed25519 with the key `audit-head`, over its
JSON without `signature`, keys sorted at every level, no spaces. Neither document can pass for the
other: each refuses the other's fields.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from paymaster.db.seal_head import SIGNING_KEY, message
from paymaster.kernel.errors import Refusal
from paymaster.secrets.local import verify_signature
from paymaster.secrets.port import RemoteSigner

KIND, VERSION = "environment-removal", 1


class Balance(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """All accounts of one kind and currency together; `minor` as the books count, 10**-scale."""

    kind: str
    currency: str
    scale: int
    accounts: int
    minor: str


class ChainEnd(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The last block of a cell's hash chain, and what verifying the whole chain found."""

    block: int
    format: int
    last_seq: str
    hash: str
    sealed_at: str
    findings: int


class CellEnd(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A cell as it was: rows by table."""

    number: int
    server: str
    schema: str
    treasury: bool
    chain: ChainEnd
    closed_through: str | None
    rows: dict[str, int]
    balances: list[Balance]


class Named(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Which environment."""

    id: str
    tenant: str
    mode: str
    time_zone: str
    created_at: str


class Certificate(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Who removed what, when and why.

    `open` is what was not finished, `forced` whether it was removed all the same. `removed` and
    `kept` are rows of the directory by table; `secrets` names what its rail accounts were
    configured with and is now nobody's, unless another environment uses it.
    """

    kind: str
    version: int
    made_at: str
    actor: str
    origin: str
    reason: str
    forced: bool
    environment: Named
    cells: list[CellEnd]
    open: list[str]
    removed: dict[str, int]
    kept: dict[str, int]
    secrets: list[str]
    key_id: str
    signature: str

    @property
    def message(self) -> bytes:
        """The bytes that are signed."""
        return message(msgspec.to_builtins(self))

    def signed_by(self, public_keys: Sequence[bytes]) -> bool:
        """Whether the owner of one of these public keys signed it."""
        made = bytes.fromhex(self.signature)
        return any(verify_signature(key, self.message, made) for key in public_keys)


@dataclass(frozen=True, slots=True)
class Stored:
    """A certificate in a file; `sha256` is over the file's bytes."""

    certificate: Certificate
    sha256: bytes


async def sign(unsigned: Certificate, signer: RemoteSigner) -> bytes:
    """The bytes of the file. Raises what `RemoteSigner.sign` raises."""
    signature = await signer.sign(SIGNING_KEY, unsigned.message)
    whole = msgspec.structs.replace(unsigned, signature=signature.hex())
    return msgspec.json.format(msgspec.json.encode(whole), indent=2) + b"\n"


def read(file: Path) -> Stored:
    """Read a file. Raises Refusal `file-unreadable`, `certificate-malformed`."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise Refusal("file-unreadable", f"{file} cannot be read: {error.strerror}.") from error
    try:
        found = msgspec.json.decode(data, type=Certificate)
        bytes.fromhex(found.signature)
        int(found.environment.id)
    except (msgspec.DecodeError, ValueError) as error:
        raise _malformed(file, f"{error}") from error
    if (found.kind, found.version) != (KIND, VERSION):
        raise _malformed(file, f"its kind or version is not known here ({found.version})")
    return Stored(found, hashlib.sha256(data).digest())


def _malformed(file: Path, why: str) -> Refusal:
    return Refusal("certificate-malformed", f"{file} is no certificate of a removal: {why}.")


def write(file: Path, data: bytes) -> None:
    """Put it there with mode 0600, whole or not at all, and on the disk when this returns.

    Raises Refusal `file-unwritable`.
    """
    part = file.with_name(f"{file.name}.part")
    try:
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        part.replace(file)
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        problem = f"{file} cannot be written: {error.strerror}."
        raise Refusal("file-unwritable", problem) from error


def moment(given: datetime) -> str:
    """A moment as the certificate writes it."""
    return given.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
