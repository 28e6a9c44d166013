"""The Prometheus metrics of one process. Units stand last; labels never name a user.

`queue` is the name of a machine's waiting state (`withdrawal.approved`), `rail` the kind of a
rail, `route` the template of a path. Gauges of state in the database are set by the role that
scans for them.
"""

from __future__ import annotations

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SLOW_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """All metrics, in a registry of their own: one object a process, made by the composition root.

    A test makes as many as it likes.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(name, meaning, labels, namespace="paymaster", registry=registry)

        def gauge(name: str, meaning: str, *labels: str) -> Gauge:
            return Gauge(name, meaning, labels, namespace="paymaster", registry=registry)

        def histogram(
            name: str, meaning: str, buckets: tuple[float, ...], *labels: str
        ) -> Histogram:
            return Histogram(
                name, meaning, labels, namespace="paymaster", registry=registry, buckets=buckets
            )

        self.requests = counter(
            "requests_total", "HTTP requests answered.", "method", "route", "status"
        )
        self.request_duration_seconds = histogram(
            "request_duration_seconds", "Time to answer.", _SECONDS, "method", "route"
        )
        self.dispatch_attempts = counter(
            "dispatch_attempts_total", "Payment orders and what became of them.", "rail", "outcome"
        )
        self.rail_call_duration_seconds = histogram(
            "rail_call_duration_seconds", "Time of a call to a provider.", _SLOW_SECONDS, "rail"
        )
        self.due_items = gauge("due_items", "Items whose time has come.", "queue")
        self.oldest_due_age_seconds = gauge(
            "oldest_due_age_seconds", "How long the oldest due item has waited.", "queue"
        )
        self.inbox_pending = gauge("inbox_pending", "Messages in, not yet applied.", "source")
        self.unknown_attempts = gauge(
            "unknown_attempts", "Payment orders without proof either way.", "rail"
        )
        self.oldest_unknown_age_seconds = gauge(
            "oldest_unknown_age_seconds", "How long the oldest has been unknown.", "rail"
        )
        self.postings = counter("postings_total", "Postings written to the books.", "kind")
        self.verdicts = counter("verdicts_total", "Screening verdicts.", "outcome")
        self.breaks_open = gauge("breaks_open", "Reconciliation breaks not yet resolved.", "kind")
        self.commands_aside = gauge(
            "commands_aside", "Commands to other cells that were laid aside.", "cell"
        )
        self.outbox_lag_seconds = gauge(
            "outbox_lag_seconds", "Age of the oldest message not yet relayed.", "cell"
        )
        self.seal_lag_seconds = gauge(
            "seal_lag_seconds", "Age of the oldest commit not yet in the hash chain.", "chain"
        )


def metrics_response(metrics: Metrics) -> tuple[bytes, str]:
    """The body and the content type of `/metrics`."""
    return generate_latest(metrics.registry), CONTENT_TYPE_LATEST
