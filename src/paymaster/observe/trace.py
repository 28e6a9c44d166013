"""W3C Trace Context, level 1: `traceparent` read and written, and the trace id of the moment.

The trace id is the one correlation id from the app's event to the bank line. It comes in with a
request, is stored on every row that the request makes, and is taken up from there by later work.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

import structlog

from paymaster.kernel.ids import new_trace_id

_TRACEPARENT = re.compile(
    r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z", re.ASCII
)


@dataclass(frozen=True, slots=True)
class TraceParent:
    """A caller's trace: `trace_id` 32 and `parent_id` 16 hex digits in small letters."""

    trace_id: str
    parent_id: str
    sampled: bool


def parse_traceparent(header: str | None) -> TraceParent | None:
    """Read a `traceparent`; None when there is none or it is malformed (then start a new trace).

    Source: W3C Trace Context, 3.2.2 and 4.3: version ff, all-zero ids and a longer version 00
    are invalid; of a later version the known fields are used.
    """
    match = _TRACEPARENT.match(header.strip()) if header else None
    if match is None:
        return None
    version, trace_id, parent_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more is not None):
        return None
    if not int(trace_id, 16) or not int(parent_id, 16):
        return None
    return TraceParent(trace_id, parent_id, bool(int(flags, 16) & 1))


def format_traceparent(trace_id: str, parent_id: str | None = None, *, sampled: bool = True) -> str:
    """The header for a call that we make; a new span id unless one is given."""
    return f"00-{trace_id}-{parent_id or secrets.token_hex(8)}-{int(sampled):02x}"


def trace_id_of(header: str | None) -> str:
    """The trace id of a request: the caller's, or a new one."""
    found = parse_traceparent(header)
    return found.trace_id if found else new_trace_id()


def current_trace_id() -> str | None:
    """The trace id bound to this task by `context`."""
    bound: object = structlog.contextvars.get_contextvars().get("trace_id")
    return bound if isinstance(bound, str) else None
