"""Makes the local keys of an installation that brings none: the embedded default.

Safe when several processes start at once: a key is written under another name, then linked under
its own, which succeeds exactly once. Nobody ever sees half a key, or two.
"""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
from pathlib import Path

from paymaster.kernel.errors import Broken
from paymaster.secrets.file import FileStore
from paymaster.secrets.local import new_key
from paymaster.secrets.port import BASE64_PREFIX

LOCAL_KEYS = ("kek", "fingerprint", "cursor", "day-close", "audit-head", "user-token")
"""Key encryption, fingerprints of destinations, signatures of cursors, closed days, chain heads and
tokens."""


def ensure_generated(directory: Path) -> list[str]:
    """Create the missing keys (0600) in a folder (0700); the names of those made by this call.

    Raises Broken `secret-unsafe` when the folder cannot be written.
    """
    store = FileStore(directory)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return [name for name in LOCAL_KEYS if not store.get(name) and _create(directory, name)]
    except OSError as error:
        raise Broken(
            "secret-unsafe", f"The folder of secrets cannot be written: {error.strerror}."
        ) from error


def _create(directory: Path, name: str) -> bool:
    """Write one key; False when another process was first."""
    part = directory / f".{name}.{secrets.token_hex(8)}.part"
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(BASE64_PREFIX + base64.b64encode(new_key()) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(part, directory / name)
        except FileExistsError:
            return False
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
    _sync(directory)
    return True


def _sync(directory: Path) -> None:
    """Make the new name itself durable: a key that is lost takes the data with it."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
