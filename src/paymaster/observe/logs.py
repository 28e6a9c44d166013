"""Logs: one line an event, with a constant name and fields, in JSON or for a terminal.

Lines of libraries (uvicorn, asyncssh, httpx, psycopg) take the same way and the same redaction.
Everything goes to standard error; standard output belongs to the answers of commands.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, TextIO, cast

import msgspec
import structlog
from structlog.stdlib import BoundLogger, ProcessorFormatter
from structlog.typing import Processor

from paymaster.kernel.clock import WallClock, rfc3339
from paymaster.observe.redact import redact_event

_QUIET = {
    "uvicorn.access": logging.WARNING,
    "uvicorn.error": logging.WARNING,
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "asyncssh": logging.WARNING,
    "psycopg.pool": logging.WARNING,
    "asyncio": logging.WARNING,
    "boto3": logging.WARNING,
    "botocore": logging.WARNING,
    "urllib3": logging.WARNING,
}
"""Libraries whose lines repeat ours, or hold numbers of processes, query strings or whole answers,
secrets among them."""

_OWN_HANDLERS = ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncssh", "httpx")


def configure_logs(
    level: str = "info",
    format: str = "json",  # noqa: A002 - the name of the setting
    stream: TextIO | None = None,
) -> None:
    """Set up all logging of this process; may be called again.

    `level` is debug, info, warning or error; `format` is json or console. Uvicorn must be started
    with `log_config=None`, or it puts its own handlers back.
    """
    shared = _shared()
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                redact_event,
                _renderer(format == "json", handler.stream),
            ],
        )
    )
    _plain.write_out()
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _OWN_HANDLERS:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(least, root.level))
    logging.captureWarnings(capture=True)
    _plain.handler = handler if format == "json" else None


@dataclass(slots=True)
class _Plain:
    """Where ready lines go; None while they go the way of all others."""

    handler: logging.StreamHandler[TextIO] | None = None
    lines: list[str] = field(default_factory=list[str])
    """Lines of this turn of the loop; they are written together at its end."""
    due_in: asyncio.AbstractEventLoop | None = None

    def keep(self, line: str) -> None:
        """Write a line, with others of this turn if there is a loop."""
        self.lines.append(line)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.write_out()
            return
        if loop is not self.due_in:
            self.due_in = loop
            loop.call_soon(self.write_out)

    def write_out(self) -> None:
        """Write the lines that were kept."""
        handler, lines = self.handler, "".join(self.lines)
        self.lines.clear()
        self.due_in = None
        if handler is None or not lines:
            return
        try:
            handler.stream.write(lines)
            handler.flush()
        except (OSError, ValueError):
            record = logging.LogRecord("paymaster", logging.INFO, "", 0, "lines", None, None)
            handler.handleError(record)


_plain = _Plain()
atexit.register(_plain.write_out)
_WALL = WallClock()


def log_ours(name: str, event: str, fields: Mapping[str, str | float | None]) -> None:
    """A line on INFO whose fields are all made by us: names of routes, ids, numbers.

    There is nothing in it to redact, which is most of the work of a line; for what is logged for
    every request. The fields are complete: nothing is added from `context`. Lines of one turn of
    the event loop are written together.
    """
    if _plain.handler is None:
        get_logger(name).info(event, **fields)
    elif logging.getLogger(name).isEnabledFor(logging.INFO):
        moment = rfc3339(_WALL.now())
        line = msgspec.json.encode(
            {"event": event, **fields, "logger": name, "level": "info", "timestamp": moment}
        )
        _plain.keep(line.decode() + "\n")


def get_logger(name: str) -> BoundLogger:
    """A logger. The first argument of its calls is a constant: what happened, in snake_case."""
    return cast("BoundLogger", structlog.get_logger(name))


def context(
    *,
    trace_id: str | None = None,
    actor: str | None = None,
    environment: str | None = None,
    cell: int | None = None,
) -> AbstractContextManager[None]:
    """Put these on every line that is logged inside the `with`, in this task and its children.

    `actor` is an id of ours (credential, staff, role), never a person's name.
    """
    given = {"trace_id": trace_id, "actor": actor, "environment": environment, "cell": cell}
    return _Bound({name: value for name, value in given.items() if value is not None})


class _Bound:
    """Binds for the length of a `with`; structlog's own looks through all variables first."""

    __slots__ = ("_before", "_given")

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given

    def __enter__(self) -> None:
        self._before = structlog.contextvars.bind_contextvars(**self._given)

    def __exit__(self, *_: object) -> None:
        structlog.contextvars.reset_contextvars(**self._before)


def _shared() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]


def _renderer(json: bool, stream: TextIO) -> Processor:
    if json:
        return _json
    return structlog.dev.ConsoleRenderer(
        colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
    )


_json_line = structlog.processors.JSONRenderer(ensure_ascii=False)


def _json(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    """One JSON object a line, the event's name first."""
    ordered = {"event": event.pop("event", ""), **event}
    return cast("str", _json_line(logger, method, ordered))
