"""Bank files over SFTP: pinned host key, our own key, a rename that does not overwrite.

The bank may pick a file up the moment it has its name, so "it is not there" after the rename
proves nothing. Everything before the rename is provably undelivered.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import cast

import asyncssh

from paymaster.kernel.errors import NeverSent
from paymaster.kernel.guard import forbid_network
from paymaster.rails import meaning
from paymaster.rails.meaning import Kind
from paymaster.rails.transport import (
    MAX_FILE_BYTES,
    MAX_LISTED,
    Listed,
    checked_name,
    is_ours_to_read,
    part_name,
)

_FILE_TYPES = (1, 5)
"""Regular, and unknown for servers that do not say (SSH File Transfer Protocol, section 5.2)."""

LOOK_AGAIN_SECONDS = (0.0, 0.5, 2.0)
"""Pauses before each try to see what became of a file whose rename got no answer."""


@dataclass(frozen=True, slots=True)
class SftpPlace:
    """Where the bank's server is and how it is recognised.

    `host_key` is the server's public key in OpenSSH form; no other is accepted. `client_key` is the
    text of our private key. `source_address` and `proxy_command` serve banks that admit only one
    address, or that are reached through a jump host.
    """

    host: str
    port: int
    user: str
    host_key: str
    client_key: str = field(repr=False)
    outgoing: str = "/in"
    incoming: str = "/out"
    source_address: str | None = None
    proxy_command: str | None = None
    timeout_seconds: float = 60.0


class SftpTransport:
    """One bank's SFTP server. Every call opens its own connection: files are few, hours apart."""

    def __init__(self, place: SftpPlace) -> None:
        self._place = place

    async def put(self, name: str, body: bytes) -> None:
        """See FileTransport."""
        final = f"{self._place.outgoing}/{checked_name(name)}"
        part = f"{self._place.outgoing}/{part_name(name)}"
        renaming = False
        try:
            async with self._session() as sftp:
                if await _there(sftp, final, body):
                    return
                await _write(sftp, part, body)
                renaming = True  # from here on the bank may have it
                await sftp.rename(part, final)
        except (asyncssh.Error, OSError) as error:
            if not renaming:
                raise meaning.error(
                    Kind.NOT_WRITTEN, f"{name} was not written: {_say(error)}."
                ) from error
            await self._look_again(name, final, part, body, error)

    async def _look_again(
        self, name: str, final: str, part: str, body: bytes, cause: Exception
    ) -> None:
        """The rename was asked for and failed or got no answer: only what lies there can tell.

        Taking the unfinished file away is the proof that nothing was delivered: a rename that is
        still under way then finds nothing to rename.
        """
        last: Exception = cause
        for pause in LOOK_AGAIN_SECONDS:
            await asyncio.sleep(pause)
            try:
                async with self._session() as sftp:
                    if await _there(sftp, final, body):
                        with contextlib.suppress(asyncssh.Error):  # delivered, swept or not
                            await _remove(sftp, part)
                        return
                    removed = await _remove(sftp, part)
                    if not removed and await _there(sftp, final, body):
                        return
            except (asyncssh.Error, OSError, NeverSent) as error:
                last = error
                continue
            if removed:
                raise meaning.error(
                    Kind.NOT_RENAMED, f"The server did not rename {name}: {_say(cause)}."
                ) from cause
            break
        raise meaning.error(
            Kind.DELIVERY_UNPROVEN,
            f"{name} is not there any more or cannot be looked for; the bank may have it.",
        ) from last

    async def list(self) -> Sequence[Listed]:
        """See FileTransport."""
        found: list[Listed] = []
        try:
            async with self._session() as sftp:
                async for entry in sftp.scandir(self._place.incoming):
                    name, attrs = str(entry.filename), entry.attrs
                    if attrs.type in _FILE_TYPES and is_ours_to_read(name):
                        moment = datetime.fromtimestamp(int(attrs.mtime or 0), UTC)
                        found.append(Listed(name, attrs.size or 0, moment))
                    if len(found) > MAX_LISTED:
                        raise meaning.error(
                            Kind.NOT_WRITTEN, f"More than {MAX_LISTED} files wait there."
                        )
        except (asyncssh.Error, OSError) as error:
            raise meaning.error(
                Kind.BANK_AWAY, f"The bank's folder cannot be read: {_say(error)}."
            ) from error
        return sorted(found, key=lambda file: (file.modified_at, file.name))

    async def get(self, names: Sequence[str]) -> dict[str, bytes]:
        """See FileTransport. One connection serves them all."""
        found: dict[str, bytes] = {}
        try:
            async with self._session() as sftp:
                for name in filter(is_ours_to_read, names):
                    body = await _read_whole(sftp, f"{self._place.incoming}/{name}")
                    if body is not None:
                        found[name] = body
        except (asyncssh.Error, OSError) as error:
            raise meaning.error(
                Kind.BANK_AWAY, f"The bank's files cannot be read: {_say(error)}."
            ) from error
        return found

    @asynccontextmanager
    async def _session(self) -> AsyncGenerator[asyncssh.SFTPClient]:
        forbid_network()
        place = self._place
        connection = await self._connect()
        try:
            async with asyncio.timeout(place.timeout_seconds), connection.start_sftp_client() as s:
                yield s
        finally:
            connection.abort()

    async def _connect(self) -> asyncssh.SSHClientConnection:
        place = self._place
        host_key, client_key = _keys(place)
        try:
            return await asyncssh.connect(
                place.host,
                place.port,
                username=place.user,
                client_keys=[client_key],
                known_hosts=([host_key], [], []),
                preferred_auth="publickey",
                agent_path=None,
                config=[],
                local_addr=(place.source_address, 0) if place.source_address else None,
                proxy_command=place.proxy_command,
                connect_timeout=place.timeout_seconds,
                login_timeout=place.timeout_seconds,
                keepalive_interval=10,
            )
        except asyncssh.HostKeyNotVerifiable as error:
            raise meaning.error(
                Kind.HOST_KEY, f"{place.host} did not prove to be the pinned server."
            ) from error
        except asyncssh.PermissionDenied as error:
            raise meaning.error(Kind.LOGIN, f"{place.host} does not accept our key.") from error
        except (asyncssh.Error, OSError) as error:
            raise meaning.error(
                Kind.BANK_AWAY, f"No connection to {place.host}: {_say(error)}."
            ) from error


def _keys(place: SftpPlace) -> tuple[asyncssh.SSHKey, asyncssh.SSHKey]:
    try:
        host_key = asyncssh.import_public_key(place.host_key)
    except (asyncssh.KeyImportError, ValueError) as error:
        raise meaning.error(Kind.HOST_KEY, "The pinned host key cannot be read.") from error
    try:
        return host_key, asyncssh.import_private_key(place.client_key)
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError, ValueError) as error:
        raise meaning.error(Kind.LOGIN, "Our private key cannot be read.") from error


async def _size(sftp: asyncssh.SFTPClient, path: str) -> int | None:
    try:
        return (await sftp.stat(path)).size or 0
    except asyncssh.SFTPNoSuchFile:
        return None


async def _read(sftp: asyncssh.SFTPClient, path: str) -> bytes:
    async with sftp.open(path, "rb") as handle:
        return cast("bytes", await handle.read(MAX_FILE_BYTES))


async def _read_whole(sftp: asyncssh.SFTPClient, path: str) -> bytes | None:
    """The file; None when it is gone, too large, or has another size after reading than before."""
    before = await _size(sftp, path)
    if before is None or before > MAX_FILE_BYTES:
        return None
    try:
        body = await _read(sftp, path)
    except asyncssh.SFTPNoSuchFile:
        return None
    return body if before == await _size(sftp, path) == len(body) else None


async def _there(sftp: asyncssh.SFTPClient, final: str, body: bytes) -> bool:
    """Whether our file has its final name. Raises RailUnknown `transport-name-taken`."""
    size = await _size(sftp, final)
    if size is None:
        return False
    same = size == len(body)
    if same:
        try:
            same = await _read(sftp, final) == body
        except asyncssh.SFTPPermissionDenied:
            same = True  # an in-tray that may only be written to: the size has to do
        except asyncssh.SFTPNoSuchFile:
            same = True  # picked up while we looked: it was there under its final name
    if not same:
        raise meaning.error(Kind.NAME_TAKEN, f"Another file is already called {final}.")
    return True


async def _remove(sftp: asyncssh.SFTPClient, path: str) -> bool:
    """Take a file away; False when it was not there."""
    try:
        await sftp.remove(path)
    except asyncssh.SFTPNoSuchFile:
        return False
    return True


async def _write(sftp: asyncssh.SFTPClient, part: str, body: bytes) -> None:
    async with sftp.open(part, "xb") as handle:
        await handle.write(body)
        with contextlib.suppress(asyncssh.SFTPOpUnsupported):  # an extension of OpenSSH
            await handle.fsync()
    written = await _size(sftp, part)
    if written != len(body):
        raise asyncssh.SFTPFailure(f"{written} of {len(body)} bytes arrived")


def _say(error: Exception) -> str:
    reason = str(error).strip() or type(error).__name__
    return " ".join(reason.split())[:200]
