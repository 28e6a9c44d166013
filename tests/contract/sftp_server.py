"""A real SFTP server on loopback that can cut the connection at chosen moments."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh
from asyncssh.misc import MaybeAwait

from paymaster.rails.sftp import SftpPlace


class BankServer:
    """The bank's side: two folders, its host key, the one client key it accepts."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("in", "out"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        self.client_key = asyncssh.generate_private_key("ssh-ed25519")
        self.port = 0
        self.cut_before_rename = 0
        self.cut_after_rename = 0
        self.cut_while_writing = 0
        self.refuse_rename = 0
        self.pick_up = False
        self.connections = 0
        self.picked_up: dict[str, list[bytes]] = {}
        self._open: list[asyncssh.SSHServerConnection] = []

    def place(self, **changes: Any) -> SftpPlace:
        """How our side reaches this server."""
        known: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": self.port,
            "user": "paymaster",
            "host_key": self.host_key.export_public_key().decode(),
            "client_key": self.client_key.export_private_key().decode(),
            "timeout_seconds": 5.0,
        }
        return SftpPlace(**(known | changes))

    def cut(self) -> None:
        """Drop every connection without a word."""
        for connection in self._open:
            connection.abort()
        self._open.clear()

    def take(self, final: Path) -> None:
        """The bank's own process picks a file up."""
        if self.pick_up:
            self.picked_up.setdefault(final.name, []).append(final.read_bytes())
            final.unlink()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[BankServer]:
        """Serve until the block ends."""
        bank = self

        class Server(asyncssh.SSHServer):
            def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
                bank.connections += 1
                bank._open.append(conn)

            def begin_auth(self, username: str) -> bool:
                return True

            def public_key_auth_supported(self) -> bool:
                return True

            def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
                return username == "paymaster" and key == bank.client_key.convert_to_public()

        class Files(asyncssh.SFTPServer):
            def __init__(self, channel: asyncssh.SSHServerChannel) -> None:
                super().__init__(channel, chroot=str(bank.root).encode())

            def write(self, file_obj: object, offset: int, data: bytes) -> MaybeAwait[int]:
                if bank.cut_while_writing:
                    bank.cut_while_writing -= 1
                    bank.cut()
                    raise asyncssh.SFTPFailure("gone")
                return super().write(file_obj, offset, data)

            def rename(self, oldpath: bytes, newpath: bytes) -> None:
                if bank.cut_before_rename:
                    bank.cut_before_rename -= 1
                    bank.cut()
                    raise asyncssh.SFTPFailure("gone")
                if bank.refuse_rename:
                    bank.refuse_rename -= 1
                    raise asyncssh.SFTPPermissionDenied("not today")
                super().rename(oldpath, newpath)
                bank.take(bank.root / newpath.decode().lstrip("/"))
                if bank.cut_after_rename:
                    bank.cut_after_rename -= 1
                    bank.cut()

        server = await asyncssh.create_server(
            Server, "127.0.0.1", self.port, server_host_keys=[self.host_key], sftp_factory=Files
        )
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self.cut()
            server.close()
            await server.wait_closed()
