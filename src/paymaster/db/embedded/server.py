"""The embedded PostgreSQL server: started, shared, and stopped without an administrator."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self
from urllib.parse import quote

import psycopg

from paymaster.db.embedded import roles
from paymaster.db.embedded.binaries import BINARIES_VARIABLE, PostgresBinaries, find_binaries
from paymaster.db.embedded.failure import EmbeddedPostgresError
from paymaster.db.embedded.folder import Folder, ServerStatus, Waiting
from paymaster.db.embedded.launch import Identity, choose_identity, hand_over, run, run_detached
from paymaster.kernel.clock import monotonic_seconds

OWNER_ROLE = "owner"
APP_ROLE = "app"

_SOCKET_PORT = 5432
_INITDB_SECONDS = 120.0
_ORPHAN_GRACE_SECONDS = 5.0
_FAST_STOP_SECONDS = 60.0
_IMMEDIATE_STOP_SECONDS = 20.0
_CONNECT_SECONDS = 10
_OUR_SETTINGS = ("listen_addresses", "port", "unix_socket_directories")
_DEFAULT_SETTINGS = {
    # After each checkpoint the first change of a page logs the whole page: checkpoints by time and
    # not by volume, and such pages compressed, halve the log of a busy ledger (measured).
    "checkpoint_timeout": "15min",
    "max_wal_size": "4GB",
    "wal_compression": "pglz",
    # Tables are partitioned by month: statements over a history, and backups, lock all of them.
    "max_locks_per_transaction": "256",
    "log_line_prefix": "%m [%p] %u@%d ",
    "log_timezone": "UTC",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "unix_socket_permissions": "0700",
}
_NO_SETTINGS: Mapping[str, str] = MappingProxyType({})


class EmbeddedPostgres:
    """One PostgreSQL server on one data directory, shared by all processes that name it.

    Whoever calls `start` first starts it, the others attach. It listens on a socket in a private
    directory, and on 127.0.0.1 only when `tcp_port` is given. `settings` are PostgreSQL's own
    (`{"shared_buffers": "1GB"}`) and count only for the process that starts it. With
    `exit_with_owner` the server is shut down when the starting process ends, however it ends;
    without, it stays until somebody stops it. Safe to call from several threads.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        settings: Mapping[str, str] = _NO_SETTINGS,
        tcp_port: int | None = None,
        exit_with_owner: bool = False,
        start_timeout_seconds: float = 120.0,
    ) -> None:
        wrong = sorted(set(settings).intersection(_OUR_SETTINGS))
        if wrong:
            raise EmbeddedPostgresError(
                f"{', '.join(wrong)} cannot be set: the embedded server listens on its own socket,"
                " and on 127.0.0.1 when a TCP port is asked for"
            )
        if tcp_port is not None and not 1 <= tcp_port <= 65535:
            raise EmbeddedPostgresError(f"{tcp_port} is not a TCP port: give 1 to 65535")
        self._folder = Folder(Path(data_dir))
        self._settings = dict(settings)
        self._tcp_port = tcp_port
        self._exit_with_owner = exit_with_owner
        self._start_timeout_seconds = start_timeout_seconds
        self._guard = threading.Lock()
        self._status: ServerStatus | None = None
        self._started_pid: int | None = None
        self._owner_pipe: int | None = None

    def __repr__(self) -> str:
        return f"EmbeddedPostgres({str(self._folder.root)!r})"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def exists(self) -> bool:
        """Whether there is a cluster, running or not."""
        return self._folder.data_major() is not None

    @property
    def is_running(self) -> bool:
        """Whether a server is ready on this data directory, whoever started it."""
        return self._folder.in_use() and self._live() is not None

    @property
    def log_file(self) -> Path:
        """Where the server writes what it has to say."""
        return self._folder.log

    def start(self) -> None:
        """Make the server run and accept connections; returns at once when it does already.

        Raises:
            EmbeddedPostgresError: it cannot; the message says why and what to do.
        """
        deadline = monotonic_seconds() + self._start_timeout_seconds
        with self._guard:
            try:
                self._folder.prepare()
                with self._folder.starting(deadline):
                    self._start_and_connect(deadline)
            except PermissionError as error:
                raise EmbeddedPostgresError(
                    f"{error.filename or self._folder.root} may not be used by user id"
                    f" {os.geteuid()}: run as the owner of the data directory"
                ) from error

    def stop(self, *, even_if_attached: bool = False) -> None:
        """Shut the server down if this object started it; otherwise only let go of it.

        Connections are ended and everything committed is on disk (a fast shutdown); when that
        takes longer than a minute, the server is ended at once and recovers at the next start.

        Raises:
            EmbeddedPostgresError: processes of the server do not end.
        """
        with self._guard:
            started, self._started_pid, self._status = self._started_pid, None, None
            try:
                if started is not None or even_if_attached:
                    deadline = monotonic_seconds() + self._start_timeout_seconds
                    with self._folder.starting(deadline):
                        self._shut_down(started, anyone=even_if_attached)
            finally:
                self._let_go_of_pipe()

    def owner_dsn(self, database: str) -> str:
        """A URL for the superuser who owns the schema. Holds the password: never log it.

        Raises:
            EmbeddedPostgresError: no server runs here, whoever was to start it.
        """
        return self._dsn(OWNER_ROLE, database)

    def app_dsn(self, database: str) -> str:
        """A URL for the unprivileged role of the application, as `owner_dsn`."""
        return self._dsn(APP_ROLE, database)

    def create_database(self, name: str, *, template: str = "template0") -> None:
        """Create a database unless it exists; only our two roles may connect to it.

        Raises:
            EmbeddedPostgresError: the name is not lower case letters, digits and underscores.
        """
        with self._connect() as connection:
            roles.create_database(connection, name, template, APP_ROLE)

    def drop_database(self, name: str) -> None:
        """Drop a database and end the connections to it; nothing happens when it is not there."""
        with self._connect() as connection:
            roles.drop_database(connection, name)

    def _start_and_connect(self, deadline: float) -> None:
        """Start over when the server that looked ready was just dying."""
        wait = Waiting(deadline)
        while True:
            self._status = self._attach_or_launch(deadline)
            try:
                self._ensure_app_role()
            except EmbeddedPostgresError:
                if self._live() == self._status or not wait.more():
                    raise
            else:
                return

    def _attach_or_launch(self, deadline: float) -> ServerStatus:
        wait = Waiting(deadline)
        orphans_since: float | None = None
        while True:
            live = self._live()
            lock = self._folder.take_server_lock()
            if lock is not None:
                try:
                    free = self._folder.postmaster() is None
                    log_offset = self._launch(lock) if free else None
                finally:
                    os.close(lock)
                if log_offset is not None:
                    return self._await_ready(log_offset, deadline)
            if live is not None:
                return live
            orphans_since = self._hurry_orphans(orphans_since)
            if not wait.more():
                raise EmbeddedPostgresError(
                    f"processes {self._folder.users()} use {self._folder.cluster}, but no server is"
                    f" ready there: see {self._folder.log}; wait or end them, then start again"
                )

    def _live(self) -> ServerStatus | None:
        """The server that is ready now."""
        status = self._folder.status()
        if status is None or status.phase != "ready" or not self._folder.runs_here(status.pid):
            return None
        return status

    def _hurry_orphans(self, since: float | None) -> float | None:
        """After a grace, end the children of a server that was itself killed.

        They would end by themselves, but only when the statement they work on is done.
        """
        now = monotonic_seconds()
        if self._folder.postmaster() is not None:
            return None
        if since is None or now - since < _ORPHAN_GRACE_SECONDS:
            return now if since is None else since
        for orphan in self._folder.users():
            with contextlib.suppress(ProcessLookupError):
                os.kill(orphan, signal.SIGQUIT)
        return now

    def _launch(self, lock: int) -> int:
        """Start the server, which inherits the lock; returns where its part of the log begins."""
        binaries, folder = find_binaries(), self._folder
        wanted = folder.data_major()
        if wanted is not None and wanted != binaries.major:
            raise EmbeddedPostgresError(
                f"{folder.cluster} was written by PostgreSQL {wanted}, the programs found"
                f" ({binaries.origin}, {binaries.bin_dir}) are {binaries.version}: name programs of"
                f" version {wanted} in {BINARIES_VARIABLE}, or move the data with pg_upgrade"
            )
        identity = choose_identity(binaries, folder.cluster)
        if wanted is None:
            self._initialise(binaries, identity)
        port = self._tcp_port or _SOCKET_PORT
        socket_dir = folder.choose_socket_dir(port)
        hand_over(identity, socket_dir)
        folder.clear_leavings(socket_dir)
        self._let_go_of_pipe()
        reading: int | None = None
        if self._exit_with_owner:
            reading, self._owner_pipe = os.pipe()
        try:
            with folder.open_log() as log:
                log_offset = log.tell()
                argv = self._arguments(binaries, port, socket_dir)
                run_detached(identity, argv, log=log, lock_fd=lock, owner_pipe=reading)
                return log_offset
        finally:
            if reading is not None:
                os.close(reading)

    def _await_ready(self, log_offset: int, deadline: float) -> ServerStatus:
        wait = Waiting(deadline)
        while True:
            running, live = self._folder.in_use(), self._live()
            if live is not None:
                self._started_pid = live.pid
                return live
            if not running:
                raise EmbeddedPostgresError(
                    f"PostgreSQL ended while it started; {self._folder.log} says:\n"
                    + self._folder.log_since(log_offset)
                )
            if not wait.more():
                raise EmbeddedPostgresError(
                    f"PostgreSQL is not ready after {self._start_timeout_seconds:.0f} s and still"
                    f" working: after a crash it first replays its log, see {self._folder.log};"
                    " start again to go on waiting"
                )

    def _arguments(self, binaries: PostgresBinaries, port: int, socket_dir: Path) -> list[str]:
        ours = {
            "listen_addresses": "" if self._tcp_port is None else "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": str(socket_dir),
        }
        argv = [binaries.program("postgres"), "-D", str(self._folder.cluster)]
        for name, value in {**_DEFAULT_SETTINGS, **self._settings, **ours}.items():
            argv += ["-c", f"{name}={value}"]
        return argv

    def _initialise(self, binaries: PostgresBinaries, identity: Identity) -> None:
        """Make the cluster beside its place and move it there whole: a crash leaves none."""
        folder = self._folder
        if folder.cluster.exists():
            raise EmbeddedPostgresError(
                f"{folder.cluster} is no PostgreSQL data directory (it has no PG_VERSION):"
                " move it away, or restore it from a backup"
            )
        if folder.unfinished.exists():
            shutil.rmtree(folder.unfinished)
        folder.make_secret(OWNER_ROLE)
        folder.unfinished.mkdir(mode=0o700)
        hand_over(identity, folder.unfinished)
        with folder.password_file(OWNER_ROLE) as password_file:
            hand_over(identity, password_file)
            done = run(
                identity,
                [
                    binaries.program("initdb"),
                    f"--pgdata={folder.unfinished}",
                    f"--username={OWNER_ROLE}",
                    f"--pwfile={password_file}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    "--data-checksums",
                    *_locale_options(binaries.major),
                    *(["--no-sync"] if self._settings.get("fsync") == "off" else []),
                ],
                timeout_seconds=_INITDB_SECONDS,
            )
        if done.code != 0:
            raise EmbeddedPostgresError(
                f"initdb could not make a database cluster in {folder.root}; it says:\n"
                + done.output.strip()
            )
        folder.unfinished.rename(folder.cluster)

    def _ensure_app_role(self) -> None:
        """Make the application's role, or give it the password on disk when that is new."""
        fresh = self._folder.make_secret(APP_ROLE)
        with self._connect() as connection:
            roles.ensure_role(connection, APP_ROLE, self._folder.secret(APP_ROLE), renew=fresh)

    def _shut_down(self, started: int | None, *, anyone: bool) -> None:
        running = self._folder.postmaster()
        if running is None or not (anyone or running == started):
            return
        for number, patience_seconds in (
            (signal.SIGINT, _FAST_STOP_SECONDS),
            (signal.SIGQUIT, _IMMEDIATE_STOP_SECONDS),
        ):
            with contextlib.suppress(ProcessLookupError):
                os.kill(running, number)
            wait = Waiting(monotonic_seconds() + patience_seconds)
            while self._folder.in_use() or self._folder.postmaster() == running:
                if not wait.more():
                    break
            else:
                return
        raise EmbeddedPostgresError(
            f"processes {self._folder.users()} of PostgreSQL on {self._folder.cluster} do not end:"
            f" see {self._folder.log}, then end them by hand (never the first with SIGKILL alone)"
        )

    def _let_go_of_pipe(self) -> None:
        if self._owner_pipe is not None:
            os.close(self._owner_pipe)
            self._owner_pipe = None

    def _connect(self) -> psycopg.Connection[Any]:
        try:
            return psycopg.connect(
                self.owner_dsn("postgres"), autocommit=True, connect_timeout=_CONNECT_SECONDS
            )
        except psycopg.OperationalError as error:
            raise EmbeddedPostgresError(
                f"the server on {self._folder.cluster} refuses the connection; if it says that the"
                f" password is wrong, {self._folder.secrets} belongs to other data: {error}"
            ) from error

    def _dsn(self, role: str, database: str) -> str:
        status = self._live() or self._status
        if status is None:
            raise EmbeddedPostgresError(
                f"PostgreSQL in {self._folder.root} is not running: `paymaster up` starts it"
            )
        password = quote(self._folder.secret(role), safe="")
        host = quote(str(status.socket_dir), safe="")
        return (
            f"postgresql://{role}:{password}@/{quote(database, safe='')}"
            f"?host={host}&port={status.port}"
        )


def _locale_options(major: int) -> list[str]:
    """The same sorting on every machine, in code point order."""
    if major >= 17:
        return ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    return ["--locale=C"]
