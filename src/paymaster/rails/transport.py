"""Moving files to a bank and back: the port, and the rules that every transport keeps.

    put     at most one file of a name ever reaches the bank; says honestly what it knows
    list    what lies there for us, oldest first
    get     some of them, each whole or not at all

`put` writes `.NAME.XXXX.part` first, with a name of its own for each try so that two tries cannot
spoil each other's file, and renames it without overwriting; the bank reads nothing that begins
with a dot. So whatever happens before the rename has delivered nothing (NeverSent), and after it
the place is looked at again before anything is claimed.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from paymaster.kernel.errors import Broken, Refusal

MAX_FILE_BYTES = 64 * 1024 * 1024
"""Larger files are neither read nor written."""

MAX_LISTED = 20_000
"""A folder with more entries than this is refused rather than read."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z", re.ASCII)

_READABLE = re.compile(r"[^/\\\x00-\x1f\x7f]{1,200}\Z")


def malformed(detail: str) -> Refusal:
    """The refusal for a file that cannot be relied on."""
    return Refusal("statement-malformed", detail)


@dataclass(frozen=True, slots=True)
class Listed:
    """One file that waits for us. `modified_at` is in UTC, to the second."""

    name: str
    size: int
    modified_at: datetime


class FileTransport(Protocol):
    """One bank's in-tray and out-tray."""

    async def put(self, name: str, body: bytes) -> None:
        """Deliver a file; a file of this name and content that is there already is delivered.

        Raises NeverSent (`transport-unreachable`, `transport-refused`, `sftp-host-key`,
        `sftp-auth`) when this try delivered nothing, RailUnknown `transport-unproven` when it may
        have, RailUnknown `transport-name-taken` when another file has the name.
        """
        ...

    async def list(self) -> Sequence[Listed]:
        """Files for us, oldest first; hidden and unfinished ones are left out.

        Raises NeverSent, or RailUnknown `transport-unproven`; nothing has changed in either case.
        """
        ...

    async def get(self, names: Sequence[str]) -> dict[str, bytes]:
        """Files by name, without those that are gone, still growing or too large.

        Raises as `list`.
        """
        ...


def checked_name(name: str) -> str:
    """The name if it can stand in a path. Raises Broken `transport-name`: we make these names."""
    if not _NAME.match(name) or name.endswith(".part"):
        raise Broken("transport-name", f"{name!r} cannot be the name of a bank file.")
    return name


def part_name(name: str) -> str:
    """What a file is called until it is complete; another name at every try."""
    return f".{name}.{secrets.token_hex(4)}.part"


def is_ours_to_read(name: str) -> bool:
    """Whether a listed name is a finished file: banks hide or suffix what they still write."""
    hidden = name.startswith(".") or name.endswith((".part", ".tmp", ".filepart"))
    return bool(_READABLE.match(name)) and not hidden
