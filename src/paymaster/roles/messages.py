"""The role `notify`: events go to the apps' servers, letters to earners and operators."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

from paymaster.compose import Deps
from paymaster.kernel.sources import jitter
from paymaster.messages import gauges
from paymaster.messages.connect import JudgedTransport, tls_context
from paymaster.messages.fanout import FanOut
from paymaster.messages.mail import Mailer, Office
from paymaster.messages.place import Place, places
from paymaster.messages.retention import forget
from paymaster.messages.send import Post, Sender, Slots
from paymaster.messages.targets import Targets, networks
from paymaster.rails.http import new_client
from paymaster.roles.lanes import Lane

HOURLY_SECONDS, GAUGE_SECONDS = 3600.0, 10.0


class Notify:
    """What the role does in every schema of the installation."""

    def __init__(self, deps: Deps, targets: Targets | None = None) -> None:
        settings = deps.settings
        lease = timedelta(seconds=settings.roles.lease_seconds)
        timeout = timedelta(seconds=settings.webhooks.timeout_seconds)
        slots = Slots(settings.webhooks.endpoint_concurrency)
        judge = targets or Targets(networks(settings.webhooks.allowed_networks))
        self._client = new_client(
            JudgedTransport(judge, tls_context(settings.webhooks.authorities))
        )
        self._post = Post(
            deps.dbs,
            deps.secrets.sealer,
            self._client,
            settings.webhooks,
            deps.metrics,
            slots,
            slots.lease(timeout, lease),
            jitter(),
        )
        office = Office(deps.dbs, deps.secrets, settings.email, settings.api.public_url)
        self._deps = deps
        found = places(deps.dbs)
        self.fan_outs = {one.name: FanOut(one, settings.email, lease) for one in found}
        self.senders = {one.name: Sender(one, self._post) for one in found}
        self.mailers = {one.name: Mailer(one, office, deps.metrics) for one in found}
        self._places = found

    def lanes(self) -> list[Lane]:
        """The loops of the role."""
        pause = self._deps.settings.roles.poll_interval_seconds
        found = [Lane(f"fan-out:{name}", one.step, pause) for name, one in self.fan_outs.items()]
        found += [
            Lane(f"webhooks:{name}", lambda s=one: s.step(pause), pause)
            for name, one in self.senders.items()
        ]
        if self._deps.settings.email.host is not None:
            found += [Lane(f"mail:{name}", one.step, pause) for name, one in self.mailers.items()]
        found += [
            Lane(f"forget-messages:{one.name}", lambda p=one: self._forget(p), HOURLY_SECONDS)
            for one in self._places
        ]
        found.append(Lane("message-gauges", self._measure, GAUGE_SECONDS))
        return found

    def endings(self) -> list[Callable[[], Awaitable[None]]]:
        """What must be waited for after the lanes have stopped."""
        return [
            *(one.drain for one in self.senders.values()),
            *(one.give_up for one in self.fan_outs.values()),
            self.close,
        ]

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def _forget(self, place: Place) -> int:
        return await forget(place, timedelta(days=self._deps.settings.webhooks.retention_days))

    async def _measure(self) -> int:
        await gauges.measure(self._deps.dbs, self._deps.metrics)
        return 0
