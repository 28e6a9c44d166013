"""`paymaster up`: the whole installation as one process tree.

The supervisor starts the embedded servers, migrates, starts each role as a child, starts again
what ends unexpectedly, and on SIGTERM stops the roles before the database. Children watch their
parent: when the supervisor is killed, they stop by themselves.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from random import Random

from paymaster.kernel.clock import monotonic_seconds
from paymaster.kernel.retry import Backoff
from paymaster.observe import get_logger
from paymaster.settings import Settings

log = get_logger("paymaster.up")
_BACKOFF = Backoff(first=timedelta(milliseconds=500), most=timedelta(seconds=30))
_STABLE_SECONDS = 30.0


@dataclass(slots=True)
class Child:
    """One role process."""

    role: str
    copy: int
    health_port: int
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    restarts: int = 0
    due: float = 0.0


class Supervisor:
    """Keeps `copies` of every role running until stopped."""

    def __init__(
        self,
        settings: Settings,
        roles: Sequence[str],
        *,
        copies: int = 1,
    ) -> None:
        self._settings = settings
        self._copies = copies
        base = settings.roles.health_base_port
        self.children = [
            Child(role, copy, base + copy * len(roles) + index)
            for copy in range(copies)
            for index, role in enumerate(roles)
        ]
        self._chores: list[tuple[float, Callable[[], object]]] = []
        self._stop = threading.Event()
        self._random = Random()  # noqa: S311 - jitter

    def request_stop(self, *_: object) -> None:
        """Also a signal handler."""
        self._stop.set()

    def every(self, seconds: float, chore: Callable[[], object]) -> None:
        """Do a chore of the owner's in the background now and then; a failure is logged."""
        self._chores.append((seconds, chore))

    def _repeat(self, seconds: float, chore: Callable[[], object]) -> None:
        while not self._stop.wait(seconds):
            try:
                chore()
            except Exception:  # a chore that fails is tried again, the roles go on
                log.exception("chore_failed")

    def run(self, environ: Mapping[str, str] | None = None) -> None:
        """Start everything and stay until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.request_stop)
        environment = dict(os.environ if environ is None else environ)
        for chore in self._chores:
            threading.Thread(target=self._repeat, args=chore, daemon=True).start()
        try:
            while not self._stop.is_set():
                for child in self.children:
                    self._tend(child, environment)
                self._stop.wait(0.2)
        finally:
            self._shut_down()

    def _tend(self, child: Child, environment: Mapping[str, str]) -> None:
        now = monotonic_seconds()
        if child.process is not None:
            code = child.process.poll()
            if code is None:
                return
            if now - child.started > _STABLE_SECONDS:
                child.restarts = 0
            child.restarts += 1
            wait = _BACKOFF.delay(child.restarts, self._random).total_seconds()
            child.due, child.process = now + wait, None
            log.error("role_ended", role=child.role, code=code, again_seconds=round(wait, 2))
        if now >= child.due:
            command = [
                sys.executable,
                "-m",
                "paymaster.roles",
                child.role,
                "--health-port",
                str(child.health_port),
                "--exit-with-parent",
                *(["--share-port"] if self._copies > 1 else []),
            ]
            child.process = subprocess.Popen(command, env=dict(environment))  # noqa: S603 - ours
            child.started = now

    def _shut_down(self) -> None:
        running = [child.process for child in self.children if child.process is not None]
        for process in running:
            if process.poll() is None:
                process.terminate()
        deadline = monotonic_seconds() + self._settings.roles.stop_timeout_seconds + 2
        for process in running:
            try:
                process.wait(max(deadline - monotonic_seconds(), 0.1))
            except subprocess.TimeoutExpired:
                log.warning("role_killed", pid=process.pid)
                process.kill()
                process.wait()
