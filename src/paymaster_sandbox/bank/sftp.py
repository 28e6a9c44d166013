"""The bank's front door: SFTP with one user, one key and the manners of a bank's server.

Uploads go to `/in/.NAME.part` and become visible to the bank by rename; nothing else in `/in` can
be written. Files in `/out` can be read, deleted, and moved to `/out/archive`. A rename never
replaces a file, neither as plain SFTP v3 nor through the POSIX extension.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncssh
from asyncssh import constants

from paymaster_sandbox.bank.folders import FINAL_NAME
from paymaster_sandbox.chassis import faults, journal
from paymaster_sandbox.chassis.base import Chassis

if TYPE_CHECKING:
    from pathlib import Path

    from asyncssh.misc import MaybeAwait

    from paymaster_sandbox.chassis.keys import Keys

USER = "paymaster"
_PART = re.compile(r"/in/\.[A-Za-z0-9._-]{1,120}\.part")
_FINAL = re.compile("/in/" + FINAL_NAME.pattern)
_OUT = re.compile(r"/out/[^/]+")
_ARCHIVED = re.compile(r"/out/archive/[^/]+")


@dataclass(frozen=True, slots=True)
class Counter:
    """What the server needs to know of the bank behind it."""

    root: Path
    chassis: Chassis
    uploaded: Callable[[], None]


class BankFiles(asyncssh.SFTPServer):
    """One SFTP session, confined to the customer's folders."""

    def __init__(self, channel: asyncssh.SSHServerChannel[bytes], counter: Counter) -> None:
        root = str(counter.root).encode()
        super().__init__(channel, chroot=root)  # pyright: ignore[reportUnknownMemberType]
        self._counter = counter

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> MaybeAwait[object]:
        """Reading anywhere, writing only to an upload's temporary name."""
        if pflags & ~constants.FXF_READ:
            _require(path, _PART)
        return super().open(path, pflags, attrs)

    def open56(
        self, path: bytes, desired_access: int, flags: int, attrs: asyncssh.SFTPAttrs
    ) -> MaybeAwait[object]:
        """The same for later protocol versions."""
        reads = constants.ACE4_READ_DATA | constants.ACE4_READ_ATTRIBUTES
        disposition = flags & constants.FXF_ACCESS_DISPOSITION
        if desired_access & ~reads or disposition != constants.FXF_OPEN_EXISTING:
            _require(path, _PART)
        return super().open56(path, desired_access, flags, attrs)

    def rename(self, oldpath: bytes, newpath: bytes) -> MaybeAwait[None]:
        """Finish an upload, or archive a file of the bank."""
        finishes = _matches(oldpath, _PART) and _matches(newpath, _FINAL)
        archives = _matches(oldpath, _OUT) and _matches(newpath, _ARCHIVED)
        if not (finishes or archives):
            raise asyncssh.SFTPPermissionDenied("this rename is not allowed")
        super().rename(oldpath, newpath)
        if finishes:
            self._finished(_plain(newpath))
        return None

    def posix_rename(self, oldpath: bytes, newpath: bytes) -> MaybeAwait[None]:
        """The extension would replace the target; here it does not."""
        return self.rename(oldpath, newpath)

    def remove(self, path: bytes) -> MaybeAwait[None]:
        """Delete an unfinished upload or a file that the bank put out."""
        _require(path, _PART, _OUT, _ARCHIVED)
        return super().remove(path)

    def setstat(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> MaybeAwait[None]:
        """Attributes of unfinished uploads only."""
        _require(path, _PART)
        return super().setstat(path, attrs)

    def lsetstat(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> MaybeAwait[None]:
        """Attributes of unfinished uploads only."""
        return self.setstat(path, attrs)

    def mkdir(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> MaybeAwait[None]:  # noqa: ARG002
        """The folders are the bank's."""
        raise asyncssh.SFTPPermissionDenied("folders are fixed")

    def rmdir(self, path: bytes) -> MaybeAwait[None]:  # noqa: ARG002
        """The folders are the bank's."""
        raise asyncssh.SFTPPermissionDenied("folders are fixed")

    def symlink(self, oldpath: bytes, newpath: bytes) -> MaybeAwait[None]:  # noqa: ARG002
        """A link could lead out of the folders."""
        raise asyncssh.SFTPPermissionDenied("links are not allowed")

    def link(self, oldpath: bytes, newpath: bytes) -> MaybeAwait[None]:  # noqa: ARG002
        """A link could lead out of the folders."""
        raise asyncssh.SFTPPermissionDenied("links are not allowed")

    def _finished(self, path: str) -> None:
        with self._counter.chassis.tx() as tx:
            cut = faults.strikes(tx, "sftp_drop_answers")
            journal.note(tx, "bank.upload", name=posixpath.basename(path), answered=not cut)
        if cut:
            self.connection.abort()
        self._counter.uploaded()


class _FrontDoor(asyncssh.SSHServer):
    """Accepts the customer's public key for the customer's name, and nothing else."""

    def __init__(self, client_key: asyncssh.SSHKey) -> None:
        self._public = client_key.convert_to_public()

    def begin_auth(self, username: str) -> bool:  # noqa: ARG002
        """Everybody must prove who they are."""
        return True

    def public_key_auth_supported(self) -> bool:
        """The one way in."""
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Whether name and key are the customer's."""
        return username == USER and key == self._public


async def listen(counter: Counter, keys: Keys, port: int) -> asyncssh.SSHAcceptor:
    """Open the SFTP server on loopback."""

    def session(channel: asyncssh.SSHServerChannel[bytes]) -> BankFiles:
        return BankFiles(channel, counter)

    return await asyncssh.listen(
        "127.0.0.1",
        port,
        server_factory=lambda: _FrontDoor(keys.client_key),
        server_host_keys=[keys.host_key],
        sftp_factory=session,
        allow_scp=False,
        allow_pty=False,
        agent_forwarding=False,
        login_timeout=10,
    )


def _plain(path: bytes) -> str:
    """The path as the customer means it, absolute and without dots."""
    return posixpath.normpath(posixpath.join("/", path.decode("utf-8", "replace")))


def _matches(path: bytes, *allowed: re.Pattern[str]) -> bool:
    plain = _plain(path)
    return any(pattern.fullmatch(plain) for pattern in allowed)


def _require(path: bytes, *allowed: re.Pattern[str]) -> None:
    """Raises SFTPPermissionDenied unless the path is one that the customer may change."""
    if not _matches(path, *allowed):
        raise asyncssh.SFTPPermissionDenied("not allowed here")
