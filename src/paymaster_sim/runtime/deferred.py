"""What a pipeline would send at once is kept until its turn has come."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from psycopg import pq


class Deferred:
    """The line to the server of a pipeline: keeps what is to be sent until it may be.

    The library sends by itself whenever 8 kB have come together.
    """

    def __init__(self, pgconn: pq.abc.PGconn) -> None:
        self._pgconn = pgconn
        self._kept: list[Callable[[], None]] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._pgconn, name)
        if callable(found):
            # Looked up once: this is asked for at every statement.
            setattr(self, name, found)
        return found

    def send_prepare(self, *args: Any, **named: Any) -> None:
        """Kept; see the driver's own."""
        self._kept.append(partial(self._pgconn.send_prepare, *args, **named))

    def send_query_params(self, *args: Any, **named: Any) -> None:
        """Kept; see the driver's own."""
        self._kept.append(partial(self._pgconn.send_query_params, *args, **named))

    def send_query_prepared(self, *args: Any, **named: Any) -> None:
        """Kept; see the driver's own."""
        self._kept.append(partial(self._pgconn.send_query_prepared, *args, **named))

    def send_flush_request(self) -> None:
        """Kept; see the driver's own."""
        self._kept.append(self._pgconn.send_flush_request)

    def opened(self) -> pq.abc.PGconn:
        """The turn has come: what was kept is sent."""
        kept, self._kept = self._kept, []
        for one in kept:
            one()
        return self._pgconn

    def forget(self) -> None:
        """What was kept is not sent any more."""
        self._kept.clear()
