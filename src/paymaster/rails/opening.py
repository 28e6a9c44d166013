"""From a rail account to its transport: which kind, where, and with which key."""

from __future__ import annotations

from pathlib import Path

from paymaster.kernel.errors import Problem
from paymaster.rails import meaning
from paymaster.rails.base import RailAccount
from paymaster.rails.deps import RailDeps, secret, setting
from paymaster.rails.directory import DirectoryTransport
from paymaster.rails.meaning import Kind
from paymaster.rails.sftp import SftpPlace, SftpTransport
from paymaster.rails.transport import FileTransport

_NEEDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "sftp": (("host", "user", "host_key"), ("client_key",)),
    "directory": (("outgoing", "incoming"), ()),
}


def needs(account: RailAccount) -> tuple[tuple[str, ...], tuple[str, ...], list[Problem]]:
    """Settings and secrets that the account's transport needs, and what is wrong with others."""
    kind = account.settings.get("transport", "sftp")
    problems: list[Problem] = []
    if kind not in _NEEDS:
        known = ", ".join(sorted(_NEEDS))
        problems.append(Problem("/settings/transport", f"Transports are: {known}."))
    port = account.settings.get("port", "22")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        problems.append(Problem("/settings/port", "A port is a number from 1 to 65535."))
    settings, secrets = _NEEDS.get(kind, ((), ()))
    return settings, secrets, problems


def open_transport(deps: RailDeps, account: RailAccount) -> FileTransport:
    """The account's transport. Raises NeverSent `rail-account-invalid` or `rail-secret-missing`."""
    kind = account.settings.get("transport", "sftp")
    if kind == "directory":
        return DirectoryTransport(
            Path(setting(account, "outgoing")), Path(setting(account, "incoming"))
        )
    if kind != "sftp" or needs(account)[2]:
        raise meaning.error(Kind.ACCOUNT, f"{account.name} has no usable transport.")
    return SftpTransport(
        SftpPlace(
            host=setting(account, "host"),
            port=int(account.settings.get("port", "22")),
            user=setting(account, "user"),
            host_key=setting(account, "host_key"),
            client_key=secret(deps, account, "client_key"),
            outgoing=account.settings.get("outgoing", "/in").rstrip("/"),
            incoming=account.settings.get("incoming", "/out").rstrip("/"),
            source_address=account.settings.get("source_address"),
            proxy_command=account.settings.get("proxy_command"),
        )
    )
