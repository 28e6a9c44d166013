"""Runs PostgreSQL's programs under an identity that they accept."""

from __future__ import annotations

import json
import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from paymaster.db.embedded.binaries import PostgresBinaries
from paymaster.db.embedded.failure import EmbeddedPostgresError

_SHIM = Path(__file__).with_name("shim.py")
_OVERFLOW_ID = 65534
_FALLBACK_USERS = ("postgres", "nobody")
_PROBE_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Identity:
    """Who PostgreSQL runs as: `direct` (us), `namespace` (us under another number), or `drop`."""

    mode: Literal["direct", "namespace", "drop"]
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program that was waited for ended."""

    code: int
    output: str


def choose_identity(binaries: PostgresBinaries, cluster: Path) -> Identity:
    """The identity that can run the programs and own the cluster's files.

    A user who is not root and has an entry in the user database runs PostgreSQL directly. Root,
    and a bare number such as containers use, take a user namespace; where that is forbidden, root
    hands the cluster to `postgres` or `nobody`. A cluster that was handed over stays so.

    Raises:
        EmbeddedPostgresError: nothing of this is possible; says what to change.
    """
    uid = os.geteuid()
    holder = cluster.stat().st_uid if cluster.exists() else uid
    if holder != uid and uid != 0:
        raise EmbeddedPostgresError(
            f"{cluster} belongs to user id {holder}, this process runs as {uid}:"
            " run as its owner, or change the owner of the data directory"
        )
    if uid != 0 and _has_entry(uid):
        return Identity("direct", uid, os.getegid())
    if holder == uid and sys.platform == "linux":
        identity = _namespace_identity()
        if identity and _accepted(identity, binaries):
            return identity
    if uid != 0:
        raise EmbeddedPostgresError(
            f"user id {uid} has no entry in the user database, which PostgreSQL's initdb needs, and"
            " user namespaces are forbidden here: add the user to /etc/passwd, or use a PostgreSQL"
            " server elsewhere"
        )
    return _fallback_identity(binaries, cluster, holder)


def run(identity: Identity, argv: Sequence[str], *, timeout_seconds: float) -> Finished:
    """Run a program to its end and return what it printed.

    Raises:
        EmbeddedPostgresError: it did not end in time.
    """
    try:
        done = subprocess.run(  # noqa: S603 - our own shim and PostgreSQL's programs, no shell
            _command(identity, argv, detach=False, owner_pipe=None),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EmbeddedPostgresError(
            f"{Path(argv[0]).name} did not end within {timeout_seconds:.0f} s:"
            " is the disk of the data directory full, or very slow?"
        ) from error
    return Finished(done.returncode, done.stdout)


def run_detached(
    identity: Identity,
    argv: Sequence[str],
    *,
    log: IO[bytes],
    lock_fd: int,
    owner_pipe: int | None,
) -> None:
    """Start a server in a session of its own; it holds `lock_fd` for as long as it lives.

    With `owner_pipe` (the reading end of a pipe) it is shut down when the writing end closes.
    Returns once it is detached, not once it is ready.

    Raises:
        EmbeddedPostgresError: it could not even be detached.
    """
    passed = [lock_fd] if owner_pipe is None else [lock_fd, owner_pipe]
    done = subprocess.run(  # noqa: S603 - our own shim and PostgreSQL, no shell
        _command(identity, argv, detach=True, owner_pipe=owner_pipe),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=passed,
        timeout=_PROBE_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise EmbeddedPostgresError(
            f"PostgreSQL could not be started (exit code {done.returncode}); see {log.name}"
        )


def hand_over(identity: Identity, path: Path) -> None:
    """Give one path to the identity when it is another user than we are."""
    if identity.mode == "drop":
        os.chown(path, identity.uid, identity.gid)


def _command(
    identity: Identity, argv: Sequence[str], *, detach: bool, owner_pipe: int | None
) -> list[str]:
    order = {
        "mode": identity.mode,
        "uid": identity.uid,
        "gid": identity.gid,
        "argv": list(argv),
        "environment": _environment(),
        "detach": detach,
        "owner_pipe": owner_pipe,
    }
    return [sys.executable, "-I", "-S", str(_SHIM), json.dumps(order)]


def _environment() -> dict[str, str]:
    """Only what the server needs: PG* variables and a locale of the caller must not leak in."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def _has_entry(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _namespace_identity() -> Identity | None:
    """Any ordinary user id of the user database: initdb looks its own up by number."""
    usable = [entry.pw_uid for entry in pwd.getpwall() if 0 < entry.pw_uid < _OVERFLOW_ID]
    return Identity("namespace", min(usable), min(usable)) if usable else None


def _accepted(identity: Identity, binaries: PostgresBinaries) -> bool:
    """Whether this machine lets a program run so."""
    probe = [binaries.program("postgres"), "--version"]
    return run(identity, probe, timeout_seconds=_PROBE_SECONDS).code == 0


def _fallback_identity(binaries: PostgresBinaries, cluster: Path, holder: int) -> Identity:
    if holder == 0:
        entry = next((found for found in map(_user, _FALLBACK_USERS) if found), None)
    else:
        entry = pwd.getpwuid(holder) if _has_entry(holder) else None
    if entry is None:
        raise EmbeddedPostgresError(
            "PostgreSQL does not run as root, user namespaces are forbidden here, and there is no"
            " user `postgres` or `nobody`: run Paymaster as an ordinary user"
        )
    identity = Identity("drop", entry.pw_uid, entry.pw_gid)
    own_folder = cluster.parent
    own_folder.chmod(own_folder.stat().st_mode | stat.S_IXGRP | stat.S_IXOTH)
    for needed in (own_folder, binaries.bin_dir):
        _require_way(identity, needed, entry.pw_name)
    if not _accepted(identity, binaries):
        raise EmbeddedPostgresError(
            f"PostgreSQL cannot be run as user {entry.pw_name} here:"
            " run Paymaster as an ordinary user"
        )
    return identity


def _user(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _require_way(identity: Identity, needed: Path, user: str) -> None:
    """Refuse, by name, the first directory on the way that the other user cannot pass."""
    resolved = needed.resolve()
    for folder in [*reversed(resolved.parents), resolved]:
        facts = folder.stat()
        if facts.st_uid == identity.uid:
            passable = facts.st_mode & stat.S_IXUSR
        elif facts.st_gid == identity.gid:
            passable = facts.st_mode & stat.S_IXGRP
        else:
            passable = facts.st_mode & stat.S_IXOTH
        if not passable:
            raise EmbeddedPostgresError(
                "PostgreSQL does not run as root and user namespaces are forbidden here, so it"
                f" must run as user {user}, who cannot enter {folder} on the way to {resolved}: run"
                " Paymaster as an ordinary user, or keep data and programs under directories that"
                " everybody may enter, such as /var/lib/paymaster"
            )
