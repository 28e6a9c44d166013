"""What lies in the data directory of an embedded server, and what it says about the server."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from paymaster.db.embedded.failure import EmbeddedPostgresError
from paymaster.kernel.clock import monotonic_seconds

# A socket address holds 104 bytes on macOS and 108 on Linux, one of them the closing zero.
SOCKET_PATH_BYTES = 103
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/_.+@~=-]+")
_SECRET_BYTES = 32
_LOG_BYTES = 16 << 20
_LOG_LINES = 12


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """The lines of `postmaster.pid` that matter here; `phase` is starting, ready or stopping."""

    pid: int
    port: int
    socket_dir: Path
    phase: str


class Folder:
    """The paths below one data directory and the facts that can be read there."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.cluster = self.root / "postgres"
        self.unfinished = self.root / "postgres.new"
        self.log = self.root / "postgres.log"
        self.secrets = self.root / "secrets"
        self._start_lock = self.root / "postgres.start.lock"
        self._server_lock = self.root / "postgres.server.lock"

    def prepare(self) -> None:
        """Make the directories that only we may read."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.secrets.mkdir(mode=0o700, exist_ok=True)
        self.secrets.chmod(0o700)

    @contextmanager
    def starting(self, deadline_seconds: float) -> Generator[None]:
        """Hold the start lock: nobody else starts or stops this server meanwhile.

        Raises:
            EmbeddedPostgresError: another process held it until the deadline (monotonic seconds).
        """
        handle = _open_lock(self._start_lock)
        try:
            wait = Waiting(deadline_seconds)
            while not _take(handle, fcntl.LOCK_EX):
                if not wait.more():
                    raise EmbeddedPostgresError(
                        f"another process has been starting or stopping PostgreSQL in {self.root}"
                        " for too long; find it with `fuser` on"
                        f" {self._start_lock.name} in that directory"
                    )
            yield
        finally:
            os.close(handle)

    def take_server_lock(self) -> int | None:
        """The server lock as an open file to be inherited, or None while PostgreSQL holds it."""
        handle = _open_lock(self._server_lock)
        if _take(handle, fcntl.LOCK_EX):
            return handle
        os.close(handle)
        return None

    def in_use(self) -> bool:
        """Whether any process of a server started here is alive."""
        if not self._server_lock.exists():
            return False
        handle = _open_lock(self._server_lock)
        try:
            return not _take(handle, fcntl.LOCK_SH)
        finally:
            os.close(handle)

    def status(self) -> ServerStatus | None:
        """What the server wrote about itself; None when there is nothing, or not yet all of it."""
        try:
            lines = (self.cluster / "postmaster.pid").read_text().splitlines()
            return ServerStatus(int(lines[0]), int(lines[3]), Path(lines[4]), lines[7].strip())
        except (FileNotFoundError, ValueError, IndexError):
            return None

    def runs_here(self, pid: int) -> bool:
        """Whether a process is PostgreSQL on this cluster, and not another with a reused id."""
        if sys.platform == "linux":
            try:
                return os.path.samefile(f"/proc/{pid}/cwd", self.cluster)  # noqa: PTH121 - a link
            except OSError:
                return False
        told = subprocess.run(  # noqa: S603 - a number and fixed words
            ["/bin/ps", "-o", "command=", "-p", str(pid)],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        return str(self.cluster) in told

    def postmaster(self) -> int | None:
        """The process id of the live server on this cluster, in whatever phase it is."""
        try:
            first = (self.cluster / "postmaster.pid").read_text().split("\n", 1)[0]
        except FileNotFoundError:
            return None
        return int(first) if first.isdigit() and self.runs_here(int(first)) else None

    def users(self) -> list[int]:
        """PostgreSQL's processes on this cluster (Linux; elsewhere they cannot be told)."""
        if sys.platform != "linux":
            return []
        numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return [number for number in numbers if self.runs_here(number)]

    def clear_leavings(self, socket_dir: Path) -> None:
        """Remove what a killed server left; only while the server lock is held."""
        (self.cluster / "postmaster.pid").unlink(missing_ok=True)
        for leaving in socket_dir.glob(".s.PGSQL.*"):
            leaving.unlink(missing_ok=True)

    def data_major(self) -> int | None:
        """The major version that wrote the cluster; None when there is no cluster yet."""
        try:
            return int((self.cluster / "PG_VERSION").read_text().strip())
        except FileNotFoundError:
            return None

    def secret(self, name: str) -> str:
        """Read a generated password.

        Raises:
            EmbeddedPostgresError: the file is missing or empty.
        """
        path = self.secrets / f"postgres_{name}"
        try:
            value = path.read_text().strip()
        except FileNotFoundError:
            value = ""
        if not value:
            raise EmbeddedPostgresError(
                f"the password of the database role {name} is missing: restore {path} from the"
                " backup of this data directory"
            )
        return value

    def make_secret(self, name: str) -> bool:
        """Generate a password unless there is one; on disk before it is used. True when new."""
        path = self.secrets / f"postgres_{name}"
        if path.exists() and path.read_text().strip():
            return False
        path.unlink(missing_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_urlsafe(_SECRET_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        return True

    @contextmanager
    def password_file(self, name: str) -> Generator[Path]:
        """A copy of a password that another user may be given, for as long as it is needed."""
        path = self.root / "postgres.password"
        path.unlink(missing_ok=True)
        try:
            path.touch(mode=0o600, exist_ok=False)
            path.write_text(self.secret(name) + "\n")
            yield path
        finally:
            path.unlink(missing_ok=True)

    def open_log(self) -> IO[bytes]:
        """The server's log, to be appended to; the one before is kept when it has grown large."""
        if self.log.exists() and self.log.stat().st_size > _LOG_BYTES:
            self.log.replace(self.root / "postgres.log.1")
        self.log.touch(mode=0o600)
        log = self.log.open("ab")
        log.seek(0, os.SEEK_END)
        return log

    def log_since(self, offset: int) -> str:
        """The end of what the server has logged since `offset`, for an error's text."""
        with self.log.open("rb") as file:
            file.seek(offset)
            text = file.read(1 << 20).decode(errors="replace")
        return "\n".join(text.splitlines()[-_LOG_LINES:])

    def choose_socket_dir(self, port: int) -> Path:
        """A private directory whose path fits a socket address and needs no quoting.

        Raises:
            EmbeddedPostgresError: somebody else holds the name it would have.
        """
        near = self.root / "run"
        if _fits(near, port):
            near.mkdir(mode=0o700, exist_ok=True)
            near.chmod(0o700)
            return near
        digest = hashlib.sha256(os.fsencode(self.root.resolve())).hexdigest()[:16]
        roots = [Path(tempfile.gettempdir()), Path("/tmp")]  # noqa: S108 - checked to be ours below
        names = [root / f"paymaster-{os.geteuid()}-{digest}" for root in roots]
        short = next((name for name in names if _fits(name, port)), names[-1])
        short.mkdir(mode=0o700, exist_ok=True)
        facts = short.lstat()
        holders = {os.geteuid(), self.cluster.stat().st_uid}
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid not in holders:
            raise EmbeddedPostgresError(
                f"{short} belongs to somebody else; PostgreSQL's socket was to go there because the"
                " path of the data directory is too long: use a shorter one"
            )
        short.chmod(0o700)
        return short


class Waiting:
    """Sleeps a little longer each time, until a deadline."""

    def __init__(self, deadline_seconds: float) -> None:
        self._deadline_seconds = deadline_seconds
        self._pause_seconds = 0.002

    def more(self) -> bool:
        """Sleep and say True, or say False when the deadline has passed."""
        left = self._deadline_seconds - monotonic_seconds()
        if left <= 0:
            return False
        time.sleep(min(self._pause_seconds, left))
        self._pause_seconds = min(self._pause_seconds * 1.5, 0.05)
        return True


def _fits(folder: Path, port: int) -> bool:
    path = str(folder / f".s.PGSQL.{port}")
    return len(os.fsencode(path)) <= SOCKET_PATH_BYTES and bool(_PLAIN_PATH.fullmatch(path))


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def _take(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
