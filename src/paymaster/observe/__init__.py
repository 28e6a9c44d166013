"""What can be seen from outside: logs, metrics, and the one id that ties them together.

redact    nothing that is secret or personal reaches a log
logs      structlog and the logs of libraries, as JSON lines or for a terminal
trace     W3C Trace Context in and out
metrics   the Prometheus metrics of one process
"""

from paymaster.observe.logs import configure_logs, context, get_logger, log_ours
from paymaster.observe.metrics import Metrics, metrics_response
from paymaster.observe.redact import redacted
from paymaster.observe.trace import (
    TraceParent,
    current_trace_id,
    format_traceparent,
    parse_traceparent,
    trace_id_of,
)

__all__ = [
    "Metrics",
    "TraceParent",
    "configure_logs",
    "context",
    "current_trace_id",
    "format_traceparent",
    "get_logger",
    "log_ours",
    "metrics_response",
    "parse_traceparent",
    "redacted",
    "trace_id_of",
]
