"""A tiny program that becomes PostgreSQL: it takes on an identity, detaches, and executes.

It runs as `python -I -S shim.py <JSON>` and imports only the standard library. It exists because
what it does must happen between fork and exec, and Python code run there in a program with threads
(`preexec_fn`) can deadlock; this process has one thread.

PostgreSQL refuses to run as root. `namespace` gives it a user id other than 0 inside a user
namespace of its own while its files still belong to root; `drop` changes to another user for good.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
from pathlib import Path
from typing import Any

_IDENTITY_REFUSED = 97
_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG = 1
_FAST_SHUTDOWN_SECONDS = 60.0


def main() -> None:
    """Do what the specification in the first argument says; never returns normally."""
    order: dict[str, Any] = json.loads(sys.argv[1])
    os.umask(0o077)
    os.chdir("/")
    try:
        _take_identity(order["mode"], int(order["uid"]), int(order["gid"]))
    except OSError as error:
        sys.stderr.write(f"{order['mode']}: {error}\n")
        sys.exit(_IDENTITY_REFUSED)
    argv: list[str] = order["argv"]
    environment: dict[str, str] = order["environment"]
    if order["detach"]:
        os.setsid()
        if os.fork():
            os._exit(0)
        owner_pipe: int | None = order["owner_pipe"]
        if owner_pipe is not None:
            sys.exit(_run_while_owned(argv, environment, owner_pipe))
    os.execve(argv[0], argv, environment)  # noqa: S606 - becoming PostgreSQL is the purpose


def _take_identity(mode: str, uid: int, gid: int) -> None:
    if mode == "namespace":
        outer_uid, outer_gid = os.geteuid(), os.getegid()
        library = ctypes.CDLL(None, use_errno=True)
        if library.unshare(_CLONE_NEWUSER) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {outer_uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {outer_gid} 1")
    elif mode == "drop":
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)


def _run_while_owned(argv: list[str], environment: dict[str, str], owner_pipe: int) -> int:
    """Run PostgreSQL as a child until it ends; shut it down when the pipe's other end closes."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _only_wake)
    watcher = os.getpid()
    child = os.fork()
    if child == 0:
        os.set_inheritable(owner_pipe, False)
        _die_with(watcher)
        os.execve(argv[0], argv, environment)  # noqa: S606 - becoming PostgreSQL is the purpose
    waiting, patience, stop = [owner_pipe, woken], None, signal.SIGINT
    while True:
        ready, _, _ = select.select(waiting, [], [], patience)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) & 0xFF
        asked = woken in ready and set(os.read(woken, 64)) & {signal.SIGTERM, signal.SIGINT}
        if owner_pipe in ready or asked or not ready:
            os.kill(child, stop)
            waiting, patience, stop = [woken], _FAST_SHUTDOWN_SECONDS, signal.SIGQUIT


def _die_with(parent: int) -> None:
    """Linux only: a fast shutdown also when the watcher itself is killed."""
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def _only_wake(_number: int, _frame: object) -> None:
    """Let the wake-up pipe carry the signal."""


if __name__ == "__main__":
    main()
