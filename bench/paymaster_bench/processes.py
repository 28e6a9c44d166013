"""Processes of the suite: each runs one function and talks over a pair of sockets.

They start as `python -m paymaster_bench.processes`, so that nothing of the process that starts
them is loaded again, and inherit the cores it is pinned to.
"""

from __future__ import annotations

import contextlib
import importlib
import socket
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from paymaster.kernel.errors import Broken

_START_SECONDS = 120
_STOP_SECONDS = 20


class Worker:
    """One process; it answers every order once."""

    def __init__(self, function: str, argument: object) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", __name__, function, str(theirs.fileno())]
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        theirs.close()
        self._pipe: Connection[Any, Any] = Connection(ours.detach())
        self.send(argument)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def send(self, order: object) -> None:
        """Tell it what to do. Raises Broken `bench-process` when it has ended."""
        try:
            self._pipe.send(order)
        except OSError as error:
            raise Broken("bench-process", "A process of the suite has ended.") from error

    def receive(self, timeout_seconds: float | None = None) -> Any:
        """Its answer. Raises Broken `bench-process` when it ended or took too long."""
        try:
            if not self._pipe.poll(timeout_seconds):
                raise Broken("bench-process", "A process of the suite took too long.")
            return self._pipe.recv()
        except (EOFError, OSError) as error:
            raise Broken("bench-process", "A process of the suite has ended.") from error

    def stop(self) -> None:
        """Tell it to end, and see to it."""
        with contextlib.suppress(OSError):
            self._pipe.send(("stop",))
        self._pipe.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def start_workers(function: str, arguments: Sequence[object]) -> Generator[list[Worker]]:
    """A process for each argument, all ready; `function` is `module:name`, called with (pipe, it).

    Each says `ready` first, and ends when it is told `stop` or its pipe closes.
    """
    workers: list[Worker] = []
    try:
        workers.extend(Worker(function, argument) for argument in arguments)
        for worker in workers:
            worker.receive(_START_SECONDS)
        yield workers
    finally:
        for worker in workers:
            worker.stop()


def _main() -> None:
    name, descriptor = sys.argv[1:]
    module, _, function = name.partition(":")
    pipe: Connection[Any, Any] = Connection(int(descriptor))
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        getattr(importlib.import_module(module), function)(pipe, pipe.recv())


if __name__ == "__main__":
    _main()
