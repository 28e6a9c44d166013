"""Secrets from a folder, one file a secret: `name`, later versions `name.2`, `name.3`.

Every call looks at the folder again, so that a rotated secret is used without a restart. A file is
read again only when it has changed. Orchestrators mount secrets in exactly this shape.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from paymaster.kernel.errors import Broken
from paymaster.secrets.port import MAX_SECRET_BYTES, SecretVersion, checked_name, decoded

_VERSION = re.compile(r"(?:\.([1-9][0-9]{0,8}))?\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Read:
    signature: tuple[int, ...]
    version: SecretVersion = field(repr=False)


class FileStore:
    """The secrets of one folder. A file that others may read or change is refused, not used.

    Group read is allowed, because that is how orchestrators hand files to a process that is not
    root; the owner must be this user or root.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._known: dict[str, _Read] = {}

    def get(self, name: str) -> Sequence[SecretVersion]:
        """See SecretStore."""
        checked_name(name)
        found: dict[int, str] = {}
        try:
            entries = [entry.name for entry in self.directory.iterdir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise Broken(
                "secret-unsafe", f"The folder of secrets cannot be read: {error.strerror}."
            ) from error
        for entry in entries:
            match = _VERSION.match(entry, len(name)) if entry.startswith(name) else None
            if match is not None:
                number = int(match.group(1) or 1)
                if number in found:
                    raise Broken("secret-malformed", f"Both {name} and {name}.1 exist: drop one.")
                found[number] = entry
        if found:
            self._refuse_open_folder()
        versions = [self._read(found[number], number, name) for number in sorted(found)[::-1]]
        return [version for version in versions if version is not None]

    def _refuse_open_folder(self) -> None:
        mode = self.directory.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise Broken(
                "secret-unsafe", "Anybody may put files into the folder of secrets: chmod 700 it."
            )

    def _read(self, entry: str, number: int, name: str) -> SecretVersion | None:
        """One file; None when it went away since the folder was listed."""
        try:
            handle = os.open(self.directory / entry, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Broken(
                "secret-unsafe", f"The secret file {entry} cannot be read: {error.strerror}."
            ) from error
        try:
            facts = os.fstat(handle)
            _refuse_unsafe(facts, entry)
            signature = (
                facts.st_dev,
                facts.st_ino,
                facts.st_size,
                facts.st_mtime_ns,
                facts.st_ctime_ns,
            )
            known = self._known.get(entry)
            if known is not None and known.signature == signature:
                return known.version
            with os.fdopen(handle, "rb", closefd=False) as file:
                raw = file.read(MAX_SECRET_BYTES + 1)
        finally:
            os.close(handle)
        written = datetime.fromtimestamp(facts.st_mtime, UTC)
        version = SecretVersion(str(number), decoded(raw, name), written, store="file")
        self._known[entry] = _Read(signature, version)
        return version


def _refuse_unsafe(facts: os.stat_result, entry: str) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise Broken("secret-unsafe", f"The secret {entry} is not a regular file.")
    if facts.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise Broken(
            "secret-unsafe",
            f"Others may read or change the secret file {entry}: run `chmod 600` on it, "
            "and replace the secret if others have been on this machine.",
        )
    if facts.st_uid not in (0, os.geteuid()):
        raise Broken("secret-unsafe", f"The secret file {entry} belongs to another user.")
