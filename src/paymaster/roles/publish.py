"""Events to the message broker: a part of the role `notify`, where one is configured."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta

from paymaster.compose import Deps
from paymaster.messages.broker.gauges import measure
from paymaster.messages.broker.link import Access, Link
from paymaster.messages.broker.publish import Publisher
from paymaster.messages.place import places
from paymaster.roles.lanes import Lane

GAUGE_SECONDS = 10.0


class Publish:
    """Publishers of every schema of the installation, over one connection."""

    def __init__(self, deps: Deps) -> None:
        settings = deps.settings
        self._deps = deps
        self.link = Link(Access(settings.broker, settings.peers, deps.secrets.text))
        lease = timedelta(seconds=settings.roles.lease_seconds)
        self.publishers = {
            one.name: Publisher(one, self.link, deps.metrics, lease) for one in places(deps.dbs)
        }
        self._seen: Mapping[str, object] = {}

    def lanes(self) -> list[Lane]:
        """The loops; none without a broker."""
        if self._deps.settings.broker.kind is None:
            return []
        pause = self._deps.settings.roles.poll_interval_seconds
        found = [Lane(f"broker:{name}", one.step, pause) for name, one in self.publishers.items()]
        return [*found, Lane("broker-gauges", self._measure, GAUGE_SECONDS)]

    def endings(self) -> list[Callable[[], Awaitable[None]]]:
        """What must be waited for after the lanes have stopped."""
        return [*(one.give_up for one in self.publishers.values()), self.link.close]

    def info(self) -> dict[str, object]:
        """What `/readyz` tells: an absent broker is no reason to send others elsewhere."""
        return {"broker": self._seen} if self._seen else {}

    async def _measure(self) -> int:
        self._seen = await measure(self._deps.dbs, self._deps.metrics, self.link)
        return 0
