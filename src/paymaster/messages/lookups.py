"""Names to addresses, in threads of their own and one look-up of a name at a time.

Who names an endpoint also chooses the name server that is asked, and that one may never answer. A
look-up cannot be broken off. So all who want the same name wait for the same one, and those who
use the event loop's threads for other work do not wait at all.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from paymaster.kernel.guard import forbid_network

_AT_ONCE = 64


class Lookups:
    """Asks the system's resolver; one object a process."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_AT_ONCE, "look-up")
        self._under_way: dict[tuple[str, int], Future[list[str]]] = {}

    async def find(self, host: str, port: int) -> Sequence[str]:
        """The addresses of a host. Raises OSError, and UnicodeError for what cannot be a name."""
        forbid_network()
        key = host, port
        found = self._under_way.get(key)
        if found is None:
            found = self._under_way[key] = self._threads.submit(_look_up, host, port)
            found.add_done_callback(partial(self._ended, key))
        # Who gives up leaves it to the others.
        return await asyncio.shield(asyncio.wrap_future(found))

    def _ended(self, key: tuple[str, int], _found: Future[Any]) -> None:
        self._under_way.pop(key, None)


def _look_up(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
