"""Connections to one server, and the pool that hands them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import cached_property
from typing import Any, Protocol

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from paymaster.db import arrays
from paymaster.db.sending import Sending


class Connection(AsyncConnection[Any]):
    """A connection with what is prepared on it for statements that are sent together."""

    @cached_property
    def sending(self) -> Sending:
        """Sends statements of a transaction together."""
        return Sending(self)


class Pool(Protocol):
    """What hands out connections: psycopg's pool, or that of a simulation."""

    async def open(self) -> None:
        """Start it; connections are made as they are needed."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...

    def connection(self) -> AbstractAsyncContextManager[Connection]:
        """A connection for as long as the block runs. Raises PoolTimeout."""
        ...


MakePool = Callable[[str, int, Mapping[str, Any]], Pool]
"""From a DSN, the most connections, and further parameters of each."""


def own_pool(dsn: str, connections: int, parameters: Mapping[str, Any]) -> Pool:
    """The driver's pool."""
    return AsyncConnectionPool(
        dsn,
        connection_class=Connection,
        min_size=1,
        max_size=connections,
        open=False,
        timeout=5.0,
        reconnect_timeout=0.0,
        check=None,
        configure=arrays.configure,
        kwargs=dict(parameters),
    )
