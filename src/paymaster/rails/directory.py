"""Bank files through a folder of this machine: for banks' own clients that pick files up there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

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


class DirectoryTransport:
    """Two folders on a file system that has hard links (a link never overwrites).

    A file in such a folder is as good as sent, so it too is forbidden inside a transaction.
    """

    def __init__(self, outgoing: Path, incoming: Path) -> None:
        self._outgoing = outgoing
        self._incoming = incoming

    async def put(self, name: str, body: bytes) -> None:
        """See FileTransport: write, fsync, link under the final name, fsync the folder."""
        forbid_network()
        await asyncio.to_thread(self._put, checked_name(name), body)

    async def list(self) -> Sequence[Listed]:
        """See FileTransport."""
        forbid_network()
        return await asyncio.to_thread(self._list)

    async def get(self, names: Sequence[str]) -> dict[str, bytes]:
        """See FileTransport."""
        forbid_network()
        found = [(name, await asyncio.to_thread(self._get, name)) for name in names]
        return {name: body for name, body in found if body is not None}

    def _put(self, name: str, body: bytes) -> None:
        final, part = self._outgoing / name, self._outgoing / part_name(name)
        if self._delivered(final, body):
            return
        try:
            with part.open("xb") as handle:
                handle.write(body)
                handle.flush()
                os.fsync(handle.fileno())
        except OSError as error:
            self._tidy(part)
            raise meaning.error(
                Kind.NOT_WRITTEN, f"The file cannot be written there: {error.strerror}."
            ) from error
        try:
            os.link(part, final)
        except FileExistsError:
            self._tidy(part)
            if not self._delivered(final, body):
                raise meaning.error(
                    Kind.DELIVERY_UNPROVEN, f"{name} was there and is gone: it may be picked up."
                ) from None
        except OSError as error:
            self._tidy(part)
            if self._delivered(final, body):
                return
            raise meaning.error(
                Kind.NOT_WRITTEN, f"The file cannot be linked there: {error.strerror}."
            ) from error
        self._tidy(part)

    def _delivered(self, final: Path, body: bytes) -> bool:
        try:
            there = final.read_bytes()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise meaning.error(
                Kind.DELIVERY_UNPROVEN, f"{final.name} cannot be read back: {error.strerror}."
            ) from error
        if there != body:
            raise meaning.error(Kind.NAME_TAKEN, f"Another file is already called {final.name}.")
        return True

    def _tidy(self, part: Path) -> None:
        # What is delivered, or not, is known by now: failing to sweep up must not change it.
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder = os.open(self._outgoing, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _list(self) -> Sequence[Listed]:
        found: list[Listed] = []
        try:
            with os.scandir(self._incoming) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode) and is_ours_to_read(entry.name):
                        moment = datetime.fromtimestamp(int(status.st_mtime), UTC)
                        found.append(Listed(entry.name, status.st_size, moment))
                    if len(found) > MAX_LISTED:
                        raise meaning.error(
                            Kind.NOT_WRITTEN, f"More than {MAX_LISTED} files wait there."
                        )
        except OSError as error:
            raise meaning.error(
                Kind.BANK_AWAY, f"The folder cannot be read: {error.strerror}."
            ) from error
        return sorted(found, key=lambda file: (file.modified_at, file.name))

    def _get(self, name: str) -> bytes | None:
        if not is_ours_to_read(name):
            return None
        path = self._incoming / name
        try:
            before = path.stat()
            if before.st_size > MAX_FILE_BYTES:
                return None
            body = path.read_bytes()
            grown = path.stat().st_size != before.st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise meaning.error(
                Kind.BANK_AWAY, f"{name} cannot be read: {error.strerror}."
            ) from error
        return None if grown or len(body) != before.st_size else body
