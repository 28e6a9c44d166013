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


LOCKOUTS = Counter(
    "lockouts_total",
    "Locks after too many wrong guesses, and alarms.",
    ("kind",),
    namespace="paymaster",
    registry=None,
)
"""One for the process, shown by every registry: what locks knows only its transaction."""


class Metrics:
    """All metrics, in a registry of their own: one object a process, made by the composition root.

    A test makes as many as it likes.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        registry.register(LOCKOUTS)

        self.requests = self._counter(
            "requests_total", "HTTP requests answered.", "method", "route", "status"
        )
        self.request_duration_seconds = self._histogram(
            "request_duration_seconds", "Time to answer.", _SECONDS, "method", "route"
        )
        self.dispatch_attempts = self._counter(
            "dispatch_attempts_total", "Payment orders and what became of them.", "rail", "outcome"
        )
        self.rail_call_duration_seconds = self._histogram(
            "rail_call_duration_seconds", "Time of a call to a provider.", _SLOW_SECONDS, "rail"
        )
        self.due_items = self._gauge("due_items", "Items whose time has come.", "queue")
        self.oldest_due_age_seconds = self._gauge(
            "oldest_due_age_seconds", "How long the oldest due item has waited.", "queue"
        )
        self.inbox_pending = self._gauge("inbox_pending", "Messages in, not yet applied.", "source")
        self.unknown_attempts = self._gauge(
            "unknown_attempts", "Payment orders without proof either way.", "rail"
        )
        self.old_unknown_attempts = self._gauge(
            "old_unknown_attempts", "Those that are older than a warning's time.", "rail", "minutes"
        )
        self.oldest_unknown_age_seconds = self._gauge(
            "oldest_unknown_age_seconds", "How long the oldest has been unknown.", "rail"
        )
        self.postings = self._counter("postings_total", "Postings written to the books.", "kind")
        self.verdicts = self._counter("verdicts_total", "Screening verdicts.", "outcome")
        self.breaks_open = self._gauge(
            "breaks_open", "Reconciliation breaks not yet resolved.", "kind"
        )
        self.notices_aside = self._gauge(
            "notices_aside", "Messages of providers that were laid aside.", "slug"
        )
        self.files_refused = self._gauge(
            "files_refused", "Files of providers that were refused.", "rail"
        )
        self.commands_aside = self._gauge(
            "commands_aside", "Commands to other cells that were laid aside.", "cell"
        )
        self.outbox_lag_seconds = self._gauge(
            "outbox_lag_seconds", "Age of the oldest message not yet relayed.", "cell"
        )
        self.seal_lag_seconds = self._gauge(
            "seal_lag_seconds", "Age of the oldest commit not yet in the hash chain.", "chain"
        )
        self._of_staff_and_secrets()
        self._of_messages()
        self._of_broker()
        self._of_funding()

    def _of_staff_and_secrets(self) -> None:
        self.break_glass_active = self._gauge(
            "break_glass_active", "Roles lent by break-glass at the moment.", "environment"
        )
        self.secret_store_up = self._gauge(
            "secret_store_up", "Whether the last refresh of the store succeeded.", "store"
        )
        self.secret_store_age_seconds = self._gauge(
            "secret_store_age_seconds", "How long ago the secret store answered.", "store"
        )
        self.sealed_values = self._gauge(
            "sealed_values", "Stored values by the key they are sealed under.", "key_id", "kind"
        )

    def _of_messages(self) -> None:
        self.streams = self._gauge("streams", "Status streams that are open.")
        self.streams_ended = self._counter(
            "streams_ended_total", "Status streams that ended, by why.", "reason"
        )
        self.webhook_deliveries = self._counter(
            "webhook_deliveries_total",
            "Tries to deliver an event to an app's endpoint.",
            "outcome",
        )
        self.webhook_duration_seconds = self._histogram(
            "webhook_duration_seconds", "Time of a try to deliver.", _SLOW_SECONDS
        )
        self.webhooks_due = self._gauge(
            "webhooks_due",
            "Deliveries whose time has come, to endpoints that are enabled.",
            "place",
        )
        self.oldest_webhook_due_age_seconds = self._gauge(
            "oldest_webhook_due_age_seconds", "How long the oldest of them has been due.", "place"
        )
        self.events_out_lag_seconds = self._gauge(
            "events_out_lag_seconds", "Age of the oldest commit not yet fanned out.", "place"
        )
        self.webhook_endpoints = self._gauge(
            "webhook_endpoints", "Endpoints by their state.", "state"
        )
        self.mails = self._counter("mails_total", "Tries to send a letter.", "template", "outcome")
        self.mails_due = self._gauge("mails_due", "Letters whose time has come.", "place")

    def _of_broker(self) -> None:
        self.broker_events = self._counter(
            "broker_events_total", "Events to the message broker: published, aside.", "outcome"
        )
        self.broker_up = self._gauge("broker_up", "Whether a connection to the broker stands.")
        self.broker_lag_seconds = self._gauge(
            "broker_lag_seconds", "Age of the oldest commit not yet published.", "place"
        )
        self.broker_aside = self._gauge(
            "broker_aside", "Events that the broker does not take.", "place"
        )

    def _of_funding(self) -> None:
        self.funding_minor_units = self._gauge(
            "funding_minor_units",
            "What is owed and what is there: settled, owed, missing, ...",
            "environment",
            "currency",
            "kind",
        )
        self.float_minor_units = self._gauge(
            "float_minor_units",
            "What may still leave an account (free), and what waits for it (queued).",
            "account",
            "currency",
            "kind",
        )

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, namespace="paymaster", registry=self.registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(name, meaning, labels, namespace="paymaster", registry=self.registry)

    def _histogram(
        self, name: str, meaning: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            name, meaning, labels, namespace="paymaster", registry=self.registry, buckets=buckets
        )


def metrics_response(metrics: Metrics) -> tuple[bytes, str]:
    """The body and the content type of `/metrics`."""
    return generate_latest(metrics.registry), CONTENT_TYPE_LATEST
