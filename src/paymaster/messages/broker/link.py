"""The connection to the broker: one a process, made when it is needed, given up when it fails.

The libraries are imported when a broker is configured and not before: they are the extra `brokers`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from paymaster.kernel.errors import Busy, Refusal
from paymaster.kernel.guard import forbid_network
from paymaster.kernel.tls import Identity, client_context, trust
from paymaster.messages.broker.letter import Letter
from paymaster.observe import get_logger
from paymaster.settings import Broker, Peers

AWAY = "broker-away"
PASSWORD, TOKEN = "broker-password", "broker-token"
ROLE = "notify"
"""Whose certificate of `peers` is shown to the broker."""

_log = get_logger(__name__)


class BrokerRefused(Exception):
    """The broker will never take this letter. `certain`: it is this one and none beside it."""

    def __init__(self, detail: str, *, certain: bool = True) -> None:
        super().__init__(detail)
        self.detail = detail
        self.certain = certain


class Wire(Protocol):
    """A connection that stands."""

    limit_bytes: int
    gone: asyncio.Event
    """Set when the connection is lost."""

    async def send(self, letter: Letter) -> None:
        """Have the broker store a letter, and wait until it says so.

        Raises BrokerRefused, Busy `broker-away`, Busy `broker-takes-nothing`.
        """
        ...

    async def close(self) -> None:
        """Let go of it; never raises."""
        ...


@dataclass(frozen=True, slots=True)
class Access:
    """What a connection is made with. `secret` gives the value of a secret by its name."""

    settings: Broker
    peers: Peers
    secret: Callable[[str], str]


class Link:
    """Holds the one connection of a process."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self.fault: str | None = None
        """Why nothing goes out, for people."""
        self._wire: Wire | None = None
        self._making = asyncio.Lock()

    @property
    def up(self) -> bool:
        """Whether a connection stands."""
        return self._wire is not None and not self._wire.gone.is_set()

    async def wire(self) -> Wire:
        """The connection, made anew if there is none.

        Raises Busy `broker-away`, Refusal `brokers-missing`, `certificate-unusable`.
        """
        async with self._making:
            if self._wire is not None and self._wire.gone.is_set():
                await self._close("the connection was lost")
            if self._wire is None:
                forbid_network()
                try:
                    self._wire = await open_wire(self.access)
                except Busy as error:
                    self.fault = error.detail
                    raise
                self.fault = None
                _log.info("broker_connected", kind=self.access.settings.kind)
            return self._wire

    async def drop(self, wire: Wire, why: str) -> None:
        """Give a connection up that has failed; harmless when it is another one by now."""
        async with self._making:
            if wire is self._wire:
                await self._close(why)

    async def close(self) -> None:
        """Let go of it."""
        async with self._making:
            await self._close("closed")

    async def _close(self, why: str) -> None:
        wire, self._wire, self.fault = self._wire, None, why
        if wire is not None:
            await wire.close()


async def open_wire(access: Access) -> Wire:
    """Connect, and see to the stream or the exchange.

    Raises Busy `broker-away`, `broker-takes-nothing` when stream or exchange is missing and may not
    be made, Refusal `brokers-missing`, `certificate-unusable`.
    """
    try:
        if access.settings.kind == "nats":
            from paymaster.messages.broker.nats import connect  # noqa: PLC0415 - see the module
        else:
            from paymaster.messages.broker.rabbit import connect  # noqa: PLC0415
    except ImportError:
        raise Refusal(
            "brokers-missing",
            "The libraries of message brokers are not installed: install Paymaster as"
            " `paymaster[brokers]`.",
        ) from None
    return await connect(access)


def tls_context(settings: Broker, peers: Peers) -> ssl.SSLContext | None:
    """TLS 1.3 with the broker's name verified; None for a plain connection.

    With a certificate of ours: that of the settings, else that of the role.
    Raises Refusal `certificate-unusable`.
    """
    if not settings.encrypted:
        return None
    if settings.certificate is not None and settings.key is not None:
        ca = settings.ca or peers.ca
        return client_context(Identity(settings.certificate, settings.key, ca))
    mine = peers.identity(ROLE)
    if mine is not None:
        return client_context(Identity(mine.certificate, mine.key, settings.ca or mine.ca))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if settings.ca is None:
        context.load_default_certs()
    else:
        trust(context, settings.ca)
    return context


def away(detail: str) -> Busy:
    """The broker cannot be reached, or does not answer."""
    return Busy(AWAY, detail)


def takes_nothing(detail: str) -> Busy:
    """It answers, and has no room or no place for what we send."""
    return Busy("broker-takes-nothing", detail)
