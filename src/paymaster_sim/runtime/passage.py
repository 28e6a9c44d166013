"""One passage: what waits at the turnstile, how it is carried out, and what came of it."""

from __future__ import annotations

import select
from asyncio import Future
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import psycopg
from psycopg import AsyncCursor, errors, pq

from paymaster_sim.runtime.errors import SimulationError
from paymaster_sim.runtime.faults import Fault

if TYPE_CHECKING:
    from paymaster_sim.runtime.connection import SimConnection
    from paymaster_sim.runtime.loop import SimTask
    from paymaster_sim.runtime.process import Process

_FIRST_LOOK_SECONDS, _LATER_LOOK_SECONDS = 0.002, 0.02
_SILENT_SECONDS = 60.0
_CANCELED, _LOCK_NOT_AVAILABLE, _DEADLOCK = b"57014", b"55P03", b"40P01"
_FAILED = pq.ExecStatus.FATAL_ERROR
_READS, _WRITES = 1, 2

Decreed = type[errors.DeadlockDetected] | type[errors.LockNotAvailable]
_SAID: dict[Decreed, tuple[bytes, str]] = {
    errors.DeadlockDetected: (_DEADLOCK, "deadlock detected"),
    errors.LockNotAvailable: (_LOCK_NOT_AVAILABLE, "canceling statement due to lock timeout"),
}


class _Relabelled:
    """The answer to a statement that was ended on our word, as the server would have ended it."""

    def __init__(self, result: Any, state: bytes, message: str) -> None:
        self._result = result
        self._state = state
        self._message = message

    def __getattr__(self, name: str) -> Any:
        return getattr(self._result, name)

    def error_field(self, fieldcode: int) -> bytes | None:
        if fieldcode == pq.DiagnosticField.SQLSTATE:
            return self._state
        return self._result.error_field(fieldcode)

    def get_error_message(self, encoding: str = "utf-8") -> str:
        _ = encoding
        return self._message


@dataclass(slots=True, eq=False)
class Passage:
    """Either `gen`, the driver's generator for one round trip on `connection`, or `action`."""

    process: Process
    task: SimTask
    text: str
    commits: bool
    answer: Future[Any]
    connection: SimConnection | None = None
    gen: Generator[int, int, Any] | None = None
    action: Callable[[], Any] | None = None
    asked_by: AsyncCursor[Any] | None = None
    together: bool = False
    connects: bool = False
    fault: Fault | None = None
    decreed: Decreed | None = None
    deadline: float = 0.0
    orphaned: bool = False
    value: Any = None
    error: Exception | None = None
    _wants: int = field(default=0)

    @property
    def outside(self) -> bool:
        """Whether it is no statement."""
        return self.gen is None and not self.connects

    @property
    def pid(self) -> int:
        """The server's process that works for it."""
        return 0 if self.connection is None else self.connection.server_pid

    def act(self) -> None:
        """Carry out what is no statement."""
        if self.action is None:
            raise SimulationError("A passage without an action.")
        try:
            self.value = self.action()
        except SimulationError:
            raise
        except Exception as error:  # noqa: BLE001 - it is the caller's to see
            self.error = error

    def drive(self, is_blocked: Callable[[float], bool] | None) -> bool:
        """Send it, or go on with it; False when it waits for a lock, as `is_blocked` says.

        Without `is_blocked` it is waited for whatever happens.
        """
        gen, connection = self.gen, self.connection
        if gen is None or connection is None:
            raise SimulationError("A passage without a statement.")
        try:
            wants = self._wants or next(gen)
            while True:
                ready = _ready(connection.pgconn.socket, wants, is_blocked)
                if not ready:
                    self._wants = wants
                    return False
                wants = gen.send(ready)
        except StopIteration as stop:
            self.value = stop.value
        except SimulationError:
            raise
        except OSError as error:
            self.error = psycopg.OperationalError(f"the connection is closed: {error}")
        except Exception as error:  # noqa: BLE001 - it is the caller's to see
            self.error = error
        self._relabel()
        return True

    def leave(self) -> None:
        """It will not pass any more."""
        if self.gen is not None:
            self.gen.close()

    def _relabel(self) -> None:
        """Give a statement that was ended on our word the reason that it was ended for."""
        if isinstance(self.error, errors.LockNotAvailable):
            _not_by_the_machine(str(self.error))
        if isinstance(self.error, errors.QueryCanceled) and self.decreed is not None:
            self.error = self.decreed(_SAID[self.decreed][1])
        if isinstance(self.value, list):
            for found in cast("list[list[Any]]", self.value):
                if found and found[0].status == _FAILED:
                    self._relabel_result(found)

    def _relabel_result(self, found: list[Any]) -> None:
        state = found[0].error_field(pq.DiagnosticField.SQLSTATE)
        if state == _LOCK_NOT_AVAILABLE:
            _not_by_the_machine((found[0].error_message or b"").decode(errors="replace"))
        if state == _CANCELED and self.decreed is not None:
            found[0] = _Relabelled(found[0], *_SAID[self.decreed])

    def outcome(self) -> str:
        """For the trace: how it ended, and how many rows each statement touched."""
        if self.error is not None:
            return type(self.error).__name__
        if self.asked_by is not None:
            return str(self.asked_by.rowcount)
        if isinstance(self.value, list) and self.connection is not None:
            found = cast("list[list[Any]]", self.value)
            return ",".join(
                "!" if one.status == _FAILED else str(one.command_tuples or one.ntuples)
                for [one] in found
            )
        return "ok"


def at_once(connection: SimConnection, gen: Generator[int, int, Any]) -> Any:
    """One round trip that is no step, because nobody can notice when it happens."""
    try:
        wants = next(gen)
        while True:
            wants = gen.send(_ready(connection.pgconn.socket, wants, None))
    except StopIteration as stop:
        return stop.value


def _ready(descriptor: int, wants: int, is_blocked: Callable[[float], bool] | None) -> int:
    """Wait until the socket is ready; 0 when there will be no answer before a lock is free."""
    patience, waited = _FIRST_LOOK_SECONDS, 0.0
    reads = (descriptor,) if wants & _READS else ()
    writes = (descriptor,) if wants & _WRITES else ()
    while True:
        readable, writable, _ = select.select(reads, writes, (), patience)
        if readable or writable:
            return (_READS if readable else 0) | (_WRITES if writable else 0)
        waited += patience
        if is_blocked is not None and is_blocked(waited):
            return 0
        if waited > _SILENT_SECONDS:
            raise SimulationError("The server gives no answer, and waits for no lock.")
        patience = min(2 * patience, _LATER_LOOK_SECONDS)


def _not_by_the_machine(message: str) -> None:
    if "lock timeout" in message:
        raise SimulationError(
            "A lock was waited for longer than the machine's own patience: it was too slow for"
            " this run, which says nothing. Run the seed again."
        )
